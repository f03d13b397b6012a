//! One process at a time writes to the folder of a run.

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Its file in the folder of a run.
const FILE: &str = ".lock";
/// Times that a lock is taken anew whose file another process has removed in between.
const TRIES: usize = 8;

/// The right to write to a folder, for as long as it lives. The system takes it back when the process
/// ends, however it ends. A folder that was made for it and is still empty goes with it.
#[derive(Debug)]
#[must_use = "the folder is free again once this is dropped"]
pub struct FolderLock {
    _file: File,
    made: Option<PathBuf>,
}

impl FolderLock {
    /// Takes the right to write to `folder`, which is made if it is not there.
    ///
    /// # Errors
    /// If another process, or another part of this one, has it, or the folder cannot be written to.
    pub fn take(folder: &Path) -> Result<Self> {
        let made = (!folder.exists()).then(|| folder.to_owned());
        let path = folder.join(FILE);
        for _ in 0..TRIES {
            fs::create_dir_all(folder).map_err(Error::io(folder))?;
            let open = File::options().create(true).truncate(false).write(true).open(&path);
            let file = match open {
                // Gone with its folder since that was made.
                Err(e) if e.kind() == ErrorKind::NotFound && folder.parent().is_some() => continue,
                open => open.map_err(Error::io(&path))?,
            };
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => break,
                // Some network file systems have no locks; a run there is worth more than the lock.
                Err(TryLockError::Error(e)) if e.kind() == ErrorKind::Unsupported => {}
                Err(TryLockError::Error(e)) => return Err(Error::io(&path)(e)),
            }
            if is_at(&file, &path) {
                return Ok(Self { _file: file, made });
            }
        }
        Err(Error::InUse { folder: folder.to_owned() })
    }
}

/// Whether an open file is the one of that name: its holder may have removed it before it was locked.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |found: &fs::Metadata| (found.dev(), found.ino());
    matches!((file.metadata(), fs::metadata(path)), (Ok(a), Ok(b)) if id(&a) == id(&b))
}

#[cfg(not(unix))]
fn is_at(_: &File, path: &Path) -> bool {
    path.exists()
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        let Some(folder) = &self.made else { return };
        let Ok(entries) = fs::read_dir(folder) else { return };
        if cfg!(unix) && entries.flatten().all(|entry| entry.file_name() == FILE) {
            // While it is still locked. Best effort: an empty folder does no harm.
            let _ = fs::remove_file(folder.join(FILE));
            let _ = fs::remove_dir(folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_taken_once_and_free_again_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("run");
        let held = FolderLock::take(&folder).unwrap();
        let error = FolderLock::take(&folder).unwrap_err().to_string();
        assert!(error.contains("another run writes to this folder"), "{error}");
        drop(held);
        assert!(!folder.exists(), "nothing was written to it");
        let held = FolderLock::take(&folder).unwrap();
        fs::write(folder.join("log"), "").unwrap();
        drop(held);
        assert!(folder.join("log").exists() && folder.join(FILE).exists());
        drop(FolderLock::take(&folder).unwrap());
    }

    #[cfg(unix)]
    #[test]
    fn of_many_that_take_and_leave_a_folder_one_has_it_at_a_time() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("run");
        let (inside, taken) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let Ok(_held) = FolderLock::take(&folder) else { continue };
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        taken.fetch_add(1, Ordering::SeqCst);
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!(taken.load(Ordering::SeqCst) > 100);
    }
}
