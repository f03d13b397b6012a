//! The official annotation lists: JSON objects with `image`, `caption` and perhaps `image_id`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::source::{Location, Sample, place_key};
use super::tasks::TaskFields;
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
        None => Err(missing("caption", entry)),
    }
}

/// What to say of an entry without a key: which keys it has shows a misspelt one.
pub(super) fn missing(key: &str, entry: &Value) -> String {
    match entry.as_object() {
        Some(o) if !o.is_empty() => {
            let found = o.keys().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ");
            format!("there is no text under `{key}`; the entry has {found}")
        }
        Some(_) => "the entry is empty; it needs `image` and `caption`".into(),
        None => "the entry is no object with `image` and `caption`".into(),
    }
}

/// Reads a text file without the byte order mark that some editors put first.
pub(super) fn text_of(path: &Path) -> Result<String> {
    let text = fs::read_to_string(path).map_err(DataError::io(path))?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// The key of an entry's image, if it gives one.
pub(super) fn image_key(entry: &Value) -> Option<String> {
    match entry.get("image_id")? {
        Value::String(s) => Some(s.clone()),
        Value::Null => None,
        other => Some(other.to_string()),
    }
}

/// Where a picture of a list lies without a root: as it stands, else beside the list.
pub(super) fn found(image: &str, list: &Path) -> PathBuf {
    let (stands, beside) = (PathBuf::from(image), list.with_file_name(image));
    if stands.is_relative() && !stands.exists() && beside.exists() { beside } else { stands }
}

pub(super) fn read(path: &Path, root: Option<&Path>) -> Result<Vec<Sample>> {
    let text = text_of(path)?;
    let fail = |place: String, detail: String| DataError::annotation(path, place, detail);
    let list: Value = serde_json::from_str(&text).map_err(|e| {
        fail(format!(", line {}", e.line()), format!("not a JSON list of objects: {e}"))
    })?;
    let Value::Array(list) = list else {
        let detail = "the file must hold a JSON list of objects; hint: a file of one object a line \
                      is read when its name ends in .jsonl";
        return Err(fail(String::new(), detail.into()));
    };
    list.iter()
        .enumerate()
        .map(|(i, entry)| {
            let at = || format!(", entry {i}");
            let Some(image) = entry.get("image").and_then(Value::as_str) else {
                return Err(fail(at(), missing("image", entry)));
            };
            let captions = captions(entry).map_err(|e| fail(at(), e))?;
            let location =
                Location::File(root.map_or_else(|| found(image, path), |r| r.join(image)));
            let key = image_key(entry).unwrap_or_else(|| place_key(&location, image));
            Ok(Sample {
                location,
                name: image.to_owned(),
                captions,
                key,
                task: TaskFields::default(),
            })
        })
        .collect()
}
