//! `albef evaluate grounding`: boxes chosen by attention maps, the model never having seen a box.

use std::path::PathBuf;

use albef::eval::grounding::{PixelBox, best_box, box_score, iou, resize_map, within};
use albef::eval::refcoco::SPLITS;
use albef::gradcam::{contrastive_maps, matching_maps};
use albef::model::TokenBatch;
use albef::pipeline::Pipeline;
use albef_data::dataset::Skipped;
use albef_data::image::DecodeOptions;
use albef_report::{Kind, Outcomes, bootstrap_interval};
use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::Answer;
use crate::corpus::{Pictures, model_path, open_model_at};
use crate::ground::Mode;
use crate::grounding_cases::{Case, Cases};
use crate::notes::{tell_cut, tell_first, tell_skipped};
use crate::outcomes::{self, Reporting};
use crate::output::say;
use crate::tasks::refuse_if_none;

/// Share of the area under both boxes from which a choice counts as right.
const RIGHT: f64 = 0.5;
/// Exponent of the area that a box's sum is divided by, as in the official code.
const AREA_POWER: f64 = 0.5;

#[derive(clap::Args)]
pub struct Arguments {
    /// Model folder or weights file, pre-trained or fine-tuned for grounding or retrieval; `models/mini`, here or
    /// above the program, if not given.
    #[arg(long)]
    model: Option<PathBuf>,
    /// JSON list of `image`, `text`, `box` (what is meant) and `boxes` (to choose from), boxes as
    /// `[left, top, width, height]` in pixels; or, with --refcoco-data, the official lists of `image`,
    /// `text` and `ref_id`. Several lists count as one.
    #[arg(long, required = true, num_args = 1..)]
    annotations: Vec<PathBuf>,
    /// Joined before its image paths.
    #[arg(long, default_value = ".")]
    image_root: PathBuf,
    /// Pixels along the side of an image, a multiple of the patch size, if not those of the model; its
    /// position table is interpolated.
    #[arg(long, value_name = "PIXELS")]
    image_res: Option<usize>,
    /// Folder with `refcoco+/refs(unc).p` and `refcoco+/instances.json`; gives accuracy by split.
    #[arg(long, requires = "det_file")]
    refcoco_data: Option<PathBuf>,
    /// Proposals for RefCOCO+: a JSON object, boxes by number of the picture.
    #[arg(long, requires = "refcoco_data")]
    det_file: Option<PathBuf>,
    /// Which score the map explains.
    #[arg(long, default_value = "itm")]
    mode: Mode,
    /// Layer whose map is used: a fusion layer (the third, if there is one), or for `itc` an image
    /// block (the last).
    #[arg(long)]
    layer: Option<usize>,
    #[command(flatten)]
    reporting: Reporting,
}

/// What came of the expressions, each list in their order.
pub struct Outcome {
    /// 100 where the chosen box is right, 0 where not.
    pub scores: Vec<f64>,
    /// What a box chosen at random scores on average.
    random: Vec<f64>,
    /// What the box nearest to the centre scores.
    centre: Vec<f64>,
    splits: Vec<Option<String>>,
    layer: usize,
    undecided: usize,
    /// Expressions of which the end is not read.
    cut: usize,
    /// Expressions whose own box lies outside of the picture; they count as wrong.
    outside: Vec<String>,
    /// Proposals outside of their pictures, which are not chosen.
    proposals_outside: usize,
    /// Expressions about pictures that cannot be used; they count as wrong.
    pub skipped: Vec<Skipped>,
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

impl Outcome {
    /// Accuracy in per cent with its interval and what chance gives; with splits also by split, under
    /// the official names `val_d`, `testA_d` and `testB_d`.
    pub fn json(&self, resamples: usize) -> Value {
        let (low, high) = bootstrap_interval(&self.scores, resamples, 42);
        let mut out = json!({"accuracy": mean(&self.scores), "interval": [low, high],
            "random_box": mean(&self.random), "centre_box": mean(&self.centre),
            "expressions": self.scores.len(), "layer": self.layer,
            "undecided": self.undecided, "skipped": self.skipped.len(),
            "cut_texts": self.cut, "outside": self.outside.len(), "proposals_outside": self.proposals_outside});
        for split in SPLITS {
            let which: Vec<usize> = (0..self.scores.len())
                .filter(|i| self.splits[*i].as_deref() == Some(split))
                .collect();
            if which.is_empty() {
                continue;
            }
            let of = |values: &[f64]| which.iter().map(|i| values[*i]).collect::<Vec<f64>>();
            let scores = of(&self.scores);
            let (low, high) = bootstrap_interval(&scores, resamples, 42);
            out[format!("{split}_d")] = json!(mean(&scores));
            out["splits"][split] = json!({"accuracy": mean(&scores), "interval": [low, high],
                "random_box": mean(&of(&self.random)), "centre_box": mean(&of(&self.centre)),
                "expressions": scores.len()});
        }
        out
    }

    /// Names what could not be measured as it should.
    pub fn tell(&self) {
        tell_skipped(&self.skipped);
        let outside = self.outside.iter().cloned();
        tell_first("its `box` lies outside of the picture, counted as wrong", outside);
        if self.proposals_outside > 0 {
            eprintln!(
                "{} proposals lie outside of their pictures and are never chosen",
                self.proposals_outside
            );
        }
    }

    /// Right or wrong, item by item.
    pub fn outcomes(&self, cases: &Cases) -> Outcomes {
        outcomes::scores("grounding", Kind::Hit, cases.samples.iter(), &self.scores)
    }
}

pub fn run(a: &Arguments) -> Result<Answer> {
    let cases = match (&a.refcoco_data, &a.det_file) {
        (Some(data), Some(boxes)) => Cases::of_refcoco(&a.annotations, &a.image_root, data, boxes)?,
        (None, None) => Cases::of_lists(&a.annotations, &a.image_root)?,
        _ => bail!("--refcoco-data and --det-file belong together"),
    };
    let path = model_path(a.model.as_deref())?;
    let ready = open_model_at(&path, a.image_res, &a.reporting.device.open()?)?;
    let out = measure(&ready, &cases, a.mode, a.layer)?;
    out.tell();
    // The figures first: they are not lost where saving fails.
    let printed = print(&out, &a.reporting);
    let saved = outcomes::save_if(a.reporting.save.as_deref(), || out.outcomes(&cases));
    printed.and(saved)?;
    Ok(Answer::Yes)
}

fn print(out: &Outcome, reporting: &Reporting) -> Result<()> {
    let value = out.json(reporting.resamples);
    if reporting.json {
        return say!("{value}");
    }
    let line = |name: &str, v: &Value| -> Result<()> {
        let number = |v: &Value| v.as_f64().unwrap_or(f64::NAN);
        say!(
            "{name}accuracy {:.2} [{:.2}, {:.2}] on {} expressions (layer {}); a random box {:.2}, \
             the box nearest to the centre {:.2}",
            number(&v["accuracy"]),
            number(&v["interval"][0]),
            number(&v["interval"][1]),
            v["expressions"],
            out.layer,
            number(&v["random_box"]),
            number(&v["centre_box"])
        )
    };
    match value["splits"].as_object() {
        Some(splits) => splits.iter().try_for_each(|(name, v)| line(&format!("{name}: "), v))?,
        None => line("", &value)?,
    }
    if out.undecided > 0 {
        say!("undecided, counted as wrong: {}", out.undecided)?;
    }
    Ok(())
}

/// Chooses a box for every expression by the model's attention map.
pub fn measure(
    ready: &Pipeline,
    cases: &Cases,
    mode: Mode,
    layer: Option<usize>,
) -> Result<Outcome> {
    let Cases { samples, cases } = cases;
    let config = &ready.model.config;
    let layer = layer.unwrap_or(match mode {
        Mode::Itm => (config.text.fusion_layer + 2).min(config.text.layers - 1),
        Mode::Itc => config.vision.depth.saturating_sub(1),
    });
    let pictures = Pictures::of(samples.clone(), config.vision.image_res, ready.params.device());
    let mut out = Outcome {
        scores: Vec::new(),
        random: Vec::new(),
        centre: Vec::new(),
        splits: cases.iter().map(|c| c.split.clone()).collect(),
        layer,
        undecided: 0,
        cut: 0,
        outside: Vec::new(),
        proposals_outside: 0,
        skipped: Vec::new(),
    };
    let all: Vec<usize> = (0..samples.len()).collect();
    let bar = indicatif::ProgressBar::new(all.len() as u64);
    for part in all.chunks(16) {
        let (pixels, failed) = pictures.load(part);
        let phrases = part.iter().map(|i| ready.phrase(&samples[*i].captions[0]));
        let (texts, cut): (Vec<Vec<u32>>, Vec<bool>) = phrases.map(|p| (p.ids, p.cut)).unzip();
        out.cut += cut.into_iter().filter(|c| *c).count();
        let longest = match mode {
            Mode::Itm => texts.iter().map(Vec::len).max().unwrap_or(1),
            Mode::Itc => 1,
        };
        let texts = TokenBatch::packed(&texts);
        let maps = match mode {
            Mode::Itm => matching_maps(config, &ready.params, pixels, &texts, layer)?,
            Mode::Itc => contrastive_maps(config, &ready.params, pixels, &texts, layer)?,
        };
        for (at, i) in part.iter().enumerate() {
            let Case { meant, boxes, size, .. } = &cases[*i];
            let right = |b: &PixelBox| if iou(*b, *meant) >= RIGHT { 100.0 } else { 0.0 };
            out.random.push(boxes.iter().map(right).sum::<f64>() / boxes.len().max(1) as f64);
            let wrong = |out: &mut Outcome| {
                out.scores.push(0.0);
                out.centre.push(0.0);
            };
            let unusable = failed.iter().find(|(f, _)| f == i).map(|(_, s)| s.clone());
            let size = match (unusable, size) {
                (Some(skipped), _) => Err(skipped),
                (None, Some(size)) => Ok(*size),
                (None, None) => samples[*i]
                    .decode(&DecodeOptions::default())
                    .map(|picture| (picture.height, picture.width))
                    .map_err(|error| Skipped { name: samples[*i].name.clone(), error }),
            };
            let size = match size {
                Ok(size) => size,
                Err(skipped) => {
                    out.skipped.push(skipped);
                    wrong(&mut out);
                    continue;
                }
            };
            if !within(*meant, size) {
                out.outside.push(format!("{}, `{}`", samples[*i].name, samples[*i].captions[0]));
                wrong(&mut out);
                continue;
            }
            let all = boxes.len();
            let boxes: Vec<PixelBox> = boxes.iter().copied().filter(|b| within(*b, size)).collect();
            out.proposals_outside += all - boxes.len();
            let (x, y) = (size.1 as f64 / 2.0, size.0 as f64 / 2.0);
            let off = |b: &PixelBox| (b[0] + b[2] / 2.0 - x).hypot(b[1] + b[3] / 2.0 - y);
            let nearest = boxes.iter().min_by(|p, q| off(p).total_cmp(&off(q)));
            out.centre.push(nearest.map_or(0.0, right));
            let map = resize_map(&maps.sentence(at, longest), (maps.grid, maps.grid), size);
            let found: Vec<f64> =
                boxes.iter().map(|b| box_score(&map, size, *b, AREA_POWER)).collect();
            let chosen = best_box(&found);
            out.undecided += usize::from(chosen.is_none());
            out.scores.push(chosen.map_or(0.0, |c| right(&boxes[c])));
        }
        bar.inc(part.len() as u64);
    }
    bar.finish_and_clear();
    tell_cut(out.cut, samples.len(), ready.phrase_limits());
    refuse_if_none(samples.len() - out.skipped.len(), samples.len(), &out.skipped)?;
    Ok(out)
}
