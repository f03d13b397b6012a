//! Damaged golden sets: what is wrong is said, fixture by fixture, and nothing passes for want of
//! something to compare.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use crate::common::{albef, stderr};
use albef_weights::{HostTensor, KeepAs, read, write_safetensors};
use serde_json::{Value, json};
use tempfile::TempDir;

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy(&path, &target),
            false => drop(fs::copy(&path, &target).unwrap()),
        }
    }
}

/// A copy of the golden set, to be damaged.
fn set() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden"), dir.path());
    dir
}

fn tensor(set: &Path, file: &str, name: &str, change: impl Fn(&HostTensor) -> HostTensor) {
    let path = set.join(file);
    let mut tensors = read(&path).unwrap().tensors;
    let changed = change(tensors.get(name).unwrap());
    tensors.insert(name.to_owned(), changed);
    write_safetensors(&path, &tensors, &HashMap::new(), KeepAs::Same).unwrap();
}

/// The same without the last entry of the first axis.
fn cut(t: &HostTensor) -> HostTensor {
    let mut shape = t.shape.clone();
    shape[0] -= 1;
    let n: usize = shape.iter().product();
    match t.to_f32() {
        Ok(values) => HostTensor::from_f32(&shape, &values[..n]),
        Err(_) => HostTensor::from_i64(&shape, &t.to_i64().unwrap()[..n]),
    }
}

fn first(value: i64) -> impl Fn(&HostTensor) -> HostTensor {
    move |t| {
        let mut values = t.to_i64().unwrap();
        values[0] = value;
        HostTensor::from_i64(&t.shape, &values)
    }
}

fn change(set: &Path, file: &str, change: impl Fn(&mut Value)) {
    let path = set.join(file);
    let mut json = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut json);
    fs::write(&path, json.to_string()).unwrap();
}

/// Each of the named fixtures has failed, and says why.
fn each_says(failed: &HashMap<String, String>, wanted: &[(&str, &str)]) {
    for (name, part) in wanted {
        let said = failed.get(*name).unwrap_or_else(|| panic!("{name} has passed: {failed:#?}"));
        assert!(said.contains(part), "{part}: {said}");
    }
}

/// What the program says of each fixture of these kinds, of which some must fail.
fn failures(set: &Path, only: &str) -> HashMap<String, String> {
    let output = albef().args(["doctor", "--only", only, "--golden"]).arg(set).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}{}", stderr(&output));
    assert!(!stderr(&output).contains("panicked"), "{}", stderr(&output));
    let failed = said.lines().filter(|l| l.starts_with("FAILED") || l.starts_with("ERROR"));
    failed.map(|l| (l.split_whitespace().nth(1).unwrap().to_owned(), l.to_owned())).collect()
}

#[test]
fn damaged_inputs_are_errors_of_their_fixtures_and_the_others_go_on() {
    let dir = set();
    let set = dir.path();
    tensor(set, "projections/inputs.safetensors", "mlm_row", first(1_000_000_000));
    tensor(set, "pretrain_step_alpha0/inputs.safetensors", "negative_text", first(-1));
    tensor(set, "mlm_mask/inputs.safetensors", "case1.u_mask", cut);
    tensor(set, "ema/inputs.safetensors", "case0.value2", cut);
    tensor(set, "bert_fusion/inputs.safetensors", "image_embeds", cut);
    tensor(set, "vqa_train_distill_alpha04/inputs.safetensors", "weights", cut);
    tensor(set, "ta_step/inputs.safetensors", "index", first(99));
    tensor(set, "ve_train_distill/inputs.safetensors", "targets", first(7));
    // Shapes that only the model itself refuses.
    tensor(set, "vit_base/inputs.safetensors", "image", |t| {
        HostTensor::from_f32(&[1, 1, 1, 1], &t.to_f32().unwrap()[..1])
    });
    tensor(set, "pretrain_step_alpha04/inputs.safetensors", "image", cut);
    change(set, "itm_eval/cases.json", |cases| {
        let n = cases[0]["n_image"].as_u64().unwrap();
        cases[0]["n_image"] = json!(n + 1);
    });
    change(set, "crop/cases.json", |cases| cases["crops"][0]["size"] = json!(1_000_000_000));
    let failed = failures(
        set,
        "projections,pretrain_step,mlm_mask,ema,bert,vqa_train,ta_step,ve_train,vit,itm_eval,crop,adamw",
    );
    let wanted = [
        ("projections", "`mlm_row`[0] is 1000000000"),
        ("pretrain_step_alpha0", "`negative_text`[0] is -1"),
        ("mlm_mask", "`case1.u_mask` has"),
        ("ema", "`case0.value2` has"),
        ("bert_fusion", "`image_embeds` has"),
        ("vqa_train_distill_alpha04", "`weights` has"),
        ("ta_step", "`index` must hold"),
        ("ve_train_distill", "`targets`[0] is 7"),
        ("vit_base", "images are [1, 1, 1]"),
        ("pretrain_step_alpha04", "pretrain_step_alpha04"),
        ("itm_eval", "case 0"),
        ("crop", "1000000000 pixels"),
    ];
    each_says(&failed, &wanted);
    for name in ["adamw", "vit_up", "bert_text"] {
        assert!(!failed.contains_key(name), "{failed:#?}");
    }
}

#[test]
fn nothing_passes_for_want_of_expected_values() {
    let dir = set();
    let set = dir.path();
    fs::write(set.join("trajectory/momentum_checksums.json"), "{}").unwrap();
    change(set, "images/cases.json", |cases| {
        let mut named = cases.as_array_mut().unwrap().iter_mut();
        let case = named.find(|c| c.get("normalised_tensor").is_some()).unwrap();
        case["normalised_tensor"] = json!("gone");
    });
    change(set, "retrieval_eval/expected.json", |e| e["txt2img"][0] = json!(5));
    change(set, "vqa_rank/answers.json", |a| a["eos"] = json!("[PAD]"));
    change(set, "vqa_score/cases.json", |c| c["cases"][0]["overall"] = json!(12.5));
    change(set, "itm_eval/cases.json", |c| {
        drop(c[0]["expected"].as_object_mut().unwrap().remove("img_r5"));
    });
    let failed =
        failures(set, "trajectory,images,retrieval_eval,vqa_rank,vqa_score,itm_eval,cleaning");
    let wanted = [
        ("trajectory", "momentum_checksums.json has no sums of"),
        ("images", "no tensor `gone`"),
        ("retrieval_eval", "`txt2img`"),
        ("vqa_rank", "answers[0]"),
        ("vqa_score", "overall of one"),
        ("itm_eval", "img_r5"),
    ];
    each_says(&failed, &wanted);
    assert!(!failed.contains_key("cleaning"));
}

#[test]
fn images_are_normalised_as_the_set_says() {
    let dir = set();
    change(dir.path(), "config.json", |c| c["image_mean"] = json!([0.5, 0.5, 0.5]));
    let failed = failures(dir.path(), "images,retrieval_eval");
    assert_eq!(failed.len(), 2, "{failed:#?}");
    change(dir.path(), "config.json", |c| c["image_std"] = json!([0.5, 0.0, 0.5]));
    let failed = failures(dir.path(), "images,retrieval_eval");
    assert!(failed.values().all(|said| said.contains("`image_std`")), "{failed:#?}");
}

#[test]
fn unknown_kinds_a_set_without_fixtures_and_bad_patterns_are_said() {
    let dir = set();
    let doctor = |only: &str| {
        albef().args(["doctor", "--only", only, "--golden"]).arg(dir.path()).output().unwrap()
    };
    let unknown = doctor("vit,bort");
    assert_eq!(unknown.status.code(), Some(2));
    for part in ["`bort`", "bert", "images", "param_groups"] {
        assert!(stderr(&unknown).contains(part), "{}", stderr(&unknown));
    }
    change(dir.path(), "manifest.json", |m| {
        let mut all = m["fixtures"].as_array_mut().unwrap().iter_mut();
        let one = all.find(|f| f["name"] == "gradcam_itc_1").unwrap();
        one["tolerance"]["overrides"][0]["match"] = json!("(map");
    });
    let failed = failures(dir.path(), "gradcam");
    assert!(failed["gradcam_itc_1"].contains("(map"), "{failed:#?}");
    assert_eq!(failed.len(), 1, "{failed:#?}");
    change(dir.path(), "manifest.json", |m| drop(m.as_object_mut().unwrap().remove("fixtures")));
    let none = doctor("vit");
    assert_eq!(none.status.code(), Some(2));
    assert!(
        stderr(&none).contains("manifest.json: it has no list `fixtures`"),
        "{}",
        stderr(&none)
    );
}
