//! How commands read images: orientation, transparency, frames, limits, and what they say about them.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use albef_data::image::{Background, DecodeOptions, RgbImage, open};
use albef_data::scenes::png;
use serde_json::Value;
use tempfile::tempdir;

use crate::common::{albef, config, data, run, settings, stderr};

/// A small file of one of the forms of image formats.
fn form(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../albef-data/tests/forms").join(name)
}

fn with_model(arguments: &[&str]) -> Command {
    let mut command = albef();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/mini");
    command.args(arguments).env("ALBEF_MODEL", model);
    command
}

/// The image as it is decoded with these options, in a PNG.
fn decoded(dir: &Path, name: &str, options: &DecodeOptions) -> (String, RgbImage) {
    let image = open(&form(name), options).unwrap();
    let path = dir.join(format!("{name}.png"));
    std::fs::write(&path, png(&image).unwrap()).unwrap();
    (path.display().to_string(), image)
}

fn matched(image: &str, options: &[&str]) -> (Value, Output) {
    let output = run(with_model(&["match", image, "a red circle", "--json"]).args(options));
    (serde_json::from_slice(&output.stdout).unwrap(), output)
}

#[test]
fn images_of_ones_own_are_turned_upright_unless_that_is_off() {
    let dir = tempdir().unwrap();
    for name in ["turned6.jpg", "turned3_xmp.webp", "turned5_late.png"] {
        let file = form(name).display().to_string();
        let upright = DecodeOptions { exif_orientation: true, ..DecodeOptions::default() };
        let (turned, _) = decoded(dir.path(), name, &upright);
        let (found, output) = matched(&file, &[]);
        assert_eq!(found, matched(&turned, &[]).0, "{name}");
        assert!(!stderr(&output).contains("orientation"), "{}", stderr(&output));

        let (stored, _) = decoded(dir.path(), name, &DecodeOptions::default());
        let (off, output) = matched(&file, &["--no-exif-orientation"]);
        assert_eq!(off, matched(&stored, &[]).0, "{name}");
        assert!(
            stderr(&output).contains("1 image carries an Exif orientation that is not applied")
        );
        assert_ne!(off, found, "{name}");
    }
}

#[test]
fn maps_and_boxes_are_in_the_frame_of_the_upright_image() {
    let dir = tempdir().unwrap();
    let file = form("turned6.jpg").display().to_string();
    let overlay = dir.path().join("map.png");
    let size = |options: &[&str]| {
        let mut command = with_model(&["ground", &file, "a red circle", "--json", "--output"]);
        let found = run(command.arg(&overlay).args(options));
        let found: Value = serde_json::from_slice(&found.stdout).unwrap();
        let [left, top, width, height]: [f64; 4] =
            serde_json::from_value(found["box"].clone()).unwrap();
        let map = open(&overlay, &DecodeOptions::default()).unwrap();
        (map.width, map.height, left + width, top + height)
    };
    // The map is drawn over the image enlarged.
    let (width, height, right, bottom) = size(&[]);
    assert!(width * 20 == height * 14 && right <= 14.0 && bottom <= 20.0);
    let (width, height, ..) = size(&["--no-exif-orientation"]);
    assert_eq!(width * 14, height * 20);
}

#[test]
fn transparent_images_are_laid_over_a_background_and_counted() {
    let dir = tempdir().unwrap();
    for name in ["rgba.png", "tr.gif", "la16.png", "a_lossless.webp"] {
        let file = form(name).display().to_string();
        for (options, background, line) in [
            (&["--background", "white"][..], Background::WHITE, "the background is white"),
            (&["--background", "#0000ff"], Background::Color([0, 0, 255]), "is #0000ff"),
            (&["--background", "official"], Background::Official, "transparency is ignored"),
            // The default of the shipped model.
            (&[], Background::WHITE, "the background is white"),
        ] {
            let decode = DecodeOptions { background, ..DecodeOptions::default() };
            let (opaque, _) = decoded(dir.path(), name, &decode);
            let (found, output) = matched(&file, options);
            assert_eq!(found, matched(&opaque, &[]).0, "{name}, {background}");
            let said = stderr(&output);
            assert!(said.contains("1 image is transparent") && said.contains(line), "{said}");
        }
    }
    let output = with_model(&["match", "x.png", "x", "--background", "#fff"]).output().unwrap();
    assert!(
        stderr(&output).contains("use official, white, black or #rrggbb"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn of_animations_the_first_frame_is_used_which_is_said() {
    for name in ["anim.gif", "anim_opaque_lossy.webp", "apng.png"] {
        let (_, output) = matched(&form(name).display().to_string(), &[]);
        let line = "1 image is animated; only the first frame is used";
        assert!(stderr(&output).contains(line), "{name}: {}", stderr(&output));
    }
}

#[test]
fn images_are_looked_at_before_the_model_is_loaded() {
    let dir = tempdir().unwrap();
    let page = dir.path().join("page.jpg");
    std::fs::write(&page, "<!DOCTYPE html><title>404</title>").unwrap();
    let page = page.display().to_string();
    for (image, part) in
        [("no-such.png", "no-such.png: image not found"), (&*page, "an HTML page, not an image")]
    {
        for command in [
            &["match", image, "a dog"][..],
            &["classify", image, "dog", "cat"],
            &["ground", image, "a dog"],
            &["ask", image, "what?", "--answers", "a,b"],
            &["entail", image, "a dog"],
            &["reason", image, image, "a dog"],
            &["predict", image, "a dog"],
        ] {
            let mut command_line = albef();
            let output = command_line.args(command).args(["--model", "no-model"]).output().unwrap();
            assert_eq!(output.status.code(), Some(2), "{command:?}");
            assert!(stderr(&output).contains(part), "{command:?}: {}", stderr(&output));
        }
    }
    for command in [&["search", "a dog", "no-such"][..], &["embed", "no-such"]] {
        let output = albef().args(command).args(["--model", "no-model"]).output().unwrap();
        assert!(!stderr(&output).contains("no-model"), "{command:?}: {}", stderr(&output));
    }
}

#[test]
fn the_limit_of_pixels_and_the_resolution_are_options() {
    let file = form("rgb.png").display().to_string();
    let output =
        with_model(&["match", &file, "a dog", "--max-image-pixels", "279"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("too-large image: 20 x 14 pixels, limit 279"));
    let (found, _) = matched(&file, &["--max-image-pixels", "280"]);
    let (larger, output) = matched(&file, &["--image-res", "160"]);
    assert!(stderr(&output).contains("position tables interpolated"), "{}", stderr(&output));
    assert_ne!(found, larger);
}

#[test]
fn images_that_are_not_read_are_named_where_a_folder_is_searched() {
    let dir = tempdir().unwrap();
    let heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic";
    std::fs::write(dir.path().join("a.heic"), heic).unwrap();
    let folder = dir.path().display().to_string();
    let search = ["search", "a dog", &folder, "--rerank-k", "0", "--json"];
    let output = with_model(&search).output().unwrap();
    let line = "1 file that looks like an image is of a kind that is not read (HEIC 1)";
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains(line), "{}", stderr(&output));
    std::fs::copy(form("rgb.png"), dir.path().join("no-extension")).unwrap();
    let output = run(&mut with_model(&search));
    assert!(stderr(&output).contains(line), "{}", stderr(&output));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["results"][0]["image"], "no-extension");
    assert_eq!((&found["unread_files"], &found["skipped_members"]), (&1.into(), &0.into()));
    // Checked as they are, and as a folder of labels.
    let label = dir.path().join("label");
    std::fs::create_dir(&label).unwrap();
    for name in ["a.heic", "no-extension"] {
        std::fs::rename(dir.path().join(name), label.join(name)).unwrap();
    }
    for task in ["captions", "classification"] {
        let output = albef().args(["data", "check", &folder, "--task", task]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{task}");
        assert!(String::from_utf8_lossy(&output.stdout).contains(line), "{task}");
    }
}

#[test]
fn training_takes_images_as_stored_counts_them_and_can_be_told_otherwise() {
    let dir = tempdir().unwrap();
    let list = data(dir.path(), 8);
    std::fs::copy(form("turned6.jpg"), dir.path().join("0.png")).unwrap();
    std::fs::copy(form("rgba.png"), dir.path().join("1.png")).unwrap();
    let train = |name: &str, options: &[&str]| {
        let mut command = albef();
        command.args(["pretrain", &config(), "--output"]).arg(dir.path().join(name));
        command.args(settings(&list, dir.path())).args(["--set", "max_steps=2"]);
        for option in options {
            command.args(["--set", option]);
        }
        stderr(&run(&mut command))
    };
    let said = train("stored", &[]);
    assert!(said.contains("1 image carries an Exif orientation that is not applied"), "{said}");
    assert!(said.contains("1 image is transparent; transparency is ignored"), "{said}");
    let options = ["exif_orientation=true", "background=\"#102030\"", "resize_order=pillow_13"];
    let said = train("turned", &options);
    assert!(!said.contains("orientation"), "{said}");
    assert!(said.contains("1 image is transparent; the background is #102030"), "{said}");
}
