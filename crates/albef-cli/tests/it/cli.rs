//! The program as people and scripts call it.

use std::path::Path;

use crate::common::{self, albef, config, data, parts_make_up_losses, settings, stderr};
use serde_json::Value;

fn golden() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").display().to_string()
}

#[test]
fn doctor_replays_fixtures_and_calls_unknown_kinds_a_failure() {
    let known = ["doctor", "--golden", &golden(), "--only", "vit,mlm_mask,adamw", "--json"];
    let output = albef().args(known).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["fixtures"].as_array().unwrap().len(), 5);
    let set = tempfile::tempdir().unwrap();
    let config = Path::new(&golden()).join("config.json");
    std::fs::copy(config, set.path().join("config.json")).unwrap();
    let manifest = r#"{"fixtures": [{"name": "x", "kind": "from_the_future", "files": []}]}"#;
    std::fs::write(set.path().join("manifest.json"), manifest).unwrap();
    let unknown = albef().args(["doctor", "--golden"]).arg(set.path()).output().unwrap();
    assert_eq!(unknown.status.code(), Some(1));
    let absent = ["doctor", "--golden", "/nowhere/at/all"];
    assert_eq!(albef().args(absent).output().unwrap().status.code(), Some(2));
}

#[test]
fn a_run_leaves_logs_an_image_and_a_model_that_finds_images() {
    let dir = tempfile::tempdir().unwrap();
    let list = data(dir.path(), 24);
    let run = dir.path().join("run");
    let train = |extra: &[&str]| {
        let mut command = albef();
        command.args(["pretrain", &config(), "--output"]).arg(&run);
        command.args(settings(&list, dir.path())).args([
            "--set",
            "max_steps=12",
            "--set",
            "alpha=0.4",
        ]);
        command.args(extra);
        command.output().unwrap()
    };
    let output = train(&[]);
    assert!(output.status.success(), "{}", stderr(&output));
    for file in [
        "log.jsonl",
        "log.txt",
        "curves.svg",
        "config.json",
        "tensorboard",
        "model/model.safetensors",
        "model/config.json",
        "model/vocab.txt",
        "model/README.md",
    ] {
        assert!(run.join(file).exists(), "{file}");
    }
    let log = std::fs::read_to_string(run.join("log.jsonl")).unwrap();
    let first: Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    for key in ["train_loss_mlm", "train_loss_ita", "train_loss_itm", "train_lr"] {
        assert!(first[key].as_f64().unwrap().is_finite(), "{key}");
    }
    parts_make_up_losses(&log, &[("train_loss_ita", "ita"), ("train_loss_mlm", "mlm")]);
    assert!(first["itm_accuracy"].as_f64().is_some_and(|share| (0.0..=1.0).contains(&share)));
    // A second run into the same folder loses nothing.
    let again = train(&[]);
    assert_eq!(again.status.code(), Some(2));
    assert!(stderr(&again).contains("--resume"), "{}", stderr(&again));

    let model = run.join("model").display().to_string();
    let root = dir.path().display().to_string();
    let search = ["search", "a red square", &root, "--model", &model, "--top", "3", "--json"];
    let output = albef().args(search).output().unwrap();
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let results = found["results"].as_array().unwrap();
    assert_eq!(results.len(), 3);
    let score = |i: usize| results[i]["score"].as_f64().unwrap();
    assert!(score(0) >= score(1) && score(1) >= score(2), "{found}");
    assert_eq!(found["gallery"], 24);
    let image = dir.path().join("0.png").display().to_string();
    let output =
        albef().args(["match", &image, "a", "--model", &model, "--json"]).output().unwrap();
    let pair: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!((0.0..=1.0).contains(&pair["probability"].as_f64().unwrap()));
    assert!(pair["cosine"].is_f64() && pair["itm_logit"].is_f64());
    let long = "word ".repeat(2_000);
    assert!(albef().args(["match", &image, &long, "--model", &model]).status().unwrap().success());

    let evaluate = [
        "evaluate",
        "retrieval",
        "--model",
        &model,
        "--annotations",
        &list,
        "--image-root",
        &root,
        "--k",
        "4",
        "--json",
    ];
    let output = albef().args(evaluate).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["r_mean"].is_f64() && report["itc"]["img_r10"].is_f64());
    assert_eq!(report["queries"]["img"], 48);
}

#[test]
fn bad_input_gets_a_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let list = data(dir.path(), 5);
    let run = |name: &str, extra: &[&str]| {
        let mut command = albef();
        command.args(["pretrain", &config(), "--output"]).arg(dir.path().join(name));
        command.args(settings(&list, dir.path())).args(extra);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{name}: {}", stderr(&output));
        assert!(!stderr(&output).contains("panicked"), "{}", stderr(&output));
        stderr(&output)
    };
    assert!(run("key", &["--set", "batch_sice=2"]).contains("`batch_size`"));
    assert!(run("patch", &["--set", "image_res=17"]).contains("image_res"));
    assert!(run("large", &["--set", "batch_size=6"]).contains("5"));
    assert!(run("none", &["--set", "train_file=[]"]).contains("train_file"));
    assert!(run("absent", &["--set", "train_file=[/no/such.json]"]).contains("/no/such.json"));
    std::fs::write(dir.path().join("odd.json"), "[{\"image\": \"0.png\"}]").unwrap();
    let odd = format!("train_file=[{}]", dir.path().join("odd.json").display());
    let error = run("odd", &["--set", &odd]);
    assert!(error.contains("entry 0") && error.contains("caption"), "{error}");

    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let root = dir.path().join("other");
    std::fs::create_dir(&root).unwrap();
    let model = common::pretrained(&root);
    let search = |folder: &Path, model: &Path| {
        let command = albef().args(["search", "x"]).arg(folder).arg("--model").arg(model).output();
        let output = command.unwrap();
        (output.status.code(), stderr(&output))
    };
    let (code, said) = search(&empty, &model);
    assert!(code == Some(2) && said.contains("there is no image in"), "{code:?} {said}");
    let (code, said) = search(&root, Path::new("/no/model"));
    assert!(code == Some(2) && said.contains("/no/model"), "{code:?} {said}");
}

#[test]
fn a_broken_image_is_named_and_replaced_and_a_batch_of_one_trains() {
    let dir = tempfile::tempdir().unwrap();
    let list = data(dir.path(), 12);
    std::fs::write(dir.path().join("3.png"), b"<html>404</html>").unwrap();
    std::fs::remove_file(dir.path().join("7.png")).unwrap();
    let mut command = albef();
    command.args(["pretrain", &config(), "--output"]).arg(dir.path().join("run"));
    command.args(settings(&list, dir.path()));
    command.args(["--set", "batch_size=1", "--set", "max_steps=14"]);
    let output = command.output().unwrap();
    let text = stderr(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("skipped 3.png: unknown-format"), "{text}");
    assert!(text.contains("skipped 7.png: image not found"), "{text}");

    let mut command = albef();
    command.args(["pretrain", &config(), "--output"]).arg(dir.path().join("strict"));
    command.args(settings(&list, dir.path())).args(["--set", "max_skipped=1"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("max_skipped"), "{}", stderr(&output));
}

#[test]
fn options_of_pre_training_run_together_and_the_best_epoch_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let list = data(dir.path(), 16);
    let run = dir.path().join("run");
    let mut command = albef();
    command.args(["pretrain", &config(), "--output"]).arg(&run);
    command.args(settings(&list, dir.path())).args(["--set", "max_steps=8"]);
    for setting in [
        "mixgen={mode: batch, mask_partners: true}",
        "itc_only_steps=2",
        "negative_temp=0.07",
        "precision=bf16",
        "text_lr_scale=0.5",
        &format!("val_file=[{list}]"),
    ] {
        command.args(["--set", setting]);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let log = std::fs::read_to_string(run.join("log.jsonl")).unwrap();
    let steps: Vec<Value> = log.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(steps.len(), 8);
    assert!(steps[1]["train_loss_itm"].is_null(), "it takes no part yet");
    assert!(steps[2]["train_loss_itm"].as_f64().unwrap() > 0.0);
    let score = std::fs::read_to_string(run.join("best/score.json")).unwrap();
    assert!(serde_json::from_str::<Value>(&score).unwrap()["r_mean"].is_number());
    assert!(run.join("best/model.safetensors").is_file());
}

#[test]
fn negatives_become_hard_at_the_step_that_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let list = data(dir.path(), 16);
    let losses = |name: &str, setting: &str| {
        let run_folder = dir.path().join(name);
        let mut command = albef();
        command.args(["pretrain", &config(), "--output"]).arg(&run_folder);
        command.args(settings(&list, dir.path())).args(["--set", "max_steps=4", "--set", setting]);
        common::run(&mut command);
        let log = std::fs::read_to_string(run_folder.join("log.jsonl")).unwrap();
        let itm = |line: &str| {
            let step: Value = serde_json::from_str(line).unwrap();
            step["train_loss_itm"].as_f64().unwrap()
        };
        log.lines().map(itm).collect::<Vec<f64>>()
    };
    let even = losses("even", "hard_negatives=false");
    let hard = losses("hard", "hard_negatives_start=0");
    let later = losses("later", "hard_negatives_start=2");
    assert_ne!(even[0], hard[0]);
    assert_eq!(even[..2], later[..2]);
    assert_ne!(even[2..], later[2..]);
}

#[test]
fn a_device_that_cannot_be_had_is_an_error_that_says_how_to_get_it() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run").display().to_string();
    let pretrain = ["pretrain", &config(), "--output", &run, "--device"];
    let match_pair = ["match", "x.png", "x", "--device"];
    let evaluate = ["evaluate", "ve", "--model", "m", "--annotations", "a.json", "--device"];
    for command in [&pretrain[..], &match_pair, &evaluate, &["doctor", "--device"]] {
        let with = |device: &str| {
            let output = albef().args(command).arg(device).output().unwrap();
            assert_eq!(output.status.code(), Some(2), "{command:?} {}", stderr(&output));
            assert!(!stderr(&output).contains("panicked"), "{}", stderr(&output));
            stderr(&output)
        };
        assert!(with("tpu").contains("device `tpu`: the devices are `cpu`, `vulkan[:N]`"));
        assert!(with("cpu:1").contains("device `cpu:1`"));
        if !cfg!(feature = "vulkan") {
            assert!(with("vulkan").contains("--features vulkan"));
        }
        if !cfg!(feature = "cuda") {
            assert!(with("cuda:1").contains("--features cuda"));
        }
        assert!(with("vulkan:4096").contains("device `vulkan:4096`"));
    }
    let output = albef().args(["doctor", "--json"]).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let kinds = report["devices"].as_array().unwrap();
    assert_eq!(kinds.len(), 3);
    assert_eq!(kinds[0]["found"][0]["name"], "cpu");
    assert_eq!(kinds[1]["compiled"], cfg!(feature = "vulkan"));
    assert_eq!(report["tolerance_factor"], 1.0);
}

#[test]
fn a_checkpoint_is_described_and_written_as_a_model_folder() {
    let dir = tempfile::tempdir().unwrap();
    let list = data(dir.path(), 12);
    let run = dir.path().join("run");
    let mut command = albef();
    command.args(["pretrain", &config(), "--output"]).arg(&run);
    command.args(settings(&list, dir.path())).args(["--set", "max_steps=1"]);
    common::run(&mut command);
    let model = run.join("model");
    let whole = common::out(albef().arg("inspect").arg(&model).arg("--json"));
    assert_eq!(whole["task"], "pre-training");
    assert_eq!(whole["config"]["embed_dim"], 16);
    assert_eq!(whole["momentum"], false);

    // The file alone does not tell the heads of a model that is not of the published width.
    let alone = dir.path().join("alone.safetensors");
    std::fs::copy(model.join("model.safetensors"), &alone).unwrap();
    let words = common::run(albef().arg("inspect").arg(&model)).stdout;
    assert!(String::from_utf8(words).unwrap().contains("16 px in patches of 8"));
    let refused = albef().arg("inspect").arg(&alone).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr(&refused).contains("put its `config.json` beside it"), "{}", stderr(&refused));
    std::fs::copy(model.join("config.json"), dir.path().join("config.json")).unwrap();
    std::fs::copy(model.join("vocab.txt"), dir.path().join("vocab.txt")).unwrap();
    let told = common::out(albef().arg("inspect").arg(&alone).arg("--json"));
    assert_eq!(told["config"], whole["config"]);

    let small = dir.path().join("small");
    let mut export = albef();
    export.arg("inspect").arg(&model).args(["--as", "f16", "--online", "--export"]).arg(&small);
    common::run(&mut export);
    let size =
        |folder: &Path| std::fs::metadata(folder.join("model.safetensors")).unwrap().len() as f64;
    assert!(size(&small) < 0.6 * size(&model));
    let same = common::out(albef().arg("inspect").arg(&small).arg("--json"));
    assert_eq!(same["config"], whole["config"]);
    assert_eq!(same["tensors"], whole["tensors"]);
    let again = export.output().unwrap();
    assert_eq!(again.status.code(), Some(2));
    assert!(stderr(&again).contains("already holds a model"), "{}", stderr(&again));
}
