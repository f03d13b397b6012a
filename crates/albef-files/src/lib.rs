//! Files and folders that are written whole or not at all: under a name there is what was there before or
//! what was written, never a part, whenever the program is killed or the disk is full.
//!
//! - [`write_atomic`] writes a file beside its place, syncs it and renames it.
//! - [`folder::write`] does the same for a folder.
//! - [`failpoint::pass`] marks the places at which a test ends the program or lets the system fail.

mod atomic;
pub mod failpoint;
pub mod folder;

pub use atomic::{publish, remove_leftovers_of, replaceable, write_atomic, write_atomic_through};

use std::io;
use std::path::{Path, PathBuf};

/// A file or folder that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {cause}")]
pub struct FileError {
    /// The file or folder.
    pub path: PathBuf,
    /// What the system said. Not a `source()`: it stands in the message already.
    pub cause: io::Error,
}

impl FileError {
    fn at(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |cause| Self { path: folder::final_place(&path), cause }
    }
}

/// The result of this crate's functions.
pub type Result<T, E = FileError> = std::result::Result<T, E>;
