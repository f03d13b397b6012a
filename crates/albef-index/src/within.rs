//! A part of an index: the images below some folders, as if there were no others.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use half::f16;

use crate::error::{IndexError, Result};
use crate::record::{Change, ContentHash, Filter, ImageId, Record, Root, RootId, join, path_of};
use crate::store::{Scored, Store, StoreInfo, Verification, by_scan};

/// The images of a store that are below some folders, to be read. Whoever has only this sees no other image, by
/// whatever operation: numbers of others are unknown, and counts are of these.
pub struct Within {
    store: Box<dyn Store>,
    folders: Vec<PathBuf>,
    /// Usable and broken images, by the generation at which they were counted.
    counts: Mutex<Option<(u64, [u64; 2])>>,
}

impl std::fmt::Debug for Within {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Within").field("folders", &self.folders).finish_non_exhaustive()
    }
}

/// The paths of the folders of an index.
type Roots = HashMap<RootId, Vec<u8>>;

impl Within {
    /// The images below absolute folders.
    #[must_use]
    pub fn new(store: Box<dyn Store>, folders: Vec<PathBuf>) -> Self {
        Self { store, folders, counts: Mutex::new(None) }
    }

    fn all_roots(&self) -> Result<Roots> {
        Ok(self.store.roots()?.into_iter().map(|root| (root.id, root.path)).collect())
    }

    /// Whether the folders are around all of the index.
    fn has_all(&self) -> Result<bool> {
        let covered = |root: &Vec<u8>| {
            let path = path_of(root);
            self.folders.iter().any(|folder| path.starts_with(folder))
        };
        Ok(self.all_roots()?.values().all(covered))
    }

    fn has(&self, roots: &Roots, record: &Record) -> bool {
        let Some(root) = roots.get(&record.image.root) else { return false };
        let path = join(root, &record.image.path);
        self.folders.iter().any(|folder| path.starts_with(folder))
    }

    fn one(&self, found: Option<Record>) -> Result<Option<Record>> {
        let roots = self.all_roots()?;
        Ok(found.filter(|record| self.has(&roots, record)))
    }

    fn refused<T>(&self) -> Result<T> {
        let folders = self.folders.iter().map(|folder| folder.display().to_string());
        Err(IndexError::ReadOnly { place: folders.collect::<Vec<_>>().join(", ") })
    }

    /// A filter for these folders only; `None` if nothing can pass.
    fn narrowed(&self, filter: &Filter) -> Option<Filter> {
        let mut filter = filter.clone();
        if filter.folders.is_empty() {
            filter.folders.clone_from(&self.folders);
        } else {
            let both = |wanted: &PathBuf| {
                let inner = |own: &PathBuf| match (wanted.starts_with(own), own.starts_with(wanted))
                {
                    (true, _) => Some(wanted.clone()),
                    (_, true) => Some(own.clone()),
                    _ => None,
                };
                self.folders.iter().filter_map(inner).collect::<Vec<_>>()
            };
            filter.folders = filter.folders.iter().flat_map(both).collect();
        }
        (!filter.folders.is_empty()).then_some(filter)
    }
}

impl Store for Within {
    fn info(&self) -> Result<StoreInfo> {
        let info = self.store.info()?;
        let counts = || self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let known = counts().filter(|(generation, _)| *generation == info.generation);
        let [images, broken] = match known {
            Some((_, found)) => found,
            None => {
                let mut found = [0, 0];
                self.for_each(&mut |record| {
                    found[usize::from(!record.image.status.is_ok())] += 1;
                    Ok(())
                })?;
                *counts() = Some((info.generation, found));
                found
            }
        };
        Ok(StoreInfo { images, broken, ..info })
    }

    fn roots(&self) -> Result<Vec<Root>> {
        let shares = |root: &Root| {
            let path = path_of(&root.path);
            self.folders.iter().any(|own| own.starts_with(&path) || path.starts_with(own))
        };
        Ok(self.store.roots()?.into_iter().filter(shares).collect())
    }

    fn add_root(&self, _path: &[u8]) -> Result<RootId> {
        self.refused()
    }

    fn remove_root(&self, _id: RootId) -> Result<u64> {
        self.refused()
    }

    fn apply(&self, _changes: &[Change]) -> Result<Vec<ImageId>> {
        self.refused()
    }

    fn get(&self, ids: &[ImageId]) -> Result<Vec<Option<Record>>> {
        let roots = self.all_roots()?;
        let found = self.store.get(ids)?.into_iter();
        Ok(found.map(|record| record.filter(|record| self.has(&roots, record))).collect())
    }

    fn find(&self, root: RootId, path: &[u8]) -> Result<Option<Record>> {
        self.one(self.store.find(root, path)?)
    }

    fn find_content(&self, hash: &ContentHash) -> Result<Option<Record>> {
        if let found @ Some(_) = self.one(self.store.find_content(hash)?)? {
            return Ok(found);
        }
        // The one with the lowest number is elsewhere.
        let mut first = None;
        self.for_each(&mut |record| {
            if first.is_none() && record.image.hash == *hash && record.image.status.is_ok() {
                first = Some(record);
            }
            Ok(())
        })?;
        Ok(first)
    }

    fn for_each(&self, each: &mut dyn FnMut(Record) -> Result<()>) -> Result<()> {
        let roots = self.all_roots()?;
        self.store.for_each(&mut |record| match self.has(&roots, &record) {
            true => each(record),
            false => Ok(()),
        })
    }

    fn vectors(&self, ids: &[ImageId]) -> Result<Vec<Option<Vec<f16>>>> {
        let known = self.get(ids)?;
        let found = self.store.vectors(ids)?.into_iter().zip(known);
        Ok(found.map(|(vector, known)| vector.filter(|_| known.is_some())).collect())
    }

    fn newest(&self, filter: &Filter, skip: usize, n: usize) -> Result<Vec<Record>> {
        match self.has_all()? {
            true => self.store.newest(filter, skip, n),
            false => by_scan(self, filter, skip, n),
        }
    }

    fn top_k(&self, query: &[f32], k: usize, filter: &Filter) -> Result<Vec<Scored>> {
        if self.has_all()? {
            return self.store.top_k(query, k, filter);
        }
        match self.narrowed(filter) {
            Some(filter) => self.store.top_k(query, k, &filter),
            None => Ok(Vec::new()),
        }
    }

    fn verify(&self) -> Result<Verification> {
        self.store.verify()
    }

    fn compact(&self) -> Result<()> {
        self.refused()
    }
}
