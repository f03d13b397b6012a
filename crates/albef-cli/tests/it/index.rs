//! `albef index`, and searching through an index.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use albef_data::image::RgbImage;
use albef_data::scenes::png;
use serde_json::{Value, json};

use crate::common::{albef, data, out, run, stderr};

/// A folder `photos` of `n` images, and the place of an index beside it.
fn photos(n: usize) -> (tempfile::TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let photos = dir.path().join("photos");
    fs::create_dir(&photos).unwrap();
    data(&photos, n);
    fs::remove_file(photos.join("list.json")).unwrap();
    let index = dir.path().join("index");
    (dir, photos, index)
}

fn index(photos: &Path, index: &Path, arguments: &[&str]) -> Command {
    let mut command = albef();
    command.arg("index").arg(photos).arg("--index").arg(index).args(arguments);
    command
}

fn search(photos: &Path, index: &Path, arguments: &[&str]) -> Command {
    let mut command = albef();
    command.args(["search", "a red square"]).arg(photos).arg("--index").arg(index).args(arguments);
    command
}

fn of_index(index: &Path, arguments: &[&str]) -> Command {
    let mut command = albef();
    command.arg("index").args(arguments).arg("--index").arg(index);
    command
}

fn names(found: &Value) -> Vec<&str> {
    found["results"].as_array().unwrap().iter().filter_map(|hit| hit["image"].as_str()).collect()
}

fn failed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    stderr(&output)
}

#[test]
fn an_index_is_made_kept_current_and_searched() {
    let (_dir, photos, at) = photos(9);
    fs::write(photos.join("broken.png"), "no image").unwrap();
    let dry = out(&mut index(&photos, &at, &["--dry-run", "--json"]));
    assert_eq!((&dry["added"], at.exists()), (&json!(10), false));
    let made = out(&mut index(&photos, &at, &["--json", "--workers", "2"]));
    assert_eq!(
        (&made["added"], &made["broken"], &made["encoded"]),
        (&json!(10), &json!(1), &json!(9))
    );
    let status = out(&mut of_index(&at, &["status", "--json"]));
    assert_eq!((&status["images"], status["broken"].as_array().unwrap().len()), (&json!(9), 1));

    // The same results as without an index, but that its vectors have fewer digits.
    let found = out(&mut search(&photos, &at, &["--json", "--score", "itm"]));
    let mut once = albef();
    once.args(["search", "a red square", "--no-index", "--json", "--score", "itm"]).arg(&photos);
    let once = out(&mut once);
    assert_eq!((&found["gallery"], &found["skipped"]), (&once["gallery"], &once["skipped"]));
    for (hit, same) in
        found["results"].as_array().unwrap().iter().zip(once["results"].as_array().unwrap())
    {
        let score = |hit: &Value| hit["score"].as_f64().unwrap();
        assert!((score(hit) - score(same)).abs() < 1e-3, "{hit} {same}");
    }

    // A search updates the index.
    fs::rename(photos.join("0.png"), photos.join("moved.png")).unwrap();
    fs::remove_file(photos.join("1.png")).unwrap();
    let found = out(&mut search(&photos, &at, &["--json"]));
    let names = names(&found);
    assert!(names.contains(&"moved.png") && !names.contains(&"0.png") && !names.contains(&"1.png"));
    let again = out(&mut index(&photos, &at, &["--json"]));
    assert_eq!((&again["encoded"], &again["unchanged"]), (&json!(0), &json!(9)));
    // Without a folder, those of the index.
    let again = out(of_index(&at, &[]).arg("--json"));
    assert_eq!(again["unchanged"], 9);
}

#[test]
fn states_are_kept_beside_the_index_and_used_by_searches() {
    let (_dir, photos, at) = photos(6);
    let made = run(&mut index(&photos, &at, &["--states", "f16"]));
    assert!(stderr(&made).contains("keeping states: "), "{}", stderr(&made));
    assert!(stderr(&made).contains("for 6 images"), "{}", stderr(&made));
    let states = |at: &Path| out(&mut of_index(at, &["status", "--json"]))["states"].clone();
    assert_eq!(states(&at)["images"], 6);
    let scores = |found: &Value| -> Vec<f64> {
        found["results"]
            .as_array()
            .unwrap()
            .iter()
            .map(|hit| hit["score"].as_f64().unwrap())
            .collect()
    };
    let kept = out(&mut search(&photos, &at, &["--json", "--score", "itm"]));
    run(&mut index(&photos, &at, &["--states", "none"]));
    assert_eq!(states(&at), Value::Null);
    let without = out(&mut search(&photos, &at, &["--json", "--score", "itm"]));
    for (a, b) in scores(&kept).iter().zip(scores(&without)) {
        assert!((a - b).abs() < 5e-3, "{kept} {without}");
    }
    // An index that has images gets the states of all of them.
    run(&mut index(&photos, &at, &["--states", "int8"]));
    assert_eq!(states(&at)["images"], 6);
    fs::remove_file(photos.join("0.png")).unwrap();
    run(&mut index(&photos, &at, &[]));
    assert_eq!(out(&mut of_index(&at, &["gc", "--json"]))["states_forgotten"], 1);
    assert_eq!(states(&at)["images"], 5);
    let error = failed(&mut index(&photos, &at, &["--states", "f8"]));
    assert!(error.contains("possible are f16, int8 and none"), "{error}");
    // With another way to read images all is made anew, states included.
    run(&mut index(&photos, &at, &["--reencode", "--background", "black"]));
    assert_eq!(states(&at)["images"], 5);
}

#[test]
fn without_a_place_an_index_is_one_of_the_user() {
    let (dir, photos, _) = photos(3);
    fs::create_dir(photos.join("sub")).unwrap();
    fs::rename(photos.join("2.png"), photos.join("sub/2.png")).unwrap();
    let program = || {
        let mut command = albef();
        command.env("XDG_DATA_HOME", dir.path().join("data")).current_dir(dir.path());
        command
    };
    let error = failed(program().args(["search", "red"]));
    assert!(error.contains("there is no index yet"), "{error}");
    let found = out(program().args(["search", "red", "photos", "--json"]));
    assert_eq!(found["results"].as_array().unwrap().len(), 3);
    let at = found["index"].as_str().unwrap().to_owned();
    assert!(at.contains("data/albef/index/"), "{at}");
    // A folder below is in the same index, and the only index needs no name.
    let below = out(program().args(["search", "red", "photos/sub", "--json"]));
    assert_eq!((below["index"].as_str(), names(&below)), (Some(at.as_str()), vec!["sub/2.png"]));
    let only = out(program().args(["search", "red", "--json"]));
    assert_eq!(only["index"].as_str(), Some(at.as_str()));
    fs::create_dir(dir.path().join("other")).unwrap();
    data(&dir.path().join("other"), 1);
    run(program().args(["index", "other"]));
    let error = failed(program().args(["search", "red"]));
    assert!(error.contains("there are 2 indexes") && error.contains("other"), "{error}");
    let both = out(program().args(["search", "red", "photos", "other", "--json"]));
    assert_eq!(both["results"].as_array().unwrap().len(), 3, "one image is in both folders");
}

#[test]
fn of_two_indexes_of_a_folder_the_one_of_the_same_options_is_searched() {
    let (dir, photos, _) = photos(3);
    let program = || {
        let mut command = albef();
        command.env("XDG_DATA_HOME", dir.path().join("data")).current_dir(dir.path());
        command
    };
    fs::create_dir(dir.path().join("other")).unwrap();
    data(&dir.path().join("other"), 1);
    run(program().args(["index", "photos", "other"]));
    run(program().arg("index").arg(&photos).args(["--background", "black"]));
    let of = |options: &[&str]| {
        let found = out(program().args(["search", "red", "photos", "--json"]).args(options));
        assert_eq!(found["results"].as_array().unwrap().len(), 3);
        found["index"].as_str().unwrap().to_owned()
    };
    assert_ne!(of(&[]), of(&["--background", "black"]));
    // Products of another precision make other vectors.
    if albef::device::bf16_unit().is_some() {
        let error = failed(program().args(["search", "red", "photos", "--precision", "bf16"]));
        assert!(error.contains("--reencode"), "{error}");
    }
    let none = program().args(["search", "red", "photos", "--camera", "abacus"]).output().unwrap();
    assert!(stderr(&none).contains("no image passes the filters"), "{}", stderr(&none));
}

#[test]
fn a_search_goes_on_while_another_process_writes() {
    let (_dir, photos, at) = photos(3);
    run(&mut index(&photos, &at, &[]));
    let lock = File::options().write(true).open(at.join("lock")).unwrap();
    lock.lock().unwrap();
    fs::remove_file(photos.join("0.png")).unwrap();
    let output = run(&mut search(&photos, &at, &["--rerank-k", "0", "--json"]));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["results"].as_array().unwrap().len(), 3);
    assert!(stderr(&output).contains("as it is: "), "{}", stderr(&output));
    let error = failed(&mut index(&photos, &at, &[]));
    assert!(error.contains("another process"), "{error}");
    // A folder that the index does not have cannot be added meanwhile.
    let other = tempfile::tempdir().unwrap();
    data(other.path(), 1);
    let error = failed(&mut search(other.path(), &at, &[]));
    assert!(error.contains("another process"), "{error}");
    lock.unlock().unwrap();
    let found = out(&mut search(&photos, &at, &["--json"]));
    assert_eq!(found["results"].as_array().unwrap().len(), 2);
}

#[test]
fn damage_is_found_and_mended() {
    let (_dir, photos, at) = photos(6);
    run(&mut index(&photos, &at, &[]));
    run(&mut of_index(&at, &["verify"]));
    let vectors = at.join("vectors-1.f16");
    let mut bytes = fs::read(&vectors).unwrap();
    bytes[4100] ^= 1;
    fs::write(&vectors, bytes).unwrap();
    let verified = of_index(&at, &["verify"]).output().unwrap();
    assert_eq!(verified.status.code(), Some(1));
    assert!(stderr(&verified).contains("albef index repair"));
    assert_eq!(out(&mut of_index(&at, &["repair", "--json"]))["forgotten"], 1);
    assert_eq!(out(&mut index(&photos, &at, &["--json"]))["encoded"], 1);
    assert_eq!(out(&mut of_index(&at, &["verify", "--json"]))["sound"], true);

    fs::write(at.join("catalogue.sqlite"), "no catalogue").unwrap();
    let error = failed(&mut search(&photos, &at, &[]));
    assert!(error.contains("albef index repair"), "{error}");
    let report = out(&mut of_index(&at, &["repair", "--json"]));
    assert_eq!(
        (&report["catalogue_rebuilt"], &report["salvaged_vectors"]),
        (&json!(true), &json!(6))
    );
    assert_eq!(out(&mut index(&photos, &at, &["--json"]))["encoded"], 0);
    let sizes = out(&mut of_index(&at, &["gc", "--json"]));
    assert!(sizes["bytes_after"].as_u64() <= sizes["bytes_before"].as_u64(), "{sizes}");
    assert_eq!(out(&mut of_index(&at, &["verify", "--json"]))["sound_images"], 6);
}

#[test]
fn other_image_options_are_refused_until_all_is_encoded_again() {
    let (_dir, photos, at) = photos(3);
    run(&mut index(&photos, &at, &[]));
    let error = failed(&mut search(&photos, &at, &["--background", "black"]));
    assert!(error.contains("--reencode"), "{error}");
    let other = ["--background", "black", "--reencode", "--json"];
    assert_eq!(out(&mut index(&photos, &at, &other))["encoded"], 3);
    run(&mut search(&photos, &at, &["--background", "black"]));
}

#[test]
fn filters_images_and_terms_narrow_a_search() {
    let (dir, photos, at) = photos(6);
    fs::create_dir(photos.join("large")).unwrap();
    let large = png(&RgbImage::filled(300, 200, [10, 200, 30])).unwrap();
    fs::write(photos.join("large/green.png"), large).unwrap();
    let found = |arguments: &[&str]| {
        let arguments = [&["--json"], arguments].concat();
        let found = out(&mut search(&photos, &at, &arguments));
        let mut names: Vec<String> = names(&found).into_iter().map(str::to_owned).collect();
        names.sort();
        names
    };
    assert_eq!(found(&[]).len(), 7);
    assert_eq!(found(&["--path", "[12].png"]), ["1.png", "2.png"]);
    assert_eq!(found(&["--path", "large/**"]), ["large/green.png"]);
    assert_eq!(found(&["--larger-than", "300x200"]), ["large/green.png"]);
    assert_eq!(found(&["--camera", "nikon"]), [""; 0]);
    assert_eq!(found(&["--before", "1999"]), [""; 0]);
    assert_eq!(found(&["--after", "1999"]).len(), 7);
    let pages: Vec<String> =
        ["1", "2", "3", "4"].iter().flat_map(|p| found(&["--top-k", "2", "--page", p])).collect();
    assert_eq!(pages.len(), 7);

    let mut like = albef();
    like.args(["search", "--like"]).arg(photos.join("large/green.png"));
    like.arg(&photos).arg("--index").arg(&at).args(["--top-k", "1", "--paths", "-0"]);
    let path =
        [photos.canonicalize().unwrap().join("large/green.png").display().to_string(), "\0".into()];
    assert_eq!(String::from_utf8(run(&mut like).stdout).unwrap(), path.concat());
    let minus =
        out(&mut search(&photos, &at, &["--json", "--minus", "green:0.5", "--plus", "blue"]));
    assert_eq!(minus["order"], "cosine");

    // Options of an index for what has none.
    let list = data(dir.path(), 2);
    let error = failed(albef().args(["search", "red", &list, "--camera", "x"]));
    assert!(error.contains("--camera"), "{error}");
    let error = failed(albef().args(["search", "red", &list, &list]));
    assert!(error.contains("one is searched at a time"), "{error}");
    let image = photos.join("0.png").display().to_string();
    let error = failed(albef().args(["search", "--like", &image, "nowhere"]));
    assert!(error.ends_with("there is no folder nowhere\n"), "{error}");
    let error = failed(&mut search(&photos, &at, &["nowhere"]));
    assert!(error.ends_with("there is no folder nowhere\n"), "{error}");
    let error = failed(&mut search(&photos, &at, &["--path", "a["]));
    assert!(error.contains("a["), "{error}");
}

#[cfg(unix)]
#[test]
fn paths_for_other_programs_are_bytes() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let (_dir, photos, at) = photos(1);
    let name = OsStr::from_bytes(b"\xff\n.png");
    fs::rename(photos.join("0.png"), photos.join(name)).unwrap();
    let output = run(&mut search(&photos, &at, &["--paths", "--null"]));
    let path = photos.canonicalize().unwrap().join(name);
    assert_eq!(output.stdout, [path.as_os_str().as_bytes(), b"\0"].concat());
}

#[cfg(unix)]
#[test]
fn a_link_is_no_copy_and_an_archive_among_photographs_hides_no_index() {
    let (_dir, photos, at) = photos(2);
    std::os::unix::fs::symlink("1.png", photos.join("0-link.png")).unwrap();
    fs::write(photos.join("old.tar"), [0; 1024]).unwrap();
    run(&mut search(&photos, &at, &["--path", "*.png"]));
    let others =
        || String::from_utf8(run(&mut of_index(&at, &["dups", "--paths"])).stdout).unwrap();
    assert_eq!(others(), "");
    fs::copy(photos.join("1.png"), photos.join("copy.png")).unwrap();
    run(&mut index(&photos, &at, &[]));
    assert_eq!(others().lines().count(), 1);
    assert!(!others().contains("link"), "{}", others());
}

#[test]
fn duplicates_are_grouped_and_one_is_kept() {
    let (_dir, photos, at) = photos(3);
    fs::copy(photos.join("0.png"), photos.join("copy.png")).unwrap();
    let found = out(&mut search(&photos, &at, &["--json"]));
    assert_eq!(found["results"].as_array().unwrap().len(), 3);
    let copies: usize = found["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|hit| hit["copies"].as_array().map_or(0, Vec::len))
        .sum();
    assert_eq!(copies, 1);
    let groups = out(&mut of_index(&at, &["dups", "--json"]));
    assert_eq!(
        (groups["groups"].as_array().unwrap().len(), &groups["groups"][0]["exact"]),
        (1, &json!(true))
    );
    let alike = out(&mut of_index(&at, &["dups", "--json", "--cosine", "0"]));
    assert_eq!(alike["groups"][0]["others"].as_array().unwrap().len(), 3);
    let paths = run(&mut of_index(&at, &["dups", "--paths"])).stdout;
    assert_eq!(String::from_utf8(paths).unwrap().lines().count(), 1);

    // Of a folder, only what is below it counts: what is not asked about is not proposed to go.
    let part = photos.join("part");
    fs::create_dir(&part).unwrap();
    for (copies, name) in [(0, "a.png"), (1, "b.png")] {
        fs::copy(photos.join("1.png"), part.join(name)).unwrap();
        run(&mut search(&photos, &at, &["--json"]));
        let mut dups = of_index(&at, &["dups", "--paths"]);
        let paths = String::from_utf8(run(dups.arg(&part)).stdout).unwrap();
        assert_eq!(paths.lines().count(), copies, "{paths}");
        assert!(paths.lines().all(|path| path.contains("/part/")), "{paths}");
    }
}

#[cfg(unix)]
#[test]
fn watching_keeps_the_index_current_until_it_is_interrupted() {
    let (_dir, photos, at) = photos(2);
    let mut child = index(&photos, &at, &["--watch", "1", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next()["added"], 2);
    fs::rename(photos.join("0.png"), photos.join("moved.png")).unwrap();
    assert_eq!(next()["moved"], 1);
    let number = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &number]).status().unwrap().success());
    assert!(child.wait().unwrap().success());
    assert_eq!(out(&mut of_index(&at, &["status", "--json"]))["images"], 2);
}

#[test]
fn indexes_are_found_by_their_folders_listed_and_removed() {
    let (dir, photos, _) = photos(3);
    let user = |arguments: &[&str]| {
        let mut command = albef();
        command.env("XDG_DATA_HOME", dir.path().join("data")).current_dir(dir.path());
        command.args(arguments);
        command
    };
    let list = || out(&mut user(&["index", "list", "--json"]))["indexes"].clone();
    assert_eq!(list(), json!([]));
    let inner = photos.join("2024");
    fs::create_dir_all(inner.join("may")).unwrap();
    for (name, color) in [("2024/a.png", 3), ("2024/may/b.png", 90)] {
        let image = png(&RgbImage::filled(20, 20, [color, 200, 30])).unwrap();
        fs::write(photos.join(name), image).unwrap();
    }
    // What is mistyped, or has no image, leaves no index behind.
    let error = failed(&mut user(&["search", "red", "--index", "nope"]));
    assert!(error.contains("there is no index at nope"), "{error}");
    fs::create_dir(dir.path().join("empty")).unwrap();
    failed(&mut user(&["search", "red", "empty"]));
    assert_eq!((list(), dir.path().join("nope").exists()), (json!([]), false));

    // The index nearest to a folder is that which has it, and only the folder is looked through.
    run(&mut user(&["index", "photos"]));
    run(&mut user(&["index", "."]));
    fs::write(photos.join("other.heic"), b"unread").unwrap();
    fs::write(inner.join("new.png"), fs::read(inner.join("a.png")).unwrap()).unwrap();
    fs::write(photos.join("new.png"), fs::read(photos.join("1.png")).unwrap()).unwrap();
    let found = user(&["search", "a red square", "photos/2024", "--json"]).output().unwrap();
    let said = stderr(&found);
    assert!(!said.contains("heic"), "{said}");
    let found: Value = serde_json::from_slice(&found.stdout).unwrap();
    assert!(names(&found).iter().all(|name| name.starts_with("2024/")), "{found}");
    let indexes = list();
    let of = |folder: &Path| {
        let folder = folder.canonicalize().unwrap().display().to_string();
        let all = indexes.as_array().unwrap();
        all.iter().find(|index| index["folders"] == json!([folder])).cloned().unwrap()
    };
    assert_eq!((&of(dir.path())["images"], &of(&photos)["images"]), (&json!(5), &json!(6)));
    let shown = run(&mut user(&["index", "list"]));
    assert!(String::from_utf8_lossy(&shown.stdout).contains("6 images"));

    // Without a folder, it is the index that the working directory is in.
    let mut status = user(&["index", "status", "--json"]);
    assert_eq!(out(status.current_dir(&inner))["folders"], of(&photos)["folders"]);
    let mut status = user(&["index", "status"]);
    assert!(failed(status.current_dir("/")).contains("there are 2 indexes"));

    let error = failed(&mut user(&["index", "remove", "photos/2024"]));
    assert!(error.contains("name all of them"), "{error}");
    let error = failed(&mut user(&["index", "remove"]));
    assert!(error.contains("albef index list"), "{error}");
    let removed = out(&mut user(&["index", "remove", "photos", "--json"]));
    assert_eq!((&removed["images"], &removed["removed"]), (&json!(6), &of(&photos)["index"]));
    assert_eq!(list().as_array().unwrap().len(), 1);
    assert!(photos.join("1.png").exists());
}
