//! Describing a checkpoint.

use std::fmt;

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
            values: files.tensors.iter().fold(0, |all: usize, (_, t)| all.saturating_add(t.len())),
            momentum: files.has_momentum(),
            queues: files.has_queues(),
            word_pieces: files.vocabulary.lines().count(),
            config: files.config.clone(),
            defaults: files.defaults.clone(),
            notes: report.notes,
        })
    }
}

/// The summary for people, line by line, without the notes.
impl fmt::Display for CheckpointSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (vision, text) = (&self.config.vision, &self.config.text);
        let has = |b: bool| if b { "yes" } else { "no" };
        writeln!(f, "model for      {}", self.task)?;
        let millions = self.values as f64 / 1e6;
        writeln!(f, "tensors        {}, {millions:.1} million values", self.tensors)?;
        writeln!(
            f,
            "image encoder  {} wide, {} blocks, {} heads, {} px in patches of {}",
            vision.width, vision.depth, vision.heads, vision.image_res, vision.patch
        )?;
        writeln!(
            f,
            "text encoder   {} wide, {} layers, {} heads, fusion from layer {}",
            text.hidden, text.layers, text.heads, text.fusion_layer
        )?;
        writeln!(f, "word pieces    {} of {}", self.word_pieces, text.vocab_size)?;
        writeln!(f, "joint space    {}", self.config.embed_dim)?;
        let defaults = serde_json::to_value(&self.defaults).map_err(|_| fmt::Error)?;
        for (name, value) in defaults.as_object().into_iter().flatten() {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            writeln!(f, "default        {name}: {value}")?;
        }
        writeln!(f, "momentum       {}", has(self.momentum))?;
        write!(f, "queues         {}", has(self.queues))
    }
}
