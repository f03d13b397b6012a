//! Data sets in the files that their makers give out.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use crate::common::{albef, config, official, settings, stderr};
use serde_json::Value;

#[test]
fn refcoco_is_measured_by_split_and_chooses_the_best_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    official::write_root(root);
    let data = |name: &str| root.join("data").join(name).display().to_string();
    let images = root.join("images/coco");
    let pretrained = root.join("pretrained");
    let mut command = albef();
    command.args(["pretrain", &config(), "--output"]).arg(&pretrained);
    let list = data("flickr30k_train.json");
    command.args(settings(&list, &root.join("images/flickr30k"))).args(["--set", "max_steps=2"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));

    let tuned = root.join("tuned");
    let mut command = albef();
    command.args(["finetune", "grounding", &config().replace("nano", "grounding"), "--output"]);
    command.arg(&tuned);
    for setting in [
        format!("checkpoint={}", pretrained.join("model").display()),
        format!("train_file=[{}]", data("refcoco+_train.json")),
        format!("val_file=['{}', '{}']", data("refcoco+_val.json"), data("refcoco+_test.json")),
        format!("image_root={}", images.display()),
        format!("refcoco_data={}", root.join("data").display()),
        format!("det_file={}", data("refcoco+/dets.json")),
        "coco_file=not/read.json".into(),
        "image_res=16".into(),
        "batch_size=4".into(),
        "queue_size=8".into(),
        "schedular.epochs=1".into(),
    ] {
        command.args(["--set", &setting]);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let score = std::fs::read_to_string(tuned.join("best/score.json")).unwrap();
    let score: Value = serde_json::from_str(&score).unwrap();
    assert!(score["val_d"] == score["score"] && score["testA_d"].is_null(), "{score}");

    for mode in ["itm", "itc"] {
        let mut command = albef();
        command.args(["evaluate", "grounding", "--json", "--mode", mode, "--annotations"]);
        command.args([data("refcoco+_val.json"), data("refcoco+_test.json")]);
        command.arg("--refcoco-data").arg(root.join("data")).arg("--image-root").arg(&images);
        command
            .args(["--det-file", &data("refcoco+/dets.json"), "--model"])
            .arg(tuned.join("best"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        for split in ["val", "testA", "testB"] {
            let part = &report["splits"][split];
            assert_eq!((&part["expressions"], &part["random_box"]), (&3.into(), &50.0.into()));
            let found = report[format!("{split}_d")].as_f64().unwrap();
            let (low, high) = (part["interval"][0].as_f64(), part["interval"][1].as_f64());
            assert!(low.unwrap() <= found && found <= high.unwrap(), "{report}");
        }
    }

    // A list without boxes is explained, and so is an expression that the data set does not know.
    let mut command = albef();
    command.args(["evaluate", "grounding", "--annotations", &data("refcoco+_val.json"), "--model"]);
    let output = command.arg(tuned.join("best")).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--refcoco-data"), "{}", stderr(&output));
}

#[test]
fn answers_in_a_file_are_scored_by_the_official_annotations() {
    let dir = tempfile::tempdir().unwrap();
    official::write_root(dir.path());
    let data = |name: &str| dir.path().join("data").join(name);
    let given = ["Red", "gray", "no"];
    let answers: Vec<Value> = (0..official::IMAGES)
        .map(|i| serde_json::json!({"question_id": i, "answer": given[i % 3]}))
        .collect();
    let run = |answers: &[Value]| {
        std::fs::write(data("r.json"), Value::from(answers).to_string()).unwrap();
        let mut command = albef();
        command.args(["evaluate", "vqa-results", "--json", "--results"]).arg(data("r.json"));
        command.arg("--annotations").arg(data("v2_annotations.json"));
        command.arg("--questions").arg(data("v2_questions.json")).output().unwrap()
    };
    let output = run(&answers);
    assert!(output.status.success(), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    // Eight of ten said the colour, two said gray: 100, 60 and 0 per cent.
    assert_eq!(report["accuracy"], 53.33);
    assert_eq!(report["per_answer_type"]["other"], 53.33);
    let output = run(&answers[1..]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("1 questions of it are missing"), "{}", stderr(&output));
}
