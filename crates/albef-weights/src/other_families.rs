//! Checkpoints of other implementations (spec `model` section 9).

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

/// The official names of a key of torchmultimodal's ALBEF; none for a key that it does not have.
/// `fusion_layer` is the number of layers of its text encoder.
#[must_use]
pub fn from_torchmultimodal(name: &str, fusion_layer: usize) -> Vec<String> {
    let prefixes = ["model_with_similarity.albef_model.", "model_with_similarity.", "model."];
    let bare = prefixes.iter().find_map(|p| name.strip_prefix(p)).unwrap_or(name);
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
