//! Broken data with an exact account, packing that is killed, weights of sources, and manifests.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use albef_data::image::RgbImage;
use albef_data::scenes::png;
use serde_json::{Value, json};

use crate::common::{albef, config, data, out, run, settings, stderr};

/// Samples of the broken data set, and how many of each of its ten ways are broken.
const SAMPLES: usize = 400;
const OF_EACH: usize = 2;

fn image(i: usize) -> Vec<u8> {
    let mut image = RgbImage::filled(24, 20, [(i * 37 % 256) as u8, (i * 11 % 256) as u8, 90]);
    image.pixels[..3].fill(i as u8);
    png(&image).unwrap()
}

/// Puts something at `path` that is no image, in one of ten ways.
fn break_image(path: &Path, way: usize) {
    let known = Path::new(env!("CARGO_MANIFEST_DIR")).join("../albef-data/tests/broken");
    let of = |name: &str| fs::read(known.join(name)).unwrap();
    let whole = fs::read(path).unwrap();
    let cmyk = of("cmyk.jpg");
    let bytes = match way {
        0 => Vec::new(),
        1 => whole[..whole.len() / 2].to_vec(),
        2 => b"<!DOCTYPE html><html><body>404</body></html>".to_vec(),
        3 => b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n".to_vec(),
        4 => b"\0\0\0\x0cjP  \r\n\x87\n a format that is not read".to_vec(),
        5 => of("bomb_declared_60000x60000.png"),
        6 => cmyk[..cmyk.len() / 2].to_vec(),
        7 => of("random_bytes.jpg"),
        way => {
            fs::remove_file(path).unwrap();
            match way {
                8 => fs::create_dir(path).unwrap(),
                _ => symlink("nowhere", path).unwrap(),
            }
            return;
        }
    };
    fs::write(path, bytes).unwrap();
}

/// An entry whose caption is broken in one of ten ways.
fn break_caption(image: &str, way: usize) -> Vec<u8> {
    let long = format!("\"{}\"", "very ".repeat(100_000));
    let caption: &[u8] = match way {
        0 => b"null",
        1 => b"NaN",
        2 => b"7",
        3 => b"\"\"",
        4 => b"\" \\t \"",
        5 => b"[1, null]",
        6 => b"\"lone \\ud83d half\"",
        7 => b"\"it\x92s in another encoding\"",
        8 => long.as_bytes(),
        _ => return format!("{{\"image\": \"{image}\", \"title\": \"no caption\"}}").into(),
    };
    [format!("{{\"image\": \"{image}\", \"caption\": ").as_bytes(), caption, b"}"].concat()
}

/// A list with 5 % of its images and 5 % of its captions broken.
fn broken_data(root: &Path) -> String {
    let mut entries: Vec<Vec<u8>> = Vec::new();
    for i in 0..SAMPLES {
        let name = format!("{i}.png");
        fs::write(root.join(&name), image(i)).unwrap();
        entries.push(match i % 20 {
            // One of twenty images and another of twenty captions, each way twice.
            3 => {
                break_image(&root.join(&name), i / 20 % 10);
                json!({"image": name, "caption": format!("number {i}")}).to_string().into()
            }
            11 => break_caption(&name, i / 20 % 10),
            _ => json!({"image": name, "caption": format!("number {i}")}).to_string().into(),
        });
    }
    let path = root.join("list.json");
    fs::write(&path, [b"[", &entries.join(&b",\n"[..])[..], b"]"].concat()).unwrap();
    path.display().to_string()
}

#[test]
fn broken_images_and_captions_are_accounted_for_to_the_end_of_a_run() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let list = broken_data(root);
    // Those that give no text, and those that something is said of.
    let (wordless, faults) = (7 * OF_EACH, 7 * OF_EACH);
    let images = 10 * OF_EACH;

    let mut check = albef();
    check.args(["data", "check", &list, "--json", "--image-root"]).arg(root);
    let checked = check.output().unwrap();
    assert_eq!(checked.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&checked.stdout).unwrap();
    let of = |key: &str| report[key].as_u64().unwrap() as usize;
    assert_eq!((of("samples"), of("left_out")), (SAMPLES, 0), "{report}");
    assert_eq!(of("missing") + of("unusable"), images, "{report}");
    assert_eq!((of("truncated"), of("oversized")), (2 * OF_EACH, OF_EACH), "{report}");
    assert_eq!((of("without_captions"), of("caption_faults")), (wordless, faults), "{report}");
    assert_eq!(of("captions_not_utf8"), OF_EACH, "{report}");
    assert_eq!(report["longest_caption"], 5 * 100_000, "{report}");

    let stats = out(albef()
        .args(["data", "stats", &list, "--batch-size", "8", "--json", "--image-root"])
        .arg(root));
    assert_eq!(stats["samples"], SAMPLES - wordless);
    assert_eq!(stats["steps_per_epoch"], (SAMPLES - wordless) / 8);
    assert_eq!(stats["sources"][0]["without_captions"], wordless);
    assert_eq!(stats["sources"][0]["caption_faults"], faults);
    let unusable = stats["unusable"].as_object().unwrap().values().map(|n| n.as_u64().unwrap());
    // The header of a PNG does not show that it is cut.
    assert_eq!(unusable.sum::<u64>() as usize, images - OF_EACH);

    let mut train = albef();
    train.args(["pretrain", &config(), "--output"]).arg(root.join("run"));
    train.args(settings(&list, root)).args(["--set", "schedular.epochs=3", "--set"]);
    train.args(["max_skipped=25", "--set", "batch_size=8"]);
    let said = stderr(&run(&mut train));
    let steps = 3 * ((SAMPLES - wordless) / 8);
    let log = fs::read_to_string(root.join("run/log.jsonl")).unwrap();
    assert_eq!(log.lines().count(), steps);
    assert!(said.contains(&format!("{images} images could not be used")), "{said}");
    assert_eq!(said.matches("warning: skipped ").count(), images, "{said}");
    assert!(said.contains(&format!("{wordless} images without a caption are left out")), "{said}");
    let faulty = format!("{faults} captions cannot be used, or not as they are written");
    assert!(said.contains(&faulty), "{said}");

    let packed = out(albef()
        .args(["data", "pack", &list, "--json", "--pairs-per-shard", "100", "--image-root"])
        .arg(root)
        .arg("--output")
        .arg(root.join("packed")));
    assert_eq!(packed["pairs"], SAMPLES - wordless - images);
    assert_eq!(
        (&packed["unusable"], &packed["without_captions"]),
        (&json!(images), &json!(wordless))
    );
    assert_eq!(packed["left_out"], images + faults);
}

/// The files of a folder, the time of change in indexes apart.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let kept = entries.filter(|path| path.extension().is_none_or(|e| e != "index"));
    let mut all: Vec<_> =
        kept.map(|path| (path.file_name().unwrap().into(), fs::read(path).unwrap())).collect();
    all.sort();
    all
}

#[test]
fn a_packing_that_is_killed_ends_as_one_that_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let list = data(dir.path(), 600);
    let pack = |output: &Path| {
        let mut command = albef();
        command.args(["data", "pack", &list, "--pairs-per-shard", "9", "--output"]).arg(output);
        command.arg("--image-root").arg(dir.path());
        command
    };
    let (whole, killed) = (dir.path().join("whole"), dir.path().join("killed"));
    run(&mut pack(&whole));
    let expected = files(&whole);
    assert_eq!(expected.iter().filter(|(name, _)| name.extension().unwrap() == "tar").count(), 67);
    let mut kills = 0;
    for round in 0_u64.. {
        let mut child = pack(&killed).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(5 + round * 17 % 120));
        child.kill().unwrap();
        if child.wait().unwrap().success() || round > 200 {
            break;
        }
        kills += 1;
        let found = if killed.is_dir() { files(&killed) } else { Vec::new() };
        // What has its final name is whole.
        for (name, bytes) in
            found.iter().filter(|(name, _)| !name.to_str().unwrap().contains(".tmp"))
        {
            let whole = expected.iter().find(|(n, _)| n == name);
            assert!(whole.is_some_and(|(_, whole)| whole == bytes), "{}", name.display());
        }
    }
    assert!(kills > 0);
    run(&mut pack(&killed));
    assert_eq!(files(&killed), expected);
}

fn pretrain(root: &Path, output: &Path, set: &[&str]) -> Command {
    let mut command = albef();
    command.args(["pretrain", &config(), "--output"]).arg(output);
    command.args(settings("unused", root));
    command.args(set.iter().flat_map(|setting| ["--set", setting]));
    command
}

#[test]
fn sources_have_weights_by_which_a_resumed_run_draws_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let list = data(root, 24);
    let mixed = format!("train_file=[{{path: {list}, weight: 3}}, {list}]");
    let stats = out(albef()
        .args(["data", "stats", "--json", "--config", &config(), "--set"])
        .args([mixed.as_str(), "--set", &format!("image_root={}", root.display())]));
    assert_eq!(stats["sources"][0]["weight"], 3.0);
    assert_eq!(stats["sources"][0]["together"], 1);
    assert_eq!(stats["sources"][0]["share"], 0.75);
    assert_eq!(stats["sources"][1]["samples"], 24);

    let (whole, stopped) = (root.join("whole"), root.join("stopped"));
    let set = [&*mixed, "max_steps=40", "checkpoint_every=3"];
    run(&mut pretrain(root, &whole, &set));
    let mut quiet = pretrain(root, &stopped, &set);
    let mut child = quiet.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while !stopped.join("checkpoints").is_dir() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    run(pretrain(root, &stopped, &set).arg("--resume"));
    let model = |output: &Path| fs::read(output.join("model/model.safetensors")).unwrap();
    assert!(model(&whole) == model(&stopped), "the resumed run is another one");
    let other = mixed.replace("weight: 3", "weight: 2");
    let grouped = mixed.replace("weight: 3", "weight: 3, together: 2");
    for other in [&other, &grouped] {
        let refused = pretrain(root, &stopped, &[other, set[1]]).arg("--resume").output();
        let refused = refused.unwrap();
        assert_eq!(refused.status.code(), Some(2), "{}", stderr(&refused));
    }
    run(&mut pretrain(root, &root.join("grouped"), &[&grouped, "max_steps=2"]));

    for (setting, part) in [
        (mixed.replace("weight: 3", "weight: 0"), "weights must be above 0"),
        (mixed.replace("weight: 3", "wieght: 3"), "{path: PATH, weight: NUMBER, together: NUMBER}"),
        (mixed.replace("weight: 3", "together: 0"), "expected a path or a list of paths"),
        (mixed.replace("weight: 3", "together: 5"), "24 samples are no multiple of that"),
        (mixed.replace("train_file", "val_file"), "only `train_file` can have"),
    ] {
        let refused = pretrain(root, &root.join("no"), &[&setting]).output().unwrap();
        assert_eq!(refused.status.code(), Some(2));
        assert!(stderr(&refused).contains(part), "{}", stderr(&refused));
    }
}

#[test]
fn a_run_begins_only_on_the_files_of_its_manifest() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let list = data(root, 12);
    let manifest = root.join("manifest.jsonl");
    let mut check = albef();
    check.args(["data", "check", &list, "--image-root"]).arg(root);
    run(check.arg("--manifest").arg(&manifest));
    let set = [
        format!("train_file=[{list}]"),
        format!("data_manifest={}", manifest.display()),
        "max_steps=1".into(),
    ];
    let set = [&*set[0], &*set[1], &*set[2]];
    let said = stderr(&run(&mut pretrain(root, &root.join("run"), &set)));
    assert!(said.contains("13 files are as"), "{said}");
    let mut bytes = fs::read(root.join("5.png")).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(root.join("5.png"), bytes).unwrap();
    let other = fs::read(root.join("7.png")).unwrap();
    fs::remove_file(root.join("7.png")).unwrap();
    let refused = pretrain(root, &root.join("other"), &set).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    let said = stderr(&refused);
    assert!(said.contains("data_manifest") && said.contains("7.png"), "{said}");
    fs::write(root.join("7.png"), other).unwrap();
    let refused = pretrain(root, &root.join("other"), &set).output().unwrap();
    let said = stderr(&refused);
    assert!(said.contains("5.png") && said.contains("SHA-256"), "{said}");
}

#[test]
fn leaks_between_splits_are_a_negative_answer() {
    let dir = tempfile::tempdir().unwrap();
    let list = data(dir.path(), 12);
    let mut check = albef();
    check
        .args(["data", "check", &list, "--against", &list, "--json", "--image-root"])
        .arg(dir.path());
    let checked = check.output().unwrap();
    assert_eq!(checked.status.code(), Some(1), "{}", stderr(&checked));
    let report: Value = serde_json::from_slice(&checked.stdout).unwrap();
    assert_eq!((&report["leaks"], &report["clean"]), (&json!(12), &json!(false)));
}

#[test]
fn images_of_labels_need_no_text() {
    let dir = tempfile::tempdir().unwrap();
    for (i, label) in ["cup", "hat"].iter().enumerate() {
        let folder = dir.path().join("products").join(label);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("a.png"), image(7 * i + 1)).unwrap();
    }
    let check = |task: &str| {
        let mut check = albef();
        check.args(["data", "check", "--json", "--task", task]).arg(dir.path().join("products"));
        check.output().unwrap()
    };
    let output = check("classification");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(check("captions").status.code(), Some(1));
}

#[test]
fn what_would_be_empty_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.png"), image(0)).unwrap();
    fs::write(dir.path().join("list.json"), r#"[{"image": "b.png", "caption": "none"}]"#).unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    for (command, part) in [
        (vec!["data", "pack", &at("list.json"), "--output", &at("packed")], "nothing was packed"),
        (vec!["embed", &at(""), "--pairs", "--output", &at("x.npy")], "images with captions"),
    ] {
        let output = albef().args(&command).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{command:?}");
        assert!(stderr(&output).contains(part), "{}", stderr(&output));
    }
    assert!(!dir.path().join("x.npy").exists());
}
