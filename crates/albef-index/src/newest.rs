//! Images in the order of time, for those who look around before they search.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use crate::error::Result;
use crate::record::{Filter, ImageId, Record, RootId};
use crate::store::Store;

/// [`Store::newest`] by reading the whole catalogue, with `n` places in memory.
pub(crate) fn by_scan<S: Store + ?Sized>(
    store: &S,
    filter: &Filter,
    n: usize,
) -> Result<Vec<Record>> {
    let roots: HashMap<RootId, Vec<u8>> =
        store.roots()?.into_iter().map(|root| (root.id, root.path)).collect();
    let mut latest: BinaryHeap<Reverse<(i64, ImageId)>> = BinaryHeap::new();
    store.for_each(&mut |record| {
        let place = (record.image.date(), record.id);
        // What is too old is the most common case, and the filter is the dearer question.
        if latest.len() == n && latest.peek().is_none_or(|oldest| place < oldest.0) {
            return Ok(());
        }
        let root = roots.get(&record.image.root);
        if root.is_some_and(|root| filter.passes(&record.image, root)) {
            latest.push(Reverse(place));
            if latest.len() > n {
                latest.pop();
            }
        }
        Ok(())
    })?;
    let ids: Vec<ImageId> =
        latest.into_sorted_vec().into_iter().map(|Reverse((_, id))| id).collect();
    records(store, &ids)
}

/// The images with these numbers, but for those that were forgotten since.
pub(crate) fn records<S: Store + ?Sized>(store: &S, ids: &[ImageId]) -> Result<Vec<Record>> {
    Ok(store.get(ids)?.into_iter().flatten().collect())
}
