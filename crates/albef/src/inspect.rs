//! Describing a checkpoint.

use serde::Serialize;

use crate::checkpoint::Checkpoint;
use crate::config::ModelConfig;
use crate::defaults::ModelDefaults;
use crate::error::Result;

/// What a checkpoint is.
#[derive(Clone, Debug, Serialize)]
pub struct CheckpointSummary {
    /// The task in words.
    pub task: &'static str,
    /// Number of tensors.
    pub tensors: usize,
    /// Number of values.
    pub values: usize,
    /// Whether there are momentum copies.
    pub momentum: bool,
    /// Whether there are queues.
    pub queues: bool,
    /// Word pieces of the vocabulary file.
    pub word_pieces: usize,
    /// Sizes of the model.
    pub config: ModelConfig,
    /// What the model does where nothing else is asked for.
    #[serde(skip_serializing_if = "ModelDefaults::is_empty")]
    pub defaults: ModelDefaults,
    /// What of it is not as in a plain checkpoint, line by line.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl CheckpointSummary {
    /// Describes a checkpoint.
    ///
    /// # Errors
    /// If it is not a whole model of its task.
    pub fn new(files: &Checkpoint) -> Result<Self> {
        let report = files.check()?;
        Ok(Self {
            task: files.task.title(),
            tensors: files.tensors.len(),
            values: files.tensors.iter().map(|(_, t)| t.len()).sum(),
            momentum: files.has_momentum(),
            queues: files.has_queues(),
            word_pieces: files.vocabulary.lines().count(),
            config: files.config.clone(),
            defaults: files.defaults.clone(),
            notes: report.notes,
        })
    }
}
