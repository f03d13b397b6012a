//! Model folders: `config.json`, `model.safetensors`, `vocab.txt` and a model card.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use albef_files::folder::fill;
use albef_weights::{HostTensor, KeepAs, StateDict, write_atomic, write_safetensors};

use crate::config::ModelConfig;
use crate::defaults::ModelDefaults;
use crate::error::{Error, Result};
use crate::params::{Params, to_vec};

const WEIGHTS: &str = "model.safetensors";

/// Writes a model folder, whole or not at all; other files of an old one remain, but of its [`ModelDefaults`] only
/// what was not measured on its weights.
///
/// # Errors
/// If a weight is not finite or a file cannot be written.
pub fn save_model_folder(
    folder: &Path,
    config: &ModelConfig,
    params: &Params,
    vocabulary: &str,
    card: &str,
    keep_as: KeepAs,
) -> Result<()> {
    save_answering(folder, config, params, vocabulary, card, keep_as, &[])
}

/// [`save_model_folder`] of a model that chooses among `answers` where no others are given; those of an old folder
/// if there are none.
///
/// # Errors
/// As [`save_model_folder`].
pub(crate) fn save_answering(
    folder: &Path,
    config: &ModelConfig,
    params: &Params,
    vocabulary: &str,
    card: &str,
    keep_as: KeepAs,
    answers: &[String],
) -> Result<()> {
    params.check_finite(folder, "nothing was written")?;
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let config = serde_json::to_string_pretty(config)
        .map_err(|e| Error::Format { path: folder.join("config.json"), detail: e.to_string() })?;
    // Of defaults that are damaged nothing holds for the new weights either.
    let there = folder.join(ModelDefaults::FILE).exists();
    let mut defaults =
        there.then(|| ModelDefaults::of_folder(folder).unwrap_or_default().for_other_weights());
    if !answers.is_empty() {
        defaults.get_or_insert_default().answers = answers.to_vec();
    }
    fill(folder, WEIGHTS, |folder| -> Result<()> {
        if let Some(defaults) = &defaults {
            defaults.write(folder)?;
        }
        for (name, text) in
            [("config.json", config.as_str()), ("vocab.txt", vocabulary), ("README.md", card)]
        {
            write_atomic(&folder.join(name), |f| f.write_all(text.as_bytes()))?;
        }
        Ok(write_safetensors(&folder.join(WEIGHTS), &state_dict(params), &metadata, keep_as)?)
    })
}

/// The tensors under their official names.
#[must_use]
pub fn state_dict(params: &Params) -> StateDict {
    params
        .entries()
        .iter()
        .map(|p| (p.name.clone(), HostTensor::from_f32(&p.shape, &to_vec(p.value.clone()))))
        .collect()
}
