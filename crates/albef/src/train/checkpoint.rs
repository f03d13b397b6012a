//! Checkpoints: folders that appear whole or not at all.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use albef_files::folder;
use albef_kernels::largest;
use albef_weights::{HostTensor, KeepAs, StateDict, write_atomic, write_safetensors};
use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::checksums;
use super::identity::RunFingerprint;
use super::optimizer::{Moments, Optimizer};
use super::sizes::{self, Hashes, Shapes};
use crate::checkpoint::read_sizes;
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::objectives::queue::Queues;
use crate::params::{Params, from_vec, to_vec, transposed};

/// Where a run stands. With the tensors beside it, it decides about all that follows: order, crops,
/// masks and dropout are functions of seed and place.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainProgress {
    /// Optimiser steps taken.
    pub step: u64,
    /// Epoch, from 0.
    pub epoch: u64,
    /// Batches of the epoch that are done.
    pub batch: usize,
    /// Sums of the epoch's losses and learning rates by name, with their numbers.
    #[serde(with = "exact")]
    pub sums: BTreeMap<String, (f64, u64)>,
}

/// Everything that training changes.
#[derive(Clone, Debug)]
pub struct TrainState {
    /// Trained weights.
    pub online: Params,
    /// Momentum copies.
    pub momentum: Params,
    /// Queues.
    pub queues: Queues,
    /// Optimiser.
    pub optimizer: Optimizer,
    /// Where the run stands.
    pub place: TrainProgress,
}

/// Sums as texts: readers of JSON numbers may miss the last bit, and a resumed run must log the very
/// same means.
mod exact {
    use std::collections::BTreeMap;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use serde_json::Value;

    type Sums = BTreeMap<String, (f64, u64)>;

    pub fn serialize<S: Serializer>(sums: &Sums, to: S) -> Result<S::Ok, S::Error> {
        let texts = sums.iter().map(|(name, (sum, n))| (name, (format!("{sum:?}"), *n)));
        texts.collect::<BTreeMap<_, _>>().serialize(to)
    }

    /// Also takes plain numbers, which older checkpoints have.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Sums, D::Error> {
        let read = |value: &Value| value.as_str().map_or(value.as_f64(), |text| text.parse().ok());
        let given = BTreeMap::<String, (Value, u64)>::deserialize(from)?;
        let sums = given.into_iter().map(|(name, (sum, n))| match read(&sum) {
            Some(sum) => Ok((name, (sum, n))),
            None => Err(D::Error::custom(format!("the sum of `{name}` is {sum}, no number"))),
        });
        sums.collect()
    }
}

/// What `state.json` says.
#[derive(Serialize, Deserialize)]
pub(super) struct Description {
    format: u32,
    /// What run it is of; older checkpoints do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    run: Option<RunFingerprint>,
    /// The lists of its weights; older checkpoints have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) shapes: Option<Shapes>,
    /// The files of sizes and word pieces; older checkpoints do not tell.
    #[serde(default, skip_serializing_if = "Hashes::is_empty")]
    pub(super) files: Hashes,
    place: TrainProgress,
    queue_ptr: usize,
    moment_steps: Vec<u64>,
}

impl Description {
    /// Sizes and word pieces in the folder of the checkpoint; `None` in those of older versions.
    pub(super) fn sizes(&self, folder: &Path) -> Result<Option<(ModelConfig, String)>> {
        sizes::sizes(folder, self.shapes.is_none(), &self.files)
    }
}

/// The run of a checkpoint, by which it is known and goes on when nothing but its folder is left.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// What makes it this run.
    pub identity: &'a RunFingerprint,
    /// Sizes.
    pub model: &'a ModelConfig,
    /// The word pieces, one per line.
    pub vocabulary: &'a str,
}

const FORMAT: u32 = 2;
/// The tensors of a checkpoint.
const STATE: &str = "state.safetensors";

/// The checkpoints of a run, oldest first.
///
/// # Errors
/// If the folder cannot be read.
pub fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let whole = ["state.json", "state.safetensors"].iter().all(|f| path.join(f).is_file());
        if name.starts_with("step-") && whole {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// A checkpoint of no particular run.
#[cfg(test)]
pub(crate) fn save(folder: &Path, state: &TrainState, keep_last: usize) -> Result<PathBuf> {
    save_of_run(folder, state, None, keep_last)
}

/// Writes a checkpoint below `folder`, with what identifies its run, and removes older ones beyond
/// `keep_last`.
///
/// # Errors
/// If it cannot be written in full; older checkpoints are then untouched.
pub fn save_of_run(
    folder: &Path,
    state: &TrainState,
    run: Option<Run<'_>>,
    keep_last: usize,
) -> Result<PathBuf> {
    let target = folder.join(format!("step-{:010}", state.place.step));
    for weights in [&state.online, &state.momentum] {
        weights.check_finite(&target, "nothing was written")?;
    }
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    folder::recover(folder)?;
    folder::write(&target, |parts| write_parts(parts, state, run))?;
    let all = list(folder)?;
    for old in &all[..all.len().saturating_sub(keep_last.max(1))] {
        folder::discard(old)?;
    }
    Ok(target)
}

fn write_parts(folder: &Path, state: &TrainState, run: Option<Run<'_>>) -> Result<()> {
    let mut tensors = StateDict::default();
    let mut moment_steps = Vec::new();
    for (p, moments) in state.online.entries().iter().zip(state.optimizer.moments()) {
        tensors.insert(p.name.clone(), HostTensor::from_f32(&p.shape, &to_vec(p.value.clone())));
        moment_steps.push(moments.as_ref().map_or(0, |m| m.steps));
        if let Some(m) = moments {
            for (kind, value) in [("exp_avg", &m.exp_avg), ("exp_avg_sq", &m.exp_avg_sq)] {
                let host = HostTensor::from_f32(&p.shape, &to_vec(value.clone()));
                tensors.insert(format!("{kind}.{}", p.name), host);
            }
        }
    }
    for p in state.momentum.entries() {
        tensors.insert(p.name.clone(), HostTensor::from_f32(&p.shape, &to_vec(p.value.clone())));
    }
    let (image, text) = state.queues.rows();
    let size = state.queues.len();
    let shape = [size, image.len() / size.max(1)];
    let files = match run {
        Some(Run { model, vocabulary, .. }) => sizes::write_sizes(folder, model, vocabulary)?,
        None => Hashes::new(),
    };
    tensors.insert("queue.image".into(), HostTensor::from_f32(&shape, &image));
    tensors.insert("queue.text".into(), HostTensor::from_f32(&shape, &text));
    tensors.insert("queue.ids".into(), HostTensor::from_i64(&[size], state.queues.ids()));
    let file = folder.join("state.safetensors");
    write_safetensors(&file, &tensors, &HashMap::new(), KeepAs::Same)?;
    let description = Description {
        format: FORMAT,
        run: run.map(|r| r.identity.clone()),
        shapes: run.map(|_| Shapes::of(&state.online, &state.momentum, shape)),
        files,
        place: state.place.clone(),
        queue_ptr: state.queues.ptr(),
        moment_steps,
    };
    let path = folder.join("state.json");
    let text = serde_json::to_string_pretty(&description)
        .map_err(|e| Error::Format { path: path.clone(), detail: e.to_string() })?;
    write_atomic(&path, |f| f.write_all(text.as_bytes()))?;
    let own = [STATE, "state.json"].into_iter().chain(description.files.keys().map(String::as_str));
    checksums::write(folder, &own.collect::<Vec<_>>())
}

/// A checkpoint as the files of a model.
#[derive(Debug)]
pub struct RunFiles {
    /// Tensors under official names, momentum copies and queues among them.
    pub tensors: StateDict,
    /// Sizes.
    pub config: ModelConfig,
    /// The word pieces, one per line.
    pub vocabulary: String,
    /// The file of the tensors.
    pub file: PathBuf,
}

/// A checkpoint as the files of a model, momentum copies and queues under their official names. `path`
/// is the folder of a run, of which the newest checkpoint is taken, or of one of its checkpoints. Sizes
/// and word pieces lie in it; those of older versions come from the model that the run left. `None` if
/// there is no checkpoint at `path`.
///
/// # Errors
/// If the checkpoint is damaged, or of an older version and the run has left no model yet.
pub fn files(path: &Path) -> Result<Option<RunFiles>> {
    let (run, folder) = match list(&path.join("checkpoints"))?.pop() {
        Some(newest) => (path.to_owned(), newest),
        None if path.join("state.json").is_file() => {
            let run = fs::canonicalize(path).map_err(Error::io(path))?;
            (run.ancestors().nth(2).unwrap_or(path).to_owned(), path.to_owned())
        }
        None => return Ok(None),
    };
    let description = description(&folder)?;
    let (config, vocabulary) = match description.sizes(&folder)? {
        Some(found) => found,
        None => sizes_of_model(&run)?,
    };
    checksums::check(&folder, STATE)?;
    let file = folder.join(STATE);
    let tensors = official_names(&albef_weights::read(&file)?.tensors, description.queue_ptr)?;
    Ok(Some(RunFiles { tensors, config, vocabulary, file }))
}

/// Sizes and word pieces of the model that a run left.
fn sizes_of_model(run: &Path) -> Result<(ModelConfig, String)> {
    let Some(model) = ["model", "best"].map(|f| run.join(f)).into_iter().find(|f| f.is_dir())
    else {
        return Err(Error::Format {
            path: run.to_owned(),
            detail: "its checkpoint tells no sizes and word pieces, and it has neither `model` nor \
                     `best`, which do; hint: a run with a `val_file` has `best` after its first epoch"
                .into(),
        });
    };
    read_sizes(&model)
}

/// The tensors of a checkpoint without the optimiser's; queues are columns, as in official files.
fn official_names(state: &StateDict, ptr: usize) -> Result<StateDict> {
    let mut out = StateDict::default();
    for (name, host) in state.iter() {
        let queue = match name {
            "queue.image" => "image_queue",
            "queue.text" => "text_queue",
            n if n.starts_with("exp_avg") || n.starts_with("queue.") => continue,
            n => {
                out.insert(n.to_owned(), host.clone());
                continue;
            }
        };
        let [size, width] = host.shape[..] else { continue };
        if size > 0 {
            let columns = transposed(&host.to_f32()?, size, width);
            out.insert(queue.into(), HostTensor::from_f32(&[width, size], &columns));
        }
    }
    if let (Some(ids), Some(queue)) = (state.get("queue.ids"), state.get("queue.image"))
        && !ids.is_empty()
    {
        if queue.shape.first() != Some(&ids.len()) {
            let (expected, found) = (vec![ids.len()], queue.shape.clone());
            return Err(Error::WeightShape { key: "queue.image".into(), expected, found });
        }
        out.insert("idx_queue".into(), HostTensor::from_i64(&[1, ids.len()], &ids.to_i64()?));
        out.insert("queue_ptr".into(), HostTensor::from_i64(&[1], &[ptr as i64]));
    }
    Ok(out)
}

/// What run a checkpoint is of; `None` for checkpoints of older versions, which do not say.
///
/// # Errors
/// If its description cannot be read.
pub fn identity(folder: &Path) -> Result<Option<RunFingerprint>> {
    Ok(description(folder)?.run)
}

pub(super) fn description(folder: &Path) -> Result<Description> {
    let path = folder.join("state.json");
    checksums::check(folder, "state.json")?;
    let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
    let wrong = |detail: String| Error::Format { path: path.clone(), detail };
    let description: Description = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
    if description.format != FORMAT {
        return Err(wrong(format!("format {}, known is {FORMAT}", description.format)));
    }
    Ok(description)
}

/// Puts a checkpoint into a state of the same sizes.
///
/// # Errors
/// If it is damaged or of another model.
pub fn load(folder: &Path, state: &mut TrainState, device: &Device) -> Result<()> {
    let description = description(folder)?;
    // Without its steps the optimiser would start anew in silence.
    let (steps, weights) = (&description.moment_steps, state.online.entries().len());
    if steps.len() != weights {
        let detail = format!("`moment_steps` has {} entries for {weights} weights", steps.len());
        return Err(Error::Format { path: folder.join("state.json"), detail });
    }
    checksums::check(folder, STATE)?;
    let file = folder.join(STATE);
    let tensors = albef_weights::read(&file)?.tensors;
    let get = |name: &str, shape: &[usize]| -> Result<Vec<f32>> {
        let host = tensors.get(name).ok_or(Error::MissingWeight { key: name.to_owned() })?;
        if host.shape != shape {
            return Err(Error::WeightShape {
                key: name.to_owned(),
                expected: shape.to_vec(),
                found: host.shape.clone(),
            });
        }
        let values = host.to_f32()?;
        if largest(&values).is_finite() {
            return Ok(values);
        }
        let (place, key) = (format!("`{}`", file.display()), name.to_owned());
        let hint = "hint: remove this checkpoint to go on from the one before it";
        Err(Error::WeightNotFinite { place, key, hint })
    };
    let mut online = Params::new(device);
    for (i, (p, &steps)) in state.online.entries().iter().zip(steps).enumerate() {
        online.insert(&p.name, &p.shape, get(&p.name, &p.shape)?)?;
        if steps > 0 {
            let moment = |kind: &str| -> Result<_> {
                let values = get(&format!("{kind}.{}", p.name), &p.shape)?;
                let n = values.len();
                Ok(from_vec(values, [n], device))
            };
            let (exp_avg, exp_avg_sq) = (moment("exp_avg")?, moment("exp_avg_sq")?);
            state.optimizer.set_moments(i, Moments { steps, exp_avg, exp_avg_sq });
        }
    }
    let mut momentum = Params::new(device);
    for p in state.momentum.entries() {
        momentum.insert(&p.name, &p.shape, get(&p.name, &p.shape)?)?;
    }
    let size = state.queues.len();
    let width = state.queues.rows().0.len() / size.max(1);
    let ids = tensors.get("queue.ids").ok_or(Error::MissingWeight { key: "queue.ids".into() })?;
    let ids = ids.to_i64()?;
    let (image, text) = (get("queue.image", &[size, width])?, get("queue.text", &[size, width])?);
    if ids.len() != size {
        let detail = format!("{} queue ids for a queue of {size}", ids.len());
        return Err(Error::Format { path: file, detail });
    }
    state.queues = Queues::new(image, text, ids, description.queue_ptr, width, device);
    state.online = online;
    state.momentum = momentum;
    state.place = description.place;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objectives::momentum::copy_for_momentum;
    use crate::params::cpu;

    fn state(step: u64) -> TrainState {
        let device = cpu();
        let mut online = Params::new(&device);
        online.insert("text_proj.weight", &[2, 2], vec![step as f32; 4]).unwrap();
        let momentum = copy_for_momentum(&online).unwrap();
        let optimizer = Optimizer::new(&online, 0.0, (0.9, 0.999), 1e-8);
        let rows = (0..6).map(|i| i as f32).collect::<Vec<_>>();
        let queues = Queues::new(rows.clone(), rows, vec![7, 8, 9], 1, 2, &device);
        // A third is a sum that short readers of numbers miss.
        let sums = BTreeMap::from([("loss".to_owned(), (step as f64 + 1.0 / 3.0, 3))]);
        let place = TrainProgress { step, epoch: 1, batch: 2, sums };
        TrainState { online, momentum, queues, optimizer, place }
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_checkpoint_comes_back_and_older_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        for step in 1..=3 {
            save(dir.path(), &state(step), 2).unwrap();
        }
        save(dir.path(), &state(3), 2).unwrap();
        assert_eq!(names(dir.path()), ["step-0000000002", "step-0000000003"]);
        let mut back = state(0);
        let newest = list(dir.path()).unwrap().pop().unwrap();
        load(&newest, &mut back, &cpu()).unwrap();
        assert_eq!(back.place, state(3).place);
        assert!(identity(&newest).unwrap().is_none());
    }

    #[test]
    fn an_optimiser_without_its_steps_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let folder = save(dir.path(), &state(1), 1).unwrap();
        let path = folder.join("state.json");
        let whole: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        fs::remove_file(folder.join(checksums::SUMS)).unwrap();
        let failed = |text: String| {
            fs::write(&path, text).unwrap();
            load(&folder, &mut state(0), &cpu()).unwrap_err().to_string()
        };
        let (mut short, mut missing) = (whole.clone(), whole);
        short["moment_steps"] = serde_json::json!([]);
        missing.as_object_mut().unwrap().remove("moment_steps").unwrap();
        for error in [failed(short.to_string()), failed(missing.to_string())] {
            assert!(error.contains("state.json: ") && error.contains("`moment_steps`"), "{error}");
        }
    }

    #[test]
    fn a_changed_bit_of_a_checkpoint_and_another_place_are_errors_with_a_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let folder = save(dir.path(), &state(1), 1).unwrap();
        let error = || load(&folder, &mut state(0), &cpu()).unwrap_err().to_string();
        for (file, at) in [("state.safetensors", 700), ("state.json", 40)] {
            let path = folder.join(file);
            let own = fs::read(&path).unwrap();
            let mut other = own.clone();
            let at = at.min(own.len() - 2);
            other[at] ^= 1;
            fs::write(&path, other).unwrap();
            assert!(error().contains(file) && error().contains("the one before it"), "{}", error());
            fs::write(&path, own).unwrap();
        }
        assert!(load(&folder, &mut state(0), &cpu()).is_ok());
    }

    #[test]
    fn what_a_killed_save_left_is_no_checkpoint_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), &state(1), 2).unwrap();
        let half = dir.path().join("step-0000000002");
        fs::create_dir(&half).unwrap();
        fs::write(half.join("state.json"), "{}").unwrap();
        fs::create_dir(dir.path().join(".albef-writing-0")).unwrap();
        fs::rename(dir.path().join("step-0000000001"), dir.path().join(".old-step-0000000001"))
            .unwrap();
        assert!(list(dir.path()).unwrap().is_empty());
        save(dir.path(), &state(2), 2).unwrap();
        assert_eq!(names(dir.path()), ["step-0000000001", "step-0000000002"]);
        assert_eq!(list(dir.path()).unwrap().len(), 2);
    }

    #[test]
    fn queues_of_a_checkpoint_have_their_official_names_and_form() {
        let dir = tempfile::tempdir().unwrap();
        let folder = save(dir.path(), &state(1), 1).unwrap();
        let stored = albef_weights::read(&folder.join("state.safetensors")).unwrap().tensors;
        let official = official_names(&stored, 1).unwrap();
        let queue = official.get("image_queue").unwrap();
        assert_eq!(queue.shape, [2, 3]);
        assert_eq!(queue.to_f32().unwrap(), [0.0, 2.0, 4.0, 1.0, 3.0, 5.0]);
        assert_eq!(official.get("idx_queue").unwrap().to_i64().unwrap(), [7, 8, 9]);
        assert_eq!(official.get("queue_ptr").unwrap().to_i64().unwrap(), [1]);
        assert!(official.get("text_proj_m.weight").is_some());
    }

    #[test]
    fn sums_of_older_checkpoints_are_numbers() {
        let old = r#"{"step": 1, "epoch": 0, "batch": 1, "sums": {"loss": [0.5, 2]}}"#;
        let place: TrainProgress = serde_json::from_str(old).unwrap();
        assert_eq!(place.sums["loss"], (0.5, 2));
    }
}
