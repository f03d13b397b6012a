//! Work to be timed, the same as a plain PyTorch ALBEF does in `benches/`.

use std::time::Instant;

use albef_data::random::Stream;
use burn::tensor::{Device, Tensor};
use serde::Serialize;

use crate::checkpoint::{copy_for_momentum, momentum_encoders};
use crate::config::ModelConfig;
use crate::error::Result;
use crate::init::{fresh_params, fresh_queues};
use crate::model::{
    Albef, DropoutRng, ImageContext, ImageStates, OutputRows, Sequence, TokenBatch,
};
use crate::objectives::distill::DistillAxis;
use crate::objectives::masking::SpecialIds;
use crate::objectives::pretrain::{Batch, Settings, StepRng, forward};
use crate::objectives::queue::Queues;
use crate::ops::{Ops, Precision, index};
use crate::params::{Params, from_vec, to_vec};
use crate::task::TaskRef;
use crate::train::optimizer::{Optimizer, update_average};
use crate::train::step::clamp_temperature;

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// The image encoder, forward.
    Vit,
    /// The text encoder, forward.
    Text,
    /// Re-ranking: one image against `rerank_k` texts.
    Rerank,
    /// A whole pre-training step.
    Step,
}

/// Sizes of the work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Sizes of the model: `base`, `mini` or `nano`.
    pub preset: String,
    /// Pixels along the side of an image; the preset's if not given.
    pub image_res: Option<usize>,
    /// Images or pairs.
    pub batch: usize,
    /// Candidates when re-ranking.
    pub rerank_k: usize,
    /// What the factors of products are rounded to.
    pub precision: Precision,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            preset: "base".into(),
            image_res: Some(256),
            batch: 8,
            rerank_k: 128,
            precision: Precision::F32,
        }
    }
}

/// A round that was timed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Round {
    /// Time.
    pub seconds: f64,
    /// Images, texts or pairs.
    pub pairs: usize,
    /// The largest resident size of the process so far, in MiB.
    pub peak_mib: u64,
}

type Job = Box<dyn FnMut() -> Result<usize>>;

/// Work on fresh weights and random inputs.
pub struct Bench {
    job: Job,
}

impl Bench {
    /// Prepares the work on a device.
    ///
    /// # Errors
    /// If the sizes are impossible.
    pub fn new(work: Work, options: &Options, device: &Device) -> Result<Self> {
        let mut config = ModelConfig::named(&options.preset)?;
        if let Some(image_res) = options.image_res {
            config.vision.image_res = image_res;
        }
        config.check()?;
        let (batch, k, res) = (options.batch, options.rerank_k, config.vision.image_res);
        let schema = TaskRef::pretrain().schema(&config);
        let online = fresh_params(&schema, 0.07, 0, device)?;
        let ops = Ops::for_device(device).with_precision(options.precision);
        let texts = captions(batch.max(k), config.text.vocab_size);
        let images = from_vec(pixels(batch * 3 * res * res), [batch, 3, res, res], device);
        let model = || Albef::new(&config, &online.frozen(ops));
        let job: Job = match work {
            Work::Vit => vit(model()?, images, batch),
            Work::Text => text(model()?, TokenBatch::packed(&texts[..batch]), batch),
            Work::Rerank => rerank(model()?, &TokenBatch::packed(&texts[..k]), device)?,
            Work::Step => {
                let text = TokenBatch::packed(&texts[..batch]);
                let mut training = Training::new(
                    config,
                    online,
                    images,
                    text,
                    &options.preset,
                    options.precision,
                )?;
                Box::new(move || training.step().map(|()| batch))
            }
        };
        Ok(Self { job })
    }

    /// Does the work once. The first round is slower than the others.
    ///
    /// # Errors
    /// If the device fails.
    pub fn round(&mut self) -> Result<Round> {
        let start = Instant::now();
        let pairs = (self.job)()?;
        Ok(Round { seconds: start.elapsed().as_secs_f64(), pairs, peak_mib: peak_mib() })
    }
}

fn vit(model: Albef, images: Tensor<4>, batch: usize) -> Job {
    Box::new(move || {
        let states = model.encoders.visual_encoder.forward(images.clone())?;
        let _ = to_vec(states.tokens.narrow(0, 0, 1));
        Ok(batch)
    })
}

fn text(model: Albef, tokens: TokenBatch, batch: usize) -> Job {
    Box::new(move || {
        let encoder = &model.encoders.text_encoder;
        let states = encoder.text(&tokens, OutputRows::All, &mut DropoutRng::none(), None)?;
        let _ = to_vec(states.narrow(0, 0, 1));
        Ok(batch)
    })
}

fn rerank(model: Albef, tokens: &TokenBatch, device: &Device) -> Result<Job> {
    let encoder = &model.encoders.text_encoder;
    let states = encoder.text(tokens, OutputRows::All, &mut DropoutRng::none(), None)?;
    let (length, width) = (model.config.vision.tokens(), model.config.vision.width);
    let image = from_vec(pixels(length * width), [length, width], device);
    let image = ImageStates { tokens: image, batch: 1, length };
    let (tokens, k) = (tokens.clone(), tokens.len());
    Ok(Box::new(move || {
        let image_of = vec![0; k];
        let context = ImageContext { states: &image, image_of: &image_of, visible: None };
        let rows: Vec<usize> = tokens.sequences.iter().flat_map(Sequence::range).collect();
        let states = states.clone().select(0, index(&rows, &states.device()));
        let _ = to_vec(model.match_texts(states, &tokens, context)?);
        Ok(k)
    }))
}

/// Captions of 8 to 16 tokens, as on COCO.
fn captions(n: usize, vocabulary: usize) -> Vec<Vec<u32>> {
    (0..n)
        .map(|i| {
            let mut stream = Stream::new(0, "bench", &[i as u64]);
            let mut word = || 1000.min(vocabulary / 2) + stream.below(vocabulary / 2 - 1);
            let words: Vec<u32> = (0..16).map(|_| word() as u32).collect();
            words[..8 + i % 9].to_vec()
        })
        .collect()
}

fn pixels(n: usize) -> Vec<f32> {
    let mut stream = Stream::new(0, "pixels", &[]);
    (0..n).map(|_| stream.range(-1.7, 1.7) as f32).collect()
}

/// The largest resident size so far, in MiB.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmHWM:"));
    line.and_then(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// Pre-training on one batch, again and again.
pub struct Training {
    config: ModelConfig,
    online: Params,
    momentum: Params,
    precision: Precision,
    queues: Queues,
    optimizer: Optimizer,
    batch: Batch,
    step: u64,
}

impl Training {
    /// From fresh weights, with the queue length of the paper for the preset `base`.
    ///
    /// # Errors
    /// If the weights do not fit the sizes.
    pub fn new(
        config: ModelConfig,
        online: Params,
        images: Tensor<4>,
        text: TokenBatch,
        preset: &str,
        precision: Precision,
    ) -> Result<Self> {
        let queue = if preset == "base" { 65_536 } else { 4_096 };
        let image_ids = (0..text.len() as i64).collect();
        Ok(Self {
            queues: fresh_queues(queue, config.embed_dim, 0, online.device()),
            optimizer: Optimizer::new(&online, 0.02, (0.9, 0.999), 1e-8),
            batch: Batch { images, text, image_ids, related: Vec::new() },
            momentum: copy_for_momentum(&online)?,
            online,
            precision,
            config,
            step: 0,
        })
    }

    /// One step.
    ///
    /// # Errors
    /// If the batch does not fit the model.
    pub fn step(&mut self) -> Result<()> {
        clamp_temperature(&mut self.online);
        update_average(0.995, &mut self.momentum, &mut self.online);
        let weights = self
            .online
            .trainable(Ops::for_device(self.online.device()).with_precision(self.precision));
        let model = Albef::new(&self.config, &weights)?;
        let teacher = momentum_encoders(&self.momentum, &self.config, self.precision)?;
        let settings = Settings {
            alpha: 0.4,
            ita: true,
            itm: true,
            mlm: true,
            mlm_mod: true,
            mlm_distill_axis: DistillAxis::Vocabulary,
            hard_negatives: true,
            negative_temp: None,
            mlm_probability: 0.15,
            image_index: false,
            dropout: 0.1,
            momentum_dropout: 0.1,
            special: SpecialIds { pad: 0, cls: 101, mask: 103 },
            vocab_size: self.config.text.vocab_size,
        };
        let draws = StepRng::Seeded(self.step);
        let out = forward(&model, &teacher, &self.queues, &self.batch, &settings, draws)?;
        let mut all = out.loss().backward();
        let [_, _, image, text] = out.feats.clone();
        drop(out);
        let gradients = self
            .online
            .entries()
            .iter()
            .map(|p| weights.leaf(&p.name).and_then(|l| l.value.grad_remove(&mut all)))
            .collect();
        drop((weights, model));
        self.queues.push(image, text, &self.batch.image_ids);
        self.optimizer.step(1e-4, &mut self.online, gradients);
        // Reading a value back waits for all that the device has been given to do.
        let _ = self.online.get("temp").map(|t| to_vec(t.value.clone()));
        self.step += 1;
        Ok(())
    }
}
