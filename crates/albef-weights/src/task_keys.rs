//! Where the weights of a task's model lie in a checkpoint that has its names, and what becomes of
//! every other key.

use std::collections::{BTreeMap, HashSet};

use crate::error::Result;
use crate::key_report::{Findings, compare};
use crate::keys::{Keys, Sizes, Task, expected_keys, momentum_name};
use crate::remap::layer_of;
use crate::tensor::StateDict;

/// One weight of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskWeight {
    /// Its name in the model.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// The key of the checkpoint that holds it; `None` where it starts fresh.
    pub key: Option<String>,
}

/// What a user should know about a checkpoint that fits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskReport {
    /// Keys that the task leaves aside: each family with its number of keys.
    pub ignored: BTreeMap<&'static str, usize>,
    /// Weights that no checkpoint has and that start fresh.
    pub fresh: Vec<String>,
    /// Cross-attention keys and values of which the two layers of a pair have different ones, by the
    /// name of the lower layer. The upper layer's count, as in the official code.
    pub unequal_twins: Vec<String>,
}

impl TaskReport {
    /// The report in words, one line for each kind of fact; none where there is nothing to say.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.ignored.is_empty() {
            let families = self.ignored.iter().map(|(family, n)| format!("{n} of {family}"));
            lines.push(format!("keys left aside: {}", families.collect::<Vec<_>>().join(", ")));
        }
        if !self.fresh.is_empty() {
            let n = self.fresh.len();
            lines.push(format!("weights that start fresh: {n} ({})", some(&self.fresh)));
        }
        if !self.unequal_twins.is_empty() {
            let n = self.unequal_twins.len();
            lines.push(format!(
                "shared keys and values that differ between the layers of a pair: {n} ({}); those of \
                 the upper layer are used",
                some(&self.unequal_twins)
            ));
        }
        lines
    }
}

fn some(names: &[String]) -> String {
    let shown = names.iter().take(2).map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
    if names.len() > 2 { format!("{shown}, …") } else { shown }
}

/// Where a task finds its weights.
#[derive(Clone, Debug, Default)]
pub struct TaskKeys {
    /// The trained weights, in module order.
    pub weights: Vec<TaskWeight>,
    /// The momentum copies that the checkpoint has.
    pub momentum: Vec<TaskWeight>,
    /// What else is in it, and what is not.
    pub report: TaskReport,
}

/// The head that a task adds to a pre-trained model, if no checkpoint of another task can have it.
fn own_head(task: Task) -> Option<&'static str> {
    match task {
        Task::Ve | Task::Nlvr => Some("cls_head."),
        Task::Ta => Some("ta_head."),
        _ => None,
    }
}

/// The name under which the upper layer of a pair lists a shared key or value.
pub(crate) fn upper_twin(name: &str, task: Task, fusion_layer: usize) -> Option<String> {
    let (before, layer, after) = layer_of(name)?;
    let shared = ["crossattention.self.key.", "crossattention.self.value."];
    let paired = matches!(task, Task::Nlvr | Task::Ta) && layer >= fusion_layer;
    (paired && shared.iter().any(|s| after.starts_with(s)))
        .then(|| format!("{before}encoder.layer.{}.{after}", layer + 1))
}

/// The family that retrieval uses, by another reader than this one.
const QUEUES: &str = "queues";

/// The family of a key that a task knows and does not use. A part that the task has itself is none.
fn family(name: &str, own: &HashSet<&str>) -> Option<&'static str> {
    let (root, rest) = name.split_once('.').unwrap_or((name, ""));
    if let Some(root) = root.strip_suffix("_m") {
        let original = format!("{root}.{rest}");
        let known = own.contains(original.as_str()) || family(&original, own).is_some();
        return known.then_some("momentum copies");
    }
    if name.ends_with("embeddings.position_ids") {
        return Some("position numbers");
    }
    if ["image_queue", "text_queue", "idx_queue", "queue_ptr"].contains(&name) {
        return Some(QUEUES);
    }
    let part = if rest.starts_with("cls.") { format!("{root}.cls.") } else { format!("{root}.") };
    if own.iter().any(|n| n.starts_with(&part)) {
        let tied = ["cls.predictions.decoder.weight", "cls.predictions.decoder.bias"];
        return tied.contains(&rest).then_some("tied copies");
    }
    match part.as_str() {
        "text_encoder.cls." => Some("the vocabulary head"),
        "vision_proj." | "text_proj." | "itm_head." | "cls_head." | "ta_head." => {
            Some("heads of other tasks")
        }
        "temp." if rest.is_empty() && !own.contains("temp") => Some("heads of other tasks"),
        _ => None,
    }
}

/// What to do about a checkpoint that does not fit.
fn hint(found: &Findings) -> &'static str {
    if found.mismatched > 0 {
        ". hint: the sizes in `config.json` must be those of the weights: take both from one model"
    } else if found.unexpected > 0 {
        ". hint: if the model has more layers than `config.json` says, correct that; else take these \
         keys out of the file"
    } else {
        ". hint: this is no whole model for the task: take another checkpoint, or correct the layers \
         in `config.json`"
    }
}

/// Finds the keys of one weight: its own, and its upper twin where layers share it.
struct Finder<'a> {
    state: &'a StateDict,
    /// What the checkpoint has to have.
    expected: Keys,
    unequal: Vec<String>,
}

impl Finder<'_> {
    fn find(&mut self, name: String, shape: Vec<usize>, twin: Option<String>) -> TaskWeight {
        let (own, upper) = (self.state.get(&name), twin.as_ref().and_then(|t| self.state.get(t)));
        let key = match (own, twin) {
            (Some(lower), Some(twin)) if upper.is_some() => {
                self.expected.push((name.clone(), shape.clone()));
                if upper != Some(lower) {
                    self.unequal.push(name.clone());
                }
                twin
            }
            (None, Some(twin)) if upper.is_some() => twin,
            _ => name.clone(),
        };
        self.expected.push((key.clone(), shape.clone()));
        TaskWeight { name, shape, key: Some(key) }
    }
}

/// Finds the weights of `task` in a state dictionary that has its names, position tables already at
/// the model's resolution, and accounts for every key. `source` stands in messages. Momentum copies
/// may be absent, part by part; of two layers that share a tensor, one may be listed.
///
/// # Errors
/// If a weight or momentum copy is missing or of another shape, or a key is neither of the model nor
/// of a family that the task leaves aside (heads of other tasks, momentum copies, queues, tied copies
/// and position numbers). The first such keys are named, with found and expected shape.
pub fn task_keys(source: &str, state: &StateDict, task: Task, sizes: &Sizes) -> Result<TaskKeys> {
    let has_part = |part: &str| state.names().any(|n| n.starts_with(part));
    let fresh_head = own_head(task).filter(|head| !has_part(head));
    let averaged: HashSet<&str> = state
        .names()
        .filter_map(|n| n.split_once('.').map(|(root, _)| root))
        .filter(|root| root.ends_with("_m"))
        .collect();
    let keys = expected_keys(task, sizes);
    let own: HashSet<&str> = keys.iter().map(|(n, _)| n.as_str()).collect();
    let mut out = TaskKeys::default();
    let mut finder = Finder { state, expected: Keys::new(), unequal: Vec::new() };
    for (name, shape) in keys.iter().cloned() {
        let twin = upper_twin(&name, task, sizes.fusion_layer);
        let copy = momentum_name(&name)
            .filter(|copy| copy.split_once('.').is_some_and(|(root, _)| averaged.contains(root)));
        if let Some(copy) = copy {
            let twin = twin.as_deref().and_then(momentum_name);
            out.momentum.push(finder.find(copy, shape.clone(), twin));
        }
        if fresh_head.is_some_and(|head| name.starts_with(head)) {
            out.report.fresh.push(name.clone());
            out.weights.push(TaskWeight { name, shape, key: None });
        } else {
            out.weights.push(finder.find(name, shape, twin));
        }
    }
    out.report.unequal_twins = finder.unequal;
    let known = |name: &str| family(name, &own).is_some();
    let found = compare(state, &finder.expected, |_| false, known);
    let hint = hint(&found);
    for name in found.settle(source, hint)?.unexpected {
        let used = |family: &str| family == QUEUES && task == Task::Retrieval;
        if let Some(family) = family(&name, &own).filter(|f| !used(f)) {
            *out.report.ignored.entry(family).or_default() += 1;
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::json;
    use crate::key_map::state_keys;
    use crate::remap::{for_task, with_bert_level};
    use crate::tensor::{DType, HostTensor};

    const TASKS: [Task; 6] =
        [Task::Pretrain, Task::Retrieval, Task::Vqa, Task::Nlvr, Task::Ta, Task::Ve];

    fn golden_sizes() -> Sizes {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
        Sizes::from_golden_config(&json(&root.join("config.json")).unwrap()).unwrap()
    }

    /// A tensor that has a shape, and bytes only to tell it from others.
    fn shaped(shape: &[usize], bytes: &[u8]) -> HostTensor {
        HostTensor { dtype: DType::F32, shape: shape.to_vec(), bytes: bytes.to_vec() }
    }

    fn checkpoint(task: Task) -> StateDict {
        let keys = state_keys(task, &golden_sizes(), 24);
        keys.into_iter().map(|(n, shape)| (n, shaped(&shape, b""))).collect()
    }

    fn taken(state: &StateDict, task: Task) -> Result<TaskKeys> {
        task_keys("`x`", state, task, &golden_sizes())
    }

    fn failure(state: &StateDict, task: Task) -> String {
        taken(state, task).unwrap_err().to_string()
    }

    #[test]
    fn every_key_of_every_official_start_is_accounted_for() {
        let fusion = golden_sizes().fusion_layer;
        let own = TASKS.map(|task| (checkpoint(task), task));
        let pretrained =
            TASKS.map(|task| (for_task(checkpoint(Task::Pretrain), task, fusion), task));
        let retrieval = || with_bert_level(checkpoint(Task::Retrieval));
        let others = [Task::Nlvr, Task::Ta].map(|task| (for_task(retrieval(), task, fusion), task));
        let rest = [(checkpoint(Task::Ta), Task::Nlvr), (checkpoint(Task::Retrieval), Task::Ve)];
        for (state, task) in own.into_iter().chain(pretrained).chain(others).chain(rest) {
            let found = taken(&state, task).unwrap();
            let loaded = found.weights.iter().chain(&found.momentum);
            let names = |w: &TaskWeight| [w.key.clone(), Some(w.name.clone())];
            let used: HashSet<String> = loaded.flat_map(names).flatten().collect();
            let left_aside: usize = found.report.ignored.values().sum();
            let used = used.iter().filter(|n| state.get(n).is_some()).count();
            let queues = state.names().filter(|n| n.contains("queue")).count();
            let queues = if task == Task::Retrieval { queues } else { 0 };
            assert_eq!(used + queues + left_aside, state.len(), "{task:?}: {:?}", found.report);
            assert!(found.report.unequal_twins.is_empty());
        }
    }

    #[test]
    fn the_report_of_a_pre_trained_start_names_families_and_the_fresh_head() {
        let state = for_task(checkpoint(Task::Pretrain), Task::Ve, golden_sizes().fusion_layer);
        let report = taken(&state, Task::Ve).unwrap().report;
        let families = [
            ("heads of other tasks", 7),
            ("momentum copies", 12),
            ("position numbers", 1),
            ("queues", 3),
            ("the vocabulary head", 7),
        ];
        assert_eq!(report.ignored, BTreeMap::from(families));
        assert_eq!(report.fresh.len(), 4);
        let lines = report.lines();
        assert!(lines[0].starts_with("keys left aside: 7 of heads of other tasks, 12 of momentum"));
        assert!(
            lines[1].starts_with("weights that start fresh: 4 (`cls_head.0.weight`"),
            "{lines:?}"
        );
        assert_eq!(taken(&checkpoint(Task::Ve), Task::Ve).unwrap().report.fresh.len(), 0);
    }

    #[test]
    fn a_transposed_weight_is_named_with_both_shapes() {
        let key = "text_encoder.encoder.layer.0.intermediate.dense.weight";
        for key in [key.to_owned(), momentum_name(key).unwrap()] {
            let mut state = checkpoint(Task::Ve);
            state.insert(key.clone(), shaped(&[48, 96], b""));
            let error = failure(&state, Task::Ve);
            assert!(error.contains(&format!("`{key}` is [48, 96] instead of [96, 48]")), "{error}");
            assert!(error.contains("hint: the sizes in `config.json`"), "{error}");
        }
    }

    #[test]
    fn a_shared_weight_of_another_shape_is_found_under_both_names() {
        for layer in [2, 3] {
            let key = format!("text_encoder.encoder.layer.{layer}.crossattention.self.key.weight");
            let mut state = checkpoint(Task::Nlvr);
            state.insert(key.clone(), shaped(&[48 * 48], b""));
            assert!(failure(&state, Task::Nlvr).contains(&format!("`{key}` is [2304]")));
        }
    }

    #[test]
    fn a_model_with_more_layers_than_the_configuration_is_refused() {
        for part in
            ["text_encoder.encoder.layer.4", "visual_encoder.blocks.4", "visual_encoder_m.blocks.4"]
        {
            let key = format!("{part}.attn.proj.bias");
            let mut state = checkpoint(Task::Ve);
            state.insert(key.clone(), shaped(&[48], b""));
            let error = failure(&state, Task::Ve);
            assert!(error.contains(&format!("unexpected `{key}`")), "{error}");
            assert!(error.contains("more layers than `config.json` says"), "{error}");
        }
    }

    #[test]
    fn a_key_of_no_known_family_is_refused_and_so_is_half_a_part() {
        let mut state = checkpoint(Task::Vqa);
        state.insert("adapter.weight".into(), shaped(&[1], b""));
        assert!(failure(&state, Task::Vqa).contains("unexpected `adapter.weight`"));
        let mut third_layer = checkpoint(Task::Ve);
        third_layer.insert("cls_head.4.weight".into(), shaped(&[3, 3], b""));
        assert!(failure(&third_layer, Task::Ve).contains("unexpected `cls_head.4.weight`"));
        for gone in ["cls_head.0.weight", "visual_encoder_m.norm.weight"] {
            let state = checkpoint(Task::Ve).into_iter().filter(|(n, _)| n != gone).collect();
            assert!(failure(&state, Task::Ve).contains(&format!("missing `{gone}`")));
        }
    }

    #[test]
    fn the_upper_layer_of_a_pair_counts_and_a_difference_is_reported() {
        let lower = "text_encoder.encoder.layer.2.crossattention.self.value.bias";
        let upper = "text_encoder.encoder.layer.3.crossattention.self.value.bias";
        let key = |found: &TaskKeys| {
            found.weights.iter().find(|w| w.name == lower).and_then(|w| w.key.clone())
        };
        let mut state = checkpoint(Task::Nlvr);
        state.insert(upper.into(), shaped(&[48], b"other"));
        let found = taken(&state, Task::Nlvr).unwrap();
        assert_eq!(key(&found).as_deref(), Some(upper));
        assert_eq!(found.report.unequal_twins, [lower]);
        assert!(found.report.lines().last().unwrap().contains("those of the upper layer are used"));
        let alone = state.into_iter().filter(|(n, _)| n != upper).collect();
        assert_eq!(key(&taken(&alone, Task::Nlvr).unwrap()).as_deref(), Some(lower));
    }

    #[test]
    fn layers_of_a_retrieval_checkpoint_become_pairs_in_both_copies() {
        let mut state = checkpoint(Task::Retrieval);
        for root in ["text_encoder", "text_encoder_m"] {
            let key = format!("{root}.encoder.layer.3.output.dense.bias");
            state.insert(key, shaped(&[48], b"last"));
        }
        let state = for_task(with_bert_level(state), Task::Nlvr, golden_sizes().fusion_layer);
        for root in ["text_encoder", "text_encoder_m"] {
            let last = (0..6).filter(|i| {
                let key = format!("{root}.encoder.layer.{i}.output.dense.bias");
                state.get(&key).is_some_and(|t| t.bytes == b"last")
            });
            assert_eq!(last.collect::<Vec<_>>(), [4, 5], "{root}");
        }
    }
}
