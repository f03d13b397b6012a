//! Every task from a pre-trained model to an answer about one's own image.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::path::{Path, PathBuf};

use crate::common::{albef, data, image_root, out, parts_make_up_losses, pretrained, run, stderr};
use serde_json::{Value, json};

fn write(dir: &Path, name: &str, list: &Value) -> String {
    let path = dir.join(name);
    std::fs::write(&path, list.to_string()).unwrap();
    path.display().to_string()
}

fn finetune(dir: &Path, task: &str, model: &Path, more: &[String]) -> PathBuf {
    finetuned(dir, task, model, more).0
}

/// The model and what was said while it was made.
fn finetuned(dir: &Path, task: &str, model: &Path, more: &[String]) -> (PathBuf, String) {
    let output = dir.join(task);
    let yaml = dir.join("task.yaml");
    std::fs::write(&yaml, "batch_size_train: 4\nbatch_size_test: 4\n").unwrap();
    let mut command = albef();
    command.args(["finetune", task]).arg(&yaml).arg("--output").arg(&output);
    let mut settings = vec![
        format!("checkpoint={}", model.display()),
        image_root(task, dir),
        "queue_size=8".to_owned(),
        "schedular.epochs=2".to_owned(),
    ];
    settings.extend_from_slice(more);
    for setting in settings {
        command.args(["--set", &setting]);
    }
    let said = stderr(&run(&mut command));
    assert!(output.join("log.jsonl").is_file());
    (output.join("model"), said)
}

#[test]
fn questions_are_learnt_ranked_and_asked() {
    let dir = tempfile::tempdir().unwrap();
    let model = pretrained(dir.path());
    let colours = ["red", "green", "blue"];
    let list: Vec<Value> = (0..12)
        .map(|i| {
            json!({"dataset": "vqa", "image": format!("{i}.png"), "question": "What colour is it?",
                   "question_id": i, "answer": [colours[i % 3], colours[i % 3], "gray"]})
        })
        .collect();
    let list = write(dir.path(), "vqa.json", &json!(list));
    let answers = write(dir.path(), "answers.json", &json!(["red", "green", "blue", "gray"]));
    let more = [
        format!("train_file=[{list}]"),
        format!("val_file=[{list}]"),
        format!("answer_list={answers}"),
        "k_test=4".into(),
    ];
    let tuned = finetune(dir.path(), "vqa", &model, &more);
    assert!(dir.path().join("vqa/best/score.json").is_file());
    let log = std::fs::read_to_string(dir.path().join("vqa/log.jsonl")).unwrap();
    parts_make_up_losses(&log, &[("train_loss", "vqa")]);
    let results = dir.path().join("results.json");
    let mut command = albef();
    command.args(["evaluate", "vqa", "--json", "--annotations", &list, "--answer-list", &answers]);
    command.arg("--image-root").arg(dir.path()).arg("--model").arg(&tuned);
    let saved = dir.path().join("outcomes.json");
    command.arg("--results").arg(&results).arg("--save").arg(&saved);
    command.args(["--text-baseline", &list, "--rank", "normalised"]);
    let report = out(&mut command);
    let ranked = |rule: &str| {
        let mut command = albef();
        command.args(["ask", "0.png", "what colour?", "--json", "--answers", &answers]);
        command.args(["--rank", rule, "--model"]).arg(&tuned).current_dir(dir.path());
        out(&mut command)
    };
    assert_eq!(ranked("corrected"), ranked("chain"));
    assert_ne!(ranked("corrected"), ranked("official"));
    // The model keeps the list that it was measured with.
    let mut command = albef();
    command.args(["ask", "0.png", "what colour?", "--json", "--rank", "chain", "--model"]);
    assert_eq!(out(command.arg(&tuned).current_dir(dir.path())), ranked("chain"));
    let outcomes: Value = serde_json::from_slice(&std::fs::read(&saved).unwrap()).unwrap();
    let items = outcomes["sets"][0]["items"].as_array().unwrap();
    let mean = items.iter().map(|i| i["values"][0].as_f64().unwrap()).sum::<f64>() / 12.0;
    assert!((mean - report["accuracy"].as_f64().unwrap()).abs() < 1e-9, "{outcomes}");
    // Gray is the second answer to every question, so the first overall; three of ten annotators give
    // it, which scores (3 * 2/3 + 7 * 1) / 10.
    let baseline = &report["text_baseline"];
    assert_eq!((&baseline["train_texts"], &baseline["seen"]), (&json!(12), &json!(100.0)));
    let of = |way: &str, what: &str| baseline[way][what].as_f64().unwrap();
    for way in ["majority", "first_words", "same_text"] {
        let lead = report["accuracy"].as_f64().unwrap() - of(way, "accuracy");
        assert!((of(way, "lead") - lead).abs() < 1e-9, "{baseline}");
    }
    assert!((of("majority", "accuracy") - 90.0).abs() < 1e-9, "{baseline}");
    assert_eq!(items[3]["key"], "3.png: What colour is it?");
    assert!(dir.path().join("vqa/outcomes.json").is_file());
    assert_eq!(report["samples"], 12);
    let written: Value = serde_json::from_slice(&std::fs::read(&results).unwrap()).unwrap();
    assert_eq!(written.as_array().unwrap().len(), 12);

    let mut command = albef();
    command.arg("ask").arg(dir.path().join("0.png")).args(["What colour is it?", "--json"]);
    command.args(["--answers", "red, green, blue", "--model"]).arg(&tuned);
    let answer = out(&mut command);
    let total: f64 = answer["answers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| a["probability"].as_f64().unwrap())
        .sum();
    assert!((total - 1.0).abs() < 1e-4, "{answer}");

    let ask = |answers: &str| {
        let mut command = albef();
        command.arg("ask").arg(dir.path().join("0.png")).args(["what?", "--json", "--answers"]);
        command.arg(answers).arg("--model").arg(&tuned).output().unwrap()
    };
    let twice = ask("red,blue,red");
    let answers: Value = serde_json::from_slice(&twice.stdout).unwrap();
    assert_eq!(answers["answers"].as_array().unwrap().len(), 2, "{answers}");
    assert!(stderr(&twice).contains("repeat an earlier answer (such as `red`)"));
    for (answers, part) in [
        ("red,,blue".to_owned(), "answer 1 of `red,,blue` is empty"),
        (format!("red,{}", "ab".repeat(40) + &" ab".repeat(600)), "answer 1 has"),
    ] {
        let output = ask(&answers);
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains(part), "{}", stderr(&output));
    }

    // Items are counted, not images: four questions are about one that is broken.
    std::fs::write(dir.path().join("bad.png"), b"no image").unwrap();
    let question = |image: &str, i: usize| json!({"image": image, "question": "what?", "question_id": i, "answer": "red"});
    let questions: Vec<Value> =
        (0..6).map(|i| question(if i < 4 { "bad.png" } else { "1.png" }, i)).collect();
    let broken = write(dir.path(), "broken.json", &json!(questions));
    let mut command = albef();
    command.args([
        "evaluate",
        "vqa",
        "--json",
        "--annotations",
        &broken,
        "--answer-list",
        "red,blue",
    ]);
    let report = out(command.arg("--image-root").arg(dir.path()).arg("--model").arg(&tuned));
    assert_eq!((&report["skipped"], &report["samples"]), (&json!(4), &json!(6)));

    // A model of another task is refused in words.
    let image = dir.path().join("0.png").display().to_string();
    for what in [
        &["entail", &image, "a red square"][..],
        &["analyse", "mi", "--annotations", &list],
        &["match", &image, "a red square"],
    ] {
        let wrong = albef().args(what).arg("--model").arg(&tuned).output().unwrap();
        assert_eq!(wrong.status.code(), Some(2));
        let said = stderr(&wrong);
        assert!(
            said.contains("is a checkpoint for visual question answering (vqa)"),
            "{what:?}: {said}"
        );
    }
}

#[test]
fn entailment_is_learnt_and_measured_with_a_broken_image() {
    let dir = tempfile::tempdir().unwrap();
    let model = pretrained(dir.path());
    let labels = ["entailment", "neutral", "contradiction"];
    let list: Vec<Value> = (0..12)
        .map(|i| {
            json!({"image": format!("{i}.png"), "sentence": "a square", "label": labels[i % 3]})
        })
        .collect();
    let list = write(dir.path(), "ve.json", &json!(list));
    let odd = json!([{"image": "0.png", "sentence": "a square", "label": "neutral"},
                     {"image": "broken.png", "sentence": "a square", "label": "neutral"}]);
    std::fs::write(dir.path().join("broken.png"), b"no image").unwrap();
    let odd = write(dir.path(), "odd.json", &odd);
    let lists = [format!("train_file={list}"), format!("val_file={odd}")];
    let (tuned, said) = finetuned(dir.path(), "ve", &model, &lists);
    assert!(said.contains("not usable, counted as wrong: broken.png: "), "{said}");
    let log = std::fs::read_to_string(dir.path().join("ve/log.jsonl")).unwrap();
    parts_make_up_losses(&log, &[("train_loss", "cls")]);
    std::fs::write(dir.path().join("3.png"), b"no image").unwrap();
    let mut command = albef();
    command.args(["evaluate", "ve", "--json", "--annotations", &list, "--image-root"]);
    let report = out(command.arg(dir.path()).arg("--model").arg(&tuned));
    assert_eq!((&report["samples"], &report["skipped"]), (&json!(12), &json!(1)));
    let mut command = albef();
    command.arg("entail").arg(dir.path().join("0.png")).args(["a square", "--json", "--model"]);
    let answer = out(command.arg(&tuned));
    assert!(labels.contains(&answer["label"].as_str().unwrap()), "{answer}");
}

#[test]
fn statements_about_two_images_start_from_text_assignment() {
    let dir = tempfile::tempdir().unwrap();
    let model = pretrained(dir.path());
    let captions = dir.path().join("list.json").display().to_string();
    let prepared = finetune(dir.path(), "nlvr-ta", &model, &[format!("train_file=[{captions}]")]);
    let list: Vec<Value> = (0..12)
        .map(|i| {
            json!({"images": [format!("{i}.png"), format!("{}.png", (i + 1) % 12)],
                   "sentence": "both are squares", "label": if i % 2 == 0 { "True" } else { "False" }})
        })
        .collect();
    let list = write(dir.path(), "nlvr.json", &json!(list));
    let tuned = finetune(dir.path(), "nlvr", &prepared, &[format!("train_file=[{list}]")]);
    let mut command = albef();
    command.args(["evaluate", "nlvr", "--json", "--annotations", &list, "--image-root"]);
    let saved = dir.path().join("outcomes.json");
    command.arg(dir.path()).arg("--model").arg(&tuned).arg("--save").arg(&saved);
    let other: Vec<Value> = [("both are squares", "True"), ("none is a square", "False")]
        .map(|(s, l)| json!({"images": ["a.png", "b.png"], "sentence": s, "label": l}))
        .to_vec();
    let other = write(dir.path(), "nlvr_train.json", &json!(other));
    command.args(["--text-baseline", &other]);
    let report = out(&mut command);
    assert_eq!(report["majority"], 50.0);
    let baseline = &report["text_baseline"];
    assert_eq!((&baseline["train_texts"], &baseline["seen"]), (&json!(2), &json!(100.0)));
    assert_eq!(baseline["same_text"]["accuracy"], 50.0);
    let outcomes: Value = serde_json::from_slice(&std::fs::read(&saved).unwrap()).unwrap();
    assert_eq!(outcomes["sets"][0]["items"][1]["key"], "1.png, 2.png: both are squares");
    let mut command = albef();
    command.arg("reason").arg(dir.path().join("0.png")).arg(dir.path().join("1.png"));
    let answer = out(command.args(["both are squares", "--json", "--model"]).arg(&tuned));
    assert!(answer["probability"].as_f64().is_some_and(|p| (0.0..=1.0).contains(&p)));
}

#[test]
fn retrieval_is_fine_tuned_from_a_pretrained_model() {
    let dir = tempfile::tempdir().unwrap();
    let model = pretrained(dir.path());
    let captions = dir.path().join("list.json").display().to_string();
    let more = [format!("train_file=[{captions}]"), format!("val_file={captions}")];
    let tuned = finetune(dir.path(), "retrieval", &model, &more);
    let mut command = albef();
    command.args(["evaluate", "retrieval", "--json", "--annotations", &captions, "--image-root"]);
    let report = out(command.arg(dir.path()).arg("--model").arg(&tuned));
    assert!(report["r_mean"].as_f64().is_some());
    let list: Vec<Value> =
        (0..12).map(|i| json!({"image": format!("{i}.png"), "text": "a square"})).collect();
    let list = write(dir.path(), "grounding.json", &json!(list));
    finetune(dir.path(), "grounding", &model, &[format!("train_file=[{list}]")]);
}

#[test]
fn the_model_shows_where_it_looks_and_chooses_classes() {
    let dir = tempfile::tempdir().unwrap();
    let model = pretrained(dir.path());
    let image = dir.path().join("0.png");
    for mode in ["itm", "itc"] {
        let overlay = dir.path().join(format!("{mode}.png"));
        let mut command = albef();
        command.arg("ground").arg(&image).args(["a red square", "--mode", mode, "--json"]);
        command.arg("--words").arg("--output").arg(&overlay).arg("--model").arg(&model);
        let output = command.output().unwrap();
        assert!(output.status.code().is_some_and(|c| c < 2), "{}", stderr(&output));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let grid = report["grid"].as_u64().unwrap();
        assert_eq!(report["map"].as_array().unwrap().len() as u64, grid * grid);
        assert_eq!(image_size(&overlay), (384, 320), "small images are enlarged");
        let words = report["words"].as_array().unwrap();
        assert!(!words.is_empty(), "{mode}");
        let speaks = |map: &Value| map.as_array().unwrap().iter().any(|v| v.as_f64() != Some(0.0));
        assert!(words.iter().all(|word| speaks(&word["map"])), "{words:?}");
        for (i, word) in words.iter().enumerate() {
            let name = format!("{mode}-{}-{}.png", i + 1, word["word"].as_str().unwrap());
            assert_eq!(image_size(&dir.path().join(&name)), (384, 320), "{name}");
        }
    }
    let mut command = albef();
    command.arg("ground").arg(&image).args(["red", "--words", "--json", "--layer", "3"]);
    let noted = command.arg("--model").arg(&model).output().unwrap();
    assert!(stderr(&noted).contains("no maps at layer 3"), "{}", stderr(&noted));
    let boxes = write(dir.path(), "boxes.json", &json!([[0, 0, 5, 5], [100, 3, 5, 5]]));
    let mut command = albef();
    command.arg("ground").arg(&image).args(["red", "--boxes", &boxes, "--model"]).arg(&model);
    let outside = command.output().unwrap();
    assert_eq!(outside.status.code(), Some(2));
    let said = stderr(&outside);
    assert!(said.contains("box 1: ") && said.contains("outside the image of 24 x 20"), "{said}");
    let entry = json!({"image": "0.png", "text": "red", "box": [0, 0, 12, 20],
                       "boxes": [[0, 0, 12, 20], [12, 0, 12, 20]]});
    let list = write(dir.path(), "grounding.json", &json!([entry]));
    let mut command = albef();
    command.args(["evaluate", "grounding", "--json", "--annotations", &list, "--image-root"]);
    let report = out(command.arg(dir.path()).arg("--model").arg(&model));
    assert_eq!((&report["expressions"], &report["random_box"]), (&json!(1), &json!(50.0)));
    let mut command = albef();
    command.arg("classify").arg(&image).args(["red", "green", "--json", "--model"]).arg(&model);
    let classes = out(&mut command);
    assert_eq!(classes["classes"].as_array().unwrap().len(), 2);
}

#[test]
fn scenes_come_with_lists_that_every_task_reads() {
    let dir = tempfile::tempdir().unwrap();
    let scenes = dir.path().join("scenes");
    let mut command = albef();
    command.args(["data", "scenes", "--scenes", "5", "--size", "32", "--output"]).arg(&scenes);
    run(&mut command);
    for split in ["train", "val", "test"] {
        for task in ["captions", "vqa", "nlvr", "ve", "grounding"] {
            let file = scenes.join(format!("{split}_{task}.json"));
            let list: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
            let list = list.as_array().unwrap();
            assert!(!list.is_empty());
            for image in [&list[0]["image"], &list[0]["images"][0]] {
                assert!(image.is_null() || scenes.join(image.as_str().unwrap()).is_file());
            }
        }
    }
    let again = command.output().unwrap();
    assert_eq!(again.status.code(), Some(2), "scenes are not overwritten");
}

fn image_size(path: &Path) -> (usize, usize) {
    let bytes = std::fs::read(path).unwrap();
    let options = albef_data::image::DecodeOptions::default();
    let image = albef_data::image::decode(&bytes, &options).unwrap();
    (image.width, image.height)
}

#[test]
fn a_data_set_is_checked_with_both_images_of_a_statement() {
    let dir = tempfile::tempdir().unwrap();
    let list = data(dir.path(), 6);
    let check = |source: &str, more: &[&str]| {
        let mut command = albef();
        command.args(["data", "check", source, "--json", "--image-root"]).arg(dir.path());
        let output = command.args(more).output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), report)
    };
    let (code, good) = check(&list, &[]);
    assert_eq!((code, &good["samples"], &good["clean"]), (Some(0), &json!(6), &json!(true)));
    std::fs::write(dir.path().join("bad.png"), b"no image").unwrap();
    let entry = |second: &str| json!({"images": ["0.png", second], "sentence": "both are red", "label": "True"});
    let pairs = write(dir.path(), "nlvr.json", &json!([entry("3.png"), entry("bad.png")]));
    let (code, report) = check(&pairs, &["--task", "nlvr"]);
    assert_eq!((code, &report["unusable"]), (Some(1), &json!(1)));
    assert!(report["problems"][0].as_str().unwrap().starts_with("bad.png: "), "{report}");
    let (code, quick) = check(&pairs, &["--task", "nlvr", "--quick"]);
    assert_eq!((code, &quick["unusable"]), (Some(0), &json!(0)));
    let open =
        json!([{"image": "0.png", "question": "what is it?", "question_id": 1, "dataset": "vqa"}]);
    let (code, open) = check(&write(dir.path(), "open.json", &open), &["--task", "vqa"]);
    assert_eq!((code, &open["without_answers"]), (Some(0), &json!(1)));
}
