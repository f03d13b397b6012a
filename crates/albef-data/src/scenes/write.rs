//! Lists that are written whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::error::{DataError, Result};

/// Writes `bytes` to a file beside `path`, syncs it and renames it into place. If anything fails,
/// what stood at `path` stays.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let (temporary, file) = beside(path).map_err(DataError::io(path))?;
    let written = fill(file, bytes)
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| sync_folder(path));
    if written.is_err() {
        // Best effort: the error that matters is the one already in hand.
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(DataError::io(path))
}

/// A new file in the folder of `path`, under a name that no file has.
fn beside(path: &Path) -> io::Result<(PathBuf, File)> {
    let mut number = 0_u64;
    loop {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}-{number}.tmp", std::process::id()));
        let temporary = path.with_file_name(name);
        match OpenOptions::new().write(true).create_new(true).open(&temporary) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => number += 1,
            opened => return opened.map(|file| (temporary, file)),
        }
    }
}

fn fill(mut file: File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes the new name last, where folders can be synced.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_replaced_whole_or_stays() {
        let dir = tempfile::tempdir().unwrap();
        let list = dir.path().join("list.json");
        write_whole(&list, b"old").unwrap();
        write_whole(&list, b"new").unwrap();
        assert_eq!(fs::read(&list).unwrap(), b"new");
        let taken = dir.path().join("taken");
        fs::create_dir(&taken).unwrap();
        fs::write(taken.join("x"), b"").unwrap();
        let said = write_whole(&taken, b"list").unwrap_err().to_string();
        assert!(said.contains("taken"), "{said}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing else is left");
        assert!(write_whole(&dir.path().join("none/list.json"), b"").is_err());
    }
}
