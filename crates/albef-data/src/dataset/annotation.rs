//! The official annotation lists: JSON objects with `image`, `caption` and perhaps `image_id`.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::source::{Location, Sample};
use crate::error::{DataError, Result};

/// The captions of an entry: a string, or a list of strings.
pub(super) fn captions(entry: &Value) -> Result<Vec<String>, String> {
    match entry.get("caption").or_else(|| entry.get("text")) {
        Some(Value::String(s)) => Ok(vec![s.clone()]),
        Some(Value::Array(list)) if !list.is_empty() => list
            .iter()
            .map(|c| c.as_str().map(str::to_owned).ok_or_else(|| format!("caption {c} is no text")))
            .collect(),
        Some(other) => Err(format!("`caption` is {other}; it must be a text or a list of texts")),
        None => Err("there is no `caption`".into()),
    }
}

/// The key of an entry's image, if it gives one.
pub(super) fn image_key(entry: &Value) -> Option<String> {
    match entry.get("image_id")? {
        Value::String(s) => Some(s.clone()),
        Value::Null => None,
        other => Some(other.to_string()),
    }
}

pub(super) fn read(path: &Path, root: Option<&Path>) -> Result<Vec<Sample>> {
    let text = fs::read_to_string(path).map_err(DataError::io(path))?;
    let fail = |place: String, detail: String| DataError::annotation(path, place, detail);
    let list: Value = serde_json::from_str(&text).map_err(|e| {
        fail(format!(", line {}", e.line()), format!("not a JSON list of objects: {e}"))
    })?;
    let Value::Array(list) = list else {
        return Err(fail(String::new(), "the file must hold a JSON list of objects".into()));
    };
    list.iter()
        .enumerate()
        .map(|(i, entry)| {
            let at = || format!(", entry {i}");
            let Some(image) = entry.get("image").and_then(Value::as_str) else {
                return Err(fail(at(), "there is no text under `image`".into()));
            };
            let captions = captions(entry).map_err(|e| fail(at(), e))?;
            let file = root.map_or_else(|| image.into(), |r| r.join(image));
            Ok(Sample {
                location: Location::File(file),
                name: image.to_owned(),
                captions,
                key: image_key(entry).unwrap_or_else(|| image.to_owned()),
            })
        })
        .collect()
}
