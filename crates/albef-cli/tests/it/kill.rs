//! A run that is killed again and again ends as one that never was, and goes on as itself only.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::common::{albef, config, data, run, settings, stderr};
use serde_json::Value;

const STEPS: usize = 60;
const KILLS: usize = 100;

fn command(list: &str, root: &Path, output: &Path) -> Command {
    let mut command = albef();
    command.args(["pretrain", &config(), "--resume", "--output"]).arg(output);
    command.args(settings(list, root));
    command.args(["--set", &format!("max_steps={STEPS}"), "--set", "checkpoint_every=3"]);
    // With a teacher, so that it and the parts of the losses come back too.
    command.args(["--set", "alpha=0.4", "--set", "momentum_dropout=0.1"]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// The model, and the logs of steps and epochs.
fn result(output: &Path) -> (Vec<u8>, [String; 2]) {
    let model = std::fs::read(output.join("model/model.safetensors")).expect("a model");
    let log = |name: &str| std::fs::read_to_string(output.join(name)).expect("a log");
    (model, ["log.jsonl", "log.txt"].map(log))
}

#[test]
fn a_hundred_kills_change_no_bit_of_the_result() {
    let dir = tempfile::tempdir().unwrap();
    let list = data(dir.path(), 30);
    let whole = dir.path().join("whole");
    assert!(command(&list, dir.path(), &whole).status().unwrap().success());
    let expected = result(&whole);
    assert_eq!(expected.1[0].lines().count(), STEPS);
    // Seven batches an epoch.
    assert_eq!(expected.1[1].lines().count(), STEPS / 7);

    let mut seed = 1_u64;
    let mut kills = 0;
    let mut runs = 0;
    while kills < KILLS {
        let broken = dir.path().join(format!("broken{runs}"));
        loop {
            let mut child = command(&list, dir.path(), &broken).spawn().unwrap();
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Lives grow slowly, so that a slow machine gets ahead too.
            let life = 60 + (seed >> 33) % 500 + 4 * (kills % 100) as u64;
            std::thread::sleep(Duration::from_millis(life));
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success());
                break;
            }
            child.kill().unwrap();
            child.wait().unwrap();
            kills += 1;
            assert!(kills < 40 * KILLS, "no run gets to its end");
        }
        let got = result(&broken);
        assert!(got.0 == expected.0, "weights differ after {kills} kills");
        assert_eq!(got.1, expected.1);
        std::fs::remove_dir_all(&broken).unwrap();
        runs += 1;
    }
}

/// A run of whole epochs that measures them and is continued if it is there.
fn validated(list: &str, root: &Path, output: &Path, steps: usize, more: &[&str]) -> Command {
    let mut command = albef();
    command.args(["pretrain", &config(), "--resume", "--output"]).arg(output);
    command.args(settings(list, root));
    let own = [format!("max_steps={steps}"), format!("val_file=[{list}]")];
    for setting in own.iter().map(String::as_str).chain(["schedular.sched=cosine"]) {
        command.args(["--set", setting]);
    }
    for setting in more {
        command.args(["--set", setting]);
    }
    command
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn failed(command: &mut Command) -> String {
    let output: Output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    stderr(&output)
}

#[test]
fn an_epoch_that_was_not_measured_before_a_kill_is_measured_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let list = data(dir.path(), 12);
    let output = dir.path().join("run");
    let first = run(&mut validated(&list, dir.path(), &output, 3, &[]));
    assert!(stderr(&first).contains("starting from the beginning"), "{}", stderr(&first));
    let best = output.join("best");
    let score = std::fs::read(best.join("score.json")).unwrap();
    let outcomes = std::fs::read(output.join("outcomes.json")).unwrap();
    assert_eq!(outcomes, std::fs::read(best.join("outcomes.json")).unwrap());
    let measured = lines(&output.join("validation.jsonl"));
    assert_eq!((measured.len(), &measured[0]["epoch"]), (1, &0.into()), "as in log.txt");
    assert_eq!(lines(&output.join("log.txt"))[0]["epoch"], 0);

    // As if the program had been killed between the checkpoint of the epoch and its measurement.
    std::fs::remove_dir_all(&best).unwrap();
    std::fs::remove_file(output.join("validation.jsonl")).unwrap();
    run(&mut validated(&list, dir.path(), &output, 6, &[]));
    let measured = lines(&output.join("validation.jsonl"));
    let epochs: Vec<u64> = measured.iter().map(|l| l["epoch"].as_u64().unwrap()).collect();
    assert_eq!(epochs, [0, 1]);
    assert_eq!(serde_json::from_slice::<Value>(&score).unwrap(), measured[0]);
    // Nothing is left to do, and nothing is measured twice.
    let again = run(&mut validated(&list, dir.path(), &output, 6, &[]));
    assert!(!stderr(&again).contains("validation after"), "{}", stderr(&again));
    assert_eq!(lines(&output.join("validation.jsonl")), measured);

    // As if it had been killed while the best weights were replaced.
    std::fs::rename(&best, output.join(".old-best")).unwrap();
    std::fs::create_dir(output.join(".albef-writing-0")).unwrap();
    run(&mut validated(&list, dir.path(), &output, 6, &[]));
    assert!(best.join("model.safetensors").is_file());
    assert!(!output.join(".old-best").exists() && !output.join(".albef-writing-0").exists());

    std::fs::write(best.join("score.json"), "{").unwrap();
    let error = failed(&mut validated(&list, dir.path(), &output, 6, &[]));
    assert!(error.contains("score.json"), "{error}");
}

#[test]
fn another_run_is_not_continued() {
    let dir = tempfile::tempdir().unwrap();
    let list = data(dir.path(), 12);
    let output = dir.path().join("run");
    run(&mut validated(&list, dir.path(), &output, 3, &[]));
    let more = ["optimizer.weight_decay=0.5", "seed=7", "num_workers=1", "keep_last_n=5"];
    let error = failed(&mut validated(&list, dir.path(), &output, 6, &more));
    for part in ["`optimizer.weight_decay` was 0.02, is 0.5", "`seed` was 42, is 7"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(!error.contains("num_workers") && !error.contains("keep_last_n"), "{error}");
    let other = data(dir.path(), 16);
    let error = failed(&mut validated(&other, dir.path(), &output, 6, &[]));
    assert!(error.contains("12 samples, has 16"), "{error}");

    // Checkpoints of older versions do not say what run they are of.
    let list = data(dir.path(), 12);
    let newest = std::fs::read_dir(output.join("checkpoints")).unwrap().next().unwrap().unwrap();
    let state = newest.path().join("state.json");
    let mut old: Value = serde_json::from_slice(&std::fs::read(&state).unwrap()).unwrap();
    old.as_object_mut().unwrap().remove("run").unwrap();
    std::fs::remove_file(newest.path().join("SHA256SUMS")).unwrap();
    std::fs::write(&state, old.to_string()).unwrap();
    let output = run(&mut validated(&list, dir.path(), &output, 6, &more[1..]));
    assert!(stderr(&output).contains("not checked"), "{}", stderr(&output));
}

#[test]
fn fine_tuning_starts_from_a_run_and_tests_its_best_weights() {
    let dir = tempfile::tempdir().unwrap();
    let list = data(dir.path(), 12);
    let start = dir.path().join("start");
    run(&mut validated(&list, dir.path(), &start, 3, &[]));
    let task = dir.path().join("task.yaml");
    std::fs::write(&task, "batch_size: 4\nvision_width: 768\nbatch_size_test: 4\n").unwrap();
    let output = dir.path().join("tuned");
    let mut command = albef();
    command.args(["finetune", "retrieval"]).arg(&task).arg("--output").arg(&output);
    for setting in [
        format!("checkpoint={}", start.display()),
        format!("image_root={}", dir.path().display()),
        format!("train_file=[{list}]"),
        format!("val_file={list}"),
        format!("test_file={list}"),
        // Another grid than the preset's patch of 16 would allow.
        "image_res=24".into(),
        "schedular.epochs=2".into(),
    ] {
        command.args(["--set", &setting]);
    }
    let ended = run(&mut command);
    let told = stderr(&ended);
    assert!(
        told.contains("note: retrieval does not read `vision_width`, `batch_size_test`\n"),
        "{told}"
    );
    let report: Value = serde_json::from_slice(&ended.stdout).unwrap();
    let score: Value =
        serde_json::from_slice(&std::fs::read(output.join("best/score.json")).unwrap()).unwrap();
    assert_eq!((&report["weights"], &report["epoch"]), (&"best".into(), &score["epoch"]));
    assert_eq!(report["score"], score["score"]);
    let config: Value =
        serde_json::from_slice(&std::fs::read(output.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["checkpoint"], start.display().to_string());
    let card = std::fs::read_to_string(output.join("model/README.md")).unwrap();
    assert!(card.contains("128 wide") && card.contains(&start.display().to_string()), "{card}");
    // The queues of the run came along: their length is the run's.
    let checkpoint = std::fs::read_dir(output.join("checkpoints")).unwrap().next().unwrap();
    let file = checkpoint.unwrap().path().join("state.safetensors");
    let tensors = albef_weights::read(&file).unwrap().tensors;
    assert_eq!(tensors.get("queue.ids").unwrap().shape, [10]);
}
