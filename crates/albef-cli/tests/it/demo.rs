//! The demonstration, as far as it can be seen in seconds.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::common::{albef, run, stderr};
use serde_json::Value;

/// Interrupts a command once it says a line that begins so, and gives all that it said; it must end with 1.
fn interrupted(command: &mut Command, at: &str) -> Vec<String> {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = Vec::new();
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        said.push(line.unwrap());
        if said.last().unwrap().starts_with(at) {
            run(Command::new("kill").args(["-INT", &child.id().to_string()]));
        }
    }
    assert_eq!(child.wait().unwrap().code(), Some(1), "{said:?}");
    said
}

#[test]
fn trials_that_are_interrupted_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (output, temporary) = (dir.path().join("demo"), dir.path().join("tmp"));
    std::fs::create_dir(&temporary).unwrap();
    let mut command = albef();
    command.args(["demo", "--output"]).arg(&output).env("TMPDIR", &temporary);
    let said = interrupted(&mut command, "trying how many steps");
    assert!(said.iter().any(|line| line.contains("interrupted")), "{said:?}");
    let names = |folder| -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert!(!output.exists());
    assert!(names(&temporary).is_empty());
}

#[test]
fn an_interrupted_demonstration_goes_on_with_the_same_command() {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("demo");
    let demo = || {
        let mut command = albef();
        command.args(["demo", "--minutes", "0.05", "--output"]).arg(&output);
        command
    };
    let said = interrupted(&mut demo(), "pre-training on");
    assert!(said.iter().any(|line| line.contains("the same command goes on")), "{said:?}");
    assert!(!output.join("report.html").exists());
    let other = demo().args(["--seed", "5"]).output().unwrap();
    assert!(stderr(&other).contains("--seed 42"), "{}", stderr(&other));
    let second = run(&mut demo());
    let said = stderr(&second);
    assert!(said.contains("going on with pre-training"), "{said}");
    // What is proposed can be found, and measures what the report says.
    let (_, next) = said.split_once("\nnext:\n").unwrap();
    let phrase = next.split('"').nth(1).unwrap();
    let list = std::fs::read_to_string(output.join("data/val_scenes.json")).unwrap();
    assert!(!phrase.is_empty() && list.contains(phrase), "{next}");
    let page = std::fs::read_to_string(output.join("report.html")).unwrap();
    assert!(next.contains("--rerank-k 16") && page.contains("best 16 are re-ranked"), "{next}");
    let log = std::fs::read_to_string(output.join("run/log.jsonl")).unwrap();
    let steps: Vec<u64> = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, (1..=steps.len() as u64).collect::<Vec<_>>());
    assert!(steps.len() >= 20 && output.join("report.html").is_file());
    assert!(
        page.contains("To repeat") && said.contains("--concepts 20 --steps 20 --seed 42"),
        "{said}"
    );
    let third = demo().output().unwrap();
    assert_eq!(third.status.code(), Some(2));
}

#[test]
fn equal_steps_and_seeds_give_equal_models() {
    let dir = tempfile::tempdir().unwrap();
    let weights = |name: &str| {
        let output = dir.path().join(name);
        let mut command = albef();
        command.args(["demo", "--steps", "20", "--concepts", "8", "--threads", "1", "--output"]);
        // A model that is not there is no reason to train nothing.
        command.env("ALBEF_MODEL", dir.path().join("none"));
        run(command.arg(&output));
        std::fs::read(output.join("run/model/model.safetensors")).unwrap()
    };
    assert_eq!(weights("a"), weights("b"));
    let wrong = albef().args(["demo", "--steps", "5"]).current_dir(&dir).output().unwrap();
    assert!(stderr(&wrong).contains("--steps must be from 20"), "{}", stderr(&wrong));
}
