//! The transforms of training and evaluation (paper section 3.5).

use super::augment::{Op, ReferenceQuirks, apply, signed};
use super::{ResizeOrder, RgbImage, resize_bicubic};
use crate::random::Stream;

/// Mean and deviation per channel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalization {
    /// Subtracted from values in `0..1`.
    pub mean: [f32; 3],
    /// Divides what is left.
    pub std: [f32; 3],
}

impl Default for Normalization {
    fn default() -> Self {
        Self {
            mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
            std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
        }
    }
}

impl Normalization {
    /// Writes `(x / 255 - mean) / std` as `[3, height, width]`; `out` has that many values.
    pub fn to_chw(&self, image: &RgbImage, out: &mut [f32]) {
        let n = image.width * image.height;
        for (c, plane) in out.chunks_mut(n.max(1)).enumerate().take(3) {
            let table: Vec<f32> =
                (0..=255_u8).map(|v| (f32::from(v) / 255.0 - self.mean[c]) / self.std[c]).collect();
            for (o, p) in plane.iter_mut().zip(image.pixels.iter().skip(c).step_by(3)) {
                *o = table[usize::from(*p)];
            }
        }
    }
}

/// Cuts `height` x `width` pixels out, from row `top` and column `left`; the box is cut down to the
/// image.
#[must_use]
pub fn crop(image: &RgbImage, top: usize, left: usize, height: usize, width: usize) -> RgbImage {
    let (top, left) = (top.min(image.height), left.min(image.width));
    let (height, width) = (height.min(image.height - top), width.min(image.width - left));
    let mut pixels = Vec::with_capacity(height * width * 3);
    for y in top..top + height {
        let start = (y * image.width + left) * 3;
        pixels.extend_from_slice(&image.pixels[start..start + width * 3]);
    }
    RgbImage { width, height, pixels }
}

/// Mirrors left and right.
#[must_use]
pub fn flip_horizontal(image: &RgbImage) -> RgbImage {
    let mut out = image.clone();
    if image.is_empty() {
        return out;
    }
    for (from, to) in
        image.pixels.chunks(image.width * 3).zip(out.pixels.chunks_mut(image.width * 3))
    {
        to.chunks_mut(3).zip(from.rchunks(3)).for_each(|(t, f)| t.copy_from_slice(f));
    }
    out
}

/// The draws of a random resized crop, in the order in which they are needed.
pub trait CropDraws {
    /// Uniform between the bounds.
    fn uniform(&mut self, low: f64, high: f64) -> f64;
    /// An integer from `0` to `high`, both possible.
    fn integer(&mut self, high: usize) -> usize;
}

impl CropDraws for Stream {
    fn uniform(&mut self, low: f64, high: f64) -> f64 {
        self.range(low, high)
    }
    fn integer(&mut self, high: usize) -> usize {
        self.below(high + 1)
    }
}

/// `[top, left, height, width]` of a random resized crop: up to ten tries of area and aspect ratio,
/// then the largest centred box of a permitted ratio. An image without pixels has one box, the whole
/// of it, and takes no draws.
pub fn random_resized_crop_box(
    width: usize,
    height: usize,
    scale: (f64, f64),
    ratio: (f64, f64),
    draws: &mut impl CropDraws,
) -> [usize; 4] {
    if width == 0 || height == 0 {
        return [0, 0, height, width];
    }
    let area = (width * height) as f64;
    let log = (f64::from((ratio.0 as f32).ln()), f64::from((ratio.1 as f32).ln()));
    for _ in 0..10 {
        let target = area * draws.uniform(scale.0, scale.1);
        let aspect = f64::from((draws.uniform(log.0, log.1) as f32).exp());
        let w = (target * aspect).sqrt().round_ties_even() as usize;
        let h = (target / aspect).sqrt().round_ties_even() as usize;
        if (1..=width).contains(&w) && (1..=height).contains(&h) {
            let top = draws.integer(height - h);
            let left = draws.integer(width - w);
            return [top, left, h, w];
        }
    }
    let aspect = width as f64 / height as f64;
    let (w, h) = if aspect < ratio.0 {
        (width, (width as f64 / ratio.0).round_ties_even() as usize)
    } else if aspect > ratio.1 {
        ((height as f64 * ratio.1).round_ties_even() as usize, height)
    } else {
        (width, height)
    };
    let (w, h) = (w.clamp(1, width), h.clamp(1, height));
    [(height - h) / 2, (width - w) / 2, h, w]
}

/// Settings of RandomAugment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RandAugment {
    /// Operations per image.
    pub n: usize,
    /// Strength, of 10.
    pub m: f64,
}

/// Random crop, mirror and augmentation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainTransform {
    /// Side of the result.
    pub size: usize,
    /// Area of the crop as a share of the image; `(1, 1)` takes the whole image.
    pub crop_scale: (f64, f64),
    /// Whether half of the images are mirrored.
    pub flip: bool,
    /// RandomAugment, if wanted.
    pub rand_augment: Option<RandAugment>,
    /// Overflows to reproduce.
    pub quirks: ReferenceQuirks,
    /// The order of the passes of resizing.
    pub resize_order: ResizeOrder,
}

impl TrainTransform {
    /// The transform of an image, a function of the stream.
    #[must_use]
    pub fn apply(&self, image: &RgbImage, stream: &mut Stream) -> RgbImage {
        let mut out = if self.crop_scale.0 >= 1.0 {
            resize_bicubic(image, self.size, self.size, self.resize_order)
        } else {
            let ratio = (3.0 / 4.0, 4.0 / 3.0);
            let [top, left, height, width] =
                random_resized_crop_box(image.width, image.height, self.crop_scale, ratio, stream);
            resize_bicubic(
                &crop(image, top, left, height, width),
                self.size,
                self.size,
                self.resize_order,
            )
        };
        if self.flip && stream.uniform() < 0.5 {
            out = flip_horizontal(&out);
        }
        if let Some(augment) = self.rand_augment {
            let ops: Vec<Op> =
                (0..augment.n).map(|_| Op::OFFICIAL[stream.below(Op::OFFICIAL.len())]).collect();
            for op in ops {
                if stream.uniform() > 0.5 {
                    continue;
                }
                let negative = op.has_sign() && signed(op, stream.uniform());
                out = apply(op, &out, augment.m, negative, self.quirks);
            }
        }
        out
    }
}
