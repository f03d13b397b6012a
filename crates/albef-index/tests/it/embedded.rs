//! The index in a folder: conformance, locks, damage.

use std::fs;
use std::path::{Path, PathBuf};

use albef_index::{Embedded, Encoder, Filter, Identity, IndexError, Store, repair};

use crate::common::{Colors, WIDTH, contents, index, put, update_all};
use crate::conformance;

#[test]
fn it_is_a_store() {
    for (name, check) in conformance::CHECKS {
        println!("{name}");
        let dir = tempfile::tempdir().unwrap();
        check(&Embedded::write(dir.path(), &conformance::identity()).unwrap());
    }
}

#[test]
fn a_deleted_index_leaves_nothing_and_takes_nothing_else() {
    let (_dir, photos, folder) = photos();
    let states = folder.join("states");
    fs::create_dir(&states).unwrap();
    fs::write(folder.join("mine.txt"), b"mine").unwrap();
    fs::write(states.join("mine.txt"), b"mine").unwrap();
    let writer = Embedded::write(&folder, &Colors::default().identity()).unwrap();
    assert!(matches!(Embedded::delete(&folder), Err(IndexError::Locked { .. })));
    drop(writer);
    Embedded::delete(&folder).unwrap();
    let left: Vec<_> = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(states.join("mine.txt").exists());
    assert!(matches!(Embedded::delete(&folder), Err(IndexError::Missing { .. })));
    fs::remove_file(folder.join("mine.txt")).unwrap();
    fs::remove_dir_all(&states).unwrap();
    // It can be made anew, and a folder of its own goes with it.
    let (store, done) = index(&folder, &photos, &Colors::default());
    assert_eq!(done.encoded, 8);
    drop(store);
    Embedded::delete(&folder).unwrap();
    assert!(!folder.exists());
}

/// A folder of eight images and its index.
fn photos() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (photos, folder) = (dir.path().join("photos"), dir.path().join("index"));
    for i in 0..8 {
        put(&photos, &format!("{}/{i}.png", i % 3), i);
    }
    index(&folder, &photos, &Colors::default());
    (dir, photos, folder)
}

#[test]
fn one_process_writes_and_others_read() {
    let (_dir, photos, folder) = photos();
    let encoder = Colors::default();
    let writer = Embedded::write(&folder, &encoder.identity()).unwrap();
    let second = Embedded::write(&folder, &encoder.identity()).unwrap_err();
    assert!(matches!(second, IndexError::Locked { .. }), "{second}");
    let said = second.to_string();
    assert!(said.contains(&format!("(process {})", std::process::id())), "{said}");
    let reader = Embedded::read(&folder).unwrap();
    let found =
        |store: &Embedded| store.top_k(&[0.3; WIDTH], 99, &Filter::default()).unwrap().len();
    assert_eq!((found(&reader), found(&writer)), (8, 8));
    let refused = reader.add_root(b"/x").unwrap_err();
    assert!(matches!(refused, IndexError::ReadOnly { .. }), "{refused}");
    // A reader sees what is committed, also after the files were replaced.
    put(&photos, "new.png", 100);
    fs::remove_file(photos.join("0/0.png")).unwrap();
    fs::remove_file(photos.join("1/1.png")).unwrap();
    update_all(&writer, &encoder);
    assert_eq!(found(&reader), 7);
    writer.compact().unwrap();
    assert_eq!(found(&reader), 7);
    assert_eq!(contents(&reader), contents(&writer));
    drop(writer);
    Embedded::write(&folder, &encoder.identity()).unwrap();
}

#[cfg(unix)]
#[test]
fn an_index_that_cannot_be_written_is_read() {
    use std::os::unix::fs::PermissionsExt;
    let (_dir, _photos, folder) = photos();
    let expected = contents(&Embedded::read(&folder).unwrap());
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        fs::set_permissions(path, fs::Permissions::from_mode(0o444)).unwrap();
    }
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o555)).unwrap();
    assert_eq!(contents(&Embedded::read(&folder).unwrap()), expected);
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn another_model_is_refused_and_taken_when_asked_for() {
    let (_dir, photos, folder) = photos();
    let other = Colors { fingerprint: Some("colors-2".into()), ..Colors::default() };
    let refused = Embedded::write(&folder, &other.identity()).unwrap_err().to_string();
    assert!(refused.contains("colors-1") && refused.contains("--reencode"), "{refused}");
    let store = Embedded::write_anew(&folder, &other.identity()).unwrap();
    assert_eq!(store.roots().unwrap().len(), 1);
    assert_eq!(update_all(&store, &other).encoded, 8);
    let fresh = tempfile::tempdir().unwrap();
    assert_eq!(contents(&store), contents(&index(fresh.path(), &photos, &other).0));
    // Of the same model there is nothing to be done anew.
    drop(store);
    let store = Embedded::write_anew(&folder, &other.identity()).unwrap();
    assert_eq!(store.info().unwrap().images, 8);
}

#[test]
fn an_index_of_a_newer_program_is_refused() {
    let (_dir, _photos, folder) = photos();
    let connection = rusqlite::Connection::open(folder.join("catalogue.sqlite")).unwrap();
    connection.execute("UPDATE meta SET value = 99 WHERE key = 'format'", []).unwrap();
    drop(connection);
    for error in [Embedded::read(&folder).unwrap_err(), Embedded::maintain(&folder).unwrap_err()] {
        assert!(matches!(error, IndexError::NewerFormat { found: 99, .. }), "{error}");
    }
}

#[test]
fn where_there_is_no_index_the_error_says_how_to_make_one() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("nothing");
    for error in [
        Embedded::read(&at).unwrap_err(),
        Embedded::maintain(&at).unwrap_err(),
        repair(&at).unwrap_err(),
    ] {
        assert!(error.to_string().contains("albef index FOLDER --index"), "{error}");
    }
    assert!(!at.exists());
}

fn file(folder: &Path, begin: &str) -> PathBuf {
    let names = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let mut found: Vec<PathBuf> =
        names.filter(|p| p.file_name().unwrap().to_str().unwrap().starts_with(begin)).collect();
    assert_eq!(found.len(), 1, "{begin}");
    found.remove(0)
}

/// Damages an index, checks that this is found, mends it and brings it up to date: it is as it was.
fn damaged(what: &str, damage: impl Fn(&Path), encoded_again: std::ops::RangeInclusive<usize>) {
    let (_dir, _photos, folder) = photos();
    let expected = contents(&Embedded::read(&folder).unwrap());
    damage(&folder);
    let sound = Embedded::read(&folder).and_then(|store| store.verify());
    match &sound {
        Ok(found) => assert!(!found.is_sound(), "{what}"),
        Err(e) => assert!(matches!(e, IndexError::Damaged { .. }), "{what}: {e}"),
    }
    let report = repair(&folder).unwrap();
    let encoder = Colors::default();
    let store = Embedded::write(&folder, &encoder.identity()).unwrap();
    let verified = store.verify().unwrap();
    assert!(verified.is_sound(), "{what}: {verified:?}");
    update_all(&store, &encoder);
    let encoded = encoder.encoded();
    assert!(encoded_again.contains(&encoded), "{what}: {encoded} encoded, {report:?}");
    assert_eq!(contents(&store), expected, "{what}");
    assert!(store.verify().unwrap().is_sound(), "{what}");
    let found = store.top_k(&[0.3; WIDTH], 99, &Filter::default()).unwrap();
    assert_eq!(found.len(), 8, "{what}");
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_damaged_file_of_vectors_is_found_and_mended() {
    let vectors = |folder: &Path| file(folder, "vectors-");
    damaged("one vector", |f| flip(&vectors(f), 4096 + WIDTH * 2 * 3 + 5), 1..=1);
    damaged("the header", |f| flip(&vectors(f), 3), 0..=0);
    damaged("its width", |f| flip(&vectors(f), 12), 0..=0);
    damaged(
        "cut short",
        |f| fs::write(vectors(f), &fs::read(vectors(f)).unwrap()[..4096 + 60]).unwrap(),
        6..=6,
    );
    damaged("empty", |f| fs::write(vectors(f), b"").unwrap(), 8..=8);
    damaged("missing", |f| fs::remove_file(vectors(f)).unwrap(), 8..=8);
    damaged("zeros", |f| fs::write(vectors(f), vec![0; 8192]).unwrap(), 8..=8);
}

#[test]
fn a_damaged_catalogue_is_rebuilt_from_the_vectors() {
    let catalogue = |folder: &Path| folder.join("catalogue.sqlite");
    damaged("missing", |f| fs::remove_file(catalogue(f)).unwrap(), 0..=0);
    damaged("empty", |f| fs::write(catalogue(f), b"").unwrap(), 0..=0);
    damaged("no database", |f| fs::write(catalogue(f), b"no database at all").unwrap(), 0..=0);
    damaged(
        "cut short",
        |f| fs::write(catalogue(f), &fs::read(catalogue(f)).unwrap()[..5000]).unwrap(),
        0..=0,
    );
    damaged(
        "zeros",
        |f| {
            let mut bytes = fs::read(catalogue(f)).unwrap();
            bytes[4096..].fill(0);
            fs::write(catalogue(f), bytes).unwrap();
        },
        0..=0,
    );
    damaged(
        "one record",
        |f| {
            let connection = rusqlite::Connection::open(catalogue(f)).unwrap();
            connection.execute("UPDATE image SET width = 5 WHERE id = 4", []).unwrap();
        },
        1..=1,
    );
    damaged(
        "catalogue and one vector",
        |f| {
            fs::remove_file(catalogue(f)).unwrap();
            flip(&file(f, "vectors-"), 4096 + 5);
        },
        1..=1,
    );
    damaged(
        "catalogue and keys",
        |f| {
            fs::remove_file(catalogue(f)).unwrap();
            fs::remove_file(file(f, "keys-")).unwrap();
        },
        8..=8,
    );
}

#[test]
fn every_byte_of_the_catalogue_may_be_wrong() {
    let (_dir, _photos, folder) = photos();
    let path = folder.join("catalogue.sqlite");
    let whole = fs::read(&path).unwrap();
    let query = [0.3; WIDTH];
    for at in (0..whole.len()).step_by(37) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        fs::write(&path, &bytes).unwrap();
        // Errors or what is left: never a panic.
        if let Ok(store) = Embedded::read(&folder) {
            let _ = store.verify();
            let _ = store.info();
            let _ = store.top_k(&query, 5, &Filter::default());
        }
    }
}

#[test]
fn a_row_that_no_file_could_have_is_damage() {
    let (_dir, _photos, folder) = photos();
    for slot in [8, 1_i64 << 46, i64::MAX, -1] {
        let catalogue = rusqlite::Connection::open(folder.join("catalogue.sqlite")).unwrap();
        let sql = "UPDATE image SET slot = ?1 WHERE id = (SELECT max(id) FROM image)";
        assert_eq!(catalogue.execute(sql, [slot]).unwrap(), 1);
        drop(catalogue);
        let store = Embedded::read(&folder).unwrap();
        if slot > 0 {
            let found = store.top_k(&[0.3; WIDTH], 3, &Filter::default());
            assert!(matches!(found, Err(IndexError::Damaged { .. })), "{slot}: {found:?}");
        }
        assert!(!store.verify().unwrap().is_sound(), "{slot}");
    }
}

#[test]
fn without_catalogue_and_description_nothing_says_what_the_vectors_are_of() {
    let (_dir, _photos, folder) = photos();
    fs::remove_file(folder.join("index.json")).unwrap();
    fs::write(folder.join("catalogue.sqlite"), b"no database at all").unwrap();
    let error = repair(&folder).unwrap_err().to_string();
    assert!(error.contains("which model"), "{error}");
    // The description alone is written again.
    let (_dir, _photos, folder) = photos();
    fs::remove_file(folder.join("index.json")).unwrap();
    drop(Embedded::maintain(&folder).unwrap());
    assert!(fs::read_to_string(folder.join("index.json")).unwrap().contains("colors-1"));
}

#[test]
fn threads_share_a_store() {
    fn shared<T: Send + Sync>() {}
    shared::<Embedded>();
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity { fingerprint: "f".into(), model: "m".into(), width: 4 };
    let store = Embedded::write(dir.path(), &identity).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for i in 0..20 {
                    store.add_root(format!("/{i}").as_bytes()).unwrap();
                    store.top_k(&[0.0; 4], 3, &Filter::default()).unwrap();
                }
            });
        }
    });
    assert_eq!(store.roots().unwrap().len(), 20);
}
