//! The corpus of the demonstration: real emoji art, alone and composed into scenes whose captions
//! say what stands where.
//!
//! The same seed gives the same corpus everywhere. Three styles are trained on; `fxemoji` is not.
//! A tenth of the (concept, style) pairs and an eighth of the pairs of concepts are held out.

mod compose;
mod sprites;
mod tasks;

pub use sprites::{LeftOut, Sprites};
pub use tasks::{TaskCorpus, build_tasks, write_tasks};

use std::collections::BTreeSet;
use std::fs;
use std::io::{Cursor, Write};
use std::path::Path;

use albef_weights::write_atomic;
use image::ImageFormat;
use serde_json::{Value, json};

use crate::error::{DataError, Result};
use crate::image::{ResizeOrder, RgbImage, resize_bicubic};
use crate::random::Stream;

/// Sizes of the corpus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CorpusOptions {
    /// Seed of everything drawn.
    pub seed: u64,
    /// Side of the images.
    pub size: usize,
    /// Things that are shown, evenly spaced among the built-in ones; all of them if there are fewer.
    pub concepts: usize,
    /// Scenes to train on.
    pub train_scenes: usize,
    /// Scenes to measure with.
    pub val_scenes: usize,
}

impl Default for CorpusOptions {
    fn default() -> Self {
        Self { seed: 42, size: 64, concepts: 160, train_scenes: 1600, val_scenes: 200 }
    }
}

/// An image and what it shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The image.
    pub image: RgbImage,
    /// Captions, all true.
    pub captions: Vec<String>,
    /// Concept, or the two concepts of a scene.
    pub id: String,
    /// Style of the art.
    pub style: String,
}

/// The corpus with its splits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Corpus {
    /// To train on.
    pub train: Vec<Pair>,
    /// Scenes of pairs of concepts that never meet in training.
    pub val_scenes: Vec<Pair>,
    /// Concepts in a training style in which they were never shown.
    pub val_emoji: Vec<Pair>,
    /// All concepts in a style that was never shown.
    pub val_style: Vec<Pair>,
}

/// Builds the corpus.
///
/// # Errors
/// Never for the sprites that are built in.
pub fn build(options: &CorpusOptions) -> Result<Corpus> {
    let sprites = Sprites::embedded()?;
    let (all, size) = (sprites.concepts.len(), options.size);
    let n = options.concepts.clamp(2, all);
    let chosen: Vec<usize> = (0..n).map(|i| i * all / n).collect();
    let stream = |name: &str, i: usize| Stream::new(options.seed, name, &[i as u64]);
    let styles = sprites.trained();
    let held = |c: usize, s: usize| stream("held-out cell", c * styles + s).below(10) == 0;
    let held_pair =
        |a: usize, b: usize| stream("held-out pair", a.min(b) * all + a.max(b)).below(8) == 0;
    let mut corpus = Corpus::default();
    for &concept in &chosen {
        for style in 0..styles {
            let cell = concept * styles + style;
            if held(concept, style) {
                let mut s = stream("val emoji", cell);
                corpus.val_emoji.push(sprites.single(concept, style, size, &mut s));
            } else {
                for copy in 0..2 {
                    let mut s = stream("single", cell * 2 + copy);
                    corpus.train.push(sprites.single(concept, style, size, &mut s));
                }
            }
        }
        let mut s = stream("val style", concept);
        corpus.val_style.push(sprites.single(concept, styles, size, &mut s));
    }
    let mut seen = BTreeSet::new();
    let mut attempt = 0;
    let most = n * styles * 2 + options.train_scenes;
    while (corpus.val_scenes.len() < options.val_scenes || corpus.train.len() < most)
        && attempt < 200 * (options.val_scenes + options.train_scenes)
    {
        let mut s = stream("scene", attempt);
        attempt += 1;
        let (a, b, style) = (chosen[s.below(n)], chosen[s.below(n)], s.below(styles));
        if a == b || held(a, style) || held(b, style) {
            continue;
        }
        if held_pair(a, b) {
            let new = seen.insert((a.min(b), a.max(b)));
            if new && corpus.val_scenes.len() < options.val_scenes {
                corpus.val_scenes.push(sprites.scene((a, b), style, None, size, &mut s));
            }
        } else if corpus.train.len() < most {
            corpus.train.push(sprites.scene((a, b), style, None, size, &mut s));
        }
    }
    Ok(corpus)
}

/// Share of images whose nearest training image, in plain pixels at 24 x 24, has the same id.
#[must_use]
pub fn pixel_baseline(train: &[Pair], val: &[Pair]) -> f64 {
    let small = |p: &Pair| resize_bicubic(&p.image, 24, 24, ResizeOrder::default()).pixels;
    let shelf: Vec<(Vec<u8>, &str)> = train.iter().map(|p| (small(p), p.id.as_str())).collect();
    let hits = val
        .iter()
        .filter(|p| {
            let own = small(p);
            let distance = |other: &[u8]| -> u64 {
                own.iter().zip(other).map(|(a, b)| u64::from(a.abs_diff(*b))).sum()
            };
            shelf.iter().min_by_key(|(pixels, _)| distance(pixels)).is_some_and(|n| n.1 == p.id)
        })
        .count();
    hits as f64 / val.len().max(1) as f64
}

/// An image as a PNG file.
///
/// # Errors
/// Never for a consistent image.
pub fn png(image: &RgbImage) -> Result<Vec<u8>> {
    let internal = |e: &dyn std::fmt::Display| DataError::Internal(format!("png: {e}"));
    let (w, h) = (image.width as u32, image.height as u32);
    let buffer = image::RgbImage::from_raw(w, h, image.pixels.clone())
        .ok_or_else(|| internal(&"wrong size"))?;
    let mut out = Cursor::new(Vec::new());
    buffer.write_to(&mut out, ImageFormat::Png).map_err(|e| internal(&e))?;
    Ok(out.into_inner())
}

/// Writes the splits as PNG files with official annotation lists: `train.json` and the three
/// `val_*.json`, image paths relative to `folder`. The lists come after all images, each whole or
/// not at all, so none names a file that is not there.
///
/// # Errors
/// If a file cannot be written.
pub fn write_dataset(corpus: &Corpus, folder: &Path) -> Result<()> {
    let splits = [
        ("train", &corpus.train),
        ("val_scenes", &corpus.val_scenes),
        ("val_emoji", &corpus.val_emoji),
        ("val_style", &corpus.val_style),
    ];
    for (name, pairs) in splits {
        let images = folder.join(name);
        fs::create_dir_all(&images).map_err(DataError::io(&images))?;
        for (i, pair) in pairs.iter().enumerate() {
            let file = images.join(format!("{i:05}.png"));
            fs::write(&file, png(&pair.image)?).map_err(DataError::io(&file))?;
        }
    }
    for (name, pairs) in splits {
        let entry = |(i, pair): (usize, &Pair)| {
            json!({
                "image": format!("{name}/{i:05}.png"), "caption": pair.captions,
                "image_id": pair.id, "style": pair.style,
            })
        };
        let list = pairs.iter().enumerate().map(entry).collect();
        write_list(&folder.join(format!("{name}.json")), &Value::Array(list))?;
    }
    Ok(())
}

/// Writes a list whole or not at all.
fn write_list(path: &Path, list: &Value) -> Result<()> {
    write_atomic(path, |file| file.write_all(list.to_string().as_bytes()))
        .map_err(|error| DataError::Io { path: error.path, cause: error.cause })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_is_the_same_everywhere_and_keeps_its_splits_apart() {
        let options =
            CorpusOptions { train_scenes: 60, val_scenes: 20, ..CorpusOptions::default() };
        let corpus = build(&options).unwrap();
        assert_eq!(corpus, build(&options).unwrap());
        let bytes = corpus.train.iter().chain(&corpus.val_style).flat_map(|p| &p.image.pixels);
        let sum = bytes.fold(0_u64, |h, b| h.wrapping_mul(31).wrapping_add(u64::from(*b)));
        assert_eq!(sum, PINNED);
        let trained: BTreeSet<(&str, &str)> =
            corpus.train.iter().map(|p| (p.id.as_str(), p.style.as_str())).collect();
        for p in corpus.val_emoji.iter().chain(&corpus.val_style) {
            assert!(!trained.contains(&(p.id.as_str(), p.style.as_str())), "{}", p.id);
        }
        let unordered = |id: &str| {
            let (a, b) = id.split_once('+').unwrap();
            if a < b { (a.to_owned(), b.to_owned()) } else { (b.to_owned(), a.to_owned()) }
        };
        let met: BTreeSet<_> =
            corpus.train.iter().filter(|p| p.id.contains('+')).map(|p| unordered(&p.id)).collect();
        assert!(corpus.val_scenes.iter().all(|p| !met.contains(&unordered(&p.id))));
    }

    const PINNED: u64 = 10686521116549352977;

    #[test]
    fn no_list_is_written_before_the_last_image() {
        let pair = |id: &str| Pair {
            image: RgbImage::filled(2, 2, [1; 3]),
            captions: vec![id.into()],
            id: id.into(),
            style: "s".into(),
        };
        let corpus = Corpus {
            train: vec![pair("a"), pair("b")],
            val_style: vec![pair("c")],
            ..Corpus::default()
        };
        let dir = tempfile::tempdir().unwrap();
        let blocked = dir.path().join("val_style");
        fs::write(&blocked, "no folder").unwrap();
        assert!(write_dataset(&corpus, dir.path()).is_err());
        let lists = || {
            let entries = fs::read_dir(dir.path()).unwrap();
            let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
            names.filter(|n| n.contains(".json")).count()
        };
        assert_eq!(lists(), 0);
        fs::remove_file(&blocked).unwrap();
        write_dataset(&corpus, dir.path()).unwrap();
        assert_eq!(lists(), 4);
        let list = fs::read_to_string(dir.path().join("train.json")).unwrap();
        let list: Vec<Value> = serde_json::from_str(&list).unwrap();
        assert_eq!(list[1]["image"], "train/00001.png");
        assert!(list.iter().all(|e| dir.path().join(e["image"].as_str().unwrap()).is_file()));
    }
}
