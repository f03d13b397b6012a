//! Pillow's bicubic resize, bit for bit (spec `data` section 5.2).

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
        self == Self::Pillow13
            && from.1 > to.1
            && shrinks(from.1, to.1) > 2 * shrinks(from.0, to.0)
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

/// Resizes to `width` x `height` in two passes of 8 bits, each left out where the size stays. A picture
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
