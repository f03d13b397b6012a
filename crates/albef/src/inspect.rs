//! Describing a checkpoint, and exporting it as a model folder.

use std::collections::HashMap;
use std::path::Path;

pub use albef_weights::KeepAs;
use albef_weights::{DType, StateDict, write_atomic, write_safetensors};
use serde::Serialize;

use crate::checkpoint::Checkpoint;
use crate::config::ModelConfig;
use crate::error::{Error, Result};

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
            notes: report.notes,
        })
    }
}

/// How to export.
#[derive(Clone, Copy, Debug)]
pub struct ExportOptions {
    /// Number format of the weights.
    pub dtype: KeepAs,
    /// Whether momentum copies and queues are exported too.
    pub momentum: bool,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self { dtype: KeepAs::Same, momentum: true }
    }
}

impl ExportOptions {
    /// Number format of the weights.
    #[must_use]
    pub fn dtype(mut self, dtype: KeepAs) -> Self {
        self.dtype = dtype;
        self
    }

    /// Whether momentum copies and queues are exported too.
    #[must_use]
    pub fn momentum(mut self, momentum: bool) -> Self {
        self.momentum = momentum;
        self
    }
}

/// The file that makes a folder a model.
const WEIGHTS: &str = "model.safetensors";

/// Writes a model folder: `config.json`, `model.safetensors`, `vocab.txt` and a model card.
///
/// # Errors
/// If the folder has a model already, the checkpoint is not a whole model or has a weight that is not
/// finite, a value does not fit the number format, or a file cannot be written.
pub fn export(files: &Checkpoint, folder: &Path, options: &ExportOptions) -> Result<()> {
    if folder.join(WEIGHTS).exists() {
        return Err(Error::Argument(format!(
            "{} already holds a model; choose another folder",
            folder.display()
        )));
    }
    files.check()?;
    files.check_finite()?;
    let extra = |name: &str| {
        name.split('.').next().is_some_and(|root| root.ends_with("_m") || root.contains("queue"))
    };
    let tensors: StateDict = files
        .tensors
        .iter()
        .filter(|(name, _)| options.momentum || !extra(name))
        // Known by name alone; the summary names them.
        .filter(|(_, tensor)| !matches!(tensor.dtype, DType::Unread(_)))
        .map(|(name, tensor)| (name.to_owned(), tensor.clone()))
        .collect();
    let card = format!(
        "# ALBEF, {}\n\nExported from {} by `albef inspect --export`, {} tensors.\n",
        files.task.title(),
        files.source,
        tensors.len()
    );
    let config = serde_json::to_string_pretty(&files.config)
        .map_err(|e| Error::Format { path: folder.join("config.json"), detail: e.to_string() })?;
    // The weights last: a folder that has them is whole.
    albef_files::folder::fill(folder, WEIGHTS, |folder| -> Result<()> {
        for (name, text) in
            [("config.json", &config), ("vocab.txt", &files.vocabulary), ("README.md", &card)]
        {
            write_atomic(&folder.join(name), |f| std::io::Write::write_all(f, text.as_bytes()))?;
        }
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        Ok(write_safetensors(&folder.join(WEIGHTS), &tensors, &metadata, options.dtype)?)
    })
}
