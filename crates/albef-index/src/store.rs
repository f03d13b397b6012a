//! The contract of an index: what a catalogue of images with vectors does, wherever it is kept.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use half::f16;

use crate::error::{IndexError, Result};
use crate::record::{Change, ContentHash, Filter, ImageId, Record, Root, RootId};

/// Counts and facts of an index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreInfo {
    /// Where it is kept.
    pub place: String,
    /// What the vectors are of: a hash of weights and preprocessing.
    pub fingerprint: String,
    /// The model, in words.
    pub model: String,
    /// Values of a vector.
    pub width: usize,
    /// Transactions so far: another number, another content.
    pub generation: u64,
    /// Usable images.
    pub images: u64,
    /// Images that cannot be used.
    pub broken: u64,
    /// Bytes of the index.
    pub bytes: u64,
    /// Bytes that [`Store::compact`] would free, about.
    pub reclaimable: u64,
}

/// An image that was found, with its cosine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    /// The image.
    pub id: ImageId,
    /// Inner product of the query and its vector.
    pub score: f32,
}

/// What [`Store::verify`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verification {
    /// Images whose record and vector agree with their checksums.
    pub sound: u64,
    /// Images whose record or vector does not.
    pub damaged: Vec<ImageId>,
    /// What is wrong, in words, at most a few lines.
    pub problems: Vec<String>,
}

impl Verification {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.damaged.is_empty() && self.problems.is_empty()
    }
}

/// A catalogue of images with one vector each.
///
/// Threads may share a store. Each call of [`Store::apply`] is one transaction: after it returns, all of its
/// changes are durable, whatever happens to the process or the machine; if it fails, none of them is.
/// Vectors are kept in f16 and searched exactly.
pub trait Store: Send + Sync {
    /// Counts and facts.
    ///
    /// # Errors
    /// If the store cannot be read.
    fn info(&self) -> Result<StoreInfo>;

    /// The folders of the index.
    ///
    /// # Errors
    /// If the store cannot be read.
    fn roots(&self) -> Result<Vec<Root>>;

    /// The number of a folder, which is added if it is new.
    ///
    /// # Errors
    /// If the store cannot be written.
    fn add_root(&self, path: &[u8]) -> Result<RootId>;

    /// Takes a folder out of the index, with all of its images. Returns how many.
    ///
    /// # Errors
    /// If the store cannot be written.
    fn remove_root(&self, id: RootId) -> Result<u64>;

    /// Applies changes in their order, all or none; returns the numbers of the images that they are about.
    ///
    /// # Errors
    /// If the store cannot be written, [`IndexError::Width`], [`IndexError::UnknownImage`] for a move.
    fn apply(&self, changes: &[Change]) -> Result<Vec<ImageId>>;

    /// The images with these numbers; `None` for unknown ones.
    ///
    /// # Errors
    /// If the store cannot be read.
    fn get(&self, ids: &[ImageId]) -> Result<Vec<Option<Record>>>;

    /// The image at a path.
    ///
    /// # Errors
    /// If the store cannot be read.
    fn find(&self, root: RootId, path: &[u8]) -> Result<Option<Record>>;

    /// A usable image of this content, the one with the lowest number.
    ///
    /// # Errors
    /// If the store cannot be read.
    fn find_content(&self, hash: &ContentHash) -> Result<Option<Record>>;

    /// Hands all images to `each`, broken ones too, by rising number.
    ///
    /// # Errors
    /// If the store cannot be read, or that of `each`.
    fn for_each(&self, each: &mut dyn FnMut(Record) -> Result<()>) -> Result<()>;

    /// The vectors of images; `None` for unknown and broken ones.
    ///
    /// # Errors
    /// If the store cannot be read, [`IndexError::Damaged`] for a vector that contradicts its checksum.
    fn vectors(&self, ids: &[ImageId]) -> Result<Vec<Option<Vec<f16>>>>;

    /// The `k` images of the largest inner product with `query` among those that pass, best first, ties to
    /// the lower number. Exact.
    ///
    /// # Errors
    /// If the store cannot be read, [`IndexError::Width`].
    fn top_k(&self, query: &[f32], k: usize, filter: &Filter) -> Result<Vec<Scored>>;

    /// Of the usable images that pass, by their [`date`](crate::Image::date), latest first, ties to the higher number: the
    /// `n` behind the first `skip`.
    ///
    /// # Errors
    /// If the store cannot be read.
    fn newest(&self, filter: &Filter, skip: usize, n: usize) -> Result<Vec<Record>> {
        by_scan(self, filter, skip, n)
    }

    /// Reads everything and holds it against the checksums.
    ///
    /// # Errors
    /// If the store cannot be read at all.
    fn verify(&self) -> Result<Verification>;

    /// Frees what forgotten images took. Numbers of images stay.
    ///
    /// # Errors
    /// If the store cannot be written; it is then as before.
    fn compact(&self) -> Result<()>;
}

/// [`Store::newest`] by reading the whole catalogue, with `skip + n` places in memory.
pub(crate) fn by_scan<S: Store + ?Sized>(
    store: &S,
    filter: &Filter,
    skip: usize,
    n: usize,
) -> Result<Vec<Record>> {
    let places = skip.saturating_add(n);
    let roots: HashMap<RootId, Vec<u8>> =
        store.roots()?.into_iter().map(|root| (root.id, root.path)).collect();
    let mut latest: BinaryHeap<Reverse<(i64, ImageId)>> = BinaryHeap::new();
    store.for_each(&mut |record| {
        let place = (record.image.date(), record.id);
        // What is too old is the most common case, and the filter is the dearer question.
        if latest.len() == places && latest.peek().is_none_or(|oldest| place < oldest.0) {
            return Ok(());
        }
        let root = roots.get(&record.image.root);
        if root.is_some_and(|root| filter.passes(&record.image, root)) {
            latest.push(Reverse(place));
            if latest.len() > places {
                latest.pop();
            }
        }
        Ok(())
    })?;
    let ids: Vec<ImageId> =
        latest.into_sorted_vec().into_iter().skip(skip).map(|Reverse((_, id))| id).collect();
    records(store, &ids)
}

/// The images with these numbers, but for those that were forgotten since.
pub(crate) fn records<S: Store + ?Sized>(store: &S, ids: &[ImageId]) -> Result<Vec<Record>> {
    Ok(store.get(ids)?.into_iter().flatten().collect())
}

/// # Errors
/// [`IndexError::Width`] or [`IndexError::NotFinite`] for a vector that the index cannot keep.
pub(crate) fn check_vector(vector: &[f16], width: usize) -> Result<()> {
    if vector.len() != width {
        return Err(IndexError::Width { found: vector.len(), expected: width });
    }
    if vector.iter().all(|v| v.is_finite()) { Ok(()) } else { Err(IndexError::NotFinite) }
}
