//! Annotation lists of tasks: what a sample has beyond one image with captions, and the parts from
//! which a task's reader of entries is made.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

use super::contents::Contents;
use super::entries::{Splits, each_entry};
use super::entry::Place;
use super::roots::{ImageRoots, found};
use super::sample::{Location, Sample, Skipped, TaskFields};
use crate::error::{DataError, ImageErrorKind as Kind, Result};
use crate::input::id_text;
use crate::names;

/// Where an entry comes from.
#[derive(Clone, Copy, Debug)]
pub struct EntryContext<'a> {
    /// Folders of images.
    pub roots: &'a ImageRoots,
    /// The list.
    pub list: &'a Path,
}

/// How an entry of a task's list becomes a sample; `None` for one that is no sample by the rules of its
/// data set, such as one without a gold label. Else what is wrong with it.
pub type ReadEntry = fn(&Value, EntryContext<'_>) -> Result<Option<Sample>, String>;

/// The entries of a list, in any of the forms that lists have: a JSON list of objects, one object a line,
/// or a table, whose rows become objects of texts by the names in its first line.
///
/// # Errors
/// Names the file, the place and what is wrong with it.
pub fn read_entries(path: &Path) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    each_read(path, &mut |place, value| {
        all.push(value.map_err(|e| DataError::annotation(path, place.to_string(), e))?);
        Ok(())
    })?;
    Ok(all)
}

/// The entries of a list that can be read, by their places.
///
/// # Errors
/// If the list cannot be read as a whole.
pub fn entries_by_place(path: &Path) -> Result<HashMap<Place, Value>> {
    let mut all = HashMap::new();
    each_read(path, &mut |place, value| {
        all.extend(value.ok().map(|value| (place, value)));
        Ok(())
    })?;
    Ok(all)
}

fn each_read(
    path: &Path,
    each: &mut dyn FnMut(Place, Result<Value, String>) -> Result<()>,
) -> Result<()> {
    each_entry(path, &mut |entry| each(entry.place, entry.read().0))
}

/// The first entry of a list, if it can be read.
#[must_use]
pub fn first_entry(path: &Path) -> Option<Value> {
    let mut first = None;
    // Any error ends the reading.
    let _ = each_entry(path, &mut |entry| {
        first = entry.read().0.ok();
        Err(DataError::Argument(String::new()))
    });
    first
}

/// Reads a list by a task's reader of entries. A list of several splits (`refs(unc).p#val`) may name one. Entries that
/// cannot be used are left out and named.
///
/// # Errors
/// Names the file, the first entry and what is wrong with it if no entry can be used.
pub fn read_list(path: &Path, roots: &ImageRoots, read: ReadEntry) -> Result<Contents> {
    let given = names::text_of_path(path);
    let (list, split) = match given.rsplit_once('#') {
        Some((list, split)) if !path.exists() => (names::path_of(list), Some(split)),
        _ => (path.to_owned(), None),
    };
    let path = &*list;
    let context = EntryContext { roots, list: path };
    let mut out = Contents::default();
    let mut splits = Splits::new(split);
    let mut first_error = None;
    each_entry(path, &mut |mut entry| {
        let place = entry.place;
        let fail = |detail: String| DataError::annotation(path, place.to_string(), detail);
        let written = entry.take_written();
        let (value, mut mended) = entry.read();
        let name = || format!("{}{place}", path.display());
        let found = match value {
            Ok(value) if !splits.takes(&value) => return Ok(()),
            Ok(value) => match written.map(|w| (read(&w.put_into(&value), context), w.alone)) {
                // Files may be named by the very bytes of the list.
                Some((Ok(Some(sample)), alone)) if is_there(&sample) => {
                    mended = mended.filter(|_| !alone);
                    Ok(Some(sample))
                }
                _ => read(&value, context),
            },
            Err(detail) => Err(detail),
        };
        match found {
            Ok(Some(mut sample)) => {
                sample.task.place = Some(place);
                out.samples.push(sample);
            }
            Ok(None) => {
                let detail = "it has no gold label and is left out";
                out.left_out.push(Skipped::new(name(), Kind::Entry, detail));
            }
            Err(detail) => {
                let left_out = format!("{detail}; it is left out");
                out.left_out.push(Skipped::new(name(), Kind::Entry, left_out));
                first_error.get_or_insert_with(|| fail(detail));
            }
        }
        out.faults.extend(mended.map(|detail| Skipped::new(name(), Kind::Caption, detail)));
        Ok(())
    })?;
    if let Some(error) = first_error.filter(|_| out.samples.is_empty()) {
        return Err(error);
    }
    out.notes.extend(splits.end(path, out.samples.is_empty())?);
    Ok(out)
}

/// Whether the images of a sample are there.
fn is_there(sample: &Sample) -> bool {
    (0..sample.views()).all(|view| sample.present_view(view).is_ok())
}

/// Entries whose number (`question_id`, `ref_id`) an earlier one has, each with the first that has it, by
/// [`Sample::entry_name`].
#[must_use]
pub fn repeated_ids(samples: &[Sample]) -> Vec<(String, String)> {
    let mut first = HashMap::new();
    let numbered = samples.iter().enumerate().filter_map(|(i, s)| Some((i, s.task.id?)));
    let name = |i: usize| samples[i].entry_name(i);
    numbered
        .map(|(i, id)| (i, *first.entry(id).or_insert(i)))
        .filter(|(i, first)| i != first)
        .map(|(i, first)| (name(i), name(first)))
        .collect()
}

/// The text of an entry under `key`.
///
/// # Errors
/// If there is none.
pub fn text_field(entry: &Value, key: &str) -> Result<String, String> {
    entry[key]
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| format!("there is no text under `{key}`, found {}", entry[key]))
}

/// A number of the data set, if the entry has one.
///
/// # Errors
/// If it is not a whole number.
pub fn number_field(entry: &Value, key: &str) -> Result<Option<i64>, String> {
    match &entry[key] {
        Value::Null => Ok(None),
        given => id_text(given)
            .and_then(|id| id.trim().parse().ok())
            .map(Some)
            .ok_or_else(|| format!("`{key}` is {given}; it must be a whole number")),
    }
}

impl EntryContext<'_> {
    /// The location of an image below `root`; without a root as an image of captions is found.
    #[must_use]
    pub fn location(&self, root: &Path, image: &str) -> Location {
        let bare = root.as_os_str().is_empty();
        let below = || root.join(names::path_of(image));
        Location::File(if bare { found(image, self.list) } else { below() })
    }

    /// A sample of one text.
    #[must_use]
    pub fn sample(&self, root: &Path, image: String, text: String, task: TaskFields) -> Sample {
        let location = self.location(root, &image);
        Sample { location, key: image.clone(), name: image, captions: vec![text], task }
    }
}
