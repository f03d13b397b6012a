//! What a model does by its `defaults.json`.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::common::{albef, out, pretrained, run, stderr};

fn with(model: &Path, defaults: &Value) {
    fs::write(model.join("defaults.json"), defaults.to_string()).unwrap();
}

/// A command on the first image.
fn of_image(dir: &Path, model: &Path, command: &str, arguments: &[&str]) -> Command {
    let mut out = albef();
    out.arg(command).arg(dir.join("0.png")).args(arguments).arg("--model").arg(model);
    out
}

#[test]
fn commands_do_as_the_defaults_say_unless_flags_say_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, model) = (dir.path(), pretrained(dir.path()));
    let of = |command: &str, arguments: &[&str]| {
        // That nothing is found is an answer too.
        let output = of_image(dir, &model, command, arguments).arg("--json").output().unwrap();
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let plain = of("match", &["a red square"]);
    assert_eq!((&plain["matches"], &plain["threshold"]), (&Value::Null, &Value::Null));
    let by_flags = [
        of("ground", &["red", "--mode", "itc", "--layer", "0"]),
        of("classify", &["red", "blue", "--template", "a {} square", "--template", "{}"]),
    ];
    let images = dir.join("images");
    fs::create_dir(&images).unwrap();
    for i in 0..4 {
        fs::copy(dir.join(format!("{i}.png")), images.join(format!("{i}.png"))).unwrap();
    }
    let search = |arguments: &[&str]| {
        let mut command = albef();
        command.args(["search", "red", "--no-index", "--json"]).arg(&images);
        command.args(arguments).arg("--model").arg(&model);
        command
    };
    let weighted = out(&mut search(&["--match-weight", "0.25"]));

    with(
        &model,
        &json!({"about": "squares in three colors", "ground": {"mode": "itc", "layer": 0},
            "match_threshold": 1.0, "templates": ["a {} square", "{}"]}),
    );
    let by_defaults = [of("ground", &["red"]), of("classify", &["red", "blue"])];
    assert_eq!(by_defaults, by_flags);
    let itm = of("ground", &["red", "--mode", "itm"]);
    assert_eq!(itm["mode"], "itm");
    let filled = of("match", &["red"]);
    assert_eq!((&filled["itm_logit"], &filled["matches"]), (&plain["itm_logit"], &json!(false)));

    // Searches: the threshold of the model is a remark, a given one an answer.
    let output = run(&mut search(&[]));
    assert!(stderr(&output).contains("no confident match"), "{}", stderr(&output));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&found["nothing_matches"], &found["threshold"]), (&json!(true), &json!(1.0)));
    assert_eq!(found["results"].as_array().unwrap().len(), 4);
    let asked = search(&["--threshold", "1"]).output().unwrap();
    assert_eq!(asked.status.code(), Some(1), "{}", stderr(&asked));
    let found = out(&mut search(&["--threshold", "0"]));
    assert_eq!(found["nothing_matches"], false);

    with(&model, &json!({"match_weight": 0.25}));
    assert_eq!(out(&mut search(&[]))["results"], weighted["results"]);
}

#[test]
fn the_default_model_is_introduced_and_unknown_words_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let model = pretrained(dir.path());
    with(&model, &json!({"about": "squares in three colors"}));
    let image = dir.path().join("0.png");
    let mut command = albef();
    let unnamed = run(command.env("ALBEF_MODEL", &model).arg("match").arg(&image).arg("🦄 🦄"));
    let told = stderr(&unnamed);
    assert!(told.contains("note: the default model: squares in three colors"), "{told}");
    assert!(told.contains("warning: the model knows no word of"), "{told}");
    let named = run(&mut of_image(dir.path(), &model, "match", &["a red 🦄"]));
    assert_eq!(stderr(&named), "");
}

#[test]
fn defaults_are_shown_copied_along_and_refused_where_they_are_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let model = pretrained(dir.path());
    let defaults = json!({"match_threshold": 0.25, "background": "white", "templates": ["a {}"]});
    with(&model, &defaults);
    let shown = out(albef().arg("inspect").arg(&model).arg("--json"));
    assert_eq!(shown["defaults"], defaults);
    let text = String::from_utf8(run(albef().arg("inspect").arg(&model)).stdout).unwrap();
    assert!(text.contains("default        match_threshold: 0.25"), "{text}");
    let copy = dir.path().join("copy");
    run(albef().args(["convert", "--to", "safetensors"]).arg(&model).arg("--output").arg(&copy));
    let copied: Value =
        serde_json::from_slice(&fs::read(copy.join("defaults.json")).unwrap()).unwrap();
    assert_eq!(copied, defaults);
    let file = dir.path().join("model.pth");
    let told =
        run(albef().args(["convert", "--to", "official"]).arg(&model).arg("--output").arg(&file));
    assert!(stderr(&told).contains("copy that of the model"), "{}", stderr(&told));
    for (wrong, part) in [
        (json!({"treshold": 0.5}), "unknown field `treshold`"),
        (json!({"ground": {"layer": 77}}), "no layer 77"),
        (json!({"templates": ["red"]}), "has no `{}`"),
    ] {
        with(&model, &wrong);
        let output = of_image(dir.path(), &model, "match", &["red"]).output().unwrap();
        let told = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains("defaults.json") && told.contains(part), "{told}");
    }
}
