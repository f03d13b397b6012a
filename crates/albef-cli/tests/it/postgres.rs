//! An index in PostgreSQL, from the command line, against a real server.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::common::{albef, data, out, run, stderr};
use crate::serve::Running;

/// The server to be tested against. Without one nothing is tested, unless `ALBEF_REQUIRE_POSTGRES` asks for it.
fn server() -> Option<String> {
    let url = std::env::var("ALBEF_TEST_POSTGRES").ok().filter(|url| !url.is_empty());
    let required = std::env::var_os("ALBEF_REQUIRE_POSTGRES").is_some_and(|v| v == "1");
    assert!(url.is_some() || !required, "ALBEF_TEST_POSTGRES must name a server (postgres://…)");
    url
}

/// A folder of images, and an index in a schema of this test.
struct Case {
    dir: tempfile::TempDir,
    store: String,
}

impl Case {
    fn new(url: &str, name: &str, images: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let photos = dir.path().join("photos");
        fs::create_dir(&photos).unwrap();
        data(&photos, images);
        fs::remove_file(photos.join("list.json")).unwrap();
        let join = if url.contains('?') { '&' } else { '?' };
        let schema = format!("albef_cli_{}_{name}", std::process::id());
        Self { dir, store: format!("{url}{join}schema={schema}") }
    }

    fn photos(&self) -> PathBuf {
        self.dir.path().join("photos")
    }

    /// The program with these arguments and the store. Its own data folder stays empty.
    fn albef(&self, arguments: &[&str]) -> Command {
        let mut command = albef();
        command.env("XDG_DATA_HOME", self.dir.path().join("data"));
        command.args(arguments).args(["--store", &self.store]);
        command
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn images(found: &Value) -> Vec<String> {
    let hits = found["results"].as_array().unwrap().iter();
    hits.map(|hit| hit["image"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn an_index_in_a_database_is_made_searched_and_kept_current() {
    let Some(url) = server() else { return };
    let case = Case::new(&url, "made", 9);
    let photos = case.photos();
    fs::write(photos.join("broken.png"), "no image").unwrap();
    let error = case.albef(&["index", "status"]).output().unwrap();
    assert_eq!(error.status.code(), Some(2));
    assert!(stderr(&error).contains("there is no index here"), "{}", stderr(&error));
    let dry = out(&mut case.albef(&["index", text(&photos), "--dry-run", "--json"]));
    assert_eq!(dry["added"], 10);
    let made = out(&mut case.albef(&["index", text(&photos), "--json"]));
    assert_eq!((&made["added"], &made["broken"]), (&json!(10), &json!(1)));
    let status = out(&mut case.albef(&["index", "status", "--json"]));
    assert_eq!((&status["images"], status["broken"].as_array().unwrap().len()), (&json!(9), 1));
    assert!(status["index"].as_str().unwrap().starts_with("PostgreSQL, schema albef_cli_"));

    // The same images in the same order as from an index in a folder.
    let search = ["search", "a red square", text(&photos), "--json"];
    let found = out(&mut case.albef(&search));
    let mut embedded = albef();
    embedded.args(search).arg("--index").arg(case.dir.path().join("index"));
    assert_eq!(images(&found), images(&out(&mut embedded)));

    // A search updates it; the address may be in the environment too, and without folders all of it is searched.
    fs::rename(photos.join("0.png"), photos.join("moved.png")).unwrap();
    fs::remove_file(photos.join("1.png")).unwrap();
    let mut search = albef();
    search.args(["search", "a red square", "--json"]).env("ALBEF_STORE", &case.store);
    let results = out(&mut search);
    let found = images(&results);
    assert!(found.contains(&"moved.png".to_owned()), "{found:?}");
    assert!(!found.contains(&"0.png".to_owned()) && !found.contains(&"1.png".to_owned()));
    assert!(!case.dir.path().join("data/albef/index").exists());

    let service = Running::spawn(&mut case.albef(&["serve"]));
    let body = json!({"query": "a red square"}).to_string();
    let json = [("Content-Type", "application/json")];
    let answer = service.send("POST", "/v1/search", &json, body.as_bytes());
    assert_eq!(answer.status, 200);
    let ids = |found: &Value| -> Vec<Value> {
        found["results"].as_array().unwrap().iter().map(|hit| hit["id"].clone()).collect()
    };
    assert_eq!(ids(&answer.json()), ids(&results));

    assert!(run(&mut case.albef(&["index", "verify"])).status.success());
    run(&mut case.albef(&["index", "gc"]));
    fs::copy(photos.join("2.png"), photos.join("copy.png")).unwrap();
    run(&mut case.albef(&["index"]));
    let copies = out(&mut case.albef(&["index", "dups", "--json"]));
    let exact = |group: &&Value| group["exact"] == true;
    assert!(copies["groups"].as_array().unwrap().iter().filter(exact).count() >= 1, "{copies}");
}

#[test]
fn damage_in_a_database_is_found_and_mended_and_other_models_are_not_mixed_in() {
    let Some(url) = server() else { return };
    let case = Case::new(&url, "damage", 6);
    let photos = case.photos();
    run(&mut case.albef(&["index", text(&photos)]));
    // Another way to read images is another preprocessing.
    let other = ["index", text(&photos), "--background", "black"];
    let refused = case.albef(&other).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        stderr(&refused).contains("another model or other image options"),
        "{}",
        stderr(&refused)
    );
    let again = out(case.albef(&other).args(["--reencode", "--json"]));
    assert_eq!((&again["encoded"], &again["unchanged"]), (&json!(6), &json!(0)));
    run(case.albef(&["index", text(&photos)]).arg("--reencode"));

    let schema = case.store.rsplit("schema=").next().unwrap();
    let mut client = postgres::Client::connect(&url, postgres::NoTls).unwrap();
    let sql = format!("UPDATE {schema}.image SET width = 3 WHERE path = '3.png'");
    client.batch_execute(&sql).unwrap();
    let found = case.albef(&["index", "verify"]).output().unwrap();
    assert_eq!(found.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&found.stdout).contains("3.png"));
    assert_eq!(out(&mut case.albef(&["index", "repair", "--json"]))["forgotten"], 1);
    assert_eq!(out(&mut case.albef(&["index", text(&photos), "--json"]))["added"], 1);
    assert!(run(&mut case.albef(&["index", "verify"])).status.success());
}

#[test]
fn addresses_that_lead_nowhere_are_errors_without_a_password() {
    let tried = |store: &str| {
        let output = albef().args(["index", "status", "--store", store]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        stderr(&output)
    };
    assert!(tried("/a/folder").contains("postgres://USER:PASSWORD@HOST/DATABASE"));
    // Nothing listens there.
    let error = tried("postgres://me:secret@127.0.0.1:9/images");
    assert!(error.contains("PostgreSQL, schema albef") && !error.contains("secret"), "{error}");
    let both = albef()
        .args(["search", "x", "--store", "postgres://h/d", "--index", "a"])
        .output()
        .unwrap();
    assert_eq!(both.status.code(), Some(2));
}
