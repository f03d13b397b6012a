//! Two runs do not write to one folder.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{albef, config, data, run, settings, stderr};

fn pretrain(list: &str, root: &Path, output: &Path, steps: usize) -> Command {
    let mut command = albef();
    command.args(["pretrain", &config(), "--resume", "--output"]).arg(output);
    command.args(settings(list, root)).args(["--set", "checkpoint_every=1"]);
    command.args(["--set", &format!("max_steps={steps}")]);
    command
}

/// A run that will not end by itself, once it has a checkpoint.
fn started(command: &mut Command, output: &Path) -> Child {
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let from = Instant::now();
    // A folder with another name is one that is still being written.
    let whole = |entry: std::fs::DirEntry| {
        entry.file_name().to_string_lossy().starts_with("step-")
            && entry.path().join("state.json").is_file()
    };
    let saved = || {
        let entries = std::fs::read_dir(output.join("checkpoints")).ok();
        entries.is_some_and(|mut entries| entries.any(|e| e.is_ok_and(whole)))
    };
    while !saved() {
        assert!(from.elapsed() < Duration::from_secs(120), "no checkpoint");
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

#[test]
fn a_second_run_is_refused_while_the_first_lives_and_goes_on_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let list = data(dir.path(), 12);
    let output = dir.path().join("run");
    let mut first = started(&mut pretrain(&list, dir.path(), &output, 100_000), &output);
    let task = dir.path().join("task.yaml");
    std::fs::write(&task, "batch_size: 4\ncheckpoint: /no/model\n").unwrap();
    let mut tune = albef();
    tune.args(["finetune", "retrieval"]).arg(&task).arg("--output").arg(&output);
    for command in [&mut pretrain(&list, dir.path(), &output, 100_000), &mut tune] {
        let refused = command.output().unwrap();
        assert_eq!(refused.status.code(), Some(2), "{}", stderr(&refused));
        let said = stderr(&refused);
        assert!(said.contains("another run writes to this folder"), "{said}");
        assert!(said.contains(&output.display().to_string()), "{said}");
    }
    assert!(first.try_wait().unwrap().is_none(), "the first run has ended");
    first.kill().unwrap();
    first.wait().unwrap();
    let log = std::fs::read_to_string(output.join("log.jsonl")).unwrap();
    let steps = log.lines().count() + 2;
    let said = stderr(&run(&mut pretrain(&list, dir.path(), &output, steps)));
    assert!(said.contains("continuing after step"), "{said}");
}
