//! The training step as a replay sees it.

use std::any::Any;
use std::collections::HashMap;

use albef_data::dataset::Batch;
use burn::tensor::Tensor;
use serde_json::Value;

use super::set::{Tensors, checksum, checksums};
use super::{Comparison, GoldenSet};
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::model::TokenBatch;
use crate::objectives::rng::Replay;
use crate::objectives::{Losses, Objective};
use crate::ops::Precision;
use crate::params::{Params, to_vec};
use crate::task_weights::TaskWeights;
use crate::train::checkpoint::{TrainProgress, TrainState};
use crate::train::optimizer::Optimizer;
use crate::train::schedule::{CosineSchedule, OFFICIAL_ITERATIONS_PER_STEP, Schedule};
use crate::train::step::{StepProbe, StepReport, StepSettings, train_step};

/// What a step lets a probe see.
#[derive(Default)]
pub(super) struct Seen {
    /// The losses of each batch, as numbers.
    pub losses: Vec<Vec<(&'static str, f64)>>,
    trace: Option<Box<dyn Any>>,
    /// What the optimizer got, by name.
    pub gradients: HashMap<String, Tensor<1>>,
}

impl Seen {
    /// The intermediates of the last batch.
    pub fn trace<T: 'static>(&self) -> Result<&T> {
        let trace = self.trace.as_ref().and_then(|trace| trace.downcast_ref());
        trace.ok_or_else(|| Error::Config("the objective keeps another trace".into()))
    }

    /// A loss of the last batch under its name in a fixture (`loss`, `loss_ita`); `loss` is the sum.
    pub fn loss(&self, name: &str) -> Option<Vec<f32>> {
        let last = self.losses.last()?;
        if name == "loss" {
            return Some(vec![last.iter().map(|(_, value)| *value as f32).reduce(|a, b| a + b)?]);
        }
        let of = |(own, _): &&(&str, f64)| own.strip_prefix("train_") == Some(name);
        last.iter().find(of).map(|(_, value)| vec![*value as f32])
    }
}

impl StepProbe for Seen {
    fn wants_trace(&self) -> bool {
        true
    }

    fn forward(&mut self, losses: &Losses, trace: Option<Box<dyn Any>>) {
        self.losses.push(losses.values());
        self.trace = trace;
    }

    fn gradients(&mut self, params: &Params, gradients: &[Option<Tensor<1>>]) {
        let named = params.entries().iter().zip(gradients);
        let named = named.filter_map(|(p, g)| Some((p.name.clone(), g.clone()?)));
        self.gradients = named.collect();
    }
}

/// A fixture's run: state, settings, and its objective.
pub(super) struct Run {
    pub state: TrainState,
    pub settings: StepSettings,
    pub objective: Box<dyn Objective>,
}

impl Run {
    /// From the weights of a task, with the settings of the fixture.
    pub fn of_task(
        set: &GoldenSet,
        fixture: &Value,
        objective: impl FnOnce(bool) -> Box<dyn Objective>,
    ) -> Result<Self> {
        let (config, weights) = set.task_model(fixture)?;
        let TaskWeights { online, momentum, queues, .. } = weights;
        let empty = || crate::init::fresh_queues(0, config.embed_dim, 0, set.device());
        let queues = queues.unwrap_or_else(empty);
        let state = state(online, momentum, queues);
        let distill = fixture["params"]["distill"].as_bool().unwrap_or(false);
        let settings = settings(set, fixture, config)?;
        Ok(Self { state, settings, objective: objective(distill) })
    }

    /// From the pre-training model, with the settings of the fixture.
    pub fn of_pretraining(
        set: &GoldenSet,
        fixture: &Value,
        objective: Box<dyn Objective>,
    ) -> Result<Self> {
        let (config, loaded) = set.model(fixture)?;
        let queues = loaded.queues.clone().ok_or(Error::Config("no queues".into()))?;
        let state = state(loaded.online.clone(), loaded.momentum_or_copy()?, queues);
        Ok(Self { state, settings: settings(set, fixture, config)?, objective })
    }

    /// One step on batches with their draws.
    pub fn step(&mut self, given: Vec<(Batch, Replay)>) -> Result<(StepReport, Seen)> {
        let (batches, draws): (Vec<Batch>, Vec<Replay>) = given.into_iter().unzip();
        self.settings.replay = Some(draws);
        self.settings.grad_accum_steps = batches.len();
        let mut seen = Seen::default();
        let objective = self.objective.as_ref();
        let report = train_step(&mut self.state, objective, &batches, &self.settings, &mut seen)?;
        Ok((report, seen))
    }
}

fn state(online: Params, momentum: Params, queues: crate::objectives::queue::Queues) -> TrainState {
    let optimizer = Optimizer::new(&online, 0.0, (0.9, 0.999), 1e-8);
    TrainState { online, momentum, queues, optimizer, place: TrainProgress::default() }
}

/// Settings of a step of its own: the distillation weight is the fixture's, the rate plays no part.
fn settings(set: &GoldenSet, fixture: &Value, model: ModelConfig) -> Result<StepSettings> {
    let params = &fixture["params"];
    let cosine = CosineSchedule {
        lr: 1e-4,
        min_lr: 1e-4,
        warmup_lr: 1e-4,
        warmup_epochs: 0,
        epochs: 1,
        iterations_per_step: OFFICIAL_ITERATIONS_PER_STEP,
    };
    Ok(StepSettings {
        model,
        special: set.special()?,
        schedule: Schedule::Official(cosine),
        alpha: params["alpha"].as_f64().unwrap_or(0.0),
        warm_up: false,
        momentum: params["momentum"].as_f64().map_or_else(|| set.momentum(), Ok)?,
        train_temp: true,
        precision: Precision::F32,
        seed: 0,
        grad_accum_steps: 1,
        batches_per_epoch: 1,
        replay: None,
    })
}

/// A batch of a fixture: images `[views * B, 3, S, S]`, and a text with an image id each.
pub(super) fn batch(
    t: &Tensors,
    image: &str,
    text: TokenBatch,
    config: &ModelConfig,
) -> Result<Batch> {
    let [_, channels, height, width] = t.axes(image)?;
    let expected = config.vision.image_res;
    if [channels, height, width] != [3, expected, expected] {
        return Err(Error::ImageShape { expected, found: [channels, height, width] });
    }
    let size = text.len();
    Ok(Batch {
        images: t.floats(image)?,
        text,
        image_ids: (0..size as i64).collect(),
        samples: (0..size).collect(),
        ..Batch::default()
    })
}

/// The same texts without their padding.
pub(super) fn packed(padded: &TokenBatch) -> TokenBatch {
    let texts: Vec<&[u32]> =
        padded.sequences.iter().map(|s| &padded.ids[s.start..s.start + s.visible]).collect();
    TokenBatch::packed(&texts)
}

/// Compares gradients where the fixture has them, and their norms in the listed order.
pub(super) fn compare_gradients(
    set: &GoldenSet,
    fixture: &Value,
    gradients: &HashMap<String, Tensor<1>>,
    c: &mut Comparison,
) -> Result<()> {
    let of = |name: &str| gradients.get(name).map(|g| to_vec(g.clone()));
    let expected = set.tensors(fixture, "expected.safetensors")?;
    if expected.has("grad_norms") {
        let names = fixture["params"]["grad_names"].as_array().into_iter().flatten();
        let norms: Vec<f64> = names
            .filter_map(Value::as_str)
            .map(|n| of(n).map_or(0.0, |g| checksum(&g)[1]))
            .collect();
        let want: Vec<f64> = expected.floats("grad_norms")?.into_iter().map(f64::from).collect();
        c.numbers("grad_norms", &norms, &want);
    }
    if set.file(fixture, "grads.safetensors").is_err() {
        return Ok(());
    }
    let grads = set.tensors(fixture, "grads.safetensors")?;
    let mut seen = 0;
    for name in grads.names() {
        let want = grads.floats(&name)?;
        let got = name.strip_prefix("grad.").and_then(of);
        seen += usize::from(got.is_some());
        // A parameter without gradient is right where the reference has zeros.
        c.tensor(&name, &got.unwrap_or_else(|| vec![0.0; want.len()]), &want);
    }
    // Where norms list the trained parameters, the file may hold a selection of gradients.
    let listed = fixture["params"]["grad_names"].as_array().map_or(seen, Vec::len);
    if listed < gradients.len() {
        c.fail(format!("{} gradients too many", gradients.len() - listed));
    }
    Ok(())
}

/// Compares sums and norms of the momentum parameters where the fixture has them.
pub(super) fn compare_checksums(
    set: &GoldenSet,
    fixture: &Value,
    momentum: &Params,
    c: &mut Comparison,
) -> Result<()> {
    if set.file(fixture, "momentum_checksums.json").is_err() {
        return Ok(());
    }
    let want = checksums(&set.json(fixture, "momentum_checksums.json")?);
    for p in momentum.entries() {
        match want.get(&p.name) {
            Some(want) => {
                let got = checksum(&to_vec(p.value.clone()));
                c.numbers(&format!("checksum.{}", p.name), &got, want);
            }
            None => c.fail(format!("momentum_checksums.json has no sums of `{}`", p.name)),
        }
    }
    if let Some(name) = want.keys().find(|name| momentum.get(name).is_none()) {
        c.fail(format!("no momentum parameter `{name}`"));
    }
    Ok(())
}
