//! Outcomes item by item, and the comparison of two models on them.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::path::{Path, PathBuf};

use crate::common::{albef, config, data, out, run, settings, stderr};
use serde_json::{Value, json};

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A run of `steps` steps that measures on its training list.
fn pretrained(dir: &Path, list: &str, seed: u64, steps: u64) -> PathBuf {
    let output = dir.join(format!("run-{seed}-{steps}"));
    let mut command = albef();
    command.args(["pretrain", &config(), "--output"]).arg(&output).args(settings(list, dir));
    for setting in [
        format!("max_steps={steps}"),
        format!("seed={seed}"),
        format!("val_file=[{list}]"),
        "k_test=4".into(),
    ] {
        command.args(["--set", &setting]);
    }
    run(&mut command);
    output
}

fn saved(dir: &Path, list: &str, model: &Path, name: &str, more: &[&str]) -> (Value, String) {
    let file = dir.join(name).display().to_string();
    let mut command = albef();
    command.args(["evaluate", "retrieval", "--json", "--annotations", list, "--image-root"]);
    command.arg(dir).arg("--model").arg(model).args(["--save", &file]).args(more);
    (out(&mut command), file)
}

#[test]
fn runs_and_saved_outcomes_are_compared_item_by_item() {
    let dir = tempfile::tempdir().unwrap();
    let list = data(dir.path(), 12);
    let first = pretrained(dir.path(), &list, 1, 3);
    let second = pretrained(dir.path(), &list, 2, 3);
    let (report, file) = saved(dir.path(), &list, &second.join("best"), "b.json", &["--k", "4"]);

    // A run's outcomes are those of its best weights.
    assert_eq!(read(&second.join("outcomes.json")), read(Path::new(&file)));
    let outcomes = read(Path::new(&file));
    assert_eq!(outcomes["task"], "retrieval");
    assert_eq!(outcomes["sets"][0]["items"].as_array().unwrap().len(), 12);
    assert_eq!(outcomes["sets"][1]["items"].as_array().unwrap().len(), 24);

    let mut command = albef();
    command.args(["compare", "--json"]).arg(&first).arg(&file);
    let compared = out(&mut command);
    let metrics = &compared["metrics"];
    let close = |x: &Value, y: &Value| (x.as_f64().unwrap() - y.as_f64().unwrap()).abs() < 1e-9;
    for name in ["txt_r1", "img_r5", "img_r_mean", "r_mean"] {
        assert!(close(&metrics[format!("itm.{name}")]["b"]["mean"], &report[name]), "{compared}");
        let itc = &metrics[format!("itc.{name}")]["b"]["mean"];
        assert!(close(itc, &report["itc"][name]), "{compared}");
    }
    for (name, m) in metrics.as_object().unwrap() {
        let p = m["p"].as_f64().unwrap();
        assert!(p > 0.0 && p <= 1.0, "{name}: {m}");
        let (a, b) = (m["a"]["mean"].as_f64().unwrap(), m["b"]["mean"].as_f64().unwrap());
        assert!((m["difference"].as_f64().unwrap() - (b - a)).abs() < 1e-9, "{name}: {m}");
    }
    assert_eq!(metrics["itm.txt_r1"]["test"], "mcnemar");
    assert_eq!(out(&mut command), compared, "equal seeds give equal numbers");

    // What another score ordered is another thing.
    let by_both = ["--k", "4", "--score", "posterior"];
    let (_, other) = saved(dir.path(), &list, &second.join("best"), "c.json", &by_both);
    assert_eq!(read(Path::new(&other))["sets"][0]["columns"][1]["name"], "posterior");
    let mixed = albef().args(["compare", &file, &other]).output().unwrap();
    assert_eq!(mixed.status.code(), Some(2));
    assert!(stderr(&mixed).contains("cannot be compared"), "{}", stderr(&mixed));

    // Several runs of one side, and a readable table.
    let mut command = albef();
    command.args(["compare", "--b", &file, "--a"]).arg(&first).arg(&second);
    let text = String::from_utf8(run(&mut command).stdout).unwrap();
    assert!(text.contains("itm.r_mean") && text.contains("±"), "{text}");
}

#[test]
fn outcomes_of_other_items_or_tasks_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let list = data(dir.path(), 12);
    let model = pretrained(dir.path(), &list, 1, 1).join("model");
    let (_, all) = saved(dir.path(), &list, &model, "all.json", &["--k", "2"]);
    let mut shorter = read(Path::new(&list));
    shorter.as_array_mut().unwrap().remove(5);
    let short = dir.path().join("short_list.json").display().to_string();
    std::fs::write(&short, shorter.to_string()).unwrap();
    let (_, fewer) = saved(dir.path(), &short, &model, "fewer.json", &["--k", "2"]);
    let (_, by_id) = saved(dir.path(), &list, &model, "by_id.json", &["--k", "2", "--by-id"]);
    let (_, cosine) = saved(dir.path(), &list, &model, "cosine.json", &["--k", "0"]);
    let refused = |b: &str| {
        let output = albef().args(["compare", &all, b]).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(output.stdout.is_empty());
        stderr(&output)
    };
    let error = refused(&fewer);
    assert!(error.contains("`5.png`") && error.contains("fewer.json"), "{error}");
    assert!(refused(&by_id).contains("image_id"));
    assert!(refused(&cosine).contains("txt (itc)"));
    assert!(refused(&list).contains("--save"));
    assert!(refused(&model.display().to_string()).contains("val_file"));

    let entry = json!({"image": "0.png", "text": "red", "box": [0, 0, 12, 20],
                       "boxes": [[0, 0, 12, 20], [12, 0, 12, 20]]});
    let boxes = dir.path().join("boxes.json");
    std::fs::write(&boxes, json!([entry]).to_string()).unwrap();
    let file = dir.path().join("boxes_found.json");
    let mut command = albef();
    command.args(["evaluate", "grounding", "--json", "--image-root"]).arg(dir.path());
    command.arg("--annotations").arg(&boxes).arg("--model").arg(&model).arg("--save").arg(&file);
    let report = out(&mut command);
    let outcome = &read(&file)["sets"][0]["items"][0];
    assert_eq!(outcome["key"], "0.png: red");
    assert_eq!(outcome["values"][0].as_f64(), report["accuracy"].as_f64());
}
