//! One process at a time fetches a file.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use crate::error::{HubError, Result};

/// Between two tries to get a lock.
const PAUSE: Duration = Duration::from_millis(100);

/// Holds the lock of a file until it is dropped. It is the lock that Python's `filelock` takes, so that
/// Hugging Face's libraries wait for it, too.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "the open file is the lock")] Option<File>);

impl Lock {
    /// Waits for the lock; `waiting` is asked meanwhile, and may end it with an error. Where the file system
    /// has no locks, it is as good as held.
    pub(crate) fn wait(path: &Path, mut waiting: impl FnMut() -> Result<()>) -> Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(HubError::io(folder))?;
        }
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
        let file = file.map_err(HubError::io(path))?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self(Some(file))),
                Err(TryLockError::WouldBlock) => waiting()?,
                Err(TryLockError::Error(_)) => return Ok(Self(None)),
            }
            sleep(PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_waits_until_the_first_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("locks/x.lock");
        let mut first = Some(Lock::wait(&path, || panic!("nothing to wait for")).unwrap());
        let mut asked = 0;
        let second = Lock::wait(&path, || {
            asked += 1;
            if asked == 2 {
                first.take();
            }
            Ok(())
        });
        assert!(second.is_ok() && asked == 2);
        let ended = Lock::wait(&path, || Err(HubError::Cancelled));
        assert!(matches!(ended, Err(HubError::Cancelled)));
    }
}
