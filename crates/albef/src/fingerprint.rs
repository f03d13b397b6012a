//! By what a model with its way to read images is known again.

use albef_data::image::{Gray16, TruncatedImages};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::ops::Precision;
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
    // Older indexes know nothing of these two.
    let truncated = match options.truncated {
        TruncatedImages::Refuse => "",
        TruncatedImages::Fill => " fill",
    };
    let precision = match model.precision() {
        Precision::F32 => "",
        Precision::Bf16 => " bf16",
    };
    let mut hasher = Sha256::new();
    hasher.update(format!(
        "1 {} {} {} {gray16} {}{truncated}{precision}\n",
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
    use albef_data::image::RgbImage;

    use super::*;
    use crate::pipeline::tests::nano;

    #[test]
    fn numbers_are_hashed_as_their_bytes() {
        for length in [0, 3, (1 << 14) + 1] {
            let values: Vec<f32> = (0..length).map(|i| i as f32 - 0.5).collect();
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            assert_eq!(hash_numbers(&values)[..], Sha256::digest(&bytes)[..]);
        }
    }

    #[test]
    fn bf16_moves_outputs_a_little_and_is_known_again() {
        let (plain, rounded) = (nano(), nano().with_precision(Precision::Bf16));
        let image = [RgbImage::filled(30, 20, [10, 200, 90])];
        let features = |model: &Pipeline| {
            let [text, image] =
                [model.embed_text("a dog").unwrap(), model.embed_images(&image).unwrap().remove(0)];
            (text, image)
        };
        let ((text, of_image), (text_b, image_b)) = (features(&plain), features(&rounded));
        let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        for (f32, bf16) in [(&text, &text_b), (&of_image, &image_b)] {
            assert!(cosine(f32, bf16) > 0.9995, "{}", cosine(f32, bf16));
            assert_eq!(f32 != bf16, crate::device::bf16_unit().is_some());
        }
        let logit = |model: &Pipeline| model.match_text(&image, "a dog").unwrap()[0].itm_logit;
        assert!((logit(&plain) - logit(&rounded)).abs() < 0.05);
        let same = fingerprint(&plain) == fingerprint(&rounded);
        assert_eq!(same, crate::device::bf16_unit().is_none());
        let back = rounded.with_precision(Precision::F32);
        assert_eq!(features(&back), (text, of_image));
        assert_eq!(fingerprint(&back), fingerprint(&plain));
    }
}
