//! Mutual-information bounds of a model on an image set with captions.

use std::path::Path;

use albef_data::dataset::{Batch, Skipped};
use albef_data::random::Stream;
use albef_report::cluster_interval;
use burn::tensor::{Device, Tensor};
use serde_json::{Value, json};

use super::{MutualInformation, Parts, Report, other_images};
use crate::Control;
use crate::checkpoint::{self, Checkpoint, LoadedModel};
use crate::error::{Error, Result};
use crate::images::ImageSet;
use crate::model::TokenBatch;
use crate::objectives::masking::{MaskDraw, SpecialIds};
use crate::objectives::momentum::momentum_encoders;
use crate::objectives::queue::Queues;
use crate::ops::Precision;
use crate::params::to_vec;
use crate::pipeline::Pipeline;
use crate::task::TaskRef;

/// How to analyze.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Pairs of a batch: the candidates, the queue's not counted. At least 2.
    pub batch: usize,
    /// Pairs to look at; all if not given.
    pub pairs: Option<usize>,
    /// Whether the queues of the checkpoint are candidates too.
    pub queue: bool,
    /// Share of tokens to mask.
    pub mlm_probability: f32,
    /// Seed of the order, of the captions and of the masks.
    pub seed: u64,
    /// Resamples of the bootstrap interval.
    pub resamples: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            batch: 64,
            pairs: None,
            queue: true,
            mlm_probability: 0.15,
            seed: 42,
            resamples: 1000,
        }
    }
}

impl Options {
    /// Whether bounds can be had with these options.
    ///
    /// # Errors
    /// Names the option that is impossible.
    pub fn check(&self) -> Result<()> {
        if self.batch < 2 {
            return Err(Error::Argument(format!(
                "`batch` is {}; bounds need at least 2 candidates",
                self.batch
            )));
        }
        if !(self.mlm_probability > 0.0 && self.mlm_probability <= 1.0) {
            return Err(Error::Argument(format!(
                "`mlm_probability` is {}; it must be above 0 and at most 1",
                self.mlm_probability
            )));
        }
        Ok(())
    }
}

/// Bounds and how they were measured. Its `Display` is a table.
#[derive(Clone, Debug)]
pub struct Analysis {
    /// The bounds.
    pub report: Report,
    /// `momentum`, or `the model itself`.
    pub teacher: &'static str,
    /// Candidates of the queue.
    pub queue: usize,
    /// Usable pairs that fill no whole batch.
    pub pairs_left_over: usize,
    /// Images that cannot be used, with the reason.
    pub skipped: Vec<Skipped>,
    /// Captions that are longer than the model reads.
    pub truncated_texts: usize,
    /// Captions in all.
    pub texts: usize,
    /// Whether the weights have a vocabulary head.
    pub mlm_head: bool,
    by_text: Vec<(f64, f64)>,
    resamples: usize,
    seed: u64,
}

impl Analysis {
    /// 95 % interval of the difference that the image makes, over texts.
    #[must_use]
    pub fn difference_interval(&self) -> [f64; 2] {
        let texts = std::slice::from_ref(&self.by_text);
        let (low, high) = cluster_interval(texts, self.resamples, self.seed);
        [low, high]
    }

    /// All of it.
    ///
    /// # Panics
    /// Never: the report is a plain structure.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut value = serde_json::to_value(self.report).expect("a report is a JSON object");
        value["teacher"] = json!(self.teacher);
        value["queue"] = json!(self.queue);
        value["left_out"] = json!(self.pairs_left_over);
        value["skipped"] = json!(self.skipped.len());
        if self.report.mlm.is_some() {
            value["mlm"]["difference_interval"] = json!(self.difference_interval());
        }
        value
    }
}

/// Opens a model, or the newest checkpoint of a run with its momentum copies and queues.
///
/// # Errors
/// If files are missing or damaged, or of another task.
pub fn open(path: &Path, device: &Device) -> Result<LoadedModel> {
    let accepted = [TaskRef::pretrain(), TaskRef::named("retrieval")?];
    Checkpoint::open(path)?.load(&accepted, device, checkpoint::Parts::All)
}

/// Measures the bounds of the pairs of a set, in whole batches of usable images: bounds over different
/// numbers of candidates have no common mean. Each image takes part with one of its captions.
///
/// # Errors
/// If fewer than two images with captions can be used, an option is impossible, or [`Error::Cancelled`].
pub fn measure(
    loaded: &LoadedModel,
    images: &ImageSet,
    options: &Options,
    control: &Control,
) -> Result<Analysis> {
    options.check()?;
    let config = &loaded.config;
    let model = Pipeline::from_loaded(loaded)?;
    let has_momentum = !loaded.momentum.entries().is_empty();
    let teacher = has_momentum
        .then(|| momentum_encoders(&loaded.momentum, config, Precision::F32))
        .transpose()?;
    let v = model.tokenizer().vocabulary();
    let parts = Parts {
        model: model.model(),
        teacher: teacher.as_ref(),
        queues: loaded.queues.as_ref().filter(|q| options.queue && !q.is_empty()),
        special: SpecialIds { pad: v.pad, cls: v.cls, mask: v.mask },
        mlm_probability: options.mlm_probability,
    };
    let samples = images.samples();
    let words = |i: &usize| samples[*i].captions.iter().any(|c| !c.trim().is_empty());
    let mut order: Vec<usize> = (0..samples.len()).filter(words).collect();
    Stream::new(options.seed, "order", &[]).shuffle(&mut order);
    order.truncate(options.pairs.unwrap_or(usize::MAX));
    let texts = order.len();
    let text = |i: usize| model.caption(caption(&samples[i].captions, options.seed, i));
    let truncated_texts = order.iter().filter(|i| text(**i).truncated).count();

    let mut found = MutualInformation::default();
    let mut add = |pixels: Tensor<4>, which: &[usize]| -> Result<()> {
        let texts: Vec<Vec<u32>> = which.iter().map(|i| text(*i).ids).collect();
        let image_ids: Vec<i64> = which.iter().map(|i| i64::from(images.image_ids()[*i])).collect();
        let seed = Stream::new(options.seed, "masks", &[which[0] as u64]).next_u64();
        let other = other_images(&image_ids, seed as usize)?;
        let text = TokenBatch::packed(&texts);
        let batch = Batch {
            images: to_vec(pixels),
            text,
            image_ids,
            samples: which.to_vec(),
            ..Batch::default()
        };
        let masks = |row: usize| MaskDraw::seeded(seed, row, config.text.vocab_size);
        found.add(&parts, &batch, masks, &other)
    };
    let (mut at, mut batch) = (0, options.batch);
    let mut skipped = Vec::new();
    loop {
        control.check()?;
        if at == 0 {
            batch = batch.min(order.len());
        }
        if batch < 2 || order.len() - at < batch {
            break;
        }
        let which = &order[at..at + batch];
        let (pixels, failed) =
            images.load(which, model.image_res(), model.reader(), model.device());
        if failed.is_empty() {
            add(pixels, which)?;
            at += batch;
            control.advance("pairs", at, texts);
        }
        for (i, s) in failed {
            order.retain(|o| *o != i);
            skipped.push(s);
        }
    }
    if at == 0 {
        let first = skipped.first().map(|s| format!(" (skipped {}: {})", s.name, s.error));
        return Err(Error::Argument(format!(
            "{} of the {texts} images with captions in {} can be used; 2 are needed{}",
            order.len(),
            images.source(),
            first.unwrap_or_default()
        )));
    }
    Ok(Analysis {
        report: found.report(),
        teacher: if teacher.is_some() { "momentum" } else { "the model itself" },
        queue: parts.queues.map_or(0, Queues::len),
        pairs_left_over: order.len() - at,
        skipped,
        truncated_texts,
        texts,
        mlm_head: model.model().encoders.mlm_head.is_some(),
        by_text: found.by_text().to_vec(),
        resamples: options.resamples,
        seed: options.seed,
    })
}

/// One of an image's captions, drawn by seed and sample.
fn caption(captions: &[String], seed: u64, sample: usize) -> &str {
    let usable: Vec<&String> = captions.iter().filter(|c| !c.trim().is_empty()).collect();
    let drawn = Stream::new(seed, "caption", &[sample as u64]).below(usable.len());
    usable.get(drawn).map_or("", |c| c.as_str())
}
