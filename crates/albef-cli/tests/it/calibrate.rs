//! `albef calibrate`.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::common::{albef, out, pretrained, run, stderr};

fn calibrate(dir: &Path, model: &Path, arguments: &[&str]) -> Command {
    let mut command = albef();
    command.arg("calibrate").arg("--model").arg(model).arg("--image-root").arg(dir);
    command.args(["--rerank-k", "4", "--resamples", "50"]).args(arguments);
    command
}

#[test]
fn what_is_measured_is_written_beside_the_weights_and_used() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, model) = (dir.path(), pretrained(dir.path()));
    let list = dir.join("list.json").display().to_string();
    let boxes = json!([[0, 0, 12, 20], [12, 0, 12, 20]]);
    let cases: Vec<Value> = (0..6)
        .map(|i| {
            json!({"image": format!("{i}.png"), "text": "red", "box": boxes[i % 2], "boxes": boxes})
        })
        .collect();
    let grounding = dir.join("grounding.json").display().to_string();
    fs::write(&grounding, Value::from(cases).to_string()).unwrap();
    fs::write(model.join("defaults.json"), r#"{"about": "three colors"}"#).unwrap();

    let arguments = ["--annotations", &list, "--grounding", &grounding, "--json"];
    let seen = out(&mut calibrate(dir, &model, &arguments));
    let before = fs::read_to_string(model.join("defaults.json")).unwrap();
    assert_eq!(before, r#"{"about": "three colors"}"#, "without --write nothing is written");
    let output = run(calibrate(dir, &model, &arguments).arg("--write"));
    assert!(stderr(&output).contains("wrote "), "{}", stderr(&output));
    let written: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(written, seen, "the same figures again");
    let defaults: Value =
        serde_json::from_slice(&fs::read(model.join("defaults.json")).unwrap()).unwrap();
    assert_eq!(defaults, written["defaults"]);
    assert_eq!(defaults["about"], "three colors");

    let matching = &written["matching"];
    assert_eq!((&matching["images"], &matching["texts"]), (&json!(12), &json!(24)));
    let cut = &matching["threshold"]["cut"];
    // What is no better than chance is not written.
    let low = matching["threshold"]["held_out_interval"][0].as_f64().unwrap();
    let threshold = if low > 50.0 { &cut["threshold"] } else { &Value::Null };
    assert_eq!(&defaults["match_threshold"], threshold, "{matching}");
    let balanced =
        100.0 - 50.0 * (cut["missed"].as_f64().unwrap() + cut["false_alarms"].as_f64().unwrap());
    let told = matching["threshold"]["balanced_accuracy"].as_f64().unwrap();
    assert!((told - balanced).abs() < 1e-9 && told >= 50.0, "{matching}");
    assert_eq!(defaults["match_weight"], matching["weight"]["best"]["weight"]);
    let (best, tried) = (&written["grounding"]["best"], &written["grounding"]["tried"]);
    assert_eq!(defaults["ground"], json!({"mode": best["mode"], "layer": best["layer"]}));
    for other in tried.as_array().unwrap() {
        assert!(other["accuracy"].as_f64() <= best["accuracy"].as_f64(), "{tried}");
        // What `evaluate grounding` measures.
        let layer = other["layer"].to_string();
        let mut evaluate = albef();
        evaluate.args([
            "evaluate",
            "grounding",
            "--json",
            "--annotations",
            &grounding,
            "--image-root",
        ]);
        evaluate.arg(dir).args(["--mode", other["mode"].as_str().unwrap(), "--layer", &layer]);
        let report = out(evaluate.arg("--no-exif-orientation").arg("--model").arg(&model));
        assert_eq!(report["accuracy"], other["accuracy"], "{other}");
    }

    // The order of a search is by the new weight.
    let images = dir.join("0.png").display().to_string();
    let matched = out(albef().args(["match", &images, "red", "--json", "--model"]).arg(&model));
    assert_eq!(matched["threshold"], defaults["match_threshold"]);
    let text = String::from_utf8(run(&mut calibrate(dir, &model, &arguments[..4])).stdout).unwrap();
    for part in ["match threshold", "match weight", "balanced accuracy", "ground it"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn what_cannot_be_calibrated_is_refused_before_the_work() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, model) = (dir.path(), pretrained(dir.path()));
    let list = dir.join("list.json").display().to_string();
    let refused = |command: &mut Command| {
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        stderr(&output)
    };
    let of_run = model.parent().unwrap();
    let error = refused(&mut calibrate(dir, of_run, &["--annotations", &list, "--write"]));
    assert!(error.contains("weights are not final"), "{error}");
    let nothing = refused(&mut calibrate(dir, &model, &[]));
    assert!(nothing.contains("--annotations"), "{nothing}");
    let alone = dir.join("alone.json");
    fs::write(&alone, r#"[{"image": "0.png", "caption": "red"}]"#).unwrap();
    let error = refused(&mut calibrate(dir, &model, &["--annotations", alone.to_str().unwrap()]));
    assert!(error.contains("no text of this list can be used"), "{error}");
    assert!(!model.join("defaults.json").exists());
}
