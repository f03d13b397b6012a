//! Pillow's bicubic resize, bit for bit.

use serde::{Deserialize, Serialize};

use super::RgbImage;

/// Which of the two passes of resizing comes first. Each rounds to 8 bits, so the order is seen in the last
/// bits of the result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResizeOrder {
    /// The horizontal pass, as in Pillow up to 12, with which the published figures were measured.
    #[default]
    HorizontalFirst,
    /// As in Pillow 13: the vertical pass where the height shrinks, and by more than twice as many pixels as
    /// the width does; else the horizontal one.
    #[serde(rename = "pillow_13")]
    Pillow13,
}

impl ResizeOrder {
    fn vertical_first(self, from: (usize, usize), to: (usize, usize)) -> bool {
        let shrinks = |from: usize, to: usize| from as i128 - to as i128;
        self == Self::Pillow13 && from.1 > to.1 && shrinks(from.1, to.1) > 2 * shrinks(from.0, to.0)
    }
}

const BITS: u32 = 22;

fn kernel(t: f64) -> f64 {
    const A: f64 = -0.5;
    let t = t.abs();
    if t < 1.0 {
        ((A + 2.0) * t - (A + 3.0)) * t * t + 1.0
    } else if t < 2.0 {
        (((t - 5.0) * t + 8.0) * t - 4.0) * A
    } else {
        0.0
    }
}

/// For each output place the first input place and the fixed-point weights, one after the other: those of a
/// long side would take much memory together.
fn weights(n_in: usize, n_out: usize) -> impl Iterator<Item = (usize, Vec<i32>)> {
    let scale = n_in as f64 / n_out as f64;
    let stretch = scale.max(1.0);
    let support = 2.0 * stretch;
    let inverse = 1.0 / stretch;
    (0..n_out).map(move |x| {
        let centre = (x as f64 + 0.5) * scale;
        let low = (centre - support + 0.5).max(0.0) as usize;
        let high = ((centre + support + 0.5) as usize).min(n_in);
        let w: Vec<f64> =
            (low..high).map(|i| kernel((i as f64 - centre + 0.5) * inverse)).collect();
        let sum: f64 = w.iter().sum();
        let norm = if sum == 0.0 { 1.0 } else { sum };
        let fixed = w
            .iter()
            .map(|w| {
                let v = w / norm * f64::from(1_u32 << BITS);
                if v < 0.0 { (v - 0.5) as i32 } else { (v + 0.5) as i32 }
            })
            .collect();
        (low, fixed)
    })
}

fn clip(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

/// Resizes to `width` x `height` in two passes of 8 bits, each left out where the size stays. An image
/// without pixels becomes a black one of that size.
#[must_use]
pub fn resize_bicubic(src: &RgbImage, width: usize, height: usize, order: ResizeOrder) -> RgbImage {
    if src.is_empty() || width == 0 || height == 0 {
        return RgbImage::filled(width, height, [0; 3]);
    }
    if order.vertical_first((src.width, src.height), (width, height)) {
        horizontal(&vertical(src, height), width)
    } else {
        vertical(&horizontal(src, width), height)
    }
}

fn horizontal(image: &RgbImage, width: usize) -> RgbImage {
    if image.width == width {
        return image.clone();
    }
    let columns: Vec<_> = weights(image.width, width).collect();
    let mut out = vec![0; width * image.height * 3];
    for (line, out) in image.pixels.chunks(image.width * 3).zip(out.chunks_mut(width * 3)) {
        for ((low, w), out) in columns.iter().zip(out.chunks_mut(3)) {
            let mut sum = [1 << (BITS - 1); 3];
            for (pixel, w) in line[low * 3..].chunks(3).zip(w) {
                for (s, p) in sum.iter_mut().zip(pixel) {
                    *s += i32::from(*p) * w;
                }
            }
            out.iter_mut().zip(sum).for_each(|(o, s)| *o = clip(s));
        }
    }
    RgbImage { width, height: image.height, pixels: out }
}

fn vertical(image: &RgbImage, height: usize) -> RgbImage {
    if image.height == height {
        return image.clone();
    }
    let row = image.width * 3;
    let mut out = vec![0; row * height];
    let mut sums = vec![0; row];
    for ((low, w), out) in weights(image.height, height).zip(out.chunks_mut(row)) {
        sums.fill(1 << (BITS - 1));
        for (line, w) in image.pixels[low * row..].chunks(row).zip(&w) {
            sums.iter_mut().zip(line).for_each(|(s, p)| *s += i32::from(*p) * w);
        }
        out.iter_mut().zip(&sums).for_each(|(o, s)| *o = clip(*s));
    }
    RgbImage { width: image.width, height, pixels: out }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    /// Noise without a generator: the same in Python.
    fn noise(width: usize, height: usize) -> RgbImage {
        let value = |i: usize| ((i as u64 * 2_654_435_761) >> 13) as u8;
        let pixels = (0..width * height * 3).map(value).collect();
        RgbImage { width, height, pixels }
    }

    #[test]
    fn both_orders_give_the_bytes_of_their_pillow() {
        // Sizes before and after; the first bytes of the hash by Pillow 12.3 and 13.0.
        for (w, h, width, height, pillow_12, pillow_13) in [
            (40, 30, 16, 16, "f8375d41793fffc2", "f8375d41793fffc2"),
            (30, 40, 16, 16, "d4c1906193496165", "d4c1906193496165"),
            (30, 60, 16, 16, "2f313fe90fa00c37", "d5000308bbb929ee"),
            (17, 40, 16, 16, "aab93eca007a4341", "0713a21e80ed6563"),
            (16, 40, 16, 16, "44e23290895dc62f", "44e23290895dc62f"),
            (10, 40, 16, 16, "85264f47d376819c", "b44f2272fd3a60fd"),
            (40, 90, 16, 16, "029cbdcbaf622f6c", "d77e7537b88d975d"),
            (28, 40, 16, 16, "52884e27adebd4cf", "52884e27adebd4cf"),
            (28, 41, 16, 16, "a05b4e58ff584b27", "e8f2c4fc1edf52e3"),
            (30, 16, 16, 16, "868c06fbc008b471", "868c06fbc008b471"),
            (8, 9, 16, 16, "844b624775bf11db", "844b624775bf11db"),
            (8, 40, 16, 16, "d1f451d4c583ee7c", "4f0156f6fc1af3e4"),
            (40, 41, 20, 16, "ff9e2ae949ebe207", "ff9e2ae949ebe207"),
            (100, 7, 16, 16, "8d0d63369d749d36", "8d0d63369d749d36"),
            (60, 500, 24, 24, "12c2e6fb4aa4900f", "6ac013b0ae2546a5"),
            (3, 17, 16, 16, "384f52148a91717b", "1b9a7db1c2c08bc9"),
            (64, 64, 16, 16, "3f1e6db2cec6d29c", "3f1e6db2cec6d29c"),
            (40, 65, 16, 16, "d48418630a18a820", "5b8eaa48e1f8a79f"),
            (40, 64, 16, 16, "86b65bdcfcd4db60", "86b65bdcfcd4db60"),
        ] {
            for (order, expected) in
                [(ResizeOrder::HorizontalFirst, pillow_12), (ResizeOrder::Pillow13, pillow_13)]
            {
                let resized = resize_bicubic(&noise(w, h), width, height, order);
                let hash = Sha256::digest(&resized.pixels);
                let found: String = hash[..8].iter().map(|b| format!("{b:02x}")).collect();
                assert_eq!(found, expected, "{w} x {h} to {width} x {height}, {order:?}");
            }
        }
    }

    #[test]
    fn a_long_image_takes_memory_for_one_window_at_a_time() {
        let long = RgbImage::filled(1_000_000, 1, [10, 20, 30]);
        let small = RgbImage::filled(16, 16, [10, 20, 30]);
        assert_eq!(resize_bicubic(&long, 16, 16, ResizeOrder::default()), small);
        let RgbImage { pixels, .. } = long;
        let tall = RgbImage { width: 1, height: 1_000_000, pixels };
        assert_eq!(resize_bicubic(&tall, 16, 16, ResizeOrder::default()), small);
    }
}
