//! What a run goes on from, so that its own folder is enough: the sizes, word pieces and lists of weights of its newest
//! checkpoint.

use std::fs;
use std::path::Path;

use albef_files::folder;
use burn::tensor::Device;

use super::checkpoint;
use super::checksums;
use super::sizes::Shapes;
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::objectives::queue::Queues;
use crate::params::Params;

/// What a run goes on from: everything that is not a tensor's value.
#[derive(Debug)]
pub(super) struct ResumeMeta {
    /// Sizes.
    pub model: ModelConfig,
    /// The word pieces, one per line.
    pub vocabulary: String,
    shapes: Shapes,
}

impl ResumeMeta {
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
pub(super) fn newest(checkpoints: &Path) -> Result<Option<ResumeMeta>> {
    folder::recover(checkpoints)?;
    let Some(folder) = checkpoint::list(checkpoints)?.pop() else { return Ok(None) };
    let description = checkpoint::description(&folder)?;
    let Some((model, vocabulary)) = description.sizes(&folder)? else { return Ok(None) };
    let Some(shapes) = description.shapes else { return Ok(None) };
    let file = folder.join("state.safetensors");
    let stored = fs::metadata(&file).map_err(Error::io(&file))?.len();
    if !shapes.fit_in(stored) {
        checksums::check(&folder, "state.safetensors")?;
        let detail = "it lists more weights than `state.safetensors` beside it can hold".into();
        return Err(Error::Format { path: folder.join("state.json"), detail });
    }
    Ok(Some(ResumeMeta { model, vocabulary, shapes }))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::json;

    use super::*;
    use crate::params::cpu;
    use crate::task::TaskRef;
    use crate::train::checkpoint::{Run, TrainProgress, TrainState};
    use crate::train::identity::RunFingerprint;
    use crate::train::optimizer::Optimizer;

    fn kept(shape: &[usize]) -> ResumeMeta {
        let shapes = Shapes {
            online: vec![("b".into(), shape.to_vec()), ("a".into(), vec![2])],
            momentum: vec![("b_m".into(), shape.to_vec())],
            queues: [3, 2],
        };
        ResumeMeta { model: ModelConfig::nano(), vocabulary: String::new(), shapes }
    }

    #[test]
    fn a_blank_state_has_the_lists_in_their_order() {
        let of = kept(&[4, 5]);
        let (online, momentum, queues) = of.blank(&cpu()).unwrap();
        let names: Vec<&str> = online.entries().iter().map(|p| p.name.as_str()).collect();
        assert_eq!((names, momentum.count(), queues.len()), (vec!["b", "a"], 20, 3));
        let bytes = 4 * (20 + 2 + 20 + 6 + 6) + 8 * 3;
        assert_eq!(of.shapes.bytes(), Some(bytes));
        assert!(of.shapes.fit_in(bytes as u64) && !of.shapes.fit_in(bytes as u64 - 1));
    }

    #[test]
    fn sizes_beyond_all_measure_are_no_size() {
        assert_eq!(kept(&[usize::MAX, 2]).shapes.bytes(), None);
        assert_eq!(kept(&[usize::MAX / 4]).shapes.bytes(), None);
        // Entries without width have ids all the same.
        for entries in [1_000_000_000_000, usize::MAX / 16, usize::MAX] {
            let shapes = Shapes { queues: [entries, 0], ..kept(&[2]).shapes };
            assert!(!shapes.fit_in(1 << 40), "{entries}");
        }
    }

    /// A checkpoint below `folder`.
    fn saved(folder: &Path) -> PathBuf {
        let mut model = ModelConfig::nano();
        model.text.vocab_size = 5;
        let of = kept(&[4, 5]);
        let (online, momentum, queues) = of.blank(&cpu()).unwrap();
        let optimizer = Optimizer::new(&online, 0.0, (0.9, 0.999), 1e-8);
        let state =
            TrainState { online, momentum, queues, optimizer, place: TrainProgress::default() };
        let config = serde_json::Value::Null;
        let (task, data) = (TaskRef::named("retrieval").unwrap(), String::new());
        let identity = RunFingerprint { task, config, samples: 0, data };
        let run = Run {
            identity: &identity,
            model: &model,
            vocabulary: "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n",
        };
        checkpoint::save_of_run(folder, &state, Some(run), 1).unwrap()
    }

    /// Changes `state.json` of a checkpoint.
    fn tamper(checkpoint: &Path, change: impl Fn(&mut serde_json::Value)) {
        let path = checkpoint.join("state.json");
        let _ = fs::remove_file(checkpoint.join("SHA256SUMS"));
        let mut state = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut state);
        fs::write(&path, state.to_string()).unwrap();
    }

    #[test]
    fn queues_beyond_the_file_are_an_error_before_memory_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let checkpoint = saved(dir.path());
        assert!(newest(dir.path()).unwrap().is_some());
        for entries in [1_000_000_000_000_u64, 1 << 60] {
            tamper(&checkpoint, |state| state["shapes"]["queues"] = json!([entries, 0]));
            let error = newest(dir.path()).unwrap_err().to_string();
            assert!(error.contains("state.json") && error.contains("more weights"), "{error}");
        }
    }

    #[test]
    fn a_changed_or_absent_file_of_sizes_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let checkpoint = saved(dir.path());
        let error = || newest(dir.path()).unwrap_err().to_string();
        let path = checkpoint.join("config.json");
        let own = fs::read_to_string(&path).unwrap();
        let mut other: ModelConfig = serde_json::from_str(&own).unwrap();
        other.text.heads *= 2;
        fs::write(&path, serde_json::to_string(&other).unwrap()).unwrap();
        let changed = error();
        assert!(changed.contains("config.json") && changed.contains("not the file"), "{changed}");
        assert!(checkpoint::files(&checkpoint).is_err(), "nor is it a start");
        fs::write(&path, own).unwrap();
        fs::write(checkpoint.join("vocab.txt"), "[UNK]\n").unwrap();
        assert!(error().contains("vocab.txt"), "{}", error());
        fs::remove_file(checkpoint.join("vocab.txt")).unwrap();
        assert!(error().contains("vocab.txt: the checkpoint lacks this file"), "{}", error());

        // Checkpoints of older versions have neither hashes nor these files.
        tamper(&checkpoint, |state| state["shapes"] = serde_json::Value::Null);
        assert!(newest(dir.path()).unwrap().is_none());
    }
}
