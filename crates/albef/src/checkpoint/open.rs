//! What a path holds.

use std::path::{Path, PathBuf};

use albef_data::input::read_text;
use albef_data::text::Vocabulary;
use albef_weights::{StateDict, with_official_names};

use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::task::TaskRef;
use crate::train::checkpoint as run_checkpoint;

/// The word pieces of BERT, uncased.
pub const BERT_VOCABULARY: &str = include_str!("../../assets/vocab.txt");

/// What a path holds, not yet a model.
#[derive(Debug)]
pub struct Checkpoint {
    /// The task whose model it is.
    pub task: TaskRef,
    /// Sizes.
    pub config: ModelConfig,
    /// Whether the sizes were inferred from the shapes of the weights, for a file without a
    /// `config.json`.
    pub config_inferred: bool,
    /// Whether it belongs to a training run, with momentum copies and queues.
    pub of_run: bool,
    /// The word pieces, one per line.
    pub vocabulary: String,
    /// Tensors under official names.
    pub tensors: StateDict,
    /// The folder of the weights file.
    pub folder: PathBuf,
    /// The weights file, as messages name it.
    pub source: String,
}

impl Checkpoint {
    /// Opens a model folder; a weights file, with the `config.json` and `vocab.txt` of its folder; a
    /// run, for the newest of its checkpoints; or one of these checkpoints, which have momentum copies
    /// and queues too.
    ///
    /// For a file of the published width without a `config.json` the sizes are inferred from the shapes
    /// ([`ModelConfig::infer`]), and a word table of BERT's length means BERT's word pieces. The
    /// vocabulary may have fewer word pieces than the model, whose last rows are then unused.
    ///
    /// # Errors
    /// If a file is missing or damaged, sizes are out of range, or `vocab.txt` has more word pieces
    /// than the model.
    pub fn open(path: &Path) -> Result<Self> {
        match run_checkpoint::files(path)? {
            Some(of_run) => Ok(of_run),
            None => Self::model(path),
        }
    }

    /// Tensors, sizes and word pieces at hand.
    pub(crate) fn new(
        tensors: StateDict,
        config: ModelConfig,
        vocabulary: String,
        file: &Path,
    ) -> Self {
        Self {
            task: TaskRef::of_checkpoint(&tensors, Some(&config)),
            config,
            config_inferred: false,
            of_run: false,
            vocabulary,
            tensors,
            folder: file.parent().unwrap_or(Path::new(".")).to_owned(),
            source: format!("`{}`", file.display()),
        }
    }

    fn model(path: &Path) -> Result<Self> {
        refuse_unfinished_run(path)?;
        let alone = !path.is_dir();
        let (folder, file) = if alone {
            (path.parent().unwrap_or(Path::new(".")).to_owned(), path.to_owned())
        } else {
            (path.to_owned(), path.join("model.safetensors"))
        };
        let source = format!("`{}`", file.display());
        let config_path = folder.join("config.json");
        let config_inferred = alone && !config_path.exists();
        let config = if config_inferred { None } else { Some(read_config(&config_path)?) };
        let tensors = with_official_names(albef_weights::read(&file)?.tensors);
        let config = match config {
            Some(config) => config,
            None => published(ModelConfig::infer(&tensors, &source)?, &source)?,
        };
        let vocab_path = folder.join("vocab.txt");
        let of_bert = alone && config.text.vocab_size == BERT_VOCABULARY.lines().count();
        let vocabulary = if of_bert && !vocab_path.exists() {
            BERT_VOCABULARY.to_owned()
        } else {
            Vocabulary::read(&vocab_path)?.1
        };
        check_vocabulary(&vocabulary, vocab_path, &config)?;
        Ok(Self { config_inferred, ..Self::new(tensors, config, vocabulary, &file) })
    }

    /// The tensors of a path for a model of known sizes: a weights file needs no `config.json` then.
    ///
    /// # Errors
    /// If a file is missing or damaged.
    pub(crate) fn tensors_of(path: &Path, config: &ModelConfig) -> Result<Self> {
        if let Some(of_run) = run_checkpoint::files(path)? {
            return Ok(of_run);
        }
        let folder = path.is_dir().then(|| path.join("model.safetensors"));
        let file = folder.as_deref().unwrap_or(path);
        let tensors = with_official_names(albef_weights::read(file)?.tensors);
        Ok(Self::new(tensors, ModelConfig { task: None, ..config.clone() }, String::new(), file))
    }

    /// For images of `image_res` pixels along a side, if given; position tables are interpolated when
    /// the weights are loaded.
    ///
    /// # Errors
    /// If it is not a multiple of the patch size, or out of range.
    pub fn at(mut self, image_res: Option<usize>) -> Result<Self> {
        self.config.vision.image_res = image_res.unwrap_or(self.config.vision.image_res);
        self.config.check()?;
        Ok(self)
    }

    /// Whether it has momentum copies.
    #[must_use]
    pub fn has_momentum(&self) -> bool {
        self.tensors.names().any(|n| n.starts_with("visual_encoder_m."))
    }

    /// Whether it has queues.
    #[must_use]
    pub fn has_queues(&self) -> bool {
        self.tensors.get("image_queue").is_some()
    }
}

/// A run without a checkpoint is not a model yet.
fn refuse_unfinished_run(path: &Path) -> Result<()> {
    if path.ends_with("state.safetensors") {
        let detail = "this file is a part of a checkpoint of a run; hint: name the folder of the \
                      checkpoint, or of the run";
        return Err(Error::Format { path: path.to_owned(), detail: detail.into() });
    }
    let is_run = path.join("checkpoints").is_dir() && !path.join("model.safetensors").exists();
    if !is_run {
        return Ok(());
    }
    Err(Error::Format {
        path: path.to_owned(),
        detail:
            "this is a training run without a checkpoint yet; hint: a finished run has its model \
                 in its folder `model`"
                .into(),
    })
}

fn read_config(path: &Path) -> Result<ModelConfig> {
    let text = read_text(path)?;
    let config: ModelConfig = serde_json::from_str(&text)
        .map_err(|e| Error::Format { path: path.to_owned(), detail: e.to_string() })?;
    config.check()?;
    Ok(config)
}

/// `config.json` and `vocab.txt` of a folder.
///
/// # Errors
/// As [`Checkpoint::open`].
pub(crate) fn read_sizes(folder: &Path) -> Result<(ModelConfig, String)> {
    let config = read_config(&folder.join("config.json"))?;
    let path = folder.join("vocab.txt");
    let (_, vocabulary) = Vocabulary::read(&path)?;
    check_vocabulary(&vocabulary, path, &config)?;
    Ok((config, vocabulary))
}

/// Shapes do not show the number of heads, and another number silently gives other results: only the
/// published width is trusted.
fn published(config: ModelConfig, source: &str) -> Result<ModelConfig> {
    let base = ModelConfig::base();
    if (config.vision.width, config.text.hidden) == (base.vision.width, base.text.hidden) {
        return Ok(config);
    }
    Err(Error::Config(format!(
        "{source} comes without a `config.json` and its encoders are {} and {} wide, not 768 as in the \
         published models, so its number of heads is unknown; put its `config.json` beside it",
        config.vision.width, config.text.hidden
    )))
}

/// A word piece beyond the model's table would be an index out of bounds.
fn check_vocabulary(vocabulary: &str, path: PathBuf, config: &ModelConfig) -> Result<()> {
    let (pieces, rows) = (vocabulary.lines().count(), config.text.vocab_size);
    if pieces > rows {
        let detail = format!(
            "there are {pieces} word pieces, and `vocab_size` in `config.json` is {rows}; hint: take \
             both files from one model"
        );
        return Err(Error::Format { path, detail });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vocabulary_longer_than_the_word_table_is_refused_with_both_numbers() {
        let mut config = ModelConfig::nano();
        config.text.vocab_size = 3;
        let check = |text: &str| check_vocabulary(text, "vocab.txt".into(), &config);
        assert!(check("a\nb\n").is_ok());
        assert!(check("a\nb\nc\n").is_ok());
        let error = check("a\nb\nc\nd\n").unwrap_err().to_string();
        assert!(error.contains("4 word pieces") && error.contains("is 3"), "{error}");
    }
}
