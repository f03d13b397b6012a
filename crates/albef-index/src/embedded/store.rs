//! The contract of a store, over the catalogue and the file of vectors.

use std::fs;

use half::f16;
use rusqlite::{OptionalExtension, params};

use super::catalogue::{self, COLUMNS, Stored, meta, set_meta};
use super::vectors::{self, Mapped, VectorFiles};
use super::{Embedded, guard};
use crate::checksum::vector_crc;
use crate::error::{IndexError, Result};
use crate::record::{Change, ContentHash, Filter, ImageId, Record, Root, RootId, join};
use crate::scan::{Rows, top_k};
use crate::store::{Scored, Store, StoreInfo, Verification, by_scan, check_vector, records};

/// Problems that are named one by one.
const SHOWN: usize = 5;

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
                reclaimable: (next - images)
                    .max(0)
                    .cast_unsigned()
                    .saturating_mul(vectors::row_bytes(self.width)),
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

    fn newest(&self, filter: &Filter, skip: usize, n: usize) -> Result<Vec<Record>> {
        match filter.is_empty() {
            true => records(self, &self.latest(skip, n)?),
            false => by_scan(self, filter, skip, n),
        }
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
        vectors::remove_other_epochs(&self.folder, Some(old_epoch));
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
        vectors::remove_other_epochs(&self.folder, Some(epoch));
        // It needs room and frees only the catalogue's own; all else is done.
        let _ = writer.connection.execute_batch("VACUUM; PRAGMA wal_checkpoint(TRUNCATE);");
        Ok(())
    }
}

impl Embedded {
    /// Hands all rows to `each`, in pages, so that no transaction stays open while it works.
    pub(super) fn each_stored(&self, each: &mut dyn FnMut(Stored) -> Result<()>) -> Result<()> {
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
