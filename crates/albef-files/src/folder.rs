//! Folders that are replaced whole: under their name lies the old one or the new one, never a part.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::atomic::{folder_of, sync_folder};
use crate::failpoint;
use crate::{FileError, Result};

const ASIDE: &str = ".old-";
const GOING: &str = ".removing-";
/// With a name of our own: such folders are made in those of the user.
const WRITING: &str = ".albef-writing-";

fn beside(folder: &Path, prefix: &str) -> PathBuf {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    folder.with_file_name(format!("{prefix}{name}"))
}

/// Names of the folders that this process writes into, and what becomes of them.
static ACTIVE: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());

/// A folder to write into, empty, until [`replace`] gives it its name; what is left of it goes with this.
struct Begun {
    path: PathBuf,
    name: String,
}

impl Begun {
    /// Makes one below `parent`, for `target`.
    fn below(parent: &Path, target: &Path) -> Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        remove_begun(parent)?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{WRITING}{}-{number}", std::process::id());
        let begun = Self { path: parent.join(&name), name };
        active().insert(begun.name.clone(), target.to_owned());
        remove(&begun.path)?;
        fs::create_dir_all(&begun.path).map_err(FileError::at(&begun.path))?;
        Ok(begun)
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        // Best effort: it has got its name, or the error that matters is the one at hand.
        let _ = fs::remove_dir_all(&self.path);
        active().remove(&self.name);
    }
}

fn active() -> MutexGuard<'static, BTreeMap<String, PathBuf>> {
    ACTIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The place that a file is written for, as messages name it: of one in a folder that is being filled, that below
/// the folder's target; any other path is as it is.
#[must_use]
pub fn final_place(path: &Path) -> PathBuf {
    let mut parts = path.components();
    while let Some(part) = parts.next() {
        let name = part.as_os_str().to_string_lossy();
        if let Some(target) =
            name.starts_with(WRITING).then(|| active().get(&*name).cloned()).flatten()
        {
            let rest = parts.as_path();
            // Joined with nothing it would end in a slash.
            return if rest.as_os_str().is_empty() { target } else { target.join(rest) };
        }
    }
    path.to_owned()
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
    let begun = Begun::below(folder_of(target), target)?;
    write(&begun.path)?;
    Ok(replace(&begun.path, target)?)
}

/// Lets `write` fill an empty folder that then becomes `target`. If there is such a folder with other files than
/// the new ones, it keeps them, and the new ones move into it one by one, those whose
/// names begin with `last` at the end; otherwise the new folder takes
/// its place as a whole. If anything fails before that, `target` is as it was.
///
/// # Errors
/// Of `write`, or if a file cannot be moved.
pub fn fill<E: From<FileError>>(
    target: &Path,
    last: &str,
    write: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    // Where moving is renaming: beside the target, or in it if it is on another file system than its parent.
    let parent = folder_of(target);
    let beside = if target.is_dir() && !renames(parent, target) { target } else { parent };
    let begun = Begun::below(beside, target)?;
    write(&begun.path)?;
    if !target.exists() || (beside != target && covers(&begun.path, target)) {
        replace(&begun.path, target)?;
    } else {
        take(&begun.path, target, last)?;
    }
    Ok(())
}

/// Whether a folder is a plain one on the file system of its parent.
fn renames(parent: &Path, folder: &Path) -> bool {
    let linked = fs::symlink_metadata(folder).is_ok_and(|found| found.is_symlink());
    !linked && folder.file_name().is_some() && same_device(parent, folder)
}

#[cfg(unix)]
fn same_device(one: &Path, other: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    matches!((fs::metadata(one), fs::metadata(other)), (Ok(a), Ok(b)) if a.dev() == b.dev())
}

#[cfg(not(unix))]
fn same_device(_: &Path, _: &Path) -> bool {
    false
}

/// Whether `new` has everything that `old` has, by name.
fn covers(new: &Path, old: &Path) -> bool {
    let Ok(entries) = fs::read_dir(old) else { return false };
    entries.into_iter().all(|entry| {
        entry.is_ok_and(|entry| {
            let (there, own) = (entry.path(), new.join(entry.file_name()));
            match there.is_dir() {
                true => own.is_dir() && covers(&own, &there),
                false => own.is_file(),
            }
        })
    })
}

fn take(from: &Path, to: &Path, last: &str) -> Result<()> {
    let entries = fs::read_dir(from).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut entries = entries.map_err(FileError::at(from))?;
    let is_last = |name: &OsStr| name.as_encoded_bytes().starts_with(last.as_bytes());
    entries.sort_by_key(|e| (is_last(&e.file_name()), e.file_name()));
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
    remove(&going)?;
    fs::rename(folder, &going).map_err(FileError::at(folder))?;
    failpoint::pass("folder.removing").map_err(FileError::at(folder))?;
    remove(&going)
}

/// Removes a folder and what is in it, if it is there. Others may do so at the same time: a program that begins to write
/// beside it removes what killed ones have left.
fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FileError::at(folder)(error)),
        _ => Ok(()),
    }
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
        } else if name.starts_with(GOING) {
            remove(&path)?;
        }
    }
    remove_begun(parent)
}

/// Removes what killed programs had begun to write.
fn remove_begun(parent: &Path) -> Result<()> {
    for entry in fs::read_dir(parent).into_iter().flatten() {
        let path = entry.map_err(FileError::at(parent))?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let begun = name.strip_prefix(GOING).unwrap_or(name);
        let process = begun.strip_prefix(WRITING);
        if process.is_some_and(is_dead) && !active().contains_key(begun) {
            remove(&path)?;
        }
    }
    Ok(())
}

/// Whether no other process of this number lives. Where the system does not show its processes, they
/// count as dead: a run's folder belongs to one process at a time.
fn is_dead(process: &str) -> bool {
    let number = process.split('-').next().unwrap_or_default();
    number == std::process::id().to_string() || !Path::new("/proc").join(number).exists()
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
        let new = Begun::below(dir.path(), &target).unwrap().path.clone();
        let new = folder(dir.path(), new.file_name().unwrap().to_str().unwrap(), "new");
        replace(&new, &target).unwrap();
        assert_eq!(fs::read_to_string(target.join("text")).unwrap(), "new");
        assert_eq!(names(dir.path()), ["best"]);
        assert!(replace(&dir.path().join("absent"), &target).is_err());
        assert_eq!(fs::read_to_string(target.join("text")).unwrap(), "new");
    }

    #[test]
    fn errors_name_the_place_that_is_written_for_and_not_the_one_in_between() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("model");
        for deep in ["weights", "no/such/folder"] {
            let said = write(&target, |folder| {
                let path = folder.join(deep);
                crate::write_atomic(&path, |_| Err(io::Error::other("full")))
            });
            let said: FileError = said.unwrap_err();
            assert_eq!(said.path, target.join(deep));
        }
        let error = write(&target, |folder| Err(FileError::at(folder)(io::Error::other("x"))));
        assert_eq!(error.unwrap_err().path, target);
        let left = dir.path().join(format!("{WRITING}1-1")).join("x");
        assert_eq!(final_place(&left), left);
    }

    #[test]
    fn a_folder_may_be_written_while_another_beside_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let target = folder(dir.path(), "best", "old");
        write(&target, |begun| {
            // The folder that is begun is itself filled through another.
            fill(begun, "text", |inner| -> Result<()> {
                fs::write(inner.join("text"), "new").unwrap();
                Ok(())
            })?;
            fs::write(begun.join("more"), "").map_err(FileError::at(begun))
        })
        .unwrap();
        assert_eq!(
            (names(&target), names(dir.path())),
            (vec!["more".into(), "text".into()], vec!["best".into()])
        );
    }

    #[test]
    fn many_folders_are_replaced_beside_each_other_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|threads| {
            for thread in 0..8 {
                let target = dir.path().join(format!("model-{thread}"));
                threads.spawn(move || {
                    for round in 0..100 {
                        let put = |begun: &Path| -> Result<()> {
                            (0..10).for_each(|file| {
                                fs::write(begun.join(format!("{file}")), [round]).unwrap();
                            });
                            Ok(())
                        };
                        write(&target, put).unwrap();
                        assert_eq!(fs::read(target.join("9")).unwrap(), [round]);
                    }
                });
            }
        });
        assert_eq!(names(dir.path()).len(), 8);
    }

    #[test]
    fn a_folder_with_files_of_others_keeps_them() {
        let dir = tempfile::tempdir().unwrap();
        let target = folder(dir.path(), "model", "old");
        let put = |folder: &Path| -> Result<()> {
            fs::write(folder.join("text"), "new").unwrap();
            Ok(())
        };
        fs::write(target.join("note"), "kept").unwrap();
        fill(&target, "text", put).unwrap();
        assert_eq!(names(&target), ["note", "text"]);
        fs::remove_file(target.join("note")).unwrap();
        fill(&target, "text", put).unwrap();
        assert_eq!(fs::read_to_string(target.join("text")).unwrap(), "new");
        assert_eq!(
            (names(&target), names(dir.path())),
            (vec!["text".into()], vec!["model".into()])
        );
        let failed = fill(&target, "text", |folder| {
            fs::write(folder.join("text"), "newer").unwrap();
            Err(FileError::at(folder)(io::Error::other("full")))
        });
        assert!(failed.is_err() && names(dir.path()) == ["model"]);
        assert_eq!(fs::read_to_string(target.join("text")).unwrap(), "new");
    }

    #[test]
    fn leftovers_of_a_kill_go_or_come_back() {
        let dir = tempfile::tempdir().unwrap();
        folder(dir.path(), ".old-step-1", "whole");
        folder(dir.path(), ".old-step-2", "part");
        folder(dir.path(), "step-2", "whole");
        folder(dir.path(), ".removing-step-0", "part");
        folder(dir.path(), ".albef-writing-none", "part");
        recover(dir.path()).unwrap();
        assert_eq!(names(dir.path()), ["step-1", "step-2"]);
        for name in names(dir.path()) {
            assert_eq!(fs::read_to_string(dir.path().join(name).join("text")).unwrap(), "whole");
        }
    }
}
