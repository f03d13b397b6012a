//! What can mean nothing is refused before anything is computed, and says what and where.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::common::{albef, data, run, stderr};
use serde_json::{Value, json};

fn write(dir: &Path, name: &str, list: &Value) -> String {
    let path = dir.join(name);
    std::fs::write(&path, list.to_string()).unwrap();
    path.display().to_string()
}

/// What a command says that must be refused.
fn refused(arguments: &[&str]) -> String {
    let output = albef().args(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
    assert!(output.stdout.is_empty(), "{arguments:?}");
    stderr(&output)
}

fn pipe(dir: &Path) -> String {
    let path = dir.join("pipe").display().to_string();
    run(Command::new("mkfifo").arg(&path));
    path
}

#[test]
fn values_that_mean_nothing_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    data(dir.path(), 1);
    let (image, jpg) = (dir.path().join("0.png"), dir.path().join("map.jpg"));
    let (image, jpg) = (image.display().to_string(), jpg.display().to_string());
    for (arguments, part) in [
        (&["ground", &image, " "][..], "it is empty"),
        (&["ask", &image, "", "--model", "m", "--answers", "a"], "it is empty"),
        (&["entail", &image, "", "--model", "m"], "it is empty"),
        (&["reason", &image, &image, "", "--model", "m"], "it is empty"),
        (&["classify", &image, "dog", ""], "it is empty"),
        (&["match", &image, ""], "it is empty"),
        (&["search", "", "."], "it is empty"),
        (&["ground", &image, "dog", "--threshold", "1.5"], "must be from 0 to 1"),
        (&["ground", &image, "dog", "--threshold", "nan"], "must be from 0 to 1"),
        (&["ground", &image, "dog", "--output", &jpg], "PNG only"),
        (&["ground", &image, "dog", "--output", &image], "is also read by this command"),
        (&["embed", "--text", " "], "it is empty"),
        (&["bench", "vit", "--rounds", "0"], "must be at least 1"),
        (&["compare", "a", "b", "--resamples", "0"], "must be at least 1"),
        (&["evaluate", "retrieval", "--annotations", "a", "--resamples", "0"], "at least 1"),
    ] {
        let said = refused(arguments);
        assert!(said.contains(part), "{arguments:?}: {said}");
    }
}

#[test]
fn what_is_no_regular_file_is_neither_read_as_an_image_nor_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let list = data(dir.path(), 2);
    let pipe = pipe(dir.path());
    let dir_name = dir.path().display().to_string();
    let named = dir.path().join("pipe.png").display().to_string();
    std::os::unix::fs::symlink(&pipe, &named).unwrap();
    for arguments in [["match", &pipe, "a dog"], ["search", "a dog", &named]] {
        let said = refused(&arguments);
        assert!(said.contains("no regular file") && said.contains(&dir_name), "{said}");
    }
    let said = refused(&["evaluate", "retrieval", "--annotations", &list, "--save", &pipe]);
    assert!(said.contains("not replaced"), "{said}");
    assert!(std::fs::metadata(&pipe).unwrap().file_type().is_fifo());
}

#[test]
fn an_evaluation_is_refused_before_its_model_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    data(dir.path(), 1);
    let question = |more: Value| {
        let mut entry = json!({"image": "0.png", "question": "what?"});
        entry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        entry
    };
    let answered = write(dir.path(), "a.json", &json!([question(json!({"answer": "red"}))]));
    let open = write(dir.path(), "o.json", &json!([question(json!({"question_id": 1}))]));
    let twice = [1, 2, 1].map(|id| question(json!({"question_id": id})));
    let twice = write(dir.path(), "t.json", &json!(twice));
    let ve = json!([{"image": "0.png", "sentence": "a dog", "label": "neutral"}]);
    let ve = write(dir.path(), "ve.json", &ve);
    let results = dir.path().join("results.json").display().to_string();
    let vqa = |list: &str, more: &[&str]| {
        let all = ["evaluate", "vqa", "--model", "/nowhere", "--answer-list", "red,blue"];
        refused(&[&all, &["--annotations", list][..], more].concat())
    };
    let said = vqa(&answered, &["--text-baseline", "nope.json"]);
    assert!(said.contains("nope.json"), "{said}");
    let said = vqa(&open, &[]);
    assert!(said.contains("no `answer` to compare with"), "{said}");
    let said = vqa(&twice, &["--results", &results]);
    assert!(said.contains("entry 2: entry 0 has the same `question_id`"), "{said}");
    let ve = ["evaluate", "ve", "--model", "/nowhere", "--annotations", &ve];
    let said = refused(&[&ve[..], &["--text-baseline", "nope.json"]].concat());
    assert!(said.contains("nope.json"), "{said}");

    let empty = write(dir.path(), "empty.json", &json!([]));
    let none = write(dir.path(), "none.json", &json!({"annotations": []}));
    let said = refused(&["evaluate", "vqa-results", "--results", &empty, "--annotations", &none]);
    assert!(said.contains("none.json") && said.contains("nothing to measure"), "{said}");
}

#[test]
fn boxes_are_cut_to_the_image_or_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    data(dir.path(), 1);
    let image = dir.path().join("0.png");
    let ground = |boxes: Value| -> Output {
        let boxes = write(dir.path(), "boxes.json", &boxes);
        let mut command = albef();
        command.arg("ground").arg(&image).args(["red", "--json", "--boxes", &boxes]);
        command.output().unwrap()
    };
    let output = ground(json!([[-4, 10, 10, 30], [0, 0, 5, 5, 0.9]]));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["boxes"], json!([[0.0, 10.0, 6.0, 10.0], [0.0, 0.0, 5.0, 5.0]]));
    assert!(stderr(&output).contains("1 of 2 boxes reach beyond"), "{}", stderr(&output));
    for (given, part) in [
        (json!([3, 3, 0, 4]), "has no area"),
        (json!([24, 3, 4, 4]), "is outside the image of 24 x 20"),
        (json!([1, 2, 3]), "must be [left, top, width, height]"),
        (json!([1, 2, 3, "4"]), "must be [left, top, width, height]"),
    ] {
        let output = ground(json!([[0, 0, 5, 5], given]));
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("box 1: ") && said.contains(part), "{said}");
    }
}

#[test]
fn a_check_of_a_list_finds_what_its_evaluation_would() {
    let dir = tempfile::tempdir().unwrap();
    data(dir.path(), 1);
    let check = |task: &str, list: &Value, more: &[&str]| {
        let list = write(dir.path(), "checked.json", list);
        let mut command = albef();
        command.args(["data", "check", &list, "--task", task, "--image-root"]).arg(dir.path());
        let text = command.args(more).output().unwrap();
        let json = command.arg("--json").output().unwrap();
        assert_eq!(text.status.code(), json.status.code());
        let report: Value = serde_json::from_slice(&json.stdout).unwrap();
        assert_eq!(report["clean"] == true, json.status.success(), "{report}");
        (String::from_utf8(text.stdout).unwrap(), report)
    };
    for task in ["captions", "vqa", "grounding"] {
        let (text, report) = check(task, &json!([]), &[]);
        assert_eq!((&report["clean"], &report["samples"]), (&json!(false), &json!(0)));
        assert!(text.contains("it holds no sample"), "{text}");
        assert_eq!(report["problems"], json!(["it holds no sample"]));
    }
    let question = |id: usize, text: &str| json!({"image": "0.png", "question": text, "question_id": id, "answer": "red"});
    let (text, report) =
        check("vqa", &json!([question(1, "a?"), question(2, "b?"), question(1, "c?")]), &[]);
    assert_eq!((&report["clean"], &report["repeated_question_ids"]), (&json!(false), &json!(1)));
    assert!(text.contains("entry 2: its `question_id` stands at entry 0"), "{text}");
    let expression = |text: &str, own: Value, all: Value| json!({"image": "0.png", "text": text, "box": own, "boxes": all});
    let good = expression("a", json!([0, 0, 5, 5]), json!([[0, 0, 5, 5], [3, 3, 40, 40, 0.5]]));
    let plain = json!({"image": "0.png", "text": "without boxes"});
    let (_, report) = check("grounding", &json!([good, plain]), &[]);
    assert_eq!((&report["clean"], &report["unusable_boxes"]), (&json!(true), &json!(0)));
    let flat = expression("b", json!([0, 0, 0, 5]), json!([[90, 0, 5, 5], "all"]));
    let (text, report) = check("grounding", &json!([good, flat]), &[]);
    assert_eq!((&report["clean"], &report["unusable_boxes"]), (&json!(false), &json!(3)));
    for part in ["entry 1, `box`: ", "`boxes`, box 0: ", "outside the image of 24 x 20"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let (_, quick) = check("grounding", &json!([good, flat]), &["--quick"]);
    assert_eq!(quick["unusable_boxes"], 2);
}

#[test]
fn a_class_that_is_named_twice_is_listed_once() {
    let dir = tempfile::tempdir().unwrap();
    data(dir.path(), 1);
    let mut command = albef();
    command.arg("classify").arg(dir.path().join("0.png")).args(["red", "blue", "red", "--json"]);
    let output = run(&mut command);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["classes"].as_array().unwrap().len(), 2, "{found}");
    assert!(stderr(&output).contains("repeat an earlier class (such as `red`)"));
}

#[test]
fn the_program_names_itself() {
    let version = String::from_utf8(run(albef().arg("--version")).stdout).unwrap();
    assert_eq!(version, format!("albef {}\n", env!("CARGO_PKG_VERSION")));
    let help = String::from_utf8(run(albef().arg("--help")).stdout).unwrap();
    assert!(help.starts_with("ALBEF: align images and text before fusing them"), "{help}");
}

#[test]
fn an_unknown_set_of_instructions_is_refused_and_a_help_that_cannot_be_written_is_an_error() {
    let output = albef().args(["doctor"]).env("ALBEF_ISA", "bogus").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = stderr(&output);
    assert!(said.contains("`ALBEF_ISA` is \"bogus\"; it may be `portable`"), "{said}");
    if let Ok(full) = std::fs::OpenOptions::new().write(true).open("/dev/full") {
        let status = albef().arg("--help").stdout(full).status().unwrap();
        assert_eq!(status.code(), Some(2));
    }
    assert_eq!(albef().arg("--help").output().unwrap().status.code(), Some(0));
    assert_eq!(albef().arg("--nothing").output().unwrap().status.code(), Some(2));
}

#[test]
fn what_a_command_reads_it_does_not_replace() {
    let dir = tempfile::tempdir().unwrap();
    let list = data(dir.path(), 2);
    let before = std::fs::read(&list).unwrap();
    let other = format!("--output={list}");
    for command in [
        &["data", "check", &list, "--manifest", &list][..],
        &["embed", &list, "--output", &list],
        &["embed", &list, &other],
        &["evaluate", "retrieval", "--annotations", &list, "--save-outcomes", &list],
        &["evaluate", "retrieval", &format!("--annotations={list}"), "--save", &list],
        &["embed", &format!("{list}#test"), "--output", &list],
    ] {
        let output = albef().args(command).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{command:?}");
        assert!(stderr(&output).contains("is also read by this command"), "{}", stderr(&output));
        assert_eq!(std::fs::read(&list).unwrap(), before);
    }
    std::fs::create_dir_all(dir.path().join("run/checkpoints")).unwrap();
    let mut convert = albef();
    convert.args(["convert", "--to", "safetensors", "--output"]).arg(dir.path().join("run"));
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/mini");
    let output = convert.arg(model).output().unwrap();
    assert!(stderr(&output).contains("the folder of a training run"), "{}", stderr(&output));
}
