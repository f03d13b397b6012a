//! Fuse: matching pairs and masked captions through the fusion layers, as one packed batch.

use burn::tensor::Tensor;

use super::align::Encoded;
use super::draws::RngState;
use super::words::MaskedTokens;
use crate::error::Result;
use crate::model::{Encoders, ImageContext, OutputRows, Sequence, TokenBatch};
use crate::ops::index;

/// What the heads read of the fused states; `None` where nothing is to be read.
#[derive(Default)]
pub(super) struct Fused {
    /// `[CLS]` of each matching pair.
    pub pairs: Option<Tensor<2>>,
    /// The rows that [`MaskedTokens::read`] names, text by text.
    pub words: Option<Tensor<2>>,
}

/// The pairs (text, image) of a batch: its own, a negative image for each text, a negative text for
/// each image. Rows without a negative are left out.
pub(super) fn matching_pairs(
    negative_image: &[Option<usize>],
    negative_text: &[Option<usize>],
) -> Vec<(usize, usize)> {
    let mut pairs: Vec<(usize, usize)> = (0..negative_image.len()).map(|b| (b, b)).collect();
    pairs.extend(negative_image.iter().enumerate().filter_map(|(b, j)| j.map(|j| (b, j))));
    pairs.extend(negative_text.iter().enumerate().filter_map(|(b, k)| k.map(|k| (k, b))));
    pairs
}

pub(super) fn fuse(
    online: &Encoders,
    captions: &TokenBatch,
    encoded: &Encoded,
    pairs: &[(usize, usize)],
    words: &MaskedTokens,
    draws: &mut RngState,
) -> Result<Fused> {
    let encoder = &online.text_encoder;
    let device = encoded.text.device();
    let mut rows = Vec::new();
    let mut sequences = Vec::new();
    let mut image_of = Vec::new();
    for (text, image) in pairs {
        let s = captions.sequences[*text];
        sequences.push(Sequence { start: rows.len(), ..s });
        rows.extend(s.range());
        image_of.push(*image);
    }
    let mut read: Vec<Vec<usize>> = vec![vec![0]; pairs.len()];
    let mut states = encoded.text.clone().select(0, index(&rows, &device));
    if words.any() {
        let masked = encoder.text(&words.tokens, OutputRows::All, &mut draws.text, None)?;
        states = if pairs.is_empty() { masked } else { Tensor::cat(vec![states, masked], 0) };
        for (b, s) in words.tokens.sequences.iter().enumerate() {
            sequences.push(Sequence { start: rows.len() + s.start, ..*s });
            image_of.push(b);
            read.push(words.read(b));
        }
    }
    if sequences.is_empty() {
        return Ok(Fused::default());
    }
    let context = ImageContext { states: &encoded.image, image_of: &image_of, visible: None };
    let fused = encoder.fusion(
        states,
        &sequences,
        context,
        OutputRows::Rows(&read),
        &mut draws.text,
        None,
    )?;
    let (first, rest) = (pairs.len(), fused.dims()[0] - pairs.len());
    Ok(Fused {
        pairs: (first > 0).then(|| fused.clone().narrow(0, 0, first)),
        words: (rest > 0).then(|| fused.narrow(0, first, rest)),
    })
}
