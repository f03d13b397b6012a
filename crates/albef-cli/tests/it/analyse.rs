//! The mutual-information view of real runs.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::path::Path;
use std::process::Output;

use crate::common::{albef, config, data, settings, stderr};
use serde_json::{Value, json};

fn mi(dir: &Path, list: &str, model: &Path, more: &[&str]) -> Output {
    let mut command = albef();
    command.args(["analyse", "mi", "--annotations", list, "--image-root"]).arg(dir);
    command.arg("--model").arg(model).args(more).output().unwrap()
}

fn report(dir: &Path, list: &str, model: &Path, more: &[&str]) -> Value {
    let output = mi(dir, list, model, &[&["--json"], more].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_run_has_a_momentum_teacher_and_queue_and_an_exported_model_has_not() {
    let dir = tempfile::tempdir().unwrap();
    let list = data(dir.path(), 13);
    let run = dir.path().join("run");
    let mut command = albef();
    command.args(["pretrain", &config(), "--output"]).arg(&run).args(settings(&list, dir.path()));
    // A teacher that stays behind.
    command.args(["--set", "max_steps=6", "--set", "momentum=0.9"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    std::fs::write(dir.path().join("4.png"), b"no image").unwrap();

    let more = ["--batch", "4", "--mlm-probability", "0.4"];
    let of_run = report(dir.path(), &list, &run, &more);
    assert_eq!((&of_run["teacher"], &of_run["queue"]), (&json!("momentum"), &json!(10)));
    // Twelve usable images in batches of four, and the queue.
    assert_eq!((&of_run["pairs"], &of_run["skipped"]), (&json!(12), &json!(1)));
    assert_eq!(of_run["itc"]["candidates"], 14);
    assert!(of_run["itc"]["i2t"]["teacher"]["kl"].as_f64().unwrap() > 0.0);
    assert!(of_run["mlm"]["words"].as_u64().unwrap() > 5, "{of_run}");
    let checkpoints = std::fs::read_dir(run.join("checkpoints")).unwrap();
    let newest = checkpoints.map(|e| e.unwrap().path()).max().unwrap();
    assert_eq!(report(dir.path(), &list, &newest, &more), of_run);

    let alone = report(dir.path(), &list, &run.join("model"), &more);
    assert_eq!((&alone["teacher"], &alone["queue"]), (&json!("the model itself"), &json!(0)));
    assert_eq!(alone["itc"]["candidates"], 4);
    assert!(alone["itc"]["t2i"]["teacher"]["kl"].as_f64().unwrap().abs() < 1e-9);
    let number = |place: &str| alone.pointer(place).and_then(Value::as_f64).unwrap();
    for side in ["i2t", "t2i"] {
        let loss = number(&format!("/itc/{side}/loss"));
        let bound = number(&format!("/itc/{side}/bound"));
        assert!((loss + bound - 4.0_f64.ln()).abs() < 1e-9);
        let views = number(&format!("/itc/{side}/teacher/effective_views"));
        assert!((1.0..=4.0).contains(&views), "{views}");
    }
    let difference = number("/mlm/own_image/bound") - number("/mlm/other_image/bound");
    assert!((number("/mlm/difference") - difference).abs() < 1e-9);
    assert_eq!(report(dir.path(), &list, &run.join("model"), &more), alone, "seeded");

    let without = report(dir.path(), &list, &run, &[&more[..], &["--no-queue"]].concat());
    assert_eq!(without["itc"]["candidates"], 4);
    assert_eq!(without["itc"]["i2t"]["teacher"].as_object().unwrap().len(), 4);
    let text = String::from_utf8(mi(dir.path(), &list, &run, &more).stdout).unwrap();
    for word in ["teacher: momentum", "MI bound", "effective number of views", "KL(q||p)"] {
        assert!(text.contains(word), "{text}");
    }
}

#[test]
fn what_cannot_be_measured_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let list = data(dir.path(), 8);
    let run = dir.path().join("run");
    let mut command = albef();
    command.args(["pretrain", &config(), "--output"]).arg(&run).args(settings(&list, dir.path()));
    assert!(command.args(["--set", "max_steps=1"]).output().unwrap().status.success());
    let failed = |model: &Path, more: &[&str]| {
        let output = mi(dir.path(), &list, model, more);
        assert_eq!(output.status.code(), Some(2));
        stderr(&output)
    };
    assert!(failed(&run, &["--batch", "1"]).contains("2 candidates"));
    assert!(failed(&run, &["--pairs", "1"]).contains("2 are needed"));
    assert!(failed(&run, &["--mlm-probability", "0"]).contains("mlm_probability"));
    std::fs::remove_dir_all(run.join("model")).unwrap();
    assert!(mi(dir.path(), &list, &run, &[]).status.success(), "the checkpoint tells sizes");
    let checkpoint = std::fs::read_dir(run.join("checkpoints")).unwrap().next().unwrap().unwrap();
    std::fs::remove_file(checkpoint.path().join("vocab.txt")).unwrap();
    assert!(failed(&run, &[]).contains("vocab.txt: the checkpoint lacks this file"));
    // Those of older versions did not, nor did they list weights.
    std::fs::remove_file(checkpoint.path().join("SHA256SUMS")).unwrap();
    let state = checkpoint.path().join("state.json");
    let mut old: Value = serde_json::from_slice(&std::fs::read(&state).unwrap()).unwrap();
    old.as_object_mut().unwrap().remove("shapes").unwrap();
    std::fs::write(&state, old.to_string()).unwrap();
    assert!(failed(&run, &[]).contains("neither `model` nor `best`"));
}
