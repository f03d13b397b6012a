//! New, changed, moved, copied, broken and vanished files.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use albef_index::{
    ContentHash, Control, Embedded, Encoder, IndexError, Store, UpdateOptions, folders, update,
};

use crate::common::{Colors, contents, image, index, paths, put, update_all};

#[test]
fn only_what_is_new_or_changed_is_encoded() {
    let dir = tempfile::tempdir().unwrap();
    let (photos, folder) = (dir.path().join("photos"), dir.path().join("index"));
    for i in 0..90 {
        put(&photos, &format!("{}/{i}.png", i % 4), i);
    }
    let encoder = Colors::default();
    let (store, done) = index(&folder, &photos, &encoder);
    assert_eq!((done.found, done.added, done.encoded), (90, 90, 90));
    let again = update_all(&store, &encoder);
    assert_eq!((again.unchanged, again.is_change(), encoder.encoded()), (90, false, 90));

    put(&photos, "0/0.png", 1000);
    put(&photos, "new.png", 1001);
    fs::remove_file(photos.join("1/1.png")).unwrap();
    fs::rename(photos.join("2/2.png"), photos.join("3/moved.png")).unwrap();
    fs::rename(photos.join("0"), photos.join("renamed")).unwrap();
    fs::copy(photos.join("3/3.png"), photos.join("copy.png")).unwrap();
    let ids: Vec<i64> =
        store.top_k(&[0.3; 12], 999, &Default::default()).unwrap().iter().map(|f| f.id).collect();
    let done = update_all(&store, &encoder);
    // `0/0.png` changed and moved at once, which is a new image and one that is gone.
    assert_eq!((done.added, done.changed, done.moved, done.forgotten), (3, 0, 23, 2));
    assert_eq!((done.known_content, done.encoded, encoder.encoded()), (1, 2, 92));
    let after: Vec<i64> =
        store.top_k(&[0.3; 12], 999, &Default::default()).unwrap().iter().map(|f| f.id).collect();
    assert_eq!(after.iter().filter(|id| ids.contains(id)).count(), 88, "numbers stay");
    put(&photos, "3/3.png", 1002);
    assert_eq!(update_all(&store, &encoder).changed, 1);
    let fresh = tempfile::tempdir().unwrap();
    assert_eq!(contents(&store), contents(&index(fresh.path(), &photos, &encoder).0));
}

#[test]
fn two_files_that_change_places_keep_their_own_vectors() {
    let dir = tempfile::tempdir().unwrap();
    let (photos, folder) = (dir.path().join("photos"), dir.path().join("index"));
    for i in 0..20 {
        put(&photos, &format!("{i}.png"), i);
    }
    let encoder = Colors::default();
    let (store, _) = index(&folder, &photos, &encoder);
    for i in 0..20 {
        put(&photos, &format!("{i}.png"), (i + 1) % 20);
    }
    let done = update_all(&store, &encoder);
    assert_eq!((done.changed, done.moved), (20, 0));
    let fresh = tempfile::tempdir().unwrap();
    assert_eq!(contents(&store), contents(&index(fresh.path(), &photos, &encoder).0));
}

#[test]
fn broken_images_are_named_and_read_again_when_they_change() {
    let dir = tempfile::tempdir().unwrap();
    let (photos, folder) = (dir.path().join("photos"), dir.path().join("index"));
    put(&photos, "good.png", 1);
    fs::write(photos.join("text.jpg"), b"no image").unwrap();
    fs::write(photos.join("empty.png"), b"").unwrap();
    fs::write(photos.join("cut.png"), &image(5)[..40]).unwrap();
    let encoder = Colors::default();
    let (store, done) = index(&folder, &photos, &encoder);
    assert_eq!((done.added, done.broken, done.encoded), (4, 3, 1));
    let names: Vec<&str> = done.broken_images.iter().map(|s| s.name.as_str()).collect();
    assert!(["text.jpg", "empty.png", "cut.png"].iter().all(|name| names.contains(name)));
    let info = store.info().unwrap();
    assert_eq!((info.images, info.broken), (1, 3));
    assert_eq!(update_all(&store, &encoder).unchanged, 4);
    put(&photos, "cut.png", 5);
    let done = update_all(&store, &encoder);
    assert_eq!((done.changed, done.broken, done.encoded), (1, 0, 1));
}

#[cfg(unix)]
#[test]
fn names_are_bytes() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().unwrap();
    let (photos, folder) = (dir.path().join("photos"), dir.path().join("index"));
    fs::create_dir_all(&photos).unwrap();
    let names: [&[u8]; 5] = [
        b"\xff\xfe.png",
        b"two\nlines.png",
        "e\u{301}.png".as_bytes(),
        "\u{e9}.png".as_bytes(),
        b" .png",
    ];
    for (i, name) in names.iter().enumerate() {
        fs::write(photos.join(OsStr::from_bytes(name)), image(i as u64)).unwrap();
    }
    let encoder = Colors::default();
    let (store, done) = index(&folder, &photos, &encoder);
    assert_eq!(done.added, 5);
    let root = store.roots().unwrap()[0].id;
    for name in names {
        assert!(store.find(root, name).unwrap().is_some(), "{}", name.escape_ascii());
    }
    assert_eq!(update_all(&store, &encoder).unchanged, 5);
}

#[test]
fn a_folder_that_is_not_there_keeps_its_images() {
    let dir = tempfile::tempdir().unwrap();
    let (photos, folder) = (dir.path().join("photos"), dir.path().join("index"));
    put(&photos, "a.png", 1);
    let encoder = Colors::default();
    let (store, _) = index(&folder, &photos, &encoder);
    fs::rename(&photos, dir.path().join("away")).unwrap();
    let done = update_all(&store, &encoder);
    assert_eq!((done.missing_roots.len(), done.forgotten), (1, 0));
    assert_eq!(store.info().unwrap().images, 1);
    fs::rename(dir.path().join("away"), &photos).unwrap();
    assert_eq!(update_all(&store, &encoder).unchanged, 1);
}

#[test]
fn several_folders_one_of_them_below_another() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().canonicalize().unwrap().join(name);
    put(dir.path(), "a/1.png", 1);
    put(dir.path(), "a/sub/2.png", 2);
    put(dir.path(), "b/3.png", 3);
    assert_eq!(
        folders(&[at("b"), at("a/sub"), at("a"), at("a/../b")]).unwrap(),
        [at("a"), at("b")]
    );
    assert!(folders(&[at("none")]).unwrap_err().to_string().contains("none"));
    assert!(folders(&[at("a/1.png")]).is_err());
    let encoder = Colors::default();
    let (store, _) = index(&at("index"), &at("a"), &encoder);
    for root in ["b", "a/sub"] {
        store.add_root(at(root).as_os_str().as_encoded_bytes()).unwrap();
    }
    let done = update_all(&store, &encoder);
    assert_eq!((done.found, done.moved, done.encoded), (3, 1, 1));
    assert_eq!(paths(&store), ["1.png", "2.png", "3.png"]);
}

#[test]
fn a_dry_run_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (photos, folder) = (dir.path().join("photos"), dir.path().join("index"));
    put(&photos, "a.png", 1);
    put(&photos, "b.png", 2);
    let encoder = Colors::default();
    let (store, _) = index(&folder, &photos, &encoder);
    put(&photos, "c.png", 3);
    put(&photos, "a.png", 4);
    fs::remove_file(photos.join("b.png")).unwrap();
    let (before, generation) = (contents(&store), store.info().unwrap().generation);
    let options = UpdateOptions { dry_run: true, ..UpdateOptions::default() };
    let done = update(&store, &encoder, &options, &Control::new()).unwrap();
    assert_eq!((done.added, done.changed, done.forgotten, done.encoded), (1, 1, 1, 0));
    // What would be moved is what is moved.
    put(&photos, "sub/b.png", 2);
    let done = update(&store, &encoder, &options, &Control::new()).unwrap();
    assert_eq!((done.added, done.moved, done.changed, done.forgotten), (1, 1, 1, 0));
    assert_eq!((contents(&store), store.info().unwrap().generation), (before, generation));
}

#[test]
fn progress_is_acknowledged_and_cancelling_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let (photos, folder) = (dir.path().join("photos"), dir.path().join("index"));
    for i in 0..600 {
        put(&photos, &format!("{i}.png"), i);
    }
    let encoder = Colors::default();
    let store = Embedded::write(&folder, &encoder.identity()).unwrap();
    store.add_root(photos.canonicalize().unwrap().as_os_str().as_encoded_bytes()).unwrap();
    let (flag, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (stop, count) = (Arc::clone(&flag), Arc::clone(&acknowledged));
    let control = Control::new().cancelled_by(flag).on_progress(move |progress| {
        assert_eq!(progress.total, 600);
        count.store(progress.done, Ordering::SeqCst);
        if progress.done > 200 {
            assert!(progress.rate > 0.0 && progress.eta.is_some());
            stop.store(true, Ordering::SeqCst);
        }
    });
    let options = UpdateOptions { workers: 2, ..UpdateOptions::default() };
    let stopped = update(&store, &encoder, &options, &control).unwrap_err();
    assert!(matches!(stopped, IndexError::Cancelled));
    let kept = store.info().unwrap().images;
    assert!(kept >= acknowledged.load(Ordering::SeqCst) && kept < 600, "{kept}");
    update_all(&store, &encoder);
    assert_eq!((store.info().unwrap().images, encoder.encoded() < 1200), (600, true));
}

#[test]
fn an_encoder_that_fails_is_an_error() {
    struct Failing(Colors);
    impl Encoder for Failing {
        fn identity(&self) -> albef_index::Identity {
            self.0.identity()
        }
        fn reader(&self) -> &albef_data::image::ImageReader {
            self.0.reader()
        }
        fn prepare(&self, image: &albef_data::image::RgbImage) -> Vec<f32> {
            self.0.prepare(image)
        }
        fn encode(&self, _: &[Vec<f32>], _: &[ContentHash]) -> Result<Vec<f32>, String> {
            Err("the device is gone".into())
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let (photos, folder) = (dir.path().join("photos"), dir.path().join("index"));
    for i in 0..100 {
        put(&photos, &format!("{i}.png"), i);
    }
    let encoder = Failing(Colors::default());
    let store = Embedded::write(&folder, &encoder.identity()).unwrap();
    store.add_root(photos.canonicalize().unwrap().as_os_str().as_encoded_bytes()).unwrap();
    let error = update(&store, &encoder, &UpdateOptions::default(), &Control::new()).unwrap_err();
    assert!(error.to_string().contains("the device is gone"), "{error}");
    assert_eq!(store.info().unwrap().images, 0);
}

#[test]
fn a_part_of_an_index_is_brought_up_to_date_and_the_rest_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (photos, folder) = (dir.path().join("photos"), dir.path().join("index"));
    for (name, seed) in
        [("a/1.png", 1), ("a/2.png", 2), ("a/deep/3.png", 3), ("ab/4.png", 4), ("5.png", 5)]
    {
        put(&photos, name, seed);
    }
    let encoder = Colors::default();
    let (store, _) = index(&folder, &photos, &encoder);
    for (name, seed) in
        [("a/new.png", 6), ("a/deep/skipped.png", 7), ("ab/new.png", 8), ("new.png", 9)]
    {
        put(&photos, name, seed);
    }
    fs::write(photos.join("ab/picture.heic"), b"unread").unwrap();
    fs::write(photos.join(".albefignore"), b"skipped.png").unwrap();
    for gone in ["a/1.png", "ab/4.png", "5.png"] {
        fs::remove_file(photos.join(gone)).unwrap();
    }
    let root = photos.canonicalize().unwrap();
    let part = |within: Vec<std::path::PathBuf>| {
        let options = UpdateOptions { within, ..Default::default() };
        update(&store, &encoder, &options, &Control::new()).unwrap()
    };
    let done = part(vec![root.join("a")]);
    let counts = |u: &albef_index::Update| (u.found, u.added, u.forgotten, u.unchanged, u.unread);
    assert_eq!(counts(&done), (3, 1, 1, 2, 0), "ignore files of folders above count");
    let now = ["5.png", "a/2.png", "a/deep/3.png", "a/new.png", "ab/4.png"];
    assert_eq!(paths(&store), now);
    // What is not below the root is none of its business.
    assert_eq!(part(vec![dir.path().join("elsewhere")]), albef_index::Update::default());
    // A folder around the root is all of it.
    let all = part(vec![dir.path().canonicalize().unwrap()]);
    assert_eq!(counts(&all), (5, 2, 2, 3, 1));
    let fresh = tempfile::tempdir().unwrap();
    assert_eq!(contents(&store), contents(&index(fresh.path(), &photos, &encoder).0));
}

#[test]
fn a_folder_that_has_become_empty_keeps_its_images_in_the_index() {
    let dir = tempfile::tempdir().unwrap();
    let (photos, folder) = (dir.path().join("photos"), dir.path().join("index"));
    for i in 0..4 {
        put(&photos, &format!("{i}.png"), i);
    }
    let encoder = Colors::default();
    let (store, _) = index(&folder, &photos, &encoder);
    let elsewhere = dir.path().join("elsewhere");
    fs::rename(&photos, &elsewhere).unwrap();
    fs::create_dir(&photos).unwrap();
    let done = update_all(&store, &encoder);
    assert_eq!((done.forgotten, done.missing_roots.len()), (0, 1));
    assert_eq!(paths(&store).len(), 4);
    // As it is connected again, nothing has changed; with one file of another kind in it, the images are gone.
    fs::remove_dir(&photos).unwrap();
    fs::rename(&elsewhere, &photos).unwrap();
    assert_eq!(update_all(&store, &encoder).unchanged, 4);
    (0..4).for_each(|i| fs::remove_file(photos.join(format!("{i}.png"))).unwrap());
    fs::write(photos.join("notes.txt"), "").unwrap();
    assert_eq!(update_all(&store, &encoder).forgotten, 4);
}
