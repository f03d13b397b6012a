//! Pillow's bicubic resize, bit for bit (spec `data` section 5.2).

use super::RgbImage;

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

/// For each output place the first input place and the fixed-point weights.
fn weights(n_in: usize, n_out: usize) -> Vec<(usize, Vec<i32>)> {
    let scale = n_in as f64 / n_out as f64;
    let stretch = scale.max(1.0);
    let support = 2.0 * stretch;
    let inverse = 1.0 / stretch;
    (0..n_out)
        .map(|x| {
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
        .collect()
}

fn clip(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

/// Resizes to `width` x `height` in two passes of 8 bits, each left out where the size stays. The
/// horizontal pass comes first, unless the height shrinks, and more so than the width. A picture
/// without pixels becomes a black one of that size.
#[must_use]
pub fn resize_bicubic(src: &RgbImage, width: usize, height: usize) -> RgbImage {
    if src.is_empty() || width == 0 || height == 0 {
        return RgbImage::filled(width, height, [0; 3]);
    }
    let taller = src.height * width > src.width * height;
    if src.height > height && taller {
        horizontal(&vertical(src, height), width)
    } else {
        vertical(&horizontal(src, width), height)
    }
}

fn horizontal(image: &RgbImage, width: usize) -> RgbImage {
    if image.width == width {
        return image.clone();
    }
    let columns = weights(image.width, width);
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
    for ((low, w), out) in weights(image.height, height).iter().zip(out.chunks_mut(row)) {
        sums.fill(1 << (BITS - 1));
        for (line, w) in image.pixels[low * row..].chunks(row).zip(w) {
            sums.iter_mut().zip(line).for_each(|(s, p)| *s += i32::from(*p) * w);
        }
        out.iter_mut().zip(&sums).for_each(|(o, s)| *o = clip(*s));
    }
    RgbImage { width: image.width, height, pixels: out }
}
