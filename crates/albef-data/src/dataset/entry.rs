//! An entry of an annotation list, and where it is.

use std::fmt;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::keys::is_of_image;
use crate::error::Result;
use crate::input::{
    Encoding, decode_text, has_lone_surrogate, has_lost_surrogate, parse_json, parse_names,
};
use crate::names;

/// An entry of a list.
pub(super) struct Entry<'a> {
    /// Where it is in the file.
    pub place: Place,
    content: Content<'a>,
    /// The paths of images in the bytes of what is read already, where they are no UTF-8.
    written: Option<Written>,
}

/// Takes the entries of a list in order.
pub(super) type Take<'a> = &'a mut dyn FnMut(Entry<'_>) -> Result<()>;

/// The paths of images in the bytes of a list that are no UTF-8: files may be named by these very bytes.
pub(super) struct Written {
    /// The fields of the entry that have them, as texts by [`crate::names`].
    pub paths: Map<String, Value>,
    /// Whether nothing else in the entry is read otherwise than it is written.
    pub alone: bool,
}

impl Written {
    /// One path, by its text.
    pub fn of(key: &str, path: String, alone: bool) -> Self {
        Self { paths: Map::from_iter([(key.to_owned(), Value::from(path))]), alone }
    }

    /// The entry with these paths.
    pub fn put_into(&self, entry: &Value) -> Value {
        let mut entry = entry.clone();
        if let Some(fields) = entry.as_object_mut() {
            fields.extend(self.paths.clone());
        }
        entry
    }
}

/// An entry as it is found.
enum Content<'a> {
    /// JSON that is not read yet.
    Json(&'a [u8]),
    /// What is read already, as [`Entry::read`] gives it.
    Value(Result<Value, String>, Option<String>),
}

impl<'a> Entry<'a> {
    /// An entry made of something else than its own JSON.
    pub fn of(place: Place, value: Result<Value, String>) -> Self {
        Self::mended(place, value, None)
    }

    /// The same, with what was read otherwise than it is written.
    pub fn mended(place: Place, value: Result<Value, String>, mended: Option<String>) -> Self {
        Self { place, content: Content::Value(value, mended), written: None }
    }

    /// The same with the paths of images as they are written.
    pub fn with_written(self, written: Option<Written>) -> Self {
        Self { written, ..self }
    }

    /// The paths of images as they are written, where they are no UTF-8.
    pub fn take_written(&mut self) -> Option<Written> {
        match self.content {
            Content::Json(bytes) => written(bytes),
            Content::Value(..) => self.written.take(),
        }
    }

    /// An entry that is JSON.
    pub fn json(place: Place, bytes: &'a [u8]) -> Self {
        Self { place, content: Content::Json(bytes), written: None }
    }

    /// The entry as a plain object, in far less time than [`Entry::read`] takes; `None` where it is written in
    /// any other way than most are.
    pub fn plain<T: Deserialize<'a>>(&self) -> Option<T> {
        let Content::Json(bytes) = self.content else { return None };
        let text = std::str::from_utf8(bytes).ok()?;
        // Halves of surrogate pairs may be lone, also in fields that are passed over.
        let surrogates =
            bytes.contains(&b'\\') && bytes.windows(3).any(|w| w.eq_ignore_ascii_case(b"\\ud"));
        if surrogates { None } else { serde_json::from_str(text).ok() }
    }

    /// The entry, or why it cannot be read, and what was read otherwise than it is written.
    pub fn read(self) -> (Result<Value, String>, Option<String>) {
        match self.content {
            Content::Json(bytes) => value(bytes),
            Content::Value(value, mended) => (value, mended),
        }
    }
}

/// Where an entry is in its file; shown ready to follow the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// The number of an element of a list.
    Entry(usize),
    /// A line, from 1.
    Line(u64),
    /// The number of a row of a Parquet file.
    Row(usize),
    /// The number of an image of a download.
    Image(usize),
    /// The number of a question of a download.
    Question(usize),
    /// The number of an annotation of a download.
    Annotation(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entry(n) => write!(f, ", entry {n}"),
            Self::Line(n) => write!(f, ", line {n}"),
            Self::Row(n) => write!(f, ", row {n}"),
            Self::Image(n) => write!(f, ", image {n}"),
            Self::Question(n) => write!(f, ", question {n}"),
            Self::Annotation(n) => write!(f, ", annotation {n}"),
        }
    }
}

/// The value of the bytes of an entry, and what was read otherwise than it is written.
pub(super) fn value(bytes: &[u8]) -> (Result<Value, String>, Option<String>) {
    if bytes.trim_ascii().is_empty() {
        let detail = "nothing stands behind a comma; take the comma out";
        return (Err(detail.into()), None);
    }
    let Some((text, encoding)) = decode_text(bytes) else {
        return (Err("it is no text in UTF-8".into()), None);
    };
    let mut value = parse_json::<Value>(&text).map_err(|e| not_json(&e));
    let mended = match encoding {
        Encoding::Utf8 if has_lone_surrogate(&text) => {
            let lost = || "a lone surrogate is read as U+FFFD".to_owned();
            match (&mut value, parse_names(&text)) {
                (Ok(value), Some(named)) => {
                    let other = has_lost_surrogate(&text) || !same_but_paths(value, &named);
                    take_paths(value, &named);
                    other.then(lost)
                }
                _ => Some(lost()),
            }
        }
        Encoding::Utf8 => None,
        other => Some(format!("it is no UTF-8 and is read as {}", other.name())),
    };
    (value, mended)
}

/// What is wrong with an entry that is no JSON. Lines are those of the entry, not of the file.
fn not_json(error: &serde_json::Error) -> String {
    let said = error.to_string();
    let what = said.rsplit_once(" at line ").map_or(&*said, |(what, _)| what);
    match (error.line(), error.column()) {
        (0 | 1, column) => format!("not JSON: {what}, at column {column} of the entry"),
        (line, column) => {
            format!("not JSON: {what}, in line {line} of the entry at column {column}")
        }
    }
}

/// Whether two entries agree in all but the paths of their images.
fn same_but_paths(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let mut fields = a.iter();
            a.len() == b.len() && fields.all(|(key, v)| is_of_image(key) || b.get(key) == Some(v))
        }
        _ => a == b,
    }
}

/// Puts the paths of `named` in the place of an entry's own.
fn take_paths(entry: &mut Value, named: &Value) {
    let (Some(entry), Some(named)) = (entry.as_object_mut(), named.as_object()) else { return };
    for (key, path) in named.iter().filter(|(key, _)| is_of_image(key)) {
        entry.insert(key.clone(), settled(path));
    }
}

/// A path, or a list of paths, of which bytes that are UTF-8 together are its characters.
fn settled(path: &Value) -> Value {
    match path {
        Value::String(path) => names::settled(path).into(),
        Value::Array(paths) => paths.iter().map(settled).collect(),
        other => other.clone(),
    }
}

/// The paths of images in the bytes of an entry that are no UTF-8.
fn written(bytes: &[u8]) -> Option<Written> {
    let (text, Encoding::Windows1252) = decode_text(bytes)? else { return None };
    let named: Value = parse_json(&names::text_of(bytes)).ok()?;
    let read: Value = parse_json(&text).ok()?;
    let is_odd = |path: &Value| path.as_str().is_some_and(|path| names::odd_bytes(path).is_some());
    let any_odd = |v: &Value| is_odd(v) || v.as_array().is_some_and(|all| all.iter().any(is_odd));
    let odd = named.as_object()?.iter().filter(|(key, path)| is_of_image(key) && any_odd(path));
    let paths: Map<String, Value> = odd.map(|(key, path)| (key.clone(), path.clone())).collect();
    let alone = same_but_paths(&read, &named);
    (!paths.is_empty()).then_some(Written { paths, alone })
}
