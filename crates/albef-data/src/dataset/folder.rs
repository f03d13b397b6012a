//! A folder of pictures with captions beside them.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::annotation::{captions, image_key, missing, text_of};
use super::shard;
use super::source::{Contents, Location, Sample, Skipped, place_key};
use super::tasks::TaskFields;
use super::unread::{Looks, looks, refusal};
use crate::error::{DataError, ImageError, ImageErrorKind, Result};

/// How the names of pictures end.
pub(super) const ENDINGS: [&str; 7] = ["jpg", "jpeg", "png", "webp", "gif", "bmp", "jfif"];

/// Reads `captions.jsonl`, `captions.csv` or the `.txt` beside each picture; a picture without
/// captions is kept, for searching. A folder of nothing but archives gives their samples.
pub(super) fn read(folder: &Path) -> Result<Contents> {
    let list = folder.join("captions.jsonl");
    if list.is_file() {
        return captions_jsonl(&list, folder).map(Contents::from);
    }
    let list = folder.join("captions.csv");
    if list.is_file() {
        return captions_csv(&list, folder).map(Contents::from);
    }
    let (mut files, mut left_out) = pictures(folder)?;
    files.sort();
    left_out.sort_by(|a, b| a.name.cmp(&b.name));
    let is_unread = |s: &Skipped| matches!(s.error.kind, ImageErrorKind::Unsupported(_));
    if files.is_empty() && left_out.iter().all(is_unread) {
        let mut all = shards(folder)?;
        all.left_out.extend(left_out);
        return Ok(all);
    }
    let samples: Result<Vec<Sample>> =
        files.into_iter().map(|path| picture(path, folder)).collect();
    Ok(Contents { samples: samples?, left_out })
}

/// A picture below `folder`, with the captions of the `.txt` beside it.
pub(super) fn picture(path: PathBuf, folder: &Path) -> Result<Sample> {
    let text = path.with_extension("txt");
    let captions = if text.is_file() {
        let text = text_of(&text)?;
        text.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned).collect()
    } else {
        Vec::new()
    };
    let name = path.strip_prefix(folder).unwrap_or(&path).display().to_string();
    let location = Location::File(path);
    let (key, task) = (place_key(&location, &name), TaskFields::default());
    Ok(Sample { key, location, name, captions, task })
}

/// Whether a name ends as those of pictures do.
pub(super) fn is_picture(path: &Path) -> bool {
    let ending = path.extension().and_then(|e| e.to_str());
    ending.is_some_and(|e| ENDINGS.contains(&e.to_lowercase().as_str()))
}

fn shards(folder: &Path) -> Result<Contents> {
    let mut archives = Vec::new();
    for entry in fs::read_dir(folder).map_err(DataError::io(folder))? {
        let path = entry.map_err(DataError::io(folder))?.path();
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("tar")) {
            archives.push(path);
        }
    }
    archives.sort();
    let mut all = Contents::default();
    for archive in archives {
        all.extend(shard::read(&archive)?);
    }
    Ok(all)
}

/// The pictures below a folder, and what below it cannot be read: folders, and pictures of other formats. Folders that links lead to are
/// walked after all others, and none twice: a link may lead back up.
fn pictures(top: &Path) -> Result<(Vec<PathBuf>, Vec<Skipped>)> {
    let (mut files, mut left_out, mut walked) = (Vec::new(), Vec::new(), HashSet::new());
    let mut open = vec![top.to_owned()];
    let mut links = BTreeSet::new();
    while let Some(folder) = open.pop().or_else(|| links.pop_first()) {
        let opened = fs::canonicalize(&folder).and_then(|at| Ok((at, fs::read_dir(&folder)?)));
        let entries = match opened {
            Ok((at, _)) if walked.contains(&at) => continue,
            Ok((at, entries)) => {
                walked.insert(at);
                entries
            }
            Err(cause) if folder == top => return Err(DataError::io(top)(cause)),
            Err(cause) => {
                let detail = format!("the folder cannot be read: {cause}");
                let error = ImageError { kind: ImageErrorKind::Io, detail };
                left_out.push(Skipped { name: folder.display().to_string(), error });
                continue;
            }
        };
        for entry in entries {
            let entry = entry.map_err(DataError::io(&folder))?;
            let path = entry.path();
            // Some systems leave `._name.jpg` beside each file, which is no picture.
            if path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b".")) {
                continue;
            }
            let kind = entry.file_type().map_err(DataError::io(&path))?;
            if kind.is_dir() {
                open.push(path);
            } else if path.is_dir() {
                links.insert(path);
            } else {
                match looks(&path) {
                    Looks::Image => files.push(path),
                    Looks::Unread(format) => {
                        let name = path.strip_prefix(top).unwrap_or(&path).display().to_string();
                        left_out.push(Skipped { name, error: refusal(format) });
                    }
                    Looks::Other => {}
                }
            }
        }
    }
    Ok((files, left_out))
}

fn sample(root: &Path, image: &str, captions: Vec<String>, key: Option<String>) -> Sample {
    let location = Location::File(root.join(image));
    let key = key.unwrap_or_else(|| place_key(&location, image));
    Sample { location, name: image.to_owned(), captions, key, task: TaskFields::default() }
}

pub(super) fn captions_jsonl(path: &Path, root: &Path) -> Result<Vec<Sample>> {
    let text = text_of(path)?;
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(i, line)| {
            let fail =
                |detail: String| DataError::annotation(path, format!(", line {}", i + 1), detail);
            let entry: Value =
                serde_json::from_str(line).map_err(|e| fail(format!("not JSON: {e}")))?;
            let image = entry.get("image").and_then(Value::as_str);
            let image = image.ok_or_else(|| fail(missing("image", &entry)))?;
            let captions = captions(&entry).map_err(fail)?;
            Ok(sample(root, image, captions, image_key(&entry)))
        })
        .collect()
}

/// Rows of one image are its captions.
pub(super) fn captions_csv(path: &Path, root: &Path) -> Result<Vec<Sample>> {
    let fail = |place: String, detail: String| DataError::annotation(path, place, detail);
    let mut reader =
        csv::Reader::from_path(path).map_err(|e| fail(String::new(), e.to_string()))?;
    let header = reader.headers().map_err(|e| fail(", line 1".into(), e.to_string()))?.clone();
    let column = |name: &str| header.iter().position(|h| h.trim() == name);
    let (Some(image), Some(caption)) = (column("image"), column("caption")) else {
        let found = header.iter().collect::<Vec<_>>().join(", ");
        let detail = format!("the header must name `image` and `caption`; it has: {found}");
        return Err(fail(", line 1".into(), detail));
    };
    let id = column("image_id");
    let mut samples: Vec<Sample> = Vec::new();
    let mut place = std::collections::HashMap::new();
    for row in reader.records() {
        let row = row.map_err(|e| {
            let line = e.position().map_or(0, csv::Position::line);
            fail(format!(", line {line}"), e.to_string())
        })?;
        let field = |i: usize| row.get(i).unwrap_or_default().to_owned();
        let name = field(image);
        let at = *place.entry(name.clone()).or_insert_with(|| {
            let id = id.map(field).filter(|id| !id.is_empty());
            samples.push(sample(root, &name, Vec::new(), id));
            samples.len() - 1
        });
        samples[at].captions.push(field(caption));
    }
    Ok(samples)
}
