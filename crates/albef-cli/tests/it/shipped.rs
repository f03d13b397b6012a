//! The model that ships with the program, used without being named.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::path::Path;

use crate::common::{albef, data, image_root, run, stderr};
use serde_json::{Value, json};

#[test]
fn the_shipped_model_is_used_unnamed_and_finds_drawings_of_an_unseen_style() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let drawings = root.join("data/drawings");
    let text = std::fs::read_to_string(drawings.join("drawings_val_style.json")).unwrap();
    let all: Vec<Value> = serde_json::from_str(&text).unwrap();
    let some: Vec<Value> = all.into_iter().step_by(11).take(48).collect();
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("list.json");
    std::fs::write(&list, Value::Array(some).to_string()).unwrap();

    let mut command = albef();
    command.args(["evaluate", "retrieval", "--k", "8", "--json", "--annotations"]).arg(&list);
    command.arg("--image-root").arg(&drawings).current_dir(dir.path());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    // One image in 48 is what chance finds.
    for side in ["txt_r1", "img_r1"] {
        for stage in [&report, &report["itc"]] {
            assert!(stage[side].as_f64().unwrap() > 4.0 * 100.0 / 48.0, "{side}: {report}");
        }
    }

    let image = drawings.join(first_image(&list));
    let mut command = albef();
    command.arg("match").arg(image).args(["a drawing", "--json"]).current_dir(dir.path());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    for key in ["cosine", "itm_logit", "probability"] {
        assert!(report[key].is_number(), "{report}");
    }
}

#[test]
fn the_shipped_model_for_questions_is_used_unnamed_and_says_what_is_where() {
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/pair.png");
    let dir = tempfile::tempdir().unwrap();
    for (place, thing) in [("left", "frog"), ("right", "bomb")] {
        let mut command = albef();
        command.arg("ask").arg(&image).arg(format!("what is on the {place}?")).arg("--json");
        let output = run(command.current_dir(dir.path()));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["answers"][0]["answer"], thing, "{report}");
        assert!(report["answers"][0]["probability"].as_f64().unwrap() > 0.9, "{report}");
        assert!(stderr(&output).contains("names what is on the left"), "{}", stderr(&output));
    }
}

/// The first image of a list.
fn first_image(list: &Path) -> String {
    let all: Value = serde_json::from_str(&std::fs::read_to_string(list).unwrap()).unwrap();
    all[0]["image"].as_str().unwrap().to_owned()
}

#[test]
fn completions_and_man_pages_cover_the_commands() {
    let dir = tempfile::tempdir().unwrap();
    let script = run(albef().args(["completions", "bash"]));
    let script = String::from_utf8(script.stdout).unwrap();
    assert!(script.contains("complete -F _albef") && script.contains("evaluate"), "{script}");
    run(albef().arg("man").arg(dir.path()));
    for page in ["albef.1", "albef-evaluate-retrieval.1", "albef-finetune.1"] {
        assert!(dir.path().join(page).is_file(), "{page}");
    }
}

#[test]
fn every_task_starts_from_the_shipped_model_and_answers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let dir = tempfile::tempdir().unwrap();
    data(dir.path(), 4);
    let image = |i: usize| format!("{i}.png");
    let entries = |entry: &dyn Fn(usize) -> Value| Value::Array((0..4).map(entry).collect());
    let yes = ["yes", "no"];
    let tasks: [(&str, &str, Value, &[&str]); 7] = [
        (
            "vqa",
            "vqa",
            entries(&|i| {
                json!({"dataset": "vqa", "image": image(i), "question": "is it red?", "question_id": i,
                       "answer": [yes[i % 2]]})
            }),
            &["ask", "0.png", "is it red?", "--answers", "yes,no"],
        ),
        (
            "ve",
            "ve",
            entries(&|i| {
                json!({"image": image(i), "sentence": "a square",
                       "label": (["entailment", "contradiction"][i % 2])})
            }),
            &["entail", "0.png", "a square"],
        ),
        (
            "nlvr-ta",
            "nlvr_ta",
            entries(&|i| json!({"image": image(i), "caption": format!("a square {i}")})),
            &[],
        ),
        (
            "nlvr",
            "nlvr",
            entries(&|i| {
                json!({"images": [image(i), image((i + 1) % 4)], "sentence": "both are red",
                       "label": (["True", "False"][i % 2])})
            }),
            &["reason", "0.png", "1.png", "both are red"],
        ),
        (
            "classification",
            "classification",
            entries(&|i| json!({"image": image(i), "label": yes[i % 2]})),
            &["predict", "0.png"],
        ),
        (
            "retrieval",
            "retrieval_coco",
            entries(
                &|i| json!({"image": image(i), "caption": format!("a square {i}"), "image_id": i}),
            ),
            &["match", "0.png", "a square"],
        ),
        (
            "grounding",
            "grounding",
            entries(&|i| json!({"image": image(i), "text": format!("a square {i}")})),
            &["ground", "0.png", "a square", "--json"],
        ),
    ];
    for (task, config, list, answer) in tasks {
        let file = dir.path().join(format!("{task}.json"));
        std::fs::write(&file, list.to_string()).unwrap();
        let output = dir.path().join(task);
        let mut command = albef();
        command.args(["finetune", task]).arg(root.join(format!("configs/{config}.yaml")));
        command.arg("--output").arg(&output);
        let mut settings = vec![
            format!("checkpoint={}", root.join("models/mini").display()),
            format!("train_file=[{}]", file.display()),
            image_root(task, dir.path()),
            "image_res=48".into(),
            "batch_size_train=4".into(),
            "schedular.epochs=1".into(),
        ];
        if ["retrieval", "grounding"].contains(&task) {
            settings.push("queue_size=4".into());
        }
        for setting in &settings {
            command.args(["--set", setting]);
        }
        run(&mut command);
        if !answer.is_empty() {
            let mut command = albef();
            command.args(answer).arg("--model").arg(output.join("model")).current_dir(dir.path());
            run(&mut command);
        }
    }
}
