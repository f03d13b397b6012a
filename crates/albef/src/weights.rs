//! Model weights between files and devices.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use albef_weights::{
    HostTensor, KeepAs, Sizes, StateDict, Task, account, expected_keys, interpolate_pos_embed,
    write_atomic, write_safetensors,
};
use burn::tensor::Device;

use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::model::{Albef, Copy, Encoders};
use crate::objectives::queue::{NO_ID, Queues};
use crate::ops::{Ops, Precision};
use crate::params::{Params, values};

/// Trained weights, with momentum copies and queues where a file has them.
#[derive(Clone, Debug)]
pub struct ModelState {
    /// The trained weights.
    pub online: Params,
    /// Their moving averages, under names with `_m`.
    pub momentum: Option<Params>,
    /// The queues of momentum features.
    pub queues: Option<Queues>,
}

/// The parts that have a momentum copy, by the first component of their names.
const AVERAGED: [&str; 6] =
    ["visual_encoder", "text_encoder", "text_decoder", "cls_head", "vision_proj", "text_proj"];

/// The name of the momentum copy of a weight, if it has one.
#[must_use]
pub fn momentum_name(name: &str) -> Option<String> {
    let (root, rest) = name.split_once('.')?;
    AVERAGED.contains(&root).then(|| format!("{root}_m.{rest}"))
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
    /// If a key is missing, unexpected or of another shape.
    pub fn from_state_dict(
        state: &StateDict,
        config: &ModelConfig,
        device: &Device,
    ) -> Result<Self> {
        Self::read(state, config, device, "the checkpoint", true)
    }

    fn read(
        state: &StateDict,
        config: &ModelConfig,
        device: &Device,
        source: &str,
        lenient: bool,
    ) -> Result<Self> {
        let described = albef_weights::inspect(state);
        let task = if described.bert_level { Task::Pretrain } else { Task::Retrieval };
        let keys = expected_keys(task, &sizes(config));
        let state = resized(state, config)?;
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
                online.insert(name, shape, tensor.to_f32()?)?;
            }
            if let Some(name) = momentum_name(name)
                && let Some(tensor) = state.get(&name)
            {
                momentum.insert(&name, shape, tensor.to_f32()?)?;
            }
        }
        let momentum = described.momentum.then_some(momentum);
        Ok(Self { online, momentum, queues: queues(&state, config, device)? })
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
        Albef::new(config, &self.online.untracked(ops))
    }
}

/// Momentum copies equal to the trained weights.
///
/// # Errors
/// Never for consistent parameters.
pub fn copy_for_momentum(online: &Params) -> Result<Params> {
    let mut momentum = Params::new(online.device());
    for p in online.entries() {
        if let Some(name) = momentum_name(&p.name) {
            momentum.insert(&name, &p.shape, values(p.value.clone()))?;
        }
    }
    Ok(momentum)
}

/// The momentum model on its averaged weights.
///
/// # Errors
/// If a weight is absent.
pub fn momentum_encoders(
    momentum: &Params,
    config: &ModelConfig,
    precision: Precision,
) -> Result<Encoders> {
    let ops = Ops::for_device(momentum.device()).with_precision(precision);
    Encoders::new(config, &momentum.untracked(ops), Copy::Momentum)
}

/// Position tables at the configured resolution.
pub(crate) fn resized(state: &StateDict, config: &ModelConfig) -> Result<StateDict> {
    let mut state = state.clone();
    for name in ["visual_encoder.pos_embed", "visual_encoder_m.pos_embed"] {
        let Some(table) = state.get(name) else { continue };
        let tokens = table.shape.get(1).copied().unwrap_or(0);
        let width = table.shape.last().copied().unwrap_or(0);
        let (from, to) = (tokens.saturating_sub(1).isqrt(), config.vision.grid());
        if from != to && from * from + 1 == tokens {
            let values = interpolate_pos_embed(&table.to_f32()?, width, from, to);
            let tensor = HostTensor::from_f32(&[1, to * to + 1, width], &values);
            state.insert(name.to_owned(), tensor);
        }
    }
    Ok(state)
}

pub(crate) fn queues(
    state: &StateDict,
    config: &ModelConfig,
    device: &Device,
) -> Result<Option<Queues>> {
    let (Some(image), Some(text)) = (state.get("image_queue"), state.get("text_queue")) else {
        return Ok(None);
    };
    let width = config.embed_dim;
    let [rows, size] = image.shape[..] else { return Ok(None) };
    if rows != width || text.shape != image.shape {
        return Err(Error::WeightShape {
            key: "image_queue".into(),
            expected: vec![width, size],
            found: image.shape.clone(),
        });
    }
    let ids = match state.get("idx_queue") {
        Some(ids) if ids.len() == size => ids.to_i64()?,
        _ => vec![NO_ID; size],
    };
    let ptr = match state.get("queue_ptr") {
        Some(ptr) => ptr.to_i64()?.first().copied().unwrap_or(0),
        None => 0,
    };
    let image = transposed(&image.to_f32()?, width, size);
    let text = transposed(&text.to_f32()?, width, size);
    let ptr = usize::try_from(ptr).unwrap_or(0);
    Ok(Some(Queues::new(image, text, ids, ptr, width, device)))
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
        let ModelFiles { config, vocabulary, tensors, folder, source } = ModelFiles::open(path)?;
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
    /// Reads a model folder, or a weights file with `config.json` and `vocab.txt` beside it.
    ///
    /// # Errors
    /// If a file is missing or damaged.
    pub fn open(path: &Path) -> Result<Self> {
        let (folder, file) = if path.is_dir() {
            (path.to_owned(), path.join("model.safetensors"))
        } else {
            (path.parent().unwrap_or(Path::new(".")).to_owned(), path.to_owned())
        };
        let config_path = folder.join("config.json");
        let text = std::fs::read_to_string(&config_path).map_err(Error::io(&config_path))?;
        let config: ModelConfig = serde_json::from_str(&text)
            .map_err(|e| Error::Format { path: config_path, detail: e.to_string() })?;
        config.check()?;
        let vocab_path = folder.join("vocab.txt");
        let vocabulary = std::fs::read_to_string(&vocab_path).map_err(Error::io(&vocab_path))?;
        let tensors = albef_weights::read(&file)?.tensors;
        let source = format!("`{}`", file.display());
        Ok(Self { config, vocabulary, tensors, folder, source })
    }
}

/// Writes a model folder; each file whole or not at all.
///
/// # Errors
/// If a file cannot be written.
pub fn save_model_folder(
    folder: &Path,
    config: &ModelConfig,
    params: &Params,
    vocabulary: &str,
    card: &str,
    keep_as: KeepAs,
) -> Result<()> {
    use std::io::Write;
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
        .map(|p| (p.name.clone(), HostTensor::from_f32(&p.shape, &values(p.value.clone()))))
        .collect()
}
