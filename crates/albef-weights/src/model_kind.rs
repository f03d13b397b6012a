//! What model the tensors of a file are of, where it is none of ALBEF's.

use std::fmt;

use crate::prefix::{KNOWN, MARK, ROOTS, is_of_a_part};
use crate::tensor::StateDict;
use crate::words::counted;

/// What was found where an ALBEF, or a start of one of its sides, was expected, told by the names of the
/// tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ModelKind {
    /// A BERT alone, as the text side starts from.
    Bert,
    /// A ViT alone under timm's names, as the image side starts from; DeiT is one.
    Vit,
    /// A DeiT with a distillation token, from which the image side does not start.
    DistilledVit,
    /// Another model, by its name.
    Other(&'static str),
}

/// Heads and decoders that neither a BERT nor a ViT has.
const BEYOND_SIDES: [&str; 3] = ["vision_proj", "text_proj", "text_decoder"];

impl ModelKind {
    /// The model of which these tensors are; `None` for an ALBEF, and where nothing is known of it.
    #[must_use]
    pub fn of(state: &StateDict) -> Option<Self> {
        // Beside the image encoder of this family, other models are what a trainer keeps: a teacher, a loss.
        let own = state.names().any(|n| n.starts_with(MARK));
        let names: Vec<&str> = state.names().map(|n| if own { n } else { bare(n) }).collect();
        let starts = |part: &str| names.iter().any(|n| n.starts_with(part));
        let has = |part: &str| names.iter().any(|n| n.contains(part));
        // ALBEF's answer decoder has cross-attention in all layers, its text encoder in the upper ones.
        let first = |root: &str| {
            let cross = "encoder.layer.0.crossattention.";
            names.iter().any(|n| n.starts_with(root) && n.contains(cross))
        };
        let crossing =
            first("text_encoder.") || (first("text_decoder.") && !starts("text_encoder."));
        let typed = has("token_type_embeddings");
        let resblocks = starts("transformer.resblocks.") || starts("text.");
        // The first that holds.
        let of_family = [
            (starts(MARK) && crossing && !typed, "BLIP"),
            (
                starts("Qformer.") || starts("query_tokens") || starts("qformer."),
                "BLIP-2 or InstructBLIP",
            ),
        ];
        let others = [
            (starts("flava.") || (starts("image_model.") && starts("text_model.")), "FLAVA"),
            (starts("vision_model.") && starts("text_model."), "CLIP or SigLIP (of Transformers)"),
            (
                starts("vision_model.") && (starts("text_encoder.") || starts("text_decoder.")),
                "BLIP (of Transformers)",
            ),
            (starts("visual.") && starts("text_decoder."), "CoCa"),
            (starts("visual.") && resblocks && starts("logit_bias"), "SigLIP (of OpenCLIP)"),
            (starts("visual.") && resblocks, "CLIP"),
            (
                starts("vision_encoder.") && (starts("bbox_head.") || starts("text_encoder.")),
                "X-VLM",
            ),
            (starts("text_embeddings.") && starts("transformer."), "ViLT"),
            (starts("vilt.") || starts("embeddings.text_embeddings."), "ViLT (of Transformers)"),
            (has("visn_fc.") || has(".x_layers."), "LXMERT"),
            (starts("beit3."), "BEiT-3"),
            (starts("distilbert."), "DistilBERT"),
        ];
        // torchmultimodal's ALBEF has such an image encoder too.
        let family = starts("multimodal_encoder.") || starts("vision_encoder.encoder.");
        let others = of_family.iter().chain(others.iter().filter(|_| !own));
        if let Some((_, name)) = others.filter(|_| !family).find(|(is, _)| *is) {
            return Some(Self::Other(name));
        }
        let beyond_sides = |n: &&str| {
            let root = n.split('.').next().unwrap_or_default();
            ROOTS.contains(&root) || BEYOND_SIDES.contains(&root) || root.ends_with("_m")
        };
        if family || names.iter().any(beyond_sides) {
            return None;
        }
        let ends = |part: &str| {
            names
                .iter()
                .any(|n| n.strip_suffix(part).is_some_and(|p| p.is_empty() || p.ends_with('.')))
        };
        let text = ends("embeddings.word_embeddings.weight")
            || has("encoder.layer.0.attention.self.query.");
        let image = has("patch_embed.proj.") || (ends("cls_token") && ends("pos_embed"));
        match (text, image) {
            (true, false) => Some(Self::Bert),
            (false, true) if ends("dist_token") => Some(Self::DistilledVit),
            (false, true) => Some(Self::Vit),
            (false, false) if ends("embeddings.cls_token") => {
                Some(Self::Other("a ViT or DeiT under the names of Transformers, not timm's"))
            }
            _ => None,
        }
    }

    /// What it is and the way out, where the start of one side is wanted, [`Bert`](Self::Bert) or
    /// [`Vit`](Self::Vit); `None` if it is one.
    #[must_use]
    pub fn instead_of(&self, wanted: Self) -> Option<String> {
        if *self == wanted {
            return None;
        }
        Some(match self {
            Self::Bert => format!("this is {self}; hint: name it under `init_text`"),
            Self::Vit => format!("this is {self}; hint: name it under `init_vision`"),
            Self::DistilledVit => format!(
                "this is {self}, which ALBEF does not start from; hint: use the plain {DEIT} with \
                 `init_vision`"
            ),
            Self::Other(_) => {
                let hint = if wanted == Self::Bert { "a BERT" } else { DEIT };
                format!(
                    "this is a checkpoint of {self}, which is no start of this side; hint: use {hint}"
                )
            }
        })
    }

    /// What it is and the way out, where a whole ALBEF is wanted.
    #[must_use]
    pub fn instead_of_albef(&self) -> String {
        match self {
            Self::Bert => format!(
                "this is {self} alone, the text side of a model, and not a whole ALBEF; hint: pre-training \
                 starts from it with `init_text`; for all else {USE_ALBEF}"
            ),
            Self::Vit => format!(
                "this is {self} alone, the image side of a model, and not a whole ALBEF; hint: pre-training \
                 starts from it with `init_vision`; for all else {USE_ALBEF}"
            ),
            Self::DistilledVit => format!(
                "this is {self} alone, and not a whole ALBEF; hint: pre-training starts from the plain \
                 {DEIT} with `init_vision`; for all else {USE_ALBEF}"
            ),
            Self::Other(_) => format!(
                "this is a checkpoint of {self}, which is another model than ALBEF; {USE_ALBEF}"
            ),
        }
    }
}

impl fmt::Display for ModelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bert => "a BERT",
            Self::Vit => "a ViT",
            Self::DistilledVit => "a distilled DeiT (with `dist_token`)",
            Self::Other(name) => name,
        })
    }
}

/// The image side's start in the paper.
const DEIT: &str = "`deit_base_patch16_224`";
const USE_ALBEF: &str = "use one of ALBEF's";

/// A name without what trainers put before it.
fn bare(mut name: &str) -> &str {
    while let Some((first, rest)) = name.split_once('.')
        && KNOWN.contains(&first)
    {
        name = rest;
    }
    name
}

/// Why the tensors of a file are not those of an ALBEF: the model of which they are, and the way out.
pub(crate) fn why_no_albef(state: &StateDict) -> Option<String> {
    let starts = |part: &str| state.names().any(|n| n.starts_with(part));
    if starts("visual_encoder_m.") && !starts(MARK) {
        return Some(
            "this file has the momentum copies of a model alone (`visual_encoder_m.…`); use the \
             checkpoint from which they were taken"
                .into(),
        );
    }
    if state.names().any(|n| n.contains("_flat_param")) {
        return Some(
            "its weights are flattened by FSDP (`_flat_param`); save it again with a full state dictionary \
             (`StateDictType.FULL_STATE_DICT`)"
                .into(),
        );
    }
    if let Some(kind) = ModelKind::of(state) {
        return Some(kind.instead_of_albef());
    }
    let part = |name: &str| name.split('.').any(is_of_a_part);
    let first = state.names().next().filter(|_| !state.names().any(part))?;
    Some(format!(
        "nothing in this file is of a part that an ALBEF has (`visual_encoder.…`, `text_encoder.…`): it \
         holds {} such as `{first}`; {USE_ALBEF}",
        counted(state.len(), "tensor")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::HostTensor;

    fn of(names: &[&str]) -> StateDict {
        names.iter().map(|n| ((*n).to_owned(), HostTensor::from_f32(&[1], &[1.0]))).collect()
    }

    fn text_layer(part: &str) -> String {
        format!("bert.encoder.layer.0.{part}.self.query.weight")
    }

    fn kind(names: &[&str]) -> Option<ModelKind> {
        ModelKind::of(&of(names))
    }

    #[test]
    fn neighbors_are_called_by_their_names() {
        let blip = "text_encoder.encoder.layer.0.crossattention.self.query.weight";
        let image = "visual_encoder.norm.weight";
        let named = |names: &[&str]| match kind(names) {
            Some(ModelKind::Other(name)) => name,
            other => panic!("{names:?}: {other:?}"),
        };
        assert_eq!(named(&[image, blip]), "BLIP");
        let types = "text_encoder.embeddings.token_type_embeddings.weight";
        assert_eq!(kind(&[image, blip, types]), None);
        let decoder = blip.replace("text_encoder.", "text_decoder.bert.");
        assert_eq!(named(&[image, &decoder]), "BLIP");
        assert_eq!(kind(&[image, "text_encoder.encoder.layer.0.x", &decoder]), None);
        assert_eq!(kind(&[image, &blip.replace("layer.0", "layer.6")]), None);
        let teacher = ["visual.conv1.weight", "teacher.text.x", "logit_bias", "text.x"];
        assert_eq!(kind(&[&[image, "text_encoder.bert.x"], &teacher[..]].concat()), None);
        for (names, name) in [
            (&["visual.conv1.weight", "transformer.resblocks.0.x"][..], "CLIP"),
            (&["model.visual.conv1.weight", "model.text.token_embedding.weight"], "CLIP"),
            (
                &["visual.trunk.x", "text.transformer.resblocks.0.x", "logit_bias"],
                "SigLIP (of OpenCLIP)",
            ),
            (&["visual.conv1.weight", "text.x", "text_decoder.resblocks.0.x"], "CoCa"),
            (&["vision_model.x", "text_model.x"], "CLIP or SigLIP (of Transformers)"),
            (&["vilt.embeddings.text_embeddings.word_embeddings.weight"], "ViLT (of Transformers)"),
            (&["embeddings.text_embeddings.word_embeddings.weight"], "ViLT (of Transformers)"),
            (&["text_embeddings.word_embeddings.weight", "transformer.cls_token"], "ViLT"),
            (&["vision_encoder.cls_token", "text_encoder.bert.x", "temp"], "X-VLM"),
            (&["vision_encoder.cls_token", "bbox_head.0.weight"], "X-VLM"),
            (&["bert.embeddings.word_embeddings.weight", "bert.encoder.visn_fc.x"], "LXMERT"),
            (&["flava.text_model.embeddings.word_embeddings.weight"], "FLAVA"),
            (&["beit3.text_embed.weight"], "BEiT-3"),
        ] {
            assert_eq!(named(names), name, "{names:?}");
            let said = why_no_albef(&of(names)).unwrap();
            assert!(said.contains("another model than ALBEF"), "{said}");
        }
    }

    #[test]
    fn one_side_alone_is_named_with_the_key_that_takes_it() {
        let words = "embeddings.word_embeddings.weight";
        for prefix in ["", "bert.", "model.bert.", "text_encoder.bert."] {
            assert_eq!(kind(&[&format!("{prefix}{words}")]), Some(ModelKind::Bert), "{prefix}");
        }
        assert_eq!(kind(&["encoder.layer.0.attention.self.query.bias"]), Some(ModelKind::Bert));
        for names in [
            &["patch_embed.proj.bias"][..],
            &["cls_token", "pos_embed", "blocks.0.norm1.weight"],
            &["model.backbone.cls_token", "model.backbone.pos_embed"],
            &["visual_encoder.patch_embed.proj.weight"],
        ] {
            assert_eq!(kind(names), Some(ModelKind::Vit), "{names:?}");
        }
        let distilled = kind(&["cls_token", "dist_token", "pos_embed"]).unwrap();
        assert_eq!(distilled, ModelKind::DistilledVit);
        assert!(distilled.instead_of_albef().contains("`deit_base_patch16_224`"));
        assert!(ModelKind::Bert.instead_of_albef().contains("with `init_text`"));
        assert!(ModelKind::Vit.instead_of_albef().contains("with `init_vision`"));
        let crossing = text_layer("crossattention");
        assert_eq!(kind(&[&text_layer("attention"), &crossing]), Some(ModelKind::Bert));
        // A damaged ALBEF is not called one of its sides.
        let text = format!("text_encoder.bert.{words}");
        assert_eq!(kind(&[&text, "temp"]), None);
        assert_eq!(kind(&[&text, "visual_encoder.patch_embed.proj.weight"]), None);
    }

    #[test]
    fn another_start_of_a_side_than_its_own_is_named() {
        let said = |names: &[&str], wanted| {
            kind(names).and_then(|kind| kind.instead_of(wanted)).unwrap_or_default()
        };
        let bert = ["bert.embeddings.word_embeddings.weight"];
        let deit = ["cls_token", "pos_embed", "blocks.0.norm1.weight"];
        let distilled = ["cls_token", "pos_embed", "dist_token"];
        let clip = ["visual.conv1.weight", "transformer.resblocks.0.x"];
        let (text, image) = (ModelKind::Bert, ModelKind::Vit);
        assert_eq!((said(&bert, text), said(&deit, image)), (String::new(), String::new()));
        assert_eq!(said(&deit, text), "this is a ViT; hint: name it under `init_vision`");
        assert_eq!(said(&bert, image), "this is a BERT; hint: name it under `init_text`");
        for wanted in [text, image] {
            assert!(said(&distilled, wanted).contains("use the plain `deit_base_patch16_224`"));
            assert!(said(&clip, wanted).starts_with("this is a checkpoint of CLIP, which is no"));
        }
    }

    #[test]
    fn a_file_of_something_else_is_told_from_a_part_of_a_model() {
        let said = |names: &[&str]| why_no_albef(&of(names)).unwrap_or_default();
        assert!(said(&["w"]).contains("it holds 1 tensor such as `w`"), "{}", said(&["w"]));
        assert!(said(&["_flat_param"]).contains("FSDP"));
        assert!(said(&["visual_encoder_m.norm.weight"]).contains("momentum copies"));
        assert_eq!(said(&["other.text_encoder.bert.x"]), "");
        assert_eq!(said(&["temp"]), "");
    }
}
