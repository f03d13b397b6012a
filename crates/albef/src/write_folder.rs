//! Folders that are written whole: a full disk leaves what was there, and nothing of what was begun.

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};
use crate::train::folder::writing;

/// Lets `write` fill an empty folder, whose content then moves to `target`, `last` last. Other files of the
/// target remain.
///
/// # Errors
/// Of `write`, or if a file cannot be moved.
pub fn write_folder<E: From<Error>>(
    target: &Path,
    last: &str,
    write: impl FnOnce(&Path) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    // Beside or in the target, so that moving is renaming.
    let beside = match target.is_dir() {
        true => target,
        false => target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")),
    };
    let begun = writing(beside)?;
    let result = write(&begun).and_then(|()| {
        fs::create_dir_all(target).map_err(Error::io(target))?;
        Ok(take(&begun, target, last)?)
    });
    // Best effort: it is empty, or the error that matters is the one at hand.
    let _ = fs::remove_dir_all(&begun);
    result
}

fn take(from: &Path, to: &Path, last: &str) -> Result<()> {
    let entries = fs::read_dir(from).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    let mut entries = entries.map_err(Error::io(from))?;
    entries.sort_by_key(|e| (e.file_name() == last, e.file_name()));
    for entry in entries {
        let (old, new) = (entry.path(), to.join(entry.file_name()));
        if old.is_dir() && new.is_dir() {
            take(&old, &new, last)?;
        } else {
            fs::rename(&old, &new).map_err(Error::io(&new))?;
        }
    }
    Ok(())
}
