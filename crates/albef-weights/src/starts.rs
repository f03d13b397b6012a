//! Starting weights from other models (paper section 3.5).

use crate::tensor::StateDict;
use crate::tied::with_originals;

/// Names of a BERT (with or without `bert.`, with `gamma`/`beta` or `weight`/`bias`) as those of
/// ALBEF's `text_encoder`; pooler and next-sentence head are left out.
#[must_use]
pub fn from_bert(mut state: StateDict) -> StateDict {
    with_originals(&mut state);
    state
        .into_iter()
        .filter(|(n, _)| !n.contains("pooler.") && !n.contains("seq_relationship"))
        .filter(|(n, _)| !n.ends_with("position_ids") && !n.ends_with("predictions.decoder.weight"))
        .filter(|(n, _)| !n.ends_with("predictions.decoder.bias"))
        .map(|(name, tensor)| {
            let name = with_modern_norms(&name);
            let name = match name.strip_prefix("bert.") {
                Some(body) => format!("text_encoder.bert.{body}"),
                None if name.starts_with("cls.") => format!("text_encoder.{name}"),
                None => format!("text_encoder.bert.{name}"),
            };
            (name, tensor)
        })
        .collect()
}

/// Layer norms of old files, whose parameters are called `gamma` and `beta`.
#[must_use]
pub fn with_modern_norms(name: &str) -> String {
    let name = name.replace("LayerNorm.gamma", "LayerNorm.weight");
    name.replace("LayerNorm.beta", "LayerNorm.bias")
}

/// Names of a DeiT as those of ALBEF's `visual_encoder`; the classifier is left out.
#[must_use]
pub fn from_deit(state: StateDict) -> StateDict {
    state
        .into_iter()
        .filter(|(n, _)| !n.starts_with("head."))
        .map(|(n, t)| (format!("visual_encoder.{n}"), t))
        .collect()
}
