//! A golden set on disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use albef_data::image::Normalization;
use albef_data::input::without_bom;
use albef_data::text::TextProcessing;
use albef_weights::{HostTensor, StateDict, layer_of};
use burn::tensor::{Device, Tensor};
use serde_json::Value;

use crate::checkpoint::{Checkpoint, LoadedModel, Parts};
use crate::config::{ModelConfig, TextConfig, VisionConfig};
use crate::error::{Error, Result};
use crate::objectives::masking::SpecialIds;
use crate::params::{Params, from_vec, to_vec};
use crate::task::TaskRef;

/// A set: its description and where it lies.
#[derive(Debug)]
pub struct GoldenSet {
    root: PathBuf,
    config: Value,
    manifest: Value,
    device: Device,
}

/// Tensors of one file of a fixture.
#[derive(Debug)]
pub struct Tensors {
    path: PathBuf,
    state: StateDict,
}

impl GoldenSet {
    /// Opens the set at `root`.
    ///
    /// # Errors
    /// If `config.json` or `manifest.json` cannot be read, or there is no fixture.
    pub fn open(root: &Path, device: &Device) -> Result<Self> {
        let path = root.join("manifest.json");
        let (config, manifest) = (read_json(&root.join("config.json"))?, read_json(&path)?);
        if manifest["fixtures"].as_array().is_none_or(Vec::is_empty) {
            let detail = "it has no list `fixtures`, or an empty one".into();
            return Err(Error::Format { path, detail });
        }
        Ok(Self { root: root.to_owned(), config, manifest, device: device.clone() })
    }

    /// Where the set lies.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Its word list.
    #[must_use]
    pub fn vocabulary(&self) -> PathBuf {
        self.root.join(self.manifest["vocab"]["tiny"].as_str().unwrap_or("vocab.txt"))
    }

    /// The device on which it is replayed.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The fixtures.
    pub fn fixtures(&self) -> impl Iterator<Item = &Value> {
        self.manifest["fixtures"].as_array().into_iter().flatten()
    }

    /// The files of a fixture whose name ends in `suffix`, for one of the roles.
    ///
    /// # Errors
    /// If there is none.
    pub fn file(&self, fixture: &Value, suffix: &str) -> Result<PathBuf> {
        fixture["files"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|f| f["path"].as_str())
            .find(|p| p.ends_with(suffix))
            .map(|p| self.root.join(p))
            .ok_or_else(|| self.wrong(fixture, &format!("no file `*{suffix}`")))
    }

    /// The tensors of such a file.
    ///
    /// # Errors
    /// If there is none or it cannot be read.
    pub fn tensors(&self, fixture: &Value, suffix: &str) -> Result<Tensors> {
        let path = self.file(fixture, suffix)?;
        Ok(Tensors { state: albef_weights::read(&path)?.tensors, path })
    }

    /// The JSON of such a file.
    ///
    /// # Errors
    /// If there is none or it cannot be read.
    pub fn json(&self, fixture: &Value, suffix: &str) -> Result<Value> {
        read_json(&self.file(fixture, suffix)?)
    }

    /// An error about this fixture.
    #[must_use]
    pub fn wrong(&self, fixture: &Value, detail: &str) -> Error {
        let name = fixture["name"].as_str().unwrap_or("?");
        Error::Format { path: self.root.join("manifest.json"), detail: format!("{name}: {detail}") }
    }

    fn number(&self, path: &str) -> Result<f64> {
        self.config.pointer(path).and_then(Value::as_f64).ok_or_else(|| Error::Format {
            path: self.root.join("config.json"),
            detail: format!("no number at `{path}`"),
        })
    }

    fn size(&self, path: &str) -> Result<usize> {
        Ok(self.number(path)? as usize)
    }

    /// The sizes of the set's model, at another resolution if given.
    ///
    /// # Errors
    /// If a size is missing.
    pub fn model_config(&self, image_res: Option<usize>) -> Result<ModelConfig> {
        let width = self.size("/vision/width")?;
        let config = ModelConfig {
            model_type: "albef".into(),
            vision: VisionConfig {
                width,
                depth: self.size("/vision/depth")?,
                heads: self.size("/vision/heads")?,
                mlp_width: (self.number("/vision/mlp_ratio")? * width as f64) as usize,
                patch: self.size("/vision/patch")?,
                image_res: image_res.map_or_else(|| self.size("/vision/image_res"), Ok)?,
                layer_norm_eps: self.number("/vision/layer_norm_eps")? as f32,
            },
            text: TextConfig {
                hidden: self.size("/text/hidden")?,
                layers: self.size("/text/layers")?,
                heads: self.size("/text/heads")?,
                intermediate: self.size("/text/intermediate")?,
                fusion_layer: self.size("/text/fusion_layer")?,
                vocab_size: self.size("/text/vocab_size")?,
                max_positions: self.size("/text/max_position_embeddings")?,
                type_vocab: self.size("/text/type_vocab_size")?,
                layer_norm_eps: self.number("/text/layer_norm_eps")? as f32,
                dropout: 0.0,
                decoder_layers: self.decoder_layers()?,
                processing: TextProcessing::Official,
                pad_id: self.special()?.pad,
                causal: false,
                paired: false,
            },
            embed_dim: self.size("/embed_dim")?,
            task: None,
            labels: Vec::new(),
            multi_label: false,
        };
        config.check()?;
        Ok(config)
    }

    /// Layers of the answer decoder, where the set has another number of them than of fusion layers.
    fn decoder_layers(&self) -> Result<Option<usize>> {
        let fused = self.size("/text/layers")?.saturating_sub(self.size("/text/fusion_layer")?);
        let own = self.config.pointer("/vqa/decoder_layers").and_then(Value::as_u64);
        Ok(own.map(|n| n as usize).filter(|n| *n != fused))
    }

    /// The sizes that another description in the set's format has.
    ///
    /// # Errors
    /// If a size is missing.
    pub(super) fn sizes_of(config: Value) -> Result<ModelConfig> {
        let device = crate::params::cpu();
        let set = Self { root: PathBuf::new(), config, manifest: Value::Null, device };
        set.model_config(None)
    }

    /// Special ids of the set's vocabulary.
    ///
    /// # Errors
    /// If one is missing.
    pub fn special(&self) -> Result<SpecialIds> {
        let id =
            |name: &str| Ok::<_, Error>(self.size(&format!("/text/special_ids/{name}"))? as u32);
        Ok(SpecialIds { pad: id("pad")?, cls: id("cls")?, mask: id("mask")? })
    }

    /// Mean and deviation of the set's images.
    ///
    /// # Errors
    /// If they are given and are no such thing.
    pub fn normalization(&self) -> Result<Normalization> {
        albef_data::golden::normalization(&self.config)
            .map_err(|detail| Error::Format { path: self.root.join("config.json"), detail })
    }

    /// The masking probability of the set.
    ///
    /// # Errors
    /// If it is missing.
    pub fn mlm_probability(&self) -> Result<f32> {
        Ok(self.number("/mlm_probability")? as f32)
    }

    /// The distillation weight of the set after the first epoch, if it tells one.
    #[must_use]
    pub fn alpha(&self) -> Option<f64> {
        self.number("/alpha").ok()
    }

    /// The momentum of the set.
    ///
    /// # Errors
    /// If it is missing.
    pub fn momentum(&self) -> Result<f64> {
        self.number("/momentum")
    }

    /// The weights of a fixture under the names of its task, with the parts that it replaces.
    fn state_dict(
        &self,
        fixture: &Value,
        task: Option<TaskRef>,
    ) -> Result<(ModelConfig, StateDict)> {
        let weights = &fixture["weights"];
        let file = weights["file"].as_str().ok_or_else(|| self.wrong(fixture, "no weights"))?;
        let mut state = albef_weights::read(&self.root.join(file))?.tensors;
        let res = fixture["params"]["image_res"].as_u64().map(|r| r as usize);
        let config = self.model_config(res)?;
        if let Some(task) = task {
            state = task.converted(state, TaskRef::pretrain(), config.text.fusion_layer);
        }
        if let (Some(extra), Some(rule)) = (weights["extra"].as_str(), weights["rule"].as_str()) {
            let prefix = format!("{rule}.");
            for (name, tensor) in albef_weights::read(&self.root.join(extra))?.tensors.iter() {
                if let Some(name) = name.strip_prefix(&prefix) {
                    state.insert(name.to_owned(), tensor.clone());
                }
            }
        }
        // Keys that the model of the task lacks are ignored.
        let layers = config.text.decoder().layers;
        let beyond = |name: &str| {
            name.starts_with("text_decoder")
                && layer_of(name).is_some_and(|(_, layer, _)| layer >= layers)
        };
        let state = state.into_iter().filter(|(name, _)| !beyond(name)).collect();
        Ok((config, state))
    }

    /// The model that a fixture starts from, by its `weights` entry.
    ///
    /// # Errors
    /// If the weights cannot be read or do not fit.
    pub fn model(&self, fixture: &Value) -> Result<(ModelConfig, LoadedModel)> {
        let (config, state) = self.state_dict(fixture, None)?;
        let task = TaskRef::of_checkpoint(&state, None);
        self.loaded(config, state, task)
    }

    fn loaded(
        &self,
        config: ModelConfig,
        state: StateDict,
        task: TaskRef,
    ) -> Result<(ModelConfig, LoadedModel)> {
        let checkpoint =
            Checkpoint::new(state, config.clone(), String::new(), Path::new("the checkpoint"));
        let mut loaded = LoadedModel::from_tensors(checkpoint, task, &self.device, 0, Parts::All)?;
        loaded.momentum = loaded.momentum_or_copy()?.0;
        Ok((config, loaded))
    }

    /// The model of the fixture's task, by the rule in its `weights` entry.
    ///
    /// # Errors
    /// If the weights cannot be read or do not fit.
    pub fn task_model(&self, fixture: &Value) -> Result<(ModelConfig, LoadedModel)> {
        let rule = fixture["weights"]["rule"].as_str().unwrap_or_default();
        let task = TaskRef::named(rule).map_err(|_| self.wrong(fixture, "unknown load rule"))?;
        let (config, state) = self.state_dict(fixture, Some(task))?;
        self.loaded(config, state, task)
    }
}

impl Tensors {
    fn get(&self, name: &str) -> Result<&HostTensor> {
        self.state.get(name).ok_or_else(|| self.wrong(format!("no tensor `{name}`")))
    }

    /// Whether the file has that tensor.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.state.get(name).is_some()
    }

    /// All names, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.state.iter().map(|(n, _)| n.to_string()).collect();
        names.sort();
        names
    }

    /// The shape of a tensor.
    ///
    /// # Errors
    /// If it is absent.
    pub fn shape(&self, name: &str) -> Result<&[usize]> {
        Ok(&self.get(name)?.shape)
    }

    /// The values of a float tensor.
    ///
    /// # Errors
    /// If it is absent or of another type.
    pub fn floats(&self, name: &str) -> Result<Vec<f32>> {
        Ok(self.get(name)?.to_f32()?)
    }

    /// The values of an integer tensor.
    ///
    /// # Errors
    /// If it is absent or of another type.
    pub fn integers(&self, name: &str) -> Result<Vec<i64>> {
        Ok(self.get(name)?.to_i64()?)
    }

    fn wrong(&self, detail: String) -> Error {
        Error::Format { path: self.path.clone(), detail }
    }

    /// The shape of a tensor of `D` axes.
    ///
    /// # Errors
    /// If it is absent or of another rank.
    pub fn axes<const D: usize>(&self, name: &str) -> Result<[usize; D]> {
        let shape = self.shape(name)?;
        shape
            .try_into()
            .map_err(|_| self.wrong(format!("`{name}` has shape {shape:?}, wanted {D} axes")))
    }

    /// The values of a float tensor of `n` values.
    ///
    /// # Errors
    /// If it is absent or of another type or size.
    pub fn floats_of(&self, name: &str, n: usize) -> Result<Vec<f32>> {
        let found = self.floats(name)?;
        self.check_length(name, found.len(), n)?;
        Ok(found)
    }

    /// The values of an integer tensor as `n` indices below `limit`.
    ///
    /// # Errors
    /// If it is absent, of another type or size, or one of them is out of range.
    pub fn indices(&self, name: &str, n: usize, limit: usize) -> Result<Vec<usize>> {
        let found = self.integers(name)?;
        self.check_length(name, found.len(), n)?;
        let index = |(at, v): (usize, &i64)| {
            let index = usize::try_from(*v).ok().filter(|v| *v < limit);
            index.ok_or_else(|| {
                self.wrong(format!(
                    "`{name}`[{at}] is {v}; it must lie between 0 and {limit}, {limit} not included"
                ))
            })
        };
        found.iter().enumerate().map(index).collect()
    }

    /// The number of values of a tensor.
    ///
    /// # Errors
    /// If it is absent.
    pub fn count(&self, name: &str) -> Result<usize> {
        Ok(self.get(name)?.len())
    }

    fn check_length(&self, name: &str, found: usize, n: usize) -> Result<()> {
        if found == n {
            return Ok(());
        }
        Err(self.wrong(format!("`{name}` has {found} values, wanted {n}")))
    }

    /// A tensor on `device`.
    ///
    /// # Errors
    /// If it is absent or of another rank.
    pub fn on<const D: usize>(&self, name: &str, device: &Device) -> Result<Tensor<D>> {
        Ok(from_vec(self.get(name)?.to_f32()?, self.axes(name)?, device))
    }
}

/// The values of a parameter.
pub(super) fn parameter(params: &Params, name: &str) -> Option<Vec<f32>> {
    params.get(name).map(|p| to_vec(p.value.clone()))
}

/// Reads a JSON file.
pub(super) fn read_json(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    serde_json::from_str(without_bom(&text))
        .map_err(|e| Error::Format { path: path.to_owned(), detail: e.to_string() })
}

/// `[sum, l2 norm]` of a parameter in double precision.
pub(super) fn checksum(values: &[f32]) -> [f64; 2] {
    let wide = || values.iter().map(|v| f64::from(*v));
    [wide().sum(), wide().map(|v| v * v).sum::<f64>().sqrt()]
}

/// Name to `[sum, l2 norm]`, where an entry is that.
pub(super) fn checksums(json: &Value) -> BTreeMap<String, [f64; 2]> {
    json.as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, pair)| Some((name.clone(), [pair[0].as_f64()?, pair[1].as_f64()?])))
        .collect()
}
