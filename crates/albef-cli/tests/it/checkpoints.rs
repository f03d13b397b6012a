//! Checkpoints as people have them, through the commands.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use albef_weights::{HostTensor, KeepAs, StateDict, read, write_safetensors};

use crate::common::{albef, pretrained, run, stderr};

/// Writes a model folder with the weights of `model` after `change`.
fn changed(model: &Path, name: &str, change: impl Fn(&mut StateDict)) -> PathBuf {
    let folder = model.with_file_name(name);
    fs::create_dir_all(&folder).unwrap();
    for file in ["config.json", "vocab.txt"] {
        fs::copy(model.join(file), folder.join(file)).unwrap();
    }
    let mut state = read(&model.join("model.safetensors")).unwrap().tensors;
    change(&mut state);
    let file = folder.join("model.safetensors");
    write_safetensors(&file, &state, &HashMap::new(), KeepAs::Same).unwrap();
    folder
}

fn renamed(state: &mut StateDict, rename: impl Fn(&str) -> String) {
    *state = std::mem::take(state).into_iter().map(|(n, t)| (rename(&n), t)).collect();
}

fn matched(image: &Path, model: &Path) -> Output {
    albef().arg("match").arg(image).args(["red", "--json", "--model"]).arg(model).output().unwrap()
}

#[test]
fn a_model_gives_the_same_numbers_however_it_is_wrapped_and_divided() {
    let dir = tempfile::tempdir().unwrap();
    let model = pretrained(dir.path());
    let image = dir.path().join("0.png");
    let plain = matched(&image, &model);
    let same = |folder: &Path, note: &str| {
        let found = matched(&image, folder);
        assert_eq!(found.stdout, plain.stdout, "{}", stderr(&found));
        assert_eq!(stderr(&found).matches(note).count(), 1, "{}", stderr(&found));
    };
    let folder = changed(&model, "wrapped", |state| {
        renamed(state, |n| format!("_orig_mod.module.{n}"));
    });
    same(&folder, "`_orig_mod.`, `module.`");
    let folder = changed(&model, "prefixed", |state| renamed(state, |n| format!("model.{n}")));
    same(&folder, "all names begin with `model.`");
    let folder = changed(&model, "averaged", |state| {
        renamed(state, |n| format!("module.{n}"));
        state.insert("n_averaged".into(), HostTensor::from_i64(&[], &[3]));
    });
    same(&folder, "of no part of an ALBEF: 1 tensor (`n_averaged`)");

    let word = "text_encoder.bert.embeddings.word_embeddings.weight";
    let head = "text_encoder.cls.predictions.decoder.weight";
    let folder = changed(&model, "tied", |state| {
        renamed(state, |n| if n == word { head.to_owned() } else { n.to_owned() });
    });
    same(&folder, "");

    // In two parts, with a byte order mark before the configuration.
    let state = read(&model.join("model.safetensors")).unwrap().tensors;
    let folder = changed(&model, "parts", |_| {});
    fs::remove_file(folder.join("model.safetensors")).unwrap();
    let mut map = serde_json::Map::new();
    for part in 0..2 {
        let name = format!("model-0000{}-of-00002.safetensors", part + 1);
        let own = state.clone().into_iter().enumerate().filter(|(i, _)| i % 2 == part);
        let own: StateDict = own.map(|(_, entry)| entry).collect();
        map.extend(own.names().map(|n| (n.to_owned(), name.clone().into())));
        write_safetensors(&folder.join(&name), &own, &HashMap::new(), KeepAs::Same).unwrap();
    }
    let index = serde_json::json!({ "weight_map": map }).to_string();
    fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
    let config = fs::read_to_string(folder.join("config.json")).unwrap();
    fs::write(folder.join("config.json"), format!("\u{feff}{config}")).unwrap();
    same(&folder, "");
    same(&folder.join("model.safetensors.index.json"), "");
    let part = folder.join("model-00001-of-00002.safetensors");
    let alone = albef().arg("inspect").arg(&part).output().unwrap();
    assert_eq!(alone.status.code(), Some(2));
    assert!(stderr(&alone).contains("a part of a model, 1 of 2"), "{}", stderr(&alone));
}

#[test]
fn what_is_no_whole_model_is_refused_by_every_command_that_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let model = pretrained(dir.path());
    let image = dir.path().join("0.png");
    let head = "text_encoder.cls.predictions.decoder.weight";
    let one = || HostTensor::from_f32(&[1], &[1.0]);
    let without = |state: &mut StateDict, part: &str| {
        *state = std::mem::take(state).into_iter().filter(|(n, _)| !n.contains(part)).collect();
    };
    let integers = |state: &mut StateDict| {
        state.insert("itm_head.bias".into(), HostTensor::from_i64(&[2], &[1, 2]));
    };
    type Case<'a> = (&'a str, &'a dyn Fn(&mut StateDict), &'a str);
    let cases: [Case<'_>; 5] = [
        ("missing", &|state| without(state, "itm_head."), "missing `itm_head.weight`"),
        ("integers", &integers, "`itm_head.bias` is there, of type int64"),
        (
            "unexpected",
            &|state| state.insert("visual_encoder.extra".into(), one()),
            "unexpected `visual_encoder.extra`",
        ),
        (
            "untied",
            &|state| state.insert(head.into(), one()),
            "`text_encoder.cls.predictions.decoder.weight` is [1]",
        ),
        (
            "momentum",
            &|state| renamed(state, |n| n.replacen('.', "_m.", 1)),
            "momentum copies of a model alone",
        ),
    ];
    for (name, change, why) in cases {
        let folder = changed(&model, name, change);
        let export = dir.path().join("export");
        let mut inspect = albef();
        inspect.arg("inspect").arg(&folder).arg("--export").arg(&export);
        for output in [matched(&image, &folder), inspect.output().unwrap()] {
            assert_eq!(output.status.code(), Some(2), "{name}: {}", stderr(&output));
            assert!(stderr(&output).contains(why), "{name}: {}", stderr(&output));
        }
        assert!(!export.exists(), "{name}");
    }
    let nan = changed(&model, "nan", |state| {
        state.insert("itm_head.bias".into(), HostTensor::from_f32(&[2], &[f32::NAN, 1.0]));
    });
    let mut inspect = albef();
    let export = dir.path().join("export");
    let output = inspect.arg("inspect").arg(&nan).arg("--export").arg(&export).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("not finite") && !export.exists(), "{}", stderr(&output));
    run(albef().arg("inspect").arg(&model).arg("--export").arg(&export));

    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 77\n";
    for (text, why) in [(pointer, "a Git LFS pointer to a file of 77 bytes"), ("", "is empty")] {
        fs::write(export.join("model.safetensors"), text).unwrap();
        let output = matched(&image, &export);
        assert!(stderr(&output).contains(why), "{}", stderr(&output));
    }
}

#[test]
fn an_image_that_is_not_there_is_told_before_the_model_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("no-model");
    for command in [&["match", "none.png", "red"][..], &["entail", "none.png", "red"]] {
        let mut albef = albef();
        let output = albef.args(command).arg("--model").arg(&model).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let said = stderr(&output);
        assert!(said.contains("none.png") && !said.contains("no-model"), "{said}");
    }
}
