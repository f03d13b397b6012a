//! From luma and color to RGB of 8 bits, as libavif converts for Pillow.

use super::frame::{Colors, Frame};
use crate::error::{ImageError, ImageErrorKind as Kind};

/// What becomes of three samples.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// The parts of red and blue in luma.
    Luma { red: f32, blue: f32 },
    /// They are green, blue and red.
    Identity,
    /// Sums and differences.
    YCgCo,
}

impl Way {
    fn of(colors: Colors) -> Result<Self, ImageError> {
        Ok(match colors.matrix {
            0 => Self::Identity,
            1 => Self::Luma { red: 0.2126, blue: 0.0722 },
            4 => Self::Luma { red: 0.30, blue: 0.11 },
            // Most images that do not say it are so.
            2 | 5 | 6 => Self::Luma { red: 0.299, blue: 0.114 },
            7 => Self::Luma { red: 0.212, blue: 0.087 },
            8 if colors.full => Self::YCgCo,
            9 => Self::Luma { red: 0.2627, blue: 0.0593 },
            matrix => {
                let detail = format!("its colors are stored by the matrix {matrix} of H.273");
                return Err(ImageError::new(Kind::Unsupported("AVIF"), detail));
            }
        })
    }
}

/// RGB, row by row.
pub(super) fn rgb(frame: &Frame, colors: Option<Colors>) -> Result<Vec<u8>, ImageError> {
    let mut pixels = Vec::with_capacity(frame.width * frame.height * 3);
    convert(frame, colors, false, |row| pixels.extend_from_slice(row.as_flattened()))?;
    Ok(pixels)
}

/// RGB and alpha, row by row.
pub(super) fn rgba(
    frame: &Frame,
    colors: Option<Colors>,
    alpha: &[u8],
) -> Result<Vec<u8>, ImageError> {
    let mut pixels = Vec::with_capacity(frame.width * frame.height * 4);
    let mut alpha = alpha.iter();
    convert(frame, colors, true, |row| {
        pixels.extend(row.iter().zip(&mut alpha).flat_map(|([r, g, b], a)| [*r, *g, *b, *a]));
    })?;
    Ok(pixels)
}

/// Colors that were multiplied by alpha, as they were before.
pub(super) fn unpremultiply(rgba: &mut [u8]) {
    for [color @ .., alpha] in rgba.as_chunks_mut::<4>().0 {
        let inverse = 0x1_0000_u32.checked_div(u32::from(*alpha)).unwrap_or(0).min(0xffff);
        for value in color {
            *value = ((u32::from(*value) * 257 * inverse) >> 16).min(255) as u8;
        }
    }
}

/// Whether libavif leaves it to libyuv, of whose arithmetic [`Fixed`] is.
fn is_fixed(matrix: u16) -> bool {
    matches!(matrix, 1 | 2 | 5 | 6 | 9)
}

fn convert(
    frame: &Frame,
    colors: Option<Colors>,
    with_alpha: bool,
    mut each: impl FnMut(&[[u8; 3]]),
) -> Result<(), ImageError> {
    let colors = colors.unwrap_or(frame.colors);
    let way = Way::of(colors)?;
    let fixed = match way {
        Way::Luma { red, blue } if is_fixed(colors.matrix) => Some(Fixed::new(red, blue, colors)),
        _ => None,
    };
    let mut out = vec![[0; 3]; frame.width];
    match (frame.shifts, way, fixed) {
        (None, _, fixed) => {
            let table = match fixed {
                // Gray with alpha alone is a case that libyuv knows.
                Some(fixed) if with_alpha => fixed.grays(frame.depth),
                _ => grays(frame.depth, colors.full),
            };
            Rows::new(frame, false).each(|[luma, ..]| {
                for (to, y) in out.iter_mut().zip(luma) {
                    *to = [table[usize::from(*y)]; 3];
                }
                each(&out);
            });
        }
        (Some([1, _]), Way::Identity, _) => {
            let detail = "green, blue and red at different resolutions";
            return Err(ImageError::new(Kind::Corrupt, detail));
        }
        (Some(_), _, Some(fixed)) => Rows::new(frame, true).each(|[luma, u, v]| {
            for (((to, y), u), v) in out.iter_mut().zip(luma).zip(u).zip(v) {
                *to = fixed.rgb(*y, *u, *v);
            }
            each(&out);
        }),
        (Some(_), way, None) => {
            let exact = Exact::new(way, frame.depth, colors.full);
            Rows::new(frame, false).each(|[luma, u, v]| {
                for (((to, y), u), v) in out.iter_mut().zip(luma).zip(u).zip(v) {
                    *to = exact.rgb(*y, *u, *v);
                }
                each(&out);
            });
        }
    }
    Ok(())
}

/// Gray of 8 bits for each value of luma.
fn grays(depth: u8, full: bool) -> Vec<u8> {
    let most = (1u32 << depth) - 1;
    let shift = depth - 8;
    let [least, range] = if full { [0, most] } else { [16 << shift, 219 << shift] };
    let value = |v: u32| {
        let part = f64::from(v.saturating_sub(least)) / f64::from(range);
        (part.min(1.0) * 255.0 + 0.5) as u8
    };
    (0..=most).map(value).collect()
}

/// The rows of a frame, colors interpolated to the resolution of luma.
struct Rows<'a> {
    frame: &'a Frame,
    /// Samples are cut to 8 bits first, and the last column is not interpolated, as libyuv does.
    fixed: bool,
    luma: Vec<u16>,
    /// For each color: the nearest row, the next one, and what comes of them.
    colors: [[Vec<u16>; 3]; 2],
}

impl<'a> Rows<'a> {
    fn new(frame: &'a Frame, fixed: bool) -> Self {
        Self { frame, fixed, luma: Vec::new(), colors: Default::default() }
    }

    fn each(&mut self, mut each: impl FnMut([&[u16]; 3])) {
        let (frame, fixed) = (self.frame, self.fixed);
        let read = |place, y, into: &mut Vec<u16>| {
            frame.row(place, y, into);
            if fixed && frame.depth > 8 {
                into.iter_mut().for_each(|v| *v >>= frame.depth - 8);
            }
        };
        for y in 0..frame.height {
            read(0, y, &mut self.luma);
            if let Some([x_shift, y_shift]) = frame.shifts {
                let last = frame.height.div_ceil(1 << y_shift) - 1;
                let near = y >> y_shift;
                // Each row of color lies between two rows of luma.
                let next = match (y_shift, y % 2) {
                    (0, _) => near,
                    (_, 0) => near.saturating_sub(1),
                    _ => (near + 1).min(last),
                };
                for (place, [a, b, wide]) in (1..).zip(&mut self.colors) {
                    read(place, near, a);
                    if x_shift == 0 {
                        continue;
                    }
                    read(place, next, b);
                    widen(a, b, y_shift == 1, frame.width, fixed, wide);
                }
                let [[u, _, wide_u], [v, _, wide_v]] = &self.colors;
                match x_shift {
                    0 => each([&self.luma, u, v]),
                    _ => each([&self.luma, wide_u, wide_v]),
                }
            } else {
                each([&self.luma, &[], &[]]);
            }
        }
    }
}

/// Twice as many samples, of which each has three parts of the nearest one and one of the next; likewise of two rows.
fn widen(near: &[u16], next: &[u16], two: bool, width: usize, fixed: bool, into: &mut Vec<u16>) {
    into.clear();
    let last = near.len() - 1;
    // Rounded once, from 4 parts or from 16.
    let at = |i: usize, j: usize| {
        let sum = |row: &[u16]| 3 * u32::from(row[i]) + u32::from(row[j]);
        match two {
            true => ((3 * sum(near) + sum(next) + 8) >> 4) as u16,
            false => ((sum(near) + 2) >> 2) as u16,
        }
    };
    for i in 0..near.len() {
        into.push(at(i, i.saturating_sub(1)));
        into.push(at(i, (i + 1).min(last)));
    }
    into.truncate(width);
    if fixed && let Some(end) = into.last_mut() {
        *end = at(last, last);
    }
}

/// The arithmetic of libyuv, which libavif uses for 8 bits: factors in 64ths.
struct Fixed {
    luma: u32,
    bias: i32,
    red: i32,
    green: [i32; 2],
    blue: i32,
}

impl Fixed {
    fn new(red: f32, blue: f32, Colors { matrix, full }: Colors) -> Self {
        // 255 / 219, of which the digits are libyuv's.
        let limited = if matrix == 9 { 1.164_384 } else { 1.164 };
        let (luma, color) = if full { (1.0, 1.0) } else { (limited, 255.0 / 224.0) };
        // More than 128 is no factor of libyuv.
        let factor = |v: f32| ((v * color * 64.0).round() as i32).min(128);
        let green = 1.0 - red - blue;
        Self {
            // Samples of 8 bits are taken as 257 times as much, of 16 bits.
            luma: (luma * 64.0 * 65536.0 / 257.0_f64).round() as u32,
            bias: if full { 32 } else { (-16.0 * 64.0 * luma + 32.0).round() as i32 },
            red: factor(2.0 * (1.0 - red)),
            green: [
                factor(2.0 * blue * (1.0 - blue) / green),
                factor(2.0 * red * (1.0 - red) / green),
            ],
            blue: factor(2.0 * (1.0 - blue)),
        }
    }

    /// Gray for each value of luma.
    fn grays(&self, depth: u8) -> Vec<u8> {
        (0..1u32 << depth).map(|v| self.rgb((v >> (depth - 8)) as u16, 128, 128)[0]).collect()
    }

    fn rgb(&self, y: u16, u: u16, v: u16) -> [u8; 3] {
        let luma = ((u32::from(y) * 257 * self.luma) >> 16) as i32 + self.bias;
        let [u, v] = [u, v].map(|c| i32::from(c) - 128);
        let value = |v: i32| (v >> 6).clamp(0, 255) as u8;
        let green = self.green[0] * u + self.green[1] * v;
        [value(luma + self.red * v), value(luma - green), value(luma + self.blue * u)]
    }
}

/// The conversion without rounding on the way.
struct Exact {
    way: Way,
    luma: [f32; 2],
    color: [f32; 2],
}

impl Exact {
    fn new(way: Way, depth: u8, full: bool) -> Self {
        let most = ((1u32 << depth) - 1) as f32;
        let unit = f32::from(1u16 << (depth - 8));
        let luma = if full { [0.0, most] } else { [16.0 * unit, 219.0 * unit] };
        let color = [128.0 * unit, if full { most } else { 224.0 * unit }];
        // Green, blue and red all have the range of luma.
        Self { way, luma, color: if way == Way::Identity { luma } else { color } }
    }

    fn rgb(&self, y: u16, u: u16, v: u16) -> [u8; 3] {
        let part = |value: u16, [least, range]: [f32; 2]| (f32::from(value) - least) / range;
        let y = part(y, self.luma);
        let [u, v] = [u, v].map(|c| part(c, self.color));
        let rgb = match self.way {
            Way::Identity => [v, y, u],
            Way::YCgCo => [y - u + v, y + u, y - u - v],
            Way::Luma { red, blue } => {
                let [r, b] = [2.0 * (1.0 - red) * v, 2.0 * (1.0 - blue) * u];
                [y + r, y - (red * r + blue * b) / (1.0 - red - blue), y + b]
            }
        };
        rgb.map(|v| (v.clamp(0.0, 1.0) * 255.0 + 0.5) as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colors_between_samples_are_three_parts_of_the_nearest() {
        let mut wide = Vec::new();
        widen(&[0, 100, 40], &[0, 0, 0], false, 5, false, &mut wide);
        assert_eq!(wide, [0, 25, 75, 85, 55]);
        widen(&[0, 100, 40], &[0, 0, 0], false, 5, true, &mut wide);
        assert_eq!(wide, [0, 25, 75, 85, 40]);
        widen(&[0, 100, 40], &[0, 0, 0], true, 6, false, &mut wide);
        assert_eq!(wide, [0, 19, 56, 64, 41, 30]);
        widen(&[7], &[9], true, 1, false, &mut wide);
        assert_eq!(wide, [8]);
    }

    #[test]
    fn gray_is_gray_in_every_way() {
        for matrix in [1, 2, 4, 5, 6, 7, 9] {
            let Ok(Way::Luma { red, blue }) = Way::of(Colors { matrix, full: true }) else {
                panic!("{matrix}")
            };
            for (full, black, white) in [(true, 0, 255), (false, 16, 235)] {
                for (value, y) in [(0, black), (255, white)] {
                    assert_eq!(
                        Fixed::new(red, blue, Colors { matrix, full }).rgb(y, 128, 128),
                        [value; 3],
                        "{matrix}"
                    );
                    let exact = Exact::new(Way::Luma { red, blue }, 8, full);
                    assert_eq!(exact.rgb(y, 128, 128), [value; 3], "{matrix}");
                    let wide = Exact::new(Way::Luma { red, blue }, 10, full);
                    let y = if (full, y) == (true, 255) { 1023 } else { 4 * y };
                    assert_eq!(wide.rgb(y, 512, 512), [value; 3], "{matrix}");
                }
            }
        }
        let table = grays(10, false);
        assert_eq!([table[0], table[64], table[940], table[1023]], [0, 0, 255, 255]);
        for colors in [Colors { matrix: 14, full: true }, Colors { matrix: 8, full: false }] {
            assert!(matches!(Way::of(colors), Err(e) if e.kind == Kind::Unsupported("AVIF")));
        }
    }

    #[test]
    fn colors_are_divided_by_alpha() {
        let mut pixels = [10, 20, 30, 255, 10, 64, 127, 127, 5, 5, 5, 0, 9, 200, 255, 60];
        unpremultiply(&mut pixels);
        assert_eq!(pixels, [10, 20, 30, 255, 20, 129, 255, 127, 0, 0, 0, 0, 38, 255, 255, 60]);
    }
}
