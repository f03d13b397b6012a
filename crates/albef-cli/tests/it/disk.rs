//! A disk that is full while a run saves.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::path::Path;
use std::process::{Command, Output};

use crate::common::{albef, config, data, settings, stderr};
use serde_json::Value;

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
fn figures_are_printed_although_they_cannot_be_saved() {
    let dir = tempfile::tempdir().unwrap();
    let list = data(dir.path(), 4);
    let saved = dir.path().join("outcomes.json");
    let root = dir.path().display().to_string();
    let evaluate =
        ["evaluate", "retrieval", "--json", "--annotations", &list, "--image-root", &root];
    let mut arguments = evaluate.map(String::from).to_vec();
    arguments.extend(["--save".into(), saved.display().to_string()]);
    let output = limited(0, &arguments);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("cannot write the outcomes"), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["r_mean"].is_f64(), "{report}");
    assert!(!saved.exists());
}

#[test]
fn a_folder_that_finds_no_room_is_not_begun() {
    let dir = tempfile::tempdir().unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/mini");
    let model = model.display().to_string();
    let target = dir.path().join("target");
    let place = target.display().to_string();
    let export = ["inspect", &model, "--export", &place].map(String::from);
    let scenes = ["data", "scenes", "--scenes", "5", "--size", "32", "--output", &place];
    let scenes = scenes.map(String::from);
    let names = |folder: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    };
    for there in [false, true] {
        if there {
            std::fs::create_dir(&target).unwrap();
            std::fs::write(target.join("note"), "kept").unwrap();
        }
        for (arguments, blocks) in [(&export[..], 200), (&scenes[..], 4)] {
            let output = limited(blocks, arguments);
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(2), "{said}");
            assert!(said.contains(&place) && said.contains("File too large"), "{said}");
            assert_eq!(names(dir.path()), if there { vec!["target"] } else { vec![] });
        }
    }
    assert_eq!(names(&target), ["note"]);
    for arguments in [&export[..], &scenes[..]] {
        let output = albef().args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
    }
    for name in ["note", "model.safetensors", "config.json", "answers.json", "train"] {
        assert!(target.join(name).exists(), "{name}");
    }
    assert!(names(&target).iter().all(|name| !name.starts_with('.')));
}

#[test]
fn a_converted_file_that_finds_no_room_leaves_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/mini");
    let (model, file) = (model.display().to_string(), dir.path().join("x.pth"));
    let place = file.display().to_string();
    let convert = ["convert", &model, "--to", "official", "--output", &place].map(String::from);
    std::fs::write(&file, "old").unwrap();
    let output = limited(200, &convert);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains(&place) && said.contains("File too large"), "{said}");
    assert_eq!(std::fs::read(&file).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
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
