//! The images below folders.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use albef_data::control::Control;
use albef_data::dataset::{Looks, Skipped, looks, refusal};
use albef_data::error::{ImageError, ImageErrorKind};
use albef_data::names::text_of_path;
use ignore::WalkBuilder;

use crate::error::{IndexError, Result};
use crate::record::bytes_of;

/// The file whose patterns, as those of `.gitignore`, name what is not indexed.
pub const IGNORE_FILE: &str = ".albefignore";

/// Folders of systems and programs, which hold no images of one's own.
const SYSTEM: [&str; 8] = [
    "$RECYCLE.BIN",
    "System Volume Information",
    "lost+found",
    "@eaDir",
    "#recycle",
    "__MACOSX",
    "node_modules",
    "__pycache__",
];

/// A file that looks like an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its path below the folder that was walked, as the system's bytes.
    pub path: Vec<u8>,
    /// Bytes.
    pub size: u64,
    /// When it was last modified: nanoseconds since 1970.
    pub modified: i64,
}

/// What is below a folder.
#[derive(Clone, Debug, Default)]
pub struct Walk {
    /// The images, by path.
    pub images: Vec<Found>,
    /// Files that look like images of formats that are not read, with their names below the folder.
    pub unread: Vec<Skipped>,
    /// Folders and files that cannot be read, with the reason. What is below them is unknown, not gone.
    pub unreadable: Vec<Skipped>,
    /// Paths of `unreadable` below the folder; empty for one that is not known.
    pub unknown: Vec<Vec<u8>>,
    /// Whether the folder has nothing in it but hidden files, as one that a device is to be connected to.
    pub is_bare: bool,
}

impl Walk {
    /// Whether nothing can be said about a path: it is below a folder that cannot be read.
    #[must_use]
    pub fn is_unknown(&self, path: &[u8]) -> bool {
        self.unknown.iter().any(|folder| {
            folder.is_empty()
                || path
                    .strip_prefix(folder.as_slice())
                    .is_some_and(|rest| rest.is_empty() || rest[0] == b'/' || rest[0] == b'\\')
        })
    }
}

/// Nanoseconds since 1970 at which a file was last modified.
#[must_use]
pub fn modified(metadata: &fs::Metadata) -> i64 {
    let Ok(time) = metadata.modified() else { return 0 };
    let nanoseconds = |d: std::time::Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
    time.duration_since(UNIX_EPOCH).map_or_else(|e| -nanoseconds(e.duration()), nanoseconds)
}

/// Walks a folder. Hidden files and folders, those of systems, and what an [`IGNORE_FILE`] names are left out.
/// Links are followed, to each folder once.
///
/// # Errors
/// If the folder itself cannot be read: it may be on a device that is not connected. [`IndexError::Cancelled`].
pub fn walk(top: &Path, control: &Control) -> Result<Walk> {
    walk_parts(top, &[], control)
}

/// Walks the parts of a folder that are below some of its folders, by the ignore files of all; all of it, if `parts`
/// is empty.
pub(crate) fn walk_parts(top: &Path, parts: &[PathBuf], control: &Control) -> Result<Walk> {
    let is_hidden = |entry: &fs::DirEntry| entry.file_name().as_encoded_bytes().starts_with(b".");
    let mut all = fs::read_dir(top).map_err(IndexError::io(top))?;
    let is_bare = all.all(|entry| entry.is_ok_and(|entry| is_hidden(&entry)));
    let seen = Arc::new(Mutex::new(HashSet::new()));
    let parts = parts.to_vec();
    let leads_to = move |path: &Path| {
        parts.is_empty()
            || parts.iter().any(|part| path.starts_with(part) || part.starts_with(path))
    };
    let entries = WalkBuilder::new(top)
        .standard_filters(false)
        .hidden(true)
        .parents(false)
        .add_custom_ignore_filename(IGNORE_FILE)
        .follow_links(true)
        .sort_by_file_name(|a, b| a.cmp(b))
        .filter_entry(move |entry| {
            let system = entry.depth() > 0 && SYSTEM.iter().any(|name| entry.file_name() == *name);
            if system || !leads_to(entry.path()) {
                return false;
            }
            if !entry.file_type().is_some_and(|kind| kind.is_dir()) {
                return true;
            }
            // A link may lead to a folder that is walked anyway, or back up.
            let Ok(place) = fs::canonicalize(entry.path()) else { return true };
            seen.lock().unwrap_or_else(PoisonError::into_inner).insert(place)
        })
        .build();
    let mut out = Walk { is_bare, ..Walk::default() };
    for entry in entries {
        control.check()?;
        match entry {
            Ok(entry) => take(top, &entry, &mut out),
            Err(error) => refuse(top, &error, &mut out),
        }
    }
    out.images.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(out)
}

fn take(top: &Path, entry: &ignore::DirEntry, out: &mut Walk) {
    if let Some(error) = entry.error() {
        // An ignore file with a pattern that cannot be read; its other patterns count.
        out.unreadable.push(unreadable(IGNORE_FILE.into(), error.to_string()));
    }
    let path = entry.path();
    if !entry.file_type().is_some_and(|kind| kind.is_file()) {
        return;
    }
    let below = path.strip_prefix(top).unwrap_or(path);
    match looks(path) {
        Looks::Image => match fs::metadata(path) {
            Ok(metadata) => out.images.push(Found {
                path: bytes_of(below),
                size: metadata.len(),
                modified: modified(&metadata),
            }),
            // It went in between, as if it had never been there.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => {
                out.unknown.push(bytes_of(below));
                out.unreadable.push(unreadable(text_of_path(below), e.to_string()));
            }
        },
        Looks::Unread(format) => {
            out.unread.push(Skipped { name: text_of_path(below), error: refusal(format) });
        }
        Looks::Other => {}
    }
}

/// A folder that cannot be read, or a link to nowhere.
fn refuse(top: &Path, error: &ignore::Error, out: &mut Walk) {
    if is_loop(error) {
        return;
    }
    let path = place(error);
    let gone = error.io_error().is_some_and(|e| e.kind() == std::io::ErrorKind::NotFound);
    // A link to nothing, or what went in between.
    if gone && path.is_some() {
        return;
    }
    let below = path.as_deref().map(|p| p.strip_prefix(top).unwrap_or(p));
    let name = below.map_or_else(String::new, text_of_path);
    let detail = error.io_error().map_or_else(|| error.to_string(), ToString::to_string);
    out.unknown.push(below.map(bytes_of).unwrap_or_default());
    out.unreadable.push(unreadable(name, detail));
}

fn unreadable(name: String, detail: String) -> Skipped {
    Skipped { name, error: ImageError { kind: ImageErrorKind::Io, detail } }
}

fn is_loop(error: &ignore::Error) -> bool {
    match error {
        ignore::Error::Loop { .. } => true,
        ignore::Error::WithDepth { err, .. } | ignore::Error::WithPath { err, .. } => is_loop(err),
        _ => false,
    }
}

fn place(error: &ignore::Error) -> Option<PathBuf> {
    match error {
        ignore::Error::WithPath { path, .. } => Some(path.clone()),
        ignore::Error::WithDepth { err, .. } => place(err),
        _ => None,
    }
}
