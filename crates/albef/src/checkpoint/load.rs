//! From a checkpoint to the weights of a task's model.

use std::path::PathBuf;

use albef_data::image::ImageReader;
use albef_hub::{PUBLISHED, Published};
use albef_kernels::largest;
use albef_weights::{
    HostTensor, KeyReport, Placement, Schema, StateDict, momentum_name, plan, queue_tensors,
    resize_tables,
};
use burn::tensor::Device;

use super::Checkpoint;
use crate::config::ModelConfig;
use crate::defaults::ModelDefaults;
use crate::error::{Error, Result};
use crate::init::fresh_params;
use crate::model::{Albef, Weights};
use crate::objectives::momentum::copy_for_momentum;
use crate::objectives::queue::{NO_ID, Queues};
use crate::ops::{Ops, Precision};
use crate::params::{Params, to_vec, transposed};
use crate::task::TaskRef;

/// How much of a checkpoint is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parts {
    /// The trained weights, all that inference needs.
    Inference,
    /// Momentum copies and queues as well.
    All,
}

/// The weights of a task's model.
#[derive(Clone, Debug)]
pub struct LoadedModel {
    /// The task.
    pub task: TaskRef,
    /// Sizes.
    pub config: ModelConfig,
    /// The word pieces, one per line.
    pub vocabulary: String,
    /// Trained weights.
    pub online: Params,
    /// The momentum copies that the checkpoint has, under names with `_m`.
    pub momentum: Params,
    /// Queues, where the checkpoint has some and the task uses them.
    pub queues: Option<Queues>,
    /// What became of the keys.
    pub report: KeyReport,
    /// Whether it has the contrastive side: projections and temperature. Without it zeros are in their
    /// places.
    pub has_contrast: bool,
    /// Whether the sizes were inferred from the shapes.
    pub config_inferred: bool,
    /// The folder of the weights file.
    pub folder: PathBuf,
    /// What the model does where nothing else is asked for.
    pub defaults: ModelDefaults,
    /// How the model reads images: by the defaults, unless it is told otherwise.
    pub reader: ImageReader,
    /// What the factors of products are rounded to where the model is used.
    pub precision: Precision,
}

impl Checkpoint {
    /// The model of one of the tasks in `accepted`, which the checkpoint must be of.
    ///
    /// # Errors
    /// [`Error::WrongTask`] if it is of another task; if a weight is missing, not finite or of another
    /// shape, or a key is unexpected.
    pub fn load(self, accepted: &[TaskRef], device: &Device, parts: Parts) -> Result<LoadedModel> {
        let of = |wanted: &&TaskRef| wanted.model() == self.task.model();
        let Some(task) = accepted.iter().find(of).copied() else {
            let wanted: Vec<&str> = accepted.iter().map(|t| t.title()).collect();
            return Err(Error::WrongTask {
                source_file: self.source,
                found: self.task.title(),
                wanted: wanted.join(" or "),
                hint: format!(
                    "this one is for {}; make the other with `albef {}`{}",
                    self.task.used_by(),
                    making(accepted),
                    published(accepted)
                ),
            });
        };
        LoadedModel::from_tensors(self, task, device, 0, parts)
    }

    /// Whether it is a whole model of its task, by names, shapes and types; values are not looked at.
    /// Gives what became of the keys.
    ///
    /// # Errors
    /// As [`Checkpoint::load`], for its own task.
    pub fn check(&self) -> Result<KeyReport> {
        let (mut state, resized) =
            resized(self.tensors.clone(), &self.config).map_err(of_file(&self.source))?;
        let schema = self.task.schema(&self.config);
        fill_contrast(&mut state, &schema);
        let mut report = plan(&self.source, &state, &schema)?.report;
        if schema.queues {
            queue_tensors(&state, self.config.embed_dim)?;
        }
        report.resized = resized;
        report.notes.splice(0..0, self.notes.iter().cloned());
        Ok(report)
    }

    /// Whether all its floats are finite.
    ///
    /// # Errors
    /// [`Error::WeightNotFinite`] for the first that is not.
    pub(crate) fn check_finite(&self) -> Result<()> {
        match self.tensors.iter().find(|(_, tensor)| !tensor.is_finite()) {
            Some((name, _)) => Err(not_finite(name, &self.source)),
            None => Ok(()),
        }
    }

    /// The model of `task`, converted from a checkpoint that it can start from. `seed` draws a head that
    /// no checkpoint of another task has.
    ///
    /// # Errors
    /// [`Error::WrongTask`] if the task cannot start from it; otherwise as [`Checkpoint::load`].
    pub fn start(mut self, task: TaskRef, device: &Device, seed: u64) -> Result<LoadedModel> {
        if !task.can_start_from(self.task) {
            let possible: Vec<&str> = task
                .starts_from()
                .iter()
                .filter_map(|name| TaskRef::named(name).ok())
                .map(|t| t.title())
                .collect();
            let others = match possible[..] {
                [] => String::new(),
                _ => format!(" or from one of {}", possible.join(", ")),
            };
            return Err(Error::WrongTask {
                source_file: self.source,
                found: self.task.title(),
                wanted: task.title().to_owned(),
                hint: format!("start from a checkpoint of the same task{others}"),
            });
        }
        let fusion_layer = self.config.text.fusion_layer;
        let mut tensors = std::mem::take(&mut self.tensors);
        if self.of_run {
            // Image ids of other data mean nothing here: such entries are negatives of all (quirk Q11).
            tensors = tensors.into_iter().filter(|(name, _)| name != "idx_queue").collect();
        }
        let before: Vec<String> = tensors.names().map(str::to_owned).collect();
        self.tensors = task.converted(tensors, self.task, fusion_layer);
        let renamed = before.iter().filter(|n| self.tensors.get(n).is_none()).count();
        let fresh = match task.model() == self.task.model() {
            true => Vec::new(),
            false => task.unfit(&self.config),
        };
        let unfit = |name: &str| {
            fresh.iter().any(|f| f == name || momentum_name(f).is_some_and(|copy| copy == name))
        };
        self.tensors = self.tensors.into_iter().filter(|(name, _)| !unfit(name)).collect();
        let mut loaded = LoadedModel::new(self, task, device, seed, Parts::All, fresh)?;
        loaded.report.renamed = renamed;
        Ok(loaded)
    }
}

/// An error with the file that it is of.
fn of_file(source: &str) -> impl Fn(Error) -> Error {
    move |error| Error::Config(format!("{source}: {error}"))
}

/// The published checkpoints of tasks, as the end of a hint.
fn published(tasks: &[TaskRef]) -> String {
    let wanted = |p: &&Published| tasks.iter().any(|task| task.name() == p.task);
    let files: Vec<String> =
        PUBLISHED.iter().filter(wanted).map(|p| format!("`albef pull {}`", p.name)).collect();
    match files[..] {
        [] => String::new(),
        _ => format!(", or fetch a published one with {}", files.join(" or ")),
    }
}

/// The arguments of the command that makes a model of one of these tasks.
fn making(tasks: &[TaskRef]) -> String {
    let names: Vec<&str> = tasks.iter().map(|t| t.name()).collect();
    match names[..] {
        ["pretrain", ..] => "pretrain` or `albef finetune retrieval".into(),
        _ => format!("finetune {}", names.join("|")),
    }
}

impl LoadedModel {
    /// Loads the weights of `task` from a checkpoint that has its names. Of two layers that share a
    /// tensor, the upper one's value counts, as in the official code.
    ///
    /// # Errors
    /// As [`Checkpoint::load`].
    pub(crate) fn from_tensors(
        checkpoint: Checkpoint,
        task: TaskRef,
        device: &Device,
        seed: u64,
        parts: Parts,
    ) -> Result<Self> {
        Self::new(checkpoint, task, device, seed, parts, Vec::new())
    }

    /// The same, with weights that start anew.
    fn new(
        checkpoint: Checkpoint,
        task: TaskRef,
        device: &Device,
        seed: u64,
        parts: Parts,
        fresh: Vec<String>,
    ) -> Result<Self> {
        let Checkpoint {
            config,
            vocabulary,
            defaults,
            tensors,
            source,
            config_inferred,
            folder,
            notes,
            ..
        } = checkpoint;
        let (mut state, resized) = resized(tensors, &config).map_err(of_file(&source))?;
        let mut schema = task.schema(&config);
        schema.fresh = fresh;
        let has_contrast = parts == Parts::All || !fill_contrast(&mut state, &schema);
        let plan = plan(&source, &state, &schema)?;
        let fresh = match plan.report.fresh.is_empty() {
            true => Params::new(device),
            false => fresh_params(&schema, DEFAULT_TEMP, seed, device)?,
        };
        let online = placed(&plan.weights, &state, &fresh, &source, device)?;
        let (mut momentum, mut queues) = (Params::new(device), None);
        if parts == Parts::All {
            momentum = placed(&plan.momentum, &state, &fresh, &source, device)?;
            if schema.queues {
                queues = queues_of(&state, &config, device)?;
            }
        }
        let mut report = plan.report;
        report.resized = resized;
        report.notes.splice(0..0, notes);
        if !has_contrast {
            report.notes.push(
                "there are no projections (`vision_proj`, `text_proj`): the model can match and ground by its \
                 matching head (`albef ground --mode itm`), and has no features to search by"
                    .into(),
            );
        }
        Ok(Self {
            has_contrast,
            task,
            config,
            vocabulary,
            online,
            momentum,
            queues,
            report,
            config_inferred,
            folder,
            defaults,
            reader: ImageReader::default(),
            precision: Precision::F32,
        })
    }

    /// Logs what of the file is not as in a plain checkpoint, and where position tables were resized.
    pub fn log_notes(&self) {
        for note in &self.report.notes {
            tracing::info!("{note}");
        }
        if let Some((from, to)) = self.report.resized {
            tracing::info!(
                "position tables interpolated from {from} x {from} to {to} x {to} patches"
            );
        }
        if let Some(name) = self.report.untied.first() {
            tracing::info!(
                "`{name}` is not the word table, as in ALBEF: the vocabulary head has its own"
            );
        }
    }

    /// Momentum copies: those of the checkpoint, and copies of the trained weights where it has none.
    /// Also gives the names of the latter.
    ///
    /// # Errors
    /// Never for weights that were loaded.
    pub fn momentum_or_copy(&self) -> Result<(Params, Vec<String>)> {
        let mut all = copy_for_momentum(&self.online)?;
        let mut copied = Vec::new();
        for p in all.clone().entries() {
            match self.momentum.get(&p.name) {
                Some(own) => all.insert(&p.name, &p.shape, to_vec(own.value.clone()))?,
                None => copied.push(p.name.clone()),
            }
        }
        Ok((all, copied))
    }

    /// The aligned and fused model on frozen weights.
    ///
    /// # Errors
    /// If a weight is absent.
    pub fn albef(&self) -> Result<Albef> {
        Albef::new(&self.config, &self.weights())
    }

    /// The trained weights, frozen, with operations of the precision.
    pub(crate) fn weights(&self) -> Weights {
        self.online.frozen(self.ops())
    }

    pub(crate) fn ops(&self) -> Ops {
        Ops::for_device(self.online.device()).with_precision(self.precision)
    }
}

/// Puts zeros in the places of projections and temperature that a state reduced to the matching side lacks;
/// gives whether it does.
fn fill_contrast(state: &mut StateDict, schema: &Schema) -> bool {
    let contrast = |name: &str| {
        name == "temp" || name.starts_with("vision_proj.") || name.starts_with("text_proj.")
    };
    let own: Vec<_> = schema.parameters().iter().filter(|p| contrast(&p.name)).collect();
    let matches = schema.parameters().iter().any(|p| p.name.starts_with("itm_head."));
    if own.is_empty()
        || !matches
        || state.names().any(contrast)
        || state.get("itm_head.weight").is_none()
    {
        return false;
    }
    for p in own {
        let zeros = vec![0.0; p.shape.iter().product()];
        state.insert(p.name.clone(), HostTensor::from_f32(&p.shape, &zeros));
    }
    true
}

/// The temperature of a model that is made from a checkpoint without one.
const DEFAULT_TEMP: f64 = 0.07;

/// Weights where they were found, or fresh ones.
fn placed(
    weights: &[Placement],
    state: &StateDict,
    fresh: &Params,
    source: &str,
    device: &Device,
) -> Result<Params> {
    let mut params = Params::new(device);
    for Placement { name, shape, key } in weights {
        let found = key.as_deref().and_then(|k| state.get(k));
        let drawn = || fresh.get(name).map(|p| to_vec(p.value.clone()));
        let values = match found {
            Some(tensor) => finite(name, tensor, source)?,
            None => drawn().ok_or_else(|| Error::MissingWeight { key: name.clone() })?,
        };
        params.insert(name, shape, values)?;
    }
    Ok(params)
}

/// The values of a weight, which must be finite; `source`: the file, as messages name it.
pub(crate) fn finite(name: &str, tensor: &HostTensor, source: &str) -> Result<Vec<f32>> {
    let values = tensor.take_f32()?;
    if largest(&values).is_finite() {
        return Ok(values);
    }
    Err(not_finite(name, source))
}

fn not_finite(name: &str, source: &str) -> Error {
    Error::WeightNotFinite { place: source.to_owned(), key: name.to_owned(), hint: OTHER_FILE }
}

/// What to do about a file that is unusable.
const OTHER_FILE: &str = "hint: this model is unusable; take an earlier one, and a smaller learning \
                          rate if it was trained here";

/// Position tables at the configured resolution, and the patches along a side before and after where
/// these differ. A table of another width than the model's is left as it is, for the key report to name.
///
/// # Errors
/// If a table is not of a square grid.
fn resized(
    mut state: StateDict,
    config: &ModelConfig,
) -> Result<(StateDict, Option<(usize, usize)>)> {
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
fn queues_of(state: &StateDict, config: &ModelConfig, device: &Device) -> Result<Option<Queues>> {
    let width = config.embed_dim;
    let Some(found) = queue_tensors(state, width)? else { return Ok(None) };
    let ids = found.ids.unwrap_or_else(|| vec![NO_ID; found.size]);
    let image = transposed(&found.image, width, found.size);
    let text = transposed(&found.text, width, found.size);
    Ok(Some(Queues::new(image, text, ids, found.ptr, width, device)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::state_dict;
    use crate::model::{Branch, VqaModel};
    use crate::params::{cpu, from_vec};
    use crate::pipeline::Pipeline;

    #[test]
    fn a_state_of_the_matching_side_alone_grounds_and_says_that_it_has_no_features() {
        let mut config = ModelConfig::nano();
        config.text.vocab_size = 7;
        let task = TaskRef::named("retrieval").unwrap();
        let params = fresh_params(&task.schema(&config), DEFAULT_TEMP, 1, &cpu()).unwrap();
        let contrast = ["temp", "vision_proj.", "text_proj."];
        let kept = |name: &str| !contrast.iter().any(|part| name.starts_with(part));
        let state: StateDict =
            state_dict(&params).into_iter().filter(|(name, _)| kept(name)).collect();
        let vocabulary = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\ndog\n";
        let found =
            Checkpoint::new(state, config, vocabulary.into(), std::path::Path::new("x.pth"));
        assert!(found.check().is_ok());
        let loaded = found.load(&[task], &cpu(), Parts::Inference).unwrap();
        assert!(!loaded.has_contrast && loaded.report.notes[0].contains("--mode itm"));
        let model = Pipeline::from_loaded(&loaded).unwrap();
        let error = model.embed_text("a dog").unwrap_err();
        assert!(matches!(error, Error::NoProjections), "{error}");
        let image = albef_data::image::RgbImage::new(8, 8, vec![9; 192]).unwrap();
        let options = crate::inference::GroundOptions::default();
        assert!(model.ground(&image, "a dog", &options).is_ok());
    }

    #[test]
    fn a_vocabulary_head_with_a_matrix_of_its_own_answers_by_it() {
        let mut config = ModelConfig::nano();
        config.text.vocab_size = 7;
        let task = TaskRef::named("vqa").unwrap();
        let params = fresh_params(&task.schema(&config), DEFAULT_TEMP, 1, &cpu()).unwrap();
        let vocabulary = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\ndog\n";
        let table = "text_decoder.bert.embeddings.word_embeddings.weight";
        let own = "text_decoder.cls.predictions.decoder.weight";
        let open = |factor: f32| {
            let mut state = state_dict(&params);
            let words = state.get(table).unwrap();
            let values = words.to_f32().unwrap().iter().map(|v| factor * v).collect::<Vec<_>>();
            let matrix = HostTensor::from_f32(&words.shape, &values);
            state.insert(own.into(), matrix);
            Checkpoint::new(state, config.clone(), vocabulary.into(), std::path::Path::new("x.pth"))
                .load(&[task], &cpu(), Parts::All)
                .unwrap()
        };
        let logits = |loaded: &LoadedModel| {
            let weights = loaded.online.frozen(Ops::for_device(&cpu()));
            let model = VqaModel::new(&loaded.config, &weights, Branch::Online).unwrap();
            let width = loaded.config.text.hidden;
            let states = from_vec((0..width).map(|i| i as f32).collect(), [1, width], &cpu());
            to_vec(model.head.forward(states))
        };
        let (tied, untied) = (open(1.0), open(-2.0));
        assert!(tied.online.get(own).is_none() && tied.report.untied.is_empty());
        assert_eq!(untied.report.untied, [own]);
        // The bias of fresh weights is zero.
        for (tied, untied) in logits(&tied).iter().zip(logits(&untied)) {
            assert!(tied.abs() > 1e-4 && (untied + 2.0 * tied).abs() < 1e-4, "{tied} {untied}");
        }
        // Distillation and training find it too.
        let (momentum, copied) = untied.momentum_or_copy().unwrap();
        let averaged = momentum.get("text_decoder_m.cls.predictions.decoder.weight").unwrap();
        assert_eq!(averaged.shape, [7, config.text.hidden]);
        assert_eq!(copied.len(), untied.online.entries().len());
    }

    #[test]
    fn a_table_of_another_grid_is_resized_and_reported() {
        let config = ModelConfig::nano();
        let (width, grid) = (config.vision.width, config.vision.grid());
        let name = "visual_encoder.pos_embed";
        let state = |grid: usize, width: usize| {
            let shape = [1, grid * grid + 1, width];
            let values = vec![0.5; shape.iter().product()];
            StateDict::from_iter([(name.to_owned(), HostTensor::from_f32(&shape, &values))])
        };
        let (same, told) = resized(state(grid, width), &config).unwrap();
        assert_eq!((same, told), (state(grid, width), None));
        let (other, told) = resized(state(4, width), &config).unwrap();
        assert_eq!(told, Some((4, grid)));
        assert_eq!(other.get(name).unwrap().shape, [1, grid * grid + 1, width]);
        let narrow = state(4, width - 1);
        assert_eq!(resized(narrow.clone(), &config).unwrap(), (narrow, None));
    }
}
