//! A small data set and the real program.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

pub mod official;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use albef_data::image::RgbImage;
use albef_data::scenes::png;
use serde_json::{Value, json};

/// The program. Indexes that it makes on its own go to a folder of this run of the tests.
pub fn albef() -> Command {
    static DATA: OnceLock<tempfile::TempDir> = OnceLock::new();
    let place = env!("CARGO_TARGET_TMPDIR");
    let data = DATA.get_or_init(|| tempfile::tempdir_in(place).unwrap());
    let mut command = Command::new(env!("CARGO_BIN_EXE_albef"));
    command.env("XDG_DATA_HOME", data.path());
    command
}

/// What a finished run of the program wrote to standard error.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs a command that must succeed.
pub fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    output
}

/// A model of two steps with all word pieces, on twelve images of 16 pixels in patches of 8.
pub fn pretrained(dir: &Path) -> PathBuf {
    let list = data(dir, 12);
    let output = dir.join("pretrained");
    let mut command = albef();
    command.args(["pretrain", &config(), "--output"]).arg(&output);
    command.args(settings(&list, dir)).args(["--set", "max_steps=2", "--set", "vocab=bert"]);
    run(&mut command);
    output.join("model")
}

/// The JSON that a command prints, which must succeed.
pub fn out(command: &mut Command) -> Value {
    serde_json::from_slice(&run(command).stdout).unwrap()
}

/// Checks that the parts of losses, named with a common beginning, stand in exactly those lines of a log
/// in which the teacher takes part, and there make up the loss.
pub fn parts_make_up_losses(log: &str, losses: &[(&str, &str)]) {
    let mut taught = 0;
    for line in log.lines() {
        let step: Value = serde_json::from_str(line).unwrap();
        let alpha = step["alpha"].as_f64().unwrap();
        for (loss, part) in losses {
            let of = |what: &str| step[format!("{part}_{what}")].as_f64();
            if alpha == 0.0 {
                assert!(of("hard").is_none() && of("soft").is_none(), "{line}");
                continue;
            }
            // A batch in which no word is masked has no parts.
            let (Some(hard), Some(soft), Some(kl)) = (of("hard"), of("soft"), of("kl")) else {
                assert_eq!(step[*loss], 0.0, "{line}");
                continue;
            };
            let whole = (1.0 - alpha) * hard + alpha * soft;
            let loss = step[*loss].as_f64().unwrap();
            assert!((whole - loss).abs() < 1e-4 * loss.max(1.0), "{line}");
            assert!(kl > -1e-4 && kl <= soft + 1e-4, "{line}");
            taught += 1;
        }
    }
    assert!(taught > 0, "{log}");
}

/// Writes `n` coloured images with captions and their list; gives the list's path.
pub fn data(folder: &Path, n: usize) -> String {
    let colours = [("red", [200, 30, 30]), ("green", [30, 160, 60]), ("blue", [40, 60, 200])];
    let mut list: Vec<Value> = Vec::new();
    for i in 0..n {
        let (name, colour) = colours[i % 3];
        let mut image = RgbImage::filled(24, 20, colour);
        image.pixels[i % 900] ^= 0x55;
        let file = format!("{i}.png");
        std::fs::write(folder.join(&file), png(&image).unwrap()).unwrap();
        let captions = [format!("a {name} square"), format!("number {i} in {name}")];
        list.push(json!({"image": file, "caption": captions, "image_id": i}));
    }
    let path = folder.join("list.json");
    std::fs::write(&path, Value::Array(list).to_string()).unwrap();
    path.display().to_string()
}

/// Settings of the smallest model on that data.
pub fn settings(list: &str, root: &Path) -> Vec<String> {
    let mut out = Vec::new();
    for setting in [
        format!("train_file=[{list}]"),
        format!("image_root={}", root.display()),
        "image_res=16".into(),
        "embed_dim=16".into(),
        "batch_size=4".into(),
        "queue_size=10".into(),
        "schedular.epochs=1000".into(),
        "rand_augment=[2, 7]".into(),
    ] {
        out.extend(["--set".to_owned(), setting]);
    }
    out
}

/// The setting of the folder that a task's image paths are below.
pub fn image_root(task: &str, root: &Path) -> String {
    let key = if task == "vqa" { "vqa_root" } else { "image_root" };
    format!("{key}={}", root.display())
}

/// The configuration that the settings change.
pub fn config() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/nano.yaml").display().to_string()
}
