//! Broken weights and broken images, for each task that answers.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use albef_weights::{HostTensor, KeepAs};
use serde_json::{Value, json};

use crate::common::{albef, image_root, pretrained, run, stderr};

/// A task, the command that asks one thing, and weights behind its answers that overflow together.
struct Task {
    name: &'static str,
    ask: &'static [&'static str],
    weights: [&'static str; 2],
    entry: fn(usize, &str) -> Value,
}

const TASKS: [Task; 3] = [
    Task {
        name: "vqa",
        ask: &["ask", "IMAGE", "what is it?", "--answers", "red,blue"],
        weights: [
            "text_decoder.cls.predictions.transform.LayerNorm.weight",
            "text_decoder.cls.predictions.transform.LayerNorm.bias",
        ],
        entry: |i, image| {
            json!({"dataset": "vqa", "image": image, "question": "what is it?",
                   "question_id": i, "answer": ["red"]})
        },
    },
    Task {
        name: "nlvr",
        ask: &["reason", "IMAGE", "1.png", "both are red"],
        weights: ["cls_head.0.bias", "cls_head.2.weight"],
        entry: |_, image| json!({"images": [image, "1.png"], "sentence": "both are red", "label": "True"}),
    },
    Task {
        name: "ve",
        ask: &["entail", "IMAGE", "a square"],
        weights: ["cls_head.0.bias", "cls_head.2.weight"],
        entry: |_, image| json!({"image": image, "sentence": "a square", "label": "neutral"}),
    },
];

impl Task {
    fn list(&self, dir: &Path, images: &[&str]) -> PathBuf {
        let path = dir.join(format!("{}.json", self.name));
        let list: Vec<Value> =
            images.iter().enumerate().map(|(i, image)| (self.entry)(i, image)).collect();
        std::fs::write(&path, json!(list).to_string()).unwrap();
        path
    }

    /// A model of one step.
    fn tuned(&self, dir: &Path, model: &Path) -> PathBuf {
        let list = self.list(dir, &["0.png", "1.png", "2.png", "3.png"]);
        let yaml = dir.join("task.yaml");
        std::fs::write(&yaml, "batch_size_train: 4\n").unwrap();
        let output = dir.join(format!("run-{}", self.name));
        let mut command = albef();
        command.args(["finetune", self.name]).arg(&yaml).arg("--output").arg(&output);
        for setting in [
            format!("checkpoint={}", model.display()),
            format!("train_file=[{}]", list.display()),
            image_root(self.name, dir),
            "schedular.epochs=1".into(),
        ] {
            command.args(["--set", &setting]);
        }
        run(&mut command);
        output.join("model")
    }

    fn asked(&self, dir: &Path, image: &str, model: &Path) -> Command {
        let mut command = albef();
        command.args(self.ask.iter().map(|a| if *a == "IMAGE" { image } else { a }));
        command.args(["--json", "--model"]).arg(model).current_dir(dir);
        command
    }

    fn evaluated(&self, dir: &Path, list: &Path, model: &Path) -> Command {
        let mut command = albef();
        command.args(["evaluate", self.name, "--json", "--annotations"]).arg(list);
        command.arg("--image-root").arg(dir).arg("--model").arg(model);
        if self.name == "vqa" {
            command.args(["--answer-list", "red,blue"]);
        }
        command
    }
}

/// Replaces all values of a weight.
fn fill(model: &Path, name: &str, value: f32) {
    let file = model.join("model.safetensors");
    let mut tensors = albef_weights::read(&file).unwrap().tensors;
    let shape = tensors.get(name).unwrap().shape.clone();
    let values = vec![value; shape.iter().product()];
    tensors.insert(name.to_owned(), HostTensor::from_f32(&shape, &values));
    albef_weights::write_safetensors(&file, &tensors, &HashMap::new(), KeepAs::Same).unwrap();
}

fn fails(command: &mut Command, parts: &[&str]) {
    let output = command.output().unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(!said.contains("panicked"), "{said}");
    parts.iter().for_each(|part| assert!(said.contains(part), "{part}: {said}"));
}

#[test]
fn a_broken_image_costs_itself_and_broken_weights_answer_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, started) = (dir.path(), pretrained(dir.path()));
    std::fs::write(dir.join("bad.png"), b"no image").unwrap();
    for task in TASKS {
        let model = task.tuned(dir, &started);
        run(&mut task.asked(dir, "0.png", &model));
        fails(&mut task.asked(dir, "bad.png", &model), &["bad.png"]);
        fails(&mut task.asked(dir, "none.png", &model), &["none.png"]);

        // An image of a list that cannot be used is named and counts as wrong; the others are measured.
        let list = task.list(dir, &["0.png", "bad.png", "2.png", "none.png"]);
        let output = run(&mut task.evaluated(dir, &list, &model));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&report["samples"], &report["skipped"]), (&json!(4), &json!(2)), "{report}");
        let said = stderr(&output);
        for name in ["bad.png", "none.png"] {
            assert!(said.contains(&format!("counted as wrong: {name}")), "{said}");
        }
        let all_bad = task.list(dir, &["bad.png", "none.png"]);
        fails(&mut task.evaluated(dir, &all_bad, &model), &["none of the images of 2 samples"]);

        // Weights that are numbers, and give none; then one that is none.
        let list = task.list(dir, &["0.png", "2.png"]);
        for (value, parts) in [
            (3e38, &["not finite numbers", "hint"][..]),
            (f32::NAN, &["model.safetensors", task.weights[0], "not finite"]),
        ] {
            task.weights.iter().for_each(|name| fill(&model, name, value));
            fails(&mut task.asked(dir, "0.png", &model), parts);
            fails(&mut task.evaluated(dir, &list, &model), parts);
        }
    }
}
