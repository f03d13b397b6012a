//! Copies of one image, and images that look alike.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::PathBuf;

use albef_data::control::Control;
use albef_data::image::{Background, DecodeOptions, Look};
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
    let best = |copies: &[usize]| copies.iter().map(|i| order(&records[*i])).min();
    single.sort_by_cached_key(|i| best(&copies[&records[*i].image.hash]));
    let mut near =
        Near { records: &records, single: &single, roots: &roots, looks: HashMap::new() };
    let buckets = options.bits.map(|bits| Buckets::new(&near, bits));
    let vectors = match options.cosine {
        Some(cosine) => Vectors::read(store, &near, cosine, control)?,
        None => None,
    };
    // By places in `single`, the order in which images are kept: whoever is not taken yet takes all that are like it.
    let mut taken = vec![false; single.len()];
    let mut out = Vec::new();
    let what = if vectors.is_some() { "comparisons" } else { "images" };
    for tile in (0..single.len()).step_by(TILE) {
        control.check()?;
        control.advance(what, tile, single.len());
        let heads = tile..single.len().min(tile + TILE);
        let by_cosine = vectors.as_ref().map(|vectors| vectors.alike(heads.clone(), &taken));
        for head in heads {
            if std::mem::replace(&mut taken[head], true) {
                continue;
            }
            let mut members: Vec<usize> =
                by_cosine.as_ref().map_or_else(Vec::new, |found| found[head - tile].clone());
            if let Some(buckets) = &buckets {
                members.extend(near.same_looks(head, buckets.of(head, &taken)));
            }
            members.retain(|place| !std::mem::replace(&mut taken[*place], true));
            members.push(head);
            let copies_of = |place: &usize| copies[&records[single[*place]].image.hash].iter();
            let members = members.iter().flat_map(copies_of).map(|i| records[*i].clone()).collect();
            let members = without_links(members, &roots);
            if members.len() > 1 {
                out.push(group(members));
            }
        }
    }
    control.advance(what, single.len(), single.len());
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

/// Images of different content, by their places in the order in which they are kept.
struct Near<'a> {
    records: &'a [Record],
    single: &'a [usize],
    roots: &'a [Root],
    /// Of images that were looked at; `None` for what cannot be read any more, which nobody could look at.
    looks: HashMap<usize, Option<Look>>,
}

impl Near<'_> {
    fn record(&self, place: usize) -> &Record {
        &self.records[self.single[place]]
    }

    /// Those of `places` that look like `head`.
    fn same_looks(&mut self, head: usize, mut places: Vec<usize>) -> Vec<usize> {
        if places.is_empty() {
            return places;
        }
        // As people see them: upright, and what is transparent on white.
        let background = Background::WHITE;
        let options = DecodeOptions { background, ..DecodeOptions::own_images() };
        let all = places.iter().chain([&head]);
        let unknown: Vec<usize> = all.filter(|p| !self.looks.contains_key(p)).copied().collect();
        let look = |place: &usize| {
            let image = albef_data::image::open(&file(self.record(*place), self.roots), &options);
            (*place, image.ok().map(|image| Look::of(&image)))
        };
        let found: Vec<_> = unknown.par_iter().map(look).collect();
        self.looks.extend(found);
        let look = |place: &usize| self.looks.get(place).and_then(Option::as_ref);
        places.retain(|place| look(&head).zip(look(place)).is_some_and(|(a, b)| a.is_same(b)));
        places
    }
}

/// Images by parts of their hashes: cut into one part more than bits may differ, two near hashes have a part in common.
struct Buckets {
    bits: u32,
    hashes: Vec<u64>,
    parts: Vec<HashMap<u64, Vec<usize>>>,
}

impl Buckets {
    fn new(near: &Near<'_>, bits: u32) -> Self {
        let count = near.single.len();
        let hashes: Vec<u64> = (0..count).map(|i| near.record(i).image.perceptual).collect();
        let parts = (0..=bits.min(63)).map(|part| {
            let mut bucket: HashMap<u64, Vec<usize>> = HashMap::new();
            for (place, hash) in hashes.iter().enumerate() {
                bucket.entry(cut(*hash, part, bits)).or_default().push(place);
            }
            bucket
        });
        Self { bits, parts: parts.collect(), hashes }
    }

    /// Images of near hashes that are not taken.
    fn of(&self, head: usize, taken: &[bool]) -> Vec<usize> {
        let hash = self.hashes[head];
        let is_near = |place: &usize| {
            !taken[*place] && (self.hashes[*place] ^ hash).count_ones() <= self.bits
        };
        let parts = (0..).zip(&self.parts);
        let buckets = parts.filter_map(|(part, bucket)| bucket.get(&cut(hash, part, self.bits)));
        let mut found: Vec<usize> = buckets.flatten().copied().filter(is_near).collect();
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// A part of a hash.
fn cut(hash: u64, part: u32, bits: u32) -> u64 {
    let parts = bits.min(63) + 1;
    let (from, to) = (part * 64 / parts, (part + 1) * 64 / parts);
    if to - from == 64 { hash } else { hash >> from & ((1 << (to - from)) - 1) }
}

/// The vectors of images, one after the other.
struct Vectors {
    cosine: f32,
    width: usize,
    values: Vec<f16>,
}

impl Vectors {
    /// `None` if there are none of one width.
    fn read(
        store: &dyn Store,
        near: &Near<'_>,
        cosine: f32,
        control: &Control,
    ) -> Result<Option<Self>> {
        let (mut values, mut width) = (Vec::new(), 0);
        let places: Vec<usize> = (0..near.single.len()).collect();
        for part in places.chunks(TILE * 8) {
            control.check()?;
            let ids: Vec<ImageId> = part.iter().map(|place| near.record(*place).id).collect();
            for vector in store.vectors(&ids)? {
                let vector = vector.unwrap_or_default();
                width = if width == 0 { vector.len() } else { width };
                if vector.len() != width || width == 0 {
                    return Ok(None);
                }
                values.extend(vector);
            }
        }
        Ok((width > 0).then_some(Self { cosine, width, values }))
    }

    /// For each head the images behind it, not taken, of at least the cosine.
    fn alike(&self, heads: Range<usize>, taken: &[bool]) -> Vec<Vec<usize>> {
        let (kernel, count) = (Kernel::fastest(), self.values.len() / self.width);
        let rows = |r: Range<usize>| &self.values[r.start * self.width..r.end * self.width];
        let one = |head: usize| -> Vec<usize> {
            if taken[head] {
                return Vec::new();
            }
            let query: Vec<f32> = rows(head..head + 1).iter().map(|v| v.to_f32()).collect();
            let (mut found, mut scores) = (Vec::new(), [0.0; TILE]);
            for start in (head + 1..count).step_by(TILE) {
                let range = start..count.min(start + TILE);
                let scores = &mut scores[..range.len()];
                dots(rows(range.clone()), &query, scores, kernel);
                let near = range.zip(scores.iter()).filter(|(_, score)| **score >= self.cosine);
                found.extend(near.map(|(place, _)| place).filter(|place| !taken[*place]));
            }
            found
        };
        heads.into_par_iter().map(one).collect()
    }
}
