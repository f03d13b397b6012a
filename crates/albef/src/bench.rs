//! Work to be timed, the same as a plain PyTorch ALBEF does in `benches/`.

use std::time::Instant;

use albef_data::dataset::Batch;
use albef_data::random::Stream;
use burn::tensor::{Device, Tensor};
use serde::Serialize;

use crate::config::ModelConfig;
use crate::error::Result;
use crate::init::{fresh_params, fresh_queues};
use crate::model::{
    Albef, DropoutRng, ImageContext, ImageStates, OutputRows, Sequence, TokenBatch,
};
use crate::objectives::PairsObjective;
use crate::objectives::masking::SpecialIds;
use crate::objectives::momentum::copy_for_momentum;
use crate::ops::{Ops, Precision, index};
use crate::params::{Params, from_vec, to_vec};
use crate::task::TaskRef;
use crate::train::checkpoint::{TrainProgress, TrainState};
use crate::train::optimizer::Optimizer;
use crate::train::schedule::{CosineSchedule, OFFICIAL_ITERATIONS_PER_STEP, Schedule};
use crate::train::step::{StepSettings, train_step};

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
        let values = pixels(batch * 3 * res * res);
        let model = || Albef::new(&config, &online.frozen(ops));
        let job: Job = match work {
            Work::Vit => vit(model()?, from_vec(values, [batch, 3, res, res], device), batch),
            Work::Text => text(model()?, TokenBatch::packed(&texts[..batch]), batch),
            Work::Rerank => rerank(model()?, &TokenBatch::packed(&texts[..k]), device)?,
            Work::Step => {
                let text = TokenBatch::packed(&texts[..batch]);
                let mut training = Training::new(config, online, values, text, options)?;
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
struct Training {
    state: TrainState,
    objective: PairsObjective,
    settings: StepSettings,
    batch: [Batch; 1],
}

impl Training {
    /// From fresh weights, with the queue length of the paper for the preset `base`.
    fn new(
        config: ModelConfig,
        online: Params,
        images: Vec<f32>,
        text: TokenBatch,
        options: &Options,
    ) -> Result<Self> {
        let queue = if options.preset == "base" { 65_536 } else { 4_096 };
        let rate = CosineSchedule {
            lr: 1e-4,
            min_lr: 1e-4,
            warmup_lr: 1e-4,
            warmup_epochs: 0,
            epochs: 1,
            iterations_per_step: OFFICIAL_ITERATIONS_PER_STEP,
        };
        let pairs = text.len();
        Ok(Self {
            state: TrainState {
                momentum: copy_for_momentum(&online)?,
                queues: fresh_queues(queue, config.embed_dim, 0, online.device()),
                optimizer: Optimizer::new(&online, 0.02, (0.9, 0.999), 1e-8),
                online,
                place: TrainProgress::default(),
            },
            objective: PairsObjective::default(),
            settings: StepSettings {
                model: config,
                special: SpecialIds { pad: 0, cls: 101, mask: 103 },
                schedule: Schedule::Official(rate),
                alpha: 0.4,
                warm_up: false,
                momentum: 0.995,
                train_temp: true,
                precision: options.precision,
                seed: 0,
                grad_accum_steps: 1,
                batches_per_epoch: usize::MAX,
                replay: None,
            },
            batch: [Batch {
                images,
                text,
                image_ids: (0..pairs as i64).collect(),
                samples: (0..pairs).collect(),
                ..Batch::default()
            }],
        })
    }

    /// The report reads values back, which waits for all that the device has been given to do.
    fn step(&mut self) -> Result<()> {
        train_step(&mut self.state, &self.objective, &self.batch, &self.settings, &mut ())?;
        Ok(())
    }
}
