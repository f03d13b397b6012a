//! Data as people have it: names that hurt, lists that clash, captions that teach nothing.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::common::{albef, config, data, out, pretrained, run, settings, stderr};
use serde_json::{Value, json};

fn put(folder: &Path, list: &Value) -> String {
    let path = folder.join("list.json");
    fs::write(&path, list.to_string()).unwrap();
    path.display().to_string()
}

fn pretrain(list: &str, root: &Path, output: &Path) -> Command {
    let mut command = albef();
    command.args(["pretrain", &config(), "--output"]).arg(output).args(settings(list, root));
    command
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), stderr(output))
}

#[test]
fn names_are_printed_each_in_its_own_way_and_steer_no_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    data(root, 1);
    fs::remove_file(root.join("list.json")).unwrap();
    let names: [&[u8]; 4] = [b"tab\t.png", b"tab\\t.png", b"inv\xff.png", b"a\nb.png"];
    for name in names {
        fs::copy(root.join("0.png"), root.join(OsStr::from_bytes(name))).unwrap();
    }
    let search = |path: &Path| {
        let mut command = albef();
        command.args(["search", "red", "--k", "0"]).arg(path);
        command
    };
    let printed = said(&run(&mut search(root)));
    for name in ["tab\\t.png", "tab\\\\t.png", "inv\\xff.png", "a\\nb.png"] {
        assert!(printed.lines().any(|l| l.ends_with(&format!("  {name}"))), "{name}: {printed}");
    }
    let odd = root.join(OsStr::from_bytes(names[2]));
    let found = out(search(&odd).arg("--json"));
    let bytes: Vec<u8> = serde_json::from_value(found["results"][0]["path_bytes"].clone()).unwrap();
    assert_eq!(bytes, odd.as_os_str().as_bytes());

    fs::write(root.join("\u{1b}]0;owned\u{7}.png"), "no image").unwrap();
    for json in [&[][..], &["--json"]] {
        let checked = albef().args(["data", "check"]).arg(root).args(json).output().unwrap();
        assert_eq!(checked.status.code(), Some(1));
        let printed = said(&checked);
        assert!(!printed.contains(['\u{1b}', '\u{7}']) && printed.contains("owned"), "{printed}");
    }
    let gone = albef().args(["match", "\u{1b}[31mgone.png", "red"]).output().unwrap();
    assert!(!stderr(&gone).contains('\u{1b}'), "{}", stderr(&gone));
}

#[test]
fn rows_of_shards_that_number_their_members_alike_have_names_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    data(dir.path(), 2);
    for shard in ["s0.tar", "s1.tar"] {
        let mut tar = tar::Builder::new(fs::File::create(dir.path().join(shard)).unwrap());
        for name in ["0.png", "1.png"] {
            tar.append_path_with_name(dir.path().join(name), name).unwrap();
        }
        tar.into_inner().unwrap();
    }
    let array = dir.path().join("x.npy");
    let pattern = dir.path().join("s{0,1}.tar");
    run(albef().arg("embed").arg(&pattern).arg("--output").arg(&array));
    let names = fs::read_to_string(dir.path().join("x.npy.names.txt")).unwrap();
    assert_eq!(names, "s0.tar:0.png\ns0.tar:1.png\ns1.tar:0.png\ns1.tar:1.png\n");
    let lines = said(&run(albef().arg("embed").arg(&pattern)));
    assert!(lines.lines().nth(2).unwrap().starts_with(r#"{"image":"s1.tar:0.png""#), "{lines}");
}

#[test]
fn one_entry_a_caption_gives_the_figures_of_one_entry_an_image() {
    let dir = tempfile::tempdir().unwrap();
    let list = data(dir.path(), 6);
    let all: Vec<Value> = serde_json::from_str(&fs::read_to_string(&list).unwrap()).unwrap();
    let single = all.iter().flat_map(|entry| {
        let captions = entry["caption"].as_array().unwrap();
        captions.iter().map(|c| json!({"image": entry["image"], "caption": c}))
    });
    let single = put(dir.path(), &single.collect());
    let lines = dir.path().join("list.jsonl");
    let text: Vec<String> = all.iter().map(Value::to_string).collect();
    fs::write(&lines, text.join("\n")).unwrap();
    let measure = |list: &str| {
        let mut command = albef();
        command.args(["evaluate", "retrieval", "--k", "0", "--resamples", "5", "--json"]);
        out(command.args(["--annotations", list]))
    };
    let (a, b) = (measure(lines.to_str().unwrap()), measure(&single));
    assert_eq!((&a, a["queries"]["img"].as_u64()), (&b, Some(12)));
}

#[test]
fn a_step_without_a_masked_token_is_made_and_reported() {
    let dir = tempfile::tempdir().unwrap();
    let list = data(dir.path(), 8);
    let mut all: Vec<Value> = serde_json::from_str(&fs::read_to_string(&list).unwrap()).unwrap();
    all.iter_mut().for_each(|entry| entry["caption"] = json!("red"));
    let list = put(dir.path(), &Value::Array(all));
    let output = dir.path().join("run");
    let mut command = pretrain(&list, dir.path(), &output);
    command.args([
        "--set",
        "max_steps=4",
        "--set",
        "losses.ita=false",
        "--set",
        "losses.itm=false",
    ]);
    command.args(["--set", "mlm_probability=0.05"]);
    let ended = run(&mut command);
    assert!(stderr(&ended).contains("no loss depends on the weights"), "{}", stderr(&ended));
    let log = fs::read_to_string(output.join("log.jsonl")).unwrap();
    assert!(log.contains(r#""batches_without_gradient":1.0"#), "{log}");
    for (losses, part) in [
        (
            &["losses.ita=false", "losses.itm=false", "mlm_probability=0"][..],
            "`mlm_probability` is 0",
        ),
        (
            &["losses.ita=false", "losses.itm=false", "losses.mlm=false"],
            "at least one of ita, itm and mlm",
        ),
    ] {
        let mut command = pretrain(&list, dir.path(), &dir.path().join("none"));
        for setting in losses {
            command.args(["--set", setting]);
        }
        let refused = command.output().unwrap();
        assert_eq!(refused.status.code(), Some(2));
        assert!(stderr(&refused).contains(part), "{}", stderr(&refused));
    }
}

#[test]
fn a_fine_tuning_names_the_keys_that_count_there() {
    let dir = tempfile::tempdir().unwrap();
    let model = pretrained(dir.path());
    let task = dir.path().join("task.yaml");
    fs::write(&task, "batch_size: 4\nbatch_size_train: 64\n").unwrap();
    let tune = |settings: &[&str]| {
        let mut command = albef();
        command.args(["finetune", "retrieval"]).arg(&task);
        command.arg("--output").arg(dir.path().join("tuned"));
        let checkpoint = format!("checkpoint={}", model.display());
        let list = format!("train_file=[{}]", dir.path().join("list.json").display());
        command.args(["--set", &checkpoint, "--set", &list]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        let refused = command.output().unwrap();
        assert_eq!(refused.status.code(), Some(2));
        stderr(&refused)
    };
    assert!(tune(&[]).contains("set `batch_size_train` to at most 12"));
    assert!(tune(&["batch_size_train=0"]).contains("`batch_size_train` is 0"));
    let alone = tune(&["losses.ita=false", "losses.itm=false", "losses.mlm=true"]);
    assert!(alone.contains("mlm is of pre-training only"), "{alone}");
}

#[test]
fn a_run_that_goes_on_for_longer_says_how_its_rate_jumps() {
    let dir = tempfile::tempdir().unwrap();
    let list = data(dir.path(), 12);
    let output = dir.path().join("run");
    let go = |steps: u64, more: &[&str]| {
        let mut command = pretrain(&list, dir.path(), &output);
        command.args(["--set", &format!("max_steps={steps}"), "--resume"]);
        for setting in more {
            command.args(["--set", setting]);
        }
        command.output().unwrap()
    };
    assert!(go(6, &[]).status.success());
    let longer = stderr(&go(9, &[]));
    assert!(longer.contains("the rate goes from") && longer.contains("(step 7)"), "{longer}");
    assert!(longer.contains("`init_albef="), "{longer}");
    let same = stderr(&go(9, &[]));
    assert!(!same.contains("the rate goes"), "{same}");
    let other = stderr(&go(12, &["schedular.epochs=7"]));
    assert!(other.contains("another configuration") && other.contains("`init_albef="), "{other}");
}

#[test]
fn lists_whose_ids_clash_are_named_and_train() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    let lists: Vec<String> = [&a, &b]
        .map(|folder| {
            fs::create_dir(folder).unwrap();
            data(folder, 4)
        })
        .into();
    for (list, folder) in lists.iter().zip([&a, &b]) {
        let mut all: Vec<Value> = serde_json::from_str(&fs::read_to_string(list).unwrap()).unwrap();
        all.iter_mut().for_each(|entry| {
            entry["image"] = json!(folder.join(entry["image"].as_str().unwrap()));
        });
        fs::write(list, Value::Array(all).to_string()).unwrap();
    }
    let mut command = pretrain(&lists.join(", "), dir.path(), &dir.path().join("run"));
    let ended = run(command.args(["--set", "max_steps=1"]));
    let printed = stderr(&ended);
    assert!(printed.contains("4 ids are told apart"), "{printed}");
}

#[test]
fn a_run_whose_folder_is_removed_under_it_ends_with_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let list = data(dir.path(), 12);
    let output = dir.path().join("run");
    let mut command = pretrain(&list, dir.path(), &output);
    command.args(["--set", "max_steps=100000", "--set", "schedular.epochs=100000"]);
    let running = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let log = output.join("log.jsonl");
    while fs::metadata(&log).map_or(0, |m| m.len()) == 0 {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    // A file may appear while the folder is removed.
    while output.exists() && fs::remove_dir_all(&output).is_err() {}
    let ended = running.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(2), "{}", stderr(&ended));
}

#[test]
fn a_list_whose_folder_is_a_level_off_is_answered_with_the_right_one() {
    let dir = tempfile::tempdir().unwrap();
    let list = data(dir.path(), 3);
    let elsewhere = dir.path().join("deep");
    fs::create_dir(&elsewhere).unwrap();
    let root = elsewhere.to_str().unwrap();
    let checked = albef().args(["data", "check", &list, "--image-root", root]).output().unwrap();
    let printed = said(&checked);
    assert!(
        printed.contains("hint: with the image root") && printed.contains("3 of 3"),
        "{printed}"
    );
    let gone = albef().args(["match", "0.PNG", "red"]).current_dir(dir.path()).output().unwrap();
    assert!(stderr(&gone).contains("upper and lower case"), "{}", stderr(&gone));
}
