//! The demonstration, as far as it can be seen in seconds.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use common::{albef, run};

#[test]
fn trials_that_are_interrupted_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (output, temporary) = (dir.path().join("demo"), dir.path().join("tmp"));
    std::fs::create_dir(&temporary).unwrap();
    let mut child = albef()
        .args(["demo", "--output"])
        .arg(&output)
        .env("TMPDIR", &temporary)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = Vec::new();
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        said.push(line.unwrap());
        if said.last().unwrap().starts_with("trying how many steps") {
            run(Command::new("kill").args(["-INT", &child.id().to_string()]));
        }
    }
    assert_eq!(child.wait().unwrap().code(), Some(1), "{said:?}");
    assert!(said.iter().any(|line| line.contains("interrupted")), "{said:?}");
    let names = |folder| -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    };
    assert_eq!(names(&output), ["data"]);
    assert!(names(&temporary).is_empty());
}
