//! Copies of one image, and images that look alike.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use albef_data::control::Control;
use half::f16;
use rayon::prelude::*;

use crate::error::Result;
use crate::record::{ContentHash, ImageId, Record, Root, join};
use crate::scan::{Kernel, dots};
use crate::store::Store;

/// Images whose vectors are held against each other at a time: so many fit into a cache.
const TILE: usize = 128;

/// What counts as a duplicate. Files of one content always do.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DuplicateOptions {
    /// Images whose vectors have at least this cosine; compares all with all.
    pub cosine: Option<f32>,
    /// Images whose perceptual hashes differ in at most this many of 64 bits.
    pub bits: Option<u32>,
}

/// Images of which one is enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DuplicateGroup {
    /// Whether all are of one content, byte by byte.
    pub exact: bool,
    /// The one to keep: the largest; of several the oldest; of these the one with the lowest number.
    pub keep: Record,
    /// The others, in the same order.
    pub others: Vec<Record>,
}

/// Groups of duplicates, the largest first.
///
/// # Errors
/// If the store cannot be read, or [`crate::IndexError::Cancelled`].
pub fn duplicates(
    store: &dyn Store,
    options: &DuplicateOptions,
    control: &Control,
) -> Result<Vec<DuplicateGroup>> {
    let mut records = Vec::new();
    let roots: Vec<_> = store.roots()?.iter().map(|root| root.id).collect();
    store.for_each(&mut |record| {
        if record.image.status.is_ok() && roots.contains(&record.image.root) {
            records.push(record);
        }
        Ok(())
    })?;
    let mut groups = Groups::new(records.len());
    let mut first: HashMap<ContentHash, usize> = HashMap::new();
    for (i, record) in records.iter().enumerate() {
        groups.join(*first.entry(record.image.hash).or_insert(i), i);
    }
    // Copies need not be compared again.
    let single: Vec<usize> = first.into_values().collect();
    if let Some(bits) = options.bits {
        by_bits(&records, &single, bits, &mut groups);
    }
    if let Some(cosine) = options.cosine {
        by_cosine(store, &records, &single, cosine, &mut groups, control)?;
    }
    let roots = store.roots()?;
    let mut members: HashMap<usize, Vec<Record>> = HashMap::new();
    for (i, record) in records.into_iter().enumerate() {
        members.entry(groups.find(i)).or_default().push(record);
    }
    let files = members.into_values().filter(|group| group.len() > 1);
    let files = files.map(|group| without_links(group, &roots));
    let mut out: Vec<DuplicateGroup> = files.filter(|group| group.len() > 1).map(group).collect();
    out.sort_by_key(|group| (Reverse(group.others.len()), group.keep.id));
    Ok(out)
}

/// One record for each file: a link to a file is no copy of it, and whoever deletes the file loses both. The file itself
/// stands for its links.
fn without_links(mut members: Vec<Record>, roots: &[Root]) -> Vec<Record> {
    let path = |record: &Record| {
        let root = roots.iter().find(|root| root.id == record.image.root);
        join(root.map_or(b"", |root| &root.path), &record.image.path)
    };
    members.sort_by_cached_key(|record| (path(record).is_symlink(), record.id));
    let mut seen = HashSet::new();
    members.retain(|record| {
        let path = path(record);
        seen.insert(path.canonicalize().unwrap_or(path))
    });
    members
}

fn group(mut members: Vec<Record>) -> DuplicateGroup {
    let exact = members.windows(2).all(|w| w[0].image.hash == w[1].image.hash);
    members.sort_by_key(|r| (Reverse(r.image.pixels()), r.image.date(), r.id));
    let keep = members.remove(0);
    DuplicateGroup { exact, keep, others: members }
}

/// Pairs of hashes that differ in at most `bits` bits. Cut into one part more than bits may differ, two such hashes
/// have a part in common, by which they are found.
fn by_bits(records: &[Record], single: &[usize], bits: u32, groups: &mut Groups) {
    let parts = bits.min(63) + 1;
    for part in 0..parts {
        let (from, to) = (part * 64 / parts, (part + 1) * 64 / parts);
        let cut = |hash: u64| {
            if to - from == 64 { hash } else { hash >> from & ((1 << (to - from)) - 1) }
        };
        let mut alike: HashMap<u64, Vec<usize>> = HashMap::new();
        for i in single {
            alike.entry(cut(records[*i].image.perceptual)).or_default().push(*i);
        }
        for candidates in alike.into_values() {
            for (at, i) in candidates.iter().enumerate() {
                for j in &candidates[at + 1..] {
                    let (a, b) = (&records[*i].image, &records[*j].image);
                    if (a.perceptual ^ b.perceptual).count_ones() <= bits {
                        groups.join(*i, *j);
                    }
                }
            }
        }
    }
}

/// Pairs of vectors of at least this cosine: all with all, tile by tile.
fn by_cosine(
    store: &dyn Store,
    records: &[Record],
    single: &[usize],
    cosine: f32,
    groups: &mut Groups,
    control: &Control,
) -> Result<()> {
    let mut single = single.to_vec();
    single.sort_unstable();
    let mut vectors: Vec<Vec<f32>> = Vec::with_capacity(single.len());
    let mut values: Vec<f16> = Vec::new();
    for part in single.chunks(TILE * 8) {
        control.check()?;
        let ids: Vec<ImageId> = part.iter().map(|i| records[*i].id).collect();
        for vector in store.vectors(&ids)? {
            let vector = vector.unwrap_or_default();
            vectors.push(vector.iter().map(|v| v.to_f32()).collect());
            values.extend(vector);
        }
    }
    let width = vectors.first().map_or(0, Vec::len);
    if width == 0 || vectors.iter().any(|v| v.len() != width) {
        return Ok(());
    }
    let (kernel, n) = (Kernel::fastest(), single.len());
    let tiles = n.div_ceil(TILE);
    control.advance("comparisons", 0, tiles);
    for tile in 0..tiles {
        control.check()?;
        let queries = tile * TILE..n.min((tile + 1) * TILE);
        let pairs: Vec<(usize, usize)> = (tile..tiles)
            .into_par_iter()
            .flat_map_iter(|other| {
                let rows = other * TILE..n.min((other + 1) * TILE);
                let mut scores = vec![0.0; rows.len()];
                let mut found = Vec::new();
                for query in queries.clone() {
                    let tile = &values[rows.start * width..rows.end * width];
                    dots(tile, &vectors[query], &mut scores, kernel);
                    let near = rows.clone().zip(&scores);
                    let near = near.filter(|(row, score)| *row > query && **score >= cosine);
                    found.extend(near.map(|(row, _)| (query, row)));
                }
                found
            })
            .collect();
        pairs.into_iter().for_each(|(a, b)| groups.join(single[a], single[b]));
        control.advance("comparisons", tile + 1, tiles);
    }
    Ok(())
}

/// Sets that are joined: union-find.
struct Groups(Vec<usize>);

impl Groups {
    fn new(n: usize) -> Self {
        Self((0..n).collect())
    }

    fn find(&mut self, mut i: usize) -> usize {
        while self.0[i] != i {
            self.0[i] = self.0[self.0[i]];
            i = self.0[i];
        }
        i
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.find(a), self.find(b));
        // The lower one stands for both, so that groups do not depend on the order of joining.
        self.0[a.max(b)] = a.min(b);
    }
}
