//! `albef bench`: the same work as a plain PyTorch ALBEF does in its yardstick, timed by round.

use std::time::Instant;

use albef::checkpoint::{copy_for_momentum, momentum_encoders};
use albef::config::ModelConfig;
use albef::init::{fresh_params, fresh_queues};
use albef::model::{
    Albef, DropoutRng, ImageContext, ImageStates, OutputRows, Sequence, TokenBatch,
};
use albef::objectives::distill::DistillAxis;
use albef::objectives::masking::SpecialIds;
use albef::objectives::pretrain::{Batch, Settings, StepRng, forward};
use albef::ops::{Ops, Precision, bf16_unit, index};
use albef::params::{Params, from_vec, to_vec};
use albef::train::optimizer::{Optimizer, update_average};
use albef::train::step::clamp_temperature;
use albef_data::random::Stream;
use anyhow::Result;
use burn::tensor::Tensor;
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
    config: ModelConfig,
    online: Params,
    momentum: Params,
    precision: Precision,
    queues: albef::objectives::queue::Queues,
    optimizer: Optimizer,
    batch: Batch,
    step: u64,
}

impl Training {
    fn step(&mut self) -> Result<()> {
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
    let online = fresh_params(&albef::task::TaskRef::pretrain().schema(&config), 0.07, 0, &device)?;
    let model = Albef::new(
        &config,
        &online.frozen(Ops::for_device(&device).with_precision(a.precision.into())),
    )?;
    let texts = captions(a.batch.max(a.k), config.text.vocab_size);
    let images: Tensor<4> =
        from_vec(pixels(a.batch * 3 * res * res), [a.batch, 3, res, res], &device);
    let none = DropoutRng::none;
    let mut work: Box<dyn FnMut() -> Result<usize>> = match a.work {
        Work::Vit => Box::new(move || {
            let states = model.encoders.visual_encoder.forward(images.clone())?;
            let _ = to_vec(states.tokens.narrow(0, 0, 1));
            Ok(a.batch)
        }),
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
            let momentum = copy_for_momentum(&online)?;
            let queue = if a.preset == "base" { 65_536 } else { 4_096 };
            let mut training = Training {
                queues: fresh_queues(queue, config.embed_dim, 0, &device),
                optimizer: Optimizer::new(&online, 0.02, (0.9, 0.999), 1e-8),
                batch: Batch {
                    images,
                    text: TokenBatch::packed(&texts[..a.batch]),
                    image_ids: (0..a.batch as i64).collect(),
                    related: Vec::new(),
                },
                online,
                momentum,
                precision: a.precision.into(),
                config,
                step: 0,
            };
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
