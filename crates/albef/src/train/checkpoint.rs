//! Checkpoints: folders that appear whole or not at all.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use albef_weights::{HostTensor, KeepAs, StateDict, write_atomic, write_safetensors};
use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::optimizer::{Moments, Optimizer};
use crate::error::{Error, Result};
use crate::objectives::queue::Queues;
use crate::params::{Params, tensor, values};
use crate::weights::{ModelFiles, ModelFolder, ModelState};

/// Where a run stands. With the tensors beside it, it decides about all that follows: order, crops,
/// masks and dropout are functions of seed and place.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// Optimiser steps taken.
    pub step: u64,
    /// Epoch, from 0.
    pub epoch: u64,
    /// Batches of the epoch that are done.
    pub batch: usize,
    /// Sums of the epoch's losses and learning rates by name, with their numbers.
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
    pub place: Place,
}

#[derive(Serialize, Deserialize)]
struct Description {
    format: u32,
    place: Place,
    queue_ptr: usize,
    moment_steps: Vec<u64>,
}

const FORMAT: u32 = 2;

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
        if name.starts_with("step-") && path.join("state.json").is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Writes a checkpoint below `folder` and removes older ones beyond `keep_last`.
///
/// # Errors
/// If it cannot be written in full; older checkpoints are then untouched.
pub fn save(folder: &Path, state: &TrainState, keep_last: usize) -> Result<PathBuf> {
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let target = folder.join(format!("step-{:010}", state.place.step));
    let temporary = folder.join(format!(".writing-{}", std::process::id()));
    let _ = fs::remove_dir_all(&temporary);
    let written = write_parts(&temporary, state).and_then(|()| {
        if target.exists() {
            fs::remove_dir_all(&target).map_err(Error::io(&target))?;
        }
        fs::rename(&temporary, &target).map_err(Error::io(&target))?;
        File::open(folder).and_then(|f| f.sync_all()).map_err(Error::io(folder))
    });
    if let Err(error) = written {
        let _ = fs::remove_dir_all(&temporary);
        return Err(error);
    }
    let all = list(folder)?;
    for old in &all[..all.len().saturating_sub(keep_last.max(1))] {
        fs::remove_dir_all(old).map_err(Error::io(old))?;
    }
    Ok(target)
}

fn write_parts(folder: &Path, state: &TrainState) -> Result<()> {
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let mut tensors = StateDict::default();
    let mut moment_steps = Vec::new();
    for (p, moments) in state.online.entries().iter().zip(state.optimizer.moments()) {
        tensors.insert(p.name.clone(), HostTensor::from_f32(&p.shape, &values(p.value.clone())));
        moment_steps.push(moments.as_ref().map_or(0, |m| m.steps));
        if let Some(m) = moments {
            for (kind, value) in [("exp_avg", &m.exp_avg), ("exp_avg_sq", &m.exp_avg_sq)] {
                let host = HostTensor::from_f32(&p.shape, &values(value.clone()));
                tensors.insert(format!("{kind}.{}", p.name), host);
            }
        }
    }
    for p in state.momentum.entries() {
        tensors.insert(p.name.clone(), HostTensor::from_f32(&p.shape, &values(p.value.clone())));
    }
    let (image, text) = state.queues.rows();
    let size = state.queues.len();
    let shape = [size, image.len() / size.max(1)];
    tensors.insert("queue.image".into(), HostTensor::from_f32(&shape, &image));
    tensors.insert("queue.text".into(), HostTensor::from_f32(&shape, &text));
    tensors.insert("queue.ids".into(), HostTensor::from_i64(&[size], state.queues.ids()));
    let file = folder.join("state.safetensors");
    write_safetensors(&file, &tensors, &HashMap::new(), KeepAs::Same)?;
    let description = Description {
        format: FORMAT,
        place: state.place.clone(),
        queue_ptr: state.queues.ptr(),
        moment_steps,
    };
    let path = folder.join("state.json");
    let text = serde_json::to_string_pretty(&description)
        .map_err(|e| Error::Format { path: path.clone(), detail: e.to_string() })?;
    write_atomic(&path, |f| f.write_all(text.as_bytes()))?;
    Ok(())
}

/// A checkpoint as a model, with momentum copies and queues. `path` is the folder of a run, of which
/// the newest checkpoint is taken, or of one of its checkpoints; sizes and word pieces come from the
/// model that the run left. `None` if there is no checkpoint at `path`.
///
/// # Errors
/// If the checkpoint is damaged, of a task without these parts, or the run has left no model yet.
pub fn open(path: &Path, device: &Device) -> Result<Option<ModelFolder>> {
    let (run, folder) = match list(&path.join("checkpoints"))?.pop() {
        Some(newest) => (path.to_owned(), newest),
        None if path.join("state.json").is_file() => {
            let run = fs::canonicalize(path).map_err(Error::io(path))?;
            (run.ancestors().nth(2).unwrap_or(path).to_owned(), path.to_owned())
        }
        None => return Ok(None),
    };
    let Some(files) = ["model", "best"].map(|f| run.join(f)).into_iter().find(|f| f.is_dir())
    else {
        return Err(Error::Format {
            path: run,
            detail:
                "the run has neither `model` nor `best` yet, which tell sizes and word pieces; \
                     hint: a run with a `val_file` has `best` after its first epoch"
                    .into(),
        });
    };
    let ModelFiles { config, vocabulary, .. } = ModelFiles::open(&files)?;
    let file = folder.join("state.safetensors");
    let mut tensors = StateDict::default();
    let (mut image, mut text, mut ids) = (Vec::new(), Vec::new(), Vec::new());
    for (name, host) in albef_weights::read(&file)?.tensors.iter() {
        match name {
            "queue.image" => image = host.to_f32()?,
            "queue.text" => text = host.to_f32()?,
            "queue.ids" => ids = host.to_i64()?,
            n if n.starts_with("exp_avg") => {}
            n => tensors.insert(n.to_owned(), host.clone()),
        }
    }
    let mut state = ModelState::from_state_dict(&tensors, &config, device)?;
    let width = config.embed_dim;
    for (key, rows) in [("queue.image", &image), ("queue.text", &text)] {
        if rows.len() != ids.len() * width {
            let (expected, found) = (vec![ids.len(), width], vec![rows.len()]);
            return Err(Error::WeightShape { key: key.into(), expected, found });
        }
    }
    let queues = || Queues::new(image, text, ids.clone(), 0, width, device);
    state.queues = (!ids.is_empty()).then(queues);
    Ok(Some(ModelFolder { config, state, vocabulary, path: folder }))
}

/// Puts a checkpoint into a state of the same sizes.
///
/// # Errors
/// If it is damaged or of another model.
pub fn load(folder: &Path, state: &mut TrainState, device: &Device) -> Result<()> {
    let path = folder.join("state.json");
    let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
    let wrong = |detail: String| Error::Format { path: path.clone(), detail };
    let description: Description = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
    if description.format != FORMAT {
        return Err(wrong(format!("format {}, known is {FORMAT}", description.format)));
    }
    let file = folder.join("state.safetensors");
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
        Ok(host.to_f32()?)
    };
    let mut online = Params::new(device);
    for (i, p) in state.online.entries().iter().enumerate() {
        online.insert(&p.name, &p.shape, get(&p.name, &p.shape)?)?;
        let steps = description.moment_steps.get(i).copied().unwrap_or(0);
        if steps > 0 {
            let moment = |kind: &str| -> Result<_> {
                let values = get(&format!("{kind}.{}", p.name), &p.shape)?;
                let n = values.len();
                Ok(tensor(values, [n], device))
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
        return Err(wrong(format!("{} queue ids for a queue of {size}", ids.len())));
    }
    state.queues = Queues::new(image, text, ids, description.queue_ptr, width, device);
    state.online = online;
    state.momentum = momentum;
    state.place = description.place;
    Ok(())
}
