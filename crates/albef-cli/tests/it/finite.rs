//! What cannot be computed with is neither saved nor used.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Output};

use crate::common::{albef, config, data, pretrained, settings, stderr};
use albef_weights::{HostTensor, KeepAs};

fn pretrain(list: &str, root: &Path, output: &Path, rate: &str, steps: usize) -> Command {
    let mut command = albef();
    command.args(["pretrain", &config(), "--output"]).arg(output).args(settings(list, root));
    for setting in [
        &format!("optimizer.lr={rate}"),
        "schedular.warmup_steps=0",
        "checkpoint_every=1",
        &format!("max_steps={steps}"),
    ] {
        command.args(["--set", setting]);
    }
    command
}

fn failed(output: &Output, parts: &[&str]) {
    let said = stderr(output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    parts.iter().for_each(|part| assert!(said.contains(part), "{part}: {said}"));
}

fn checkpoints(run: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(run.join("checkpoints")) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_last_step_that_ruins_the_weights_leaves_no_model() {
    let dir = tempfile::tempdir().unwrap();
    let list = data(dir.path(), 12);
    // Not finite, or finite and so large that nothing can be computed with it.
    for rate in ["1e38", "1e20", "1e12"] {
        let output = dir.path().join(rate);
        let ended = pretrain(&list, dir.path(), &output, rate, 1).output().unwrap();
        failed(&ended, &["step 1 (epoch 0)", "lower the learning rate"]);
        assert!(!output.join("model").exists() && checkpoints(&output).is_empty(), "{rate}");
    }
}

#[test]
fn a_run_whose_weights_were_ruined_goes_on_from_the_last_good_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let list = data(dir.path(), 12);
    let output = dir.path().join("run");
    let with = |rate, steps| {
        let mut command = pretrain(&list, dir.path(), &output, rate, steps);
        command.arg("--resume").output().unwrap()
    };
    assert!(with("1e-3", 2).status.success());
    let good = ["step-0000000001", "step-0000000002"];
    for rate in ["1e38", "1e12"] {
        failed(&with(rate, 4), &["step 3 ("]);
        assert_eq!(checkpoints(&output), good, "{rate}");
    }
    let again = with("1e-4", 4);
    let said = stderr(&again);
    assert!(again.status.success(), "{said}");
    assert!(said.contains("`optimizer.lr` was 0.001 and is 0.0001"), "{said}");
    assert_eq!(checkpoints(&output), ["step-0000000003", "step-0000000004"]);
}

#[test]
fn a_model_with_a_weight_that_is_no_number_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let model = pretrained(dir.path());
    let file = model.join("model.safetensors");
    let mut tensors = albef_weights::read(&file).unwrap().tensors;
    let name = "text_proj.bias";
    let shape = tensors.get(name).unwrap().shape.clone();
    let mut values = tensors.get(name).unwrap().to_f32().unwrap();
    values[3] = f32::NAN;
    tensors.insert(name.to_owned(), HostTensor::from_f32(&shape, &values));
    albef_weights::write_safetensors(&file, &tensors, &HashMap::new(), KeepAs::Same).unwrap();
    let (list, root) = (dir.path().join("list.json"), dir.path());
    let image = root.join("0.png");
    let mut commands = [albef(), albef(), albef(), albef()];
    commands[0].arg("match").arg(&image).args(["red", "--model"]).arg(&model);
    commands[1].args(["search", "red"]).arg(root).arg("--model").arg(&model);
    commands[2].args(["evaluate", "retrieval", "--annotations"]).arg(&list);
    commands[2].arg("--image-root").arg(root).arg("--model").arg(&model);
    let task = root.join("task.yaml");
    std::fs::write(&task, "batch_size: 4\n").unwrap();
    commands[3].args(["finetune", "retrieval"]).arg(&task).arg("--output").arg(root.join("tuned"));
    for setting in [
        format!("checkpoint={}", model.display()),
        format!("train_file=[{}]", list.display()),
        format!("image_root={}", root.display()),
    ] {
        commands[3].args(["--set", &setting]);
    }
    for command in &mut commands {
        failed(
            &command.output().unwrap(),
            &["model.safetensors", "`text_proj.bias`", "not finite"],
        );
    }
}
