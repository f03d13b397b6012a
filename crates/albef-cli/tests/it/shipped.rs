//! The model that ships with the program, used without being named.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::path::Path;

use crate::common::{albef, run, stderr};
use serde_json::Value;

#[test]
fn the_shipped_model_is_used_unnamed_and_finds_drawings_of_an_unseen_style() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let drawings = root.join("data/drawings");
    let text = std::fs::read_to_string(drawings.join("drawings_val_style.json")).unwrap();
    let all: Vec<Value> = serde_json::from_str(&text).unwrap();
    let some: Vec<Value> = all.into_iter().step_by(11).take(48).collect();
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("list.json");
    std::fs::write(&list, Value::Array(some).to_string()).unwrap();

    let mut command = albef();
    command.args(["evaluate", "retrieval", "--k", "8", "--json", "--annotations"]).arg(&list);
    command.arg("--image-root").arg(&drawings).current_dir(dir.path());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    // One image in 48 is what chance finds.
    for side in ["txt_r1", "img_r1"] {
        for stage in [&report, &report["itc"]] {
            assert!(stage[side].as_f64().unwrap() > 4.0 * 100.0 / 48.0, "{side}: {report}");
        }
    }

    let image = drawings.join(first_image(&list));
    let mut command = albef();
    command.arg("match").arg(image).args(["a drawing", "--json"]).current_dir(dir.path());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    for key in ["cosine", "itm_logit", "probability"] {
        assert!(report[key].is_number(), "{report}");
    }
}

/// The first image of a list.
fn first_image(list: &Path) -> String {
    let all: Value = serde_json::from_str(&std::fs::read_to_string(list).unwrap()).unwrap();
    all[0]["image"].as_str().unwrap().to_owned()
}

#[test]
fn completions_and_man_pages_cover_the_commands() {
    let dir = tempfile::tempdir().unwrap();
    let script = run(albef().args(["completions", "bash"]));
    let script = String::from_utf8(script.stdout).unwrap();
    assert!(script.contains("complete -F _albef") && script.contains("evaluate"), "{script}");
    run(albef().arg("man").arg(dir.path()));
    for page in ["albef.1", "albef-evaluate-retrieval.1", "albef-finetune.1"] {
        assert!(dir.path().join(page).is_file(), "{page}");
    }
}
