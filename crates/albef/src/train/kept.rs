//! What a checkpoint keeps beside its tensors, so that a run goes on from its own folder alone: sizes,
//! word pieces, and the lists of its weights.

use std::fs;
use std::io::Write;
use std::path::Path;

use albef_weights::write_atomic;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::checkpoint::{self, TrainState};
use super::folder;
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::objectives::queue::Queues;
use crate::params::Params;
use crate::weights::read_sizes;

/// Names and shapes of the weights, in the order of the optimiser.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Shapes {
    online: Vec<(String, Vec<usize>)>,
    momentum: Vec<(String, Vec<usize>)>,
    /// Entries and width.
    queues: [usize; 2],
}

impl Shapes {
    pub(super) fn of(state: &TrainState, width: usize) -> Self {
        let list = |params: &Params| {
            params.entries().iter().map(|p| (p.name.clone(), p.shape.clone())).collect()
        };
        Self {
            online: list(&state.online),
            momentum: list(&state.momentum),
            queues: [state.queues.len(), width],
        }
    }

    /// Bytes of the tensors; `None` beyond all measure.
    fn bytes(&self) -> Option<usize> {
        let size = |shape: &[usize]| {
            shape.iter().try_fold(4_usize, |product, side| product.checked_mul(*side))
        };
        let weights = self.online.iter().chain(&self.momentum).map(|(_, shape)| size(shape));
        weights
            .chain([size(&self.queues), size(&self.queues)])
            .try_fold(0_usize, |sum, bytes| sum.checked_add(bytes?))
    }
}

/// What a run goes on from: everything that is not a tensor's value.
#[derive(Debug)]
pub(super) struct Kept {
    /// Sizes.
    pub model: ModelConfig,
    /// The word pieces, one per line.
    pub vocabulary: String,
    shapes: Shapes,
}

impl Kept {
    /// Weights, momentum copies and queues of the right names and shapes, all zero, to be filled by
    /// [`checkpoint::load`].
    pub(super) fn blank(&self, device: &Device) -> Result<(Params, Params, Queues)> {
        let zeros = |list: &[(String, Vec<usize>)]| -> Result<Params> {
            let mut params = Params::new(device);
            for (name, shape) in list {
                params.insert(name, shape, vec![0.0; shape.iter().product()])?;
            }
            Ok(params)
        };
        let [size, width] = self.shapes.queues;
        let rows = || vec![0.0; size * width];
        let queues = Queues::new(rows(), rows(), vec![0; size], 0, width, device);
        Ok((zeros(&self.shapes.online)?, zeros(&self.shapes.momentum)?, queues))
    }
}

/// Of the newest checkpoint below `checkpoints`; `None` if there is none, or it is of an older version,
/// which needs the model that its run started from.
pub(super) fn newest(checkpoints: &Path) -> Result<Option<Kept>> {
    folder::recover(checkpoints)?;
    let Some(folder) = checkpoint::list(checkpoints)?.pop() else { return Ok(None) };
    let Some(shapes) = checkpoint::shapes(&folder)? else { return Ok(None) };
    let Some((model, vocabulary)) = sizes(&folder)? else { return Ok(None) };
    let file = folder.join("state.safetensors");
    let stored = fs::metadata(&file).map_err(Error::io(&file))?.len();
    if shapes.bytes().is_none_or(|bytes| bytes as u64 > stored) {
        let detail = "it lists more weights than `state.safetensors` beside it can hold".into();
        return Err(Error::Format { path: folder.join("state.json"), detail });
    }
    Ok(Some(Kept { model, vocabulary, shapes }))
}

/// Sizes and word pieces in a checkpoint's folder; `None` in those of older versions.
pub(super) fn sizes(folder: &Path) -> Result<Option<(ModelConfig, String)>> {
    let there = ["config.json", "vocab.txt"].iter().all(|file| folder.join(file).is_file());
    there.then(|| read_sizes(folder)).transpose()
}

/// Writes what [`sizes`] reads.
pub(super) fn write_sizes(folder: &Path, model: &ModelConfig, vocabulary: &str) -> Result<()> {
    let path = folder.join("config.json");
    let sizes = serde_json::to_string_pretty(model)
        .map_err(|e| Error::Format { path: path.clone(), detail: e.to_string() })?;
    for (path, text) in [(path, sizes.as_str()), (folder.join("vocab.txt"), vocabulary)] {
        write_atomic(&path, |f| f.write_all(text.as_bytes()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::cpu;

    fn kept(shape: &[usize]) -> Kept {
        let shapes = Shapes {
            online: vec![("b".into(), shape.to_vec()), ("a".into(), vec![2])],
            momentum: vec![("b_m".into(), shape.to_vec())],
            queues: [3, 2],
        };
        Kept { model: ModelConfig::nano(), vocabulary: String::new(), shapes }
    }

    #[test]
    fn a_blank_state_has_the_lists_in_their_order() {
        let of = kept(&[4, 5]);
        let (online, momentum, queues) = of.blank(&cpu()).unwrap();
        let names: Vec<&str> = online.entries().iter().map(|p| p.name.as_str()).collect();
        assert_eq!((names, momentum.count(), queues.len()), (vec!["b", "a"], 20, 3));
        assert_eq!(of.shapes.bytes(), Some(4 * (20 + 2 + 20 + 6 + 6)));
    }

    #[test]
    fn sizes_beyond_all_measure_are_no_size() {
        assert_eq!(kept(&[usize::MAX, 2]).shapes.bytes(), None);
        assert_eq!(kept(&[usize::MAX / 4]).shapes.bytes(), None);
    }
}
