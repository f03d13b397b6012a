//! Documents tell the truth about where things are.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

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

/// Keys with their defaults, nested ones with a dot.
fn flat(prefix: &str, value: &serde_json::Value, out: &mut Vec<(String, String)>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let key = format!("{prefix}{key}");
        if value.is_object() {
            flat(&format!("{key}."), value, out);
        } else {
            out.push((key, value.to_string()));
        }
    }
}

#[test]
fn every_key_of_the_configuration_is_documented_with_its_default() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = std::fs::read_to_string(root.join("docs/src/reference/configuration.md")).unwrap();
    let (pretraining, finetuning) = page.split_once("## Fine-tuning").unwrap();
    let rows = |text: &str| -> Vec<(String, String)> {
        let cells = text.lines().filter_map(|line| {
            let mut cells = line.split("` | `").map(|cell| cell.trim_matches(['|', ' ', '`']));
            let (key, rest) = (cells.next()?.to_owned(), cells.next()?);
            Some((key, rest.split("` |").next()?.to_owned()))
        });
        cells.collect()
    };
    let (mut first, mut second) = (Vec::new(), Vec::new());
    flat("", &serde_json::to_value(albef::config::PretrainConfig::default()).unwrap(), &mut first);
    flat("", &serde_json::to_value(albef::config::FinetuneConfig::default()).unwrap(), &mut second);
    second.retain(|row| !first.contains(row));
    for (want, text) in [(first, pretraining), (second, finetuning)] {
        let got = rows(text);
        let line = |(key, value): &(String, String)| format!("| `{key}` | `{value}` |");
        let lacking: Vec<_> = want.iter().filter(|r| !got.contains(r)).map(line).collect();
        let strange: Vec<_> = got.iter().filter(|r| !want.contains(r)).map(line).collect();
        assert!(
            lacking.is_empty() && strange.is_empty(),
            "docs/src/reference/configuration.md lacks\n{}\nand has what is not so:\n{}",
            lacking.join("\n"),
            strange.join("\n")
        );
    }
}
