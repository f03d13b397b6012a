//! What a search leaves: a page, heat maps, and results that other commands take by number.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::common::{albef, out, pretrained, run, stderr};

/// A model, and four of its images in a folder, of which one has a name that would be markup.
fn prepared(dir: &Path) -> (PathBuf, PathBuf) {
    let model = pretrained(dir);
    let photos = dir.join("photos");
    fs::create_dir(&photos).unwrap();
    for (from, to) in [("0", "a"), ("1", "<b>&"), ("2", "c"), ("3", "d")] {
        fs::copy(dir.join(format!("{from}.png")), photos.join(format!("{to}.png"))).unwrap();
    }
    (model, photos)
}

/// A command of a user whose data folder is in `dir`.
fn of_user(dir: &Path, model: &Path, arguments: &[&str]) -> Command {
    let mut command = albef();
    command.env("XDG_DATA_HOME", dir.join("data")).current_dir(dir).args(arguments);
    command.arg("--model").arg(model);
    command
}

#[test]
fn a_page_shows_the_results_with_maps_and_no_markup_of_others() {
    let dir = tempfile::tempdir().unwrap();
    let (model, _) = prepared(dir.path());
    let search = |more: &[&str]| {
        let arguments = [&["search", "a <i>red</i> square", "photos", "--top-k", "3"], more];
        of_user(dir.path(), &model, &arguments.concat())
    };
    let output = run(&mut search(&["--html", "page.html", "--explain", "maps", "--json"]));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(stderr(&output).contains("wrote page.html"), "{}", stderr(&output));
    let page = fs::read_to_string(dir.path().join("page.html")).unwrap();
    assert!(!page.contains("<i>") && !page.contains("<b>&") && !page.contains("<script"));
    assert!(
        page.contains("a &lt;i&gt;red&lt;/i&gt; square") && page.contains("default-src 'none'")
    );
    assert_eq!(page.matches("<li>").count(), 3);
    for word in ["all words", "red", "square"] {
        assert_eq!(page.matches(&format!("\"0\">{word}<img")).count(), 3, "{word}");
    }
    let best = found["results"][0]["probability"].as_f64().unwrap();
    assert!(page.contains(&format!(">{best:.3}</b>")), "{best}");
    let maps = fs::read_dir(dir.path().join("maps")).unwrap();
    let mut maps: Vec<String> =
        maps.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    maps.sort();
    assert!(maps[0].starts_with("01-") && maps.iter().any(|m| m.ends_with("-red.png")), "{maps:?}");
    // Lists and single images have the same page; without a text there are thumbnails alone.
    run(&mut of_user(dir.path(), &model, &["search", "red", "0.png", "--html", "one.html"]));
    let one = fs::read_to_string(dir.path().join("one.html")).unwrap();
    assert_eq!((one.matches("<li>").count(), one.matches("class=\"word\"").count()), (1, 1));
    let like = ["search", "--like", "0.png", "photos", "--html", "like.html"];
    run(&mut of_user(dir.path(), &model, &like));
    let like = fs::read_to_string(dir.path().join("like.html")).unwrap();
    assert_eq!((like.matches("<li>").count(), like.matches("class=\"word\"").count()), (4, 0));
}

#[cfg(unix)]
#[test]
fn a_page_is_opened_in_the_browser_of_the_user() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let (model, _) = prepared(dir.path());
    let browser = dir.path().join("browser");
    let seen = dir.path().join("seen");
    fs::write(
        &browser,
        format!("#!/bin/sh\nprintf %s \"$1\" > {0}.new; mv {0}.new {0}\n", seen.display()),
    )
    .unwrap();
    fs::set_permissions(&browser, fs::Permissions::from_mode(0o755)).unwrap();
    let search = ["search", "red", "photos", "--open"];
    run(of_user(dir.path(), &model, &search).env("BROWSER", &browser));
    let opened = (0..200).find_map(|_| {
        std::thread::sleep(Duration::from_millis(50));
        fs::read_to_string(&seen).ok()
    });
    let page = dir.path().join("data/albef/last-search.html");
    assert_eq!(opened.map(PathBuf::from), Some(page.clone()));
    assert!(fs::read_to_string(page).unwrap().contains("<h1>red</h1>"));
    let none = of_user(dir.path(), &model, &search).env("BROWSER", "/no/such").output().unwrap();
    assert_eq!(none.status.code(), Some(2));
    assert!(stderr(&none).contains("open ") && stderr(&none).contains("last-search.html"));
}

#[test]
fn results_are_named_by_number() {
    let dir = tempfile::tempdir().unwrap();
    let (model, photos) = prepared(dir.path());
    let of = |arguments: &[&str]| of_user(dir.path(), &model, arguments);
    let refused = |arguments: &[&str]| {
        let output = of(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        stderr(&output)
    };
    let none = refused(&["match", "@1", "red"]);
    assert!(none.contains("there is no last search"), "{none}");
    let found = out(&mut of(&["search", "red", "photos", "--json"]));
    let image = |at: usize| found["results"][at]["image"].as_str().unwrap().to_owned();
    // From anywhere.
    let matched = out(of(&["match", "@2", "red", "--json"]).current_dir("/"));
    let same = photos.join(image(1)).display().to_string();
    assert_eq!(matched, out(&mut of(&["match", &same, "red", "--json"])));
    let grounded = |image: &str| {
        let output = of(&["ground", image, "red", "--json"]).output().unwrap();
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    assert_eq!(grounded("@2"), grounded(&same));
    for (arguments, part) in [
        (["match", "@9", "red"], "the last search (`red`) has 4"),
        (["ground", "@0", "red"], "there is no result @0"),
        (["classify", "@x", "red"], "@x"),
    ] {
        let error = refused(&arguments);
        assert!(error.contains(part), "{arguments:?}: {error}");
    }
    fs::remove_file(photos.join(image(2))).unwrap();
    let gone = refused(&["classify", "@3", "red", "blue"]);
    assert!(gone.contains("which is gone"), "{gone}");
    fs::write(dir.path().join("data/albef/last-search.json"), "{").unwrap();
    let damaged = refused(&["match", "@1", "red"]);
    assert!(damaged.contains("last-search.json") && damaged.contains("hint"), "{damaged}");
    // A place that cannot be written costs the numbers and not the search.
    fs::remove_file(dir.path().join("data/albef/last-search.json")).unwrap();
    fs::create_dir(dir.path().join("data/albef/last-search.json")).unwrap();
    let output = run(&mut of(&["search", "red", "photos", "--json"]));
    assert!(stderr(&output).contains("cannot be named by number"), "{}", stderr(&output));
}

#[test]
fn several_images_and_folders_are_matched_and_classified() {
    let dir = tempfile::tempdir().unwrap();
    let (model, photos) = prepared(dir.path());
    fs::create_dir(photos.join("sub")).unwrap();
    fs::rename(photos.join("d.png"), photos.join("sub/d.png")).unwrap();
    fs::write(photos.join("e.png"), "no image").unwrap();
    fs::create_dir(photos.join(".hidden")).unwrap();
    fs::copy(photos.join("a.png"), photos.join(".hidden/a.png")).unwrap();
    let of = |arguments: &[&str]| of_user(dir.path(), &model, arguments);
    let found = out(&mut of(&["match", "photos", "0.png", "a red square", "--json"]));
    let results = found["results"].as_array().unwrap();
    let names: Vec<&str> = results.iter().map(|r| r["image"].as_str().unwrap()).collect();
    let last = ["photos/a.png", "photos/c.png", "photos/sub/d.png", "0.png"];
    assert_eq!((&names[1..], &found["skipped"]), (&last[..], &json!(1)));
    let alone = out(&mut of(&["match", "0.png", "a red square", "--json"]));
    for (key, value) in alone.as_object().unwrap().iter().filter(|(_, v)| v.is_number()) {
        let (a, b) = (value.as_f64().unwrap(), results[4][key].as_f64().unwrap());
        assert!((a - b).abs() < 1e-5, "{key}: {a} {b}");
    }
    let lines = String::from_utf8(run(&mut of(&["match", "photos", "red"])).stdout).unwrap();
    assert_eq!(lines.lines().count(), 5, "{lines}");
    let classify = ["classify", "photos", "red", "blue", "--also", "0.png"];
    let classes = out(of(&classify).arg("--json"));
    let results = classes["results"].as_array().unwrap();
    assert_eq!((results.len(), &classes["skipped"]), (5, &json!(1)));
    assert_eq!(results[4]["classes"].as_array().unwrap().len(), 2);
    let output = run(&mut of(&classify));
    let lines = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(lines.lines().count(), 6, "{lines}");
    assert!(stderr(&output).contains("e.png"), "{}", stderr(&output));
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let none = of(&["match", "empty", "red"]).output().unwrap();
    assert_eq!(none.status.code(), Some(2));
    assert!(stderr(&none).contains("there are no images in empty"), "{}", stderr(&none));
}
