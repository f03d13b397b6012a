//! Rows of the paper's tables on a few images in the official layout.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::fs;
use std::path::Path;
use std::process::Output;

use crate::common::{albef, config, official, settings, stderr};
use serde_json::Value;

/// The data root, with the smallest model in place of the pre-trained ones.
fn prepared(root: &Path) {
    official::write_root(root);
    let run = root.join("start");
    let list = root.join("data/flickr30k_train.json").display().to_string();
    let mut command = albef();
    command.args(["pretrain", &config(), "--output"]).arg(&run);
    command.args(settings(&list, &root.join("images/flickr30k")));
    let output = command.args(["--set", "max_steps=2", "--set", "vocab=bert"]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    for name in ["albef-4m", "albef-14m"] {
        let to = root.join("models").join(name);
        fs::create_dir_all(&to).unwrap();
        for file in ["config.json", "vocab.txt", "model.safetensors"] {
            fs::copy(run.join("model").join(file), to.join(file)).unwrap();
        }
    }
}

fn reproduce(root: &Path, row: &str, more: &[&str]) -> Output {
    let mut command = albef();
    command.args(["reproduce", row, "--json", "--data"]).arg(root);
    command.arg("--output").arg(root.join("runs").join(row)).args(more).output().unwrap()
}

fn record(output: &Output) -> Value {
    assert!(output.status.success(), "{}", stderr(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_row_of_each_task_runs_to_the_end_beside_its_claim() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    prepared(root);
    for (row, claim) in [
        ("table2-flickr-4m", Some("TR R@1")),
        ("table3-14m", Some("IR R@10")),
        ("table4-vqa-4m", None),
        ("table4-nlvr-4m", Some("NLVR2 test-P")),
        ("table4-ve-4m", Some("SNLI-VE test")),
        ("table5-itm", Some("RefCOCO+ testA")),
        ("table5-itc", Some("RefCOCO+ testB")),
    ] {
        let record = record(&reproduce(root, row, &["--smoke"]));
        assert_eq!((&record["state"], &record["small"]), (&"done".into(), &true.into()), "{row}");
        let claims = record["claims"].as_array().unwrap();
        match claim {
            Some(name) => {
                let c = claims.iter().find(|c| c["name"] == name).unwrap();
                let (claimed, measured) = (c["claimed"].as_f64(), c["measured"].as_f64());
                let difference = c["difference"].as_f64().unwrap();
                assert!((measured.unwrap() - claimed.unwrap() - difference).abs() < 1e-9, "{c}");
                assert!(c["interval"][0].as_f64().unwrap() <= measured.unwrap(), "{c}");
            }
            None => assert!(claims.iter().all(|c| c["measured"].is_null()), "{record}"),
        }
        // The recorded command is an ordinary one and measures the same.
        if let Some(name) = claim {
            let c = claims.iter().find(|c| c["name"] == name).unwrap();
            let (step, key) = c["metric"].as_str().unwrap().split_once('.').unwrap();
            let steps = record["steps"].as_array().unwrap();
            let step = steps.iter().find(|s| s["name"] == step).unwrap();
            let words = step["command"].as_array().unwrap().iter().map(|w| w.as_str().unwrap());
            let output = albef().args(words.skip(1)).output().unwrap();
            assert!(output.status.success(), "{}", stderr(&output));
            let report: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(report[key], c["measured"], "{row}");
            let name = format!("{}.outcomes.json", step["name"].as_str().unwrap());
            assert!(root.join("runs").join(row).join(name).is_file(), "{row}");
        }
        let page = fs::read_to_string(root.join("runs").join(row).join("reproduce.md")).unwrap();
        assert!(page.contains("--smoke") && page.contains("albef evaluate"), "{page}");
    }

    // The answers lie there for the server; its figure comes back by hand.
    let results = root.join("runs/table4-vqa-4m/vqa_result.json");
    let results: Value = serde_json::from_slice(&fs::read(results).unwrap()).unwrap();
    assert_eq!(results.as_array().unwrap().len(), official::IMAGES);
    assert!(results[0]["question_id"].is_i64() && results[0]["answer"].is_string());
    let more = ["--smoke", "--resume", "--server", "VQA test-dev=70.5"];
    let told = record(&reproduce(root, "table4-vqa-4m", &more));
    assert_eq!(told["claims"][0]["measured"], 70.5);

    let mut command = albef();
    command.args(["reproduce", "--list", "--json", "--data"]).arg(root);
    let output = command.arg("--output").arg(root.join("runs")).output().unwrap();
    let rows = record(&output);
    let state = |id: &str| {
        let row = rows.as_array().unwrap().iter().find(|r| r["id"] == id).unwrap();
        row["state"].as_str().unwrap().to_owned()
    };
    assert_eq!(state("table4-ve-4m"), "done, with --smoke");
    assert_eq!(state("table2-coco-4m"), "ready");
    // BERT and DeiT.
    assert_eq!(state("pretrain-4m"), "missing 2 files");
}

#[test]
fn a_stopped_run_goes_on_and_refuses_other_choices() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    prepared(root);
    let first = record(&reproduce(root, "table4-ve-4m", &["--smoke"]));
    let place = root.join("runs/table4-ve-4m/reproduce.json");
    // As if the run had ended before the last measurement.
    let mut cut = first.clone();
    cut["steps"].as_array_mut().unwrap().pop();
    cut["state"] = "stopped".into();
    fs::write(&place, cut.to_string()).unwrap();
    let trained = fs::metadata(root.join("runs/table4-ve-4m/ve/log.jsonl")).unwrap();
    let again = reproduce(root, "table4-ve-4m", &["--smoke"]);
    assert_eq!(again.status.code(), Some(2));
    assert!(stderr(&again).contains("--resume"), "{}", stderr(&again));
    let other = reproduce(root, "table4-ve-4m", &["--resume"]);
    assert_eq!(other.status.code(), Some(2));
    assert!(stderr(&other).contains("--smoke"), "{}", stderr(&other));
    let whole = record(&reproduce(root, "table4-ve-4m", &["--smoke", "--resume"]));
    assert_eq!(whole["claims"], first["claims"]);
    let after = fs::metadata(root.join("runs/table4-ve-4m/ve/log.jsonl")).unwrap();
    assert_eq!(trained.modified().unwrap(), after.modified().unwrap(), "trained twice");

    // Given weights spare the training.
    let tuned = format!("ve={}", root.join("runs/table4-ve-4m/ve/best").display());
    let output = root.join("runs/given");
    let mut command = albef();
    command.args(["reproduce", "table4-ve-4m", "--json", "--model", &tuned, "--data"]).arg(root);
    let given = record(&command.arg("--output").arg(&output).output().unwrap());
    assert_eq!(given["claims"][0]["measured"], first["claims"][0]["measured"]);
    assert!(!output.join("ve").exists());
}

#[test]
fn missing_and_damaged_files_are_all_listed_before_anything_runs() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    prepared(root);
    fs::remove_file(root.join("data/ve_dev.json")).unwrap();
    fs::remove_file(root.join("models/albef-4m/vocab.txt")).unwrap();
    fs::write(root.join("data/ve_test.json"), r#"[{"image": "1", "sentence": "s"}]"#).unwrap();
    fs::write(root.join("images/snli-ve/0.jpg"), b"no image").unwrap();
    let run = reproduce(root, "table4-ve-4m", &["--smoke"]);
    assert_eq!(run.status.code(), Some(1));
    let text = stderr(&run);
    for part in ["ve_dev.json", "vocab.txt", "entry 0", "image 0.jpg", "4 of 5 required files"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!root.join("runs/table4-ve-4m").exists());
    let check = reproduce(root, "table4-ve-4m", &["--check"]);
    assert_eq!(check.status.code(), Some(1));
    let files: Value = serde_json::from_slice(&check.stdout).unwrap();
    let missing = files.as_array().unwrap().iter().filter(|f| f["missing"][0].is_string());
    assert_eq!(missing.count(), 2);
    assert_eq!(reproduce(root, "table2-flickr-14m", &["--check"]).status.code(), Some(0));
    // A setting that a later step does not know is refused before the first one runs.
    for wrong in ["nlvr:alpa=0", "nlvr_test:kk=3"] {
        let output = reproduce(root, "table4-nlvr-14m", &["--smoke", "--set", wrong]);
        assert_eq!(output.status.code(), Some(2));
        let step = wrong.split(':').next().unwrap();
        assert!(stderr(&output).contains(&format!("in step `{step}`")), "{}", stderr(&output));
        assert!(!root.join("runs/table4-nlvr-14m").exists());
    }
    let unknown = reproduce(root, "table9", &["--check"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(stderr(&unknown).contains("table4-ve-4m"), "{}", stderr(&unknown));
}

#[test]
fn a_pretraining_row_runs_through_all_tasks() {
    let dir = tempfile::tempdir().unwrap();
    official::write_root(dir.path());
    let record = record(&reproduce(dir.path(), "table1-itc-mod", &["--smoke"]));
    let claims = record["claims"].as_array().unwrap();
    let measured = claims.iter().filter(|c| c["measured"].is_f64()).count();
    assert_eq!((claims.len(), measured), (5, 4), "{record}");
}
