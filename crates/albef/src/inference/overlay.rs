//! An attention map over its image, as in the official demonstration.

use albef_data::image::{ResizeOrder, RgbImage, resize_bicubic};
use albef_data::scenes::png;

use super::ground::Grounding;
use crate::error::Result;
use crate::eval::grounding::{PixelBox, resize_map};

/// Pixels along the longer side below which an image is enlarged for its map to be seen.
const LEGIBLE: usize = 384;

impl Grounding {
    /// The image with the map of the phrase over it, its box in white, as PNG. Small images are enlarged.
    ///
    /// # Errors
    /// If the PNG cannot be encoded.
    pub fn render(&self, image: &RgbImage) -> Result<Vec<u8>> {
        self.render_map(image, &self.map, self.region)
    }

    /// The image with the map of word `index` of [`Grounding::words`] over it, as PNG.
    ///
    /// # Errors
    /// If the PNG cannot be encoded.
    ///
    /// # Panics
    /// If there is no such word.
    pub fn render_word(&self, image: &RgbImage, index: usize) -> Result<Vec<u8>> {
        self.render_map(image, &self.words[index].map, None)
    }

    /// The image with one of the maps over it, of its own size.
    #[must_use]
    pub(crate) fn over(&self, image: &RgbImage, map: &[f32]) -> RgbImage {
        overlay(image, map, self.grid)
    }

    pub(super) fn render_map(
        &self,
        image: &RgbImage,
        map: &[f32],
        b: Option<PixelBox>,
    ) -> Result<Vec<u8>> {
        let (shown, factor) = enlarged(image);
        let mut out = overlay(&shown, map, self.grid);
        if let Some(b) = b {
            draw_box(&mut out, b.map(|v| v * factor as f64), [255, 255, 255]);
        }
        Ok(png(&out)?)
    }
}

/// The image, enlarged by a whole factor if it is small, and that factor.
fn enlarged(image: &RgbImage) -> (RgbImage, usize) {
    let factor = LEGIBLE.div_ceil(image.width.max(image.height).max(1)).max(1);
    match factor {
        1 => (image.clone(), 1),
        _ => {
            let (width, height) = (image.width * factor, image.height * factor);
            (resize_bicubic(image, width, height, ResizeOrder::default()), factor)
        }
    }
}

/// Scaled to 0 to 1; a constant map gives zeros.
fn normalized(map: &[f32]) -> Vec<f32> {
    let low = map.iter().copied().fold(f32::MAX, f32::min);
    let high = map.iter().copied().fold(f32::MIN, f32::max);
    let range = high - low;
    map.iter().map(|v| if range > 0.0 { (v - low) / range } else { 0.0 }).collect()
}

/// Gaussian blur along one axis; positions outside repeat the border.
fn blur_axis(
    map: &[f32],
    [lines, length]: [usize; 2],
    strides: [usize; 2],
    sigma: f64,
) -> Vec<f32> {
    let radius = (4.0 * sigma).ceil() as isize;
    let weight = |d: isize| (-0.5 * (d as f64 / sigma).powi(2)).exp();
    let sum: f64 = (-radius..=radius).map(weight).sum();
    let mut out = vec![0.0; map.len()];
    for line in 0..lines {
        for at in 0..length {
            let value: f64 = (-radius..=radius)
                .map(|d| {
                    let place = (at as isize + d).clamp(0, length as isize - 1) as usize;
                    weight(d) * f64::from(map[line * strides[0] + place * strides[1]])
                })
                .sum();
            out[line * strides[0] + at * strides[1]] = (value / sum) as f32;
        }
    }
    out
}

/// The usual colors from blue over green and yellow to red.
fn jet(v: f32) -> [f32; 3] {
    let ramp = |center: f32| (1.5 - (4.0 * v - center).abs()).clamp(0.0, 1.0);
    [ramp(3.0), ramp(2.0), ramp(1.0)]
}

/// The image with the map `[grid, grid]` over it.
fn overlay(image: &RgbImage, map: &[f32], grid: usize) -> RgbImage {
    let (width, height) = (image.width, image.height);
    let wide = resize_map(&normalized(map), (grid, grid), (height, width));
    let sigma = 0.02 * width.max(height) as f64;
    let rows = blur_axis(&wide, [height, width], [width, 1], sigma);
    let smooth = normalized(&blur_axis(&rows, [width, height], [1, width], sigma));
    let mut out = image.clone();
    for (pixel, m) in out.pixels.chunks_mut(3).zip(smooth) {
        let share = m.clamp(0.0, 1.0).powf(0.7);
        for (value, color) in pixel.iter_mut().zip(jet(m)) {
            let mixed = (1.0 - share) * f32::from(*value) + share * color * 255.0;
            *value = mixed.round().clamp(0.0, 255.0) as u8;
        }
    }
    out
}

/// Draws the border of a box, with a black line inside that makes it visible on any ground.
fn draw_box(image: &mut RgbImage, b: PixelBox, color: [u8; 3]) {
    let (width, height) = (image.width, image.height);
    let thick = (width.max(height) / 128).max(1);
    let line = thick.div_ceil(3);
    let cut = |v: f64, limit: usize| (v.max(0.0) as usize).min(limit.saturating_sub(1));
    let (left, right) = (cut(b[0], width), cut(b[0] + b[2] - 1.0, width));
    let (top, bottom) = (cut(b[1], height), cut(b[1] + b[3] - 1.0, height));
    for y in top..=bottom {
        for x in left..=right {
            let edge = (x - left).min(right - x).min(y - top).min(bottom - y);
            let shade = if edge < thick { color } else { [0; 3] };
            if edge < thick + line {
                let at = (y * width + x) * 3;
                image.pixels[at..at + 3].copy_from_slice(&shade);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_warm_side_of_the_map_turns_red() {
        let image = RgbImage::filled(40, 30, [128; 3]);
        let out = overlay(&image, &[0.0, 1.0, 0.0, 1.0], 2);
        let left = &out.pixels[..3];
        let right = &out.pixels[39 * 3..40 * 3];
        assert!(right[0] > 200 || right[0] > right[2], "{right:?}");
        assert!(left[0] <= 128 && right[0] > left[0], "{left:?} {right:?}");
    }

    #[test]
    fn small_images_are_enlarged_and_large_ones_are_not() {
        let (shown, factor) = enlarged(&RgbImage::filled(40, 30, [7, 8, 9]));
        assert_eq!((shown.width, shown.height, factor), (400, 300, 10));
        assert_eq!(shown.pixels[..3], [7, 8, 9]);
        assert_eq!(enlarged(&RgbImage::filled(300, 384, [0; 3])).1, 1);
    }

    #[test]
    fn boxes_beyond_the_image_are_clipped() {
        let mut image = RgbImage::filled(10, 10, [0; 3]);
        draw_box(&mut image, [-5.0, 4.0, 100.0, 100.0], [255, 0, 0]);
        assert_eq!(&image.pixels[(9 * 10 + 9) * 3..], [255, 0, 0]);
        assert_eq!(&image.pixels[..3], [0, 0, 0]);
    }
}
