//! The corpus of the demonstration: real emoji art, alone and composed into scenes whose captions
//! say what stands where.
//!
//! The same seed gives the same corpus everywhere. Three styles are trained on; `fxemoji` is not.
//! A tenth of the (concept, style) pairs and an eighth of the pairs of concepts are held out.

mod tasks;

pub use tasks::{TaskCorpus, build_tasks, write_tasks};

use std::collections::BTreeSet;
use std::fs;
use std::io::Cursor;
use std::path::Path;

use image::{ImageFormat, RgbaImage};
use serde_json::{Value, json};

use crate::error::{DataError, Result};
use crate::image::{RgbImage, resize_bicubic};
use crate::random::Stream;

const TRAINED: [(&str, &[u8]); 3] = [
    ("twemoji", include_bytes!("../../../../data/sprites/twemoji.png")),
    ("noto", include_bytes!("../../../../data/sprites/noto.png")),
    ("fluent-flat", include_bytes!("../../../../data/sprites/fluent-flat.png")),
];
const UNSEEN: (&str, &[u8]) = ("fxemoji", include_bytes!("../../../../data/sprites/fxemoji.png"));
const DESCRIPTION: &str = include_str!("../../../../data/sprites/sprites.json");

/// Pale plain backgrounds.
const BACKGROUNDS: [[u8; 3]; 7] = [
    [255, 255, 255],
    [255, 255, 255],
    [246, 238, 227],
    [228, 240, 248],
    [232, 245, 233],
    [248, 232, 238],
    [238, 236, 250],
];

/// Sizes of the corpus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CorpusOptions {
    /// Seed of everything drawn.
    pub seed: u64,
    /// Side of the pictures.
    pub size: usize,
    /// Scenes to train on.
    pub train_scenes: usize,
    /// Scenes to measure with.
    pub val_scenes: usize,
}

impl Default for CorpusOptions {
    fn default() -> Self {
        Self { seed: 42, size: 64, train_scenes: 1600, val_scenes: 200 }
    }
}

/// A picture and what it shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The picture.
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

struct Sprites {
    cell: u32,
    columns: u32,
    concepts: Vec<(String, Vec<String>)>,
    styles: Vec<(&'static str, RgbaImage)>,
}

impl Sprites {
    fn open() -> Result<Self> {
        let internal = |e: &dyn std::fmt::Display| DataError::Internal(format!("sprites: {e}"));
        let description: Value = serde_json::from_str(DESCRIPTION).map_err(|e| internal(&e))?;
        let concepts = description["concepts"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|c| {
                let names = c["names"].as_array().into_iter().flatten();
                let mut names: Vec<String> =
                    names.filter_map(Value::as_str).map(str::to_owned).collect();
                names.dedup();
                (c["id"].as_str().unwrap_or_default().to_owned(), names)
            })
            .collect();
        let styles = TRAINED
            .into_iter()
            .chain([UNSEEN])
            .map(|(name, bytes)| {
                let atlas = image::load_from_memory_with_format(bytes, ImageFormat::Png)
                    .map_err(|e| internal(&e))?;
                Ok((name, atlas.into_rgba8()))
            })
            .collect::<Result<_>>()?;
        let number = |key: &str| description[key].as_u64().unwrap_or(1) as u32;
        Ok(Self { cell: number("cell"), columns: number("columns"), concepts, styles })
    }

    /// Draws a concept over a picture, `side` pixels wide, its upper left corner at `(x, y)`.
    fn draw(&self, image: &mut RgbImage, at: (usize, usize), place: (usize, usize), side: usize) {
        let (concept, style) = at;
        let atlas = &self.styles[style].1;
        let cell = self.cell as usize;
        let (left, top) = (
            (concept as u32 % self.columns * self.cell) as usize,
            (concept as u32 / self.columns * self.cell) as usize,
        );
        let mut colours = RgbImage::filled(cell, cell, [0; 3]);
        let mut cover = RgbImage::filled(cell, cell, [0; 3]);
        for y in 0..cell {
            for x in 0..cell {
                let p = atlas.get_pixel((left + x) as u32, (top + y) as u32).0;
                let i = (y * cell + x) * 3;
                for c in 0..3 {
                    colours.pixels[i + c] = (u16::from(p[c]) * u16::from(p[3]) / 255) as u8;
                    cover.pixels[i + c] = p[3];
                }
            }
        }
        let (colours, cover) =
            (resize_bicubic(&colours, side, side), resize_bicubic(&cover, side, side));
        for y in 0..side.min(image.height.saturating_sub(place.1)) {
            for x in 0..side.min(image.width.saturating_sub(place.0)) {
                let (from, to) =
                    ((y * side + x) * 3, ((place.1 + y) * image.width + place.0 + x) * 3);
                for c in 0..3 {
                    let under = u16::from(image.pixels[to + c]);
                    let keep = 255 - u16::from(cover.pixels[from + c]);
                    let over = u16::from(colours.pixels[from + c]);
                    image.pixels[to + c] = (over + under * keep / 255).min(255) as u8;
                }
            }
        }
    }
}

/// A picture of two sprites.
struct Arranged {
    image: RgbImage,
    /// Upper left corners.
    places: [(usize, usize); 2],
    /// Width and height of a sprite.
    side: usize,
    /// Whether they stand beside each other rather than one above the other.
    beside: bool,
}

fn with_article(name: &str) -> String {
    let vowel = name.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {name}", if vowel { "an" } else { "a" })
}

impl Sprites {
    fn background(size: usize, stream: &mut Stream) -> RgbImage {
        RgbImage::filled(size, size, BACKGROUNDS[stream.below(BACKGROUNDS.len())])
    }

    fn single(&self, concept: usize, style: usize, size: usize, stream: &mut Stream) -> Pair {
        let mut image = Self::background(size, stream);
        let side = (size as f64 * stream.range(0.72, 0.95)) as usize;
        let room = size - side + 1;
        let place = (stream.below(room), stream.below(room));
        self.draw(&mut image, (concept, style), place, side);
        let (id, names) = &self.concepts[concept];
        let mut captions = names.clone();
        captions.push(with_article(&names[0]));
        captions.push(format!("a picture of {}", with_article(&names[0])));
        Pair { image, captions, id: id.clone(), style: self.styles[style].0.into() }
    }

    /// Two concepts beside each other, the first on the left, or one above the other.
    fn two(
        &self,
        pair: (usize, usize),
        style: usize,
        beside: Option<bool>,
        size: usize,
        stream: &mut Stream,
    ) -> Arranged {
        let mut image = Self::background(size, stream);
        let side = size / 2;
        let beside = beside.unwrap_or_else(|| stream.below(2) == 0);
        let shift = stream.below(side + 1);
        let places = if beside {
            [(0, shift), (side, side - shift)]
        } else {
            [(shift, 0), (side - shift, side)]
        };
        for (concept, place) in [pair.0, pair.1].into_iter().zip(places) {
            self.draw(&mut image, (concept, style), place, side);
        }
        Arranged { image, places, side, beside }
    }

    fn scene(&self, pair: (usize, usize), style: usize, size: usize, stream: &mut Stream) -> Pair {
        let Arranged { image, beside, .. } = self.two(pair, style, None, size, stream);
        let name = |c: usize| with_article(&self.concepts[c].1[0]);
        let (a, b) = (name(pair.0), name(pair.1));
        let captions = if beside {
            vec![
                format!("{a} to the left of {b}"),
                format!("{b} to the right of {a}"),
                format!("{a} on the left and {b} on the right"),
            ]
        } else {
            vec![
                format!("{a} above {b}"),
                format!("{b} below {a}"),
                format!("{a} at the top and {b} at the bottom"),
            ]
        };
        let id = format!("{}+{}", self.concepts[pair.0].0, self.concepts[pair.1].0);
        Pair { image, captions, id, style: self.styles[style].0.into() }
    }
}

/// Builds the corpus.
///
/// # Errors
/// Never for the sprites that are built in.
pub fn build(options: &CorpusOptions) -> Result<Corpus> {
    let sprites = Sprites::open()?;
    let (n, size) = (sprites.concepts.len(), options.size);
    let stream = |name: &str, i: usize| Stream::new(options.seed, name, &[i as u64]);
    let styles = TRAINED.len();
    let held = |c: usize, s: usize| stream("held-out cell", c * styles + s).below(10) == 0;
    let held_pair =
        |a: usize, b: usize| stream("held-out pair", a.min(b) * n + a.max(b)).below(8) == 0;
    let mut corpus = Corpus::default();
    for concept in 0..n {
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
    while (corpus.val_scenes.len() < options.val_scenes
        || corpus.train.len() < n * styles * 2 + options.train_scenes)
        && attempt < 200 * (options.val_scenes + options.train_scenes)
    {
        let mut s = stream("scene", attempt);
        attempt += 1;
        let (a, b, style) = (s.below(n), s.below(n), s.below(styles));
        if a == b || held(a, style) || held(b, style) {
            continue;
        }
        if held_pair(a, b) {
            let new = seen.insert((a.min(b), a.max(b)));
            if new && corpus.val_scenes.len() < options.val_scenes {
                corpus.val_scenes.push(sprites.scene((a, b), style, size, &mut s));
            }
        } else if corpus.train.len() < n * styles * 2 + options.train_scenes {
            corpus.train.push(sprites.scene((a, b), style, size, &mut s));
        }
    }
    Ok(corpus)
}

/// Share of pictures whose nearest training picture, in plain pixels at 24 x 24, has the same id.
#[must_use]
pub fn pixel_baseline(train: &[Pair], val: &[Pair]) -> f64 {
    let small = |p: &Pair| resize_bicubic(&p.image, 24, 24).pixels;
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

/// A picture as a PNG file.
///
/// # Errors
/// Never for a consistent picture.
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
/// `val_*.json`, image paths relative to `folder`.
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
        let pictures = folder.join(name);
        fs::create_dir_all(&pictures).map_err(DataError::io(&pictures))?;
        let mut list = Vec::new();
        for (i, pair) in pairs.iter().enumerate() {
            let file = pictures.join(format!("{i:05}.png"));
            fs::write(&file, png(&pair.image)?).map_err(DataError::io(&file))?;
            list.push(json!({
                "image": format!("{name}/{i:05}.png"), "caption": pair.captions,
                "image_id": pair.id, "style": pair.style,
            }));
        }
        let file = folder.join(format!("{name}.json"));
        let text = Value::Array(list).to_string();
        fs::write(&file, text).map_err(DataError::io(&file))?;
    }
    Ok(())
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
}
