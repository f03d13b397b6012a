//! The fixtures about pixels and words.

use std::path::Path;

#[test]
fn pixel_and_word_fixtures_replay() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let manifest = std::fs::read_to_string(root.join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    let mut failed = Vec::new();
    let mut replayed = 0;
    for fixture in manifest["fixtures"].as_array().unwrap() {
        let kind = fixture["kind"].as_str().unwrap();
        if let Some(outcome) = albef_data::golden::replay(kind, &root, fixture) {
            let outcome = outcome.unwrap();
            if !outcome.passed() {
                failed.push(format!("{kind}: {outcome:?}"));
            }
            replayed += 1;
        }
    }
    assert_eq!(replayed, 5);
    assert!(failed.is_empty(), "{failed:#?}");
}
