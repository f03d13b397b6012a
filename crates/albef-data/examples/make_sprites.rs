//! Makes the sprites of the demonstration from the drawings: concepts that every style has, cut out
//! of their plain backgrounds, 48 px, one atlas per style.
//!
//! From the repository's root: `cargo run --release -p albef-data --example make_sprites`.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;

use albef_data::dataset::{Dataset, SourceSpec};
use albef_data::image::{DecodeOptions, RgbImage, resize_bicubic};
use image::{Rgba, RgbaImage};
use serde_json::{Value, json};

const CELL: u32 = 48;
const COLUMNS: u32 = 16;
const CONCEPTS: usize = 160;
const STYLES: [&str; 4] = ["twemoji", "noto", "fluent-flat", "fxemoji"];

/// Names that say what is drawn in one or two plain words.
fn plain(caption: &str) -> bool {
    let words = caption.split(' ').count();
    words <= 2 && caption.chars().all(|c| c.is_ascii_lowercase() || c == ' ')
}

/// Whether a concept is a thing that can stand in a scene.
fn drawable(group: &str) -> bool {
    ["animals", "food", "travel", "objects", "activities"]
        .iter()
        .any(|g| group.to_lowercase().contains(g))
}

/// Clears what is connected to the border and of the corner's colour.
fn cut_out(image: &RgbImage) -> RgbaImage {
    let (w, h) = (image.width as i64, image.height as i64);
    let background = image.at(1, 1);
    let near = |x: i64, y: i64| {
        let p = image.at(x as usize, y as usize);
        p.iter().zip(background).all(|(a, b)| a.abs_diff(b) < 26)
    };
    let mut clear = vec![false; (w * h) as usize];
    let mut open: Vec<(i64, i64)> = (0..w)
        .flat_map(|x| [(x, 0), (x, h - 1)])
        .chain((0..h).flat_map(|y| [(0, y), (w - 1, y)]))
        .collect();
    while let Some((x, y)) = open.pop() {
        if x < 0 || y < 0 || x >= w || y >= h || clear[(y * w + x) as usize] || !near(x, y) {
            continue;
        }
        clear[(y * w + x) as usize] = true;
        open.extend([(x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1)]);
    }
    RgbaImage::from_fn(w as u32, h as u32, |x, y| {
        let [r, g, b] = image.at(x as usize, y as usize);
        let alpha = if clear[(i64::from(y) * w + i64::from(x)) as usize] { 0 } else { 255 };
        Rgba([r, g, b, alpha])
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let root = "data/drawings";
    let train = Dataset::open(&[SourceSpec::new(&format!("{root}/train/*.tar"), None)])?;
    let style_list = format!("{root}/drawings_val_style.json");
    let unseen = Dataset::open(&[SourceSpec::new(&style_list, Some(root.as_ref()))])?;
    let mut found: BTreeMap<String, BTreeMap<&str, (bool, usize)>> = BTreeMap::new();
    for (last, data) in [(false, &train), (true, &unseen)] {
        for (i, s) in data.samples().iter().enumerate() {
            let style = STYLES.iter().find(|t| s.name.contains(**t));
            let style = if last { Some(&STYLES[3]) } else { style };
            if let Some(style) = style {
                found.entry(s.key.clone()).or_default().entry(style).or_insert((last, i));
            }
        }
    }
    let mut names = BTreeSet::new();
    let mut chosen = Vec::new();
    for line in std::fs::read_to_string(format!("{root}/concepts.jsonl"))?.lines() {
        let concept: Value = serde_json::from_str(line)?;
        let key = concept["image_id"].as_str().unwrap_or_default();
        let Some(styles) = found.get(key).filter(|f| f.len() == STYLES.len()) else { continue };
        let texts = concept["caption"].as_array().into_iter().flatten();
        let own: Vec<String> = concept["name"]
            .as_str()
            .into_iter()
            .chain(texts.filter_map(Value::as_str))
            .map(str::to_lowercase)
            .filter(|c| plain(c))
            .collect();
        let Some(name) = own.first() else { continue };
        if drawable(concept["group"].as_str().unwrap_or_default()) && names.insert(name.clone()) {
            chosen.push((key.to_owned(), own, styles.clone()));
        }
    }
    let step = (chosen.len() as f64 / CONCEPTS as f64).max(1.0);
    let chosen: Vec<_> = (0..CONCEPTS.min(chosen.len()))
        .map(|i| chosen[(i as f64 * step) as usize].clone())
        .collect();
    for style in STYLES {
        let rows = (chosen.len() as u32).div_ceil(COLUMNS);
        let mut atlas = RgbaImage::new(COLUMNS * CELL, rows * CELL);
        for (i, (_, _, styles)) in chosen.iter().enumerate() {
            let (last, index) = styles[style];
            let data = if last { &unseen } else { &train };
            let picture = data.samples()[index]
                .decode(&DecodeOptions::default())
                .map_err(|e| e.to_string())?;
            let sprite = cut_out(&resize_bicubic(&picture, CELL as usize, CELL as usize));
            let (x, y) = (i as u32 % COLUMNS * CELL, i as u32 / COLUMNS * CELL);
            image::imageops::replace(&mut atlas, &sprite, i64::from(x), i64::from(y));
        }
        atlas.save(format!("data/sprites/{style}.png"))?;
    }
    let concepts: Vec<Value> =
        chosen.iter().map(|(key, names, _)| json!({"id": key, "names": names})).collect();
    let description = json!({ "cell": CELL, "columns": COLUMNS, "concepts": concepts });
    std::fs::write("data/sprites/sprites.json", serde_json::to_string_pretty(&description)?)?;
    println!("{} concepts", chosen.len());
    Ok(())
}
