//! Models of a hub, in the cache of Hugging Face's libraries.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::sync::{Arc, Mutex};

use albef_hub::HubError;
use albef_weights::{HostTensor, KeepAs, StateDict, read, write_shards};
use serde_json::json;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::server::{Request, Server, file, whole};
use crate::{caches, checkpoint, names, pulled, settings};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Files of a model by name.
type Files = BTreeMap<&'static str, Vec<u8>>;

/// What a hub has, to be changed during a test.
#[derive(Default)]
struct Hub {
    commit: String,
    files: Files,
    /// What it serves instead of the bytes of a file.
    instead: HashMap<&'static str, Vec<u8>>,
    /// Bytes after which connections break.
    limit: Option<usize>,
}

/// The ETag that a hub gives: SHA-256 of large files, the name of the blob in git for small ones.
fn etag(name: &str, bytes: &[u8]) -> (String, bool) {
    if name.ends_with(".json") || name.ends_with(".txt") {
        let mut sum = Sha1::new();
        sum.update(format!("blob {}\0", bytes.len()));
        sum.update(bytes);
        return (hex(&sum.finalize()), false);
    }
    (hex(&Sha256::digest(bytes)), true)
}

fn hub(files: Files) -> (Server, Arc<Mutex<Hub>>) {
    let commit = "a".repeat(40);
    let state = Arc::new(Mutex::new(Hub { commit, files, ..Hub::default() }));
    let shared = state.clone();
    let server = Server::start(move |request: &Request, stream| {
        let hub = shared.lock().unwrap();
        if let Some(rest) = request.path.strip_prefix("/api/models/o/m/revision/") {
            if rest != "main" && rest != hub.commit && rest != "refs%2Fpr%2F1" {
                return whole(stream, 404, &[], b"");
            }
            let siblings: Vec<_> = hub.files.keys().map(|f| json!({ "rfilename": f })).collect();
            let info = json!({ "sha": hub.commit, "siblings": siblings, "private": false });
            return whole(stream, 200, &[], info.to_string().as_bytes());
        }
        let of_hub = format!("/o/m/resolve/{}/", hub.commit);
        let name = request.path.strip_prefix(&of_hub).or(request.path.strip_prefix("/store/"));
        let Some((name, bytes)) = name.and_then(|n| hub.files.get_key_value(n)) else {
            return whole(stream, 404, &[], b"Entry not found");
        };
        let (etag, large) = etag(name, bytes);
        if large && request.path.starts_with(&of_hub) {
            let (quoted, size) = (format!("\"{etag}\""), bytes.len().to_string());
            // As the hub does: the description here, the bytes elsewhere.
            let location = format!("http://localhost:1/store/{name}");
            let own = request.header("host").unwrap();
            let location = location.replace("localhost:1", own);
            let location = location.replace("127.0.0.1", "localhost");
            let headers = [
                ("X-Linked-Etag", &*quoted),
                ("X-Linked-Size", &*size),
                ("X-Repo-Commit", &*hub.commit),
                ("Location", &*location),
            ];
            return whole(stream, 302, &headers, b"");
        }
        let sent = hub.instead.get(name).unwrap_or(bytes);
        file(request, stream, sent, &etag, hub.limit.unwrap_or(usize::MAX))
    });
    (server, state)
}

fn small() -> Files {
    Files::from([
        ("config.json", b"{}".to_vec()),
        ("vocab.txt", b"[PAD]\n".to_vec()),
        ("model.pth", checkpoint(1)),
        ("training_args.json", b"unwanted".to_vec()),
    ])
}

#[test]
fn a_model_is_laid_out_as_hugging_face_lays_it_out() {
    let (server, state) = hub(small());
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(&server.address);
    let found = pulled("hub:o/m", dir.path(), &settings).unwrap();
    let model = caches(dir.path()).hub.join("models--o--m");
    let commit = "a".repeat(40);
    assert_eq!(found.path, model.join("snapshots").join(&commit));
    assert_eq!(fs::read_to_string(model.join("refs/main")).unwrap(), commit);
    for (name, bytes) in small() {
        let at = found.path.join(name);
        if name == "training_args.json" {
            assert!(!at.exists());
            continue;
        }
        assert_eq!(fs::read(&at).unwrap(), bytes, "{name}");
        let blob = std::path::Path::new("../../blobs").join(etag(name, &bytes).0);
        assert_eq!(fs::read_link(&at).unwrap(), blob);
    }
    assert_eq!(names(&model.join("blobs")).len(), 3);
    assert_eq!(caches(dir.path()).find(&"hub:o/m".parse().unwrap()), Some(found.path.clone()));

    // The same revision again: it is asked for, and nothing is fetched.
    let before = server.requests().len();
    assert!(!pulled("hub:o/m", dir.path(), &settings).unwrap().fetched);
    assert!(server.requests()[before..].iter().all(|r| !r.path.starts_with("/store")));
    // A commit is not even asked for.
    let before = server.requests().len();
    assert!(!pulled(&format!("hub:o/m@{commit}"), dir.path(), &settings).unwrap().fetched);
    assert_eq!(server.requests().len(), before);

    // A new commit shares what did not change.
    let mut hub = state.lock().unwrap();
    hub.commit = "b".repeat(40);
    hub.files.insert("vocab.txt", b"[PAD]\n[UNK]\n".to_vec());
    drop(hub);
    let next = pulled("hub:o/m", dir.path(), &settings).unwrap();
    assert!(next.fetched && next.path != found.path);
    assert_eq!(fs::read(next.path.join("vocab.txt")).unwrap(), b"[PAD]\n[UNK]\n");
    assert_eq!(fs::read(found.path.join("vocab.txt")).unwrap(), b"[PAD]\n");
    assert_eq!(names(&model.join("blobs")).len(), 4);
}

#[test]
fn a_model_in_parts_comes_with_all_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let state: StateDict = (0..3_u8)
        .map(|i| (format!("w{i}"), HostTensor::from_f32(&[4], &[f32::from(i); 4])))
        .collect();
    write_shards(dir.path(), &state, &HashMap::new(), KeepAs::Same, 20, &mut |_| Ok(())).unwrap();
    let names = [
        "model-00001-of-00003.safetensors",
        "model-00002-of-00003.safetensors",
        "model-00003-of-00003.safetensors",
        "model.safetensors.index.json",
    ];
    let files = names.map(|n| (n, fs::read(dir.path().join(n)).unwrap())).into_iter().collect();
    let (server, hub) = hub(files);
    let cache = tempfile::tempdir().unwrap();
    let settings = settings(&server.address);
    // One of them is not there: no model.
    let part = hub.lock().unwrap().files.remove(names[1]).unwrap();
    let error = pulled("hub:o/m", cache.path(), &settings).unwrap_err();
    assert!(matches!(error, HubError::NotFound { .. }), "{error}");
    assert_eq!(caches(cache.path()).find(&"hub:o/m".parse().unwrap()), None);
    hub.lock().unwrap().files.insert(names[1], part);
    let found = pulled("hub:o/m@refs/pr/1", cache.path(), &settings).unwrap();
    assert!(read(&found.path).unwrap().tensors == state);
    assert!(caches(cache.path()).hub.join("models--o--m/refs/refs/pr/1").is_file());
}

#[test]
fn one_file_of_a_model_is_fetched_alone() {
    let mut files = small();
    files.insert("sub/other.pth", checkpoint(2));
    let (server, _) = hub(files);
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(&server.address);
    let error = pulled("hub:o/m", dir.path(), &settings).unwrap_err().to_string();
    assert!(error.contains("2 weights files") && error.contains("hub:o/m:"), "{error}");
    let found = pulled("hub:o/m:sub/other.pth", dir.path(), &settings).unwrap();
    assert!(fs::read(&found.path).unwrap() == checkpoint(2));
    assert_eq!(names(found.path.parent().unwrap()), ["other.pth"]);
    let absent = pulled("hub:o/m:absent.pth", dir.path(), &settings).unwrap_err();
    assert!(matches!(absent, HubError::NotFound { .. }), "{absent}");
    let absent = pulled("hub:o/m@v9", dir.path(), &settings).unwrap_err().to_string();
    assert!(absent.contains("check owner, name and revision"), "{absent}");
}

#[test]
fn bytes_that_are_not_those_of_the_hub_are_thrown_away() {
    let whole = checkpoint(1);
    let mut other = whole.clone();
    other[whole.len() / 2] ^= 1;
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 77\n".to_vec();
    type Is = fn(&HubError) -> bool;
    let cases: [(&'static str, Vec<u8>, Is); 5] = [
        ("model.pth", other, |e| matches!(e, HubError::Checksum { .. })),
        ("model.pth", whole[..whole.len() - 9].to_vec(), |e| matches!(e, HubError::Size { .. })),
        ("model.pth", [&whole[..], b"more"].concat(), |e| matches!(e, HubError::Size { .. })),
        ("model.pth", pointer, |e| matches!(e, HubError::NotThatFile { .. })),
        ("config.json", b"[]".to_vec(), |e| matches!(e, HubError::Checksum { .. })),
    ];
    for (name, bytes, is) in cases {
        let (server, state) = hub(small());
        state.lock().unwrap().instead.insert(name, bytes);
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(&server.address);
        let error = pulled("hub:o/m", dir.path(), &settings).unwrap_err();
        assert!(is(&error), "{error}");
        assert_eq!(caches(dir.path()).find(&"hub:o/m".parse().unwrap()), None);
        let blobs = caches(dir.path()).hub.join("models--o--m/blobs");
        assert!(names(&blobs).iter().all(|n| !n.contains("incomplete")), "{:?}", names(&blobs));
        // When the hub is well again, so is the model.
        state.lock().unwrap().instead.clear();
        assert!(pulled("hub:o/m", dir.path(), &settings).is_ok());
    }
}

#[test]
fn what_another_program_left_incomplete_is_continued() {
    let (server, state) = hub(small());
    let dir = tempfile::tempdir().unwrap();
    let bytes = checkpoint(1);
    let blobs = caches(dir.path()).hub.join("models--o--m/blobs");
    fs::create_dir_all(&blobs).unwrap();
    let half = bytes.len() / 2;
    let name = format!("{}.incomplete", etag("model.pth", &bytes).0);
    fs::write(blobs.join(name), &bytes[..half]).unwrap();
    state.lock().unwrap().limit = Some(bytes.len() / 4);
    let found = pulled("hub:o/m", dir.path(), &settings(&server.address)).unwrap();
    assert!(fs::read(found.path.join("model.pth")).unwrap() == bytes);
    let requests = server.requests();
    let first = requests.iter().find(|r| r.path == "/store/model.pth").unwrap();
    assert_eq!(first.start(), Some(half));
}

#[test]
fn answers_of_what_is_no_hub_are_told() {
    for (info, said) in [
        ("<html>", "no description of a model"),
        ("{\"sha\": \"../../x\", \"siblings\": []}", "is no commit"),
    ] {
        let server = Server::start(move |_, stream| whole(stream, 200, &[], info.as_bytes()));
        let dir = tempfile::tempdir().unwrap();
        let error = pulled("hub:o/m", dir.path(), &settings(&server.address)).unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
    }
    // Names that lead out of the folder are not files.
    let commit = "c".repeat(40);
    let info =
        json!({ "sha": commit, "siblings": [{ "rfilename": "../../../model.safetensors" }] });
    let server =
        Server::start(move |_, stream| whole(stream, 200, &[], info.to_string().as_bytes()));
    let dir = tempfile::tempdir().unwrap();
    let error = pulled("hub:o/m", dir.path(), &settings(&server.address)).unwrap_err();
    assert!(error.to_string().contains("none of its 0 files"), "{error}");
}
