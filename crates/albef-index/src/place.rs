//! Where indexes are kept that nobody placed.

use std::fmt::Write;
use std::path::PathBuf;

use sha2::{Digest, Sha256};

use crate::embedded::Embedded;
use crate::record::bytes_of;

/// The data folder of this user: `$XDG_DATA_HOME/albef`, or `~/.local/share/albef`. `None` where neither variable is
/// set.
#[must_use]
pub fn user_folder() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let data = set("XDG_DATA_HOME").or_else(|| set("HOME").map(|home| home.join(".local/share")));
    data.map(|data| data.join("albef"))
}

/// The folder of the indexes of this user.
fn all() -> Option<PathBuf> {
    Some(user_folder()?.join("index"))
}

/// Where the index of some folders is by default: a folder of its own for each set of absolute paths, in any order.
/// `None` where the user has no data folder.
#[must_use]
pub fn default_folder(folders: &[PathBuf]) -> Option<PathBuf> {
    let mut paths: Vec<Vec<u8>> = folders.iter().map(|folder| bytes_of(folder)).collect();
    paths.sort();
    let mut hasher = Sha256::new();
    for path in paths {
        hasher.update((path.len() as u64).to_le_bytes());
        hasher.update(path);
    }
    let mut name = String::new();
    for byte in &hasher.finalize()[..8] {
        // Writing to a text cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    Some(all()?.join(name))
}

/// The indexes of this user, in the order of their names.
#[must_use]
pub fn indexes() -> Vec<PathBuf> {
    let entries = all().and_then(|folder| std::fs::read_dir(folder).ok());
    let mut found: Vec<PathBuf> = entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| Embedded::exists(path))
        .collect();
    found.sort();
    found
}
