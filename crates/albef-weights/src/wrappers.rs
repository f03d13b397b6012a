//! Names of weights without those of the modules that training code wraps around a model.

use std::collections::BTreeMap;

use crate::error::{Result, WeightsError};
use crate::tensor::StateDict;
use crate::words::counted;

/// Components of names that stand for a wrapper, wherever they are in a name: `torch.compile`, data
/// parallelism, FSDP of both generations, activation checkpointing, and launchers.
const WRAPPERS: [&str; 8] = [
    "_orig_mod",
    "module",
    "_fsdp_wrapped_module",
    "_fpw_module",
    "_checkpoint_wrapped_module",
    "_forward_module",
    "_original_module",
    "_dp_module",
];

/// A name without wrappers.
fn bare(name: &str) -> String {
    let parts = name.split('.').filter(|part| !WRAPPERS.contains(part));
    parts.collect::<Vec<_>>().join(".")
}

/// Takes wrappers off all names. Gives what was taken off, with the number of names, or nothing.
///
/// # Errors
/// If two different tensors get one name.
pub(crate) fn unwrapped(state: StateDict, source: &str) -> Result<(StateDict, Option<String>)> {
    let wrapped = |name: &str| name.split('.').any(|part| WRAPPERS.contains(&part));
    if !state.names().any(wrapped) {
        return Ok((state, None));
    }
    let (mut found, mut count) = (BTreeMap::<String, usize>::new(), 0);
    let mut out = StateDict::default();
    let mut before = BTreeMap::<String, String>::new();
    for (name, tensor) in state {
        let short = bare(&name);
        if short != name {
            count += 1;
            for part in name.split('.').filter(|part| WRAPPERS.contains(part)) {
                *found.entry(format!("`{part}.`")).or_default() += 1;
            }
        }
        if short.is_empty() {
            return Err(WeightsError::Keys(format!("{source}: `{name}` names a wrapper alone")));
        }
        if let Some(other) = out.get(&short).filter(|t| **t != tensor) {
            let first = before.get(&short).cloned().unwrap_or_default();
            return Err(WeightsError::Keys(format!(
                "{source}: `{first}` {:?} and `{name}` {:?} differ and have one name without their \
                 wrappers, `{short}`; hint: remove one of them",
                other.shape, tensor.shape
            )));
        }
        before.insert(short.clone(), name);
        out.insert(short, tensor);
    }
    let parts: Vec<&str> = found.keys().map(String::as_str).collect();
    let keys = counted(count, "key");
    let note = format!("names of wrappers are taken off {keys}: {}", parts.join(", "));
    Ok((out, Some(note)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::HostTensor;

    #[test]
    fn wrappers_of_any_order_number_and_place_are_taken_off() {
        for (name, want) in [
            ("_orig_mod.module.visual_encoder.norm.weight", "visual_encoder.norm.weight"),
            ("module._orig_mod.temp", "temp"),
            ("module.module.temp", "temp"),
            (
                "visual_encoder._orig_mod.blocks.0._checkpoint_wrapped_module.attn.qkv.weight",
                "visual_encoder.blocks.0.attn.qkv.weight",
            ),
            (
                "_fsdp_wrapped_module.text_encoder._fsdp_wrapped_module.bert.x",
                "text_encoder.bert.x",
            ),
            ("text_encoder.modules.x", "text_encoder.modules.x"),
        ] {
            assert_eq!(bare(name), want);
        }
    }

    #[test]
    fn two_tensors_of_one_name_are_refused_unless_they_are_equal() {
        let of = |second: f32| {
            StateDict::from_iter([
                ("w".to_owned(), HostTensor::from_f32(&[1], &[1.0])),
                ("module.w".to_owned(), HostTensor::from_f32(&[1], &[second])),
            ])
        };
        let (state, note) = unwrapped(of(1.0), "x.pth").unwrap();
        assert_eq!((state.len(), note.unwrap().contains("`module.`")), (1, true));
        let error = unwrapped(of(2.0), "x.pth").unwrap_err().to_string();
        assert!(error.contains("`w`") && error.contains("`module.w`"), "{error}");
    }
}
