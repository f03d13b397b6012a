//! The page of the published checkpoints is the one that the code gives.

use std::path::Path;

/// With `UPDATE_DOCS` set the table is written instead.
#[test]
fn the_table_of_the_documents_is_that_of_the_program() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../docs/src/reference/published-checkpoints.md");
    let text = std::fs::read_to_string(&page).unwrap();
    let (begin, end) = ("<!-- table -->\n", "<!-- end of the table -->");
    let (before, rest) = text.split_once(begin).unwrap();
    let (_, after) = rest.split_once(end).unwrap();
    let want = format!("{before}{begin}\n{}\n{end}{after}", albef_hub::table());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&page, &want).unwrap();
        return;
    }
    assert!(
        text == want,
        "{} is not what the code gives; run `UPDATE_DOCS=1 cargo test --release -p albef-hub table`",
        page.display()
    );
}
