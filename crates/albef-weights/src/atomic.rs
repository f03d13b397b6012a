//! Files that are written whole or not at all.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use crate::error::{Result, WeightsError};

/// Writes `path` through a temporary file beside it: written, synced, then renamed into place. If
/// anything fails the temporary file is removed and what stood at `path` stays. What is no regular file
/// (a device, a pipe, a folder) is not replaced.
///
/// # Errors
/// If the file cannot be written in full, or something else than a file stands there.
pub fn write_atomic(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<()> {
    replaceable(path).map_err(WeightsError::io(path))?;
    let mut name: OsString = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".tmp{}", std::process::id()));
    let temporary = path.with_file_name(name);
    let result = (|| {
        let mut file = BufWriter::with_capacity(1 << 20, File::create(&temporary)?);
        write(&mut file)?;
        file.flush()?;
        file.get_ref().sync_all()?;
        drop(file);
        fs::rename(&temporary, path)?;
        sync_folder(path.parent())
    })();
    if result.is_err() {
        // Best effort: the error that matters is the one already in hand.
        let _ = fs::remove_file(&temporary);
    }
    result.map_err(WeightsError::io(path))
}

/// An error if something else than a regular file stands at `path`, which a renaming would remove.
///
/// # Errors
/// If it does, or it cannot be looked at.
pub fn replaceable(path: &Path) -> io::Result<()> {
    let kind = match fs::metadata(path) {
        Ok(found) if found.is_file() => return Ok(()),
        Ok(found) if found.is_dir() => "a folder",
        Ok(_) => "no regular file but a device, pipe or socket",
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    let detail = format!("this is {kind}, which is not replaced; name a new file or a regular one");
    Err(io::Error::new(io::ErrorKind::AlreadyExists, detail))
}

fn sync_folder(folder: Option<&Path>) -> io::Result<()> {
    let folder = folder.filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        write_atomic(&path, |f| f.write_all(b"old")).unwrap();
        let error = write_atomic(&path, |f| {
            f.write_all(b"new")?;
            Err(io::Error::other("disk full"))
        });
        assert!(error.unwrap_err().to_string().contains("disk full"));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_regular_file_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |path: &Path| {
            let error = write_atomic(path, |f| f.write_all(b"new")).unwrap_err().to_string();
            assert!(error.contains("not replaced"), "{error}");
        };
        let folder = dir.path().join("folder");
        fs::create_dir(&folder).unwrap();
        refused(&folder);
        assert!(folder.is_dir());
        #[cfg(unix)]
        {
            use std::os::unix::fs::{FileTypeExt, symlink};
            let (socket, link) = (dir.path().join("socket"), dir.path().join("link"));
            let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
            symlink(&socket, &link).unwrap();
            refused(&socket);
            refused(&link);
            assert!(fs::metadata(&link).unwrap().file_type().is_socket());
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
        }
    }
}
