//! Full disks.

use std::sync::atomic::Ordering;

use albef_index::{Embedded, Encoder, Store};

use crate::common::{Colors, contents, index, put, update_all};

/// With this variable the test below is the process that finds no room.
const ROLE: &str = "ALBEF_INDEX_TEST_FULL";

#[cfg(unix)]
#[test]
fn a_full_disk_loses_nothing_that_was_acknowledged() {
    use std::process::Command;
    if let Some(dir) = std::env::var_os(ROLE) {
        let dir = std::path::PathBuf::from(dir);
        let encoder = Colors::default();
        let options = albef_index::UpdateOptions { workers: 1, ..Default::default() };
        let control =
            albef_index::Control::new().on_progress(|p| println!("acknowledged {}", p.done));
        let error = Embedded::maintain(&dir.join("index"))
            .and_then(|store| albef_index::update(&store, &encoder, &options, &control))
            .unwrap_err();
        println!("error {error}");
        return;
    }
    // Files grow beyond the limit at different places: the vectors, the keys, the log of the catalogue.
    for blocks in [40, 100, 200, 400] {
        let dir = tempfile::tempdir().unwrap();
        let (photos, folder) = (dir.path().join("photos"), dir.path().join("index"));
        put(&photos, "first.png", 9999);
        let encoder = Colors::default();
        index(&folder, &photos, &encoder);
        for i in 0..5000 {
            put(&photos, &format!("{i}.png"), i);
        }
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
        let test = "faults::a_full_disk_loses_nothing_that_was_acknowledged";
        let output = Command::new("sh")
            .args(["-c", &script])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(ROLE, dir.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        let full = said.contains("error ") && said.contains("no room left");
        assert!(full, "{blocks}: {said}{errors}");
        let acknowledged = said.lines().filter_map(|l| l.strip_prefix("acknowledged ")).next_back();
        let acknowledged: u64 = acknowledged.map_or(0, |n| n.parse().unwrap());
        let store = Embedded::write(&folder, &encoder.identity()).unwrap();
        let kept = store.info().unwrap().images;
        assert!(kept > acknowledged, "{blocks}: {kept} of {acknowledged}");
        assert!(store.verify().unwrap().is_sound());
        update_all(&store, &encoder);
        let fresh = tempfile::tempdir().unwrap();
        assert_eq!(contents(&store), contents(&index(fresh.path(), &photos, &encoder).0));
        assert!(encoder.encoded.load(Ordering::SeqCst) > 5000);
    }
}
