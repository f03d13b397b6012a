//! RandomAugment's operations, byte for byte (paper section 3.5).

use super::RgbImage;

/// An operation of RandomAugment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the official names say it")]
pub enum Op {
    Identity,
    AutoContrast,
    Equalize,
    Brightness,
    Sharpness,
    ShearX,
    ShearY,
    TranslateX,
    TranslateY,
    Rotate,
    Solarize,
    Color,
    Contrast,
    Posterize,
}

impl Op {
    /// The operations of training, in the official order.
    pub const OFFICIAL: [Self; 10] = [
        Self::Identity,
        Self::AutoContrast,
        Self::Equalize,
        Self::Brightness,
        Self::Sharpness,
        Self::ShearX,
        Self::ShearY,
        Self::TranslateX,
        Self::TranslateY,
        Self::Rotate,
    ];

    /// The operation of an official name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let others = [Self::Solarize, Self::Color, Self::Contrast, Self::Posterize];
        Self::OFFICIAL.into_iter().chain(others).find(|op| format!("{op:?}") == name)
    }

    /// Whether a draw decides about the sign of its argument.
    #[must_use]
    pub fn has_sign(self) -> bool {
        use Op::{Rotate, ShearX, ShearY, TranslateX, TranslateY};
        matches!(self, ShearX | ShearY | TranslateX | TranslateY | Rotate)
    }
}

/// Which overflows of the official code are reproduced (quirks Q2 and Q3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReferenceQuirks {
    /// AutoContrast negates an unsigned byte.
    pub autocontrast: bool,
    /// Sharpness wraps instead of clipping.
    pub sharpness: bool,
}

const FILL: i64 = 128;

/// Whether a uniform draw makes the argument of `op` negative.
#[must_use]
pub fn signed(op: Op, draw: f64) -> bool {
    if op == Op::Rotate { draw < 0.5 } else { draw > 0.5 }
}

/// Applies `op` at `level` of 10; `negative` turns the argument of the operations that have a sign.
#[must_use]
pub fn apply(
    op: Op,
    image: &RgbImage,
    level: f64,
    negative: bool,
    quirks: ReferenceQuirks,
) -> RgbImage {
    let share = level / 10.0;
    let sign = if negative { -1.0 } else { 1.0 };
    let factor = share * 1.8 + 0.1;
    let shear = f64::from((share * 0.3 * sign) as f32);
    let shift = f64::from((share * 10.0 * sign) as f32);
    match op {
        Op::Identity => image.clone(),
        Op::AutoContrast => by_channel(image, |h| autocontrast(h, quirks.autocontrast)),
        Op::Equalize => by_channel(image, equalize),
        Op::Brightness => table(image, |i| (f32::from(i) * factor as f32).clamp(0.0, 255.0) as u8),
        Op::Sharpness => sharpness(image, factor as f32, quirks.sharpness),
        Op::ShearX => warp(image, [1.0, shear, 0.0, 0.0, 1.0, 0.0]),
        Op::ShearY => warp(image, [1.0, 0.0, 0.0, shear, 1.0, 0.0]),
        Op::TranslateX => warp(image, [1.0, 0.0, -shift, 0.0, 1.0, 0.0]),
        Op::TranslateY => warp(image, [1.0, 0.0, 0.0, 0.0, 1.0, -shift]),
        Op::Rotate => rotate(image, share * 30.0 * sign),
        Op::Solarize => {
            let threshold = (share * 256.0) as i64;
            table(image, |i| if i64::from(i) < threshold { i } else { 255 - i })
        }
        Op::Posterize => {
            let bits = 8_u32.saturating_sub((share * 4.0) as u32);
            let mask = ((255_u32 << bits) & 255) as u8;
            table(image, |i| i & mask)
        }
        Op::Contrast => contrast(image, factor),
        Op::Color => color(image, factor),
    }
}

fn table(image: &RgbImage, f: impl Fn(u8) -> u8) -> RgbImage {
    let table: Vec<u8> = (0..=255).map(f).collect();
    let pixels = image.pixels.iter().map(|p| table[usize::from(*p)]).collect();
    RgbImage { pixels, ..*image }
}

/// Applies to each channel the table made of its histogram.
fn by_channel(image: &RgbImage, f: impl Fn(&[u64; 256]) -> Option<[u8; 256]>) -> RgbImage {
    let mut out = image.clone();
    for c in 0..3 {
        let mut histogram = [0; 256];
        image.pixels.iter().skip(c).step_by(3).for_each(|p| histogram[usize::from(*p)] += 1);
        if let Some(table) = f(&histogram) {
            for p in out.pixels.iter_mut().skip(c).step_by(3) {
                *p = table[usize::from(*p)];
            }
        }
    }
    out
}

fn autocontrast(histogram: &[u64; 256], reference: bool) -> Option<[u8; 256]> {
    let low = histogram.iter().position(|n| *n > 0)?;
    let high = histogram.iter().rposition(|n| *n > 0)?;
    if high <= low {
        return None;
    }
    let scale = 255.0 / (high - low) as f64;
    // The reference negates the minimum as an unsigned byte.
    let minus_low = if reference { ((256 - low) % 256) as f64 } else { -(low as f64) };
    let offset = minus_low * scale;
    Some(std::array::from_fn(|i| (i as f64 * scale + offset).clamp(0.0, 255.0) as u8))
}

fn equalize(histogram: &[u64; 256]) -> Option<[u8; 256]> {
    let last = histogram.iter().rposition(|n| *n > 0)?;
    let step = histogram[..last].iter().sum::<u64>() / 255;
    if step == 0 {
        return None;
    }
    let mut sum = step / 2;
    let mut out = [0; 256];
    for (o, n) in out.iter_mut().zip(histogram) {
        *o = (sum / step).min(255) as u8;
        sum += n;
    }
    Some(out)
}

fn sharpness(image: &RgbImage, factor: f32, wrap: bool) -> RgbImage {
    if factor == 1.0 {
        return image.clone();
    }
    let mut out = image.clone();
    let row = image.width * 3;
    for y in 1..image.height.saturating_sub(1) {
        for i in 3..row.saturating_sub(3) {
            let at = y * row + i;
            let mut sum = 4 * u32::from(image.pixels[at]);
            for line in [at - row, at, at + row] {
                sum += [line - 3, line, line + 3]
                    .map(|j| u32::from(image.pixels[j]))
                    .iter()
                    .sum::<u32>();
            }
            let smooth = ((2 * sum + 13) / 26) as f32;
            let value = smooth + factor * (f32::from(image.pixels[at]) - smooth);
            out.pixels[at] =
                if wrap { (value as i32) as u8 } else { value.clamp(0.0, 255.0) as u8 };
        }
    }
    out
}

fn contrast(image: &RgbImage, factor: f64) -> RgbImage {
    let n = (image.width * image.height) as f64;
    let mean_of = |c: usize| {
        image.pixels.iter().skip(c).step_by(3).map(|p| u64::from(*p)).sum::<u64>() as f64 / n
    };
    let mean = 0.114 * mean_of(0) + 0.587 * mean_of(1) + 0.299 * mean_of(2);
    table(image, |i| ((f64::from(i) - mean) * factor + mean).clamp(0.0, 255.0) as u8)
}

fn color(image: &RgbImage, factor: f64) -> RgbImage {
    let base = [[0.886, -0.114, -0.114], [-0.587, 0.413, -0.587], [-0.299, -0.299, 0.701]];
    let grey = [0.114, 0.587, 0.299];
    let f = factor as f32;
    let m: Vec<[f32; 3]> =
        base.iter().zip(grey).map(|(r, g)| r.map(|v| v as f32 * f + g as f32)).collect();
    let mut out = image.clone();
    for p in out.pixels.chunks_mut(3) {
        let v: Vec<f32> = p.iter().map(|p| f32::from(*p)).collect();
        for c in 0..3 {
            // Products are not rounded before they are added, as in the matrix product of the official code.
            let sum = v[2].mul_add(m[2][c], v[1].mul_add(m[1][c], v[0] * m[0][c]));
            p[c] = sum.clamp(0.0, 255.0) as u8;
        }
    }
    out
}

fn rotate(image: &RgbImage, degrees: f64) -> RgbImage {
    let angle = degrees * std::f64::consts::PI / 180.0;
    let (a, b) = (angle.cos(), angle.sin());
    let (cx, cy) = (image.width as f64 / 2.0, image.height as f64 / 2.0);
    warp(image, [a, b, (1.0 - a) * cx - b * cy, -b, a, b * cx + (1.0 - a) * cy])
}

/// OpenCV's `warpAffine`, bilinear with a constant border: coordinates in 1/32 pixel, weights in
/// 10 bits. `m` maps input to output.
fn warp(image: &RgbImage, m: [f64; 6]) -> RgbImage {
    if image.is_empty() {
        return image.clone();
    }
    let determinant = m[0] * m[4] - m[1] * m[3];
    let d = if determinant == 0.0 { 0.0 } else { 1.0 / determinant };
    let (i0, i1, i3, i4) = (m[4] * d, -m[1] * d, -m[3] * d, m[0] * d);
    let i2 = -i0 * m[2] - i1 * m[5];
    let i5 = -i3 * m[2] - i4 * m[5];
    let fixed = |v: f64| (v * 1024.0).round_ties_even() as i64;
    let (w, h) = (image.width as i64, image.height as i64);
    let mut out = image.clone();
    for (y, line) in out.pixels.chunks_mut(image.width * 3).enumerate() {
        let (x0, y0) = (fixed(i1 * y as f64 + i2) + 16, fixed(i4 * y as f64 + i5) + 16);
        for (x, pixel) in line.chunks_mut(3).enumerate() {
            let sx = (x0 + fixed(i0 * x as f64)) >> 5;
            let sy = (y0 + fixed(i3 * x as f64)) >> 5;
            let (fx, fy) = (sx & 31, sy & 31);
            let (sx, sy) = (sx >> 5, sy >> 5);
            let corners = [
                (sx, sy, (32 - fx) * (32 - fy)),
                (sx + 1, sy, fx * (32 - fy)),
                (sx, sy + 1, (32 - fx) * fy),
                (sx + 1, sy + 1, fx * fy),
            ];
            let mut sum = [512; 3];
            for (cx, cy, weight) in corners {
                let inside = cx >= 0 && cy >= 0 && cx < w && cy < h;
                let at = if inside { (cy * w + cx) as usize * 3 } else { 0 };
                for (c, s) in sum.iter_mut().enumerate() {
                    *s += weight * if inside { i64::from(image.pixels[at + c]) } else { FILL };
                }
            }
            pixel.iter_mut().zip(sum).for_each(|(p, s)| *p = (s >> 10) as u8);
        }
    }
    out
}
