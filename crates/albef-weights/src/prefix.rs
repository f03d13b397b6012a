//! Where in the names of a file the model begins, and what models of the same family it may be.

use std::collections::BTreeMap;

use crate::schema::AVERAGED;
use crate::tensor::StateDict;

/// The part that every model has, by which the beginning of its names is found.
const MARK: &str = "visual_encoder.";
/// First components of names that are the model's wherever they are.
const ROOTS: [&str; 6] = ["temp", "itm_head", "cls_head", "ta_head", "image_queue", "text_queue"];
/// Last components of prefixes, the preferred ones first; those of averages last.
const KNOWN: [&str; 10] = [
    "model",
    "net",
    "network",
    "albef",
    "student",
    "online",
    "backbone",
    "ema",
    "model_ema",
    "teacher",
];

/// The names of a model without what is before all of them (`model.`, `student.`), and what a user
/// should know about it. Of several models in a file one is taken.
pub(crate) fn without_prefix(state: StateDict) -> (StateDict, Vec<String>) {
    let mut found = BTreeMap::<String, usize>::new();
    for name in state.names() {
        if name.starts_with(MARK) {
            *found.entry(String::new()).or_default() += 1;
        } else if let Some(at) = name.find(&format!(".{MARK}")) {
            *found.entry(name[..=at].to_owned()).or_default() += 1;
        }
    }
    let rank = |prefix: &str| {
        let last = prefix.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
        KNOWN.iter().position(|k| *k == last).map_or(KNOWN.len(), |at| at + 1)
    };
    let best = found.keys().min_by_key(|p| if p.is_empty() { 0 } else { rank(p) }).cloned();
    let Some(best) = best.filter(|best| !best.is_empty() || found.len() > 1) else {
        return (state, Vec::new());
    };
    let of_model = |name: &str| {
        let root = name.split('.').next().unwrap_or_default();
        let plain = root.strip_suffix("_m").unwrap_or(root);
        ROOTS.contains(&root)
            || AVERAGED.contains(&plain)
            || root == "queue_ptr"
            || root == "idx_queue"
    };
    let others: Vec<&String> = found.keys().filter(|p| **p != best && !p.is_empty()).collect();
    let mut out = StateDict::default();
    let mut left = BTreeMap::<String, usize>::new();
    for (name, tensor) in state {
        if !best.is_empty() && name.starts_with(&best) {
            out.insert(name[best.len()..].to_owned(), tensor);
        } else if let Some(other) = others.iter().find(|p| name.starts_with(**p)) {
            *left.entry(format!("tensors under `{other}`")).or_default() += 1;
        } else if best.is_empty() || of_model(&name) {
            if out.get(&name).is_none() {
                out.insert(name, tensor);
            }
        } else {
            *left.entry(format!("beside it (`{name}`)")).or_default() += 1;
        }
    }
    let mut notes = Vec::new();
    if !best.is_empty() {
        notes.push(format!("all names begin with `{best}`, which is taken off"));
    }
    if !left.is_empty() {
        let left: Vec<String> =
            left.iter().take(5).map(|(what, n)| format!("{n} {what}")).collect();
        notes.push(format!("not used: {}", left.join(", ")));
    }
    (out, notes)
}

/// Why the tensors of a file are not those of an ALBEF: the model of which they are, and the way out.
pub(crate) fn of_another_model(state: &StateDict) -> Option<String> {
    let starts = |part: &str| state.names().any(|n| n.starts_with(part));
    let has = |part: &str| state.names().any(|n| n.contains(part));
    let other = |name: &str| {
        Some(format!(
            "this is a checkpoint of {name}, which is another model than ALBEF; {USE_ALBEF}"
        ))
    };
    if starts("visual_encoder_m.") && !starts(MARK) {
        return Some(
            "this file has the momentum copies of a model alone (`visual_encoder_m.…`); use the \
             checkpoint from which they were taken"
                .into(),
        );
    }
    if has("_flat_param") {
        return Some(
            "its weights are flattened by FSDP (`_flat_param`); save it again with a full state dictionary \
             (`StateDictType.FULL_STATE_DICT`)"
                .into(),
        );
    }
    // ALBEF's answer decoder has cross-attention in all layers, its text encoder in the upper ones.
    let first = |root: &str| {
        let cross = "encoder.layer.0.crossattention.";
        state.names().any(|n| n.starts_with(root) && n.contains(cross))
    };
    let crossing = first("text_encoder.") || (first("text_decoder.") && !starts("text_encoder."));
    let typed = has("token_type_embeddings");
    if starts(MARK) && crossing && !typed {
        return other("BLIP");
    }
    if starts("Qformer.") || starts("query_tokens") || starts("qformer.") {
        return other("BLIP-2 or InstructBLIP");
    }
    if starts("vision_model.") && starts("text_model.") {
        return other("CLIP or SigLIP (of Transformers)");
    }
    if starts("vision_model.") && (starts("text_encoder.") || starts("text_decoder.")) {
        return other("BLIP (of Transformers)");
    }
    if starts("visual.") && (starts("transformer.resblocks.") || starts("text.")) {
        return other("CLIP");
    }
    if starts("vision_encoder.") && starts("bbox_head.") {
        return other("X-VLM");
    }
    if starts("text_embeddings.") && starts("transformer.") {
        return other("ViLT");
    }
    None
}

const USE_ALBEF: &str = "use one of ALBEF's";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::HostTensor;

    fn of(names: &[&str]) -> StateDict {
        names.iter().map(|n| ((*n).to_owned(), HostTensor::from_f32(&[1], &[1.0]))).collect()
    }

    fn names(state: &StateDict) -> Vec<&str> {
        state.names().collect()
    }

    #[test]
    fn what_is_before_all_names_is_taken_off_and_another_model_left_out() {
        let plain = of(&["visual_encoder.norm.weight", "temp", "extra"]);
        assert_eq!(without_prefix(plain.clone()), (plain, vec![]));
        let (state, notes) = without_prefix(of(&[
            "model.visual_encoder.norm.weight",
            "model.temp",
            "itm_head.bias",
            "criterion.weight",
            "model_ema.visual_encoder.norm.weight",
            "model_ema.temp",
        ]));
        assert_eq!(names(&state), ["visual_encoder.norm.weight", "temp", "itm_head.bias"]);
        assert!(notes[0].contains("`model.`"), "{notes:?}");
        assert!(notes[1].contains("2 tensors under `model_ema.`"), "{notes:?}");
        assert!(notes[1].contains("1 beside it (`criterion.weight`)"), "{notes:?}");
        let (state, notes) = without_prefix(of(&[
            "visual_encoder.norm.bias",
            "temp",
            "ema.visual_encoder.norm.bias",
        ]));
        assert_eq!(names(&state), ["visual_encoder.norm.bias", "temp"]);
        assert!(notes[0].contains("`ema.`"), "{notes:?}");
    }

    #[test]
    fn neighbors_are_called_by_their_names() {
        let said = |names: &[&str]| of_another_model(&of(names)).unwrap_or_default();
        let blip = "text_encoder.encoder.layer.0.crossattention.self.query.weight";
        assert!(said(&["visual_encoder.norm.weight", blip]).contains("BLIP"));
        let types = "text_encoder.embeddings.token_type_embeddings.weight";
        assert_eq!(said(&["visual_encoder.norm.weight", blip, types]), "");
        let decoder = blip.replace("text_encoder.", "text_decoder.bert.");
        assert!(said(&["visual_encoder.norm.weight", &decoder]).contains("BLIP"));
        let vqa = ["visual_encoder.norm.weight", "text_encoder.encoder.layer.0.x", &decoder];
        assert_eq!(said(&vqa), "");
        assert!(said(&["_flat_param"]).contains("FSDP"));
        let late = blip.replace("layer.0", "layer.6");
        assert_eq!(said(&["visual_encoder.norm.weight", &late]), "");
        assert!(said(&["visual_encoder_m.norm.weight"]).contains("momentum copies"));
        assert!(said(&["visual.conv1.weight", "transformer.resblocks.0.x"]).contains("CLIP"));
    }
}
