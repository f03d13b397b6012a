//! What is below a folder, and what of it counts.

use std::fs;
use std::path::Path;

use albef_index::{Control, Walk, walk};

use crate::common::{image, put};

fn names(found: &Walk) -> Vec<String> {
    found.images.iter().map(|i| String::from_utf8_lossy(&i.path).into_owned()).collect()
}

fn walked(folder: &Path) -> Walk {
    walk(folder, &Control::new()).unwrap()
}

#[test]
fn hidden_system_and_ignored_files_are_left_out() {
    let dir = tempfile::tempdir().unwrap();
    for name in [
        "a.png",
        ".hidden.png",
        ".cache/b.png",
        "$RECYCLE.BIN/c.png",
        "@eaDir/d.png",
        "sub/e.PNG",
        "sub/drafts/f.png",
        "sub/deep/g.png",
        "h.tmp.png",
        "kept/h.tmp.png",
    ] {
        put(dir.path(), name, 1);
    }
    fs::write(dir.path().join(".albefignore"), "drafts/\n*.tmp.png\n").unwrap();
    fs::write(dir.path().join("kept/.albefignore"), "!h.tmp.png\n").unwrap();
    // Another program's file is another program's affair.
    fs::write(dir.path().join(".gitignore"), "*\n").unwrap();
    assert_eq!(
        names(&walked(dir.path())),
        ["a.png", "kept/h.tmp.png", "sub/deep/g.png", "sub/e.PNG"]
    );
}

#[test]
fn images_are_known_by_name_or_content_and_other_formats_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "no-ending", 1);
    put(dir.path(), "wrong.dat", 2);
    fs::write(dir.path().join("notes.txt"), image(3)).unwrap();
    fs::write(dir.path().join("x.heic"), b"\0\0\0\x18ftypheic\0\0\0\0mif1heic").unwrap();
    fs::write(dir.path().join("video.mp4"), b"\0\0\0\x18ftypisom").unwrap();
    let found = walked(dir.path());
    assert_eq!(names(&found), ["no-ending", "wrong.dat"]);
    assert_eq!((found.unread.len(), found.unread[0].name.as_str()), (1, "x.heic"));
}

#[cfg(unix)]
#[test]
fn links_are_followed_once_and_loops_end() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let photos = dir.path().join("photos");
    put(&photos, "a/1.png", 1);
    put(dir.path(), "elsewhere/2.png", 2);
    put(dir.path(), "single.png", 3);
    symlink(&photos, photos.join("a/up")).unwrap();
    symlink(photos.join("a"), photos.join("z")).unwrap();
    symlink(dir.path().join("elsewhere"), photos.join("out")).unwrap();
    symlink(dir.path().join("elsewhere"), photos.join("out2")).unwrap();
    symlink(dir.path().join("single.png"), photos.join("link.png")).unwrap();
    symlink("nowhere.png", photos.join("dangling.png")).unwrap();
    symlink("self.png", photos.join("self.png")).unwrap();
    let found = walked(&photos);
    assert_eq!(names(&found), ["a/1.png", "link.png", "out/2.png"]);
}

#[cfg(unix)]
#[test]
fn a_pipe_is_no_image_and_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe.png");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    put(dir.path(), "a.png", 1);
    assert_eq!(names(&walked(dir.path())), ["a.png"]);
}

#[test]
fn a_folder_that_cannot_be_read_makes_what_is_below_it_unknown() {
    let walk = Walk { unknown: vec![b"closed".to_vec()], ..Walk::default() };
    assert!(walk.is_unknown(b"closed/a.png") && walk.is_unknown(b"closed"));
    assert!(!walk.is_unknown(b"closed2/a.png") && !walk.is_unknown(b"a.png"));
    let dir = tempfile::tempdir().unwrap();
    let error = albef_index::walk(&dir.path().join("none"), &Control::new()).unwrap_err();
    assert!(error.to_string().contains("none"), "{error}");
    let control = Control::new();
    control.cancel();
    let stopped = albef_index::walk(dir.path(), &control).unwrap_err();
    assert!(matches!(stopped, albef_index::IndexError::Cancelled));
}
