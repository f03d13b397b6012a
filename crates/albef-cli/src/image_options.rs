//! How images are read: the same options for all commands that take images, with two sets of defaults.

use albef::{Background, DecodeOptions, ImageReader, ModelDefaults, ResizeOrder, TruncatedImages};

use crate::arguments::named;

#[derive(clap::Args)]
pub struct ImageOptions {
    /// Turn images upright as their Exif orientation says; boxes and maps are then of the upright image
    /// [default: on for images of one's own, off for `evaluate` and `analyse`].
    #[arg(long, overrides_with = "no_exif_orientation")]
    exif_orientation: bool,
    /// Take images as they are stored.
    #[arg(long, overrides_with = "exif_orientation")]
    no_exif_orientation: bool,
    /// What is behind transparent pixels: `white`, `black`, `#rrggbb`, or `official`, which ignores
    /// transparency, so that the hidden color shows [default: that of the model if it has one and the images are one's
    /// own, else `official`].
    #[arg(long, value_name = "COLOR")]
    background: Option<Background>,
    /// Pixels above which an image is refused, by its header.
    #[arg(long, value_name = "PIXELS", default_value_t = DecodeOptions::MAX_PIXELS)]
    max_image_pixels: u64,
    /// Which pass of resizing comes first: `horizontal_first`, as Pillow up to 12, or `pillow_13`.
    #[arg(long, value_name = "ORDER", default_value = "horizontal_first", value_parser = named::<ResizeOrder>)]
    resize_order: ResizeOrder,
    /// JPEG and PNG files that end early: `refuse` counts them as broken, `fill` takes what is there.
    #[arg(long, value_name = "POLICY", default_value = "refuse", value_parser = named::<TruncatedImages>)]
    truncated_images: TruncatedImages,
}

impl ImageOptions {
    /// For images of one's own: upright, and on the background that the model has by default.
    pub fn own(&self, model: &ModelDefaults) -> ImageReader {
        self.over(model.own_images())
    }

    /// For the lists of evaluations: as the official code.
    pub fn lists(&self) -> ImageReader {
        self.over(DecodeOptions::default())
    }

    fn over(&self, defaults: DecodeOptions) -> ImageReader {
        ImageReader::new(DecodeOptions {
            exif_orientation: match (self.exif_orientation, self.no_exif_orientation) {
                (false, false) => defaults.exif_orientation,
                (on, _) => on,
            },
            background: self.background.unwrap_or(defaults.background),
            max_pixels: self.max_image_pixels,
            resize_order: self.resize_order,
            truncated: self.truncated_images,
            ..defaults
        })
    }
}
