//! Where in the names of a file the model begins, and what beside it is not of the model.

use std::collections::BTreeMap;

use crate::schema::AVERAGED;
use crate::tensor::{DType, StateDict};
use crate::torchmultimodal;
use crate::words::{counted, some};

/// The part that every model has, by which the beginning of its names is found.
pub(crate) const MARK: &str = "visual_encoder.";
/// First components of names that are the model's wherever they are.
pub(crate) const ROOTS: [&str; 8] = [
    "temp",
    "itm_head",
    "cls_head",
    "ta_head",
    "image_queue",
    "text_queue",
    "queue_ptr",
    "idx_queue",
];
/// Last components of prefixes, the preferred ones first; those of averages last.
pub(crate) const KNOWN: [&str; 10] = [
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
    let others: Vec<&String> = found.keys().filter(|p| **p != best && !p.is_empty()).collect();
    let mut out = StateDict::default();
    let mut left = BTreeMap::<&String, usize>::new();
    for (name, tensor) in state {
        if !best.is_empty() && name.starts_with(&best) {
            out.insert(name[best.len()..].to_owned(), tensor);
        } else if let Some(other) = others.iter().find(|p| name.starts_with(**p)) {
            *left.entry(other).or_default() += 1;
        } else if out.get(&name).is_none() {
            out.insert(name, tensor);
        }
    }
    let mut notes = Vec::new();
    if !best.is_empty() {
        notes.push(format!("all names begin with `{best}`, which is taken off"));
    }
    if !left.is_empty() {
        let left: Vec<String> = left
            .iter()
            .map(|(other, n)| format!("{} under `{other}`", counted(*n, "tensor")))
            .collect();
        notes.push(format!("not used: {}", left.join(", ")));
    }
    (out, notes)
}

/// Whether a name is of a part that a model of this family has, under the official names, those of LAVIS or
/// torchmultimodal's.
pub(crate) fn is_of_a_part(name: &str) -> bool {
    let bare = torchmultimodal::without_prefix(name);
    let root = bare.split('.').next().unwrap_or_default();
    let plain = root.strip_suffix("_m").unwrap_or(root);
    ROOTS.contains(&root) || AVERAGED.contains(&plain) || torchmultimodal::PARTS.contains(&plain)
}

/// The tensors of a model without those that are of no part of it (the count of an averaged model, a
/// trainer's loss), and a note on these. A state without both sides is left as it is, for messages to show it.
pub(crate) fn without_strangers(state: StateDict) -> (StateDict, Option<String>) {
    let starts = |part: &str| state.names().any(|n| n.starts_with(part));
    if !starts(MARK) || !(starts("text_encoder.") || starts("text_decoder.")) {
        return (state, None);
    }
    let mut strangers = Vec::new();
    let mut out = StateDict::default();
    for (name, tensor) in state {
        // What is not read at all is reported with its type.
        if is_of_a_part(&name) || matches!(tensor.dtype, DType::Unread(_)) {
            out.insert(name, tensor);
        } else {
            strangers.push(name);
        }
    }
    if strangers.is_empty() {
        return (out, None);
    }
    let note = format!(
        "not used, of no part of an ALBEF: {} ({})",
        counted(strangers.len(), "tensor"),
        some(&strangers)
    );
    (out, Some(note))
}

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
            "model_ema.visual_encoder.norm.weight",
            "model_ema.temp",
        ]));
        assert_eq!(names(&state), ["visual_encoder.norm.weight", "temp", "itm_head.bias"]);
        assert!(notes[0].contains("`model.`"), "{notes:?}");
        assert!(notes[1].contains("2 tensors under `model_ema.`"), "{notes:?}");
        let (state, notes) = without_prefix(of(&[
            "visual_encoder.norm.bias",
            "temp",
            "ema.visual_encoder.norm.bias",
        ]));
        assert_eq!(names(&state), ["visual_encoder.norm.bias", "temp"]);
        assert!(notes[0].contains("`ema.`"), "{notes:?}");
    }

    #[test]
    fn what_is_of_no_part_of_a_model_is_left_out_with_and_without_a_prefix() {
        let model = ["visual_encoder.norm.weight", "text_encoder.bert.x", "temp", "queue_ptr"];
        let strangers = ["n_averaged", "criterion.weight", "loss.num_batches_tracked"];
        for (prefix, beside) in [("", ""), ("model.", ""), ("model.", "model.")] {
            let own = model.iter().map(|n| format!("{prefix}{n}"));
            let all: Vec<String> =
                own.chain(strangers.iter().map(|n| format!("{beside}{n}"))).collect();
            let (state, _) = without_prefix(of(&all.iter().map(|n| &**n).collect::<Vec<_>>()));
            let (state, note) = without_strangers(state);
            assert_eq!(names(&state), model);
            assert_eq!(
                note.unwrap(),
                "not used, of no part of an ALBEF: 3 tensors (`n_averaged`, `criterion.weight`, …)"
            );
        }
        // What is unexpected inside of a part stays, whatever it is called, and so does a part alone.
        for inside in [
            "visual_encoder.n_averaged",
            "vision_proj_m.x",
            "cls_head.4.weight",
            "model_with_similarity.albef_model.vision_encoder.encoder.x",
        ] {
            let all = of(&[&model[..], &[inside]].concat());
            assert_eq!(without_strangers(all.clone()), (all, None));
        }
        let alone = of(&["visual_encoder.norm.weight", "bert.x"]);
        assert_eq!(without_strangers(alone.clone()), (alone, None));
    }
}
