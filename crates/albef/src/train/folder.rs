//! Folders that are replaced whole: under their name lies the old one or the new one, never a part.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

const ASIDE: &str = ".old-";
const GOING: &str = ".removing-";
/// What is before the number of the process in the name of a folder that is being written.
pub(crate) const WRITING: &str = ".writing-";

fn beside(folder: &Path, prefix: &str) -> PathBuf {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    folder.with_file_name(format!("{prefix}{name}"))
}

/// A folder below `parent` to write into, empty, until [`replace`] gives it its name.
///
/// # Errors
/// If it cannot be made.
pub fn writing(parent: &Path) -> Result<PathBuf> {
    let folder = parent.join(format!("{WRITING}{}", std::process::id()));
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(Error::io(&folder))?;
    }
    fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
    Ok(folder)
}

/// Puts `written` in the place of `target`. An old folder steps aside first, since a folder cannot be
/// renamed onto another; [`recover`] brings it back if the program ends in between.
///
/// # Errors
/// If a folder cannot be renamed; the old one is then in its place.
pub fn replace(written: &Path, target: &Path) -> Result<()> {
    let aside = beside(target, ASIDE);
    discard(&aside)?;
    if target.exists() {
        fs::rename(target, &aside).map_err(Error::io(target))?;
    }
    if let Err(error) = fs::rename(written, target) {
        // Best effort: the error that matters is the one at hand.
        let _ = fs::rename(&aside, target);
        return Err(Error::io(target)(error));
    }
    sync_parent(target)?;
    discard(&aside)
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
        fs::remove_dir_all(&going).map_err(Error::io(&going))?;
    }
    fs::rename(folder, &going).map_err(Error::io(folder))?;
    fs::remove_dir_all(&going).map_err(Error::io(&going))
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
    for entry in fs::read_dir(parent).map_err(Error::io(parent))? {
        let path = entry.map_err(Error::io(parent))?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if let Some(own) = name.strip_prefix(ASIDE).map(|own| parent.join(own)) {
            if own.exists() {
                discard(&path)?;
            } else {
                fs::rename(&path, &own).map_err(Error::io(&own))?;
            }
        } else if name.starts_with(GOING) || name.strip_prefix(WRITING).is_some_and(is_dead) {
            fs::remove_dir_all(&path).map_err(Error::io(&path))?;
        }
    }
    Ok(())
}

/// Whether no other process of this number lives. Where the system does not show its processes, they
/// count as dead: a run's folder belongs to one process at a time.
pub(crate) fn is_dead(process: &str) -> bool {
    process == std::process::id().to_string() || !Path::new("/proc").join(process).exists()
}

fn sync_parent(folder: &Path) -> Result<()> {
    let parent = folder.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if cfg!(unix) {
        File::open(parent).and_then(|f| f.sync_all()).map_err(Error::io(parent))?;
    }
    Ok(())
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
