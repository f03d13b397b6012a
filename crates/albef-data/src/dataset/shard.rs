//! Tar shards in the webdataset manner: a picture and a `.json` or `.txt` of the same stem.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::annotation::{captions, image_key};
use super::source::{Location, Sample, place_key};
use super::tasks::TaskPart;
use crate::error::{DataError, Result};

/// The files of a pattern: braces with a range (`{000..012}`) or a list (`{a,b}`), and `*` in the
/// last component.
pub(super) fn expand(pattern: &str) -> Result<Vec<PathBuf>> {
    let fail = |detail: String| DataError::annotation(Path::new(pattern), String::new(), detail);
    if let Some(open) = pattern.find('{') {
        let close = pattern[open..].find('}').ok_or_else(|| fail("`{` without `}`".into()))? + open;
        let (head, body, tail) =
            (&pattern[..open], &pattern[open + 1..close], &pattern[close + 1..]);
        let parts: Vec<String> = match body.split_once("..") {
            Some((from, to)) => {
                let number =
                    |s: &str| s.parse::<u64>().map_err(|_| fail(format!("`{s}` is no number")));
                let (first, last) = (number(from)?, number(to)?);
                if first > last || last - first > 1_000_000 {
                    return Err(fail(format!("`{{{body}}}` is no rising range")));
                }
                (first..=last).map(|i| format!("{i:0width$}", width = from.len())).collect()
            }
            None => body.split(',').map(str::to_owned).collect(),
        };
        let mut all = Vec::new();
        for part in parts {
            all.extend(expand(&format!("{head}{part}{tail}"))?);
        }
        return Ok(all);
    }
    let path = Path::new(pattern);
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let Some((before, after)) = name.split_once('*') else { return Ok(vec![path.to_owned()]) };
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(DataError::io(folder))? {
        let entry = entry.map_err(DataError::io(folder))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let long = name.len() >= before.len() + after.len();
        if long && name.starts_with(before) && name.ends_with(after) {
            found.push(entry.path());
        }
    }
    found.sort();
    if found.is_empty() {
        return Err(fail("no file fits this pattern".into()));
    }
    Ok(found)
}

#[derive(Default)]
struct Parts {
    picture: Option<(String, u64, u64)>,
    words: Option<Value>,
}

/// The samples of one shard, in order of first appearance. Headers are read once; pictures stay
/// where they are.
pub(super) fn read(path: &Path) -> Result<Vec<Sample>> {
    let file = File::open(path).map_err(DataError::io(path))?;
    let size = file.metadata().map_err(DataError::io(path))?.len();
    let mut archive = tar::Archive::new(file);
    let mut parts: HashMap<String, Parts> = HashMap::new();
    let mut order = Vec::new();
    let damaged = |at: u64, e: &dyn std::fmt::Display| {
        DataError::annotation(path, format!(", byte {at}"), format!("damaged archive: {e}"))
    };
    let mut at = 0;
    for entry in archive.entries_with_seek().map_err(|e| damaged(0, &e))? {
        let mut entry = entry.map_err(|e| damaged(at, &e))?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let (offset, len) = (entry.raw_file_position(), entry.size());
        at = offset;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        // Members are padded to whole blocks; seeking would not notice a cut in the padding.
        if offset.saturating_add(len).div_ceil(512).saturating_mul(512) > size {
            return Err(damaged(offset, &format!("it ends inside `{name}`")));
        }
        if name.rsplit('/').next().is_some_and(|n| n.starts_with('.')) {
            continue;
        }
        let (stem, ending) = name.rsplit_once('.').unwrap_or((&name, ""));
        let stem = stem.to_owned();
        let slot = parts.entry(stem.clone()).or_insert_with(|| {
            order.push(stem);
            Parts::default()
        });
        match ending.to_lowercase().as_str() {
            "json" | "txt" => {
                let mut text = String::new();
                entry.read_to_string(&mut text).map_err(|e| damaged(offset, &e))?;
                slot.words = Some(if ending.eq_ignore_ascii_case("json") {
                    serde_json::from_str(&text).map_err(|e| {
                        let detail = format!("member `{name}`: {e}");
                        DataError::annotation(path, format!(", byte {offset}"), detail)
                    })?
                } else {
                    let lines: Vec<&str> =
                        text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
                    serde_json::json!({ "caption": lines })
                });
            }
            "jpg" | "jpeg" | "png" | "webp" | "gif" | "bmp" => {
                slot.picture = Some((name, offset, len));
            }
            _ => {}
        }
    }
    let mut samples = Vec::new();
    for stem in order {
        let Some(Parts { picture: Some((name, offset, len)), words }) = parts.remove(&stem) else {
            continue;
        };
        let captions = match &words {
            Some(words) => captions(words)
                .map_err(|e| DataError::annotation(path, format!(", sample `{stem}`"), e))?,
            None => Vec::new(),
        };
        let location = Location::Member { archive: path.to_owned(), offset, len };
        let key = words.as_ref().and_then(image_key);
        let key = key.unwrap_or_else(|| place_key(&location, &name));
        samples.push(Sample { location, name, captions, key, task: TaskPart::default() });
    }
    Ok(samples)
}
