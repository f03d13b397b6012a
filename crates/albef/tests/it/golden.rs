//! Every fixture of the golden set.

use std::path::Path;

use albef::{device, golden};

#[test]
fn all_fixtures_replay_within_tolerance() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let mut report = Vec::new();
    let all = golden::replay(&root, None, &device::cpu(), |_| {}).unwrap();
    for r in &all {
        match &r.outcome {
            Some(Ok(o)) if o.passed() => {}
            Some(outcome) => report.push(format!("{} ({}): {outcome:?}", r.name, r.kind)),
            None => report.push(format!("{} ({}): unknown kind", r.name, r.kind)),
        }
    }
    assert!(all.len() > 40);
    assert!(report.is_empty(), "{report:#?}");
}
