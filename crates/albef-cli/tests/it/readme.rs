//! The commands of the README's beginning, and of the tutorial that trains a model from scratch, run as
//! they are written.

#![cfg(unix)]

use std::path::Path;

use crate::common::{albef, run};
use serde_json::Value;

/// The words of a line; quotes hold words together.
fn words(line: &str) -> Vec<String> {
    let quoted = line.split('"').enumerate();
    let words = quoted.flat_map(|(i, part)| match i % 2 {
        1 => vec![part.to_owned()],
        _ => part.split_whitespace().map(str::to_owned).collect(),
    });
    words.collect()
}

/// The same on less data and for two steps.
fn shortened(mut words: Vec<String>) -> Vec<String> {
    for (option, value) in [("--scenes", "4"), ("--concepts", "12")] {
        if let Some(at) = words.iter().position(|word| word == option) {
            words[at + 1] = value.into();
        }
    }
    let batch = match words[0].as_str() {
        "pretrain" => "batch_size=4",
        "finetune" => "batch_size_train=4",
        _ => return words,
    };
    words.extend(["--set", "max_steps=2", "--set", batch].map(str::to_owned));
    words
}

#[test]
fn the_walk_from_images_to_answers_runs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page =
        std::fs::read_to_string(root.join("docs/src/tutorial/train-from-scratch.md")).unwrap();
    let (_, walk) = page.split_once("## Train one of your own").unwrap();
    let block = walk.split("```").nth(1).unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(root.join("configs"), folder.path().join("configs")).unwrap();
    let mut ran = 0;
    for line in block.lines().filter_map(|line| line.strip_prefix("albef ")) {
        let mut command = albef();
        command.args(shortened(words(line))).current_dir(folder.path());
        let output = command.output().unwrap();
        // What two steps have learnt may answer no.
        assert!(output.status.code().is_some_and(|code| code < 2), "{line}: {output:?}");
        if line.contains("test_file") {
            let report: Value = serde_json::from_slice(&output.stdout).unwrap();
            let texts = &report["text_baseline"]["same_text"]["accuracy"];
            assert!(texts.as_f64().is_some_and(|a| (0.0..=100.0).contains(&a)), "{report}");
        }
        ran += 1;
    }
    assert_eq!(ran, 11);
    assert!(folder.path().join("map.png").is_file());
    let mut command = albef();
    run(command.args(["inspect", "runs/ve/model"]).current_dir(folder.path()));
}

#[test]
fn the_first_commands_of_the_readme_run() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = std::fs::read_to_string(root.join("README.md")).unwrap();
    let (_, install) = page.split_once("## Install").unwrap();
    let folder = tempfile::tempdir().unwrap();
    for name in ["data", "models"] {
        std::os::unix::fs::symlink(root.join(name), folder.path().join(name)).unwrap();
    }
    let block = install.split("```").nth(1).unwrap();
    let lines: Vec<&str> = block.lines().filter_map(|line| line.strip_prefix("albef ")).collect();
    let mut said = String::new();
    for line in &lines {
        let mut command = albef();
        command.args(words(line)).env_remove("ALBEF_MODEL").current_dir(folder.path());
        said = String::from_utf8(run(&mut command).stdout).unwrap();
    }
    assert_eq!(lines.len(), 4);
    assert!(said.contains("frog") && page.contains(said.trim()), "{said}");
    assert!(folder.path().join("map.png").is_file());
}
