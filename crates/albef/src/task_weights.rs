//! The weights of a task's model out of a checkpoint of the same or an earlier stage (spec `model`
//! sections 6 and 7).

use albef_weights::{StateDict, Task, expected_keys, for_task, inspect};
use burn::tensor::Device;

use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::init::fresh_task_params;
use crate::objectives::queue::Queues;
use crate::params::Params;
use crate::weights::{copy_for_momentum, momentum_name, queues, resized, sizes};

/// What a task trains, averages and fills.
#[derive(Clone, Debug)]
pub struct TaskWeights {
    /// Trained weights.
    pub online: Params,
    /// Momentum copies; where the checkpoint has none they equal the trained weights. Copied after
    /// loading, unlike in the official code for statements about two images.
    pub momentum: Params,
    /// Queues of the checkpoint.
    pub queues: Option<Queues>,
    /// Weights that no checkpoint has and that start fresh.
    pub fresh: Vec<String>,
}

/// The heads that a task adds to a pre-trained model.
fn may_start_fresh(task: Task, name: &str) -> bool {
    match task {
        Task::Ve | Task::Nlvr => name.starts_with("cls_head."),
        Task::Ta => name.starts_with("ta_head."),
        _ => false,
    }
}

/// Which checkpoints can become the model of a task.
fn serves(from: Task, task: Task) -> bool {
    from == task
        || from == Task::Pretrain
        || (from == Task::Ta && task == Task::Nlvr)
        || (from == Task::Retrieval && matches!(task, Task::Ve | Task::Nlvr | Task::Ta))
}

/// The kind of model in words.
#[must_use]
pub fn task_name(task: Task) -> &'static str {
    match task {
        Task::Pretrain => "pre-training",
        Task::Retrieval => "retrieval or grounding",
        Task::Vqa => "question answering (vqa)",
        Task::Nlvr => "statements about two images (nlvr)",
        Task::Ta => "text assignment (nlvr-ta)",
        Task::Ve => "visual entailment (ve)",
    }
}

impl TaskWeights {
    /// The model of `task` from any checkpoint that can become it.
    ///
    /// # Errors
    /// If the checkpoint belongs to another task, or a weight is missing or of another shape.
    pub fn from_checkpoint(
        state: StateDict,
        task: Task,
        config: &ModelConfig,
        device: &Device,
        source: &str,
        seed: u64,
    ) -> Result<Self> {
        let from = inspect(&state).task;
        if !serves(from, task) {
            return Err(Error::Config(format!(
                "{source} is a checkpoint for {}, and {} cannot start from it; give a pre-trained \
                 checkpoint or one fine-tuned for this task",
                task_name(from),
                task_name(task)
            )));
        }
        let fusion = config.text.fusion_layer;
        let state = match (from, task) {
            (Task::Retrieval, Task::Nlvr | Task::Ta) => {
                let with_level = state
                    .into_iter()
                    .map(|(name, t)| (name.replacen("text_encoder.", "text_encoder.bert.", 1), t))
                    .collect();
                for_task(with_level, task, fusion)
            }
            (Task::Pretrain, _) => for_task(state, task, fusion),
            _ => state,
        };
        Self::take(&state, task, config, device, source, seed)
    }

    /// Takes the weights of `task` out of a state dictionary that has its names. Keys of two layers
    /// that share a tensor: the upper one's value counts, as in the official code.
    ///
    /// # Errors
    /// If a weight is missing or of another shape.
    pub fn take(
        state: &StateDict,
        task: Task,
        config: &ModelConfig,
        device: &Device,
        source: &str,
        seed: u64,
    ) -> Result<Self> {
        let state = resized(state, config)?;
        let fresh_values = fresh_task_params(task, config, 0.07, seed, device)?;
        let mut online = Params::new(device);
        let mut found_momentum = Params::new(device);
        let mut fresh = Vec::new();
        let mut missing = Vec::new();
        let paired = matches!(task, Task::Nlvr | Task::Ta);
        for (name, shape) in expected_keys(task, &sizes(config)) {
            let twin = paired.then(|| upper_twin(&name, config.text.fusion_layer)).flatten();
            let get = |name: &str| state.get(name);
            match twin.as_deref().and_then(get).or_else(|| get(&name)) {
                Some(tensor) => online.insert(&name, &shape, tensor.to_f32()?)?,
                None if may_start_fresh(task, &name) => {
                    if let Some(p) = fresh_values.get(&name) {
                        online.insert(&name, &shape, crate::params::values(p.value.clone()))?;
                        fresh.push(name.clone());
                    }
                }
                None => missing.push(name.clone()),
            }
            if let Some(copy) = momentum_name(&name) {
                let twin = twin.as_deref().and_then(momentum_name);
                if let Some(tensor) = twin.as_deref().and_then(get).or_else(|| get(&copy)) {
                    found_momentum.insert(&copy, &shape, tensor.to_f32()?)?;
                }
            }
        }
        if !missing.is_empty() {
            let shown = missing.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
            return Err(Error::Config(format!(
                "{source} lacks {} weights of a model for {}: {shown}{}",
                missing.len(),
                task_name(task),
                if missing.len() > 5 { ", …" } else { "" }
            )));
        }
        let mut momentum = copy_for_momentum(&online)?;
        let names: Vec<_> =
            momentum.entries().iter().map(|p| (p.name.clone(), p.shape.clone())).collect();
        for (name, shape) in names {
            if let Some(p) = found_momentum.get(&name) {
                momentum.insert(&name, &shape, crate::params::values(p.value.clone()))?;
            }
        }
        let queues = if task == Task::Retrieval { queues(&state, config, device)? } else { None };
        Ok(Self { online, momentum, queues, fresh })
    }
}

/// The name under which the upper layer of a pair lists a shared key or value.
fn upper_twin(name: &str, fusion_layer: usize) -> Option<String> {
    let (before, rest) = name.split_once("encoder.layer.")?;
    let (layer, after) = rest.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    let shared = ["crossattention.self.key.", "crossattention.self.value."];
    (layer >= fusion_layer && shared.iter().any(|s| after.starts_with(s)))
        .then(|| format!("{before}encoder.layer.{}.{after}", layer + 1))
}
