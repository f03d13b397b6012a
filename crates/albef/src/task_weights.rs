//! The weights of a task's model out of a checkpoint of the same or an earlier stage (spec `model`
//! sections 6 and 7).

use std::collections::HashSet;

use albef_weights::{
    StateDict, Task, TaskReport, TaskWeight, for_task, inspect, task_keys, with_bert_level,
};
use burn::tensor::Device;

use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::init::fresh_task_params;
use crate::objectives::queue::Queues;
use crate::params::{Params, to_vec};
use crate::weights::{copy_for_momentum, finite, interpolation_line, queues, resized, sizes};

/// What a task trains, averages and fills.
#[derive(Clone, Debug)]
pub struct TaskWeights {
    /// Trained weights.
    pub online: Params,
    /// Momentum copies; where the checkpoint has none they equal the trained weights. Copied after
    /// loading, unlike in the official code for statements about two images.
    pub momentum: Params,
    /// Those of them that the checkpoint does not have, by name.
    pub copied: Vec<String>,
    /// Queues of the checkpoint.
    pub queues: Option<Queues>,
    /// What the task leaves aside of the checkpoint, what starts fresh, and what differs that should
    /// not.
    pub report: TaskReport,
    /// Where position tables were resized: the patches along the side of an image in the file, and
    /// in the configuration.
    pub interpolated: Option<(usize, usize)>,
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
    /// If the checkpoint belongs to another task, a weight is missing or of another shape, a key is
    /// of no family that the task knows, or the queues are incomplete.
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
                for_task(with_bert_level(state), task, fusion)
            }
            (Task::Pretrain, _) => for_task(state, task, fusion),
            _ => state,
        };
        Self::take(&state, task, config, device, source, seed)
    }

    /// Takes the weights of `task` out of a state dictionary that has its names. Keys of two layers
    /// that share a tensor: the upper one's value counts, as in the official code. `seed` draws a head
    /// that no checkpoint has; `source` stands in messages.
    ///
    /// # Errors
    /// If a weight is missing or of another shape, a key is of no family that the task knows, or the
    /// queues are incomplete.
    pub fn take(
        state: &StateDict,
        task: Task,
        config: &ModelConfig,
        device: &Device,
        source: &str,
        seed: u64,
    ) -> Result<Self> {
        let (state, interpolated) = resized(state, config)?;
        let keys = task_keys(source, &state, task, &sizes(config))?;
        let fresh = if keys.report.fresh.is_empty() {
            Params::new(device)
        } else {
            fresh_task_params(task, config, 0.07, seed, device)?
        };
        let mut online = Params::new(device);
        fill(&mut online, &keys.weights, &state, &fresh, source)?;
        let mut momentum = copy_for_momentum(&online)?;
        fill(&mut momentum, &keys.momentum, &state, &fresh, source)?;
        let had: HashSet<&str> = keys.momentum.iter().map(|w| w.name.as_str()).collect();
        let names = momentum.entries().iter().map(|p| p.name.clone());
        let copied = names.filter(|name| !had.contains(name.as_str())).collect();
        let queues = if task == Task::Retrieval { queues(&state, config, device)? } else { None };
        Ok(Self { online, momentum, copied, queues, report: keys.report, interpolated })
    }

    /// What a user should know about the checkpoint, one line for each kind of fact.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let interpolated = self.interpolated.map(interpolation_line);
        self.report.lines().into_iter().chain(interpolated).collect()
    }
}

/// Puts weights where they were found, or fresh ones, into `params`.
fn fill(
    params: &mut Params,
    weights: &[TaskWeight],
    state: &StateDict,
    fresh: &Params,
    source: &str,
) -> Result<()> {
    for TaskWeight { name, shape, key } in weights {
        let found = key.as_deref().and_then(|k| state.get(k));
        let drawn = || fresh.get(name).map(|p| to_vec(p.value.clone()));
        let missing = || Error::MissingWeight { key: name.clone() };
        let values = match found {
            Some(tensor) => finite(name, tensor, source)?,
            None => drawn().ok_or_else(missing)?,
        };
        params.insert(name, shape, values)?;
    }
    Ok(())
}
