//! `albef bench`: the same work as a plain PyTorch ALBEF does in its yardstick, timed by round.

use std::time::Instant;

use albef::config::ModelConfig;
use albef::init::{fresh_params, fresh_queues};
use albef::model::{
    Albef, DropoutRng, ImageContext, ImageStates, OutputRows, Sequence, TokenBatch,
};
use albef::objectives::PairsObjective;
use albef::objectives::masking::SpecialIds;
use albef::objectives::momentum::copy_for_momentum;
use albef::ops::{Ops, Precision, bf16_unit, index};
use albef::params::{Params, from_vec, to_vec};
use albef::train::checkpoint::{TrainProgress, TrainState};
use albef::train::optimizer::Optimizer;
use albef::train::schedule::{CosineSchedule, OFFICIAL_ITERATIONS_PER_STEP, Schedule};
use albef::train::step::{StepSettings, train_step};
use albef_data::dataset::Batch;
use albef_data::random::Stream;
use anyhow::Result;
use burn::tensor::{Device, Tensor};
use serde_json::json;

use crate::Answer;
use crate::arguments::at_least_one;
use crate::device::Where;
use crate::output::say;

#[derive(Clone, Copy, clap::ValueEnum)]
enum Work {
    /// The image encoder, forward.
    Vit,
    /// The text encoder, forward.
    Text,
    /// Re-ranking: one image against k texts.
    Rerank,
    /// A whole pre-training step.
    Step,
}

/// What the factors of products are rounded to.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Rounding {
    F32,
    Bf16,
}

impl From<Rounding> for Precision {
    fn from(rounding: Rounding) -> Self {
        match rounding {
            Rounding::F32 => Self::F32,
            Rounding::Bf16 => Self::Bf16,
        }
    }
}

#[derive(clap::Args)]
pub struct Arguments {
    /// What to time.
    work: Work,
    /// Sizes: base, mini or nano.
    #[arg(long, default_value = "base")]
    preset: String,
    /// Side of the images; 0 for the preset's.
    #[arg(long, default_value_t = 256)]
    res: usize,
    /// Images or pairs.
    #[arg(long, default_value_t = 8, value_parser = at_least_one)]
    batch: usize,
    /// Candidates when re-ranking.
    #[arg(long, default_value_t = 128, value_parser = at_least_one)]
    k: usize,
    /// Timed rounds, after one that is not.
    #[arg(long, default_value_t = 3, value_parser = at_least_one)]
    rounds: usize,
    #[command(flatten)]
    device: Where,
    /// What the factors of products are rounded to; bf16 needs a processor with a unit for it.
    #[arg(long, value_enum, default_value = "f32")]
    precision: Rounding,
    /// One JSON line per round on standard output.
    #[arg(long)]
    json: bool,
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

struct Training {
    state: TrainState,
    objective: PairsObjective,
    settings: StepSettings,
    batch: [Batch; 1],
}

impl Training {
    fn new(
        a: &Arguments,
        config: ModelConfig,
        online: Params,
        images: Vec<f32>,
        texts: &[Vec<u32>],
        device: &Device,
    ) -> Result<Self> {
        let queue = if a.preset == "base" { 65_536 } else { 4_096 };
        let rate = CosineSchedule {
            lr: 1e-4,
            min_lr: 1e-4,
            warmup_lr: 1e-4,
            warmup_epochs: 0,
            epochs: 1,
            iterations_per_step: OFFICIAL_ITERATIONS_PER_STEP,
        };
        Ok(Self {
            state: TrainState {
                momentum: copy_for_momentum(&online)?,
                queues: fresh_queues(queue, config.embed_dim, 0, device),
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
                precision: a.precision.into(),
                seed: 0,
                grad_accum_steps: 1,
                batches_per_epoch: usize::MAX,
                replay: None,
            },
            batch: [Batch {
                images,
                text: TokenBatch::packed(texts),
                image_ids: (0..texts.len() as i64).collect(),
                samples: (0..texts.len()).collect(),
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

pub fn run(a: &Arguments) -> Result<Answer> {
    let device = a.device.open()?;
    if matches!(a.precision, Rounding::Bf16) && bf16_unit().is_none() {
        eprintln!("note: this processor has no unit for bf16; products are of f32 factors");
    }
    let mut config = ModelConfig::named(&a.preset)?;
    if a.res > 0 {
        config.vision.image_res = a.res;
    }
    config.check()?;
    let res = config.vision.image_res;
    let online = fresh_params(&config, 0.07, 0, &device)?;
    let model = Albef::new(
        &config,
        &online.frozen(Ops::for_device(&device).with_precision(a.precision.into())),
    )?;
    let texts = captions(a.batch.max(a.k), config.text.vocab_size);
    let values = pixels(a.batch * 3 * res * res);
    let none = DropoutRng::none;
    let mut work: Box<dyn FnMut() -> Result<usize>> = match a.work {
        Work::Vit => {
            let images: Tensor<4> = from_vec(values, [a.batch, 3, res, res], &device);
            Box::new(move || {
                let states = model.encoders.visual_encoder.forward(images.clone())?;
                let _ = to_vec(states.tokens.narrow(0, 0, 1));
                Ok(a.batch)
            })
        }
        Work::Text => Box::new(move || {
            let tokens = TokenBatch::packed(&texts[..a.batch]);
            let encoder = &model.encoders.text_encoder;
            let _ =
                to_vec(encoder.text(&tokens, OutputRows::All, &mut none(), None)?.narrow(0, 0, 1));
            Ok(a.batch)
        }),
        Work::Rerank => {
            let encoder = &model.encoders.text_encoder;
            let tokens = TokenBatch::packed(&texts[..a.k]);
            let states = encoder.text(&tokens, OutputRows::All, &mut none(), None)?;
            let (length, width) = (config.vision.tokens(), config.vision.width);
            let image = from_vec(pixels(length * width), [length, width], &device);
            let image = ImageStates { tokens: image, batch: 1, length };
            Box::new(move || {
                let image_of = vec![0; a.k];
                let context = ImageContext { states: &image, image_of: &image_of, visible: None };
                let rows: Vec<usize> = tokens.sequences.iter().flat_map(Sequence::range).collect();
                let states = states.clone().select(0, index(&rows, &states.device()));
                let _ = to_vec(model.match_texts(states, &tokens, context)?);
                Ok(a.k)
            })
        }
        Work::Step => {
            drop(model);
            let texts = &texts[..a.batch];
            let mut training = Training::new(a, config, online, values, texts, &device)?;
            Box::new(move || {
                training.step()?;
                Ok(a.batch)
            })
        }
    };
    for round in 0..=a.rounds {
        let start = Instant::now();
        let pairs = work()?;
        let seconds = start.elapsed().as_secs_f64();
        if round == 0 {
            continue;
        }
        if a.json {
            say!("{}", json!({"seconds": seconds, "pairs": pairs, "peak_mib": peak_mib()}))?;
        } else {
            let rate = pairs as f64 / seconds;
            say!("{seconds:.4} s, {pairs} pairs, {rate:.1} a second, peak {} MiB", peak_mib())?;
        }
    }
    Ok(Answer::Yes)
}
