//! Copies of one image, and images that look alike.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use albef_data::control::Control;
use albef_data::image::{DecodeOptions, Look};
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
    /// Images whose perceptual hashes differ in at most this many of 64 bits, and whose colors agree everywhere when
    /// seen from afar. Hashes alone cannot tell drawings on a white ground apart; the files are read for it.
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

/// Groups of duplicates, the largest first. Each image of a group is a duplicate of the one to keep: that one image is
/// like a second and the second like a third makes no group of the three.
///
/// # Errors
/// If the store cannot be read, or [`crate::IndexError::Cancelled`].
pub fn duplicates(
    store: &dyn Store,
    options: &DuplicateOptions,
    control: &Control,
) -> Result<Vec<DuplicateGroup>> {
    let mut records = Vec::new();
    let roots = store.roots()?;
    store.for_each(&mut |record| {
        let has_root = roots.iter().any(|root| root.id == record.image.root);
        if record.image.status.is_ok() && has_root {
            records.push(record);
        }
        Ok(())
    })?;
    // Copies of one content need not be compared again: the first stands for all.
    let mut copies: HashMap<ContentHash, Vec<usize>> = HashMap::new();
    for (i, record) in records.iter().enumerate() {
        copies.entry(record.image.hash).or_default().push(i);
    }
    let mut single: Vec<usize> = copies.values().map(|copies| copies[0]).collect();
    single.sort_unstable();
    let mut alike: Vec<(usize, usize)> = Vec::new();
    if let Some(bits) = options.bits {
        alike.extend(by_bits(&records, &single, bits, &roots, control)?);
    }
    if let Some(cosine) = options.cosine {
        alike.extend(by_cosine(store, &records, &single, cosine, control)?);
    }
    let mut neighbors: HashMap<usize, Vec<usize>> = HashMap::new();
    for (a, b) in alike {
        neighbors.entry(a).or_default().push(b);
        neighbors.entry(b).or_default().push(a);
    }
    let best = |copies: &[usize]| copies.iter().map(|i| order(&records[*i])).min();
    single.sort_by_cached_key(|i| best(&copies[&records[*i].image.hash]));
    let mut taken: HashSet<usize> = HashSet::new();
    let mut out = Vec::new();
    for head in single {
        if !taken.insert(head) {
            continue;
        }
        let near = neighbors.get(&head).map_or(&[][..], Vec::as_slice).iter();
        let mut members: Vec<usize> = near.copied().filter(|i| taken.insert(*i)).collect();
        members.push(head);
        let copies_of = |i: &usize| copies[&records[*i].image.hash].iter();
        let members = members.iter().flat_map(copies_of).map(|i| records[*i].clone()).collect();
        let members = without_links(members, &roots);
        if members.len() > 1 {
            out.push(group(members));
        }
    }
    out.sort_by_key(|group| (Reverse(group.others.len()), group.keep.id));
    Ok(out)
}

/// What comes first is kept.
fn order(record: &Record) -> (Reverse<u64>, i64, ImageId) {
    (Reverse(record.image.pixels()), record.image.date(), record.id)
}

fn file(record: &Record, roots: &[Root]) -> PathBuf {
    let root = roots.iter().find(|root| root.id == record.image.root);
    join(root.map_or(b"", |root| &root.path), &record.image.path)
}

/// One record for each file: a link to a file is no copy of it, and whoever deletes the file loses both. The file itself
/// stands for its links.
fn without_links(mut members: Vec<Record>, roots: &[Root]) -> Vec<Record> {
    if members.len() < 2 {
        return members;
    }
    members.sort_by_cached_key(|record| (file(record, roots).is_symlink(), record.id));
    let mut seen = HashSet::new();
    members.retain(|record| {
        let path = file(record, roots);
        seen.insert(path.canonicalize().unwrap_or(path))
    });
    members
}

fn group(mut members: Vec<Record>) -> DuplicateGroup {
    let exact = members.windows(2).all(|w| w[0].image.hash == w[1].image.hash);
    members.sort_by_key(order);
    let keep = members.remove(0);
    DuplicateGroup { exact, keep, others: members }
}

/// Pairs of images whose hashes differ in at most `bits` bits and that look the same. Cut into one part more than bits
/// may differ, two such hashes have a part in common, by which they are found.
fn by_bits(
    records: &[Record],
    single: &[usize],
    bits: u32,
    roots: &[Root],
    control: &Control,
) -> Result<Vec<(usize, usize)>> {
    let parts = bits.min(63) + 1;
    let mut pairs: HashSet<(usize, usize)> = HashSet::new();
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
            control.check()?;
            for (at, i) in candidates.iter().enumerate() {
                for j in &candidates[at + 1..] {
                    let (a, b) = (&records[*i].image, &records[*j].image);
                    if (a.perceptual ^ b.perceptual).count_ones() <= bits {
                        pairs.insert((*i, *j));
                    }
                }
            }
        }
    }
    let mut wanted: Vec<usize> = pairs.iter().flat_map(|(a, b)| [*a, *b]).collect();
    wanted.sort_unstable();
    wanted.dedup();
    let options = DecodeOptions { exif_orientation: true, ..DecodeOptions::default() };
    let mut looks: HashMap<usize, Look> = HashMap::new();
    control.advance("images", 0, wanted.len());
    for part in wanted.chunks(TILE) {
        control.check()?;
        let look = |i: &usize| {
            // What cannot be read any more is no duplicate that anybody could look at.
            let image = albef_data::image::open(&file(&records[*i], roots), &options).ok()?;
            Some((*i, Look::of(&image)))
        };
        looks.extend(part.par_iter().filter_map(look).collect::<Vec<_>>());
        control.advance("images", looks.len(), wanted.len());
    }
    let is_same =
        |(a, b): &(usize, usize)| looks.get(a).zip(looks.get(b)).is_some_and(|(a, b)| a.is_same(b));
    Ok(pairs.into_iter().filter(is_same).collect())
}

/// Pairs of vectors of at least this cosine: all with all, tile by tile.
fn by_cosine(
    store: &dyn Store,
    records: &[Record],
    single: &[usize],
    cosine: f32,
    control: &Control,
) -> Result<Vec<(usize, usize)>> {
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
        return Ok(Vec::new());
    }
    let mut all = Vec::new();
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
        all.extend(pairs.into_iter().map(|(a, b)| (single[a], single[b])));
        control.advance("comparisons", tile + 1, tiles);
    }
    Ok(all)
}
