//! One process at a time writes to the folder of a run.

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::Path;

use crate::error::{Error, Result};

/// Its file in the folder of a run. It stays: removing it would let two others in, one that has opened
/// it before and one that makes it anew.
const FILE: &str = ".lock";

/// The right to write to a folder, for as long as it lives. The system takes it back when the process
/// ends, however it ends.
#[derive(Debug)]
#[must_use = "the folder is free again once this is dropped"]
pub struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Takes the right to write to `folder`, which is made if it is not there.
    ///
    /// # Errors
    /// If another process, or another part of this one, has it, or the folder cannot be written to.
    pub fn take(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let path = folder.join(FILE);
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(Error::io(&path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::InUse { folder: folder.to_owned() });
            }
            // Some network file systems have no locks; a run there is worth more than the lock.
            Err(TryLockError::Error(e)) if e.kind() == ErrorKind::Unsupported => {}
            Err(TryLockError::Error(e)) => return Err(Error::io(&path)(e)),
        }
        Ok(Self { _file: file })
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
        drop(FolderLock::take(&folder).unwrap());
    }
}
