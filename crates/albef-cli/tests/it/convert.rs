//! Converting as people do it, and what is left after a kill.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use albef_weights::read;

use crate::common::{albef, out, pretrained, run, stderr};

fn mini() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/mini")
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_run_is_converted_and_gives_the_same_answers_in_each_format() {
    let dir = tempfile::tempdir().unwrap();
    let model = pretrained(dir.path());
    let run_folder = model.parent().unwrap();
    let image = dir.path().join("0.png");
    let matched = |model: &Path| {
        out(albef().arg("match").arg(&image).args(["red", "--json", "--model"]).arg(model))
    };
    let plain = matched(&model);
    for (to, more) in [
        ("safetensors", &["--shard-size", "1MB"][..]),
        ("official", &[]),
        ("lavis", &[]),
        ("official", &["--no-momentum", "--dtype", "f32"]),
    ] {
        let folder = dir.path().join(format!("{to}{}", more.len()));
        let mut convert = albef();
        convert.arg("convert").arg(run_folder).args(["--to", to]).args(more);
        let output = run(convert.arg("--output").arg(&folder));
        assert!(stderr(&output).contains("wrote"), "{}", stderr(&output));
        let found = matched(&folder);
        for (key, value) in plain.as_object().unwrap() {
            let (a, b) = (value.as_f64(), found[key].as_f64());
            match (a, b) {
                (Some(a), Some(b)) => assert!((a - b).abs() < 1e-4, "{to} {key}: {a} {b}"),
                _ => assert_eq!(*value, found[key], "{to} {key}"),
            }
        }
        let again = convert.output().unwrap();
        assert_eq!(again.status.code(), Some(2));
        assert!(stderr(&again).contains("already holds a model"), "{}", stderr(&again));
    }
    let parts = names(&dir.path().join("safetensors2"));
    assert!(parts.contains(&"model.safetensors.index.json".to_owned()), "{parts:?}");
    assert!(parts.iter().filter(|n| n.starts_with("model-")).count() > 1, "{parts:?}");
    // A run has momentum copies and queues of its own.
    let official = read(&dir.path().join("official0/model.pth")).unwrap().tensors;
    assert!(official.get("image_queue").is_some());
    let (online, copy) = (official.get("text_proj.weight"), official.get("text_proj_m.weight"));
    assert!(copy.is_some() && online != copy);
    let without = read(&dir.path().join("official3/model.pth")).unwrap().tensors;
    assert!(without.get("image_queue").is_none() && without.get("text_proj_m.weight").is_none());

    // One file, beside the configuration that it does not hold.
    for name in ["config.json", "vocab.txt"] {
        fs::copy(model.join(name), dir.path().join(name)).unwrap();
    }
    let file = dir.path().join("albef.pth");
    run(albef().arg("convert").arg(&model).args(["--to", "official", "--output"]).arg(&file));
    assert_eq!(matched(&file), plain);
    let own =
        albef().arg("convert").arg(&file).args(["--to", "lavis", "--output"]).arg(&file).output();
    assert!(stderr(&own.unwrap()).contains("is also read by this command"));
}

/// After kills at all times there is the old file or the new one, and a folder that is whole or absent.
#[test]
fn a_kill_leaves_the_old_or_the_new_and_no_leftover_after_the_next_run() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.pth");
    let convert = |to: &str, more: &[&str], output: &Path| {
        let mut command = albef();
        command.arg("convert").arg(mini()).args(["--to", to, "--output"]).arg(output).args(more);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let begun = Instant::now();
    assert!(convert("official", &["--dtype", "f32"], &file).status().unwrap().success());
    let whole = begun.elapsed();
    let new = fs::read(&file).unwrap();
    let folder = dir.path().join("folder");
    let parts = ["--shard-size", "5MB"];
    let mut left = [0, 0];
    for i in 0..20_u32 {
        let old: &[u8] = b"old";
        fs::write(&file, old).unwrap();
        let life = whole * i / 16;
        let mut children = [
            convert("official", &["--dtype", "f32"], &file).spawn().unwrap(),
            convert("safetensors", &parts, &folder).spawn().unwrap(),
        ];
        std::thread::sleep(life.min(Duration::from_secs(20)));
        for child in &mut children {
            // It may be done.
            let _ = child.kill();
            child.wait().unwrap();
        }
        let found = fs::read(&file).unwrap();
        assert!(found == old || found == new, "{} bytes after {life:?}", found.len());
        left[0] += u32::from(found == old);
        if folder.exists() {
            run(albef().arg("inspect").arg(&folder));
            assert!(names(&folder).len() > 8, "{:?}", names(&folder));
            fs::remove_dir_all(&folder).unwrap();
        } else {
            left[1] += 1;
        }
    }
    assert!(left.iter().all(|n| *n > 0), "none was killed early: {left:?}");
    run(&mut convert("official", &[], &file));
    run(&mut convert("safetensors", &parts, &folder));
    assert_eq!(names(dir.path()), ["folder", "x.pth"]);
}
