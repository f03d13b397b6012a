//! Annotation lists of tasks: what a sample has beyond one image with captions, and the parts from
//! which a task's reader of entries is made.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::annotation::{found, text_of};
use super::source::{Location, Sample};
use crate::error::{DataError, Result};

/// What a sample asks a model for, besides its text.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Target {
    /// Nothing: image and caption belong together.
    #[default]
    None,
    /// Answers with their weights.
    Answers(Vec<(String, f32)>),
    /// A class.
    Label(usize),
    /// Any number of classes.
    Labels(Vec<usize>),
}

/// What a sample has beyond one image with captions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TaskFields {
    /// The second image.
    pub second: Option<Location>,
    /// `[left, top, right, bottom]` of both images, where they are parts of pictures.
    pub crops: Option<[[usize; 4]; 2]>,
    /// What is asked for.
    pub target: Target,
    /// Number of the question or expression in its data set.
    pub id: Option<i64>,
}

/// The folders of the images of a list. With an empty root a path is taken as it is, else relative to
/// the list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageRoots {
    /// Of most lists.
    pub image_root: PathBuf,
    /// Of questions with `"dataset": "vqa"`.
    pub vqa_root: PathBuf,
    /// Of questions with `"dataset": "vg"`.
    pub vg_root: PathBuf,
}

/// Where an entry comes from.
#[derive(Clone, Copy, Debug)]
pub struct EntryContext<'a> {
    /// Folders of images.
    pub roots: &'a ImageRoots,
    /// The list.
    pub list: &'a Path,
}

/// How an entry of a task's list becomes a sample; else what is wrong with it.
pub type ReadEntry = fn(&Value, EntryContext<'_>) -> Result<Sample, String>;

/// The entries of a JSON list of objects, or of a CSV file, whose rows become objects of texts by the
/// names in its first line.
///
/// # Errors
/// Names the file, the line and what is wrong with it.
pub fn read_entries(path: &Path) -> Result<Vec<Value>> {
    let text = text_of(path)?;
    if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("csv")) {
        return read_rows(path, &text);
    }
    serde_json::from_str(&text).map_err(|e| {
        let detail = format!("not a JSON list of objects: {e}");
        DataError::annotation(path, format!(", line {}", e.line()), detail)
    })
}

fn read_rows(path: &Path, text: &str) -> Result<Vec<Value>> {
    let fail = |e: csv::Error| {
        let line = e.position().map_or(1, csv::Position::line);
        DataError::annotation(path, format!(", line {line}"), format!("not a row of CSV: {e}"))
    };
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let names = reader.headers().map_err(fail)?.clone();
    let object = |row: csv::StringRecord| {
        let fields = names.iter().zip(row.iter());
        fields.map(|(name, field)| (name.trim().to_owned(), Value::from(field))).collect()
    };
    reader.records().map(|row| row.map(object).map(Value::Object).map_err(fail)).collect()
}

/// Reads a list by a task's reader of entries.
///
/// # Errors
/// Names the file, the entry and what is wrong with it.
pub fn read_list(path: &Path, roots: &ImageRoots, read: ReadEntry) -> Result<Vec<Sample>> {
    let context = EntryContext { roots, list: path };
    let one = |(i, entry): (usize, &Value)| {
        read(entry, context)
            .map_err(|detail| DataError::annotation(path, format!(", entry {i}"), detail))
    };
    read_entries(path)?.iter().enumerate().map(one).collect()
}

/// Entries whose number (`question_id`, `ref_id`) an earlier one has, each with the first that has it.
#[must_use]
pub fn repeated_ids(samples: &[Sample]) -> Vec<(usize, usize)> {
    let mut first = HashMap::new();
    let numbered = samples.iter().enumerate().filter_map(|(i, s)| Some((i, s.task.id?)));
    numbered
        .map(|(i, id)| (i, *first.entry(id).or_insert(i)))
        .filter(|(i, first)| i != first)
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
        given => given
            .as_i64()
            .map(Some)
            .ok_or_else(|| format!("`{key}` is {given}; it must be a whole number")),
    }
}

impl EntryContext<'_> {
    /// The location of an image below `root`; without a root as an image of captions is found.
    #[must_use]
    pub fn location(&self, root: &Path, image: &str) -> Location {
        let bare = root.as_os_str().is_empty();
        Location::File(if bare { found(image, self.list) } else { root.join(image) })
    }

    /// A sample of one text.
    #[must_use]
    pub fn sample(&self, root: &Path, image: String, text: String, task: TaskFields) -> Sample {
        let location = self.location(root, &image);
        Sample { location, key: image.clone(), name: image, captions: vec![text], task }
    }
}
