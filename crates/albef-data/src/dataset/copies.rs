//! Images that archives hold several times, as where every caption was packed with a copy of its image.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use super::numbers::Hash128;
use super::sample::{Location, Sample};

/// Bytes at the end of an image by which most that differ are told apart: the beginnings of many are the same.
const TAIL: u64 = 4096;

/// Samples whose image has the very bytes of that of an earlier one, but is another member of the archives.
#[must_use]
pub fn copied_members(samples: &[Sample]) -> usize {
    let mut of_length: HashMap<u64, Vec<&Location>> = HashMap::new();
    for sample in samples {
        if let Location::Member { len, .. } = sample.location {
            of_length.entry(len).or_default().push(&sample.location);
        }
    }
    let mut copies = 0;
    for mut places in of_length.into_values() {
        places.sort_by_key(|place| Hash128::of(*place));
        places.dedup();
        copies += places_by(places, tail).into_iter().map(|alike| repeated(&alike)).sum::<usize>();
    }
    copies
}

/// Places by the hash of their bytes by `hash`, of which at least two are alike. Those that cannot be read are like
/// no other.
fn places_by(
    places: Vec<&Location>,
    hash: impl Fn(&Location) -> Option<Hash128>,
) -> Vec<Vec<&Location>> {
    if places.len() < 2 {
        return Vec::new();
    }
    let mut groups: HashMap<Hash128, Vec<&Location>> = HashMap::new();
    for place in places {
        if let Some(hash) = hash(place) {
            groups.entry(hash).or_default().push(place);
        }
    }
    groups.into_values().filter(|group| group.len() > 1).collect()
}

fn repeated(places: &[&Location]) -> usize {
    let whole = |place: &Location| place.bytes().ok().map(|bytes| Hash128::of(&bytes[..]));
    places_by(places.to_vec(), whole).iter().map(|group| group.len() - 1).sum()
}

/// The hash of the last bytes of a member.
fn tail(place: &Location) -> Option<Hash128> {
    let Location::Member { archive, offset, len } = place else { return None };
    let length = (*len).min(TAIL);
    let mut file = File::open(archive).ok()?;
    file.seek(SeekFrom::Start(offset + (len - length))).ok()?;
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes).ok()?;
    Some(Hash128::of(&bytes[..]))
}
