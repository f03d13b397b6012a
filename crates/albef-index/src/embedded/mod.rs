//! The index of one machine: a folder with an SQLite catalogue and a memory-mapped file of vectors.
//!
//! ```text
//! index.json        what the index is of, for people and for `repair`
//! catalogue.sqlite  the truth: an image is in the index when its row is committed
//! vectors-E.f16     vectors; a row is durable before the catalogue names it
//! keys-E.bin        for each vector, whose it is
//! lock              held by the process that writes
//! ```

mod catalogue;
mod manifest;
mod repair;
mod snapshot;
mod store;
mod vectors;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;

use crate::error::{IndexError, Result};
use crate::record::{ContentHash, Image, Root};
use crate::scan::Kernel;
use crate::states::KeptStates;
use crate::store::Store;
use catalogue::{FORMAT, SALVAGED, meta, set_meta};
use manifest::Manifest;
use snapshot::Snapshot;
use vectors::VectorFiles;

pub use repair::{Repair, repair};

/// What vectors are of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// A hash of weights and preprocessing: vectors of different ones are not compared.
    pub fingerprint: String,
    /// The model, in words.
    pub model: String,
    /// Values of a vector.
    pub width: usize,
}

/// An index in a folder.
pub struct Embedded {
    folder: PathBuf,
    /// The catalogue, for reading.
    reader: Mutex<Connection>,
    writer: Option<Mutex<Writer>>,
    width: usize,
    snapshot: Mutex<Option<Arc<Snapshot>>>,
    kernel: Kernel,
}

struct Writer {
    connection: Connection,
    files: VectorFiles,
    /// Unlocked when it is closed.
    _lock: File,
}

impl std::fmt::Debug for Embedded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Embedded").field("folder", &self.folder).finish_non_exhaustive()
    }
}

fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn catalogue_path(folder: &Path) -> PathBuf {
    folder.join("catalogue.sqlite")
}

/// Whether a file is no longer the one at its path.
#[cfg(unix)]
fn is_replaced(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let (own, there) = (file.metadata(), fs::metadata(path));
    own.is_ok_and(|own| there.map_or(true, |there| there.ino() != own.ino()))
}

#[cfg(not(unix))]
fn is_replaced(_: &File, _: &Path) -> bool {
    false
}

/// Takes the lock of a folder.
fn lock(folder: &Path) -> Result<File> {
    let path = folder.join("lock");
    let error = IndexError::io(&path);
    let mut options = OpenOptions::new();
    let mut file = match options.read(true).write(true).create(true).truncate(false).open(&path) {
        Ok(file) => file,
        Err(e) => return Err(error(e)),
    };
    match file.try_lock() {
        // The index may have been deleted, lock and all, between the two.
        Ok(()) if is_replaced(&file, &path) => return lock(folder),
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // The message is as good without the number.
            let _ = file.read_to_string(&mut holder);
            let holder = match holder.trim().parse::<u32>() {
                Ok(number) => format!(" (process {number})"),
                Err(_) => String::new(),
            };
            return Err(IndexError::Locked { path: folder.to_owned(), holder });
        }
        Err(fs::TryLockError::Error(e)) => return Err(error(e)),
    }
    // For the message of another process only.
    let _ = file.set_len(0);
    let _ = file.rewind();
    let _ = write!(file, "{}", std::process::id());
    Ok(file)
}

impl Embedded {
    /// Whether there is an index in a folder.
    #[must_use]
    pub fn exists(folder: &Path) -> bool {
        catalogue_path(folder).exists() || Manifest::path(folder).exists()
    }

    /// Opens the index in `folder` for writing, and makes one if there is none. One process at a time writes.
    ///
    /// # Errors
    /// [`IndexError::Locked`], [`IndexError::OtherModel`], [`IndexError::Damaged`], or if the folder cannot be
    /// written.
    pub fn write(folder: &Path, identity: &Identity) -> Result<Self> {
        let store = Self::write_any(folder, Some(identity))?;
        check_identity(&store, identity)?;
        Ok(store)
    }

    /// Opens the index in `folder` for writing, forgets the vectors of another model if it has such, and all
    /// images with them.
    ///
    /// # Errors
    /// As [`Embedded::write`], but for the other model.
    pub fn write_anew(folder: &Path, identity: &Identity) -> Result<Self> {
        let store = Self::write_any(folder, Some(identity))?;
        if check_identity(&store, identity).is_ok() {
            return Ok(store);
        }
        let roots = store.roots()?;
        let renewed = store.renew(identity);
        drop(store);
        renewed?;
        let store = Self::write(folder, identity)?;
        store.write_manifest(&roots)?;
        Ok(store)
    }

    /// Opens the index in `folder` for writing, whatever its model.
    ///
    /// # Errors
    /// [`IndexError::Missing`], or as [`Embedded::write`].
    pub fn maintain(folder: &Path) -> Result<Self> {
        Self::write_any(folder, None)
    }

    fn write_any(folder: &Path, identity: Option<&Identity>) -> Result<Self> {
        match identity {
            Some(_) => fs::create_dir_all(folder).map_err(IndexError::io(folder))?,
            None if !Self::exists(folder) => {
                return Err(IndexError::Missing { path: folder.to_owned() });
            }
            None => {}
        }
        let lock = lock(folder)?;
        let path = catalogue_path(folder);
        let manifest = Manifest::read(folder)?;
        let fresh = fs::metadata(&path).map_or(0, |m| m.len()) == 0;
        if let (Some(manifest), true) = (&manifest, fresh) {
            let detail = format!(
                "the catalogue of {} is missing",
                manifest.roots.first().map_or("no folder", String::as_str)
            );
            return Err(IndexError::damaged(path.display(), detail));
        }
        let connection = catalogue::connect(&path, true, false)?;
        let fail = |e| catalogue::error(&path, e);
        if !catalogue::is_created(&connection).map_err(fail)? {
            let Some(identity) = identity else {
                return Err(IndexError::Missing { path: folder.to_owned() });
            };
            create(&connection, identity).map_err(fail)?;
        }
        let (width, epoch) = check_format(&connection, &path)?;
        let files = VectorFiles::open(folder, epoch, width)?;
        vectors::remove_other_epochs(folder, Some(epoch));
        let reader = catalogue::connect(&path, false, false)?;
        let writer = Some(Mutex::new(Writer { connection, files, _lock: lock }));
        let store = Self {
            folder: folder.to_owned(),
            reader: Mutex::new(reader),
            writer,
            width,
            snapshot: Mutex::new(None),
            kernel: Kernel::fastest(),
        };
        if manifest.is_none() {
            store.write_manifest(&store.roots()?)?;
        }
        Ok(store)
    }

    /// Deletes the index in `folder`, and the folder, if nothing else is in it.
    ///
    /// # Errors
    /// [`IndexError::Missing`], [`IndexError::Locked`], or if a file cannot be deleted.
    pub fn delete(folder: &Path) -> Result<()> {
        if !Self::exists(folder) {
            return Err(IndexError::Missing { path: folder.to_owned() });
        }
        let lock = lock(folder)?;
        let remove = |path: PathBuf| match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(IndexError::io(&path)(e)),
            _ => Ok(()),
        };
        // Without its catalogue an index with a manifest counts as damaged, and one without a manifest as none.
        remove(Manifest::path(folder))?;
        for end in ["", "-wal", "-shm"] {
            let mut path = catalogue_path(folder).into_os_string();
            path.push(end);
            remove(path.into())?;
        }
        vectors::remove_other_epochs(folder, None);
        // Another folder of this name is not ours.
        if KeptStates::precision_at(folder).is_ok_and(|kept| kept.is_some()) {
            KeptStates::remove(folder)?;
        }
        remove(folder.join("lock"))?;
        drop(lock);
        // It may be the user's own, with other files in it.
        let _ = fs::remove_dir(folder);
        Ok(())
    }

    /// Opens the index in `folder` for reading. Other processes may write to it meanwhile.
    ///
    /// # Errors
    /// [`IndexError::Missing`], [`IndexError::Damaged`], or if the folder cannot be read.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = catalogue_path(folder);
        let missing = || match Manifest::path(folder).exists() {
            true => IndexError::damaged(path.display(), "the catalogue is missing"),
            false => IndexError::Missing { path: folder.to_owned() },
        };
        if !path.exists() {
            return Err(missing());
        }
        let connection = Self::connect_to_read(&path)?;
        if !catalogue::is_created(&connection).map_err(|e| catalogue::error(&path, e))? {
            return Err(missing());
        }
        let (width, _) = check_format(&connection, &path)?;
        Ok(Self {
            folder: folder.to_owned(),
            reader: Mutex::new(connection),
            writer: None,
            width,
            snapshot: Mutex::new(None),
            kernel: Kernel::fastest(),
        })
    }

    /// Readers of SQLite's log write to a file beside it. Where that cannot be, the file is read as it is, if no
    /// log is left to be taken into account.
    fn connect_to_read(path: &Path) -> Result<Connection> {
        let connection = catalogue::connect(path, false, false)?;
        let Err(refused) = catalogue::is_created(&connection) else { return Ok(connection) };
        let codes = [rusqlite::ErrorCode::CannotOpen, rusqlite::ErrorCode::ReadOnly];
        if !refused.sqlite_error_code().is_some_and(|code| codes.contains(&code)) {
            return Err(catalogue::error(path, refused));
        }
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        if fs::metadata(&log).is_ok_and(|m| m.len() > 0) {
            return Err(IndexError::Database {
                place: path.display().to_string(),
                cause: "the index was left by a process that did not end properly, and it cannot be \
                        recovered here because its folder cannot be written; hint: run `albef index status` \
                        once as a user who can write there"
                    .into(),
            });
        }
        catalogue::connect(path, false, true)
    }

    /// The folder of the index.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Searches by this kernel instead of the fastest.
    #[must_use]
    pub fn with_kernel(mut self, kernel: Kernel) -> Self {
        self.kernel = kernel;
        self
    }

    fn fail(&self, e: rusqlite::Error) -> IndexError {
        catalogue::error(&catalogue_path(&self.folder), e)
    }

    fn reading<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        read(&guard(&self.reader)).map_err(|e| self.fail(e))
    }

    fn writer(&self) -> Result<MutexGuard<'_, Writer>> {
        let place = self.folder.display().to_string();
        self.writer.as_ref().map(guard).ok_or(IndexError::ReadOnly { place })
    }

    /// Runs `change` in a transaction and counts the generation up.
    fn transaction<T>(
        &self,
        writer: &Writer,
        change: impl FnOnce(&Connection) -> Result<T>,
    ) -> Result<T> {
        let fail = |e| self.fail(e);
        let transaction = rusqlite::Transaction::new_unchecked(
            &writer.connection,
            rusqlite::TransactionBehavior::Immediate,
        )
        .map_err(fail)?;
        let result = change(&transaction)?;
        let generation: i64 = meta(&transaction, "generation").map_err(fail)?;
        set_meta(&transaction, "generation", generation + 1).map_err(fail)?;
        transaction.commit().map_err(fail)?;
        Ok(result)
    }

    /// Forgets all images and takes another identity.
    fn renew(&self, identity: &Identity) -> Result<()> {
        let writer = self.writer()?;
        self.transaction(&writer, |connection| {
            let fail = |e| self.fail(e);
            connection.execute("DELETE FROM image", []).map_err(fail)?;
            let epoch: i64 = meta(connection, "epoch").map_err(fail)?;
            set_identity(connection, identity).map_err(fail)?;
            set_meta(connection, "epoch", epoch + 1).map_err(fail)?;
            set_meta(connection, "next_slot", 0).map_err(fail)
        })
    }

    fn write_manifest(&self, roots: &[Root]) -> Result<()> {
        let info = self.info()?;
        Manifest {
            format: FORMAT,
            fingerprint: info.fingerprint,
            model: info.model,
            width: info.width,
            roots: roots.iter().map(|r| albef_data::names::text_of(&r.path)).collect(),
        }
        .write(&self.folder)
    }
}

fn create(connection: &Connection, identity: &Identity) -> rusqlite::Result<()> {
    let Identity { fingerprint, model, width } = identity;
    catalogue::create(
        connection,
        &[
            ("format", &FORMAT),
            ("fingerprint", fingerprint),
            ("model", model),
            ("width", &(*width as i64)),
            ("generation", &0),
            ("epoch", &1),
            ("next_slot", &0),
        ],
    )
}

fn set_identity(connection: &Connection, identity: &Identity) -> rusqlite::Result<()> {
    set_meta(connection, "fingerprint", &identity.fingerprint)?;
    set_meta(connection, "model", &identity.model)?;
    set_meta(connection, "width", identity.width as i64)
}

/// The width and the epoch of an index whose format is known.
fn check_format(connection: &Connection, path: &Path) -> Result<(usize, u64)> {
    let fail = |e| match e {
        rusqlite::Error::QueryReturnedNoRows => {
            IndexError::damaged(path.display(), "the catalogue does not say what it is of")
        }
        e => catalogue::error(path, e),
    };
    let found: u32 = meta(connection, "format").map_err(fail)?;
    if found > FORMAT {
        let place = path.display().to_string();
        return Err(IndexError::NewerFormat { place, found, known: FORMAT });
    }
    let width: i64 = meta(connection, "width").map_err(fail)?;
    let epoch: i64 = meta(connection, "epoch").map_err(fail)?;
    let width = usize::try_from(width).ok().filter(|w| (1..=1 << 20).contains(w));
    let width = width
        .ok_or_else(|| IndexError::damaged(path.display(), "the width of vectors is impossible"))?;
    Ok((width, epoch.cast_unsigned()))
}

/// # Errors
/// [`IndexError::OtherModel`] if the vectors of a store are of something else.
pub fn check_identity(store: &dyn Store, identity: &Identity) -> Result<()> {
    let info = store.info()?;
    if info.fingerprint == identity.fingerprint && info.width == identity.width {
        return Ok(());
    }
    let short = |model: &str, fingerprint: &str| {
        format!("{model}, {}", fingerprint.get(..12).unwrap_or(fingerprint))
    };
    Err(IndexError::OtherModel {
        found: short(&info.model, &info.fingerprint),
        place: info.place,
        wanted: short(&identity.model, &identity.fingerprint),
    })
}

/// An image that was found without its catalogue: nothing is known but its content.
fn salvaged(slot: u64, hash: ContentHash) -> Image {
    Image {
        root: SALVAGED,
        path: slot.to_string().into_bytes(),
        size: 0,
        modified: 0,
        settled: false,
        hash,
        width: 0,
        height: 0,
        taken: None,
        camera: None,
        perceptual: 0,
        status: crate::record::Status::Ok,
    }
}
