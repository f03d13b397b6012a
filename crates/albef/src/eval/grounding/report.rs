//! Accuracy of boxes chosen by attention maps, beside a random box and the one nearest to the center.

use albef_data::dataset::Skipped;
use albef_report::{Kind, Outcomes, bootstrap_interval};
use serde_json::{Value, json};

use super::{AREA_POWER, Case, Cases, PixelBox, best_box, box_score, iou, resize_map, within};
use crate::Control;
use crate::error::{Error, Result};
use crate::eval::outcomes;
use crate::eval::refcoco::SPLITS;
use crate::images::ImageSet;
use crate::inference::GroundingMode;
use crate::model::TokenBatch;
use crate::pipeline::Pipeline;

/// Intersection over union from which a choice counts as right.
const RIGHT: f64 = 0.5;
/// Expressions at a time.
const BATCH: usize = 16;
/// Seed of bootstrap intervals.
const SEED: u64 = 42;

/// Results of a grounding evaluation; lists are in the order of the expressions.
#[derive(Clone, Debug, Default)]
pub struct GroundingReport {
    /// 100 where the chosen box is right, 0 where not.
    pub scores: Vec<f64>,
    /// Expected score of a box chosen at random.
    pub random_box: Vec<f64>,
    /// Score of the box nearest to the center.
    pub center_box: Vec<f64>,
    /// Split of each expression, where there are splits.
    pub splits: Vec<Option<String>>,
    /// The layer of the maps.
    pub layer: usize,
    /// Expressions for which no box has a positive score; they count as wrong.
    pub no_box_scored: usize,
    /// Expressions that are longer than the model reads.
    pub truncated_texts: usize,
    /// Expressions whose own box is outside the image; they count as wrong.
    pub gt_outside_image: Vec<String>,
    /// Proposals outside their images, which are never chosen.
    pub proposals_outside: usize,
    /// Images whose size is not the one that the data set's files state, to which its boxes refer.
    pub other_sizes: Vec<String>,
    /// Expressions about images that cannot be used; they count as wrong.
    pub skipped: Vec<Skipped>,
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

impl GroundingReport {
    /// Accuracy in percent.
    #[must_use]
    pub fn accuracy(&self) -> f64 {
        mean(&self.scores)
    }

    /// Accuracy in percent with its interval and the baselines; with splits also by split, under the
    /// official names `val_d`, `testA_d` and `testB_d`.
    #[must_use]
    pub fn to_json(&self, resamples: usize) -> Value {
        let (low, high) = bootstrap_interval(&self.scores, resamples, SEED);
        let (unscored, outside) = (self.no_box_scored, self.gt_outside_image.len());
        // The names of the last release stay beside the new ones for one release.
        let mut out = json!({"accuracy": self.accuracy(), "interval": [low, high],
            "random_box": mean(&self.random_box), "centre_box": mean(&self.center_box),
            "expressions": self.scores.len(), "layer": self.layer,
            "no_box_scored": unscored, "undecided": unscored, "skipped": self.skipped.len(),
            "truncated_texts": self.truncated_texts, "cut_texts": self.truncated_texts,
            "gt_outside_image": outside, "outside": outside,
            "proposals_outside": self.proposals_outside,
            "other_sizes": self.other_sizes.len()});
        for split in SPLITS {
            let which: Vec<usize> = (0..self.scores.len())
                .filter(|i| self.splits[*i].as_deref() == Some(split))
                .collect();
            if which.is_empty() {
                continue;
            }
            let of = |values: &[f64]| which.iter().map(|i| values[*i]).collect::<Vec<f64>>();
            let scores = of(&self.scores);
            let (low, high) = bootstrap_interval(&scores, resamples, SEED);
            out[format!("{split}_d")] = json!(mean(&scores));
            out["splits"][split] = json!({"accuracy": mean(&scores), "interval": [low, high],
                "random_box": mean(&of(&self.random_box)), "centre_box": mean(&of(&self.center_box)),
                "expressions": scores.len()});
        }
        out
    }

    /// Right or wrong, item by item.
    #[must_use]
    pub fn outcomes(&self, cases: &Cases) -> Outcomes {
        outcomes::scores("grounding", Kind::Hit, cases.samples.iter(), &self.scores)
    }

    fn wrong(&mut self) {
        self.scores.push(0.0);
        self.center_box.push(0.0);
    }
}

/// Chooses a box for every expression by the attention map of `mode` at `layer`
/// ([`GroundingMode::default_layer`] if not given).
///
/// # Errors
/// If there is no such layer, no image can be used, or [`Error::Cancelled`].
pub fn measure(
    model: &Pipeline,
    cases: &Cases,
    mode: GroundingMode,
    layer: Option<usize>,
    control: &Control,
) -> Result<GroundingReport> {
    let Cases { samples, cases, .. } = cases;
    let layer = layer.unwrap_or_else(|| mode.default_layer(model.config()));
    let images = ImageSet::from_samples(samples.clone());
    let splits = cases.iter().map(|c| c.split.clone()).collect();
    let mut out = GroundingReport { splits, layer, ..GroundingReport::default() };
    let all: Vec<usize> = (0..samples.len()).collect();
    for part in all.chunks(BATCH) {
        control.check()?;
        let (pixels, failed) = images.load(part, model.image_res(), model.reader(), model.device());
        let phrases = part.iter().map(|i| model.phrase(&samples[*i].captions[0]));
        let (texts, cut): (Vec<Vec<u32>>, Vec<bool>) =
            phrases.map(|p| (p.ids, p.truncated)).unzip();
        out.truncated_texts += cut.into_iter().filter(|c| *c).count();
        let longest = match mode {
            GroundingMode::Itm => texts.iter().map(Vec::len).max().unwrap_or(1),
            GroundingMode::Itc => 1,
        };
        let maps = model.attention_maps(pixels, &TokenBatch::packed(&texts), mode, layer)?;
        for (at, i) in part.iter().enumerate() {
            let failure = failed.iter().find(|(f, _)| f == i).map(|(_, s)| s.clone());
            let size = match (failure, cases[*i].size) {
                (Some(skipped), _) => Err(skipped),
                (None, Some(size)) => Ok(size),
                (None, None) => samples[*i]
                    .read_view(0, model.reader())
                    .map(|image| (image.height, image.width))
                    .map_err(|error| Skipped { name: samples[*i].name.clone(), error }),
            };
            if let (Some((height, width)), Ok((own_height, own_width))) =
                (cases[*i].size, samples[*i].size())
                && (height, width) != (own_height, own_width)
            {
                out.other_sizes.push(format!(
                    "{}: {width} x {height} pixels are stated, and it has {own_width} x {own_height}",
                    samples[*i].name
                ));
            }
            let map = |size| resize_map(&maps.sentence(at, longest), (maps.grid, maps.grid), size);
            let name = || format!("{}, `{}`", samples[*i].name, samples[*i].captions[0]);
            judge(&mut out, &cases[*i], size, map, name);
        }
        control.advance("expressions", part.last().map_or(0, |i| i + 1), all.len());
    }
    match out.skipped.first() {
        Some(first) if out.skipped.len() == samples.len() => Err(Error::NoUsableImages {
            images: samples.len(),
            place: String::new(),
            hint: format!(" ({}: {}); is --image-root the right folder?", first.name, first.error),
        }),
        _ => Ok(out),
    }
}

/// Scores the choice for one expression. `map` gives the attention map at a height and width.
fn judge(
    out: &mut GroundingReport,
    case: &Case,
    size: Result<(usize, usize), Skipped>,
    map: impl Fn((usize, usize)) -> Vec<f32>,
    name: impl Fn() -> String,
) {
    let right = |b: &PixelBox| if iou(*b, case.meant) >= RIGHT { 100.0 } else { 0.0 };
    let all = case.boxes.len();
    out.random_box.push(case.boxes.iter().map(right).sum::<f64>() / all.max(1) as f64);
    let size = match size {
        Ok(size) => size,
        Err(skipped) => {
            out.skipped.push(skipped);
            return out.wrong();
        }
    };
    if !within(case.meant, size) {
        out.gt_outside_image.push(name());
        return out.wrong();
    }
    let boxes = case.boxes_within(size);
    out.proposals_outside += all - boxes.len();
    let (x, y) = (size.1 as f64 / 2.0, size.0 as f64 / 2.0);
    let off = |b: &PixelBox| (b[0] + b[2] / 2.0 - x).hypot(b[1] + b[3] / 2.0 - y);
    let nearest = boxes.iter().min_by(|p, q| off(p).total_cmp(&off(q)));
    out.center_box.push(nearest.map_or(0.0, right));
    let map = map(size);
    let found: Vec<f64> = boxes.iter().map(|b| box_score(&map, size, *b, AREA_POWER)).collect();
    let chosen = best_box(&found);
    out.no_box_scored += usize::from(chosen.is_none());
    out.scores.push(chosen.map_or(0.0, |c| right(&boxes[c])));
}
