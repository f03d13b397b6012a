use super::*;
use crate::task::tests::{configured, read, unread};

#[test]
fn answers_weigh_as_often_as_they_were_given() {
    let list = r#"[{"dataset": "vqa", "image": "a.jpg", "question": "q?", "question_id": 7,
        "answer": ["red", "blue", "red", "red"]},
        {"dataset": "vg", "image": "b.jpg", "question": "q?", "answer": "a man"},
        {"image": "c.jpg", "question": "q?"}]"#;
    let samples = read("vqa", list).unwrap();
    let wanted = Target::Answers(vec![("red".into(), 0.75), ("blue".into(), 0.25)]);
    assert_eq!(samples[0].task.target, wanted);
    assert_eq!((samples[0].task.id, samples[1].task.id), (Some(7), None));
    assert_eq!(samples[1].task.target, Target::Answers(vec![("a man".into(), 0.5)]));
    assert_eq!(samples[2].task.target, Target::None);
}

#[test]
fn images_are_below_the_root_of_their_data_set() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("list.json");
    let list = r#"[{"image": "a.jpg", "question": "q"},
        {"dataset": "vg", "image": "b.jpg", "question": "q"}]"#;
    std::fs::write(&path, list).unwrap();
    let roots = ImageRoots { vqa_root: "v".into(), vg_root: "g".into(), ..Default::default() };
    let samples = read_annotations(TaskRef::of(&Vqa), &path, &roots).unwrap().samples;
    let places = samples.iter().map(|s| s.location.clone());
    let wanted = ["v/a.jpg", "g/b.jpg"].map(|p| albef_data::dataset::Location::File(p.into()));
    assert_eq!(places.collect::<Vec<_>>(), wanted);
}

#[test]
fn odd_questions_are_refused_by_entry() {
    for (entry, part) in [
        (r#"{"image": "a", "question": "q", "question_id": "7a"}"#, "`question_id`"),
        (r#"{"image": "a", "question": "q", "question_id": 1.5}"#, "`question_id`"),
        (r#"{"image": "a", "question": "q", "dataset": 3}"#, "`dataset`"),
        (r#"{"image": "a", "question": "q", "dataset": "coco"}"#, "`dataset`"),
        (r#"{"image": "a", "question": "q", "answer": []}"#, "`answer`"),
        (r#"{"image": "a", "question": "q", "answer": ["red", 2]}"#, "an answer"),
        (r#"{"image": "a"}"#, "`question`"),
        (r#"{"question": "q"}"#, "`image`"),
    ] {
        let good = r#"{"image": "a", "question": "q"}"#;
        let error = unread("vqa", &format!("[{good}, {entry}]"));
        assert!(error.contains("list.json, entry 1") && error.contains(part), "{error}");
    }
}

#[test]
fn a_question_without_an_answer_to_learn_is_found_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let entry = |answer: &str| format!(r#"{{"image": "a", "question": "q"{answer}}}"#);
    let known = entry(r#", "answer": "red""#);
    let list = |name: &str, entries: &[&str]| {
        let path = dir.path().join(name);
        std::fs::write(&path, format!("[{}]", entries.join(","))).unwrap();
        path.display().to_string()
    };
    let whole = list("whole.json", &[&known, &known]);
    let torn = list("torn.json", &[&known, &entry(""), &entry("")]);
    let data = |files: &str| configured("vqa", &format!("train_file: [{files}]"), "x").open_data();
    let error = data(&format!("{whole}, {torn}")).unwrap_err().to_string();
    for part in ["torn.json, entry 1", "1 others", "`test_file`"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert_eq!(data(&whole).unwrap().len(), 2);
    // One among others stops nothing.
    let odd = list("odd.json", &[&known, &entry(r#", "answer": null"#), &known]);
    let found = data(&odd).unwrap();
    assert_eq!((found.len(), found.left_out().len()), (2, 1));
    assert!(data("").unwrap_err().to_string().contains("`train_file` is empty"));
}

#[test]
fn candidate_answers_are_listed_once_and_none_is_empty() {
    assert_eq!(answer_list("red, blue,red").unwrap(), ["red", "blue"]);
    assert_eq!(answer_list(r#" ["a, b", "c"]"#).unwrap(), ["a, b", "c"]);
    assert!(answer_list(r#"["a", 1]"#).unwrap_err().to_string().contains("no JSON list"));
    assert!(answer_list(" ").unwrap().is_empty());
    assert!(answer_list("red,,blue").unwrap_err().to_string().contains("answer 1"));
    for file in ["gone.json", "answers.txt", "./answers", "~/a", "</dev/null"] {
        assert!(answer_list(file).unwrap_err().to_string().contains(file));
    }
    assert_eq!(answer_list("no. 5, a/c").unwrap(), ["no. 5", "a/c"]);
    assert_eq!(answer_list("a/c").unwrap(), ["a/c"]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("answers.json");
    std::fs::write(&path, r#"["a, b", "c"]"#).unwrap();
    assert_eq!(answer_list(&path.display().to_string()).unwrap(), ["a, b", "c"]);
    std::fs::write(&path, "[1]").unwrap();
    let error = answer_list(&path.display().to_string()).unwrap_err().to_string();
    assert!(error.contains("answers.json") && error.contains("JSON list"), "{error}");
}

#[test]
fn a_model_keeps_its_answer_list_or_the_most_frequent_answers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("list.json");
    let entry = |answer: &str| format!(r#"{{"image": "a", "question": "q", "answer": {answer}}}"#);
    let entries = ["[\"red\", \"blue\"]", "\"blue\"", "\"green\"", "\"gray\""].map(entry);
    std::fs::write(&path, format!("[{}]", entries.join(","))).unwrap();
    let answers = |more: &str| {
        let config = configured("vqa", &format!("train_file: [{}]\n{more}", path.display()), "x");
        config.answers(&config.open_data().unwrap()).unwrap()
    };
    assert_eq!(answers(""), ["blue", "gray", "green", "red"]);
    assert_eq!(answers("answer_list: pink,blue"), ["pink", "blue"]);
}
