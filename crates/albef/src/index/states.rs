//! Keeping the states of images beside an index, so that a later search re-ranks without images and their encoder.

use std::path::PathBuf;

use albef_index::{
    ContentHash, Encoder, IndexError, KeptStates, Location, StatePrecision, Status, Store, join,
};
use rayon::prelude::*;

use super::{IndexEncoder, Place};
use crate::Control;
use crate::error::{Error, Result};

/// Images that are encoded at a time.
const BATCH: usize = 32;

/// What was done to have the states of all images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StatesMade {
    /// Images whose states were made now.
    pub made: u64,
    /// Images whose states were kept already.
    pub kept: u64,
    /// Images whose files cannot be read any more.
    pub unreadable: u64,
}

impl IndexEncoder<'_> {
    /// Uses the states that are kept beside an index, if they are of this encoder.
    pub(super) fn use_states(&self, index: &Location) -> Result<()> {
        if let Location::Folder(folder) = index {
            self.keep_states(KeptStates::open(folder, &self.identity().fingerprint)?);
        }
        Ok(())
    }

    /// Makes the states of all images of an index that are not kept yet.
    ///
    /// # Errors
    /// If the index cannot be read, nothing is to be kept, states cannot be written, or [`Error::Cancelled`].
    pub fn complete_states(&self, store: &dyn Store, control: &Control) -> Result<StatesMade> {
        let kept = self.kept_states().ok_or_else(|| {
            Error::Argument("states are kept beside an index in a folder only".into())
        })?;
        let (mut done, mut missing) = (StatesMade::default(), Vec::<(PathBuf, ContentHash)>::new());
        let roots = store.roots()?;
        let mut seen = std::collections::HashSet::new();
        store.for_each(&mut |record| {
            let image = record.image;
            if image.status != Status::Ok || !seen.insert(image.hash) {
                return Ok(());
            }
            if kept.has(&image.hash) {
                done.kept += 1;
            } else if let Some(root) = roots.iter().find(|root| root.id == image.root) {
                missing.push((join(&root.path, &image.path), image.hash));
            }
            Ok(())
        })?;
        let total = missing.len();
        for part in missing.chunks(BATCH) {
            control.check()?;
            let read = |(file, content): &(PathBuf, ContentHash)| {
                let image = self.reader().open(file).ok()?;
                Some((self.prepare(&image), *content))
            };
            let (prepared, contents): (Vec<_>, Vec<_>) =
                part.par_iter().filter_map(read).collect::<Vec<_>>().into_iter().unzip();
            done.unreadable += (part.len() - prepared.len()) as u64;
            if !prepared.is_empty() {
                self.states(&prepared, &contents)?;
                // A disk that is full ended it with a warning.
                if self.kept_states().is_none() {
                    return Ok(done);
                }
                done.made += prepared.len() as u64;
            }
            control.advance("states", (done.made + done.unreadable) as usize, total);
        }
        Ok(done)
    }
}

impl Place {
    /// Keeps the states of images from now on, or forgets them all with `None`.
    ///
    /// # Errors
    /// If the index is not in a folder, or it cannot be written.
    pub fn keep_states(
        &self,
        encoder: &IndexEncoder<'_>,
        precision: Option<StatePrecision>,
    ) -> Result<()> {
        let Location::Folder(folder) = &self.index else {
            return Err(Error::Argument(format!(
                "{}: states are kept beside an index in a folder only",
                self.index
            )));
        };
        let fingerprint = encoder.identity().fingerprint;
        let create = |precision| {
            KeptStates::create(folder, &fingerprint, precision, encoder.size_of_states())
        };
        let states: Option<KeptStates> = match precision {
            Some(precision) => Some(create(precision)?),
            None => {
                KeptStates::remove(folder)?;
                None
            }
        };
        encoder.keep_states(states);
        Ok(())
    }

    /// What another model kept is kept of this one, just as exactly.
    pub(super) fn renew_states(&self, encoder: &IndexEncoder<'_>) -> Result<()> {
        let Location::Folder(folder) = &self.index else { return Ok(()) };
        let precision: Option<StatePrecision> = KeptStates::precision_at(folder)?;
        match precision {
            Some(precision) => self.keep_states(encoder, Some(precision)),
            None => Ok(()),
        }
    }

    /// Forgets the states of images that are not in the index any more; returns of how many. Not while another process
    /// writes to the index.
    ///
    /// # Errors
    /// If the index cannot be read, or its folder not written.
    pub fn forget_states(&self, store: &dyn Store) -> Result<u64> {
        let Location::Folder(folder) = &self.index else { return Ok(0) };
        let Some(kept) = KeptStates::open(folder, &store.info()?.fingerprint)? else {
            return Ok(0);
        };
        let mut contents = std::collections::HashSet::new();
        store.for_each(&mut |record| {
            contents.insert(record.image.hash);
            Ok(())
        })?;
        Ok(kept.retain(&contents)?)
    }

    /// Images whose states are kept, and their bytes; `None` where none are to be kept.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn states_usage(&self, fingerprint: &str) -> Result<Option<(u64, u64)>, IndexError> {
        let Location::Folder(folder) = &self.index else { return Ok(None) };
        KeptStates::open(folder, fingerprint)?.map(|kept| kept.usage()).transpose()
    }
}
