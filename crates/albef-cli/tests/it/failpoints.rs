//! The program is ended, or its disk fails, at every place of everything that writes, one at a time: what
//! was there stays, or what was written is there whole, and a second try succeeds.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::common::{albef, config, data, run, settings, stderr};

const KILL: i32 = 9;
/// Passages beyond which a command is not believed to come to an end.
const MOST: usize = 400;

fn at(passage: usize, action: &str, mut command: Command) -> Output {
    command.env("ALBEF_FAILPOINT", format!("*@{passage}{action}"));
    command.output().unwrap()
}

/// Runs `command` with an end at each place, one after another, until it passes fewer places than that;
/// `check` is told after each. Gives the number of places.
fn ended_everywhere(command: impl Fn() -> Command, mut check: impl FnMut(usize)) -> usize {
    for passage in 1..MOST {
        let output = at(passage, "", command());
        if output.status.success() {
            return passage - 1;
        }
        assert_eq!(output.status.signal(), Some(KILL), "{passage}: {}", stderr(&output));
        check(passage);
    }
    panic!("no end after {MOST} places");
}

/// The same with errors of the disk: an error is told, and never a panic.
fn failed_everywhere(command: impl Fn() -> Command, mut check: impl FnMut(usize)) -> usize {
    for passage in 1..MOST {
        let action = if passage % 2 == 0 { "=eio" } else { "=enospc" };
        let output = at(passage, action, command());
        if output.status.success() {
            return passage - 1;
        }
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{passage}: {said}");
        assert!(said.contains("os error 5") || said.contains("os error 28"), "{passage}: {said}");
        check(passage);
    }
    panic!("no end after {MOST} places");
}

/// The files below a folder by name, temporary ones and notes of kills aside.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(folder).unwrap().display().to_string();
            let temporary = name.split('/').any(|part| {
                part.starts_with(".albef-writing-")
                    || part.starts_with(".removing-")
                    || part.contains(".tmp")
            });
            if temporary {
                continue;
            } else if path.is_dir() {
                open.push(path);
            } else {
                found.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn mini() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/mini").display().to_string()
}

#[test]
fn one_file_is_the_old_or_the_new_one_wherever_its_writing_ends() {
    let dir = tempfile::tempdir().unwrap();
    let list = data(dir.path(), 4);
    let saved = dir.path().join("outcomes.json");
    let evaluate = || {
        let mut command = albef();
        command.args(["evaluate", "retrieval", "--annotations", &list, "--image-root"]);
        command.arg(dir.path()).arg("--save-outcomes").arg(&saved);
        command
    };
    run(&mut evaluate());
    let new = std::fs::read(&saved).unwrap();
    for failing in [false, true] {
        let reset = || std::fs::write(&saved, "old").unwrap();
        let check = |_| {
            let found = std::fs::read(&saved).unwrap();
            assert!(found == b"old" || found == new);
        };
        reset();
        let places = match failing {
            false => ended_everywhere(evaluate, check),
            true => failed_everywhere(evaluate, check),
        };
        assert!(places >= 4, "{places}");
        assert_eq!(std::fs::read(&saved).unwrap(), new);
        let left = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name());
        let left = left.filter(|n| n.to_string_lossy().contains(".tmp")).count();
        assert_eq!(left, 0, "leftovers go with the next try");
    }
}

#[test]
fn features_and_their_names_in_one_file_are_of_one_time() {
    let dir = tempfile::tempdir().unwrap();
    let saved = dir.path().join("x.safetensors");
    let embed = |text: &str| {
        let mut command = albef();
        command.args(["embed", "--text", text, "--output"]).arg(&saved);
        command
    };
    run(&mut embed("a dog"));
    let old = std::fs::read(&saved).unwrap();
    run(&mut embed("a red square"));
    let new = std::fs::read(&saved).unwrap();
    let check = |_| {
        let found = std::fs::read(&saved).unwrap();
        assert!(found == old || found == new);
        std::fs::write(&saved, &old).unwrap();
    };
    assert!(ended_everywhere(|| embed("a red square"), check) >= 4);
    assert!(failed_everywhere(|| embed("a red square"), check) >= 4);
}

#[test]
fn an_exported_model_is_whole_or_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let export = |to: &Path| {
        let mut command = albef();
        command.args(["inspect", &mini(), "--export"]).arg(to);
        command
    };
    run(&mut export(&whole));
    let new = files(&whole);
    let target = dir.path().join("target");
    for failing in [false, true] {
        let check = |passage: usize| {
            if target.exists() {
                assert!(files(&target) == new, "{passage}");
                std::fs::remove_dir_all(&target).unwrap();
            }
        };
        let places = match failing {
            false => ended_everywhere(|| export(&target), check),
            true => failed_everywhere(|| export(&target), check),
        };
        assert!(places >= 16, "{places}");
        assert!(files(&target) == new);
        std::fs::remove_dir_all(&target).unwrap();
    }
}

/// A conversion to a folder, in parts, and to one file.
#[test]
fn a_converted_model_is_whole_or_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let convert = |to: &Path, of: &str, more: &[&str]| {
        let mut command = albef();
        command.args(["convert", &mini(), "--to", of, "--dtype", "bf16", "--output"]).arg(to);
        command.args(more);
        command
    };
    let whole = dir.path().join("whole");
    let parts = |to: &Path| convert(to, "safetensors", &["--shard-size", "15MB"]);
    run(&mut parts(&whole));
    let new = files(&whole);
    assert!(new.contains_key("model.safetensors.index.json"), "{:?}", new.keys());
    let target = dir.path().join("target");
    let file = dir.path().join("model.pth");
    run(&mut convert(&file, "official", &[]));
    let new_file = std::fs::read(&file).unwrap();
    for failing in [false, true] {
        let everywhere = |command: &dyn Fn() -> Command, check: &mut dyn FnMut(usize)| match failing
        {
            false => ended_everywhere(command, check),
            true => failed_everywhere(command, check),
        };
        let mut check = |passage: usize| {
            if target.exists() {
                assert!(files(&target) == new, "{passage}");
                std::fs::remove_dir_all(&target).unwrap();
            }
        };
        let places = everywhere(&|| parts(&target), &mut check);
        assert!(places >= 16, "{places}");
        assert!(files(&target) == new);
        std::fs::remove_dir_all(&target).unwrap();

        std::fs::write(&file, "old").unwrap();
        let mut check = |passage: usize| {
            let found = std::fs::read(&file).unwrap();
            assert!(found == b"old" || found == new_file, "{passage}");
            std::fs::write(&file, "old").unwrap();
        };
        let places = everywhere(&|| convert(&file, "official", &[]), &mut check);
        assert!(places >= 4, "{places}");
        assert!(std::fs::read(&file).unwrap() == new_file);
    }
}

#[test]
fn a_packing_that_ends_at_any_place_continues_to_the_same_shards() {
    let dir = tempfile::tempdir().unwrap();
    let list = data(dir.path(), 6);
    let pack = |output: &Path| {
        let mut command = albef();
        command.args(["data", "pack", &list, "--pairs-per-shard", "3", "--output"]).arg(output);
        command.arg("--image-root").arg(dir.path());
        command
    };
    // The index of a shard has its time of change, and is made anew where it is absent.
    let packed = |folder: &Path| {
        let mut found = files(folder);
        found.retain(|name, _| !name.ends_with(".index"));
        found
    };
    let whole = dir.path().join("whole");
    run(&mut pack(&whole));
    let new = packed(&whole);
    assert_eq!(new.keys().filter(|name| name.ends_with(".tar")).count(), 2);
    let output = dir.path().join("packed");
    // Begun anew each time, so that each place of a whole packing is met.
    let check = |passage: usize| {
        if output.is_dir() {
            for (name, bytes) in packed(&output) {
                assert!(new.get(&name) == Some(&bytes), "{name} after place {passage}");
            }
        }
        run(&mut pack(&output));
        assert!(packed(&output) == new, "another result after place {passage}");
        std::fs::remove_dir_all(&output).unwrap();
    };
    let places = ended_everywhere(|| pack(&output), check);
    // Two shards, each with an account, the list of all and of what was left out.
    assert!(places >= 24, "{places}");
    std::fs::remove_dir_all(&output).unwrap();
    for passage in 1..=places {
        let action = if passage % 2 == 0 { "=eio" } else { "=enospc" };
        let failed = at(passage, action, pack(&output));
        let said = stderr(&failed);
        // A shard without an index is whole.
        if !failed.status.success() {
            assert_eq!(failed.status.code(), Some(2), "{passage}: {said}");
            assert!(said.contains("os error 5") || said.contains("os error 28"), "{said}");
        }
        check(passage);
    }
}

#[test]
fn a_manifest_is_the_old_or_the_new_one_wherever_its_writing_ends() {
    let dir = tempfile::tempdir().unwrap();
    let list = data(dir.path(), 4);
    let manifest = dir.path().join("manifest.jsonl");
    let checked = || {
        let mut command = albef();
        command.args(["data", "check", &list, "--image-root"]).arg(dir.path());
        command.arg("--manifest").arg(&manifest);
        command
    };
    run(&mut checked());
    let new = std::fs::read(&manifest).unwrap();
    for failing in [false, true] {
        let check = |passage: usize| {
            let found = std::fs::read(&manifest).unwrap();
            assert!(found == b"old" || found == new, "{passage}");
            std::fs::write(&manifest, "old").unwrap();
        };
        std::fs::write(&manifest, "old").unwrap();
        let places = match failing {
            false => ended_everywhere(checked, check),
            true => failed_everywhere(checked, check),
        };
        assert!(places >= 4, "{places}");
        assert_eq!(std::fs::read(&manifest).unwrap(), new);
    }
}

#[test]
fn a_run_that_is_ended_at_every_place_of_its_saving_ends_as_one_that_never_was() {
    let dir = tempfile::tempdir().unwrap();
    let list = data(dir.path(), 8);
    let pretrain = |output: &Path| {
        let mut command = albef();
        command.args(["pretrain", &config(), "--resume", "--output"]).arg(output);
        command.args(settings(&list, dir.path()));
        let validation = format!("val_file=[{list}]");
        for setting in
            ["max_steps=2", "checkpoint_every=1", "keep_last_n=1", "alpha=0.4", &validation]
        {
            command.args(["--set", setting]);
        }
        command
    };
    let whole = dir.path().join("whole");
    run(&mut pretrain(&whole));
    let expected = |folder: &Path| {
        let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
        ["model/model.safetensors", "best/model.safetensors", "log.jsonl", "log.txt"].map(read)
    };
    let new = expected(&whole);
    for failing in [false, true] {
        let run_folder = dir.path().join(format!("run-{failing}"));
        let mut passage = 1;
        loop {
            // Begun anew each time, so that each place of a whole run is met.
            let _ = std::fs::remove_dir_all(&run_folder);
            let action = if failing { "=enospc" } else { "" };
            let output = at(passage, action, pretrain(&run_folder));
            if output.status.success() {
                break;
            }
            match failing {
                false => assert_eq!(output.status.signal(), Some(KILL), "{}", stderr(&output)),
                true => assert_eq!(output.status.code(), Some(2), "{}", stderr(&output)),
            }
            // A model or best weights that are there are whole, before anything mends the folder.
            for folder in ["model", "best"].map(|name| run_folder.join(name)) {
                if folder.join("model.safetensors").exists() {
                    run(albef().arg("inspect").arg(&folder));
                }
            }
            run(&mut pretrain(&run_folder));
            assert!(expected(&run_folder) == new, "another result after place {passage}");
            let names = std::fs::read_dir(run_folder.join("checkpoints")).unwrap();
            let names: Vec<_> = names.map(|e| e.unwrap().file_name()).collect();
            // The one before the last may stay, as what to go back to, where there was no step left to make.
            let whole = |name: &std::ffi::OsString| name.to_string_lossy().starts_with("step-");
            assert!(names.len() <= 2 && names.iter().all(whole), "{names:?} after place {passage}");
            // Errors take the same ways as ends; every third place shows it.
            passage += if failing { 3 } else { 1 };
            assert!(passage < MOST);
        }
        assert!(passage > 40, "{passage}");
    }
}
