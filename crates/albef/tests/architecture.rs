//! ARCHITECTURE.md tells the truth about where things are.

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
