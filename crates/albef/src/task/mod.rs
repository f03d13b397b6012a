//! The tasks (paper sections 3 and 5). A task is one file below this module and one line in
//! [`TASKS`]; everything else asks the registry.

mod annotations;
mod classification;
mod configured;
mod evaluation;
mod grounding;
mod labels;
mod nlvr;
mod nlvr_ta;
mod pretrain;
mod retrieval;
mod ve;
mod vqa;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use albef_data::dataset::{
    Contents, ImageRoots, ReadEntry, Sample, SourceSpec, read_list, read_source,
};
use albef_weights::{Schema, StateDict, layer_of};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

pub use self::annotations::{check_list, read_annotations};
pub use self::configured::{Configuration, EvalKey, TaskConfig};
pub(crate) use self::evaluation::left_out;
pub use self::evaluation::{Evaluation, Evaluator, RESAMPLES};
pub use self::pretrain::PretrainConfig;
pub use self::vqa::{answer_list, checked_answers, distinct};
use crate::checkpoint::LoadedModel;
use crate::config::section::{Section, SectionDoc, doc};
use crate::config::{ModelConfig, Source};
use crate::error::{Error, Result};
use crate::eval::answers::RankRule;

/// All tasks, in the order in which help and documents list them.
pub static TASKS: [TaskRef; 8] = [
    TaskRef(&pretrain::Pretrain),
    TaskRef(&retrieval::Retrieval),
    TaskRef(&vqa::Vqa),
    TaskRef(&nlvr_ta::TextAssignment),
    TaskRef(&nlvr::Nlvr2),
    TaskRef(&ve::VisualEntailment),
    TaskRef(&grounding::Grounding),
    TaskRef(&classification::Classification),
];

/// The name of the task that all others start from.
pub const PRETRAIN: &str = "pretrain";

/// What a task knows about itself.
pub trait Task: Send + Sync {
    /// Its name in commands, configurations, checkpoints and reports.
    fn name(&self) -> &'static str;

    /// Other names under which files may have it.
    fn aliases(&self) -> &'static [&'static str] {
        &[]
    }

    /// Its name in sentences.
    fn title(&self) -> &'static str;

    /// What it is for, in one line.
    fn about(&self) -> &'static str;

    /// The commands that use a model of this task.
    fn used_by(&self) -> &'static str;

    /// The name of the task whose model it trains: its own, but for tasks that share one.
    fn model(&self) -> &'static str {
        self.name()
    }

    /// The parameters of its model.
    fn schema(&self, config: &ModelConfig) -> Schema;

    /// Whether a state dictionary is of its model, by the keys.
    fn recognizes(&self, state: &StateDict) -> bool;

    /// The tasks whose checkpoints can become its model, besides its own.
    fn starts_from(&self) -> &'static [&'static str] {
        &[PRETRAIN]
    }

    /// The names under which its model takes over a key of a pre-training checkpoint. By default the
    /// level `bert.` is dropped.
    fn remap(&self, name: &str, _fusion_layer: usize) -> Vec<String> {
        vec![name.replace("bert.", "")]
    }

    /// The weights that start anew in a model of these sizes, since what a checkpoint of another task has in their
    /// places is of another shape.
    fn unfit(&self, _config: &ModelConfig) -> Vec<String> {
        Vec::new()
    }

    /// Whether its text encoder has every fusion layer twice, for two images.
    fn has_paired_layers(&self) -> bool {
        false
    }

    /// How an entry of its annotation lists is read; `None` for images with captions.
    fn annotations(&self) -> Option<ReadEntry> {
        None
    }

    /// Reads one of its annotation lists.
    ///
    /// # Errors
    /// Names the file, the entry and what is wrong with it.
    fn read_list(&self, path: &Path, roots: &ImageRoots) -> Result<Contents> {
        match self.annotations() {
            Some(read) => Ok(read_list(path, roots, read)?),
            None => {
                let root = Some(roots.image_root.as_path()).filter(|r| !r.as_os_str().is_empty());
                Ok(read_source(&SourceSpec::of(path, root))?)
            }
        }
    }

    /// How its configuration is documented and read.
    fn configuration(&self) -> Configuration;

    /// The sections of its configuration.
    fn sections(&self) -> Vec<SectionDoc> {
        (self.configuration().sections)()
    }

    /// Its configuration with all defaults.
    fn default_config(&self) -> Value {
        (self.configuration().defaults)()
    }

    /// Keys of its sections that have no effect on it, which a user who gives them should know.
    fn unread(&self) -> &'static [&'static str] {
        &[]
    }

    /// Reads a configuration of the task.
    ///
    /// # Errors
    /// Names the key that is unknown, of another task, or whose value does not fit.
    fn configure(&self, source: Source<'_>) -> Result<Box<dyn TaskConfig>> {
        (self.configuration().read)(source)
    }

    /// The options of its evaluation; `None` if it has none.
    fn evaluation_options(&self) -> Option<EvaluationOptions> {
        None
    }

    /// Opens the lists of an evaluation. `options`: by name, as JSON.
    ///
    /// # Errors
    /// If an option is unknown or does not fit, or a list cannot be read.
    fn evaluation(&self, _options: Value) -> Result<Box<dyn Evaluator>> {
        Err(Error::Argument(format!("there is no evaluation of {}", self.title())))
    }

    /// The image resolution that the options of an evaluation ask for.
    fn evaluation_res(&self, _options: &Value) -> Option<usize> {
        None
    }

    /// The tasks whose models it is measured with: its own.
    fn evaluates(&self) -> Vec<&'static str> {
        vec![self.model()]
    }

    /// Whether its samples have a text.
    fn needs_text(&self) -> bool {
        true
    }

    /// Images of a query or sample.
    fn images(&self) -> usize {
        1
    }

    /// What is wrong or unusual in an annotation list, besides its images and texts. `decode`: whether
    /// images may be opened for it.
    ///
    /// # Errors
    /// If the list cannot be read.
    fn list_faults(&self, _: &Path, _: &[Sample], _decode: bool) -> Result<Vec<ListFault>> {
        Ok(Vec::new())
    }

    /// Answers a query with a model of the task.
    ///
    /// # Errors
    /// If the query does not fit the task, or an image cannot be used.
    fn predict(&self, _model: &LoadedModel, _query: &Query) -> Result<Prediction> {
        Err(Error::Argument(format!(
            "a model for {} gives no answers by itself; use it with {}",
            self.title(),
            self.used_by()
        )))
    }
}

/// What a task finds in an annotation list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListFault {
    /// Its name in JSON.
    pub key: &'static str,
    /// In words, after a number.
    pub about: &'static str,
    /// How many.
    pub count: usize,
    /// One line for each; none where it is no fault, only worth knowing.
    pub lines: Vec<String>,
}

/// The options of an evaluation, for commands and recipes.
#[derive(Clone, Debug)]
pub struct EvaluationOptions {
    /// Names, documentation and defaults.
    pub section: SectionDoc,
    /// Those that must be given.
    pub required: &'static [&'static str],
    /// Whether options by name are known and hold what the task can read.
    pub check: fn(TaskRef, Value) -> Result<()>,
}

impl EvaluationOptions {
    /// The options of a section.
    fn of<T>(required: &'static [&'static str]) -> Self
    where
        T: Section + Serialize + DeserializeOwned + Default,
    {
        let check = |task, options| labels::options::<T>(task, options).map(drop);
        Self { section: doc::<T>(), required, check }
    }
}

/// Images and a text to ask a model about.
#[derive(Clone, Debug)]
pub struct Query {
    /// The images: one, or two for statements about two.
    pub images: Vec<PathBuf>,
    /// Question, statement, sentence or text.
    pub text: String,
    /// Candidate answers of a question; those of the model
    /// ([`ModelDefaults::answers`](crate::ModelDefaults::answers)) if there are none.
    pub answers: Vec<String>,
    /// Candidates that are scored in full.
    pub rerank_k: usize,
    /// How candidates are scored.
    pub answer_scoring: RankRule,
    /// Answers that are given.
    pub top_k: usize,
}

impl Query {
    /// A query without candidates.
    #[must_use]
    pub fn new(images: Vec<PathBuf>, text: impl Into<String>) -> Self {
        Self {
            images,
            text: text.into(),
            answers: Vec::new(),
            rerank_k: 128,
            answer_scoring: RankRule::default(),
            top_k: 5,
        }
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// Possible answers with their probabilities, the likeliest first.
    pub choices: Vec<(String, f32)>,
    /// The answer as JSON.
    pub value: Value,
    /// The answer for people, line by line.
    pub lines: Vec<String>,
    /// Whether the end of the text was not read.
    pub truncated: bool,
    /// Words of the text, or of candidate answers, that the model does not know.
    pub unknown_words: Vec<String>,
}

/// Documentation and checks of a part of a configuration.
pub(crate) trait Sections {
    /// Its sections.
    fn sections() -> Vec<SectionDoc>;

    /// Checks each value by itself.
    fn check(&self) -> Result<()>;
}

impl<S: Section> Sections for S {
    fn sections() -> Vec<SectionDoc> {
        vec![doc::<S>()]
    }

    fn check(&self) -> Result<()> {
        self.check_values("")
    }
}

/// A task of the registry. Serializes as its name; two are equal if their names are.
#[derive(Clone, Copy)]
pub struct TaskRef(&'static dyn Task);

impl TaskRef {
    /// Opens a model that the task is measured with, or that answers for it.
    ///
    /// # Errors
    /// As [`crate::checkpoint::Checkpoint::open`] and [`crate::checkpoint::Checkpoint::load`].
    pub fn open_model(
        &self,
        path: &Path,
        image_res: Option<usize>,
        device: &crate::Device,
    ) -> Result<LoadedModel> {
        let accepted: Vec<Self> =
            self.evaluates().into_iter().map(Self::named).collect::<Result<_>>()?;
        crate::note_inferred(path);
        let found = crate::checkpoint::Checkpoint::open(path)?.at(image_res)?;
        let model = found.load(&accepted, device, crate::checkpoint::Parts::Inference)?;
        model.log_notes();
        Ok(model)
    }

    /// The task of that name or alias.
    ///
    /// # Errors
    /// If there is none; lists the tasks.
    pub fn named(name: &str) -> Result<Self> {
        let is = |task: &&Self| task.name() == name || task.aliases().contains(&name);
        TASKS.iter().find(is).copied().ok_or_else(|| {
            let names: Vec<&str> = TASKS.iter().map(|t| t.name()).collect();
            Error::Config(format!("there is no task `{name}`; the tasks are {}", names.join(", ")))
        })
    }

    /// A task of the registry.
    pub(crate) fn of(task: &'static dyn Task) -> Self {
        Self(task)
    }

    /// Pre-training.
    #[must_use]
    pub fn pretrain() -> Self {
        Self(&pretrain::Pretrain)
    }

    /// The task whose model a checkpoint holds: the one that its configuration names, else the one
    /// whose keys it has.
    #[must_use]
    pub fn of_checkpoint(state: &StateDict, config: Option<&ModelConfig>) -> Self {
        let named = config.and_then(|c| c.task.as_deref()).and_then(|name| Self::named(name).ok());
        named
            .or_else(|| TASKS.iter().find(|task| task.recognizes(state)).copied())
            .unwrap_or(Self(&retrieval::Retrieval))
    }

    /// Whether a checkpoint of `from` can become this task's model.
    #[must_use]
    pub fn can_start_from(&self, from: Self) -> bool {
        from.model() == self.model() || self.starts_from().contains(&from.model())
    }

    /// The keys of a checkpoint of `from` under the names of this task's model. Keys that the model
    /// lacks stay.
    #[must_use]
    pub fn converted(&self, state: StateDict, from: Self, fusion_layer: usize) -> StateDict {
        let state = match from.model() {
            same if same == self.model() => return state,
            PRETRAIN => state,
            "retrieval" => with_bert_level(state),
            _ => return state,
        };
        let mut out = StateDict::default();
        for (name, tensor) in state {
            for target in self.remap(&name, fusion_layer) {
                out.insert(target, tensor.clone());
            }
        }
        out
    }
}

/// The keys of a retrieval checkpoint under those of pre-training, from which [`Task::remap`] starts.
fn with_bert_level(state: StateDict) -> StateDict {
    let renamed = |name: String| {
        ["text_encoder.", "text_encoder_m."]
            .iter()
            .find_map(|root| name.strip_prefix(root).map(|rest| format!("{root}bert.{rest}")))
            .unwrap_or(name)
    };
    state.into_iter().map(|(name, tensor)| (renamed(name), tensor)).collect()
}

/// [`Task::remap`] of models whose fusion layers come in pairs: layer `l` becomes the layers
/// `2 (l - fusion_layer) + fusion_layer` and the one after it.
fn remap_to_pairs(name: &str, fusion_layer: usize) -> Vec<String> {
    if !name.contains("bert.") {
        return vec![name.to_owned()];
    }
    let bare = name.replace("bert.", "");
    match layer_of(&bare) {
        Some((before, layer, after)) if layer >= fusion_layer => {
            let first = 2 * (layer - fusion_layer) + fusion_layer;
            [first, first + 1].map(|l| format!("{before}encoder.layer.{l}.{after}")).into()
        }
        _ => vec![bare],
    }
}

/// Whether the fusion layers of a text encoder come in pairs that share keys and values, told by the
/// weights: they are equal, or listed once.
fn paired(state: &StateDict) -> bool {
    let layer = |name: &str| {
        let rest = name.strip_prefix("text_encoder.encoder.layer.")?;
        let (number, after) = rest.split_once('.')?;
        after.starts_with("crossattention.").then(|| number.parse::<usize>().ok()).flatten()
    };
    let layers: BTreeSet<usize> = state.names().filter_map(layer).collect();
    let (Some(first), count) = (layers.first(), layers.len()) else { return false };
    let of = |layer: usize, part: &str| {
        state.get(&format!("text_encoder.encoder.layer.{layer}.crossattention.self.{part}.weight"))
    };
    let shared = |lower: usize| match (of(lower, "key"), of(lower + 1, "key")) {
        (Some(a), Some(b)) => a == b && a.bytes.iter().any(|b| *b != 0),
        (Some(_), None) | (None, Some(_)) => of(lower + 1, "query").is_some(),
        (None, None) => false,
    };
    count.is_multiple_of(2) && (*first..first + count).step_by(2).all(shared)
}

/// Whether a name of the state holds `part`.
fn has(state: &StateDict, part: &str) -> bool {
    state.names().any(|n| n.contains(part))
}

/// The classes of a two-layer head, if the state has one.
fn classes(state: &StateDict) -> Option<usize> {
    state.get("cls_head.2.weight")?.shape.first().copied()
}

impl Deref for TaskRef {
    type Target = dyn Task;

    fn deref(&self) -> &Self::Target {
        self.0
    }
}

impl PartialEq for TaskRef {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for TaskRef {}

impl fmt::Debug for TaskRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for TaskRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.title())
    }
}

impl Serialize for TaskRef {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for TaskRef {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let name = String::deserialize(from)?;
        Self::named(&name).map_err(serde::de::Error::custom)
    }
}
