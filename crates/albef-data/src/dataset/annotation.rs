//! Lists of images with captions: entries with `image`, `caption` and perhaps `image_id`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::entries::{Entry, Splits, each_entry, is_table};
use super::source::{Contents, Location, Sample, Skipped, place_key};
use super::tasks::TaskFields;
use crate::error::{DataError, ImageErrorKind as Kind, Result};
use crate::input::id_text;
use crate::names;

/// The captions of an entry, and what is wrong with them. A text, or a list of texts, of which others than
/// texts are left out.
pub(super) fn captions(entry: &Value) -> (Vec<String>, Option<String>) {
    let given = |key: &str| entry.get(key).filter(|v| !v.is_null());
    match given("caption").or_else(|| given("text")) {
        Some(Value::String(s)) => (vec![s.clone()], None),
        Some(Value::Array(list)) => {
            let texts: Vec<String> =
                list.iter().filter_map(|c| c.as_str().map(str::to_owned)).collect();
            let fault = match list.iter().find(|c| !c.is_string()) {
                _ if list.is_empty() => Some("`caption` is an empty list".to_owned()),
                None => None,
                Some(odd) => Some(format!(
                    "{} of {} captions are no texts, such as {}",
                    list.len() - texts.len(),
                    list.len(),
                    short(odd)
                )),
            };
            (texts, fault)
        }
        Some(other) => {
            let detail =
                format!("`caption` is {}; it must be a text or a list of texts", short(other));
            (Vec::new(), Some(detail))
        }
        None if entry.get("caption").is_some() => {
            (Vec::new(), Some("`caption` is null; it must be a text or a list of texts".into()))
        }
        None => (Vec::new(), Some(missing("caption", entry))),
    }
}

/// A value for a message.
pub(super) fn short(value: &Value) -> String {
    const SHOWN: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// What to report of an entry without a key: which keys it has shows a misspelt one.
pub(super) fn missing(key: &str, entry: &Value) -> String {
    match entry.as_object() {
        Some(o) if !o.is_empty() => {
            let found = o.keys().take(20).map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ");
            format!("there is no text under `{key}`; the entry has {found}")
        }
        Some(_) => "the entry is empty; it needs `image` and `caption`".into(),
        None => "the entry is no object with `image` and `caption`".into(),
    }
}

/// The key of an entry's image, if it gives one.
pub(super) fn image_key(entry: &Value) -> Option<String> {
    id_text(entry.get("image_id")?).filter(|id| !id.is_empty())
}

/// Where an image of a list is without a root: as it stands if it is there, else beside the list.
pub(super) fn found(image: &str, list: &Path) -> PathBuf {
    let stands = names::path_of(image);
    match stands.is_relative() && !stands.exists() {
        true => list.with_file_name(stands),
        false => stands,
    }
}

/// How the images of a list are found.
#[derive(Clone, Copy)]
pub(super) enum Root<'a> {
    /// Below a folder.
    Folder(&'a Path),
    /// As they stand, else beside the list.
    Given,
}

/// Reads a list. An entry that gives no image is left out, one whose captions cannot be used keeps its
/// image; both are named. In a table the rows of one image are its captions.
pub(super) fn read(path: &Path, split: Option<&str>, root: Root<'_>) -> Result<Contents> {
    let mut list = List { path, root, out: Contents::default(), rows: HashMap::new(), first: None };
    let mut splits = Splits::new(split);
    let table = is_table(path);
    each_entry(path, &mut |entry: Entry| {
        if entry.value.as_ref().map_or(true, |v| splits.takes(v)) {
            list.take(entry, table);
        }
        Ok(())
    })?;
    let List { mut out, first, .. } = list;
    // Where no entry gives an image the list is of another form, and the first shows of which.
    match first {
        Some((place, detail)) if out.samples.is_empty() => {
            return Err(DataError::annotation(path, place, detail));
        }
        _ => {}
    }
    out.notes.extend(splits.end(path, out.samples.is_empty())?);
    Ok(out)
}

/// A list while it is read.
struct List<'a> {
    path: &'a Path,
    root: Root<'a>,
    out: Contents,
    /// The sample of each image of a table.
    rows: HashMap<String, usize>,
    /// The first fault.
    first: Option<(String, String)>,
}

impl List<'_> {
    fn fault(&mut self, place: &str, kind: Kind, detail: String) {
        self.first.get_or_insert_with(|| (place.to_owned(), detail.clone()));
        let found = Skipped::new(format!("{}{place}", self.path.display()), kind, detail);
        match kind {
            Kind::Entry => self.out.left_out.push(found),
            _ => self.out.faults.push(found),
        }
    }

    fn take(&mut self, Entry { place, value, mended }: Entry, table: bool) {
        let entry = match value {
            Ok(entry) => entry,
            Err(detail) => return self.fault(&place, Kind::Entry, detail),
        };
        let Some(image) = entry.get("image").and_then(Value::as_str).filter(|i| !i.is_empty())
        else {
            return self.fault(&place, Kind::Entry, missing("image", &entry));
        };
        let (captions, fault) = captions(&entry);
        if let Some(detail) = fault {
            self.fault(&place, Kind::Caption, detail);
        }
        if let Some(detail) = mended {
            let name = format!("{}{place}", self.path.display());
            self.out.faults.push(Skipped::new(name, Kind::Caption, detail));
        }
        if table {
            if let Some(at) = self.rows.get(image) {
                return self.out.samples[*at].captions.extend(captions);
            }
            self.rows.insert(image.to_owned(), self.out.samples.len());
        }
        let location = Location::File(match self.root {
            Root::Folder(root) => root.join(names::path_of(image)),
            Root::Given => found(image, self.path),
        });
        let key = image_key(&entry).unwrap_or_else(|| place_key(&location, image));
        let (name, task) = (image.to_owned(), TaskFields::default());
        self.out.samples.push(Sample { location, name, captions, key, task });
    }
}
