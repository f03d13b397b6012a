//! Files that are written whole or not at all.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::failpoint;
use crate::{FileError, Result};

/// Links that lead from one to the next at most, as in the system.
const LINKS: usize = 40;
/// What follows the name of a file in that of its temporary file, before the number of the process.
const TEMPORARY: &str = ".tmp";
/// Times that a temporary file is made anew which another process has taken for a leftover.
const TRIES: usize = 4;

/// Writes `path` through a temporary file beside it: written, synced, then renamed into place. If
/// anything fails the temporary file is removed and what was at `path` stays. Where `path` is a symbolic
/// link, the file that it leads to is written and the link stays. What is no regular file (a device, a
/// pipe, a folder) is not replaced. Temporary files of processes that were killed are removed.
///
/// # Errors
/// If the file cannot be written in full, or something else than a file is there.
pub fn write_atomic(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<()> {
    let name = target_of(path).map_err(FileError::at(path))?;
    write_atomic_through(path, name.file_name().unwrap_or_default(), write)
}

/// [`write_atomic`] with another beginning of the temporary file's name, where programs that look at the
/// folder would take `path` with an ending for one of their files.
///
/// # Errors
/// As of [`write_atomic`].
pub fn write_atomic_through(
    path: &Path,
    name: &OsStr,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<()> {
    let target = target_of(path).map_err(FileError::at(path))?;
    remove_leftovers(&target, name);
    let mut own = name.to_owned();
    own.push(format!("{TEMPORARY}{}", std::process::id()));
    let temporary = target.with_file_name(own);
    let result = (|| {
        let file = locked(&temporary)?;
        if let Ok(found) = fs::metadata(&target) {
            file.set_permissions(found.permissions())?;
        }
        failpoint::pass("file.created")?;
        let mut file = BufWriter::with_capacity(1 << 20, file);
        write(&mut file)?;
        file.flush()?;
        failpoint::pass("file.written")?;
        file.get_ref().sync_all()?;
        failpoint::pass("file.synced")?;
        fs::rename(&temporary, &target)
    })();
    if let Err(error) = result {
        // Best effort: the error that matters is the one already in hand.
        let _ = fs::remove_file(&temporary);
        return Err(FileError::at(path)(error));
    }
    failpoint::pass("file.renamed")
        .and_then(|()| sync_folder(folder_of(&target)))
        .map_err(FileError::at(path))
}

/// Gives a file that was written elsewhere, on the same file system, its name: synced, then renamed over
/// what is there. For files that are written in several goes; others by [`write_atomic`].
///
/// # Errors
/// If it cannot be synced or renamed, or something else than a regular file is at `path`.
pub fn publish(written: &Path, path: &Path) -> Result<()> {
    let result = (|| {
        let target = target_of(path)?;
        failpoint::pass("file.written")?;
        OpenOptions::new().append(true).open(written)?.sync_all()?;
        failpoint::pass("file.synced")?;
        fs::rename(written, &target)?;
        failpoint::pass("file.renamed")?;
        sync_folder(folder_of(&target))
    })();
    result.map_err(FileError::at(path))
}

/// A new file that is locked as long as it is open, by which it is told from a leftover. Where the file
/// system has no locks it is as good as locked.
fn locked(path: &Path) -> io::Result<File> {
    for _ in 0..TRIES {
        let file = File::create(path)?;
        if file.lock().is_err() || path.exists() {
            return Ok(file);
        }
    }
    File::create(path)
}

/// Removes temporary files of `name` that no process holds. What cannot be removed does no harm.
fn remove_leftovers(target: &Path, name: &OsStr) {
    let Ok(entries) = fs::read_dir(folder_of(target)) else { return };
    let begin = [name.as_encoded_bytes(), TEMPORARY.as_bytes()].concat();
    for entry in entries.flatten() {
        let found = entry.file_name();
        let number = found.as_encoded_bytes().strip_prefix(&begin[..]);
        if number.is_some_and(|n| !n.is_empty() && n.iter().all(u8::is_ascii_digit))
            && let Ok(file) = File::open(entry.path())
            && file.try_lock().is_ok()
        {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Removes what a process that was killed left beside `path` while it wrote the file: temporary files that no
/// process holds. Writing the file does so too; this is for where it is whole already.
pub fn remove_leftovers_of(path: &Path) {
    if let (Ok(target), Some(name)) = (target_of(path), path.file_name()) {
        remove_leftovers(&target, name);
    }
}

/// The file that a path leads to, which may not exist yet.
///
/// # Errors
/// If something else than a regular file is there, or the path leads through the links of the system to
/// its devices and open files.
fn target_of(path: &Path) -> io::Result<PathBuf> {
    let mut target = path.to_owned();
    for _ in 0..LINKS {
        // A file behind `/dev/stdout` is open under that name, and replacing it would part the two.
        let device = target.starts_with("/dev") && !target.starts_with("/dev/shm");
        if cfg!(unix) && (device || target.starts_with("/proc")) {
            return Err(not_replaced("a device or open file of the system"));
        }
        match fs::read_link(&target) {
            Ok(next) => target = folder_of(&target).join(next),
            Err(_) => return check_regular(&target).map(|()| target),
        }
    }
    Err(not_replaced("a link that leads to itself"))
}

pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn not_replaced(kind: &str) -> io::Error {
    let detail = format!("this is {kind}, which is not replaced; name a new file or a regular one");
    io::Error::new(io::ErrorKind::AlreadyExists, detail)
}

fn check_regular(path: &Path) -> io::Result<()> {
    let kind = match fs::metadata(path) {
        Ok(found) if found.is_file() => return Ok(()),
        Ok(found) if found.is_dir() => "a folder",
        Ok(_) => "no regular file but a device, pipe or socket",
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    Err(not_replaced(kind))
}

/// An error if something else than a regular file is at `path`, which a renaming would remove.
///
/// # Errors
/// If it does, or it cannot be looked at.
pub fn replaceable(path: &Path) -> io::Result<()> {
    target_of(path).map(drop)
}

pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
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

    #[cfg(unix)]
    #[test]
    fn a_link_stays_and_the_file_that_it_leads_to_is_written() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let dir = tempfile::tempdir().unwrap();
        let other = dir.path().join("other");
        fs::create_dir(&other).unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(other.join("file"), b"old").unwrap();
        fs::set_permissions(other.join("file"), fs::Permissions::from_mode(0o640)).unwrap();
        symlink("other/file", at("link")).unwrap();
        symlink(at("link"), at("second")).unwrap();
        symlink("other/new", at("dangling")).unwrap();
        write_atomic(&at("second"), |f| f.write_all(b"new")).unwrap();
        write_atomic(&at("dangling"), |f| f.write_all(b"fresh")).unwrap();
        assert_eq!(fs::read(other.join("file")).unwrap(), b"new");
        assert_eq!(fs::read(other.join("new")).unwrap(), b"fresh");
        let mode = fs::metadata(other.join("file")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        for link in ["link", "second", "dangling"] {
            assert!(fs::symlink_metadata(at(link)).unwrap().is_symlink(), "{link}");
        }
        symlink("loop", at("loop")).unwrap();
        symlink("/proc/self/fd/0", at("stdin")).unwrap();
        for path in [&*at("loop"), &*at("stdin"), Path::new("/dev/stdout"), Path::new("/dev/null")]
        {
            let said = write_atomic(path, |f| f.write_all(b"x")).unwrap_err().to_string();
            assert!(said.contains("not replaced"), "{said}");
            assert!(replaceable(path).is_err());
        }
    }

    #[test]
    fn what_a_killed_process_left_goes_and_what_another_writes_stays() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let held = File::create(at("x.tmp1")).unwrap();
        held.lock().unwrap();
        for name in ["x.tmp2", "x.tmp", "x.tmp2b", "y.tmp2"] {
            fs::write(at(name), b"").unwrap();
        }
        write_atomic(&at("x"), |f| f.write_all(b"new")).unwrap();
        let mut names: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["x", "x.tmp", "x.tmp1", "x.tmp2b", "y.tmp2"]);
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
