//! What becomes of data on standard output that nobody can take.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::fs::File;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::{albef, stderr};

/// Commands that print, each in another module.
fn printing() -> Vec<Command> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let image = root.join("data/drawings/drawings-val-style/fxemoji/1f415.png");
    let image = image.display().to_string();
    let model = root.join("models/mini").display().to_string();
    [
        &["match", &image, "a dog", "--model", &model, "--json"][..],
        &["classify", &image, "dog", "cat", "--model", &model],
        &["embed", "--text", "a dog", "--model", &model],
        &["inspect", &model],
        &["doctor"],
        &["reproduce", "--list"],
    ]
    .into_iter()
    .map(|arguments| {
        let mut command = albef();
        command.args(arguments);
        command
    })
    .collect()
}

#[test]
fn a_full_disk_behind_standard_output_is_an_error() {
    let Ok(full) = File::options().write(true).open("/dev/full") else { return };
    for mut command in printing() {
        let output = command.stdout(Stdio::from(full.try_clone().unwrap())).output().unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{command:?}: {said}");
        assert!(said.contains("cannot write to standard output"), "{command:?}: {said}");
    }
}

#[test]
fn a_reader_that_goes_ends_the_program_quietly() {
    const SIGPIPE: i32 = 13;
    for mut command in printing() {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(SIGPIPE), "{command:?}: {said}");
        assert!(!said.contains("error") && !said.contains("panicked"), "{command:?}: {said}");
    }
}
