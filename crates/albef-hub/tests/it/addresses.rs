//! Files of addresses, in the cache of PyTorch.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::fs;
use std::io::Write;
use std::ops::ControlFlow;
use std::thread;
use std::time::Duration;

use albef_hub::{HubError, Progress};
use sha2::{Digest, Sha256};

use crate::server::{Server, file, head, whole};
use crate::{caches, checkpoint, names, pulled, settings};

const ALL: usize = usize::MAX;

#[test]
fn a_connection_that_breaks_again_and_again_is_resumed() {
    let bytes = checkpoint(1);
    let (of_server, step) = (bytes.clone(), bytes.len() / 7);
    let server = Server::start(move |request, stream| file(request, stream, &of_server, "a", step));
    let dir = tempfile::tempdir().unwrap();
    let found = pulled(&server.url("/m.pth"), dir.path(), &settings("")).unwrap();
    assert!(found.fetched && fs::read(&found.path).unwrap() == bytes);
    assert_eq!(found.path, dir.path().join("files/m.pth"));
    assert_eq!(names(dir.path()), ["files/.albef/m.pth.json", "files/m.pth"]);
    let requests = server.requests();
    assert!(requests.len() >= 7, "{}", requests.len());
    assert_eq!((requests[0].start(), requests[0].header("if-range")), (None, None));
    assert_eq!((requests[1].start(), requests[1].header("if-range")), (Some(step), Some("\"a\"")));
    let again = pulled(&server.url("/m.pth"), dir.path(), &settings("")).unwrap();
    assert!(!again.fetched && again.path == found.path);
    assert_eq!(server.requests().len(), requests.len(), "nothing more is asked");
}

#[test]
fn a_server_that_ignores_ranges_gives_the_whole_file() {
    let bytes = checkpoint(2);
    let of_server = bytes.clone();
    let server = Server::start(move |request, stream| {
        let length = of_server.len().to_string();
        head(stream, 200, &[("ETag", "\"a\""), ("Content-Length", &length)])?;
        let end = if request.number < 2 { of_server.len() / 2 } else { of_server.len() };
        stream.write_all(&of_server[..end])
    });
    let dir = tempfile::tempdir().unwrap();
    let found = pulled(&server.url("/m.pth"), dir.path(), &settings("")).unwrap();
    assert!(fs::read(found.path).unwrap() == bytes);
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn parts_of_two_versions_of_a_file_are_never_joined() {
    let (old, new) = (checkpoint(3), checkpoint(4));
    assert_eq!(old.len(), new.len());
    // With a server that knows `If-Range`, and with one that does not.
    for knows in [true, false] {
        let (old, new, want) = (old.clone(), new.clone(), new.clone());
        let server = Server::start(move |request, stream| match request.number {
            0 => file(request, stream, &old, "old", old.len() / 2),
            _ => {
                let mut request = request.clone();
                if !knows {
                    request.headers.remove("if-range");
                }
                file(&request, stream, &new, "new", ALL)
            }
        });
        let dir = tempfile::tempdir().unwrap();
        let found = pulled(&server.url("/m.pth"), dir.path(), &settings("")).unwrap();
        assert!(fs::read(found.path).unwrap() == want, "knows If-Range: {knows}");
    }
    // Without any validator it begins anew.
    let (half, of_server) = (old.len() / 2, old.clone());
    let server = Server::start(move |request, stream| {
        let length = of_server.len().to_string();
        head(stream, 200, &[("Content-Length", &length)])?;
        let end = if request.number == 0 { half } else { of_server.len() };
        stream.write_all(&of_server[..end])
    });
    let dir = tempfile::tempdir().unwrap();
    pulled(&server.url("/m.pth"), dir.path(), &settings("")).unwrap();
    assert!(server.requests().iter().all(|r| r.start().is_none()));
}

#[test]
fn lengths_that_are_not_true_are_found() {
    let bytes = checkpoint(5);
    // Announces half of the file, and sends it.
    let half = bytes[..bytes.len() / 2].to_vec();
    let server = Server::start(move |_, stream| whole(stream, 200, &[], &half));
    let dir = tempfile::tempdir().unwrap();
    let error = pulled(&server.url("/m.pth"), dir.path(), &settings("")).unwrap_err();
    assert!(matches!(error, HubError::NotThatFile { .. }), "{error}");
    assert!(error.to_string().contains("not a whole zip archive"), "{error}");
    assert!(names(dir.path()).is_empty(), "{:?}", names(dir.path()));

    // Announces more than it has.
    let of_server = bytes.clone();
    let server = Server::start(move |_, stream| {
        let length = (of_server.len() + 10).to_string();
        head(stream, 200, &[("ETag", "\"a\""), ("Content-Length", &length)])?;
        stream.write_all(&of_server)
    });
    let error = pulled(&server.url("/m.pth"), dir.path(), &settings("")).unwrap_err();
    assert!(matches!(error, HubError::Unreachable { .. }), "{error}");
    assert!(!caches(dir.path()).files.join("m.pth").exists());

    // Announces nothing; the end of the connection is the end of the file.
    let of_server = bytes.clone();
    let server = Server::start(move |_, stream| {
        head(stream, 200, &[])?;
        stream.write_all(&of_server)
    });
    let dir = tempfile::tempdir().unwrap();
    let found = pulled(&server.url("/m.pth"), dir.path(), &settings("")).unwrap();
    assert!(fs::read(found.path).unwrap() == bytes);
}

#[test]
fn what_is_no_checkpoint_is_named_and_not_kept() {
    let page = b"<!doctype html><html><title>Sign in</title></html>".as_slice();
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 77\n";
    for (body, kind, said) in [
        (page, "text/html; charset=utf-8", "an HTML page"),
        (page, "application/octet-stream", "an HTML page"),
        (pointer, "text/plain", "a Git LFS pointer to a file of 77 bytes"),
        (b"Entry not found", "text/plain", "a text that begins with \"Entry not found\""),
        (b"", "application/octet-stream", "empty"),
        (b"\x1f\x8b\x08 and more", "application/gzip", "a gzip file"),
        (&[1; 5000], "application/octet-stream", "not a checkpoint"),
    ] {
        let server = Server::start(move |_, stream| {
            whole(stream, 200, &[("Content-Type", kind), ("ETag", "\"a\"")], body)
        });
        let dir = tempfile::tempdir().unwrap();
        let error = pulled(&server.url("/m.pth"), dir.path(), &settings("")).unwrap_err();
        assert!(matches!(error, HubError::NotThatFile { .. }), "{error}");
        assert!(error.to_string().contains(said), "{error}");
        assert!(names(dir.path()).is_empty(), "{:?}", names(dir.path()));
    }
}

#[test]
fn redirects_are_followed_and_the_token_stays_with_the_hub() {
    let bytes = checkpoint(6);
    let of_server = bytes.clone();
    let storage = Server::start(move |request, stream| file(request, stream, &of_server, "a", ALL));
    let target = storage.url("/stored?signature=x");
    let server = Server::start(move |request, stream| match request.path.as_str() {
        "/m.pth" => whole(stream, 302, &[("Location", "/next/m.pth")], b""),
        "/next/m.pth" => whole(stream, 307, &[("Location", &target)], b""),
        "/loop.pth" => whole(stream, 302, &[("Location", "loop.pth")], b""),
        _ => whole(stream, 302, &[("Location", "")], b""),
    });
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(&server.address);
    settings.token = Some("secret".into());
    let found = pulled(&server.url("/m.pth"), dir.path(), &settings).unwrap();
    assert!(fs::read(found.path).unwrap() == bytes);
    let bearer = Some("Bearer secret");
    assert!(server.requests().iter().all(|r| r.header("authorization") == bearer));
    assert!(storage.requests().iter().all(|r| r.header("authorization").is_none()));
    for (path, said) in [("/loop.pth", "10 times"), ("/none.pth", "no address")] {
        let error = pulled(&server.url(path), dir.path(), &settings).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn answers_that_pass_are_waited_for_and_others_are_told() {
    let bytes = checkpoint(7);
    let server = Server::start(move |request, stream| match request.number {
        0 => whole(stream, 500, &[], b"oops"),
        1 => whole(stream, 429, &[("Retry-After", "0")], b""),
        2 => whole(stream, 503, &[], b""),
        // Closes without a word.
        3 => Ok(()),
        _ => file(request, stream, &bytes, "a", ALL),
    });
    let dir = tempfile::tempdir().unwrap();
    assert!(pulled(&server.url("/m.pth"), dir.path(), &settings("")).unwrap().fetched);
    assert_eq!(server.requests().len(), 5);

    for (status, said, times) in [
        (404, "not found", 1),
        (401, "HF_TOKEN", 1),
        (403, "accept them on its page", 1),
        (400, "status 400", 1),
        (500, "status 500; what was fetched is kept", 5),
    ] {
        let server = Server::start(move |_, stream| whole(stream, status, &[], b"<html>"));
        let error =
            pulled(&server.url("/n.pth"), dir.path(), &settings("")).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
        assert_eq!(server.requests().len(), times, "{status}");
    }
    let nobody = pulled("http://127.0.0.1:9/n.pth", dir.path(), &settings("")).unwrap_err();
    assert!(matches!(nobody, HubError::Unreachable { .. }), "{nobody}");
}

#[test]
fn a_server_that_stalls_is_asked_again() {
    let bytes = checkpoint(8);
    let of_server = bytes.clone();
    let server = Server::start(move |request, stream| {
        if request.number > 0 {
            return file(request, stream, &of_server, "a", ALL);
        }
        file(request, stream, &of_server, "a", of_server.len() / 3)?;
        thread::sleep(Duration::from_secs(20));
        Ok(())
    });
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings("");
    settings.timeout = Duration::from_millis(300);
    let found = pulled(&server.url("/m.pth"), dir.path(), &settings).unwrap();
    assert!(fs::read(found.path).unwrap() == bytes);
    assert_eq!(server.requests()[1].start(), Some(bytes.len() / 3));
}

#[test]
fn the_checksum_in_the_name_of_a_file_is_checked() {
    let bytes = checkpoint(9);
    let sum: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
    let of_server = bytes.clone();
    let server = Server::start(move |request, stream| file(request, stream, &of_server, "a", ALL));
    let dir = tempfile::tempdir().unwrap();
    let right = server.url(&format!("/deit-{}.pth", &sum[..8]));
    assert!(pulled(&right, dir.path(), &settings("")).unwrap().fetched);
    let error = pulled(&server.url("/deit-00000000.pth"), dir.path(), &settings("")).unwrap_err();
    assert!(matches!(&error, HubError::Checksum { found, .. } if *found == sum), "{error}");
    assert!(!caches(dir.path()).files.join("deit-00000000.pth").exists());
}

#[test]
fn a_file_of_the_same_name_from_elsewhere_is_not_replaced() {
    let bytes = checkpoint(10);
    let of_server = bytes.clone();
    let server = Server::start(move |request, stream| file(request, stream, &of_server, "a", ALL));
    let dir = tempfile::tempdir().unwrap();
    let pull = |path: &str| pulled(&server.url(path), dir.path(), &settings(""));
    pull("/one/m.pth").unwrap();
    let error = pull("/two/m.pth").unwrap_err().to_string();
    assert!(error.contains("/one/m.pth") && error.contains("move it away"), "{error}");
    // One that PyTorch put there is taken, if it may be the same.
    let place = caches(dir.path()).files;
    fs::write(place.join("n.pth"), &bytes).unwrap();
    assert!(!pull("/n.pth").unwrap().fetched);
    fs::write(place.join("o.pth"), "other").unwrap();
    let error = pull("/o.pth").unwrap_err().to_string();
    assert!(error.contains("it has 5 bytes"), "{error}");
    assert_eq!(fs::read(place.join("o.pth")).unwrap(), b"other");
    // One that was fetched and then changed is not what was fetched.
    fs::write(place.join("m.pth"), "changed").unwrap();
    let error = pull("/one/m.pth").unwrap_err().to_string();
    assert!(error.contains("it has 7 bytes"), "{error}");
}

#[test]
fn what_is_ended_by_the_user_is_continued() {
    let bytes = checkpoint(11);
    let of_server = bytes.clone();
    let server = Server::start(move |request, stream| {
        let end = if request.number == 0 { of_server.len() / 2 } else { ALL };
        file(request, stream, &of_server, "a", end)
    });
    let dir = tempfile::tempdir().unwrap();
    let url = server.url("/m.pth");
    let mut watch = |p: &Progress<'_>| match p.phase {
        "fetching" => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    };
    let (place, settings) = (caches(dir.path()), settings(""));
    let error = albef_hub::pull(&url.parse().unwrap(), &place, &settings, &mut watch).unwrap_err();
    assert!(matches!(error, HubError::Cancelled), "{error}");
    assert!(names(dir.path()).contains(&"files/.albef/m.pth.part".to_owned()));
    let found = pulled(&url, dir.path(), &settings).unwrap();
    assert!(fs::read(found.path).unwrap() == bytes);
    assert_eq!(server.requests()[1].start(), Some(bytes.len() / 2));
}

#[test]
fn a_part_that_is_complete_needs_no_more_bytes() {
    let bytes = checkpoint(12);
    let of_server = bytes.clone();
    let server = Server::start(move |request, stream| file(request, stream, &of_server, "a", ALL));
    let dir = tempfile::tempdir().unwrap();
    let url = server.url("/m.pth");
    // As a process leaves it that is killed before it gives the file its name.
    let own = caches(dir.path()).files.join(".albef");
    fs::create_dir_all(&own).unwrap();
    fs::write(own.join("m.pth.part"), &bytes).unwrap();
    let size = bytes.len();
    let record = format!("{{\"url\": \"{url}\", \"etag\": \"\\\"a\\\"\", \"size\": {size}}}");
    fs::write(own.join("m.pth.part.json"), record).unwrap();
    let found = pulled(&url, dir.path(), &settings("")).unwrap();
    assert!(fs::read(found.path).unwrap() == bytes);
    assert_eq!(server.requests()[0].start(), Some(size));
    // A part that is longer than the file is thrown away.
    fs::write(own.join("n.pth.part"), [&bytes[..], b"more"].concat()).unwrap();
    let url = server.url("/n.pth");
    let record = format!("{{\"url\": \"{url}\", \"etag\": \"\\\"a\\\"\"}}");
    fs::write(own.join("n.pth.part.json"), record).unwrap();
    assert!(fs::read(pulled(&url, dir.path(), &settings("")).unwrap().path).unwrap() == bytes);
}

#[test]
fn two_at_once_fetch_a_file_once() {
    let bytes = checkpoint(13);
    let of_server = bytes.clone();
    let server = Server::start(move |request, stream| {
        thread::sleep(Duration::from_millis(300));
        file(request, stream, &of_server, "a", ALL)
    });
    let dir = tempfile::tempdir().unwrap();
    let url = server.url("/m.pth");
    let all: Vec<bool> = thread::scope(|scope| {
        let pull = || pulled(&url, dir.path(), &settings("")).unwrap().fetched;
        let running: Vec<_> = (0..4).map(|_| scope.spawn(pull)).collect();
        running.into_iter().map(|r| r.join().unwrap()).collect()
    });
    assert_eq!(all.iter().filter(|fetched| **fetched).count(), 1);
    assert_eq!(server.requests().len(), 1);
    assert!(fs::read(caches(dir.path()).files.join("m.pth")).unwrap() == bytes);
}

#[test]
fn nothing_is_asked_offline_and_a_cache_that_cannot_be_written_is_named() {
    let server = Server::start(|_, stream| whole(stream, 200, &[], b""));
    let dir = tempfile::tempdir().unwrap();
    let mut offline = settings(&server.address);
    offline.offline = true;
    for text in [&*server.url("/m.pth"), "albef-coco", "hub:a/b"] {
        let error = pulled(text, dir.path(), &offline).unwrap_err();
        assert!(matches!(&error, HubError::Offline(name) if name == text), "{error}");
    }
    assert!(server.requests().is_empty());
    fs::create_dir_all(caches(dir.path()).files).unwrap();
    fs::write(caches(dir.path()).files.join("mscoco.pth"), "x").unwrap();
    assert!(!pulled("albef-coco", dir.path(), &offline).unwrap().fetched);

    fs::write(dir.path().join("file"), "").unwrap();
    let error = pulled(&server.url("/m.pth"), &dir.path().join("file"), &settings("")).unwrap_err();
    assert!(
        matches!(error, HubError::Io { .. }) && error.to_string().contains("file/files"),
        "{error}"
    );
}

#[test]
fn requests_go_through_the_proxy_that_is_named() {
    let bytes = checkpoint(14);
    let proxy = Server::start(move |_, stream| whole(stream, 502, &[], b"proxy"));
    let server = Server::start(move |request, stream| file(request, stream, &bytes, "a", ALL));
    let dir = tempfile::tempdir().unwrap();
    let direct = settings("").proxied(Some(&proxy.address), &["127.0.0.1"]);
    assert!(pulled(&server.url("/m.pth"), dir.path(), &direct).unwrap().fetched);
    assert!(proxy.requests().is_empty());
    let through = settings("").proxied(Some(&proxy.address), &[]);
    assert!(pulled(&server.url("/n.pth"), dir.path(), &through).is_err());
    assert!(!proxy.requests().is_empty() && server.requests().len() == 1);
}
