//! Folders that are written whole: a full disk leaves what was there, and nothing of what was begun.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::Path;

use crate::error::{Error, Result};
use crate::train::folder::{WRITING, is_dead, writing};

/// Lets `write` fill an empty folder, which then becomes `target`. Where there is such a folder already, the
/// new files move into it, those whose names begin with `last` at the end, and its other files remain.
/// What an earlier process left that was killed is removed.
///
/// # Errors
/// Of `write`, or if a file cannot be moved.
pub fn write_folder<E: From<Error>>(
    target: &Path,
    last: &str,
    write: impl FnOnce(&Path) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    // Beside or in the target, so that moving is renaming.
    let parent = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let beside = if target.is_dir() { target } else { parent };
    remove_leftovers(beside);
    let begun = writing(beside)?;
    // A lock tells a folder that is being written from a leftover, where the file system has locks.
    let lock = File::open(&begun).and_then(|folder| folder.lock().map(|()| folder));
    let result = write(&begun).and_then(|()| {
        match target.is_dir() {
            true => take(&begun, target, last)?,
            false => {
                sync(&begun)?;
                fs::rename(&begun, target).map_err(Error::io(target))?;
            }
        }
        Ok(sync(beside)?)
    });
    drop(lock);
    // Best effort: it is empty or gone, or the error that matters is the one at hand.
    let _ = fs::remove_dir_all(&begun);
    result
}

fn sync(folder: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(folder).and_then(|f| f.sync_all()).map_err(Error::io(folder))?;
    }
    Ok(())
}

/// Removes folders that no process writes any more. What cannot be removed does no harm.
fn remove_leftovers(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(WRITING));
        let number = |p: &str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit());
        if process.is_some_and(|p| number(p) && is_dead(p))
            && let Ok(folder) = File::open(entry.path())
            && folder.try_lock().is_ok()
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn take(from: &Path, to: &Path, last: &str) -> Result<()> {
    let entries = fs::read_dir(from).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    let mut entries = entries.map_err(Error::io(from))?;
    let is_last = |name: &OsStr| name.as_encoded_bytes().starts_with(last.as_bytes());
    entries.sort_by_key(|e| (is_last(&e.file_name()), e.file_name()));
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
