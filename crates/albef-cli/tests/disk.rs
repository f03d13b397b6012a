//! A disk that is full while a run saves.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

mod common;

use std::path::Path;
use std::process::{Command, Output};

use common::{albef, config, data, settings, stderr};

/// The program in a shell that lets no file grow beyond `blocks` of 512 bytes; the signal for it is
/// ignored, so that writing fails as on a full disk.
fn limited(blocks: u64, arguments: &[String]) -> Output {
    let program = albef().get_program().to_owned();
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
    Command::new("sh").args(["-c", &script]).arg(program).args(arguments).output().unwrap()
}

fn pretrain(list: &str, root: &Path, run: &Path, steps: u64) -> Vec<String> {
    let mut all = vec!["pretrain".to_owned(), config(), "--resume".to_owned()];
    all.extend(["--output".to_owned(), run.display().to_string()]);
    all.extend(settings(list, root));
    // The official schedule does not depend on the number of steps.
    let steps = format!("max_steps={steps}");
    for setting in [steps, "checkpoint_every=4".into(), "schedular.sched=cosine".into()] {
        all.extend(["--set".to_owned(), setting]);
    }
    all
}

fn weights(run: &Path) -> Vec<u8> {
    std::fs::read(run.join("model/model.safetensors")).unwrap()
}

#[test]
fn a_full_disk_is_an_error_that_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let list = data(dir.path(), 24);
    let whole = dir.path().join("whole");
    let output = albef().args(pretrain(&list, dir.path(), &whole, 12)).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));

    // Four steps with room, then a checkpoint that finds none.
    let run = dir.path().join("run");
    let output = albef().args(pretrain(&list, dir.path(), &run, 4)).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let before = weights(&run);
    let kept = || {
        let mut names: Vec<_> = std::fs::read_dir(run.join("checkpoints"))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let checkpoints = kept();
    assert!(!checkpoints.is_empty());
    let arguments = pretrain(&list, dir.path(), &run, 12);
    let output = limited(400, &arguments);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    let said = stderr(&output);
    assert!(said.contains("checkpoints") && said.contains("File too large"), "{said}");
    assert_eq!(weights(&run), before, "the model that was there");
    assert_eq!(kept(), checkpoints, "the checkpoints that were there");

    // With room again the run ends as one that never met a full disk.
    let output = albef().args(&arguments).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(weights(&run), weights(&whole));
}
