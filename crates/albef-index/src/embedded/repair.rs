//! Mending a damaged index from what is there.

use std::fs;
use std::path::Path;

use super::vectors::{self, Mapped, VectorFiles};
use super::{
    Embedded, FORMAT, Identity, Manifest, SALVAGED, catalogue, catalogue_path, check_format,
    create, guard, lock, meta, salvaged, set_meta,
};
use crate::checksum::vector_crc;
use crate::error::{IndexError, Result};
use crate::record::Change;
use crate::store::Store;

/// What a repair did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repair {
    /// Images whose record or vector was damaged; the next update of the index reads them again.
    pub forgotten: u64,
    /// Whether the catalogue was lost and made anew. The old one is kept beside it as
    /// `catalogue.sqlite.damaged`.
    pub catalogue_rebuilt: bool,
    /// Vectors of a lost catalogue that were sound: the next update of the index finds their images by content,
    /// without encoding them again.
    pub salvaged: u64,
}

/// Mends the index in `folder`.
///
/// # Errors
/// [`IndexError::Missing`], [`IndexError::Locked`], or if neither the catalogue nor `index.json` says what the
/// index is of.
pub fn repair(folder: &Path) -> Result<Repair> {
    if !Embedded::exists(folder) {
        return Err(IndexError::Missing { path: folder.to_owned() });
    }
    let mut report = Repair::default();
    {
        let _lock = lock(folder)?;
        match usable(folder) {
            Ok((width, epoch)) => VectorFiles::open(folder, epoch, width)?.mend_headers()?,
            Err(IndexError::Damaged { .. }) => {
                report.salvaged = rebuild(folder)?;
                report.catalogue_rebuilt = true;
            }
            Err(e) => return Err(e),
        }
    }
    let store = Embedded::maintain(folder)?;
    mend_length(&store)?;
    let found = store.verify()?;
    let forget: Vec<Change> = found.damaged.iter().map(|id| Change::Forget(*id)).collect();
    for part in forget.chunks(1024) {
        store.apply(part)?;
    }
    report.forgotten = forget.len() as u64;
    Ok(report)
}

/// The width and epoch of a catalogue that SQLite finds sound.
fn usable(folder: &Path) -> Result<(usize, u64)> {
    let path = catalogue_path(folder);
    if fs::metadata(&path).map_or(0, |m| m.len()) == 0 {
        return Err(IndexError::damaged(path.display(), "the catalogue is missing"));
    }
    let connection = catalogue::connect(&path, true, false)?;
    let fail = |e| catalogue::error(&path, e);
    let checked: String =
        connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).map_err(fail)?;
    if checked != "ok" || !catalogue::is_created(&connection).map_err(fail)? {
        return Err(IndexError::damaged(path.display(), checked));
    }
    check_format(&connection, &path)
}

/// Makes a new catalogue by the manifest, in which all sound vectors are without a path. Returns how many.
fn rebuild(folder: &Path) -> Result<u64> {
    let path = catalogue_path(folder);
    let Some(manifest) = Manifest::read(folder)? else {
        let detail = "the catalogue cannot be read, and without `index.json` nothing says which model its \
                      vectors are of; remove the folder and index again";
        return Err(IndexError::damaged(path.display(), detail));
    };
    if manifest.format > FORMAT {
        let (place, found) = (path.display().to_string(), manifest.format);
        return Err(IndexError::NewerFormat { place, found, known: FORMAT });
    }
    let Manifest { fingerprint, model, width, roots, .. } = manifest;
    let epoch = vectors::newest_epoch(folder).unwrap_or(1);
    let new = folder.join("catalogue.new");
    remove_database(&new)?;
    {
        let connection = catalogue::connect(&new, true, false)?;
        let fail = |e| catalogue::error(&new, e);
        create(&connection, &Identity { fingerprint, model, width }).map_err(fail)?;
        let transaction = connection.unchecked_transaction().map_err(fail)?;
        for root in roots {
            let bytes = crate::record::bytes_of(&albef_data::names::path_of(&root));
            transaction.execute("INSERT INTO root(path) VALUES (?1)", [bytes]).map_err(fail)?;
        }
        let keys = vectors::read_keys(folder, epoch)?;
        let rows = keys.len().min(vectors::rows_in_file(folder, epoch, width)?);
        VectorFiles::open(folder, epoch, width)?.mend_headers()?;
        let mapped = Mapped::open(folder, epoch, width, rows)?;
        let mut seen = std::collections::HashSet::new();
        for (slot, key) in keys.into_iter().take(rows).enumerate() {
            let (Some(key), Some(row)) = (key, mapped.row(slot)) else { continue };
            if vector_crc(row) == key.vector_crc && seen.insert(key.hash) {
                let vector = Some((slot as u64, key.vector_crc));
                catalogue::upsert(&transaction, &salvaged(slot as u64, key.hash), vector)
                    .map_err(fail)?;
            }
        }
        set_meta(&transaction, "epoch", epoch.cast_signed()).map_err(fail)?;
        set_meta(&transaction, "next_slot", rows as i64).map_err(fail)?;
        transaction.commit().map_err(fail)?;
        connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").map_err(fail)?;
        // In the new catalogue alone, whatever becomes of this process: `path` is replaced in one step.
        connection.execute_batch("PRAGMA journal_mode = DELETE").map_err(fail)?;
    }
    let mut damaged = path.as_os_str().to_owned();
    damaged.push(".damaged");
    if path.exists() {
        fs::copy(&path, &damaged).map_err(IndexError::io(&damaged))?;
    }
    for log in ["-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(log);
        remove(Path::new(&name))?;
    }
    fs::rename(&new, &path).map_err(IndexError::io(&path))?;
    vectors::sync_folder(folder)?;
    let connection = catalogue::connect(&path, true, false)?;
    let count = "SELECT count(*) FROM image WHERE root = ?1";
    let salvaged: i64 = connection
        .query_row(count, [SALVAGED], |row| row.get(0))
        .map_err(|e| catalogue::error(&path, e))?;
    Ok(salvaged.cast_unsigned())
}

/// Forgets the images whose vectors are beyond the end of the file: with them the others cannot be mapped.
fn mend_length(store: &Embedded) -> Result<()> {
    let epoch = store.reading(|c| meta::<i64>(c, "epoch"))?.cast_unsigned();
    let rows = vectors::rows_in_file(&store.folder, epoch, store.width)?;
    let writer = store.writer()?;
    store.transaction(&writer, |connection| {
        let sql = "UPDATE image SET slot = NULL WHERE slot >= ?1";
        connection.execute(sql, [rows as i64]).map(drop).map_err(|e| store.fail(e))
    })?;
    *guard(&store.snapshot) = None;
    Ok(())
}

fn remove_database(path: &Path) -> Result<()> {
    for log in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(log);
        remove(Path::new(&name))?;
    }
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(IndexError::io(path)(e)),
        _ => Ok(()),
    }
}
