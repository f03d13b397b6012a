//! Searching wherever images lie.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::fs;
use std::path::Path;
use std::process::Output;

use crate::common::{albef, data, run, stderr};
use serde_json::{Value, json};

fn search(from: &Path, arguments: &[&str]) -> Output {
    run(albef().current_dir(from).args(["search", "a red square"]).args(arguments))
}

fn results(output: &Output) -> Vec<Value> {
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    found["results"].as_array().unwrap().clone()
}

fn archive(path: &Path, members: &[(&str, Vec<u8>)]) {
    let mut tar = tar::Builder::new(fs::File::create(path).unwrap());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, name, &bytes[..]).unwrap();
    }
    tar.into_inner().unwrap();
}

#[test]
fn a_list_finds_its_images_from_any_folder() {
    let dir = tempfile::tempdir().unwrap();
    let list = data(dir.path(), 3);
    let images = dir.path().display().to_string();
    let elsewhere = tempfile::tempdir().unwrap();
    let lonely = elsewhere.path().join("lonely.json");
    fs::copy(&list, &lonely).unwrap();
    // Beside the list, as they stand, and below a root.
    let found = results(&search(elsewhere.path(), &[&list, "--json"]));
    assert_eq!(found.len(), 3);
    assert!(
        found.iter().all(|hit| Path::new(hit["path"].as_str().unwrap()).is_file()),
        "{found:?}"
    );
    let lonely = lonely.display().to_string();
    assert_eq!(results(&search(dir.path(), &[&lonely, "--json"])).len(), 3);
    let rooted = [&lonely, "--json", "--image-root", &images];
    assert_eq!(results(&search(elsewhere.path(), &rooted)).len(), 3);
    let check = ["data", "check", "--json", &list];
    let report = run(albef().current_dir(elsewhere.path()).args(check));
    assert_eq!(serde_json::from_slice::<Value>(&report.stdout).unwrap()["missing"], 0);
    let sentences = dir.path().join("ve.json");
    let entry = |image: &str| json!({"image": image, "sentence": "it is red", "label": "neutral"});
    fs::write(&sentences, json!([entry("gone.png"), entry("1.png")]).to_string()).unwrap();
    let check = ["data", "check", "--json", "--task", "ve", sentences.to_str().unwrap()];
    let report = albef().current_dir(elsewhere.path()).args(check).output().unwrap();
    assert_eq!(report.status.code(), Some(1));
    assert_eq!(serde_json::from_slice::<Value>(&report.stdout).unwrap()["missing"], 1);
}

#[test]
fn an_image_is_searched_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    data(dir.path(), 3);
    let found = results(&search(dir.path(), &["1.png", "--json"]));
    assert_eq!((found.len(), &found[0]["image"]), (1, &json!("1.png")));
}

#[test]
fn members_of_several_shards_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    data(dir.path(), 2);
    let image = |i: usize| fs::read(dir.path().join(format!("{i}.png"))).unwrap();
    for i in 0..2 {
        let path = dir.path().join(format!("a-00{i}.tar"));
        archive(&path, &[("1f30f.png", image(i)), ("bad.png", b"no image".to_vec())]);
    }
    let pattern = dir.path().join("a-{000..001}.tar").display().to_string();
    let output = search(dir.path(), &[&pattern]);
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let said = stderr(&output);
    for i in 0..2 {
        assert!(text.contains(&format!("a-00{i}.tar:1f30f.png\n")), "{text}");
        assert!(said.contains(&format!("skipped: a-00{i}.tar:bad.png: ")), "{said}");
    }
    let mut found = results(&search(dir.path(), &[&pattern, "--json"]));
    found.sort_by_key(|hit| hit["archive"].to_string());
    for (i, hit) in found.iter().enumerate() {
        let path = dir.path().join(format!("a-00{i}.tar")).display().to_string();
        assert_eq!((&hit["archive"], &hit["member"]), (&json!(path), &json!("1f30f.png")));
    }
}

#[cfg(unix)]
#[test]
fn the_table_has_a_line_for_each_image_and_few_for_broken_ones() {
    let dir = tempfile::tempdir().unwrap();
    data(dir.path(), 1);
    let odd = dir.path().join("odd");
    fs::create_dir(&odd).unwrap();
    fs::copy(dir.path().join("0.png"), odd.join("two\nlines\u{1b}.png")).unwrap();
    for i in 0..14 {
        fs::write(odd.join(format!("{i}.jpg")), b"no image").unwrap();
    }
    let output = search(&odd, &["."]);
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.contains("two\\nlines\\u{1b}.png"), "{text}");
    let said = stderr(&output);
    assert_eq!(said.matches("skipped: ").count(), 10, "{said}");
    assert!(said.contains("and 4 more"), "{said}");
}

#[test]
fn without_candidates_the_cosine_decides_alone() {
    let dir = tempfile::tempdir().unwrap();
    let list = data(dir.path(), 5);
    let output = search(dir.path(), &[".", "--k", "0", "--top", "3", "--json"]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&found["order"], results(&output).len()), (&json!("cosine"), 3));
    for hit in results(&output) {
        assert_eq!((&hit["score"], &hit["probability"]), (&hit["cosine"], &Value::Null));
    }
    let evaluate = ["evaluate", "retrieval", "--annotations", &list, "--k", "0"];
    let text = run(albef().current_dir(dir.path()).args(evaluate)).stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("not re-ranked") && text.contains("cosine (ITC)"), "{text}");
    assert_eq!(text.lines().count(), 2, "{text}");
    let json = run(albef().current_dir(dir.path()).args(evaluate).arg("--json")).stdout;
    let report: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!((&report["k"], &report["score"]), (&json!(0), &Value::Null));
    assert_eq!(report["r_mean"], report["itc"]["r_mean"]);
}

#[test]
fn results_are_shown_in_the_terminal() {
    let dir = tempfile::tempdir().unwrap();
    data(dir.path(), 2);
    for source in [&["."][..], &[".", "--no-index"], &["list.json", "--top-k", "2"]] {
        let output = search(dir.path(), &[source, &["--preview=blocks"]].concat());
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        // Squares of 12 lines below each result.
        assert_eq!(lines.len(), 1 + 2 * 13, "{text}");
        assert!(lines[2].starts_with("\u{1b}[38;2;") && lines[2].ends_with("▀\u{1b}[0m"));
    }
    let plain = search(dir.path(), &[".", "--preview"]);
    let text = String::from_utf8(plain.stdout.clone()).unwrap();
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(stderr(&plain).contains("they need a terminal with colors"), "{}", stderr(&plain));
    let unknown = albef().args(["search", "a", ".", "--preview=sixel"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(2));
    assert!(stderr(&unknown).contains("`blocks`"), "{}", stderr(&unknown));
}

#[test]
fn mistakes_of_the_first_minutes_are_answered_with_what_was_meant() {
    let dir = tempfile::tempdir().unwrap();
    data(dir.path(), 2);
    let folder = dir.path().display().to_string();
    for (arguments, part) in [
        (&["search", "red", "apple", &folder][..], format!("albef search \"red apple\" {folder}")),
        (
            &["search", &folder, "apple"],
            format!("the text comes first: albef search \"apple\" {folder}"),
        ),
        (&["search", "apple", &folder, "--top-k", "-3"], "a whole number from 1 on".into()),
        (&["search", "apple", &folder, "--top-k", "0"], "must be at least 1".into()),
        (&["search", "apple", &folder, "--rerank-k", "-1"], "a whole number from 0 on".into()),
        (&["search", "apple", &folder, "--match-weight", "-1"], "must be 0 or more".into()),
        (
            &["search", "apple", &folder, "--model", "models/mega"],
            "one of `albef pull --list`".into(),
        ),
        (&["search", "apple", &folder, "--threads", "0"], "is not in 1..=1024".into()),
    ] {
        let output = albef().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let said = stderr(&output);
        assert!(said.contains(&part), "{arguments:?}: {said}");
    }
}
