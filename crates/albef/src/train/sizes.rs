//! The sizes of a checkpoint beside its tensors: those of the model, its word pieces, and the lists of its weights.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use albef_weights::write_atomic;
use serde::{Deserialize, Serialize};

use super::identity::Hash;
use crate::checkpoint::read_sizes;
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::params::Params;

/// Names and shapes of the weights, in the order of the optimiser.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Shapes {
    pub(super) online: Vec<(String, Vec<usize>)>,
    pub(super) momentum: Vec<(String, Vec<usize>)>,
    /// Entries and width.
    pub(super) queues: [usize; 2],
}

impl Shapes {
    /// Of weights, their momentum copies, and queues of so many entries and values an entry.
    pub(super) fn of(online: &Params, momentum: &Params, queues: [usize; 2]) -> Self {
        let list = |params: &Params| {
            params.entries().iter().map(|p| (p.name.clone(), p.shape.clone())).collect()
        };
        Self { online: list(online), momentum: list(momentum), queues }
    }

    /// Bytes of the tensors, the ids of queue entries included; `None` beyond all measure.
    pub(super) fn bytes(&self) -> Option<usize> {
        let size = |shape: &[usize]| {
            shape.iter().try_fold(4_usize, |product, side| product.checked_mul(*side))
        };
        let weights = self.online.iter().chain(&self.momentum).map(|(_, shape)| size(shape));
        let ids = self.queues[0].checked_mul(size_of::<i64>());
        weights
            .chain([size(&self.queues), size(&self.queues), ids])
            .try_fold(0_usize, |sum, bytes| sum.checked_add(bytes?))
    }

    /// Whether a file of `stored` bytes can hold the tensors.
    pub(super) fn fit_in(&self, stored: u64) -> bool {
        self.bytes().is_some_and(|bytes| bytes as u64 <= stored)
    }
}

/// The files of sizes and word pieces.
const FILES: [&str; 2] = ["config.json", "vocab.txt"];

/// Hashes of [`FILES`] by name. Shapes do not tell all sizes: another number of heads would give other
/// results in silence.
pub(super) type Hashes = BTreeMap<String, String>;

/// Sizes and word pieces in a checkpoint's folder, which has these hashes; `None` in those of `older` versions.
pub(super) fn sizes(
    folder: &Path,
    older: bool,
    hashes: &Hashes,
) -> Result<Option<(ModelConfig, String)>> {
    if older && FILES.iter().any(|file| !folder.join(file).is_file()) {
        return Ok(None);
    }
    FILES.iter().try_for_each(|file| check_file(folder, file, hashes))?;
    read_sizes(folder).map(Some)
}

/// An error unless a file is there, and the one that the run wrote.
fn check_file(folder: &Path, file: &str, hashes: &Hashes) -> Result<()> {
    let path = folder.join(file);
    let fail = |what: &str| Error::Format {
        path: path.clone(),
        detail: format!(
            "{what}; hint: put the checkpoint's own file back, or remove the checkpoint to take the one \
             before it"
        ),
    };
    if !path.is_file() {
        return Err(fail("the checkpoint lacks this file"));
    }
    let bytes = fs::read(&path).map_err(Error::io(&path))?;
    match hashes.get(file) {
        Some(hash) if *hash != hash_of(&bytes) => {
            Err(fail("this is not the file that the run wrote into its checkpoint"))
        }
        _ => Ok(()),
    }
}

fn hash_of(bytes: &[u8]) -> String {
    let mut hash = Hash::default();
    hash.take(bytes);
    hash.text()
}

/// Writes what [`sizes`] reads, and gives the hashes by which it is known again.
pub(super) fn write_sizes(folder: &Path, model: &ModelConfig, vocabulary: &str) -> Result<Hashes> {
    let sizes = serde_json::to_string_pretty(model)
        .map_err(|e| Error::Format { path: folder.join(FILES[0]), detail: e.to_string() })?;
    let mut hashes = Hashes::new();
    for (file, text) in FILES.into_iter().zip([sizes.as_str(), vocabulary]) {
        write_atomic(&folder.join(file), |f| f.write_all(text.as_bytes()))?;
        hashes.insert(file.to_owned(), hash_of(text.as_bytes()));
    }
    Ok(hashes)
}
