//! The vectors of one generation in memory, and whose they are.

use std::sync::{Arc, OnceLock};

use super::catalogue::{SALVAGED, meta};
use super::vectors::{self, Mapped};
use super::{Embedded, guard};
use crate::error::{IndexError, Result};
use crate::record::{Filter, ImageId};
use crate::scan::NO_IMAGE;
use crate::store::Store;

/// The vectors at one generation, and whose they are.
pub(super) struct Snapshot {
    pub generation: u64,
    pub mapped: Mapped,
    /// The image of each row.
    pub ids: Vec<ImageId>,
    /// The images, latest first; made when it is first asked for.
    newest: OnceLock<Vec<ImageId>>,
}

impl Embedded {
    /// The vectors of the newest generation.
    pub(super) fn snapshot(&self) -> Result<Arc<Snapshot>> {
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
        let read = self.reading(|connection| {
            // One transaction, so that all is of one generation.
            let transaction = connection.unchecked_transaction()?;
            let generation: i64 = meta(&transaction, "generation")?;
            let epoch: i64 = meta(&transaction, "epoch")?;
            let rows: Option<i64> =
                transaction.query_row("SELECT max(slot) FROM image", [], |row| row.get(0))?;
            let rows = rows.map_or(0, |last| last.cast_unsigned().saturating_add(1));
            // A damaged catalogue may name any row; of the file of vectors there are only so many.
            let epoch_number = epoch.cast_unsigned();
            let there = vectors::rows_of(&self.folder, epoch_number, self.width);
            if rows > there {
                return Ok(Err(rows));
            }
            let mut ids = vec![NO_IMAGE; rows as usize];
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
            Ok(Ok((generation.cast_unsigned(), epoch_number, ids)))
        })?;
        let (generation, epoch, ids) = read.map_err(|rows| {
            let detail = format!(
                "the catalogue names {rows} vectors, and their file is missing or has fewer"
            );
            IndexError::damaged(self.folder.display(), detail)
        })?;
        let mapped = Mapped::open(&self.folder, epoch, self.width, ids.len())?;
        Ok(Snapshot { generation, mapped, ids, newest: OnceLock::new() })
    }

    /// The `n` images behind the `skip` latest.
    pub(super) fn latest(&self, skip: usize, n: usize) -> Result<Vec<ImageId>> {
        /// Seconds since 1970, as [`crate::Image::date`] has them.
        const DATE: &str = "coalesce(taken, (modified - (modified % 1000000000 + 1000000000) % 1000000000) \
                            / 1000000000)";
        let snapshot = self.snapshot()?;
        if let Some(newest) = snapshot.newest.get() {
            return Ok(newest.iter().skip(skip).take(n).copied().collect());
        }
        let sql = format!(
            "SELECT id FROM image WHERE slot IS NOT NULL AND root <> ?1 ORDER BY {DATE} DESC, id DESC"
        );
        let all: Vec<ImageId> = self.reading(|connection| {
            connection.prepare_cached(&sql)?.query_map([SALVAGED], |row| row.get(0))?.collect()
        })?;
        let newest = snapshot.newest.get_or_init(|| all);
        Ok(newest.iter().skip(skip).take(n).copied().collect())
    }

    /// A bit for each row of the snapshot whose image passes.
    pub(super) fn mask(&self, snapshot: &Snapshot, filter: &Filter) -> Result<Vec<u64>> {
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
}
