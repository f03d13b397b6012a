//! Lists of images with captions: entries with `image`, `caption` and perhaps `image_id`.

mod plain;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use self::plain::PlainEntry;
use super::contents::Gathered;
use super::entries::{Splits, each_entry, has_rows};
use super::entry::{Entry, Place};
use super::keys::{NUMBER, listed, numbered_captions, seems_a_list, with_own_keys};
use super::numbers::Hash128;
use super::roots::found;
use super::sample::{Location, Sample, Skipped, TaskFields, place_key, tidy};
use super::store::{Collect, Joined};
use crate::error::{DataError, ImageErrorKind as Kind, Result};
use crate::input::{Encoding, decode_text, id_text, no_text};
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
        None => match numbered_captions(entry) {
            texts if texts.is_empty() => (texts, Some(missing("caption", entry))),
            texts => (texts, None),
        },
    }
}

/// The captions of a text, one a line, and what is wrong with it.
pub(super) fn caption_lines(bytes: &[u8]) -> (Vec<String>, Option<String>) {
    if let Some(detail) = no_text(bytes, "a caption") {
        return (Vec::new(), Some(detail));
    }
    let Some((text, encoding)) = decode_text(bytes) else {
        return (Vec::new(), Some("the caption is no text in UTF-8".into()));
    };
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty());
    let fault = (encoding != Encoding::Utf8)
        .then(|| format!("the caption is no UTF-8 and is read as {}", encoding.name()));
    (lines.map(str::to_owned).collect(), fault)
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
        Some(o) if let Some(given) = o.get(key) => {
            format!("`{key}` is {}; it must be a text that is not empty", short(given))
        }
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

/// A key by which an entry with `image` and `text` is known as one of a list for grounding.
fn key_of_grounding(entry: &Value) -> Option<&'static str> {
    ["ref_id", "boxes", "box"].into_iter().find(|key| entry.get(key).is_some())
}

/// Which folders of relative paths are there as they stand and beside the list, so that most images of a long
/// list need not be looked for one by one.
struct Beside<'a> {
    list: &'a Path,
    folders: HashMap<PathBuf, Folders>,
}

#[derive(Clone, Copy)]
enum Folders {
    /// Only as the path stands, or both are one.
    Stands,
    /// Only beside the list, or neither.
    Beside,
    /// Either may have the image.
    Both,
}

impl Beside<'_> {
    /// [`found`] of an image.
    fn found(&mut self, image: &str) -> PathBuf {
        let stands = names::path_of(image);
        let Some(folder) = stands.parent().filter(|_| stands.is_relative()) else { return stands };
        let folders = match self.folders.get(folder) {
            Some(folders) => *folders,
            None => {
                let folders = self.look(folder);
                self.folders.insert(folder.to_owned(), folders);
                folders
            }
        };
        match folders {
            Folders::Stands => stands,
            Folders::Beside => self.list.with_file_name(stands),
            Folders::Both => found(image, self.list),
        }
    }

    fn look(&self, folder: &Path) -> Folders {
        let here = |path: &Path| match path.as_os_str().is_empty() {
            true => PathBuf::from("."),
            false => path.to_owned(),
        };
        let beside = here(&self.list.with_file_name("").join(folder));
        match (here(folder).canonicalize(), beside.canonicalize()) {
            (Ok(stands), Ok(beside)) if stands != beside => Folders::Both,
            (Ok(_), Ok(_)) => Folders::Stands,
            // A folder that cannot be looked into is tried image by image.
            (Ok(_), Err(_)) => Folders::Both,
            (Err(_), _) => Folders::Beside,
        }
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
pub(super) fn read<S: Collect>(
    path: &Path,
    split: Option<&str>,
    root: Root<'_>,
    out: &mut Gathered<S>,
) -> Result<()> {
    let before = out.samples.given();
    let beside = Beside { list: path, folders: HashMap::new() };
    let table = has_rows(path).then(|| Table { rows: HashMap::new(), joined: Joined::new() });
    let mut list = List { path, root, beside, out, table, first: None, begun: false };
    let mut splits = Splits::new(split);
    each_entry(path, &mut |entry| list.take(entry, &mut splits))?;
    let List { first, table, .. } = list;
    let is_table = table.is_some();
    if let Some(table) = table {
        table.joined.into_collector(&mut out.samples)?;
    }
    let empty = out.samples.given() == before;
    // Where no entry gives an image the list is of another form, and the first shows of which.
    match first {
        Some((place, detail)) if empty => {
            let detail = match is_table {
                true => format!(
                    "{detail}; the first line of a table names its columns, such as `image` and `caption`"
                ),
                false => detail,
            };
            return Err(DataError::annotation(path, place.to_string(), detail));
        }
        _ => {}
    }
    out.notes.extend(splits.end(path, empty)?);
    Ok(())
}

/// The rows of a table, those of one image together.
struct Table {
    /// The first row of each image.
    rows: HashMap<Hash128, u32>,
    joined: Joined,
}

/// A list while it is read.
struct List<'a, S> {
    path: &'a Path,
    root: Root<'a>,
    beside: Beside<'a>,
    out: &'a mut Gathered<S>,
    table: Option<Table>,
    /// The first fault.
    first: Option<(Place, String)>,
    /// Whether an entry was met.
    begun: bool,
}

impl<S: Collect> List<'_, S> {
    fn fault(&mut self, place: Place, kind: Kind, detail: String) {
        self.first.get_or_insert_with(|| (place, detail.clone()));
        let found = Skipped::new(format!("{}{place}", self.path.display()), kind, detail);
        match kind {
            Kind::Entry => self.out.left_out.push(found),
            _ => self.out.faults.push(found),
        }
    }

    fn take(&mut self, mut entry: Entry<'_>, splits: &mut Splits<'_>) -> Result<()> {
        let place = entry.place;
        if !std::mem::replace(&mut self.begun, true) {
            let key = entry.plain().and_then(|entry: Value| key_of_grounding(&entry));
            self.out.notes.extend(key.map(|key| {
                format!(
                    "{}: its entries have `{key}`, as those of lists for grounding; here they are read as images \
                     with captions alone",
                    self.path.display()
                )
            }));
        }
        if let Some((split, image, captions, id)) = entry.plain().and_then(PlainEntry::usable) {
            return match splits.takes_split(split.as_deref()) {
                true => self.push(image, captions, id, 0),
                false => Ok(()),
            };
        }
        let written = entry.take_written();
        let (value, mut mended) = entry.read();
        let mut entry = match value {
            Ok(entry) if !splits.takes(&entry) => return Ok(()),
            Ok(entry) => match written.map(|w| (with_own_keys(w.put_into(&entry)), w.alone)) {
                Some((named, alone)) if self.is_there(&named) => {
                    mended = mended.filter(|_| !alone);
                    named
                }
                _ => with_own_keys(entry),
            },
            Err(detail) => {
                self.fault(place, Kind::Entry, detail);
                return Ok(());
            }
        };
        let Some(image) = entry.get("image").and_then(Value::as_str).filter(|i| !i.is_empty())
        else {
            self.fault(place, Kind::Entry, missing("image", &entry));
            return Ok(());
        };
        let image = image.to_owned();
        if self.table.is_some()
            && let Some(caption) = entry.get_mut("caption")
        {
            *caption = listed(caption.take());
            if seems_a_list(caption) {
                let detail = "the caption seems to be a list, as Python prints it or cut, and is read as one text; \
                              write each caption in a row of its own";
                mended.get_or_insert_with(|| detail.to_owned());
            }
        }
        let (captions, fault) = captions(&entry);
        if let Some(detail) = fault {
            self.fault(place, Kind::Caption, detail);
        }
        if let Some(detail) = mended {
            let name = format!("{}{place}", self.path.display());
            self.out.faults.push(Skipped::new(name, Kind::Caption, detail));
        }
        let number = entry.get(NUMBER).and_then(id_text).and_then(|n| n.trim().parse().ok());
        self.push(image, captions, image_key(&entry), number.unwrap_or(0))
    }

    /// Whether the image of an entry is there.
    fn is_there(&mut self, entry: &Value) -> bool {
        let image = entry.get("image").and_then(Value::as_str).filter(|image| !image.is_empty());
        image.is_some_and(|image| self.path_of(image).exists())
    }

    /// Where an image of the list is.
    fn path_of(&mut self, name: &str) -> PathBuf {
        match self.root {
            Root::Folder(root) => root.join(names::path_of(name)),
            Root::Given => self.beside.found(name),
        }
    }

    /// `number`: of the captions among those of their image.
    fn push(
        &mut self,
        name: String,
        captions: Vec<String>,
        id: Option<String>,
        number: u32,
    ) -> Result<()> {
        let location = Location::File(tidy(self.path_of(&name)));
        let key = id.unwrap_or_else(|| place_key(&location, &name));
        let image = Hash128::of(&location);
        let sample = Sample { location, name, captions, key, task: TaskFields::default() };
        let Some(table) = &mut self.table else {
            self.out.samples.push(sample);
            return Ok(());
        };
        let first = table.rows.get(&image).copied();
        let own = table.joined.push(sample, first, number)?;
        table.rows.entry(image).or_insert(own);
        Ok(())
    }
}
