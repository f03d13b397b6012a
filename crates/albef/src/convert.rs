//! Writing a checkpoint for this program, for the official code, or for LAVIS.
//!
//! ```no_run
//! use albef::Control;
//! use albef::checkpoint::Checkpoint;
//! use albef::convert::{ConvertOptions, ModelFormat, convert};
//!
//! let model = Checkpoint::open("run".as_ref())?;
//! let options = ConvertOptions::new(ModelFormat::Official);
//! let written = convert(&model, "albef.pth".as_ref(), &options, &Control::new())?;
//! written.notes.iter().for_each(|note| println!("{note}"));
//! # Ok::<(), albef::Error>(())
//! ```

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use albef_data::text::TextProcessing;
use albef_files::folder::fill;
pub use albef_weights::KeepAs;
use albef_weights::{
    DType, OnBytes, StateDict, is_of_momentum, weights_file, with_official_keys, with_token_types,
    without_token_types, write_atomic, write_shards, write_torch,
};

use crate::Control;
use crate::checkpoint::Checkpoint;
use crate::config::ModelConfig;
use crate::defaults::ModelDefaults;
use crate::error::{Error, Result};
use crate::task::TaskRef;

/// What a checkpoint is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelFormat {
    /// A model folder with safetensors.
    Safetensors,
    /// A file of `torch.save` with the keys of the official code.
    Official,
    /// A file of `torch.save` with the keys of LAVIS, which has no token types.
    Lavis,
}

impl fmt::Display for ModelFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Safetensors => "safetensors",
            Self::Official => "official",
            Self::Lavis => "lavis",
        })
    }
}

/// Bytes of weights from which on a model is written in parts.
pub const SHARD_SIZE: u64 = 5_000_000_000;

/// How to convert.
#[derive(Clone, Copy, Debug)]
pub struct ConvertOptions {
    format: ModelFormat,
    dtype: KeepAs,
    shard_size: u64,
    momentum: bool,
}

impl ConvertOptions {
    /// To a format, with number formats, momentum copies and queues as they are.
    #[must_use]
    pub fn new(format: ModelFormat) -> Self {
        Self { format, dtype: KeepAs::Same, shard_size: SHARD_SIZE, momentum: true }
    }

    /// Number format of the weights.
    #[must_use]
    pub fn dtype(mut self, dtype: KeepAs) -> Self {
        self.dtype = dtype;
        self
    }

    /// Bytes of weights from which on safetensors are written in parts of this size.
    #[must_use]
    pub fn shard_size(mut self, bytes: u64) -> Self {
        self.shard_size = bytes.max(1);
        self
    }

    /// Whether momentum copies and queues are written too, which only training needs. The other formats
    /// get copies of the weights where the model has no momentum copies, since the code for which they are
    /// written expects them.
    #[must_use]
    pub fn momentum(mut self, momentum: bool) -> Self {
        self.momentum = momentum;
        self
    }
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted {
    /// The file, or the folder.
    pub path: PathBuf,
    /// Number of tensors.
    pub tensors: usize,
    /// What a user should know about it, line by line.
    pub notes: Vec<String>,
}

/// The file of a folder in a format of `torch.save`.
const TORCH: &str = "model.pth";
/// How the names of the files begin that make a folder a model.
const WEIGHTS: &str = "model.";

/// Writes a checkpoint in another format, whole or not at all. `output` is a folder, with `config.json`,
/// `vocab.txt`, a model card and the model's `defaults.json` beside the weights, or, for the formats of `torch.save`, a file that ends
/// in `.pth` or `.pt`. A file is replaced. What was written is opened again before this returns.
///
/// # Errors
/// If the folder holds a model already or the file is the model itself; if the checkpoint is not a whole
/// model or has a weight that is not finite; if a value does not fit the number format; if a file cannot be
/// written; [`Error::Cancelled`].
pub fn convert(
    model: &Checkpoint,
    output: &Path,
    options: &ConvertOptions,
    control: &Control,
) -> Result<Converted> {
    let of_torch = options.format != ModelFormat::Safetensors;
    let ending = output.extension().and_then(|e| e.to_str()).unwrap_or_default();
    let single = of_torch && ["pth", "pt"].contains(&ending);
    check_place(model, output, options.format, single)?;
    let report = model.check()?;
    if let Some(key) = report.untied.first().filter(|_| of_torch) {
        return Err(Error::Argument(format!(
            "{}: `{key}` is not the word table, with which it is one tensor in the classes that format `{}` is \
             written for; write safetensors, or train the head tied",
            model.source, options.format
        )));
    }
    model.check_finite()?;
    control.check()?;
    let (tensors, config, mut notes) = laid_out(model, options)?;
    let total: u64 = tensors.iter().map(|(_, tensor)| tensor.bytes.len() as u64).sum();
    let mut done = 0;
    let phase = format!("writing {}", options.format);
    let mut on_bytes = |n: u64| {
        done += n;
        control.advance(&phase, (done.min(total)) as usize, total as usize);
        match control.is_cancelled() {
            true => Err(io::Error::new(io::ErrorKind::Interrupted, "cancelled")),
            false => Ok(()),
        }
    };
    let written = match single {
        true => write_torch(output, &tensors, options.dtype, &mut on_bytes).map_err(Error::from),
        false => fill(output, WEIGHTS, |folder| {
            write_model(folder, model, &config, &tensors, options, &mut on_bytes)?;
            let again = Checkpoint::open(folder)?;
            expect_same(&again, model, &config)
        }),
    };
    control.advance(&phase, total as usize, total as usize);
    match written {
        Err(_) if control.is_cancelled() => return Err(Error::Cancelled),
        other => other?,
    }
    if single {
        notes.extend(alone(output, model, &config));
        if !model.defaults.is_empty() {
            let file = ModelDefaults::FILE;
            notes.push(format!("a file alone has no `{file}`: copy that of the model beside it"));
        }
    }
    Ok(Converted { path: output.to_owned(), tensors: tensors.len(), notes })
}

/// Refuses to replace a model, and a file where a folder is written.
fn check_place(model: &Checkpoint, output: &Path, format: ModelFormat, single: bool) -> Result<()> {
    let shown = output.display();
    if single {
        let same = |path: &Path| {
            path.canonicalize().is_ok_and(|own| output.canonicalize().is_ok_and(|o| o == own))
        };
        let own = Path::new(model.source.trim_matches('`'));
        if same(own) || weights_file(&model.folder).is_ok_and(|file| same(&file)) {
            return Err(Error::Argument(format!(
                "{shown} is the model that is converted; write to another file"
            )));
        }
        return Ok(());
    }
    let hint = match format {
        ModelFormat::Safetensors => {
            "safetensors are written as a model folder, with its configuration and word pieces; name a folder"
        }
        _ => "name a file that ends in .pth or .pt, or a folder",
    };
    let ending = output.extension().and_then(|e| e.to_str()).unwrap_or_default();
    let of_file = ["safetensors", "pth", "pt", "bin", "ckpt"].contains(&ending);
    if of_file && !output.is_dir() {
        return Err(Error::Argument(format!("{shown}: {hint}")));
    }
    if output.symlink_metadata().is_ok() && !output.is_dir() {
        return Err(Error::Argument(format!(
            "{shown} is a file, which is not replaced by a folder; {hint}"
        )));
    }
    if output.join("checkpoints").is_dir() {
        return Err(Error::Argument(format!(
            "{shown} is the folder of a training run; choose another folder"
        )));
    }
    // A link to a file that is gone counts.
    let weights = ["model.safetensors", "model.safetensors.index.json", TORCH];
    if weights.iter().any(|name| output.join(name).symlink_metadata().is_ok()) {
        return Err(Error::Argument(format!(
            "{shown} already holds a model; choose another folder"
        )));
    }
    Ok(())
}

/// The tensors of a model in a format, their sizes, and what a user should know.
fn laid_out(
    model: &Checkpoint,
    options: &ConvertOptions,
) -> Result<(StateDict, ModelConfig, Vec<String>)> {
    let mut notes = Vec::new();
    let mut config = model.config.clone();
    let unread =
        |(_, tensor): &(&str, &albef_weights::HostTensor)| matches!(tensor.dtype, DType::Unread(_));
    let left: Vec<String> =
        model.tensors.iter().filter(unread).map(|(n, _)| n.to_owned()).collect();
    if let Some(first) = left.first() {
        let n = left.len();
        notes.push(format!("not written: {n} tensors of a type that is not read (`{first}`)"));
    }
    let state: StateDict = model
        .tensors
        .iter()
        .filter(|entry| !unread(entry))
        .filter(|(name, _)| options.momentum || !is_of_momentum(name))
        .map(|(name, tensor)| (name.to_owned(), tensor.clone()))
        .collect();
    if options.format == ModelFormat::Safetensors {
        return Ok((state, config, notes));
    }
    let schema = model.task.schema(&model.config);
    let (state, copies) = with_official_keys(state, &schema, options.momentum);
    if copies > 0 {
        notes.push(format!(
            "the model lacks {copies} momentum copies: the file lists the weights themselves under their \
             names, and training there begins with them"
        ));
    }
    let pretrained = model.task.model() == TaskRef::pretrain().name();
    if options.momentum && pretrained && state.get("image_queue").is_none() {
        notes.push(
            "the model has no queues: code that loads every key, as the official pre-training does, refuses \
             the file; fine-tuning takes it"
                .into(),
        );
    }
    let own = config.text.processing;
    let state = if options.format == ModelFormat::Lavis {
        let (state, folded) = without_token_types(state)?;
        config.text.type_vocab = 0;
        if folded > 0 {
            notes.push(format!(
                "LAVIS has no token types: the row of type 0 is added to {folded} position tables, and \
                 outputs change by rounding alone"
            ));
        }
        if own == TextProcessing::Official {
            notes.push(
                "LAVIS cleans texts in another way than this model was trained with, and ends them with \
                 [SEP]: results there differ; measure the model there before you rely on them"
                    .into(),
            );
        }
        state
    } else {
        if config.text.type_vocab == 0 {
            config.text.type_vocab = 2;
            notes.push("the model has no token types: their table is written as zeros".into());
        }
        if own == TextProcessing::Lavis {
            notes.push(
                "the official code cleans texts in another way than this model was trained with, and does \
                 not end them with [SEP]: results there differ; measure the model there before you rely on \
                 them"
                    .into(),
            );
        }
        with_token_types(state)
    };
    Ok((state, config, notes))
}

fn write_model(
    folder: &Path,
    model: &Checkpoint,
    config: &ModelConfig,
    tensors: &StateDict,
    options: &ConvertOptions,
    on_bytes: &mut OnBytes<'_>,
) -> Result<()> {
    let card = format!(
        "# ALBEF, {}\n\nConverted from {} by `albef convert`, {} tensors, format `{}`.\n",
        model.task.title(),
        model.source,
        tensors.len(),
        options.format
    );
    let config = serde_json::to_string_pretty(config)
        .map_err(|e| Error::Format { path: folder.join("config.json"), detail: e.to_string() })?;
    for (name, text) in
        [("config.json", &config), ("vocab.txt", &model.vocabulary), ("README.md", &card)]
    {
        write_atomic(&folder.join(name), |f| f.write_all(text.as_bytes()))?;
    }
    if !model.defaults.is_empty() {
        model.defaults.write(folder)?;
    }
    match options.format {
        ModelFormat::Safetensors => {
            let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
            let (dtype, size) = (options.dtype, options.shard_size);
            write_shards(folder, tensors, &metadata, dtype, size, on_bytes)?;
        }
        _ => write_torch(&folder.join(TORCH), tensors, options.dtype, on_bytes)?,
    }
    Ok(())
}

/// Whether what was written is the model that was to be written.
fn expect_same(again: &Checkpoint, model: &Checkpoint, config: &ModelConfig) -> Result<()> {
    again.check()?;
    let same = again.task.model() == model.task.model()
        && again.config == *config
        && again.vocabulary == model.vocabulary
        && again.defaults == model.defaults;
    match same {
        true => Ok(()),
        false => Err(Error::Argument(format!(
            "{} was opened again as another model; this is an error of this program",
            again.source
        ))),
    }
}

/// What a file says less than a folder: it comes without a configuration and word pieces.
fn alone(file: &Path, model: &Checkpoint, config: &ModelConfig) -> Option<String> {
    let hint = "keep a `config.json` and `vocab.txt` of the model beside the file for `albef`, or write a \
                folder, which has them";
    let again = match Checkpoint::open(file) {
        Ok(again) => again,
        Err(error) => {
            return Some(format!(
                "the file alone does not tell all of the model ({error}); {hint}"
            ));
        }
    };
    let (mut own, mut found) = (config.clone(), again.config.clone());
    for config in [&mut own, &mut found] {
        // These are of training alone, or told by the keys.
        (config.task, config.text.dropout) = (None, 0.0);
    }
    let differs = if again.task.model() != model.task.model() {
        format!("it is taken for a model for {}", again.task.title())
    } else if own.text.processing != found.text.processing {
        "texts are processed in another way".to_owned()
    } else if own != found {
        "sizes or labels differ".to_owned()
    } else if again.vocabulary != model.vocabulary {
        "the word pieces differ".to_owned()
    } else {
        return None;
    };
    Some(format!("opened alone by `albef`, the file is another model ({differs}); {hint}"))
}
