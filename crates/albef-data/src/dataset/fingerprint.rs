//! Images that are one or look like one.

use std::collections::HashMap;
use std::sync::Arc;

use super::numbers::Hash128;
use crate::image::{Look, RgbImage};

/// Columns and rows of the gray image that is hashed; the differences of neighbors give 8 x 8 bits each way.
const CELLS: usize = 9;
/// Gray values that the cells of an image must be apart at most and least; one without content looks like every
/// other.
const CONTRAST: u32 = 8;

/// Looks that one is compared with in each part. Among millions, so many share one that not all can be compared.
const NEIGHBORS: usize = 20_000;

/// Images of one look that another one is compared with.
const OF_ONE_LOOK: usize = 8;

/// What an image is known again by.
#[derive(Clone, Debug)]
pub(super) struct Fingerprint {
    /// Of the place where it lies.
    pub place: Hash128,
    /// Of its bytes.
    pub bytes: Hash128,
    /// Of its look; `None` for an image that was not decoded or has no content.
    pub look: Option<u128>,
    /// Its colors, by which images of near looks are told apart.
    pub colors: Arc<Look>,
}

/// 128 bits that hardly change with size, quality and brightness: whether each of 8 x 8 cells is darker than
/// its right neighbor, and than its lower one (a difference hash both ways). `None` for an image
/// of one color.
pub(super) fn look(image: &RgbImage) -> Option<u128> {
    if image.is_empty() {
        return None;
    }
    let mut cells = [[0_u32; CELLS]; CELLS];
    for (row, cells) in cells.iter_mut().enumerate() {
        let ys = span(row, image.height);
        for (column, cell) in cells.iter_mut().enumerate() {
            let xs = span(column, image.width);
            let mut sum = 0_u64;
            for y in ys.clone() {
                let at = |x: usize| (y * image.width + x) * 3;
                for pixel in image.pixels[at(xs.start)..at(xs.end)].as_chunks::<3>().0 {
                    let [r, g, b] = pixel.map(u64::from);
                    sum += 299 * r + 587 * g + 114 * b;
                }
            }
            *cell = (sum / (10 * (ys.len() * xs.len()) as u64)) as u32;
        }
    }
    let all = || cells.as_flattened().iter();
    let (least, most) = (all().min()?, all().max()?);
    if most - least < 100 * CONTRAST {
        return None;
    }
    let mut bits = 0;
    for i in 0..CELLS - 1 {
        for j in 0..CELLS - 1 {
            bits = bits << 1 | u128::from(cells[i][j] < cells[i][j + 1]);
            bits = bits << 1 | u128::from(cells[i][j] < cells[i + 1][j]);
        }
    }
    Some(bits)
}

/// The pixels of a cell, at least one.
fn span(cell: usize, pixels: usize) -> std::ops::Range<usize> {
    let start = (cell * pixels / CELLS).min(pixels - 1);
    start..((cell + 1) * pixels / CELLS).max(start + 1)
}

/// Pairs of different looks that differ in at most `distance` bits, by their places in `looks`, which are apart from
/// each other. Two such agree in one of `distance + 1` parts of their bits at least, so only those that share a part
/// are compared.
pub(super) fn similar(looks: &[u128], distance: u32) -> Vec<(u32, u32)> {
    let parts = distance.min(127) + 1;
    let mut found = Vec::new();
    let mut order: Vec<u32> = (0..looks.len() as u32).collect();
    for part in 0..parts {
        let (from, to) = (128 * part / parts, 128 * (part + 1) / parts);
        let of = |i: u32| looks[i as usize] << from >> (from + 128 - to);
        order.sort_unstable_by_key(|i| of(*i));
        for alike in order.chunk_by(|a, b| of(*a) == of(*b)) {
            for (n, a) in alike.iter().enumerate() {
                for b in alike[n + 1..].iter().take(NEIGHBORS) {
                    let apart = looks[*a as usize] ^ looks[*b as usize];
                    if apart.count_ones() <= distance {
                        found.push((*a.min(b), *a.max(b)));
                    }
                }
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// Numbers of images by what they have in common.
#[derive(Debug, Default)]
pub(super) struct Alike {
    /// Each image with the same bytes as an earlier one, after that one.
    pub same: Vec<(u32, u32)>,
    /// Each image that looks like an earlier one, but has other bytes, after that one.
    pub near: Vec<(u32, u32)>,
}

/// Finds images with equal bytes and those that look alike. An image of several samples counts once; `images`:
/// sample and fingerprint.
pub(super) fn alike(images: &[(u32, Fingerprint)], distance: u32) -> Alike {
    let mut out = Alike::default();
    let mut places = HashMap::new();
    let mut bytes: HashMap<Hash128, u32> = HashMap::new();
    // Images that are like none before, and where those of a look are among them.
    let mut firsts: Vec<(u128, u32, &Look)> = Vec::new();
    let mut places_of: HashMap<u128, Vec<usize>> = HashMap::new();
    for (sample, print) in images {
        if places.insert(print.place, ()).is_some() {
            continue;
        }
        let first = *bytes.entry(print.bytes).or_insert(*sample);
        if first != *sample {
            out.same.push((first, *sample));
            continue;
        }
        let Some(look) = print.look else { continue };
        let of_look = places_of.entry(look).or_default();
        let is_same = |place: &&usize| firsts[**place].2.is_same(&print.colors);
        match of_look.iter().take(OF_ONE_LOOK).find(is_same) {
            Some(first) => out.near.push((firsts[*first].1, *sample)),
            None => {
                of_look.push(firsts.len());
                firsts.push((look, *sample, &print.colors));
            }
        }
    }
    let looks: Vec<u128> = firsts.iter().map(|(look, ..)| *look).collect();
    let mut seen = vec![false; looks.len()];
    for (a, b) in similar(&looks, distance) {
        let (first, later) = (&firsts[a as usize], &firsts[b as usize]);
        if first.2.is_same(later.2) && !std::mem::replace(&mut seen[b as usize], true) {
            out.near.push((first.1, later.1));
        }
    }
    out.near.sort_unstable_by_key(|(_, later)| *later);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{ResizeOrder, resize_bicubic};
    use crate::random::Stream;

    fn scene(seed: u64) -> RgbImage {
        let mut stream = Stream::new(seed, "scene", &[]);
        let pixels = (0..7 * 5 * 3).map(|_| stream.below(256) as u8).collect();
        let small = RgbImage::new(7, 5, pixels).unwrap();
        resize_bicubic(&small, 120, 90, ResizeOrder::default())
    }

    #[test]
    fn an_image_looks_like_itself_at_another_size_and_brightness() {
        let image = scene(1);
        let own = look(&image).unwrap();
        let small = resize_bicubic(&image, 60, 50, ResizeOrder::default());
        let mut dark = image.clone();
        dark.pixels.iter_mut().for_each(|p| *p = (f32::from(*p) * 0.8) as u8);
        for other in [&small, &dark] {
            assert!((look(other).unwrap() ^ own).count_ones() <= 4);
        }
        for seed in 2..40 {
            assert!((look(&scene(seed)).unwrap() ^ own).count_ones() > 20);
        }
        assert_eq!(look(&RgbImage::filled(30, 30, [40; 3])), None);
        assert_eq!(look(&RgbImage::filled(0, 3, [40; 3])), None);
        assert!(look(&RgbImage::new(2, 1, vec![0, 0, 0, 255, 255, 255]).unwrap()).is_some());
    }

    #[test]
    fn similar_looks_are_those_that_comparing_all_finds() {
        let mut stream = Stream::new(3, "looks", &[]);
        let mut looks: Vec<u128> = Vec::new();
        for _ in 0..300 {
            looks.push(u128::from(stream.next_u64()) << 64 | u128::from(stream.next_u64()));
            for _ in 0..stream.below(3) {
                let mut near = looks[stream.below(looks.len())];
                for _ in 0..=stream.below(9) {
                    near ^= 1 << stream.below(128);
                }
                looks.push(near);
            }
        }
        for distance in [0, 1, 4, 6, 10] {
            let mut all = Vec::new();
            for a in 0..looks.len() {
                for b in a + 1..looks.len() {
                    if (looks[a] ^ looks[b]).count_ones() <= distance {
                        all.push((a as u32, b as u32));
                    }
                }
            }
            assert_eq!(similar(&looks, distance), all, "{distance}");
            assert!(distance < 4 || !all.is_empty());
        }
    }
}
