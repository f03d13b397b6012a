//! What a person sees: help, results and errors, as snapshots to be read in a diff. `INSTA_UPDATE=always`
//! takes them anew.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::common::{albef, image_root, pretrained, run};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Numbers with a point become `#`, and columns one space: they depend on the processor.
fn masked(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let number = |word: &str| {
            let inner = word.trim_matches(|c: char| !c.is_ascii_digit() && c != '-');
            let digits = inner.trim_start_matches('-');
            let is = digits.contains('.') && digits.chars().all(|c| c.is_ascii_digit() || c == '.');
            if is { word.replace(inner, "#") } else { word.to_owned() }
        };
        let words: Vec<String> = line.split_whitespace().map(number).collect();
        out.push_str(words.join(" ").trim_end());
        out.push('\n');
    }
    out
}

/// Runs the program in a folder; exit status, standard output and standard error, without machine paths.
fn shown(folder: &Path, arguments: &[&str]) -> String {
    let output = albef()
        .args(arguments)
        .current_dir(folder)
        .env("ALBEF_MODEL", root().join("models/mini"))
        .env_remove("RUST_LOG")
        .output()
        .unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    );
    let text = format!(
        "$ albef {}\nexit status {}\n--- stdout\n{}--- stderr\n{}",
        arguments.join(" "),
        output.status.code().unwrap(),
        masked(&out),
        masked(&err)
    );
    let folder = folder.canonicalize().unwrap();
    text.replace(&folder.display().to_string(), "FOLDER")
        .replace(&root().display().to_string(), "REPOSITORY")
}

/// Three emoji with captions and boxes, one broken image, and a list of each kind.
fn prepared() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    std::fs::create_dir(&images).unwrap();
    let from = root().join("data/drawings/drawings-val-style/fxemoji");
    for (file, name) in [("1f415.png", "dog"), ("1f697.png", "car"), ("1f0cf.png", "joker")] {
        std::fs::copy(from.join(file), images.join(format!("{name}.png"))).unwrap();
    }
    let write = |name: &str, text: String| std::fs::write(dir.path().join(name), text).unwrap();
    let entry =
        |name: &str| json!({"image": format!("{name}.png"), "caption": format!("a {name}")});
    write("captions.json", json!(["dog", "car", "joker"].map(entry)).to_string());
    let boxes = |name: &str| {
        let whole = [0, 0, 64, 64];
        json!({"image": format!("{name}.png"), "text": name, "box": whole, "boxes": [whole]})
    };
    write("boxes.json", json!(["dog", "car"].map(boxes)).to_string());
    write("outside.json", json!([[900, 3, 5, 5]]).to_string());
    std::fs::create_dir(dir.path().join("empty")).unwrap();
    std::fs::create_dir(dir.path().join("broken")).unwrap();
    write("broken/a.png", "no image".into());
    dir
}

#[test]
fn help_of_all_commands() {
    let dir = tempfile::tempdir().unwrap();
    let commands: [&[&str]; 41] = [
        &[],
        &["demo"],
        &["pretrain"],
        &["finetune"],
        &["data"],
        &["data", "scenes"],
        &["data", "check"],
        &["data", "stats"],
        &["data", "pack"],
        &["ask"],
        &["entail"],
        &["reason"],
        &["predict"],
        &["classify"],
        &["ground"],
        &["evaluate"],
        &["evaluate", "retrieval"],
        &["evaluate", "vqa"],
        &["evaluate", "vqa-results"],
        &["evaluate", "nlvr"],
        &["evaluate", "ve"],
        &["evaluate", "grounding"],
        &["evaluate", "classification"],
        &["reproduce"],
        &["calibrate"],
        &["analyse"],
        &["analyse", "mi"],
        &["compare"],
        &["search"],
        &["index"],
        &["index", "status"],
        &["index", "verify"],
        &["index", "repair"],
        &["index", "gc"],
        &["index", "dups"],
        &["embed"],
        &["match"],
        &["inspect"],
        &["convert"],
        &["pull"],
        &["serve"],
    ];
    for command in
        commands.into_iter().chain([&["doctor"][..], &["bench"], &["completions"], &["man"]])
    {
        let output = albef().args(command).arg("--help").current_dir(dir.path()).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let name = ["help"].iter().chain(command).copied().collect::<Vec<_>>().join("_");
        insta::assert_snapshot!(name, text);
    }
}

#[test]
fn results_of_a_model() {
    let dir = prepared();
    let folder = dir.path();
    for (name, arguments) in [
        ("search", &["search", "a dog", "images", "--top-k", "2"][..]),
        ("search_by_cosine", &["search", "a dog", "images", "--rerank-k", "0"]),
        ("match", &["match", "images/dog.png", "a dog"]),
        ("classify", &["classify", "images/dog.png", "dog", "car", "joker"]),
        ("classify_repeated", &["classify", "images/dog.png", "dog", "car", "dog"]),
        ("ground", &["ground", "images/dog.png", "dog", "--words", "--output", "map.png"]),
        (
            "evaluate_retrieval",
            &["evaluate", "retrieval", "--annotations", "captions.json", "--image-root", "images"],
        ),
        (
            "evaluate_retrieval_protocol",
            &[
                "evaluate",
                "retrieval",
                "--annotations",
                "captions.json",
                "--image-root",
                "images",
                "--protocol",
                "direct-256",
                "--rerank-k",
                "2",
                "--image-res",
                "64",
            ],
        ),
        (
            "evaluate_grounding",
            &["evaluate", "grounding", "--annotations", "boxes.json", "--image-root", "images"],
        ),
        ("truncated_text", &["match", "images/dog.png", &"dog ".repeat(31)]),
        ("quiet", &["-q", "match", "images/dog.png", &"dog ".repeat(31)]),
    ] {
        insta::assert_snapshot!(name, shown(folder, arguments));
    }
    let model = root().join("models/mini").display().to_string();
    insta::assert_snapshot!("inspect", shown(folder, &["inspect", &model]));
    let predict = ["predict", "images/dog.png", "a dog", "--model", &model];
    insta::assert_snapshot!("predict_pretrained", shown(folder, &predict));
}

#[test]
fn a_fine_tuned_model_answers_according_to_its_task() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let model = pretrained(folder);
    let entry = json!({"image": "0.png", "sentence": "a square", "label": "neutral"});
    let list = folder.join("ve.json");
    std::fs::write(&list, json!([entry]).to_string()).unwrap();
    let yaml = folder.join("task.yaml");
    std::fs::write(&yaml, "batch_size: 1\nmax_steps: 1\n").unwrap();
    let mut finetune = albef();
    finetune.args(["finetune", "ve"]).arg(&yaml).arg("--output").arg(folder.join("tuned"));
    for setting in [
        format!("checkpoint={}", model.display()),
        format!("train_file=[{}]", list.display()),
        image_root("ve", folder),
    ] {
        finetune.args(["--set", &setting]);
    }
    run(&mut finetune);
    for (name, arguments) in [
        ("predict", &["predict", "0.png", "a square", "--model", "tuned"][..]),
        ("error_predict_text", &["predict", "0.png", "--model", "tuned/model"]),
        ("predict_several", &["predict", "0.png", "1.png", "a square", "--model", "tuned/model"]),
    ] {
        insta::assert_snapshot!(name, shown(folder, arguments));
    }
}

#[test]
fn errors() {
    let dir = prepared();
    let folder = dir.path();
    for (name, arguments) in [
        ("error_empty_text", &["match", "images/dog.png", " "][..]),
        ("error_missing_model", &["search", "a dog", "images", "--model", "absent"]),
        ("error_missing_image", &["match", "absent.png", "a dog"]),
        ("error_broken_image", &["classify", "broken/a.png", "dog"]),
        ("error_no_images", &["search", "a dog", "empty"]),
        ("error_no_usable_images", &["search", "a dog", "broken"]),
        ("error_template", &["classify", "images/dog.png", "dog", "--template", "a picture"]),
        ("error_device", &["match", "images/dog.png", "a dog", "--device", "abacus"]),
        ("error_boxes", &["ground", "images/dog.png", "dog", "--boxes", "outside.json"]),
        ("error_layer", &["ground", "images/dog.png", "dog", "--layer", "99"]),
        (
            "error_resolution",
            &[
                "evaluate",
                "retrieval",
                "--annotations",
                "captions.json",
                "--image-root",
                "images",
                "--image-res",
                "20",
            ],
        ),
        (
            "error_image_root",
            &["evaluate", "retrieval", "--annotations", "captions.json", "--image-root", "empty"],
        ),
        (
            "error_list",
            &["evaluate", "grounding", "--annotations", "captions.json", "--image-root", "images"],
        ),
        ("error_nothing_to_embed", &["embed"]),
    ] {
        insta::assert_snapshot!(name, shown(folder, arguments));
    }
}
