//! How an image is to be decoded, and what is told of it afterwards.

use serde::{Deserialize, Serialize};

use super::background::Background;
use super::resize::ResizeOrder;
use super::to_rgb::Gray16;

/// How an image file becomes pixels. The default is the official code's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Whether images are turned upright as their Exif orientation says. The official code does not.
    pub exif_orientation: bool,
    /// What is behind transparent pixels.
    pub background: Background,
    /// Pixels above which an image is refused, checked before anything of that size is allocated.
    pub max_pixels: u64,
    /// What becomes of 16-bit grey.
    pub gray16: Gray16,
    /// What becomes of images whose files end early.
    pub truncated: TruncatedImages,
    /// The order of the passes of resizing, where the image is resized as well.
    pub resize_order: ResizeOrder,
}

impl DecodeOptions {
    /// The most pixels of an image by default, those at which Pillow refuses it.
    pub const MAX_PIXELS: u64 = 178_956_970;

    /// The longest side of an image, whatever its pixels: a longer one is nothing but a line.
    pub const MAX_SIDE: u64 = 1_000_000;

    /// What people expect of their own images: upright.
    #[must_use]
    pub fn own_images() -> Self {
        Self { exif_orientation: true, ..Self::default() }
    }
}

impl Default for DecodeOptions {
    fn default() -> Self {
        Self {
            exif_orientation: false,
            background: Background::Official,
            max_pixels: Self::MAX_PIXELS,
            gray16: Gray16::Clip,
            truncated: TruncatedImages::default(),
            resize_order: ResizeOrder::default(),
        }
    }
}

/// What becomes of JPEG and PNG files that end early. Other formats are refused then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TruncatedImages {
    /// They are broken.
    #[default]
    Refuse,
    /// What is missing is gray in a JPEG, black in a PNG, as in the official code, which sets Pillow's
    /// `LOAD_TRUNCATED_IMAGES`.
    Fill,
}

/// What a user may want to know of an image that was decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImageNotes {
    /// Its metadata say that it must be turned to be upright.
    pub oriented: bool,
    /// Some of its pixels are transparent.
    pub transparent: bool,
    /// It has more frames than the first one.
    pub animated: bool,
    /// Its file ends early, and the rest was filled.
    pub truncated: bool,
}

impl ImageNotes {
    /// Whether there is nothing to say.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}
