//! Checkpoints of other implementations.

use crate::tensor::StateDict;

/// First components of its names that the official code does not have.
pub(crate) const PARTS: [&str; 3] = ["vision_encoder", "multimodal_encoder", "answer_decoder"];

/// Longest first where one is part of another.
const TEXT_PARTS: [(&str, &str); 10] = [
    ("cross_attention_layernorm", "crossattention.output.LayerNorm"),
    ("cross_attention.output", "crossattention.output.dense"),
    ("cross_attention.", "crossattention.self."),
    ("attention_layernorm", "attention.output.LayerNorm"),
    ("attention.output", "attention.output.dense"),
    ("attention.", "attention.self."),
    ("feedforward.model.0", "intermediate.dense"),
    ("feedforward.model.2", "output.dense"),
    ("feedforward.model.3", "output.dense"),
    ("feedforward_layernorm", "output.LayerNorm"),
];

const VISION_PARTS: [(&str, &str); 10] = [
    ("ln_1", "norm1"),
    ("ln_2", "norm2"),
    ("self_attention.in_proj_", "attn.qkv."),
    ("self_attention.out_proj", "attn.proj"),
    ("mlp.linear_1", "mlp.fc1"),
    ("mlp.linear_2", "mlp.fc2"),
    ("mlp.0", "mlp.fc1"),
    ("mlp.3", "mlp.fc2"),
    ("norm1", "norm1"),
    ("norm2", "norm2"),
];

fn renamed(rest: &str, parts: &[(&str, &str)]) -> String {
    parts
        .iter()
        .find_map(|(from, to)| rest.strip_prefix(from).map(|end| format!("{to}{end}")))
        .unwrap_or_else(|| rest.to_owned())
}

fn layer(rest: &str, offset: usize) -> Option<String> {
    let (number, after) = rest.split_once('.')?;
    let number: usize = number.parse().ok()?;
    Some(format!("encoder.layer.{}.{}", number + offset, renamed(after, &TEXT_PARTS)))
}

fn vision(rest: &str) -> Option<String> {
    let rest = rest.strip_prefix("encoder.")?;
    if rest == "class_token" {
        return Some("cls_token".into());
    }
    if let Some(end) = rest.strip_prefix("conv_proj.") {
        return Some(format!("patch_embed.proj.{end}"));
    }
    let rest = rest.strip_prefix("encoder.")?;
    if rest == "pos_embedding" {
        return Some("pos_embed".into());
    }
    if let Some(end) = rest.strip_prefix("ln.") {
        return Some(format!("norm.{end}"));
    }
    let (number, after) = rest.strip_prefix("layers.encoder_layer_")?.split_once('.')?;
    Some(format!("blocks.{number}.{}", renamed(after, &VISION_PARTS)))
}

/// A checkpoint under the official names: that of torchmultimodal's ALBEF with its keys renamed, any
/// other as it is. Of torchmultimodal's keys those without a counterpart keep their names, for the
/// accounting to report.
#[must_use]
pub fn with_official_names(state: StateDict) -> StateDict {
    let of_family = |name: &str| {
        let bare = without_prefix(name);
        bare.starts_with("vision_encoder.encoder.") || bare.starts_with("multimodal_encoder.layer.")
    };
    if !state.names().any(of_family) {
        return state;
    }
    let layer = |name: &str| {
        let rest = without_prefix(name).strip_prefix("text_encoder.encoder.layer.")?;
        rest.split('.').next()?.parse::<usize>().ok()
    };
    let fusion_layer = state.names().filter_map(layer).max().map_or(0, |n| n + 1);
    let mut out = StateDict::default();
    for (name, tensor) in state.iter() {
        let names = from_torchmultimodal(name, fusion_layer);
        if names.is_empty() {
            out.insert(name.to_owned(), tensor.clone());
        }
        for ours in names {
            out.insert(ours, tensor.clone());
        }
    }
    out
}

/// A name without what the classes of torchmultimodal put before it.
pub(crate) fn without_prefix(name: &str) -> &str {
    let prefixes = ["model_with_similarity.albef_model.", "model_with_similarity.", "model."];
    prefixes.iter().find_map(|p| name.strip_prefix(p)).unwrap_or(name)
}

/// The official names of a key of torchmultimodal's ALBEF; none for a key that it does not have.
/// `fusion_layer` is the number of layers of its text encoder.
#[must_use]
pub fn from_torchmultimodal(name: &str, fusion_layer: usize) -> Vec<String> {
    let bare = without_prefix(name);
    let Some((root, rest)) = bare.split_once('.') else { return vec![bare.to_owned()] };
    let (root, suffix) = root.strip_suffix("_m").map_or((root, ""), |r| (r, "_m"));
    let norm = |rest: &str| rest.replace("layer_norm", "LayerNorm");
    let found = match root {
        "vision_encoder" => vision(rest).map(|r| vec![format!("visual_encoder{suffix}.{r}")]),
        "text_encoder" => {
            let inner = match rest.strip_prefix("encoder.layer.") {
                Some(rest) => layer(rest, 0),
                None => Some(norm(rest)),
            };
            inner.map(|r| vec![format!("text_encoder{suffix}.{r}")])
        }
        "multimodal_encoder" => rest
            .strip_prefix("layer.")
            .and_then(|r| layer(r, fusion_layer))
            .map(|r| vec![format!("text_encoder{suffix}.{r}")]),
        "answer_decoder" => {
            let body = format!("text_decoder{suffix}.bert");
            let head = format!("text_decoder{suffix}.cls.predictions");
            if let Some(rest) = rest.strip_prefix("text_embeddings.") {
                Some(vec![format!("{body}.embeddings.{}", norm(rest))])
            } else if let Some(rest) = rest.strip_prefix("multimodal_encoder.layer.") {
                layer(rest, 0).map(|r| vec![format!("{body}.{r}")])
            } else {
                rest.strip_prefix("prediction_head.").map(|rest| match rest {
                    "decoder.bias" => vec![format!("{head}.decoder.bias"), format!("{head}.bias")],
                    "decoder.weight" => vec![format!("{head}.decoder.weight")],
                    _ => vec![format!("{head}.transform.{}", norm(rest))],
                })
            }
        }
        _ => Some(vec![bare.to_owned()]),
    };
    found.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::HostTensor;

    #[test]
    fn a_whole_checkpoint_is_renamed_and_others_are_left_alone() {
        let tensor = |v: f32| HostTensor::from_f32(&[1], &[v]);
        let of = |names: &[&str]| -> StateDict {
            names.iter().zip(1_u8..).map(|(n, v)| ((*n).to_owned(), tensor(v.into()))).collect()
        };
        let prefix = "model_with_similarity.albef_model.";
        let theirs = [
            "vision_encoder.encoder.class_token",
            "text_encoder.encoder.layer.0.feedforward.model.0.weight",
            "text_encoder.encoder.layer.1.feedforward.model.0.weight",
            "multimodal_encoder.layer.0.cross_attention.query.weight",
        ]
        .map(|n| format!("{prefix}{n}"));
        let ours = [
            "visual_encoder.cls_token",
            "text_encoder.encoder.layer.0.intermediate.dense.weight",
            "text_encoder.encoder.layer.1.intermediate.dense.weight",
            "text_encoder.encoder.layer.2.crossattention.self.query.weight",
        ];
        assert_eq!(with_official_names(of(&theirs.each_ref().map(String::as_str))), of(&ours));
        assert_eq!(with_official_names(of(&ours)), of(&ours));
    }
}
