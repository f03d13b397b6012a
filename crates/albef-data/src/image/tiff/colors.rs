//! Colors of a TIFF as red, green and blue.

use super::Alpha;

/// Colors before they were multiplied by alpha, as Pillow rounds them.
pub(super) fn divided<const N: usize>(mut bytes: Vec<u8>, alpha: Alpha) -> Vec<u8> {
    if alpha == Alpha::Multiplied {
        for pixel in bytes.as_chunks_mut::<N>().0 {
            let alpha = u16::from(pixel[N - 1]);
            for value in &mut pixel[..N - 1] {
                let whole = (u16::from(*value) * 255).checked_div(alpha).unwrap_or(0);
                *value = whole.min(255) as u8;
            }
        }
    }
    bytes
}

/// Beyond the end of a palette there is black.
fn color(palette: &[[u8; 3]], index: u8) -> [u8; 3] {
    palette.get(usize::from(index)).copied().unwrap_or_default()
}

pub(super) fn in_colors(bytes: &[u8], palette: &[[u8; 3]]) -> Vec<u8> {
    bytes.iter().flat_map(|index| color(palette, *index)).collect()
}

pub(super) fn in_colors_with_alpha(bytes: &[u8], palette: &[[u8; 3]]) -> Vec<u8> {
    let pixel = |[index, alpha]: &[u8; 2]| {
        let [r, g, b] = color(palette, *index);
        [r, g, b, *alpha]
    };
    bytes.as_chunks().0.iter().flat_map(pixel).collect()
}

/// Pixels of `N` channels as such of three, in place, as large images would take twice their memory.
pub(super) fn replaced<const N: usize>(
    mut bytes: Vec<u8>,
    pixel: impl Fn([u8; N]) -> [u8; 3],
) -> Vec<u8> {
    let count = bytes.len() / N;
    for i in 0..count {
        let from = std::array::from_fn(|c| bytes[N * i + c]);
        bytes[3 * i..3 * i + 3].copy_from_slice(&pixel(from));
    }
    bytes.truncate(3 * count);
    bytes
}

pub(super) fn cmyk([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    let light = 255 - k;
    let product = |ink: u8| {
        let product = u32::from(ink) * u32::from(light) + 128;
        (((product >> 8) + product) >> 8) as u8
    };
    [c, m, y].map(|ink| light.saturating_sub(product(ink)))
}

/// As libtiff rounds it.
pub(super) fn ycbcr([y, cb, cr]: [u8; 3]) -> [u8; 3] {
    const HALF: i32 = 1 << 15;
    // Of 65536 parts.
    let [red, red_of_green, blue, blue_of_green] = [91881, -46802, 116_130, -22553];
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    let value = |sum: i32| (y + ((sum + HALF) >> 16)).clamp(0, 255) as u8;
    [value(red * cr), value(red_of_green * cr + blue_of_green * cb), value(blue * cb)]
}
