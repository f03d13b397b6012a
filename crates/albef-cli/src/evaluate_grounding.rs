//! `albef evaluate grounding`: boxes chosen by attention maps, the model never having seen a box.

use std::path::PathBuf;

use albef::eval::grounding::{PixelBox, best_box, box_score, iou, resize_map};
use albef::explain::matching_maps;
use albef::model::TokenBatch;
use albef_data::dataset::{TaskForm, TaskRoots, read_task};
use albef_data::image::DecodeOptions;
use albef_report::{Kind, bootstrap_interval};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::Answer;
use crate::corpus::{Pictures, Ready};
use crate::device::Where;
use crate::outcomes;

/// Share of the area under both boxes from which a choice counts as right.
const RIGHT: f64 = 0.5;
/// Exponent of the area that a box's sum is divided by, as in the official code.
const AREA_POWER: f64 = 0.5;

#[derive(clap::Args)]
pub struct Arguments {
    /// Model folder or weights file, pre-trained or fine-tuned for grounding or retrieval.
    #[arg(long)]
    model: Option<PathBuf>,
    /// JSON list of `image`, `text`, `box` (what is meant) and `boxes` (to choose from), boxes as
    /// `[left, top, width, height]` in pixels.
    #[arg(long)]
    annotations: PathBuf,
    /// Joined before its image paths.
    #[arg(long, default_value = "")]
    image_root: PathBuf,
    /// Fusion layer whose map is used; the third, if there is one.
    #[arg(long)]
    layer: Option<usize>,
    /// Resamples of the bootstrap interval.
    #[arg(long, default_value_t = 1000)]
    resamples: usize,
    #[command(flatten)]
    device: Where,
    /// Write what was found item by item here, for `albef compare`.
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
}

struct Case {
    meant: PixelBox,
    boxes: Vec<PixelBox>,
}

fn cases(a: &Arguments) -> Result<Vec<Case>> {
    let text = std::fs::read_to_string(&a.annotations)
        .with_context(|| format!("cannot read {}", a.annotations.display()))?;
    let list: Vec<Value> = serde_json::from_str(&text)
        .with_context(|| format!("{} must be a JSON list", a.annotations.display()))?;
    let corners = |v: &Value| -> Option<PixelBox> {
        let numbers: Vec<f64> = v.as_array()?.iter().filter_map(Value::as_f64).collect();
        let b: PixelBox = numbers.try_into().ok()?;
        (b[2] > 0.0 && b[3] > 0.0).then_some(b)
    };
    list.iter()
        .enumerate()
        .map(|(i, entry)| {
            let meant = corners(&entry["box"]);
            let boxes: Option<Vec<PixelBox>> =
                entry["boxes"].as_array().and_then(|l| l.iter().map(corners).collect());
            match (meant, boxes.filter(|b| !b.is_empty())) {
                (Some(meant), Some(boxes)) => Ok(Case { meant, boxes }),
                _ => bail!(
                    "{}, entry {i}: `box` and `boxes` must hold [left, top, width, height] with a \
                     width and a height above 0",
                    a.annotations.display()
                ),
            }
        })
        .collect()
}

pub fn run(a: &Arguments) -> Result<Answer> {
    let cases = cases(a)?;
    let roots = TaskRoots { image_root: a.image_root.clone(), ..TaskRoots::default() };
    let samples = read_task(&a.annotations, TaskForm::Grounding, &roots)?;
    if samples.is_empty() {
        bail!("{} holds nothing to measure", a.annotations.display());
    }
    let device = a.device.open()?;
    let ready = Ready::open(a.model.as_deref(), &device)?;
    let config = &ready.model.config;
    let third = (config.text.fusion_layer + 2).min(config.text.layers - 1);
    let layer = a.layer.unwrap_or(third);
    let pictures = Pictures::of(samples.clone(), config.vision.image_res, &device);
    let (mut scores, mut random, mut centre) = (Vec::new(), 0.0, 0.0);
    let (mut undecided, mut skipped) = (0, Vec::new());
    let all: Vec<usize> = (0..samples.len()).collect();
    let bar = indicatif::ProgressBar::new(all.len() as u64);
    for part in all.chunks(16) {
        let (pixels, failed) = pictures.load(part);
        let texts: Vec<Vec<u32>> =
            part.iter().map(|i| ready.tokens(&samples[*i].captions[0])).collect();
        let longest = texts.iter().map(Vec::len).max().unwrap_or(1);
        let texts = TokenBatch::packed(&texts);
        let maps = matching_maps(config, &ready.params, pixels, &texts, layer)?;
        for (at, i) in part.iter().enumerate() {
            let Case { meant, boxes } = &cases[*i];
            let right = |b: &PixelBox| if iou(*b, *meant) >= RIGHT { 100.0 } else { 0.0 };
            random += boxes.iter().map(right).sum::<f64>() / boxes.len() as f64;
            let picture = samples[*i].decode(&DecodeOptions::default());
            let (Ok(picture), false) = (picture, failed.iter().any(|(f, _)| f == i)) else {
                skipped.push(samples[*i].name.clone());
                scores.push(0.0);
                continue;
            };
            let size = (picture.height, picture.width);
            let (x, y) = (size.1 as f64 / 2.0, size.0 as f64 / 2.0);
            let off = |b: &PixelBox| (b[0] + b[2] / 2.0 - x).hypot(b[1] + b[3] / 2.0 - y);
            let nearest = boxes.iter().min_by(|p, q| off(p).total_cmp(&off(q)));
            centre += nearest.map_or(0.0, right);
            let map = resize_map(&maps.sentence(at, longest), (maps.grid, maps.grid), size);
            let found: Vec<f64> =
                boxes.iter().map(|b| box_score(&map, size, *b, AREA_POWER)).collect();
            let chosen = best_box(&found);
            undecided += usize::from(chosen.is_none());
            scores.push(chosen.map_or(0.0, |c| right(&boxes[c])));
        }
        bar.inc(part.len() as u64);
    }
    bar.finish_and_clear();
    outcomes::save_if(a.save.as_deref(), || {
        outcomes::scores("grounding", Kind::Hit, samples.iter(), &scores)
    })?;
    let n = scores.len() as f64;
    for name in skipped.iter().take(10) {
        eprintln!("not usable, counted as wrong: {name}");
    }
    let mean = scores.iter().sum::<f64>() / n;
    let (low, high) = bootstrap_interval(&scores, a.resamples, 42);
    if a.json {
        println!(
            "{}",
            json!({"accuracy": mean, "interval": [low, high], "random_box": random / n,
                   "centre_box": centre / n, "expressions": scores.len(), "layer": layer,
                   "undecided": undecided, "skipped": skipped.len()})
        );
    } else {
        println!(
            "accuracy {mean:.2} [{low:.2}, {high:.2}] on {} expressions (layer {layer}); a random \
             box {:.2}, the box nearest to the centre {:.2}; undecided {undecided}",
            scores.len(),
            random / n,
            centre / n
        );
    }
    Ok(Answer::Yes)
}
