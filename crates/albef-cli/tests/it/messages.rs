//! What is said about data that was not taken as it was given, and about files that cannot be used.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::path::Path;
use std::process::Command;

use crate::common::{albef, config, data, out, pretrained, run, settings, stderr};
use serde_json::{Value, json};

fn pretrain(list: &str, root: &Path, output: &Path, more: &[&str]) -> Command {
    let mut command = albef();
    command.args(["pretrain", &config(), "--output"]).arg(output).args(settings(list, root));
    for setting in ["max_steps=3"].iter().chain(more) {
        command.args(["--set", setting]);
    }
    command
}

fn failed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

/// Makes the captions of the first `n` images blank.
fn blank(list: &str, n: usize) {
    let mut entries: Value = serde_json::from_slice(&std::fs::read(list).unwrap()).unwrap();
    for entry in &mut entries.as_array_mut().unwrap()[..n] {
        entry["caption"] = json!(["  ", ""]);
    }
    std::fs::write(list, entries.to_string()).unwrap();
}

#[test]
fn images_left_out_or_skipped_are_counted_also_when_a_run_fails() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let list = data(root, 16);
    blank(&list, 3);
    for name in ["5.png", "9.png"] {
        std::fs::write(root.join(name), b"no image").unwrap();
    }
    let told = |said: &str| {
        let counted = said.find("note: 3 images without a caption are left out").expect(said);
        let skipped = said.find("warning: 2 images could not be used").expect(said);
        assert!(counted < skipped, "at the start: {said}");
        assert!(said.contains("skipped 5.png: ") && said.contains("skipped 9.png: "), "{said}");
    };
    // The whole set is needed in a step, so every image is met.
    told(&stderr(&run(&mut pretrain(&list, root, &root.join("a"), &["batch_size=13"]))));
    let ruin = ["batch_size=13", "optimizer.lr=1e38", "schedular.warmup_steps=0"];
    told(&failed(&mut pretrain(&list, root, &root.join("b"), &ruin)));
    // The error about too many has the list, which is not told twice.
    let strict = ["batch_size=13", "max_skipped=1"];
    let said = failed(&mut pretrain(&list, root, &root.join("c"), &strict));
    assert_eq!(said.matches("9.png").count(), 1, "{said}");
}

#[test]
fn texts_without_words_are_counted_where_recall_is_measured() {
    let dir = tempfile::tempdir().unwrap();
    let model = pretrained(dir.path());
    let list = dir.path().join("list.json").display().to_string();
    blank(&list, 2);
    let mut command = albef();
    command.args(["evaluate", "retrieval", "--json", "--annotations", &list, "--image-root"]);
    command.arg(dir.path()).arg("--model").arg(&model);
    let said = stderr(&run(&mut command));
    assert!(said.contains("4 of 24 texts have no words"), "{said}");
    assert_eq!(out(&mut command)["wordless_texts"], 4);
}

#[test]
fn a_file_that_is_not_there_is_named_once_with_its_key_and_cause() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let list = data(root, 12);
    let once = |said: &str, key: &str| {
        assert!(said.contains(&format!("`{key}`")), "{key}: {said}");
        assert!(said.contains("/no/such"), "{key}: {said}");
        let causes = ["os error 2", "there is no file or folder"];
        let told: usize = causes.iter().map(|cause| said.matches(cause).count()).sum();
        assert_eq!(told, 1, "{key}: {said}");
    };
    for key in ["train_file", "val_file", "vocab", "init_albef", "init_text", "init_vision"] {
        let setting = format!("{key}=/no/such.pth");
        once(&failed(&mut pretrain(&list, root, &root.join(key), &[&setting])), key);
    }
    let task = root.join("task.yaml");
    std::fs::write(&task, "batch_size: 4\ncheckpoint: /no/such\n").unwrap();
    let mut tune = albef();
    tune.args(["finetune", "retrieval"]).arg(&task).arg("--output").arg(root.join("tuned"));
    tune.args(["--set", &format!("train_file=[{list}]")]);
    tune.args(["--set", &format!("image_root={}", root.display())]);
    once(&failed(&mut tune), "checkpoint");
    let said = failed(albef().args(["compare", "/no/such.json", "/no/other.json"]));
    assert_eq!(said.matches("os error 2").count(), 1, "{said}");

    let words = root.join("mine.txt");
    std::fs::write(&words, "[PAD]\nred\nred\n").unwrap();
    let setting = format!("vocab={}", words.display());
    let said = failed(&mut pretrain(&list, root, &root.join("words"), &[&setting]));
    assert!(said.contains("mine.txt: line 3"), "{said}");
}

#[test]
fn pre_training_starts_from_a_run_as_from_its_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let list = data(dir.path(), 12);
    let first = dir.path().join("first");
    run(&mut pretrain(&list, dir.path(), &first, &[]));
    let next = |output: &str, from: &Path| {
        let setting = format!("init_albef={}", from.display());
        let output = dir.path().join(output);
        run(&mut pretrain(&list, dir.path(), &output, &["seed=7", &setting]));
        std::fs::read(output.join("model/model.safetensors")).unwrap()
    };
    let newest = first.join("checkpoints/step-0000000003");
    let (of_run, of_checkpoint) = (next("a", &first), next("b", &newest));
    assert!(of_run == of_checkpoint, "the newest checkpoint is not what was taken");
    // A run has momentum copies, which its model folder lacks.
    assert!(of_run != next("c", &first.join("model")), "the momentum copies were not taken");
}

#[test]
fn a_number_of_threads_beyond_all_measure_is_refused() {
    let said = failed(albef().args(["--threads", "100000", "doctor"]));
    assert!(said.contains("--threads") && said.contains("1024"), "{said}");
}

#[test]
fn former_names_of_keys_are_taken_with_a_note_and_both_names_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let list = data(root, 12);
    let output = root.join("a");
    let said = stderr(&run(&mut pretrain(&list, root, &output, &["workers=1", "keep_last=5"])));
    for note in ["`workers` is now called `num_workers`", "`keep_last` is now called `keep_last_n`"]
    {
        assert!(said.contains(&format!("note: {note}")), "{note}: {said}");
    }
    let text = std::fs::read_to_string(output.join("config.json")).unwrap();
    let config: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&config["num_workers"], &config["keep_last_n"]), (&json!(1), &json!(5)));

    let both = root.join("both.yaml");
    std::fs::write(&both, "workers: 1\nnum_workers: 2\n").unwrap();
    let said = failed(albef().arg("pretrain").arg(&both).arg("--output").arg(root.join("b")));
    assert!(said.contains("both.yaml: `workers` and `num_workers` are one key"), "{said}");
    assert!(!root.join("b").exists(), "nothing is begun");
}

#[test]
fn a_key_of_another_task_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let yaml = dir.path().join("ve.yaml");
    std::fs::write(&yaml, "vqa_root: images\n").unwrap();
    let output = dir.path().join("run");
    let said = failed(albef().args(["finetune", "ve"]).arg(&yaml).arg("--output").arg(&output));
    assert!(said.contains("ve.yaml: `vqa_root` is a key of vqa"), "{said}");
    assert!(said.contains("`albef finetune vqa`"), "{said}");
    assert!(!output.exists(), "nothing is begun");
}
