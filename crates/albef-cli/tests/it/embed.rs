//! Features for other programs: what is extracted, and in which files.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::fs;
use std::io::Write;
use std::process::{Command, Output, Stdio};

use crate::common::{albef, data, run, stderr};
use serde_json::Value;

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn fed(command: &mut Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

fn row(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

#[test]
fn paths_and_texts_come_from_standard_input_as_from_files() {
    let dir = tempfile::tempdir().unwrap();
    data(dir.path(), 2);
    let paths = format!("{0}/1.png\n{0}/gone.png\n{0}/0.png\n", dir.path().display());
    let found = fed(albef().args(["embed", "-"]), paths.as_bytes());
    let said = stderr(&found);
    assert!(found.status.success() && said.contains("gone.png"), "{said}");
    let rows = lines(&found);
    assert_eq!(rows.len(), 2);
    assert!(rows[0]["image"].as_str().unwrap().ends_with("/1.png"));
    let alone = lines(&run(albef().arg("embed").arg(dir.path().join("0.png"))));
    assert_eq!(alone[0]["feature"], rows[1]["feature"]);

    let texts = fed(albef().args(["embed", "--texts", "-"]), b"a dog\n\na red square\n");
    let given = run(albef().args(["embed", "--text", "a dog", "--text", "a red square"]));
    assert_eq!(lines(&texts).len(), 2);
    for (a, b) in lines(&texts).iter().zip(lines(&given)) {
        assert_eq!(*a, b);
    }
    for arguments in [&["embed", "-"][..], &["embed", "-", "--texts", "-"]] {
        let output = fed(albef().args(arguments), b"\n");
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    }
}

#[test]
fn pairs_and_all_tokens_are_written_to_files_of_each_kind() {
    let dir = tempfile::tempdir().unwrap();
    let list = data(dir.path(), 3);
    let embed = |more: &[&str]| {
        let mut command = albef();
        command.args(["embed", &list, "--image-root"]).arg(dir.path()).args(more);
        command
    };
    let fused = lines(&run(&mut embed(&["--pairs"])));
    // Two captions an image.
    assert_eq!(fused.len(), 6);
    assert_eq!(fused[1]["text"], "number 0 in red");
    assert_ne!(fused[0]["feature"], fused[1]["feature"], "another text, another state");
    assert_ne!(fused[0]["feature"], fused[2]["feature"], "another image, another state");

    let place = |name: &str| dir.path().join(name);
    let all = run(&mut embed(&["--pairs", "--tokens", "all"]));
    for (one, many) in fused.iter().zip(lines(&all)) {
        let (one, first) = (row(&one["feature"]), row(&many["features"][0]));
        assert!(one.iter().zip(&first).all(|(a, b)| (a - b).abs() < 1e-4));
    }
    for name in ["pairs.safetensors", "pairs.jsonl"] {
        run(embed(&["--pairs", "--tokens", "all", "--output"]).arg(place(name)));
    }
    assert_eq!(fs::read(place("pairs.jsonl")).unwrap(), all.stdout);
    let read = albef_weights::read(&place("pairs.safetensors")).unwrap();
    let names: Vec<String> = serde_json::from_str(&read.metadata["names"]).unwrap();
    assert!(names.len() == 6 && names[0].ends_with("0.png\ta red square"), "{names:?}");
    let offsets = read.tensors.get("offsets").unwrap().to_i64().unwrap();
    let features = read.tensors.get("features").unwrap();
    assert_eq!((offsets.len(), features.shape[0] as i64), (7, offsets[6]));

    // Captions differ in length, images do not.
    let refused = embed(&["--pairs", "--tokens", "all", "--output"]).arg(place("x.npy")).output();
    let said = stderr(&refused.unwrap());
    assert!(said.contains(".safetensors or .jsonl") && !place("x.npy").exists(), "{said}");
    run(embed(&["--tokens", "all", "--unprojected", "--output"]).arg(place("x.npy")));
    let bytes = fs::read(place("x.npy")).unwrap();
    assert!(String::from_utf8_lossy(&bytes[..192]).contains("'shape': (3, "));
}

#[test]
fn a_long_extraction_that_is_killed_or_finds_the_disk_full_goes_on_where_it_was() {
    use std::os::unix::process::ExitStatusExt as _;
    let dir = tempfile::tempdir().unwrap();
    let list = data(dir.path(), 300);
    for (name, more) in [("x.npy", &[][..]), ("x.safetensors", &["--pairs", "--tokens", "all"])] {
        let output = dir.path().join(name);
        let partial = dir.path().join(format!("{name}.partial"));
        let embed = |failpoint: Option<&str>| {
            let mut command = albef();
            command.args(["embed", &list, "--image-root"]).arg(dir.path()).args(more);
            command.arg("--output").arg(&output);
            command.envs(failpoint.map(|f| ("ALBEF_FAILPOINT", f)));
            command.output().unwrap()
        };
        assert!(embed(None).status.success());
        let expected = fs::read(&output).unwrap();
        assert!(!partial.exists());
        fs::write(&output, "old").unwrap();
        for failpoint in ["journal.appending@3", "journal.appended@5", "file.synced"] {
            let ended = embed(Some(failpoint));
            assert_eq!(ended.status.signal(), Some(9), "{failpoint}: {}", stderr(&ended));
            assert_eq!(fs::read(&output).unwrap(), b"old", "{failpoint}");
            assert!(partial.exists(), "{failpoint}");
        }
        let full = embed(Some("journal.appending=enospc"));
        // All parts are in the journal by now.
        assert!(full.status.success(), "{}", stderr(&full));
        assert_eq!(fs::read(&output).unwrap(), expected, "{name}");
        assert!(!partial.exists());
        fs::write(&output, "old").unwrap();
        let full = embed(Some("journal.appending@2=enospc"));
        assert_eq!(full.status.code(), Some(2), "{}", stderr(&full));
        assert!(stderr(&full).contains(".partial"), "{}", stderr(&full));
        assert!(embed(None).status.success());
        assert_eq!(fs::read(&output).unwrap(), expected, "{name} after a full disk");
    }
}

#[test]
fn an_output_may_have_a_name_that_is_no_text() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join(OsStr::from_bytes(b"e\xff.npy"));
    run(albef().args(["embed", "--text", "a dog", "--output"]).arg(&output));
    assert!(output.exists());
    let nowhere = dir.path().join(OsStr::from_bytes(b"\xff/e.npy"));
    let refused = albef().args(["embed", "--text", "a", "--output"]).arg(nowhere).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr(&refused).contains("create it first"), "{}", stderr(&refused));
}
