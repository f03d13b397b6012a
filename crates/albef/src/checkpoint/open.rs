//! What a path holds.

use std::path::{Path, PathBuf};

use albef_data::input::read_text;
use albef_data::text::{TextProcessing, Vocabulary};
use albef_weights::{StateDict, read_model, weights_file};

use super::sizes::{check_vocabulary, own_config};
use crate::config::ModelConfig;
use crate::defaults::ModelDefaults;
use crate::error::{Error, Result};
use crate::model_path::find_model;
use crate::task::TaskRef;
use crate::train::checkpoint::{self as run_checkpoint, RunFiles};

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
    /// What the model does where nothing else is asked for; none for a checkpoint of a run.
    pub defaults: ModelDefaults,
    /// Tensors under official names.
    pub tensors: StateDict,
    /// The folder of the weights file.
    pub folder: PathBuf,
    /// The weights file, as messages name it.
    pub source: String,
    /// What is not as in a plain checkpoint, line by line.
    pub notes: Vec<String>,
}

impl Checkpoint {
    /// Opens a model folder; a weights file, or the index of several, with the `config.json`, `vocab.txt` and
    /// `defaults.json` of its folder; a run, for the newest of its checkpoints; or one of these checkpoints,
    /// which have momentum copies and queues too.
    ///
    /// For weights of the published width without a `config.json` of ALBEF the sizes are inferred from the
    /// shapes ([`ModelConfig::infer`]), a word table of BERT's length means BERT's word pieces, and a
    /// `vocab.txt` has to have as many word pieces as the word table has rows. With a `config.json` it may
    /// have fewer, and the last rows are then unused.
    ///
    /// The name of a model that was fetched stands for its path ([`find_model`]).
    ///
    /// # Errors
    /// If a file is missing or damaged, sizes are out of range, or `vocab.txt` has another number of
    /// word pieces than it may have.
    pub fn open(path: &Path) -> Result<Self> {
        let path = find_model(path)?;
        match run_checkpoint::files(&path)? {
            Some(of_run) => Ok(Self::of_run(of_run)),
            None => Self::model(&path),
        }
    }

    /// The folder that the defaults of a model are written to: that of its weights.
    ///
    /// # Errors
    /// If no model is there, it is a run or one of its checkpoints, whose weights change, or a pulled one, whose
    /// folder other programs share.
    pub fn folder_of_defaults(model: &Path) -> Result<PathBuf> {
        let shown = model.display();
        if find_model(model)? != model {
            return Err(Error::Argument(format!(
                "{shown} is a pulled checkpoint, whose folder other programs share; write it as a folder of its own with \
                 `albef convert {shown} --to safetensors --output FOLDER` first"
            )));
        }
        let found = Self::open(model)?;
        if found.of_run {
            return Err(Error::Argument(format!(
                "{shown} is a run or a checkpoint of one, whose weights are not final; name its folder `model` or `best`"
            )));
        }
        Ok(found.folder)
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
            defaults: ModelDefaults::default(),
            tensors,
            folder: file.parent().unwrap_or(Path::new(".")).to_owned(),
            source: format!("`{}`", file.display()),
            notes: Vec::new(),
        }
    }

    fn of_run(files: RunFiles) -> Self {
        let RunFiles { tensors, config, vocabulary, file } = files;
        Self { of_run: true, ..Self::new(tensors, config, vocabulary, &file) }
    }

    fn model(path: &Path) -> Result<Self> {
        refuse_unfinished_run(path)?;
        let file = if path.is_dir() { weights_file(path)? } else { path.to_owned() };
        let folder = file.parent().unwrap_or(Path::new("."));
        let source = format!("`{}`", file.display());
        let (own, foreign) = own_config(&folder.join("config.json"))?;
        let found = read_model(&file)?;
        let mut notes = found.notes;
        let is_foreign = foreign.is_some();
        notes.extend(foreign);
        let inferred = own.is_none();
        let config = match own {
            Some(config) => config,
            None => ModelConfig::infer(&found.tensors, &source)
                .and_then(|config| published(config, &source))
                .map_err(|error| with_note(error, notes.last().filter(|_| is_foreign)))?,
        };
        if inferred && config.text.processing == TextProcessing::Lavis {
            notes.push(
                "there is no table of token types, as in models of LAVIS: texts are processed as by LAVIS"
                    .into(),
            );
        }
        let vocab_path = folder.join("vocab.txt");
        let of_bert = config.text.vocab_size == BERT_VOCABULARY.lines().count();
        let vocabulary = if inferred && of_bert && !vocab_path.exists() {
            BERT_VOCABULARY.to_owned()
        } else {
            read_text(&vocab_path)?;
            Vocabulary::read(&vocab_path)?.1
        };
        check_vocabulary(&vocabulary, &vocab_path, &config, inferred)?;
        if inferred && vocabulary != BERT_VOCABULARY {
            notes.push(format!("the word pieces are those of {}", vocab_path.display()));
        }
        let defaults = ModelDefaults::of_folder(folder)?;
        defaults.check_sizes(&config, folder)?;
        let new = Self::new(found.tensors, config, vocabulary, &file);
        Ok(Self { config_inferred: inferred, notes, defaults, ..new })
    }

    /// What a model of `sizes` may start from. Sizes and word pieces are those that the files of the path tell; a weights
    /// file that tells no sizes is taken to be of `sizes`, and word pieces that are not known are empty.
    ///
    /// # Errors
    /// If a file is missing or damaged.
    pub(crate) fn start_for(path: &Path, sizes: &ModelConfig) -> Result<Self> {
        let path = find_model(path)?;
        if let Some(of_run) = run_checkpoint::files(&path)? {
            return Ok(Self::of_run(of_run));
        }
        let file = if path.is_dir() { weights_file(&path)? } else { path };
        let folder = file.parent().unwrap_or(Path::new("."));
        let source = format!("`{}`", file.display());
        let (own, foreign) = own_config(&folder.join("config.json"))?;
        let found = read_model(&file)?;
        let inferred = || ModelConfig::infer(&found.tensors, &source);
        let known = own.or_else(|| inferred().and_then(|config| published(config, &source)).ok());
        let config = known.clone().unwrap_or_else(|| ModelConfig { task: None, ..sizes.clone() });
        let list = folder.join("vocab.txt");
        let vocabulary = match known {
            _ if list.exists() => {
                let vocabulary = Vocabulary::read(&list)?.1;
                check_vocabulary(&vocabulary, &list, &config, false)?;
                vocabulary
            }
            Some(known) if known.text.vocab_size == BERT_VOCABULARY.lines().count() => {
                BERT_VOCABULARY.to_owned()
            }
            _ => String::new(),
        };
        let mut notes = found.notes;
        notes.extend(foreign);
        let new = Self::new(found.tensors, config, vocabulary, &file);
        Ok(Self { notes, ..new })
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
    let is_run = path.join("checkpoints").is_dir() && weights_file(path).is_err();
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

/// The error with what was found instead of a `config.json` of ALBEF.
fn with_note(error: Error, note: Option<&String>) -> Error {
    match (error, note) {
        (Error::Config(detail), Some(note)) => Error::Config(format!("{detail} ({note})")),
        (error, _) => error,
    }
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
