//! Folders that are replaced whole: under their name lies the old one or the new one, never a part.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::atomic::{folder_of, sync_folder};
use crate::failpoint;
use crate::{FileError, Result};

const ASIDE: &str = ".old-";
const GOING: &str = ".removing-";
const WRITING: &str = ".writing-";

fn beside(folder: &Path, prefix: &str) -> PathBuf {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    folder.with_file_name(format!("{prefix}{name}"))
}

/// A folder below `parent` to write into, empty, until [`replace`] gives it its name.
///
/// # Errors
/// If it cannot be made.
fn writing(parent: &Path) -> Result<PathBuf> {
    let folder = parent.join(format!("{WRITING}{}", std::process::id()));
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(FileError::at(&folder))?;
    }
    fs::create_dir_all(&folder).map_err(FileError::at(&folder))?;
    Ok(folder)
}

/// Lets `write` fill an empty folder that takes the place of `target`. If anything fails, `target` is as it
/// was.
///
/// # Errors
/// Of `write`, or if a folder cannot be made or renamed.
pub fn write<E: From<FileError>>(
    target: &Path,
    write: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let begun = writing(folder_of(target))?;
    let result = write(&begun).and_then(|()| Ok(replace(&begun, target)?));
    if result.is_err() {
        // Best effort: the error that matters is the one at hand.
        let _ = fs::remove_dir_all(&begun);
    }
    result
}

/// Lets `write` fill an empty folder that then becomes `target`, or, if there is such a folder, whose content
/// moves there, `last` last; other files of it remain. If anything fails, `target` is as it was.
///
/// # Errors
/// Of `write`, or if a file cannot be moved.
pub fn fill<E: From<FileError>>(
    target: &Path,
    last: &str,
    write: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    // Beside or in the target, so that moving is renaming.
    let beside = if target.is_dir() { target } else { folder_of(target) };
    let begun = writing(beside)?;
    let result = write(&begun).and_then(|()| {
        if target.exists() {
            take(&begun, target, last)?;
        } else {
            replace(&begun, target)?;
        }
        Ok(())
    });
    // Best effort: it is empty, or the error that matters is the one at hand.
    let _ = fs::remove_dir_all(&begun);
    result
}

fn take(from: &Path, to: &Path, last: &str) -> Result<()> {
    let entries = fs::read_dir(from).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut entries = entries.map_err(FileError::at(from))?;
    entries.sort_by_key(|e| (e.file_name() == last, e.file_name()));
    for entry in entries {
        let (old, new) = (entry.path(), to.join(entry.file_name()));
        if old.is_dir() && new.is_dir() {
            take(&old, &new, last)?;
        } else {
            failpoint::pass("folder.moving")
                .and_then(|()| fs::rename(&old, &new))
                .map_err(FileError::at(&new))?;
        }
    }
    sync_folder(to).map_err(FileError::at(to))
}

/// Puts `written` in the place of `target`. An old folder and the new one exchange their names where the
/// system can do so. Elsewhere the old one steps aside first, since a folder cannot be renamed onto another;
/// [`recover`] brings it back if the program ends in between.
///
/// # Errors
/// If a folder cannot be renamed; the old one is then in its place.
fn replace(written: &Path, target: &Path) -> Result<()> {
    let at = || FileError::at(target);
    failpoint::pass("folder.written").map_err(at())?;
    let aside = beside(target, ASIDE);
    discard(&aside)?;
    let old = if !target.exists() {
        fs::rename(written, target).map_err(at())?;
        None
    } else if exchange(written, target).is_ok() {
        Some(written)
    } else {
        fs::rename(target, &aside).map_err(at())?;
        let renamed = failpoint::pass("folder.aside").and_then(|()| fs::rename(written, target));
        if let Err(error) = renamed {
            // Best effort: the error that matters is the one at hand.
            let _ = fs::rename(&aside, target);
            return Err(at()(error));
        }
        Some(&*aside)
    };
    failpoint::pass("folder.renamed").map_err(at())?;
    sync_folder(folder_of(target)).map_err(FileError::at(folder_of(target)))?;
    old.map_or(Ok(()), discard)
}

/// Exchanges the names of two folders in one step.
#[cfg(target_os = "linux")]
fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;
    let text = |path: &Path| CString::new(path.as_os_str().as_bytes());
    let (one, other) = (text(one)?, text(other)?);
    let here = libc::AT_FDCWD;
    // SAFETY: both are strings that end with a zero and outlive the call, which keeps neither.
    let result =
        unsafe { libc::renameat2(here, one.as_ptr(), here, other.as_ptr(), libc::RENAME_EXCHANGE) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(not(target_os = "linux"))]
fn exchange(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Removes a folder, if it is there. It loses its name first, so that what is left of it after a kill
/// is never taken for the whole.
///
/// # Errors
/// If it cannot be removed.
pub fn discard(folder: &Path) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    let going = beside(folder, GOING);
    if going.exists() {
        fs::remove_dir_all(&going).map_err(FileError::at(&going))?;
    }
    fs::rename(folder, &going).map_err(FileError::at(folder))?;
    failpoint::pass("folder.removing").map_err(FileError::at(folder))?;
    fs::remove_dir_all(&going).map_err(FileError::at(&going))
}

/// Ends what a killed program left half done below `parent`: a folder that stepped aside and has no
/// successor comes back, all other leftovers go.
///
/// # Errors
/// If a folder cannot be read, renamed or removed.
pub fn recover(parent: &Path) -> Result<()> {
    if !parent.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(parent).map_err(FileError::at(parent))? {
        let path = entry.map_err(FileError::at(parent))?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if let Some(own) = name.strip_prefix(ASIDE).map(|own| parent.join(own)) {
            if own.exists() {
                discard(&path)?;
            } else {
                fs::rename(&path, &own).map_err(FileError::at(&own))?;
            }
        } else if name.starts_with(GOING) || name.strip_prefix(WRITING).is_some_and(is_dead) {
            fs::remove_dir_all(&path).map_err(FileError::at(&path))?;
        }
    }
    Ok(())
}

/// Whether no other process of this number lives. Where the system does not show its processes, they
/// count as dead: a run's folder belongs to one process at a time.
fn is_dead(process: &str) -> bool {
    process == std::process::id().to_string() || !Path::new("/proc").join(process).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(parent: &Path, name: &str, text: &str) -> PathBuf {
        let folder = parent.join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("text"), text).unwrap();
        folder
    }

    fn names(parent: &Path) -> Vec<String> {
        let entries = fs::read_dir(parent).unwrap();
        let mut names: Vec<String> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_folder_is_replaced_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let target = folder(dir.path(), "best", "old");
        let new = writing(dir.path()).unwrap();
        fs::write(new.join("text"), "new").unwrap();
        replace(&new, &target).unwrap();
        assert_eq!(fs::read_to_string(target.join("text")).unwrap(), "new");
        assert_eq!(names(dir.path()), ["best"]);
        assert!(replace(&dir.path().join("absent"), &target).is_err());
        assert_eq!(fs::read_to_string(target.join("text")).unwrap(), "new");
    }

    #[test]
    fn leftovers_of_a_kill_go_or_come_back() {
        let dir = tempfile::tempdir().unwrap();
        folder(dir.path(), ".old-step-1", "whole");
        folder(dir.path(), ".old-step-2", "part");
        folder(dir.path(), "step-2", "whole");
        folder(dir.path(), ".removing-step-0", "part");
        folder(dir.path(), ".writing-none", "part");
        recover(dir.path()).unwrap();
        assert_eq!(names(dir.path()), ["step-1", "step-2"]);
        for name in names(dir.path()) {
            assert_eq!(fs::read_to_string(dir.path().join(name).join("text")).unwrap(), "whole");
        }
    }
}
