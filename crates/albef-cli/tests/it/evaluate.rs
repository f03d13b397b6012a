//! Evaluations say what they left out, at what resolution they measured, and by which protocol.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::path::Path;
use std::process::{Command, Output};

use crate::common::{albef, image_root, out, pretrained, run, stderr};
use serde_json::{Value, json};

/// Thirty words of so many pieces that they are more than the 512 positions of the model.
fn deep() -> String {
    vec!["ab".repeat(49); 30].join(" ")
}

fn write(dir: &Path, name: &str, list: &Value) -> String {
    let path = dir.join(name);
    std::fs::write(&path, list.to_string()).unwrap();
    path.display().to_string()
}

fn command(what: &[&str], model: &Path) -> Command {
    let mut command = albef();
    command.args(what).arg("--model").arg(model);
    command
}

fn report(output: &Output) -> Value {
    assert!(output.status.success(), "{}", stderr(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn truncated_texts_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let model = pretrained(dir.path());
    let root = dir.path().display().to_string();
    let long = "word ".repeat(31);
    let long = long.trim();
    let deep = deep();
    let image = dir.path().join("0.png").display().to_string();
    for (what, limit) in [
        (&["match", &image, long][..], "29 word pieces"),
        (&["search", long, &root, "--top", "1", "--json"], "29 word pieces"),
        (&["embed", "--text", long], "29 word pieces"),
        (&["ground", &image, &deep], "511 word pieces"),
    ] {
        let said = stderr(&command(what, &model).output().unwrap());
        assert!(said.contains("the text is longer than 30 words"), "{what:?}: {said}");
        assert!(said.contains(limit), "{what:?}: {said}");
    }
    let list = write(
        dir.path(),
        "captions.json",
        &json!([
            {"image": "0.png", "caption": ["a square", long]}, {"image": "1.png", "caption": "red"},
        ]),
    );
    let retrieval =
        ["evaluate", "retrieval", "--json", "--image-root", &root, "--annotations", &list];
    let output = command(&retrieval, &model).output().unwrap();
    let found = report(&output);
    assert_eq!((&found["truncated_texts"], &found["cut_texts"]), (&json!(1), &json!(1)));
    assert!(
        stderr(&output).contains("warning: 1 of 3 texts truncated to 30 words"),
        "{}",
        stderr(&output)
    );
    let boxes =
        json!({"image": "0.png", "text": deep, "box": [0, 0, 12, 20], "boxes": [[0, 0, 12, 20]]});
    let list = write(dir.path(), "grounding.json", &json!([boxes]));
    let grounding =
        ["evaluate", "grounding", "--json", "--image-root", &root, "--annotations", &list];
    let at = ["--image-res", "24"];
    let output = command(&grounding, &model).args(at).output().unwrap();
    assert_eq!(report(&output)["cut_texts"], 1);
    assert!(stderr(&output).contains("from 2 x 2 to 3 x 3"), "{}", stderr(&output));
}

#[test]
fn tasks_count_truncated_texts_and_measure_at_another_resolution() {
    let dir = tempfile::tempdir().unwrap();
    let model = pretrained(dir.path());
    let root = dir.path().display().to_string();
    let deep = deep();
    let answers = write(dir.path(), "answers.json", &json!(["red", "blue"]));
    let yaml = write(dir.path(), "task.yaml", &json!({"batch_size": 1, "max_steps": 1}));
    let ve = json!({"image": "0.png", "sentence": deep, "label": "neutral"});
    let vqa = json!({"image": "0.png", "question": deep, "answer": ["red"]});
    let nlvr = json!({"images": ["0.png", "1.png"], "sentence": deep, "label": "True"});
    for (task, entry) in [("ve", ve), ("vqa", vqa), ("nlvr", nlvr)] {
        let list = write(dir.path(), task, &json!([entry]));
        let output = dir.path().join(format!("{task}-run"));
        let mut finetune = albef();
        finetune.args(["finetune", task, &yaml, "--output"]).arg(&output);
        for setting in [
            format!("checkpoint={}", model.display()),
            format!("train_file=[{list}]"),
            image_root(task, dir.path()),
        ] {
            finetune.args(["--set", &setting]);
        }
        run(&mut finetune);
        let tuned = output.join("model");
        let mut evaluate = vec!["evaluate", task, "--json", "--image-root", &root, "--annotations"];
        evaluate.push(&list);
        if task == "vqa" {
            evaluate.extend(["--answer-list", &answers]);
        }
        let output = command(&evaluate, &tuned).args(["--image-res", "32"]).output().unwrap();
        assert_eq!(report(&output)["cut_texts"], 1, "{task}");
        let said = stderr(&output);
        assert!(said.contains("warning: text truncated to "), "{task}: {said}");
        assert!(said.contains("from 2 x 2 to 4 x 4"), "{task}: {said}");
        let output = command(&evaluate, &tuned).args(["--image-res", "20"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{task}");
        let said = stderr(&output);
        assert!(said.contains("20 is no multiple of the patch size 8"), "{task}: {said}");
    }
}

#[test]
fn images_are_looked_for_beside_their_list_and_before_a_model_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let model = pretrained(dir.path());
    let boxes =
        json!({"image": "0.png", "text": "red", "box": [0, 0, 12, 20], "boxes": [[0, 0, 12, 20]]});
    let captions = json!({"image": "0.png", "caption": "a red square"});
    for (task, entry) in [("grounding", boxes), ("retrieval", captions)] {
        let list = write(dir.path(), "beside.json", &json!([entry]));
        let evaluate = ["evaluate", task, "--json", "--annotations", &list];
        report(&command(&evaluate, &model).output().unwrap());
        let rounded = command(&evaluate, &model).args(["--precision", "bf16"]).output().unwrap();
        let rounded = report(&rounded)["precision"] == "bf16";
        assert_eq!(rounded, albef::device::bf16_unit().is_some());
    }
    let statement = json!({"images": ["0.png", "1.png"], "sentence": "red", "label": "True"});
    for (task, entry) in [
        ("vqa", json!({"image": "0.png", "question": "what?", "answer": ["red"]})),
        ("ve", json!({"image": "0.png", "sentence": "red", "label": "neutral"})),
        ("nlvr", statement),
        ("classification", json!({"image": "0.png", "label": "red"})),
    ] {
        let list = write(dir.path(), "elsewhere.json", &json!([entry]));
        let evaluate = ["evaluate", task, "--annotations", &list, "--image-root", "nowhere"];
        let mut evaluate = command(&evaluate, Path::new("no-model"));
        if task == "vqa" {
            evaluate.args(["--answer-list", "red,blue"]);
        }
        let output = evaluate.output().unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{task}: {said}");
        assert!(said.contains("none of the 1 images can be found"), "{task}: {said}");
    }
}

#[test]
fn one_odd_expression_is_left_out_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let model = pretrained(dir.path());
    let good = |image: &str, left: u32| json!({"image": image, "text": "red", "box": [left, 0, 9, 9], "boxes": [[left, 0, 9, 9], [0, 9, 9, 9]]});
    let no_area =
        json!({"image": "1.png", "text": "red", "box": [0, 0, 0, 9], "boxes": [[0, 0, 9, 9]]});
    let no_text = json!({"image": "1.png", "box": [0, 0, 9, 9], "boxes": [[0, 0, 9, 9]]});
    let entries = json!([no_text, good("0.png", 0), no_area, good("2.png", 8)]);
    let list = write(dir.path(), "odd.json", &entries);
    let evaluate = ["evaluate", "grounding", "--json", "--annotations", &list];
    let output = command(&evaluate, &model).output().unwrap();
    let odd = report(&output);
    assert_eq!((&odd["expressions"], &odd["left_out"]), (&json!(2), &json!(2)));
    assert!(stderr(&output).contains("odd.json, entry 2"), "{}", stderr(&output));
    // The boxes are still those of their expressions.
    let list = write(dir.path(), "even.json", &json!([good("0.png", 0), good("2.png", 8)]));
    let evaluate = ["evaluate", "grounding", "--json", "--annotations", &list];
    let even = report(&command(&evaluate, &model).output().unwrap());
    for key in ["accuracy", "random_box", "center_box", "centre_box"] {
        assert_eq!(odd[key], even[key], "{key}");
    }
}

#[test]
fn what_a_source_leaves_out_is_counted_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let model = pretrained(dir.path());
    let archive = dir.path().join("x.tar");
    let mut tar = tar::Builder::new(std::fs::File::create(&archive).unwrap());
    let image = std::fs::read(dir.path().join("0.png")).unwrap();
    for (name, bytes) in [
        ("0.png", &image[..]),
        ("0.json", br#"{"caption": "a square"}"#),
        ("1.json", br#"{"caption": "nothing to see"}"#),
        ("README", b"read me"),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, name, bytes).unwrap();
    }
    tar.into_inner().unwrap();
    let archive = archive.display().to_string();
    let evaluate = ["evaluate", "retrieval", "--json", "--annotations", &archive];
    let output = command(&evaluate, &model).output().unwrap();
    let found = report(&output);
    assert_eq!((&found["skipped_members"], &found["left_out"]), (&json!(2), &json!(2)));
    assert_eq!(found["gallery"]["images"], 1);
    assert!(found["skipped_members_first"][0].as_str().unwrap().contains("1.json"), "{found}");
    let search = command(&["search", "red", &archive, "--json"], &model).output().unwrap();
    assert_eq!(report(&search)["left_out"], 2);
    for output in [output, search] {
        let said = stderr(&output);
        for part in ["warning: ", "2 entries or members form no sample", "1.json: ", "README: "] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
}

#[test]
fn retrieval_is_measured_at_a_resolution_by_a_score_and_by_a_protocol() {
    let dir = tempfile::tempdir().unwrap();
    let model = pretrained(dir.path());
    let root = dir.path().display().to_string();
    let list = dir.path().join("list.json").display().to_string();
    let evaluate = |more: &[&str]| {
        let all =
            ["evaluate", "retrieval", "--json", "--image-root", &root, "--annotations", &list];
        command(&all, &model).args(more).output().unwrap()
    };
    let plain = report(&evaluate(&[]));
    assert_eq!(
        (&plain["image_res"], &plain["k"], &plain["protocol"]),
        (&json!(16), &json!(128), &Value::Null)
    );
    assert_eq!(plain["score"], "itm");
    let larger = evaluate(&["--image-res", "32", "--score", "itm+itc", "--k", "3"]);
    assert!(stderr(&larger).contains("from 2 x 2 to 4 x 4"), "{}", stderr(&larger));
    let larger = report(&larger);
    assert_eq!((&larger["image_res"], &larger["score"]), (&json!(32), &json!("itm+itc")));
    for (size, part) in [("20", "choose for instance 16"), ("0", "between 1 and 4096")] {
        let output = evaluate(&["--image-res", size]);
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains(part), "{}", stderr(&output));
    }

    let direct = evaluate(&["--protocol", "direct-256"]);
    let (found, said) = (report(&direct), stderr(&direct));
    assert_eq!((&found["image_res"], &found["k"]), (&json!(256), &json!(128)));
    assert_eq!(found["protocol"], "direct-256");
    assert!(said.contains("pre-trained; 256 px; k 128"), "{said}");
    assert_eq!(said.matches("warning").count(), 1, "{said}");
    assert!(said.contains("the model was made for 16 px"), "{said}");
    let said = stderr(&evaluate(&["--protocol", "direct-256", "--by-id"]));
    assert!(said.contains("hits are counted by image_id"), "{said}");
    let other = ["--protocol", "flickr-zeroshot-paper", "--image-res", "16", "--k", "4"];
    let said = stderr(&evaluate(&other));
    for part in ["the weights are pre-trained", "have 16 px", "k is 4, the protocol has 128"] {
        assert!(said.contains("warning: not flickr-zeroshot-paper: "), "{said}");
        assert!(said.contains(part), "{part}: {said}");
    }
    let unknown = evaluate(&["--protocol", "flickr"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(stderr(&unknown).contains("direct-384"), "{}", stderr(&unknown));
}

#[test]
fn a_run_or_a_checkpoint_serves_as_a_model() {
    let dir = tempfile::tempdir().unwrap();
    let model = pretrained(dir.path());
    let run = model.parent().unwrap();
    let checkpoint = std::fs::read_dir(run.join("checkpoints")).unwrap().next().unwrap().unwrap();
    let image = dir.path().join("0.png").display().to_string();
    let pair = ["match", &image, "red", "--json"];
    let expected = out(&mut command(&pair, &model));
    let part = checkpoint.path().join("state.safetensors");
    let refused = command(&pair, &part).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    let hint = "hint: name the folder of the checkpoint, or of the run";
    assert!(stderr(&refused).contains(hint), "{}", stderr(&refused));
    for place in [run.to_owned(), checkpoint.path()] {
        assert_eq!(out(&mut command(&pair, &place)), expected, "{}", place.display());
        let ask = ["ask", &image, "red?", "--answers", "a,b"];
        let output = command(&ask, &place).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let said = stderr(&output);
        assert!(said.contains("`albef finetune vqa`"), "{said}");
    }
}

#[test]
fn a_search_is_ordered_by_the_score_that_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let model = pretrained(dir.path());
    let root = dir.path().display().to_string();
    for (score, tolerance) in [("itm", 0.0), ("itm+itc", 1e-5)] {
        let search = ["search", "red", &root, "--json", "--score", score];
        let found = report(&command(&search, &model).output().unwrap());
        assert_eq!(found["order"], score);
        let results = found["results"].as_array().unwrap();
        let of = |i: usize, key: &str| results[i][key].as_f64().unwrap();
        assert!((1..results.len()).all(|i| of(i - 1, "score") >= of(i, "score")), "{found}");
        let image = results[0]["image"].as_str().unwrap();
        let file = dir.path().join(image).display().to_string();
        let pair = report(&command(&["match", &file, "red", "--json"], &model).output().unwrap());
        let cosine = if score == "itm" { 0.0 } else { of(0, "cosine") };
        let expected = pair["itm_logit"].as_f64().unwrap() + cosine;
        assert!((expected - of(0, "score")).abs() <= tolerance, "{score}: {found} {pair}");
    }
}

#[test]
fn recalls_are_also_written_as_clip_benchmark_does() {
    let dir = tempfile::tempdir().unwrap();
    let model = pretrained(dir.path());
    let root = dir.path().display().to_string();
    let list = dir.path().join("list.json").display().to_string();
    let file = dir.path().join("result.json");
    let mut evaluate = command(
        &["evaluate", "retrieval", "--json", "--image-root", &root, "--annotations", &list],
        &model,
    );
    let found = report(
        &evaluate.args(["--rerank-k", "0", "--clip-benchmark"]).arg(&file).output().unwrap(),
    );
    let written: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let keys = ["dataset", "model", "pretrained", "task", "metrics", "language"];
    assert!(keys.iter().all(|key| written.get(key).is_some()), "{written}");
    assert_eq!(
        (&written["dataset"], &written["task"]),
        (&json!("list"), &json!("zeroshot_retrieval"))
    );
    for (name, key) in [("image_retrieval_recall", "img"), ("text_retrieval_recall", "txt")] {
        for k in [1, 5, 10] {
            let share = written["metrics"][format!("{name}@{k}")].as_f64().unwrap();
            let percent = found[format!("{key}_r{k}")].as_f64().unwrap();
            assert!((100.0 * share - percent).abs() < 1e-9, "{name}@{k}");
        }
    }
}
