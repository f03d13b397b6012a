//! A run that is killed again and again ends as one that never was.

mod common;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use common::{albef, config, data, settings};

const STEPS: usize = 60;
const KILLS: usize = 100;

fn command(list: &str, root: &Path, output: &Path) -> std::process::Command {
    let mut command = albef();
    command.args(["pretrain", &config(), "--resume", "--output"]).arg(output);
    command.args(settings(list, root));
    command.args(["--set", &format!("max_steps={STEPS}"), "--set", "checkpoint_every=3"]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn result(output: &Path) -> (Vec<u8>, String) {
    let model = std::fs::read(output.join("model/model.safetensors")).expect("a model");
    (model, std::fs::read_to_string(output.join("log.jsonl")).expect("a log"))
}

#[test]
fn a_hundred_kills_change_no_bit_of_the_result() {
    let dir = tempfile::tempdir().unwrap();
    let list = data(dir.path(), 30);
    let whole = dir.path().join("whole");
    assert!(command(&list, dir.path(), &whole).status().unwrap().success());
    let expected = result(&whole);
    assert_eq!(expected.1.lines().count(), STEPS);

    let mut seed = 1_u64;
    let mut kills = 0;
    let mut runs = 0;
    while kills < KILLS {
        let broken = dir.path().join(format!("broken{runs}"));
        loop {
            let mut child = command(&list, dir.path(), &broken).spawn().unwrap();
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Lives grow slowly, so that a slow machine gets ahead too.
            let life = 60 + (seed >> 33) % 500 + 4 * (kills % 100) as u64;
            std::thread::sleep(Duration::from_millis(life));
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success());
                break;
            }
            child.kill().unwrap();
            child.wait().unwrap();
            kills += 1;
            assert!(kills < 40 * KILLS, "no run gets to its end");
        }
        let got = result(&broken);
        assert!(got.0 == expected.0, "weights differ after {kills} kills");
        assert_eq!(got.1, expected.1);
        std::fs::remove_dir_all(&broken).unwrap();
        runs += 1;
    }
}
