//! Which of the dictionaries of a pickle holds the weights.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::rc::Rc;

use super::Checkpoint;
use super::view::{Budget, gather};
use crate::error::{Result, WeightsError};
use crate::pickle::{Parts, Storage, Value};
use crate::tensor::{Bytes, DType, HostTensor, StateDict};
use crate::words::counted;

/// Keys under which training code keeps weights, the preferred ones first; averages of them last.
const KNOWN: [&str; 22] = [
    "model",
    "state_dict",
    "model_state_dict",
    "model_state",
    "module",
    "net",
    "network",
    "albef",
    "student",
    "state",
    "weights",
    "params",
    "parameters",
    "model_ema",
    "ema",
    "ema_model",
    "ema_state_dict",
    "state_dict_ema",
    "model_ema_state_dict",
    "averaged_model",
    "shadow_params",
    "teacher",
];
/// Parts of keys under which no weights are.
const NO_WEIGHTS: [&str; 5] = ["optim", "sched", "scaler", "rng", "config"];
/// Dictionaries within each other in which weights are looked for.
const DEPTH: usize = 3;
/// Names that a message lists.
const SHOWN: usize = 8;

/// A dictionary with tensors.
struct Set {
    path: Vec<String>,
    entries: Rc<RefCell<Parts>>,
    tensors: usize,
    /// Place of its key among the known ones.
    rank: usize,
}

impl Set {
    fn name(&self) -> String {
        self.path.join(".")
    }
}

fn is_tensor(value: &Value) -> bool {
    matches!(value, Value::Tensor(_) | Value::Unread(..))
}

/// Keys and values, a later value in the place of an earlier one of the same key.
fn entries(parts: &Parts) -> Vec<(&str, &Value)> {
    let mut place = HashMap::new();
    let mut out: Vec<(&str, &Value)> = Vec::new();
    for (key, value) in parts.pairs() {
        let Some(key) = key.text() else { continue };
        match place.get(key) {
            Some(at) => out[*at] = (key, value),
            None => {
                place.insert(key, out.len());
                out.push((key, value));
            }
        }
    }
    out
}

fn find(
    dict: &Rc<RefCell<Parts>>,
    path: &[String],
    seen: &mut HashSet<*const RefCell<Parts>>,
    out: &mut Vec<Set>,
) {
    if !seen.insert(Rc::as_ptr(dict)) {
        return;
    }
    let parts = dict.borrow();
    let all = entries(&parts);
    let tensors = all.iter().filter(|(_, value)| is_tensor(value)).count();
    if tensors > 0 {
        let of = |key: &String| KNOWN.iter().position(|k| k == key).unwrap_or(KNOWN.len());
        let rank = path.last().map_or(0, of);
        out.push(Set { path: path.to_vec(), entries: dict.clone(), tensors, rank });
    }
    for (key, value) in all {
        let lower = key.to_ascii_lowercase();
        if let Value::Dict(inner) = value
            && path.len() < DEPTH
            && !NO_WEIGHTS.iter().any(|part| lower.contains(part))
        {
            find(inner, &[path, &[key.to_owned()]].concat(), seen, out);
        }
    }
}

/// The tensors of a pickle: those of the dictionary that holds the weights, which is the value itself
/// or one in it.
pub(super) fn collect(
    path: &Path,
    value: &Value,
    mut budget: Budget,
    mut bytes_of: impl FnMut(&Storage) -> Result<Bytes>,
) -> Result<Checkpoint> {
    let Value::Dict(top) = value else {
        return Err(WeightsError::damaged(path, no_dictionary(value, None)));
    };
    let mut sets = Vec::new();
    find(top, &[], &mut HashSet::new(), &mut sets);
    // A tensor or two beside a wrapped set are no weights; many are, whatever is wrapped beside them.
    let beside = sets.iter().find(|s| s.path.is_empty()).map_or(0, |s| s.tensors);
    let best = sets
        .iter()
        .filter(|s| !s.path.is_empty() && (s.rank == 0 || s.tensors >= beside))
        .min_by_key(|s| (s.rank, s.path.len(), Reverse(s.tensors)))
        .or_else(|| sets.first());
    let Some(best) = best else {
        return Err(WeightsError::damaged(path, without_tensors(top)));
    };
    let mut tensors = StateDict::default();
    let mut cache: HashMap<Rc<str>, Bytes> = HashMap::new();
    let mut types: HashMap<Rc<str>, DType> = HashMap::new();
    let parts = best.entries.borrow();
    for (name, value) in entries(&parts) {
        let tensor = match value {
            Value::Unread(kind, shape) => HostTensor::unread(kind, shape.to_vec()),
            Value::Tensor(view) => {
                let storage = &view.storage;
                let fail = |e: String| WeightsError::damaged(path, format!("`{name}`: {e}"));
                let first = *types.entry(storage.key.clone()).or_insert(storage.dtype);
                if first != storage.dtype {
                    let other = storage.dtype;
                    return Err(fail(format!(
                        "storage `{}` is named under the types {first} and {other}",
                        storage.key
                    )));
                }
                if !cache.contains_key(&storage.key) {
                    cache.insert(storage.key.clone(), bytes_of(storage)?);
                }
                let bytes = named_part(storage, &cache[&storage.key]).ok_or_else(|| {
                    fail(format!("storage `{}` has fewer elements than it should", storage.key))
                })?;
                gather(view, &bytes, &mut budget).map_err(fail)?
            }
            _ => continue,
        };
        tensors.insert(name.to_owned(), tensor);
    }
    let root = (!best.path.is_empty()).then(|| best.name());
    Ok(Checkpoint { tensors, notes: notes(best, &sets), root, ..Checkpoint::default() })
}

/// The bytes that a storage names: as many elements as it has, or those of its part.
fn named_part(storage: &Storage, bytes: &Bytes) -> Option<Bytes> {
    let (first, count) = storage.part.unwrap_or((0, storage.elements));
    let end = first.checked_add(count).filter(|end| *end <= storage.elements)?;
    bytes.slice(first.checked_mul(storage.size)?..end.checked_mul(storage.size)?)
}

/// What a user should know of the choice.
fn notes(best: &Set, sets: &[Set]) -> Vec<String> {
    let mut notes = Vec::new();
    let tensors = |n: usize| counted(n, "tensor");
    let own = match best.path.is_empty() {
        true => "the top level".to_owned(),
        false => format!("`{}`", best.name()),
    };
    let others: Vec<String> = sets
        .iter()
        .filter(|s| s.path != best.path)
        .map(|s| match s.path.is_empty() {
            true => format!("{} beside it", tensors(s.tensors)),
            false => format!("{} under `{}`", tensors(s.tensors), s.name()),
        })
        .collect();
    if !others.is_empty() {
        let shown = others[..others.len().min(SHOWN)].join(", ");
        let more = if others.len() > SHOWN { ", …" } else { "" };
        notes.push(format!(
            "the weights are the {} of {own}; not used: {shown}{more}",
            tensors(best.tensors)
        ));
    } else if !best.path.is_empty() && best.path != ["model"] {
        notes.push(format!("the weights are those of {own}"));
    }
    let parts = best.entries.borrow();
    let nameless =
        parts.pairs().filter(|(key, value)| key.text().is_none() && is_tensor(value)).count();
    if nameless > 0 {
        notes.push(format!("not read: {} under keys that are not text", tensors(nameless)));
    }
    notes
}

/// What is found where a dictionary of tensors should be; `key`: under which key.
fn no_dictionary(value: &Value, key: Option<&str>) -> String {
    let place = key.map_or("this file holds".to_owned(), |key| format!("`{key}` holds"));
    match value {
        Value::Object(module, name) => {
            let class: String = format!("{module}.{name}").chars().take(96).collect();
            format!(
                "{place} a whole Python module (`{class}`), not its weights; load it in Python and \
                 save `model.state_dict()`"
            )
        }
        Value::Tensor(_) | Value::Unread(..) => {
            format!("{place} one tensor without a name; expected are tensors by name")
        }
        _ => format!(
            "{place} no dictionary; expected are tensors by name, or such a dictionary under `model`"
        ),
    }
}

/// What is found where tensors should be.
fn without_tensors(top: &Rc<RefCell<Parts>>) -> String {
    let top = top.borrow();
    let all = entries(&top);
    let known = |key: &str| KNOWN.contains(&key);
    let wrapped = all.iter().find_map(|(key, value)| match value {
        Value::Dict(inner) if known(key) => Some((*key, inner)),
        _ => None,
    });
    let object = all.iter().find(|(key, value)| known(key) && matches!(value, Value::Object(..)));
    if let (None, Some((key, value))) = (wrapped, object) {
        return no_dictionary(value, Some(key));
    }
    let shown = |key: &Value| match key.text() {
        Some(text) => format!("`{}`", text.chars().take(64).collect::<String>()),
        None => "one that is not text".to_owned(),
    };
    let describe = |parts: &Parts| {
        let keys: Vec<String> = parts.pairs().take(SHOWN).map(|(key, _)| shown(key)).collect();
        let all = parts.pairs().count();
        match all {
            0 => "no key (0 in all)".to_owned(),
            _ => {
                let more = if all > SHOWN { ", …" } else { "" };
                format!("{}{more} ({all} in all)", keys.join(", "))
            }
        }
    };
    let (place, found) = match wrapped {
        Some((key, inner)) => (format!("its `{key}`"), describe(&inner.borrow())),
        None => ("its top level".to_owned(), describe(&top)),
    };
    format!(
        "there is no tensor in this checkpoint: {place} holds {found}; expected are tensors by name, \
         or such a dictionary under `model`"
    )
}
