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
mod vectors;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use half::f16;
use rusqlite::{Connection, OptionalExtension, params};

use crate::checksum::vector_crc;
use crate::error::{IndexError, Result};
use crate::record::{Change, ContentHash, Filter, Image, ImageId, Record, Root, RootId, join};
use crate::scan::{Kernel, NO_IMAGE, Rows, top_k};
use crate::store::{Scored, Store, StoreInfo, Verification, check_vector};
use catalogue::{COLUMNS, FORMAT, SALVAGED, Stored, meta, set_meta};
use manifest::Manifest;
use vectors::{Mapped, VectorFiles};

pub use repair::{Repair, repair};

/// Problems that are named one by one.
const SHOWN: usize = 5;

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

/// The vectors at one generation, and whose they are.
struct Snapshot {
    generation: u64,
    mapped: Mapped,
    /// The image of each row.
    ids: Vec<ImageId>,
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
        vectors::remove_other_epochs(folder, epoch);
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

    /// The vectors of the newest generation.
    fn snapshot(&self) -> Result<Arc<Snapshot>> {
        let generation = self.reading(|c| meta::<i64>(c, "generation"))?.cast_unsigned();
        if let Some(snapshot) = guard(&self.snapshot).as_ref()
            && snapshot.generation == generation
        {
            return Ok(Arc::clone(snapshot));
        }
        // Compacting replaces the files: those that the catalogue named may be gone when they are opened.
        let mut last = None;
        for _ in 0..3 {
            match self.load_snapshot() {
                Ok(snapshot) => {
                    let snapshot = Arc::new(snapshot);
                    *guard(&self.snapshot) = Some(Arc::clone(&snapshot));
                    return Ok(snapshot);
                }
                Err(e @ IndexError::Damaged { .. }) => last = Some(e),
                Err(e) => return Err(e),
            }
        }
        Err(last.unwrap_or_else(|| IndexError::damaged(self.folder.display(), "no vectors")))
    }

    fn load_snapshot(&self) -> Result<Snapshot> {
        let (generation, epoch, ids) = self.reading(|connection| {
            // One transaction, so that all is of one generation.
            let transaction = connection.unchecked_transaction()?;
            let generation: i64 = meta(&transaction, "generation")?;
            let epoch: i64 = meta(&transaction, "epoch")?;
            let rows: Option<i64> =
                transaction.query_row("SELECT max(slot) FROM image", [], |row| row.get(0))?;
            let rows = rows.map_or(0, |last| last.cast_unsigned() as usize + 1);
            let mut ids = vec![NO_IMAGE; rows];
            let salvaged: Vec<ImageId> = transaction
                .prepare_cached("SELECT id FROM image WHERE root = ?1 AND slot IS NOT NULL")?
                .query_map([SALVAGED], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            let mut statement = transaction.prepare_cached(
                "SELECT slot, id FROM image WHERE slot IS NOT NULL ORDER BY slot",
            )?;
            let mut found = statement.query([])?;
            while let Some(row) = found.next()? {
                let slot: i64 = row.get(0)?;
                if let Some(place) = ids.get_mut(slot.cast_unsigned() as usize) {
                    *place = row.get(1)?;
                }
            }
            if !salvaged.is_empty() {
                let salvaged: std::collections::HashSet<ImageId> = salvaged.into_iter().collect();
                ids.iter_mut().filter(|id| salvaged.contains(id)).for_each(|id| *id = NO_IMAGE);
            }
            Ok((generation.cast_unsigned(), epoch.cast_unsigned(), ids))
        })?;
        let mapped = Mapped::open(&self.folder, epoch, self.width, ids.len())?;
        Ok(Snapshot { generation, mapped, ids })
    }

    /// A bit for each row of the snapshot whose image passes.
    fn mask(&self, snapshot: &Snapshot, filter: &Filter) -> Result<Vec<u64>> {
        if filter.is_empty() {
            return Ok(Vec::new());
        }
        let roots = self.roots()?;
        let mut mask = vec![0_u64; snapshot.ids.len().div_ceil(64)];
        self.each_stored(&mut |stored| {
            let root = roots.iter().find(|r| r.id == stored.record.image.root);
            if let (Some(slot), Some(root)) = (stored.slot.map(|s| s as usize), root)
                && snapshot.ids.get(slot) == Some(&stored.record.id)
                && filter.passes(&stored.record.image, &root.path)
            {
                mask[slot / 64] |= 1 << (slot % 64);
            }
            Ok(())
        })?;
        Ok(mask)
    }

    /// Hands all rows to `each`, in pages, so that no transaction stays open while it works.
    fn each_stored(&self, each: &mut dyn FnMut(Stored) -> Result<()>) -> Result<()> {
        const PAGE: usize = 4096;
        let mut after = i64::MIN;
        loop {
            let page: Vec<Stored> = self.reading(|connection| {
                let sql =
                    format!("SELECT {COLUMNS} FROM image WHERE id > ?1 ORDER BY id LIMIT {PAGE}");
                let mut statement = connection.prepare_cached(&sql)?;
                statement.query_map([after], Stored::read)?.collect()
            })?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.record.id;
            for stored in page {
                each(stored)?;
            }
        }
    }

    fn stored(&self, ids: &[ImageId]) -> Result<Vec<Option<Stored>>> {
        self.reading(|connection| ids.iter().map(|id| catalogue::by_id(connection, *id)).collect())
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

impl Store for Embedded {
    fn info(&self) -> Result<StoreInfo> {
        let mut info = self.reading(|c| {
            let transaction = c.unchecked_transaction()?;
            let count = |condition: &str| {
                let sql = format!("SELECT count(*) FROM image WHERE root <> 0 AND {condition}");
                transaction.query_row(&sql, [], |row| row.get::<_, i64>(0))
            };
            let (images, broken) = (count("slot IS NOT NULL")?, count("slot IS NULL")?);
            let next: i64 = meta(&transaction, "next_slot")?;
            Ok(StoreInfo {
                place: self.folder.display().to_string(),
                fingerprint: meta(&transaction, "fingerprint")?,
                model: meta(&transaction, "model")?,
                width: self.width,
                generation: meta::<i64>(&transaction, "generation")?.cast_unsigned(),
                images: images.cast_unsigned(),
                broken: broken.cast_unsigned(),
                bytes: 0,
                reclaimable: (next - images).max(0).cast_unsigned()
                    * vectors::row_bytes(self.width),
            })
        })?;
        let entries = fs::read_dir(&self.folder).map_err(IndexError::io(&self.folder))?;
        info.bytes = entries.flatten().filter_map(|e| Some(e.metadata().ok()?.len())).sum();
        Ok(info)
    }

    fn roots(&self) -> Result<Vec<Root>> {
        self.reading(|connection| {
            connection
                .prepare_cached("SELECT id, path FROM root WHERE id <> 0 ORDER BY id")?
                .query_map([], |row| Ok(Root { id: row.get(0)?, path: row.get(1)? }))?
                .collect()
        })
    }

    fn add_root(&self, path: &[u8]) -> Result<RootId> {
        if let Some(root) = self.roots()?.into_iter().find(|root| root.path == path) {
            return Ok(root.id);
        }
        let writer = self.writer()?;
        let id = self.transaction(&writer, |connection| {
            // Another thread may have been faster.
            connection
                .execute("INSERT OR IGNORE INTO root(path) VALUES (?1)", params![path])
                .and_then(|_| {
                    let sql = "SELECT id FROM root WHERE path = ?1";
                    connection.query_row(sql, params![path], |row| row.get(0))
                })
                .map_err(|e| self.fail(e))
        })?;
        self.write_manifest(&self.roots()?)?;
        Ok(id)
    }

    fn remove_root(&self, id: RootId) -> Result<u64> {
        let writer = self.writer()?;
        let removed = self.transaction(&writer, |connection| {
            let run = |sql: &str| connection.execute(sql, [id]).map_err(|e| self.fail(e));
            let images = run("DELETE FROM image WHERE root = ?1")?;
            run("DELETE FROM root WHERE id = ?1 AND id <> 0")?;
            Ok(images)
        })?;
        self.write_manifest(&self.roots()?)?;
        Ok(removed as u64)
    }

    fn apply(&self, changes: &[Change]) -> Result<Vec<ImageId>> {
        let writer = self.writer()?;
        let mut rows = Vec::new();
        for change in changes {
            if let Change::Upsert { image, vector } = change {
                match vector {
                    Some(vector) => {
                        check_vector(vector, self.width)?;
                        rows.push(vectors::Row { hash: &image.hash, vector });
                    }
                    None if image.status.is_ok() => {
                        return Err(IndexError::Width { found: 0, expected: self.width });
                    }
                    None => {}
                }
            }
        }
        self.transaction(&writer, |connection| {
            let fail = |e| self.fail(e);
            let mut slot = meta::<i64>(connection, "next_slot").map_err(fail)?.cast_unsigned();
            if !rows.is_empty() {
                writer.files.write(slot, &rows)?;
                writer.files.sync()?;
            }
            let mut ids = Vec::with_capacity(changes.len());
            for change in changes {
                ids.push(match change {
                    Change::Upsert { image, vector } => {
                        let vector = vector.as_ref().map(|vector| {
                            slot += 1;
                            (slot - 1, vector_crc(vector))
                        });
                        catalogue::upsert(connection, image, vector).map_err(fail)?
                    }
                    Change::Move { id, root, path, modified, settled } => {
                        let moved =
                            catalogue::move_to(connection, *id, *root, path, *modified, *settled);
                        if !moved.map_err(fail)? {
                            return Err(IndexError::UnknownImage { id: *id });
                        }
                        *id
                    }
                    Change::Forget(id) => {
                        connection
                            .prepare_cached("DELETE FROM image WHERE id = ?1")
                            .and_then(|mut delete| delete.execute([id]))
                            .map_err(fail)?;
                        *id
                    }
                });
            }
            set_meta(connection, "next_slot", slot.cast_signed()).map_err(fail)?;
            Ok(ids)
        })
    }

    fn get(&self, ids: &[ImageId]) -> Result<Vec<Option<Record>>> {
        Ok(self.stored(ids)?.into_iter().map(|stored| stored.map(|s| s.record)).collect())
    }

    fn find(&self, root: RootId, path: &[u8]) -> Result<Option<Record>> {
        let sql = format!("SELECT {COLUMNS} FROM image WHERE root = ?1 AND path = ?2");
        self.reading(|connection| {
            connection.prepare_cached(&sql)?.query_row(params![root, path], Stored::read).optional()
        })
        .map(|found| found.map(|stored| stored.record))
    }

    fn find_content(&self, hash: &ContentHash) -> Result<Option<Record>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM image WHERE hash = ?1 AND slot IS NOT NULL ORDER BY id LIMIT 1"
        );
        self.reading(|connection| {
            connection
                .prepare_cached(&sql)?
                .query_row(params![hash.as_slice()], Stored::read)
                .optional()
        })
        .map(|found| found.map(|stored| stored.record))
    }

    fn for_each(&self, each: &mut dyn FnMut(Record) -> Result<()>) -> Result<()> {
        self.each_stored(&mut |stored| each(stored.record))
    }

    fn vectors(&self, ids: &[ImageId]) -> Result<Vec<Option<Vec<f16>>>> {
        // A compacting process may move vectors between the two reads; the checksum tells.
        let mut result = self.vectors_once(ids);
        for _ in 0..2 {
            if !matches!(result, Err(IndexError::Damaged { .. })) {
                break;
            }
            result = self.vectors_once(ids);
        }
        result
    }

    fn top_k(&self, query: &[f32], k: usize, filter: &Filter) -> Result<Vec<Scored>> {
        if query.len() != self.width {
            return Err(IndexError::Width { found: query.len(), expected: self.width });
        }
        let snapshot = self.snapshot()?;
        let mask = self.mask(&snapshot, filter)?;
        let rows = Rows {
            values: snapshot.mapped.values(),
            width: self.width,
            ids: &snapshot.ids,
            mask: &mask,
        };
        Ok(top_k(rows, query, k, self.kernel))
    }

    fn verify(&self) -> Result<Verification> {
        let mut found = Verification::default();
        let checked: String =
            self.reading(|c| c.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)))?;
        if checked != "ok" {
            found.problems.push(format!("catalogue: {checked}"));
        }
        let snapshot = match self.snapshot() {
            Ok(snapshot) => Some(snapshot),
            Err(e @ IndexError::Damaged { .. }) => {
                found.problems.push(e.to_string());
                None
            }
            Err(e) => return Err(e),
        };
        let roots = self.roots()?;
        self.each_stored(&mut |stored| {
            let Record { id, image } = &stored.record;
            let vector_sound = stored.slot.is_none_or(|slot| {
                let row = snapshot.as_ref().and_then(|s| s.mapped.row(slot as usize));
                row.is_some_and(|row| vector_crc(row) == stored.vector_crc)
            });
            if stored.sound && vector_sound {
                found.sound += 1;
                return Ok(());
            }
            if found.damaged.len() < SHOWN {
                let what = if stored.sound { "vector" } else { "record" };
                let root = roots.iter().find(|r| r.id == image.root);
                let path = join(root.map_or(b"", |r| &r.path), &image.path);
                let name = albef_data::names::shown(&albef_data::names::text_of_path(&path));
                found.problems.push(format!("the {what} of image {id} ({name}) is damaged"));
            }
            found.damaged.push(*id);
            Ok(())
        })?;
        Ok(found)
    }

    fn compact(&self) -> Result<()> {
        // More are copied at a time than are read for one result.
        const ROWS: usize = 4096;
        let mut writer = self.writer()?;
        let fail = |e| self.fail(e);
        let old_epoch: i64 = meta(&writer.connection, "epoch").map_err(fail)?;
        let (old_epoch, epoch) = (old_epoch.cast_unsigned(), old_epoch.cast_unsigned() + 1);
        let live: Vec<(ImageId, u64, ContentHash, u32)> = {
            let sql =
                "SELECT id, slot, hash, vector_crc FROM image WHERE slot IS NOT NULL ORDER BY slot";
            let mut statement = writer.connection.prepare(sql).map_err(fail)?;
            let rows = statement.query_map([], |row| {
                let hash: Vec<u8> = row.get(2)?;
                let hash = hash.as_slice().try_into().unwrap_or_default();
                Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned(), hash, row.get(3)?))
            });
            rows.and_then(Iterator::collect).map_err(fail)?
        };
        let rows = live.last().map_or(0, |row| row.1 as usize + 1);
        let mapped = Mapped::open(&self.folder, old_epoch, self.width, rows)?;
        // What an interrupted attempt left.
        vectors::remove_other_epochs(&self.folder, old_epoch);
        let files = VectorFiles::open(&self.folder, epoch, self.width)?;
        for (part, at) in live.chunks(ROWS).zip((0..).step_by(ROWS)) {
            let mut copied = Vec::with_capacity(part.len());
            for (id, slot, hash, crc) in part {
                let vector = mapped.row(*slot as usize).unwrap_or_default();
                if vector_crc(vector) != *crc {
                    let detail = format!("the vector of image {id} contradicts its checksum");
                    return Err(IndexError::damaged(self.folder.display(), detail));
                }
                copied.push(vectors::Row { hash, vector });
            }
            files.write(at, &copied)?;
        }
        files.sync()?;
        self.transaction(&writer, |connection| {
            let mut update = connection
                .prepare_cached("UPDATE image SET slot = ?2 WHERE id = ?1")
                .map_err(fail)?;
            // Rising, and no slot grows, so that none is taken when it is given.
            for (slot, (id, ..)) in live.iter().enumerate() {
                update.execute(params![id, slot as i64]).map_err(fail)?;
            }
            set_meta(connection, "epoch", epoch.cast_signed()).map_err(fail)?;
            set_meta(connection, "next_slot", live.len() as i64).map_err(fail)
        })?;
        writer.files = files;
        *guard(&self.snapshot) = None;
        vectors::remove_other_epochs(&self.folder, epoch);
        // It needs room and frees only the catalogue's own; all else is done.
        let _ = writer.connection.execute_batch("VACUUM; PRAGMA wal_checkpoint(TRUNCATE);");
        Ok(())
    }
}

impl Embedded {
    fn vectors_once(&self, ids: &[ImageId]) -> Result<Vec<Option<Vec<f16>>>> {
        let stored = self.stored(ids)?;
        let snapshot = self.snapshot()?;
        let vector = |stored: Option<Stored>| {
            let Some(Stored { record, slot: Some(slot), vector_crc: crc, .. }) = stored else {
                return Ok(None);
            };
            match snapshot.mapped.row(slot as usize) {
                Some(row) if vector_crc(row) == crc => Ok(Some(row.to_vec())),
                _ => {
                    let detail =
                        format!("the vector of image {} contradicts its checksum", record.id);
                    Err(IndexError::damaged(self.folder.display(), detail))
                }
            }
        };
        stored.into_iter().map(vector).collect()
    }
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
