//! Grounding by attention maps (paper section 6): boxes out of maps, and the evaluation on expressions.

mod boxes;
mod cases;
mod report;

pub use boxes::{Proposals, box_faults, pixel_box};
pub use cases::{Case, Cases};
pub use report::{GroundingReport, measure};

/// Exponent of the area that a box's sum is divided by, as in the official code.
pub const AREA_POWER: f64 = 0.5;

/// A box in pixels: left, top, width, height.
pub type PixelBox = [f64; 4];

const A: f64 = -0.75;

fn weights(t: f64) -> [f64; 4] {
    let near = |x: f64| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f64| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)]
}

/// Four source places and weights of each target place along one axis.
fn axis(from: usize, to: usize) -> Vec<([usize; 4], [f64; 4])> {
    let clamp = |i: isize| i.clamp(0, from as isize - 1) as usize;
    (0..to)
        .map(|place| {
            let source = from as f64 / to as f64 * (place as f64 + 0.5) - 0.5;
            let first = source.floor() as isize - 1;
            let places = std::array::from_fn(|i| clamp(first + i as isize));
            (places, weights(source - source.floor()))
        })
        .collect()
}

/// Resizes a map `[height, width]` bicubically (a = -0.75, corners not aligned, no antialiasing).
/// Values may leave the range of the map; a map or a target without area gives zeros.
#[must_use]
pub fn resize_map(map: &[f32], from: (usize, usize), to: (usize, usize)) -> Vec<f32> {
    if from.0 * from.1 == 0 || map.len() < from.0 * from.1 {
        return vec![0.0; to.0 * to.1];
    }
    let (rows, columns) = (axis(from.0, to.0), axis(from.1, to.1));
    let mut wide = vec![0.0_f64; from.0 * to.1];
    for y in 0..from.0 {
        for (x, (places, w)) in columns.iter().enumerate() {
            let line = &map[y * from.1..];
            wide[y * to.1 + x] = (0..4).map(|i| w[i] * f64::from(line[places[i]])).sum();
        }
    }
    let mut out = Vec::with_capacity(to.0 * to.1);
    for (places, w) in &rows {
        for x in 0..to.1 {
            out.push((0..4).map(|i| w[i] * wide[places[i] * to.1 + x]).sum::<f64>() as f32);
        }
    }
    out
}

/// Sum of the map inside a box over its area to the power `alpha`. What lies outside the image
/// adds nothing; a box without area scores 0.
#[must_use]
pub fn box_score(map: &[f32], (height, width): (usize, usize), b: PixelBox, alpha: f64) -> f64 {
    let cut = |v: f64, limit: usize| (v.max(0.0) as usize).min(limit);
    let (left, right) = (cut(b[0], width), cut(b[0] + b[2], width));
    let (top, bottom) = (cut(b[1], height), cut(b[1] + b[3], height));
    let area = b[2] * b[3];
    if area <= 0.0 {
        return 0.0;
    }
    let rows = (top..bottom).map(|y| &map[y * width..(y + 1) * width]);
    let sum: f64 = rows.flat_map(|r| &r[left.min(right)..right]).map(|v| f64::from(*v)).sum();
    sum / area.powf(alpha)
}

/// Whether a box has an area and shares some of it with an image of this height and width.
#[must_use]
pub fn within(b: PixelBox, (height, width): (usize, usize)) -> bool {
    b.iter().all(|v| v.is_finite())
        && b[2] > 0.0
        && b[3] > 0.0
        && b[0] < width as f64
        && b[1] < height as f64
        && b[0] + b[2] > 0.0
        && b[1] + b[3] > 0.0
}

/// The part of a box that lies in an image of this height and width.
#[must_use]
pub fn cut_to(b: PixelBox, (height, width): (usize, usize)) -> PixelBox {
    let cut = |from: f64, length: f64, limit: usize| {
        let (start, end) = (from.max(0.0), (from + length).min(limit as f64));
        (start, (end - start).max(0.0))
    };
    let (left, wide) = cut(b[0], b[2], width);
    let (top, high) = cut(b[1], b[3], height);
    [left, top, wide, high]
}

/// The box with the largest positive score. The official code keeps the box of the expression
/// before where no score is positive; here that is `None`, which counts as wrong.
#[must_use]
pub fn best_box(scores: &[f64]) -> Option<usize> {
    let mut best = (0.0, None);
    for (i, score) in scores.iter().enumerate() {
        if *score > best.0 {
            best = (*score, Some(i));
        }
    }
    best.1
}

/// Intersection over union with inclusive corners.
#[must_use]
pub fn iou(a: PixelBox, b: PixelBox) -> f64 {
    let corner = |r: PixelBox| (r[0], r[1], r[0] + r[2] - 1.0, r[1] + r[3] - 1.0);
    let ((ax, ay, ar, ab), (bx, by, br, bb)) = (corner(a), corner(b));
    let (left, top, right, bottom) = (ax.max(bx), ay.max(by), ar.min(br), ab.min(bb));
    let inter = if left < right && top < bottom {
        (right - left + 1.0) * (bottom - top + 1.0)
    } else {
        0.0
    };
    inter / (a[2] * a[3] + b[2] * b[3] - inter)
}

/// The bounding box of the connected region around the largest value, for maps without proposals. It ends
/// where values fall below `share` of the way from the lowest value to the largest: where the colours of an
/// overlay do.
#[must_use]
pub fn region_box(map: &[f32], (height, width): (usize, usize), share: f32) -> Option<PixelBox> {
    let (peak, top) = map
        .iter()
        .enumerate()
        .filter(|(_, v)| v.is_finite())
        .max_by(|a, b| a.1.total_cmp(b.1))
        .map(|(i, v)| (i, *v))?;
    if top <= 0.0 || map.len() != height * width {
        return None;
    }
    let low = map.iter().copied().filter(|v| v.is_finite()).fold(top, f32::min);
    let end = low + share * (top - low);
    let mut seen = vec![false; map.len()];
    let mut open = vec![peak];
    seen[peak] = true;
    let (mut left, mut right, mut up, mut down) = (width, 0, height, 0);
    while let Some(at) = open.pop() {
        let (x, y) = (at % width, at / width);
        (left, right) = (left.min(x), right.max(x));
        (up, down) = (up.min(y), down.max(y));
        let mut visit = |next: usize| {
            if !seen[next] && map[next] >= end {
                seen[next] = true;
                open.push(next);
            }
        };
        if x > 0 {
            visit(at - 1);
        }
        if x + 1 < width {
            visit(at + 1);
        }
        if y > 0 {
            visit(at - width);
        }
        if y + 1 < height {
            visit(at + width);
        }
    }
    Some([left as f64, up as f64, (right - left + 1) as f64, (down - up + 1) as f64])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_ends_within_the_range_of_the_map_whatever_its_floor() {
        let map = |floor: f32| [0.0, 0.9, 1.0, 0.4, 0.1, 0.0].map(|v| floor + v);
        for floor in [0.0, 5.0, -0.5] {
            assert_eq!(region_box(&map(floor), (2, 3), 0.5), Some([1.0, 0.0, 2.0, 1.0]), "{floor}");
        }
        assert_eq!(region_box(&[0.0; 6], (2, 3), 0.5), None);
        assert_eq!(region_box(&[1.0; 6], (2, 3), 0.5), Some([0.0, 0.0, 3.0, 2.0]));
    }
}
