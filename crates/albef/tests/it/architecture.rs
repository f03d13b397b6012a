//! Documents tell the truth about where things are.

use std::path::Path;

#[test]
fn every_file_of_the_paper_table_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let rows: Vec<&str> =
        text.lines().filter(|l| l.starts_with("| ") && l.contains("`crates/")).collect();
    assert!(rows.len() >= 10);
    for row in rows {
        let file = row.split('`').nth(1).unwrap();
        assert!(root.join(file).is_file(), "{file} is in the table and not in the tree");
    }
}

/// The sources of tests and of what they stand beside, one after another.
fn sources(folder: &Path, text: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            sources(&path, text);
        } else if path.extension().is_some_and(|e| e == "rs") {
            text.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn every_test_that_the_table_of_quirks_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let table = std::fs::read_to_string(root.join("docs/src/reference/quirks.md")).unwrap();
    let mut code = String::new();
    sources(&root.join("crates"), &mut code);
    let mut seen = 0;
    for row in table.lines().filter(|line| line.starts_with("| Q") || line.starts_with("| M")) {
        let tests = row.rsplit('|').nth(1).unwrap();
        for name in tests.split('`').skip(1).step_by(2).filter(|name| name.len() > 20) {
            assert!(code.contains(&format!("fn {name}()")), "{name} in {row}");
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen}");
}

/// With `UPDATE_DOCS` set the page is written instead.
#[test]
fn the_page_of_the_configuration_is_the_one_that_the_code_gives() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = root.join("docs/src/reference/configuration.md");
    let want = albef::config::reference();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&page, &want).unwrap();
    }
    let found = std::fs::read_to_string(&page).unwrap();
    let differs = found.lines().zip(want.lines()).find(|(found, want)| found != want);
    assert!(
        found == want,
        "docs/src/reference/configuration.md is not what the code gives, first {differs:?}; run \
         `UPDATE_DOCS=1 cargo test --release --workspace --test it page_of_the_configuration`"
    );
}

/// The crates of this workspace and of Burn that a manifest names as dependencies, tests aside.
fn dependencies(root: &Path, name: &str) -> Vec<String> {
    let manifest = root.join("crates").join(name).join("Cargo.toml");
    let text = std::fs::read_to_string(manifest).unwrap();
    let own =
        text.split("[dependencies]").nth(1).map_or("", |rest| rest.split("\n[").next().unwrap());
    let names = own.lines().filter_map(|line| line.split(['.', ' ', '=']).next());
    names.filter(|n| n.starts_with("albef") || n.starts_with("burn")).map(str::to_owned).collect()
}

#[test]
fn only_pull_reaches_the_network() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let (mut sockets, mut listeners, mut pulls) = (Vec::new(), Vec::new(), Vec::new());
    for entry in std::fs::read_dir(&crates).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let source = crates.join(&name).join("src");
        let within = |words: &[&str]| -> Vec<String> {
            naming(&source, words).iter().map(|file| format!("{name}/{file}")).collect()
        };
        sockets.extend(within(&["ureq::", "TcpStream", "UdpSocket"]));
        listeners.extend(within(&["TcpListener"]));
        pulls.extend(within(&["albef_hub::pull("]));
        let manifest = std::fs::read_to_string(crates.join(&name).join("Cargo.toml")).unwrap();
        let client = manifest.contains("ureq.workspace") || manifest.contains("ureq = {");
        assert_eq!(client, name == "albef-hub", "{name} has a client");
    }
    assert_eq!(sockets, ["albef-hub/client.rs"]);
    assert_eq!(listeners, ["albef-serve/server.rs"]);
    assert_eq!(pulls, ["albef-cli/pull.rs"]);
    let library = std::fs::read_to_string(crates.join("albef/Cargo.toml")).unwrap();
    assert!(library.contains("albef-hub.workspace = true"), "the library gets the client");
    let workspace = std::fs::read_to_string(crates.join("../Cargo.toml")).unwrap();
    let line = workspace.lines().find(|line| line.starts_with("albef-hub = ")).unwrap();
    assert!(line.contains("default-features = false"), "{line}");
}

/// The Rust files below a folder, relative to it, that contain one of the words.
fn naming(folder: &Path, words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                if words.iter().any(|word| text.contains(word)) {
                    found.push(path.strip_prefix(folder).unwrap().display().to_string());
                }
            }
        }
    }
    found.sort();
    found
}

#[test]
fn crates_know_what_the_invariants_allow() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for (name, allowed) in [
        ("albef-random", &[][..]),
        ("albef-files", &[]),
        ("albef-kernels", &["albef-random"]),
        ("albef-hub", &["albef-weights"]),
        ("albef-index", &["albef-data", "albef-files"]),
        ("albef-weights", &["albef-files"]),
        ("albef-data", &["albef-random", "albef-weights"]),
        ("albef-report", &["albef-files", "albef-random"]),
        ("albef-recipes", &["albef", "albef-data", "albef-weights"]),
        ("albef-serve", &["albef", "albef-data"]),
        ("albef-demo", &["albef", "albef-data", "albef-files", "albef-report", "albef-weights"]),
        (
            "albef-cli",
            &[
                "albef",
                "albef-data",
                "albef-demo",
                "albef-hub",
                "albef-recipes",
                "albef-report",
                "albef-serve",
                "albef-weights",
            ],
        ),
    ] {
        assert_eq!(dependencies(&root, name), allowed, "{name}");
        let source = root.join("crates").join(name).join("src");
        assert_eq!(naming(&source, &["burn::", "burn_"]), [""; 0], "{name} names Burn");
    }
    let library = root.join("crates/albef/src");
    let back_ends = naming(&library, &["burn_flex", "burn::backend"]);
    let allowed = |file: &String| {
        ["device.rs", "params.rs"].contains(&file.as_str()) || file.starts_with("ops/")
    };
    let strange: Vec<&String> = back_ends.iter().filter(|file| !allowed(file)).collect();
    assert!(!back_ends.is_empty() && strange.is_empty(), "{strange:?} name back ends");
}
