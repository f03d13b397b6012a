//! The catalogue as an SQLite file: schema, rows, and their checksums.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Row, ToSql, params};

use crate::checksum::record_crc;
use crate::error::{IndexError, Result};
use crate::record::{Image, ImageId, Record, RootId, Status};

/// Version of the format of an index.
pub(super) const FORMAT: u32 = 1;
/// The folder of images whose catalogue was lost: they keep their vectors until their files are found again.
pub(super) const SALVAGED: RootId = 0;
/// How long a process waits for another one's transaction.
const PATIENCE: Duration = Duration::from_secs(30);

const SCHEMA: &str = "
CREATE TABLE meta(key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
CREATE TABLE root(id INTEGER PRIMARY KEY AUTOINCREMENT, path BLOB NOT NULL UNIQUE);
INSERT INTO root(id, path) VALUES (0, x'');
CREATE TABLE image(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    root INTEGER NOT NULL REFERENCES root(id),
    path BLOB NOT NULL,
    size INTEGER NOT NULL,
    modified INTEGER NOT NULL,
    settled INTEGER NOT NULL,
    hash BLOB NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    taken INTEGER,
    camera TEXT,
    perceptual INTEGER NOT NULL,
    broken TEXT,
    slot INTEGER UNIQUE,
    vector_crc INTEGER NOT NULL,
    record_crc INTEGER NOT NULL,
    UNIQUE(root, path)
);
CREATE INDEX image_hash ON image(hash);
";

/// Columns of [`Row`]s that [`Stored::read`] takes.
pub(super) const COLUMNS: &str = "id, root, path, size, modified, settled, hash, width, height, taken, camera, \
     perceptual, broken, slot, vector_crc, record_crc";

/// Opens the file; a new one is empty. `immutable`: it is on a device that cannot be written, and no process
/// does.
pub(super) fn connect(path: &Path, write: bool, immutable: bool) -> Result<Connection> {
    let access = match write {
        true => OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
        false => OpenFlags::SQLITE_OPEN_READ_ONLY,
    };
    let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let fail = |e: rusqlite::Error| error(path, e);
    let connection = match immutable {
        false => Connection::open_with_flags(path, flags),
        true => {
            let name = format!("file:{}?immutable=1", encoded(path));
            Connection::open_with_flags(name, flags | OpenFlags::SQLITE_OPEN_URI)
        }
    }
    .map_err(fail)?;
    connection.busy_timeout(PATIENCE).map_err(fail)?;
    connection.set_prepared_statement_cache_capacity(32);
    if write {
        connection
            .execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;",
            )
            .map_err(fail)?;
    }
    Ok(connection)
}

/// A path within a URI.
fn encoded(path: &Path) -> String {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"/-_.~".contains(b);
    let bytes = path.as_os_str().as_encoded_bytes().iter();
    bytes.map(|b| if plain(b) { char::from(*b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// What SQLite said, told apart by what one can do about it.
pub(super) fn error(path: &Path, e: rusqlite::Error) -> IndexError {
    let place = path.display().to_string();
    match e.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => {
            IndexError::NoSpace { path: path.to_owned(), cause: e.to_string() }
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            IndexError::damaged(place, e.to_string())
        }
        Some(ErrorCode::SystemIoFailure) if write_failed(&e) => {
            IndexError::NoSpace { path: path.to_owned(), cause: e.to_string() }
        }
        _ if e.to_string().contains("no such table") => IndexError::damaged(place, e.to_string()),
        _ => IndexError::Database { place, cause: e.to_string() },
    }
}

/// A file that may not grow: SQLite tells it from a full disk.
fn write_failed(e: &rusqlite::Error) -> bool {
    use rusqlite::ffi::{SQLITE_IOERR_SHMSIZE, SQLITE_IOERR_WRITE};
    let rusqlite::Error::SqliteFailure(code, _) = e else { return false };
    [SQLITE_IOERR_WRITE, SQLITE_IOERR_SHMSIZE].contains(&code.extended_code)
}

/// Makes the tables in an empty file, in one transaction with the first values of `meta`.
pub(super) fn create(connection: &Connection, meta: &[(&str, &dyn ToSql)]) -> rusqlite::Result<()> {
    let transaction = connection.unchecked_transaction()?;
    transaction.execute_batch(SCHEMA)?;
    for (key, value) in meta {
        set_meta(&transaction, key, *value)?;
    }
    transaction.commit()
}

/// Whether the tables are there.
pub(super) fn is_created(connection: &Connection) -> rusqlite::Result<bool> {
    let sql = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'meta'";
    connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map(|n| n > 0)
}

pub(super) fn set_meta(
    connection: &Connection,
    key: &str,
    value: impl ToSql,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO meta(key, value) VALUES (?1, ?2)")?
        .execute(params![key, value])
        .map(drop)
}

pub(super) fn meta<T: rusqlite::types::FromSql>(
    connection: &Connection,
    key: &str,
) -> rusqlite::Result<T> {
    connection
        .prepare_cached("SELECT value FROM meta WHERE key = ?1")?
        .query_row([key], |row| row.get(0))
}

/// A row of the catalogue.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub record: Record,
    /// Row of the file of vectors.
    pub slot: Option<u64>,
    pub vector_crc: u32,
    /// Whether the row agrees with its checksum.
    pub sound: bool,
}

impl Stored {
    /// Of [`COLUMNS`].
    pub fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let hash: Vec<u8> = row.get(6)?;
        let id = row.get(0)?;
        let broken: Option<String> = row.get(12)?;
        let image = Image {
            root: row.get(1)?,
            path: row.get(2)?,
            size: row.get::<_, i64>(3)?.cast_unsigned(),
            modified: row.get(4)?,
            settled: row.get(5)?,
            hash: hash.as_slice().try_into().unwrap_or_default(),
            width: row.get(7)?,
            height: row.get(8)?,
            taken: row.get(9)?,
            camera: row.get(10)?,
            perceptual: row.get::<_, i64>(11)?.cast_unsigned(),
            status: broken.map_or(Status::Ok, Status::Broken),
        };
        let slot = row.get::<_, Option<i64>>(13)?.map(i64::cast_unsigned);
        let vector_crc = row.get(14)?;
        let sound = row.get::<_, u32>(15)? == record_crc(id, &image, vector_crc)
            && hash.len() == 32
            && image.status.is_ok() == slot.is_some();
        Ok(Self { record: Record { id, image }, slot, vector_crc, sound })
    }
}

/// Adds an image or replaces the one at its path; returns its number.
pub(super) fn upsert(
    connection: &Connection,
    image: &Image,
    vector: Option<(u64, u32)>,
) -> rusqlite::Result<ImageId> {
    let id = connection
        .prepare_cached("SELECT id FROM image WHERE root = ?1 AND path = ?2")?
        .query_row(params![image.root, image.path], |row| row.get(0))
        .optional()?;
    let id: ImageId = match id {
        Some(id) => id,
        // Its number is needed for the checksum.
        None => connection
            .prepare_cached(
                "INSERT INTO image(root, path, size, modified, settled, hash, width, height, perceptual, \
                 vector_crc, record_crc) VALUES (?1, ?2, 0, 0, 0, x'', 0, 0, 0, 0, 0)",
            )?
            .insert(params![image.root, image.path])?,
    };
    let (slot, vector_crc) = vector.unzip();
    write(connection, id, image, slot, vector_crc.unwrap_or(0))?;
    Ok(id)
}

/// Writes all that is known of an image.
fn write(
    connection: &Connection,
    id: ImageId,
    image: &Image,
    slot: Option<u64>,
    vector_crc: u32,
) -> rusqlite::Result<()> {
    let broken = match &image.status {
        Status::Ok => None,
        Status::Broken(reason) => Some(reason),
    };
    connection
        .prepare_cached(
            "UPDATE image SET root = ?2, path = ?3, size = ?4, modified = ?5, settled = ?6, hash = ?7, \
             width = ?8, height = ?9, taken = ?10, camera = ?11, perceptual = ?12, broken = ?13, slot = ?14, \
             vector_crc = ?15, record_crc = ?16 WHERE id = ?1",
        )?
        .execute(params![
            id,
            image.root,
            image.path,
            image.size.cast_signed(),
            image.modified,
            image.settled,
            image.hash.as_slice(),
            image.width,
            image.height,
            image.taken,
            image.camera,
            image.perceptual.cast_signed(),
            broken,
            slot.map(u64::cast_signed),
            vector_crc,
            record_crc(id, image, vector_crc),
        ])
        .map(drop)
}

/// Moves an image to another path; whatever is there is replaced. `false` for an unknown number.
pub(super) fn move_to(
    connection: &Connection,
    id: ImageId,
    root: RootId,
    path: &[u8],
    modified: i64,
    settled: bool,
) -> rusqlite::Result<bool> {
    let Some(mut stored) = by_id(connection, id)? else { return Ok(false) };
    connection
        .prepare_cached("DELETE FROM image WHERE root = ?1 AND path = ?2 AND id <> ?3")?
        .execute(params![root, path, id])?;
    let image = &mut stored.record.image;
    (image.root, image.path, image.modified, image.settled) =
        (root, path.to_vec(), modified, settled);
    write(connection, id, image, stored.slot, stored.vector_crc)?;
    Ok(true)
}

pub(super) fn by_id(connection: &Connection, id: ImageId) -> rusqlite::Result<Option<Stored>> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM image WHERE id = ?1"))?
        .query_row([id], Stored::read)
        .optional()
}
