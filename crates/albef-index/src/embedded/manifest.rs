//! `index.json`: what an index is of, for people, and for repairing one whose catalogue is lost.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{IndexError, Result};

/// What an index is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub format: u32,
    pub fingerprint: String,
    pub model: String,
    pub width: usize,
    /// Its folders, as texts of [`albef_data::names`].
    pub roots: Vec<String>,
}

impl Manifest {
    pub fn path(folder: &Path) -> PathBuf {
        folder.join("index.json")
    }

    /// `None` if there is none, or it is not whole: the catalogue is the truth.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = Self::path(folder);
        match fs::read(&path) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(IndexError::io(path)(e)),
        }
    }

    /// Writes it whole or not at all.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let path = Self::path(folder);
        let text = serde_json::to_string_pretty(self).map_err(std::io::Error::other);
        let text = text.map_err(IndexError::io(&path))?;
        albef_files::write_atomic(&path, |f| writeln!(f, "{text}"))
            .map_err(|e| IndexError::io(&path)(e.cause))
    }
}
