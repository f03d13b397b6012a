//! Describing a checkpoint, and exporting it as a model folder.

use std::collections::HashMap;
use std::path::Path;

use albef_weights::{KeepAs, StateDict, write_atomic, write_safetensors};
use serde::Serialize;

use crate::checkpoint::Checkpoint;
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::write_folder::write_folder;

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
}

impl CheckpointSummary {
    /// Describes a checkpoint.
    #[must_use]
    pub fn new(files: &Checkpoint) -> Self {
        Self {
            task: files.task.title(),
            tensors: files.tensors.len(),
            values: files.tensors.iter().map(|(_, t)| t.len()).sum(),
            momentum: files.has_momentum(),
            queues: files.has_queues(),
            word_pieces: files.vocabulary.lines().count(),
            config: files.config.clone(),
        }
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
/// If the folder holds a model already, a value does not fit the number format, or a file cannot be written.
pub fn export(files: &Checkpoint, folder: &Path, options: &ExportOptions) -> Result<()> {
    if folder.join(WEIGHTS).exists() {
        return Err(Error::Argument(format!(
            "{} already holds a model; choose another folder",
            folder.display()
        )));
    }
    let extra = |name: &str| {
        name.split('.').next().is_some_and(|root| root.ends_with("_m") || root.contains("queue"))
    };
    let tensors: StateDict = files
        .tensors
        .iter()
        .filter(|(name, _)| options.momentum || !extra(name))
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
    write_folder(folder, WEIGHTS, |folder| -> Result<()> {
        for (name, text) in
            [("config.json", &config), ("vocab.txt", &files.vocabulary), ("README.md", &card)]
        {
            write_atomic(&folder.join(name), |f| std::io::Write::write_all(f, text.as_bytes()))?;
        }
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        Ok(write_safetensors(&folder.join(WEIGHTS), &tensors, &metadata, options.dtype)?)
    })
}
