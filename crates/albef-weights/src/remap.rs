//! What a checkpoint is, and its keys under the names of another task (golden README, load rules).

use std::fmt;

use crate::keys::Task;
use crate::tensor::StateDict;

/// What a state dictionary holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// The task whose model has these keys.
    pub task: Task,
    /// Whether `text_encoder` has the level `bert.`.
    pub bert_level: bool,
    /// Whether momentum copies are present.
    pub momentum: bool,
    /// Whether queues are present.
    pub queues: bool,
    /// Image tokens by the position table.
    pub image_tokens: Option<usize>,
    /// Number of tensors.
    pub tensors: usize,
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_no =
            |b: bool, what: &str| if b { format!("with {what}") } else { format!("no {what}") };
        write!(
            f,
            "{:?} checkpoint, {} tensors, {} image tokens, {}, {}",
            self.task,
            self.tensors,
            self.image_tokens.map_or("unknown".into(), |n| n.to_string()),
            or_no(self.momentum, "momentum copies"),
            or_no(self.queues, "queues"),
        )
    }
}

/// Tells what a state dictionary holds from its keys.
#[must_use]
pub fn inspect(state: &StateDict) -> Description {
    let has = |part: &str| state.names().any(|n| n.contains(part));
    let task = if has("text_decoder.") {
        Task::Vqa
    } else if has("ta_head.") {
        Task::Ta
    } else if let Some(last) = state.get("cls_head.2.weight") {
        if last.shape.first() == Some(&3) { Task::Ve } else { Task::Nlvr }
    } else if has("text_encoder.bert.") {
        Task::Pretrain
    } else {
        Task::Retrieval
    };
    Description {
        task,
        bert_level: has("text_encoder.bert."),
        momentum: has("visual_encoder_m."),
        queues: has("image_queue"),
        image_tokens: state.get("visual_encoder.pos_embed").and_then(|t| t.shape.get(1).copied()),
        tensors: state.len(),
    }
}

/// The number of the layer in a BERT key, with what stands before and after.
pub(crate) fn layer_of(name: &str) -> Option<(&str, usize, &str)> {
    let (before, rest) = name.split_once("encoder.layer.")?;
    let (number, after) = rest.split_once('.')?;
    Some((before, number.parse().ok()?, after))
}

/// The names under which a task's model takes over a key of a pre-training checkpoint.
#[must_use]
pub fn targets(name: &str, task: Task, fusion_layer: usize) -> Vec<String> {
    let unchanged = || vec![name.to_owned()];
    if task == Task::Pretrain || (!name.contains("bert.") && task != Task::Vqa) {
        return unchanged();
    }
    let bare = name.replace("bert.", "");
    match task {
        Task::Vqa if name.contains("text_encoder") => {
            let encoder = name.contains("bert.").then_some(bare);
            let decoder = name.replace("text_encoder", "text_decoder");
            let decoder = match layer_of(&decoder) {
                Some((_, layer, _)) if layer < fusion_layer => None,
                Some((before, layer, after)) => {
                    Some(format!("{before}encoder.layer.{}.{after}", layer - fusion_layer))
                }
                None => Some(decoder),
            };
            encoder.into_iter().chain(decoder).collect()
        }
        Task::Vqa => unchanged(),
        Task::Ta | Task::Nlvr => match layer_of(&bare) {
            Some((before, layer, after)) if layer >= fusion_layer => {
                let first = 2 * (layer - fusion_layer) + fusion_layer;
                [first, first + 1].map(|l| format!("{before}encoder.layer.{l}.{after}")).into()
            }
            _ => vec![bare],
        },
        _ => vec![bare],
    }
}

/// The keys of a retrieval checkpoint under those of pre-training, from which the rules of [`for_task`]
/// start.
#[must_use]
pub fn with_bert_level(state: StateDict) -> StateDict {
    let renamed = |name: String| {
        ["text_encoder.", "text_encoder_m."]
            .iter()
            .find_map(|root| name.strip_prefix(root).map(|rest| format!("{root}bert.{rest}")))
            .unwrap_or(name)
    };
    state.into_iter().map(|(name, tensor)| (renamed(name), tensor)).collect()
}

/// The keys of a pre-training checkpoint under the names of a task's model. Keys that the model
/// lacks stay; loading ignores them.
#[must_use]
pub fn for_task(state: StateDict, task: Task, fusion_layer: usize) -> StateDict {
    let mut out = StateDict::default();
    for (name, tensor) in state {
        for target in targets(&name, task, fusion_layer) {
            out.insert(target, tensor.clone());
        }
    }
    out
}
