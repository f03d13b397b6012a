//! By what a model with its way to read images is known again.

use albef_data::image::{Gray16, TruncatedImages};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::params::{Param, to_vec};
use crate::pipeline::Pipeline;

/// A hash of all that features depend on: weights, of the text side too, since texts are compared with images, and how
/// files become pixels. Indexes carry it.
pub(crate) fn fingerprint(model: &Pipeline) -> String {
    let of_weight = |param: &Param| -> [u8; 32] {
        let mut hasher = Sha256::new();
        hasher.update(format!("{} {:?}\n", param.name, param.shape));
        hasher.update(hash_numbers(&to_vec(param.value.clone())));
        hasher.finalize().into()
    };
    let weights: Vec<[u8; 32]> = model.params().entries().par_iter().map(of_weight).collect();
    let options = model.reader().options;
    let gray16 = match options.gray16 {
        Gray16::Clip => "clip",
        Gray16::Scale => "scale",
    };
    // Older indexes know nothing of it.
    let truncated = match options.truncated {
        TruncatedImages::Refuse => "",
        TruncatedImages::Fill => " fill",
    };
    let mut hasher = Sha256::new();
    hasher.update(format!(
        "1 {} {} {} {gray16} {}{truncated}\n",
        model.image_res(),
        options.exif_orientation,
        options.background,
        serde_json::to_string(&options.resize_order).unwrap_or_default(),
    ));
    weights.iter().for_each(|hash| hasher.update(hash));
    hex(&hasher.finalize())
}

/// Digits of a hash.
pub(crate) fn hex(hash: &[u8]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The hash of numbers as little-endian bytes.
fn hash_numbers(values: &[f32]) -> [u8; 32] {
    const AT_ONCE: usize = 1 << 14;
    let mut hasher = Sha256::new();
    let mut bytes = Vec::with_capacity(AT_ONCE * size_of::<f32>());
    for some in values.chunks(AT_ONCE) {
        bytes.clear();
        bytes.extend(some.iter().flat_map(|value| value.to_le_bytes()));
        hasher.update(&bytes);
    }
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_hashed_as_their_bytes() {
        for length in [0, 3, (1 << 14) + 1] {
            let values: Vec<f32> = (0..length).map(|i| i as f32 - 0.5).collect();
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            assert_eq!(hash_numbers(&values)[..], Sha256::digest(&bytes)[..]);
        }
    }
}
