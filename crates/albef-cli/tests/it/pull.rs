//! Fetching with the real program.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

#[path = "../../../albef-hub/tests/it/server.rs"]
mod server;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::common::{albef, config, data, pretrained, run, settings, stderr};
use server::{Server, file, head, whole};

/// The program with caches below `dir` and nothing of the environment that could lead elsewhere.
fn program(dir: &Path) -> Command {
    let mut command = albef();
    command.env("HF_HOME", dir.join("hf")).env("TORCH_HOME", dir.join("torch"));
    for name in ["HF_HUB_CACHE", "HF_ENDPOINT", "HF_TOKEN", "HF_HUB_OFFLINE"] {
        command.env_remove(name);
    }
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"]
    {
        command.env_remove(name);
    }
    command
}

/// A checkpoint that needs its configuration beside it, as bytes.
fn checkpoint(dir: &Path) -> (Vec<u8>, std::path::PathBuf) {
    let model = pretrained(dir);
    let file = dir.join("made.pth");
    run(albef().arg("convert").arg(&model).args(["--to", "official", "--output"]).arg(&file));
    (fs::read(file).unwrap(), model)
}

#[test]
fn a_model_of_a_hub_is_pulled_and_used_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let model = pretrained(dir.path());
    let commit = "0".repeat(40);
    let names = ["config.json", "vocab.txt", "model.safetensors"];
    let files = names.map(|n| (n, fs::read(model.join(n)).unwrap()));
    let listing: Vec<String> =
        names.iter().map(|n| format!("{{\"rfilename\": \"{n}\"}}")).collect();
    let info = format!("{{\"sha\": \"{commit}\", \"siblings\": [{}]}}", listing.join(","));
    let server = Server::start(move |request, stream| {
        if request.path.starts_with("/api/models/me/nano/revision/main") {
            return whole(stream, 200, &[], info.as_bytes());
        }
        let name = request.path.rsplit('/').next().unwrap();
        match files.iter().find(|(n, _)| *n == name) {
            Some((name, bytes)) => {
                file(request, stream, bytes, &name.replace('.', "-"), usize::MAX)
            }
            None => whole(stream, 404, &[], b""),
        }
    });
    let image = dir.path().join("0.png");
    let matched = |name: &str| {
        let mut command = program(dir.path());
        command.arg("match").arg(&image).args(["red", "--json", "--model", name]);
        command.output().unwrap()
    };
    let before = matched("hub:me/nano");
    assert_eq!(before.status.code(), Some(2));
    assert!(stderr(&before).contains("`albef pull hub:me/nano`"), "{}", stderr(&before));

    let pulled = run(program(dir.path())
        .args(["pull", "hub:me/nano"])
        .env("HF_ENDPOINT", &server.address)
        .env("HF_TOKEN", "secret"));
    let path = String::from_utf8(pulled.stdout).unwrap();
    let place = dir.path().join("hf/hub/models--me--nano/snapshots").join(&commit);
    assert_eq!(Path::new(path.trim()), place);
    assert!(server.requests().iter().all(|r| r.header("authorization") == Some("Bearer secret")));
    let plain = matched(&model.display().to_string());
    for name in ["hub:me/nano", path.trim(), &place.join("../..").display().to_string()] {
        let found = matched(name);
        assert_eq!(found.stdout, plain.stdout, "{name}: {}", stderr(&found));
    }
    let asked = server.requests().len();
    run(program(dir.path()).args(["inspect", "hub:me/nano"]));
    let again = run(program(dir.path()).args(["pull", "hub:me/nano", "--offline"]));
    assert_eq!(String::from_utf8(again.stdout).unwrap(), path);
    let other = program(dir.path())
        .args(["pull", "hub:me/other"])
        .env("HF_HUB_OFFLINE", "1")
        .env("HF_ENDPOINT", &server.address)
        .output()
        .unwrap();
    assert_eq!(other.status.code(), Some(2));
    assert!(stderr(&other).contains("nothing is fetched offline"), "{}", stderr(&other));
    assert_eq!(server.requests().len(), asked, "only `pull` asks the network");
}

#[test]
fn published_checkpoints_are_listed_and_found_by_name_and_file() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, model) = checkpoint(dir.path());
    let list =
        || String::from_utf8(run(program(dir.path()).args(["pull", "--list"])).stdout).unwrap();
    assert!(list().contains("albef-coco") && !list().contains("in the cache"), "{}", list());
    let image = dir.path().join("0.png");
    for name in ["albef-14m", "ALBEF.pth"] {
        let mut command = program(dir.path());
        let output =
            command.arg("match").arg(&image).args(["red", "--model", name]).output().unwrap();
        let said = stderr(&output);
        assert!(
            said.contains(name) && said.contains("fetch it with `albef pull albef-14m`"),
            "{said}"
        );
    }
    // As PyTorch leaves it there.
    let place = dir.path().join("torch/hub/checkpoints");
    fs::create_dir_all(&place).unwrap();
    fs::write(place.join("ALBEF.pth"), bytes).unwrap();
    for name in ["config.json", "vocab.txt"] {
        fs::copy(model.join(name), place.join(name)).unwrap();
    }
    assert_eq!(list().matches("in the cache").count(), 1, "{}", list());
    for name in ["albef-14m", "ALBEF.pth"] {
        let mut command = program(dir.path());
        run(command
            .arg("match")
            .arg(&image)
            .args(["red", "--model", name])
            .current_dir(dir.path()));
    }
    let json = run(program(dir.path()).args(["pull", "--list", "--json"])).stdout;
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json[0]["published"]["name"], "albef-14m");
    assert_eq!(json[0]["path"], place.join("ALBEF.pth").display().to_string());
    assert!(json[1]["path"].is_null());
}

#[test]
fn a_pull_that_is_killed_again_and_again_ends_with_the_whole_file() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, _) = checkpoint(dir.path());
    let shared = Arc::new(bytes.clone());
    let server = Server::start(move |request, stream| {
        // Slow, so that there is a middle in which to be killed.
        let start = request.start().unwrap_or(0);
        if start >= shared.len() {
            return file(request, stream, &shared, "a", 0);
        }
        let length = (shared.len() - start).to_string();
        let range = format!("bytes {start}-{}/{}", shared.len() - 1, shared.len());
        let mut headers = vec![("ETag", "\"a\""), ("Content-Length", &*length)];
        if start > 0 {
            headers.push(("Content-Range", &range));
        }
        head(stream, if start > 0 { 206 } else { 200 }, &headers)?;
        for part in shared[start..].chunks(shared.len() / 40) {
            stream.write_all(part)?;
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    });
    let url = server.url("/m.pth");
    let target = dir.path().join("torch/hub/checkpoints/m.pth");
    let mut kills = 0;
    for i in 0_u64.. {
        let mut command = program(dir.path());
        command.args(["pull", &url]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        thread::sleep(Duration::from_millis(60 + 37 * (i % 5)));
        let _ = child.kill();
        if child.wait().unwrap().success() {
            break;
        }
        kills += 1;
        assert!(!target.exists() || fs::read(&target).unwrap() == bytes);
        assert!(kills < 400, "it never gets to its end");
    }
    assert!(kills > 0 && fs::read(&target).unwrap() == bytes, "{kills}");
    assert!(server.requests().iter().any(|r| r.start().is_some()), "never resumed");
    // As after a kill between the file and its record, before what is known of the part is removed.
    let own = target.parent().unwrap().join(".albef");
    fs::remove_file(own.join("m.pth.json")).ok();
    fs::write(own.join("m.pth.part.json"), "{}").unwrap();
    fs::write(own.join("m.pth.json.tmp4194305"), "half").unwrap();
    run(program(dir.path()).args(["pull", &url]));
    let mut left: Vec<String> =
        fs::read_dir(own).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    assert!(left.iter().all(|n| !n.contains(".part") && !n.contains(".tmp")), "{left:?}");
}

/// A server that sends a part of a file and then nothing more, until it is asked again.
fn halting(bytes: Vec<u8>) -> Server {
    Server::start(move |request, stream| {
        let limit = if request.number == 0 { bytes.len() / 2 } else { usize::MAX };
        file(request, stream, &bytes, "a", limit)?;
        if request.number == 0 {
            thread::sleep(Duration::from_secs(60));
        }
        Ok(())
    })
}

#[cfg(unix)]
#[test]
fn an_interrupted_pull_and_one_on_a_full_disk_are_resumed() {
    use std::io::Read;
    let dir = tempfile::tempdir().unwrap();
    let (bytes, _) = checkpoint(dir.path());
    let target = dir.path().join("torch/hub/checkpoints/m.pth");
    let part = dir.path().join("torch/hub/checkpoints/.albef/m.pth.part");
    let length = || fs::metadata(&part).map_or(0, |found| found.len());

    let server = halting(bytes.clone());
    let url = server.url("/m.pth");
    let mut command = program(dir.path());
    // The pause after a second without a byte is when it notices.
    command.args(["pull", &url]).env("HF_HUB_DOWNLOAD_TIMEOUT", "1").stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    while length() < bytes.len() as u64 / 2 {
        thread::sleep(Duration::from_millis(20));
    }
    run(Command::new("kill").args(["-INT", &child.id().to_string()]));
    let status = child.wait().unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("run the same command again to resume"), "{said}");
    assert!(!target.exists() && length() == bytes.len() as u64 / 2);

    let limited =
        format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", bytes.len() * 3 / 4 / 512);
    let own = program(dir.path());
    let mut command = Command::new("sh");
    command.args(["-c", &limited]).arg(own.get_program()).args(["pull", &url]);
    for (name, value) in own.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let output = command.output().unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("m.pth.part") && said.contains("File too large"), "{said}");
    assert!(!target.exists() && length() > bytes.len() as u64 / 2);

    run(program(dir.path()).args(["pull", &url]));
    assert!(fs::read(&target).unwrap() == bytes && !part.exists());
    assert!(server.requests()[1..].iter().all(|r| r.start() >= Some(bytes.len() / 2)));
}

#[test]
fn two_programs_at_once_fetch_a_file_once() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, _) = checkpoint(dir.path());
    let server = Server::start(move |request, stream| {
        thread::sleep(Duration::from_millis(500));
        file(request, stream, &bytes, "a", usize::MAX)
    });
    let url = server.url("/m.pth");
    let pull = || program(dir.path()).args(["pull", &url]).stderr(Stdio::null()).spawn().unwrap();
    let mut running = [pull(), pull(), pull()];
    assert!(running.iter_mut().all(|child| child.wait().unwrap().success()));
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn what_cannot_be_fetched_is_an_error_that_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(|request, stream| match request.path.as_str() {
        "/page.pth" => {
            whole(stream, 200, &[("Content-Type", "text/html")], b"<html>Sign in</html>")
        }
        "/private.pth" => whole(stream, 401, &[], b""),
        _ => whole(stream, 404, &[], b""),
    });
    for (path, said) in [
        ("/page.pth", "an HTML page"),
        ("/private.pth", "HF_TOKEN"),
        ("/gone.pth", "not found (status 404)"),
    ] {
        let output = program(dir.path()).args(["pull", &server.url(path)]).output().unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
        assert!(stderr(&output).contains(said), "{}", stderr(&output));
    }
    for (variable, value) in
        [("HF_ENDPOINT", "huggingface.co"), ("HF_HUB_DOWNLOAD_TIMEOUT", "soon")]
    {
        let mut command = program(dir.path());
        let output = command.args(["pull", "hub:a/b"]).env(variable, value).output().unwrap();
        assert!(stderr(&output).contains(variable), "{}", stderr(&output));
    }
    let mut command = program(dir.path());
    command.args([
        "finetune",
        "retrieval",
        &config().replace("nano", "retrieval_flickr"),
        "--output",
    ]);
    command.arg(dir.path().join("run")).args(settings(&data(dir.path(), 8), dir.path()));
    let output = command
        .args(["--set", "batch_size_train=4", "--set", "checkpoint=albef-14m"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("`albef pull albef-14m`"), "{}", stderr(&output));
    let nowhere = program(dir.path()).args(["pull", "albef"]).output().unwrap();
    assert!(stderr(&nowhere).contains("--list"), "{}", stderr(&nowhere));
}
