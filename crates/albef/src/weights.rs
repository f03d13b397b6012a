//! Model weights between files and devices.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use albef_data::text::Vocabulary;
use albef_kernels::largest;
pub use albef_weights::momentum_name;
use albef_weights::{
    HostTensor, KeepAs, Sizes, StateDict, Task, account, expected_keys, queue_tensors,
    resize_tables, with_official_names, write_atomic, write_safetensors,
};
use burn::tensor::Device;

use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::model::Albef;
pub use crate::objectives::momentum::{copy_for_momentum, momentum_encoders};
use crate::objectives::queue::{NO_ID, Queues};
use crate::ops::Ops;
use crate::params::{Params, to_vec};

/// Trained weights, with momentum copies and queues where a file has them.
#[derive(Clone, Debug)]
pub struct ModelState {
    /// The trained weights.
    pub online: Params,
    /// Their moving averages, under names with `_m`.
    pub momentum: Option<Params>,
    /// The queues of momentum features.
    pub queues: Option<Queues>,
    /// Where position tables were resized: the patches along the side of an image in the file, and
    /// in the configuration.
    pub interpolated: Option<(usize, usize)>,
}

/// The word pieces of BERT, uncased.
pub const BERT_VOCABULARY: &str = include_str!("../assets/vocab.txt");

/// That position tables were resized, in words. `grids`: patches along the side of an image, in the
/// file and in the configuration.
#[must_use]
pub fn interpolation_line((from, to): (usize, usize)) -> String {
    format!("position tables interpolated from {from} x {from} to {to} x {to} patches")
}

/// Sizes under which the key lists are made.
#[must_use]
pub fn sizes(config: &ModelConfig) -> Sizes {
    let (v, t) = (&config.vision, &config.text);
    Sizes {
        vision_width: v.width,
        vision_depth: v.depth,
        vision_mlp: v.mlp_width,
        patch: v.patch,
        tokens: v.tokens(),
        hidden: t.hidden,
        layers: t.layers,
        intermediate: t.intermediate,
        fusion_layer: t.fusion_layer,
        vocab_size: t.vocab_size,
        max_positions: t.max_positions,
        type_vocab: t.type_vocab,
        embed_dim: config.embed_dim,
        decoder_layers: t.layers - t.fusion_layer,
        pair_layers: 2 * t.layers - t.fusion_layer,
    }
}

impl ModelState {
    /// Takes the weights of `config` out of a state dictionary, position tables resized to the
    /// configured resolution. The `bert.` level and the vocabulary head may be absent (a retrieval
    /// checkpoint), and so may momentum copies and queues.
    ///
    /// # Errors
    /// If a key is missing, unexpected or of another shape, or the queues are incomplete.
    pub fn from_state_dict(
        state: &StateDict,
        config: &ModelConfig,
        device: &Device,
    ) -> Result<Self> {
        Self::read(state, config, device, "the checkpoint", true)
    }

    pub(crate) fn read(
        state: &StateDict,
        config: &ModelConfig,
        device: &Device,
        source: &str,
        lenient: bool,
    ) -> Result<Self> {
        let described = albef_weights::inspect(state);
        let task = if described.bert_level { Task::Pretrain } else { Task::Retrieval };
        let keys = expected_keys(task, &sizes(config));
        let (state, interpolated) = resized(state, config)?;
        let mut expected = keys.clone();
        if described.momentum {
            for (name, shape) in &keys {
                expected.extend(momentum_name(name).map(|n| (n, shape.clone())));
            }
        }
        let mut may_have = vec![
            "image_queue",
            "text_queue",
            "idx_queue",
            "queue_ptr",
            "text_encoder.cls.predictions.decoder.weight",
            "text_encoder.cls.predictions.decoder.bias",
            "text_encoder_m.cls.predictions.decoder.weight",
            "text_encoder_m.cls.predictions.decoder.bias",
        ];
        if lenient {
            may_have.extend(["text_encoder.cls.*", "text_encoder_m.cls.*"]);
        }
        account(
            source,
            &state,
            &expected,
            &["text_encoder.cls.*", "text_encoder_m.cls.*"],
            &may_have,
        )?;

        let mut online = Params::new(device);
        let mut momentum = Params::new(device);
        for (name, shape) in &keys {
            if let Some(tensor) = state.get(name) {
                online.insert(name, shape, finite(name, tensor, source)?)?;
            }
            if let Some(name) = momentum_name(name)
                && let Some(tensor) = state.get(&name)
            {
                momentum.insert(&name, shape, finite(&name, tensor, source)?)?;
            }
        }
        let momentum = described.momentum.then_some(momentum);
        let queues = queues(&state, config, device)?;
        Ok(Self { online, momentum, queues, interpolated })
    }

    /// The momentum copies as a file has them, or fresh ones of the trained weights.
    ///
    /// # Errors
    /// Never for weights that were read by this module.
    pub fn momentum_or_copy(&self) -> Result<Params> {
        match &self.momentum {
            Some(momentum) => Ok(momentum.clone()),
            None => copy_for_momentum(&self.online),
        }
    }

    /// The model on untracked weights.
    ///
    /// # Errors
    /// If a weight is absent.
    pub fn model(&self, config: &ModelConfig) -> Result<Albef> {
        let ops = Ops::for_device(self.online.device());
        Albef::new(config, &self.online.frozen(ops))
    }
}

/// The values of a weight, which must be finite; `source`: the file, as messages name it.
pub(crate) fn finite(name: &str, tensor: &HostTensor, source: &str) -> Result<Vec<f32>> {
    let values = tensor.to_f32()?;
    if largest(&values).is_finite() {
        return Ok(values);
    }
    Err(Error::WeightNotFinite { place: source.to_owned(), key: name.to_owned(), hint: OTHER_FILE })
}

/// What to do about a file that is of no use.
const OTHER_FILE: &str = "hint: this model is of no use; take an earlier one, and a smaller learning \
                          rate if it was trained here";

/// Position tables at the configured resolution, and the patches along a side before and after where
/// these differ. A table of another width than the model's is left as it is, for the accounting of
/// shapes to name.
///
/// # Errors
/// If a table is not of a square grid.
pub(crate) fn resized(
    state: &StateDict,
    config: &ModelConfig,
) -> Result<(StateDict, Option<(usize, usize)>)> {
    let mut state = state.clone();
    let tables = ["visual_encoder.pos_embed", "visual_encoder_m.pos_embed"];
    let width = Some(&config.vision.width);
    if tables.iter().filter_map(|n| state.get(n)).any(|t| t.shape.last() != width) {
        return Ok((state, None));
    }
    let grid = config.vision.grid();
    let former = resize_tables(&mut state, grid)?;
    let interpolated = former.first().map(|(_, from)| (*from, grid));
    Ok((state, interpolated))
}

/// The queues of a checkpoint; `None` if it has none. Entries without image ids get [`NO_ID`].
///
/// # Errors
/// If a queue is missing beside others, or one is of another shape than the configuration's.
pub(crate) fn queues(
    state: &StateDict,
    config: &ModelConfig,
    device: &Device,
) -> Result<Option<Queues>> {
    let width = config.embed_dim;
    let Some(found) = queue_tensors(state, width)? else { return Ok(None) };
    let ids = found.ids.unwrap_or_else(|| vec![NO_ID; found.size]);
    let image = transposed(&found.image, width, found.size);
    let text = transposed(&found.text, width, found.size);
    Ok(Some(Queues::new(image, text, ids, found.ptr, width, device)))
}

/// `[rows, columns]` to `[columns, rows]`.
#[must_use]
pub fn transposed(data: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut out = vec![0.0; data.len()];
    for r in 0..rows {
        for c in 0..columns {
            out[c * rows + r] = data[r * columns + c];
        }
    }
    out
}

/// A model as people pass it on: a folder with `config.json`, `model.safetensors`, `vocab.txt`
/// and a model card.
#[derive(Debug)]
pub struct ModelFolder {
    /// Sizes.
    pub config: ModelConfig,
    /// Weights.
    pub state: ModelState,
    /// The word pieces, one per line.
    pub vocabulary: String,
    /// Where it was read.
    pub path: PathBuf,
}

impl ModelFolder {
    /// Reads a model folder, or a weights file with its folder's `config.json` and `vocab.txt`
    /// beside it.
    ///
    /// # Errors
    /// If a file is missing or damaged, or the weights do not fit the configuration.
    pub fn open(path: &Path, device: &Device) -> Result<Self> {
        Self::open_at(path, None, device)
    }

    /// The same with position tables for another resolution ([`ModelFiles::at`]).
    ///
    /// # Errors
    /// As [`ModelFolder::open`], or if the resolution does not fit the model.
    pub fn open_at(path: &Path, image_res: Option<usize>, device: &Device) -> Result<Self> {
        let files = ModelFiles::open(path)?.at(image_res)?;
        let ModelFiles { config, vocabulary, tensors, folder, source } = files;
        let state = ModelState::read(&tensors, &config, device, &source, false)?;
        Ok(Self { config, state, vocabulary, path: folder })
    }
}

/// The contents of a model folder, not yet a model.
#[derive(Debug)]
pub struct ModelFiles {
    /// Sizes.
    pub config: ModelConfig,
    /// The word pieces, one per line.
    pub vocabulary: String,
    /// Weights as the file has them.
    pub tensors: StateDict,
    /// The folder.
    pub folder: PathBuf,
    /// The weights file, as messages name it.
    pub source: String,
}

impl ModelFiles {
    /// Reads a model folder, or a weights file with `config.json` and `vocab.txt` beside it. For a
    /// file of the published width that comes alone sizes are told by its shapes
    /// ([`ModelConfig::infer`]), and a word table of BERT's length means BERT's word pieces. The vocabulary may have fewer word pieces than the
    /// model, whose last rows then mean nothing.
    ///
    /// # Errors
    /// If a file is missing or damaged, sizes are out of range, or `vocab.txt` has more word pieces
    /// than the model.
    pub fn open(path: &Path) -> Result<Self> {
        refuse_run(path)?;
        let (folder, file) = if path.is_dir() {
            (path.to_owned(), path.join("model.safetensors"))
        } else {
            (path.parent().unwrap_or(Path::new(".")).to_owned(), path.to_owned())
        };
        let source = format!("`{}`", file.display());
        let alone = !path.is_dir();
        let config_path = folder.join("config.json");
        let (config, tensors) = if alone && !config_path.exists() {
            let tensors = with_official_names(albef_weights::read(&file)?.tensors);
            let config = ModelConfig::infer(&tensors, &source)?;
            published(&config, &source)?;
            (config, tensors)
        } else {
            let config = read_config(&config_path)?;
            (config, with_official_names(albef_weights::read(&file)?.tensors))
        };
        let vocab_path = folder.join("vocab.txt");
        let of_bert = alone && config.text.vocab_size == BERT_VOCABULARY.lines().count();
        let vocabulary = if of_bert && !vocab_path.exists() {
            BERT_VOCABULARY.to_owned()
        } else {
            Vocabulary::read(&vocab_path)?.1
        };
        check_vocabulary(&vocabulary, vocab_path, &config)?;
        Ok(Self { config, vocabulary, tensors, folder, source })
    }

    /// For pictures of `image_res` pixels along a side, if given; position tables are resized when the
    /// weights are taken.
    ///
    /// # Errors
    /// If it is no multiple of the patch size, or out of range.
    pub fn at(mut self, image_res: Option<usize>) -> Result<Self> {
        self.config.vision.image_res = image_res.unwrap_or(self.config.vision.image_res);
        self.config.check()?;
        Ok(self)
    }
}

/// A run and its checkpoints hold more than a model, under other names.
fn refuse_run(path: &Path) -> Result<()> {
    let checkpoint = if path.ends_with("state.safetensors") { path.parent() } else { Some(path) };
    let checkpoint = checkpoint.filter(|folder| folder.join("state.safetensors").is_file());
    let run = match checkpoint {
        Some(folder) => folder.ancestors().nth(2).unwrap_or(folder),
        None if path.join("model.safetensors").exists() => return Ok(()),
        None if path.join("checkpoints").is_dir() => path,
        None => return Ok(()),
    };
    Err(Error::Format {
        path: path.to_owned(),
        detail: format!(
            "this belongs to a training run and is not a model; hint: a finished run leaves its model in \
             `{}`",
            run.join("model").display()
        ),
    })
}

fn read_config(path: &Path) -> Result<ModelConfig> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    let config: ModelConfig = serde_json::from_str(&text)
        .map_err(|e| Error::Format { path: path.to_owned(), detail: e.to_string() })?;
    config.check()?;
    Ok(config)
}

/// `config.json` and `vocab.txt` of a folder.
///
/// # Errors
/// As [`ModelFiles::open`].
pub(crate) fn read_sizes(folder: &Path) -> Result<(ModelConfig, String)> {
    let config = read_config(&folder.join("config.json"))?;
    let path = folder.join("vocab.txt");
    let (_, vocabulary) = Vocabulary::read(&path)?;
    check_vocabulary(&vocabulary, path, &config)?;
    Ok((config, vocabulary))
}

/// Shapes do not tell the number of heads, and another number gives other results in silence: only
/// the published width is taken on trust.
fn published(config: &ModelConfig, source: &str) -> Result<()> {
    let base = ModelConfig::base();
    if (config.vision.width, config.text.hidden) == (base.vision.width, base.text.hidden) {
        return Ok(());
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

/// Writes a model folder; each file whole or not at all.
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
    use std::io::Write;
    params.check_finite(folder, "nothing was written")?;
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    write_safetensors(&folder.join("model.safetensors"), &state_dict(params), &metadata, keep_as)?;
    let config = serde_json::to_string_pretty(config)
        .map_err(|e| Error::Format { path: folder.join("config.json"), detail: e.to_string() })?;
    for (name, text) in
        [("config.json", config.as_str()), ("vocab.txt", vocabulary), ("README.md", card)]
    {
        write_atomic(&folder.join(name), |f| f.write_all(text.as_bytes()))?;
    }
    Ok(())
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

    #[test]
    fn a_table_of_another_grid_is_resized_and_said_to_be() {
        let config = ModelConfig::nano();
        let (width, grid) = (config.vision.width, config.vision.grid());
        let name = "visual_encoder.pos_embed";
        let state = |grid: usize, width: usize| {
            let shape = [1, grid * grid + 1, width];
            let values = vec![0.5; shape.iter().product()];
            StateDict::from_iter([(name.to_owned(), HostTensor::from_f32(&shape, &values))])
        };
        let (same, told) = resized(&state(grid, width), &config).unwrap();
        assert_eq!((same, told), (state(grid, width), None));
        let (other, told) = resized(&state(4, width), &config).unwrap();
        assert_eq!(told, Some((4, grid)));
        assert_eq!(other.get(name).unwrap().shape, [1, grid * grid + 1, width]);
        let narrow = state(4, width - 1);
        assert_eq!(resized(&narrow, &config).unwrap(), (narrow, None));
    }
}
