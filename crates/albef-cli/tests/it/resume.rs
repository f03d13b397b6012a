//! A run goes on from its own folder, whatever became of what it started from.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::path::Path;
use std::process::Command;

use crate::common::{albef, config, data, image_root, run, settings, stderr};
use serde_json::{Value, json};

/// All that a run decides bit for bit: weights, the state of training, the log.
fn result(output: &Path) -> [Vec<u8>; 3] {
    let read = |name: &str| std::fs::read(output.join(name)).unwrap();
    [
        read("model/model.safetensors"),
        read("checkpoints/step-0000000004/state.safetensors"),
        read("log.jsonl"),
    ]
}

/// Runs to step 2 and, once what it started from is `gone`, to step 4; gives what the second part said.
fn broken(output: &Path, command: &dyn Fn(&Path, usize) -> Command, gone: &[&Path]) -> String {
    run(&mut command(output, 2));
    let aside = |path: &Path| path.with_extension("aside");
    gone.iter().for_each(|path| std::fs::rename(path, aside(path)).unwrap());
    let said = stderr(&run(command(output, 4).arg("--resume")));
    gone.iter().for_each(|path| std::fs::rename(aside(path), path).unwrap());
    said
}

fn with(mut command: Command, settings: &[String]) -> Command {
    settings.iter().for_each(|setting| {
        command.args(["--set", setting]);
    });
    command
}

#[test]
fn pre_training_goes_on_without_the_model_and_the_words_that_it_started_from() {
    let dir = tempfile::tempdir().unwrap();
    let list = data(dir.path(), 12);
    let pretrain = |output: &Path, steps: usize, more: &[String]| {
        let mut command = albef();
        command.args(["pretrain", &config(), "--output"]).arg(output);
        command.args(settings(&list, dir.path()));
        command.args(["--set", &format!("max_steps={steps}")]);
        with(command, more)
    };
    let start = dir.path().join("start");
    run(&mut pretrain(&start, 1, &[]));
    let (model, words) = (dir.path().join("first"), dir.path().join("words.txt"));
    std::fs::rename(start.join("model"), &model).unwrap();
    std::fs::copy(model.join("vocab.txt"), &words).unwrap();
    let more = [format!("init_albef={}", model.display()), format!("vocab={}", words.display())];
    let command = |output: &Path, steps| pretrain(output, steps, &more);
    let (whole, parts) = (dir.path().join("whole"), dir.path().join("parts"));
    run(&mut command(&whole, 4));
    let said = broken(&parts, &command, &[&model, &words]);
    assert!(said.contains("continuing after step 2"), "{said}");
    assert!(said.contains("words.txt and cannot be read"), "{said}");
    assert!(said.contains("the run keeps its own word pieces"), "{said}");
    assert!(result(&parts) == result(&whole), "another result");

    // Other words are another run, and another start is one that is not read.
    std::fs::write(&words, std::fs::read_to_string(&words).unwrap() + "zebra\n").unwrap();
    let other = command(&parts, 4).arg("--resume").output().unwrap();
    assert!(stderr(&other).contains("samples of the data are others"), "{}", stderr(&other));
    // Only a list that is gone may be done without.
    std::fs::write(&words, b"\xff\xfe").unwrap();
    let torn = command(&parts, 4).arg("--resume").output().unwrap();
    assert!(!torn.status.success() && stderr(&torn).contains("words.txt: "), "{}", stderr(&torn));
    let moved = [format!("vocab={}/vocab.txt", model.display()), "init_albef=/gone".into()];
    let said = stderr(&run(pretrain(&parts, 4, &moved).arg("--resume")));
    assert!(said.contains("is \"/gone\": the run keeps its own weights"), "{said}");
    assert!(!said.contains("word pieces"), "{said}");
}

#[test]
fn pre_training_starts_from_the_words_and_sizes_of_a_model_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let list = data(dir.path(), 12);
    let pretrain = |name: &str, more: &[&str]| {
        let mut command = albef();
        command.args(["pretrain", &config(), "--output"]).arg(dir.path().join(name));
        command.args(settings(&list, dir.path())).args(["--set", "max_steps=1"]);
        with(command, &more.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>())
    };
    run(&mut pretrain("start", &[]));
    let model = dir.path().join("start/model");
    let from = format!("init_albef={}", model.display());
    let words = std::fs::read_to_string(model.join("vocab.txt")).unwrap();
    let refused = |more: &[&str], parts: &[&str]| {
        let output = pretrain("other", &[&[from.as_str()], more].concat()).output().unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    };

    // Other captions would make other word pieces.
    let other = std::fs::read_to_string(&list).unwrap().replace("square", "zebra");
    let others = dir.path().join("others.json");
    std::fs::write(&others, other).unwrap();
    let train = format!("train_file=[{}]", others.display());
    run(&mut pretrain("words", &[&from, &train, "vocab=corpus"]));
    let kept = std::fs::read_to_string(dir.path().join("words/model/vocab.txt")).unwrap();
    assert_eq!(kept, words);
    let mut lines: Vec<&str> = words.lines().collect();
    let last = lines.len() - 1;
    lines.swap(last, last - 1);
    let swapped = dir.path().join("swapped.txt");
    std::fs::write(&swapped, lines.join("\n")).unwrap();
    let row = format!("row {}", last - 1);
    refused(&[&format!("vocab={}", swapped.display())], &["`vocab`", &row, "`vocab: corpus`"]);

    refused(&["init_text=gone.pth"], &["`init_albef` is a whole model", "`init_text`"]);
    let path = model.join("config.json");
    let mut sizes: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    sizes["text"]["heads"] = json!(2);
    std::fs::write(&path, sizes.to_string()).unwrap();
    refused(&["vocab=corpus"], &["`text.heads` is 4, and 2 there", "`preset`"]);
}

/// Checks that the checkpoint of a run of 4 steps names a file that it lacks, and without the lists of
/// its weights, which older versions did not write, goes on from the start of the run alone.
fn needs_its_start_in_older_versions(command: &dyn Fn() -> Command, run_of: &Path, start: &Path) {
    let resume = || command().arg("--resume").output().unwrap();
    let fails = |part: &str| {
        let output = resume();
        let said = stderr(&output);
        assert!(!output.status.success() && said.contains(part), "{part}: {said}");
    };
    let newest = run_of.join("checkpoints/step-0000000004");
    std::fs::remove_file(newest.join("vocab.txt")).unwrap();
    fails("step-0000000004/vocab.txt: the checkpoint lacks this file");

    std::fs::remove_file(newest.join("SHA256SUMS")).unwrap();
    let path = newest.join("state.json");
    let mut state: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for key in ["shapes", "files"] {
        state.as_object_mut().unwrap().remove(key).unwrap();
    }
    std::fs::write(&path, state.to_string()).unwrap();
    let said = stderr(&run(command().arg("--resume")));
    assert!(said.contains("continuing after step 4"), "{said}");
    let aside = start.with_extension("aside");
    std::fs::rename(start, &aside).unwrap();
    fails(&start.display().to_string());
    std::fs::rename(&aside, start).unwrap();
}

#[test]
fn fine_tuning_goes_on_without_the_model_that_it_started_from() {
    let dir = tempfile::tempdir().unwrap();
    let list = data(dir.path(), 12);
    let start = dir.path().join("start");
    let mut command = albef();
    command.args(["pretrain", &config(), "--output"]).arg(&start);
    command.args(settings(&list, dir.path())).args(["--set", "max_steps=1"]);
    run(command.args(["--set", "vocab=bert"]));
    // The checkpoint alone is a start: it tells sizes and word pieces.
    std::fs::remove_dir_all(start.join("model")).unwrap();

    let write = |name: &str, entry: &dyn Fn(usize) -> Value| {
        let path = dir.path().join(name);
        std::fs::write(&path, (0..12).map(entry).collect::<Value>().to_string()).unwrap();
        path.display().to_string()
    };
    let questions = write(
        "vqa.json",
        &|i| json!({"image": format!("{i}.png"), "question": "which?", "answer": ["red", "blue"]}),
    );
    let statements = write(
        "nlvr.json",
        &|i| json!({"images": [format!("{i}.png"), "0.png"], "sentence": "both", "label": "True"}),
    );
    let yaml = dir.path().join("task.yaml");
    std::fs::write(&yaml, "batch_size: 4\nimage_res: 24\nschedular: {epochs: 2}\n").unwrap();
    let labels = write(
        "classification.json",
        &|i| json!({"image": format!("{i}.png"), "label": (&["a", "b"][i % 2..])}),
    );
    let distilled = ["multi_label=true", "distill=true"].map(str::to_owned);
    let tasks = [
        ("retrieval", &list, &[][..]),
        ("vqa", &questions, &[]),
        ("nlvr", &statements, &[]),
        ("classification", &labels, &distilled),
    ];
    for (task, list, more) in tasks {
        let command = |output: &Path, steps: usize| {
            let mut command = albef();
            command.args(["finetune", task]).arg(&yaml).arg("--output").arg(output);
            let all = [
                format!("checkpoint={}", start.display()),
                image_root(task, dir.path()),
                format!("train_file=[{list}]"),
                format!("max_steps={steps}"),
            ];
            with(command, &[&all, more].concat())
        };
        let of = |name: &str| dir.path().join(format!("{task}-{name}"));
        run(&mut command(&of("whole"), 4));
        let said = broken(&of("parts"), &command, &[&start]);
        assert!(said.contains("continuing after step 2"), "{task}: {said}");
        assert!(result(&of("parts")) == result(&of("whole")), "{task}: another result");

        let seed = command(&of("parts"), 4).args(["--resume", "--set", "seed=7"]).output().unwrap();
        assert!(stderr(&seed).contains("`seed` was"), "{task}: {}", stderr(&seed));
        needs_its_start_in_older_versions(&|| command(&of("parts"), 4), &of("parts"), &start);
    }
}
