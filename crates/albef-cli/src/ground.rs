//! `albef ground`: where in a picture the model finds a phrase.

use std::path::{Path, PathBuf};

use albef::config::ModelConfig;
use albef::eval::grounding::{PixelBox, best_box, box_score, cut_to, region_box, resize_map};
use albef::gradcam::{AttentionMaps, contrastive_maps, matching_maps};
use albef::model::TokenBatch;
use albef_data::image::DecodeOptions;
use albef_data::scenes::png;
use albef_data::text::Encoded;
use albef_weights::write_atomic;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::Answer;
use crate::arguments::{picture_place, share, words};
use crate::ask::open_picture;
use crate::corpus::open_model;
use crate::device::Where;
use crate::grounding_cases::{fault, pixel_box};
use crate::notes::tell_cut;
use crate::output::say;
use crate::overlay::{draw_box, enlarged, overlay};

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// The matching score at a fusion layer.
    Itm,
    /// The contrastive score at a block of the image encoder.
    Itc,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Itm => "itm",
            Self::Itc => "itc",
        }
    }
}

#[derive(clap::Args)]
pub struct Arguments {
    /// The picture.
    image: PathBuf,
    /// What to look for.
    #[arg(value_parser = words)]
    phrase: String,
    /// Model folder or weights file; `models/mini`, here or above the program, if not given.
    #[arg(long)]
    model: Option<PathBuf>,
    /// Which score is explained.
    #[arg(long, default_value = "itm")]
    mode: Mode,
    /// Text layer (itm; the third fusion layer, or the last if there are fewer, with --words the one before it) or
    /// image block (itc; the last).
    #[arg(long)]
    layer: Option<usize>,
    /// A map for each word as well, in `--output` or `--json` (itm only).
    #[arg(long)]
    words: bool,
    /// Where to write the picture with the map over it, small pictures enlarged; words get their number and name
    /// appended.
    #[arg(long, value_parser = picture_place)]
    output: Option<PathBuf>,
    /// Proposals to choose from: a JSON list of `[left, top, width, height]` in pixels; a score may
    /// follow, which is not read. What reaches beyond the picture is cut to it.
    #[arg(long)]
    boxes: Option<PathBuf>,
    /// Where between the map's lowest value (0) and its peak (1) a region ends, where no proposals are given.
    #[arg(long, default_value_t = 0.5, value_parser = share, conflicts_with = "boxes")]
    threshold: f32,
    #[command(flatten)]
    device: Where,
    /// One JSON object on standard output, with the raw maps.
    #[arg(long)]
    json: bool,
}

/// `name.png` with a word before its ending.
fn for_word(path: &Path, number: usize, word: &str) -> PathBuf {
    let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or("map");
    let word: String = word.chars().filter(char::is_ascii_alphanumeric).collect();
    path.with_file_name(format!("{stem}-{number}-{word}.png"))
}

/// Whether two paths lead to one file.
fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// The boxes of a file, cut to a picture of this height and width.
fn proposals(path: &Path, size: (usize, usize)) -> Result<Vec<PixelBox>> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let list: Vec<Value> = serde_json::from_str(&text).with_context(|| {
        format!("{} must hold a list of [left, top, width, height]", path.display())
    })?;
    let (mut boxes, mut cut) = (Vec::with_capacity(list.len()), 0);
    for (i, given) in list.iter().enumerate() {
        let Some(b) = pixel_box(given) else {
            bail!("{}, box {i}: {given} must be [left, top, width, height]", path.display());
        };
        if let Some(fault) = fault(b, Some(size)) {
            bail!("{}, box {i}: {given} {fault}", path.display());
        }
        let within = cut_to(b, size);
        cut += usize::from(within != b);
        boxes.push(within);
    }
    if cut > 0 {
        eprintln!(
            "note: {cut} of {} boxes reach beyond the picture and are cut to it",
            boxes.len()
        );
    }
    Ok(boxes)
}

/// The fusion layer that is shown if none is named: the third one, as in the paper, or the last if there are
/// fewer; for single words one that is not the last, if there is one.
fn fusion_layer(config: &ModelConfig, words: bool) -> usize {
    let first = config.text.fusion_layer;
    let last = config.text.layers.saturating_sub(1 + usize::from(words));
    (first + 2).min(last.max(first))
}

pub fn run(a: &Arguments) -> Result<Answer> {
    if a.words && a.mode == Mode::Itc {
        eprintln!("note: the contrastive score has one map for the whole phrase, none for words");
    }
    if a.words && a.output.is_none() && !a.json {
        eprintln!("note: --words shows its maps in --output FILE or --json");
    }
    if let Some(output) = a.output.as_ref().filter(|output| same_file(output, &a.image)) {
        bail!("--output {} is the picture itself; name another file", output.display());
    }
    let device = a.device.open()?;
    let ready = open_model(a.model.as_deref(), &device)?;
    let config = &ready.model.config;
    let (pictures, pixels) = open_picture(&a.image, config.vision.image_res, &device)?;
    let Encoded { ids: tokens, cut } = ready.phrase(&a.phrase);
    tell_cut(cut.into(), 1, ready.phrase_limits());
    let texts = TokenBatch::packed(std::slice::from_ref(&tokens));
    let layer = a.layer.unwrap_or(match a.mode {
        Mode::Itm => fusion_layer(config, a.words),
        Mode::Itc => config.vision.depth.saturating_sub(1),
    });
    let maps: AttentionMaps = match a.mode {
        Mode::Itm => {
            let alone = fusion_layer(config, false);
            if a.words && a.layer.is_none() && layer != alone {
                eprintln!(
                    "note: all maps are of layer {layer}, where words have some; without --words that of the phrase \
                     is of layer {alone}"
                );
            }
            if a.words && layer + 1 == config.text.layers {
                eprintln!(
                    "note: words have no maps at layer {layer}: of the last one only `[CLS]` is read; \
                     choose a lower --layer"
                );
            }
            matching_maps(config, &ready.params, pixels, &texts, layer)?
        }
        Mode::Itc => contrastive_maps(config, &ready.params, pixels, &texts, layer)?,
    };
    let count = maps.tokens[0];
    let whole = maps.sentence(0, count);
    let image = pictures.data.samples()[0]
        .decode(&DecodeOptions::default())
        .map_err(|e| anyhow::anyhow!("{e}"))?;
    let size = (image.height, image.width);
    let wide = resize_map(&whole, (maps.grid, maps.grid), size);
    let (boxes, chosen, scores) = match &a.boxes {
        None => {
            let found = region_box(&wide, size, a.threshold);
            (found.into_iter().collect::<Vec<_>>(), found, Vec::new())
        }
        Some(path) => {
            let boxes = proposals(path, size)?;
            let scores: Vec<f64> = boxes.iter().map(|b| box_score(&wide, size, *b, 0.5)).collect();
            let chosen = best_box(&scores).map(|i| boxes[i]);
            (boxes, chosen, scores)
        }
    };
    let words: Vec<String> = tokens.iter().map(|t| ready.piece(*t).to_owned()).collect();
    if let Some(path) = &a.output {
        let (shown, factor) = enlarged(&image);
        let write = |path: &Path, map: &[f32], b: Option<PixelBox>| -> Result<()> {
            let mut picture = overlay(&shown, map, maps.grid);
            if let Some(b) = b {
                draw_box(&mut picture, b.map(|v| v * factor as f64), [255, 255, 255]);
            }
            let bytes = png(&picture)?;
            write_atomic(path, |f| std::io::Write::write_all(f, &bytes))?;
            eprintln!("wrote {}", path.display());
            Ok(())
        };
        write(path, &whole, chosen)?;
        if a.words && a.mode == Mode::Itm {
            for (i, word) in words.iter().enumerate().skip(1) {
                write(&for_word(path, i, word), &maps.token(0, i), None)?;
            }
        }
    }
    if a.json {
        let per_word: Vec<Value> = if a.words && a.mode == Mode::Itm {
            let word = |i: usize| json!({"word": words[i], "map": maps.token(0, i)});
            (1..count).map(word).collect()
        } else {
            Vec::new()
        };
        say!(
            "{}",
            json!({"phrase": a.phrase, "mode": a.mode.name(), "layer": layer, "grid": maps.grid, "map": whole, "words": per_word,
                   "box": chosen, "boxes": boxes, "box_scores": scores, "scores": maps.scores})
        )?;
    } else {
        match chosen {
            Some([x, y, w, h]) => say!("box: left {x:.0}, top {y:.0}, {w:.0} x {h:.0} pixels")?,
            None => say!("no region speaks for it")?,
        }
    }
    Ok(if chosen.is_some() { Answer::Yes } else { Answer::No })
}
