//! An image on its way into a shard: read, checked, made smaller where that is wanted, and written beside its captions.

use serde_json::json;

use super::PackOptions;
use crate::dataset::sample::{Sample, Skipped, place_key};
use crate::dataset::set::Dataset;
use crate::dataset::shard;
use crate::dataset::store::SampleSet;
use crate::error::{DataError, ImageError, ImageErrorKind as Kind, Result};
use crate::image::{
    Content, DecodeOptions, Format, HEAD, RgbImage, content, decode_noted, image_size,
    jpeg_with_orientation, orientation, resize_bicubic,
};

/// The quality of images that are stored smaller.
const QUALITY: u8 = 95;

/// An image that can be packed.
pub(super) struct Ready {
    pub pairs: usize,
    pub captions: usize,
    pub ending: &'static str,
    pub image: Vec<u8>,
    pub text: Vec<u8>,
    pub object: Vec<u8>,
}

impl Ready {
    /// Bytes in an archive.
    pub fn bytes(&self) -> u64 {
        let block = |n: usize| 512 + n.next_multiple_of(512) as u64;
        block(self.image.len()) + block(self.text.len()) + block(self.object.len())
    }
}

/// An image whose shorter side has `size` pixels; `None` where it has no more than that.
fn reduced(image: &RgbImage, size: usize, options: &DecodeOptions) -> Option<RgbImage> {
    let shorter = image.width.min(image.height);
    let side = |pixels: usize| {
        let scaled = pixels as u128 * size as u128 * 2 + shorter as u128;
        (scaled / (2 * shorter as u128)) as usize
    };
    (shorter > size).then(|| {
        let (width, height) = (side(image.width), side(image.height));
        resize_bicubic(image, width, height, options.resize_order)
    })
}

/// Decodes an image, and gives it as a smaller JPEG where that is wanted. A run must see what it would see of the
/// image itself, whatever its settings: an orientation is carried over, and images with transparency stay as they are.
fn decoded(sample: &Sample, bytes: &[u8], o: &PackOptions) -> Result<Option<Vec<u8>>, ImageError> {
    let options = DecodeOptions { exif_orientation: false, ..o.reader.options };
    let (image, notes) = decode_noted(bytes, &options)?;
    o.reader.note(&sample.location, notes);
    let Some(size) = o.image_size.filter(|_| !notes.transparent) else { return Ok(None) };
    let Some(smaller) = reduced(&image, size, &options) else { return Ok(None) };
    jpeg_with_orientation(&smaller, QUALITY, orientation(bytes, &options)?).map(Some)
}

/// Reads and checks an image; `samples`: all that are of it.
pub(super) fn prepare(
    data: &Dataset,
    samples: &[u32],
    o: &PackOptions,
) -> Result<Result<Ready, Skipped>> {
    let first = samples[0] as usize;
    let sample = data.sample(first)?.into_owned();
    let mut captions = Vec::new();
    let mut of_entries = Vec::with_capacity(samples.len());
    for i in samples {
        let own = data.sample(*i as usize)?.into_owned().captions;
        of_entries.push(own.len());
        captions.extend(own);
    }
    if sample.task != Default::default() {
        let detail = "lists of tasks cannot be packed, only images with captions";
        return Err(DataError::Argument(detail.into()));
    }
    let read = || {
        let bytes = sample.bytes()?;
        if o.decode || o.image_size.is_some() {
            if let Some(smaller) = decoded(&sample, &bytes, o)? {
                return Ok(("jpg", smaller));
            }
        } else {
            image_size(&bytes)?;
        }
        let ending = match content(&bytes[..bytes.len().min(HEAD)]) {
            Content::Image(Format::Jpeg) => "jpg",
            Content::Image(Format::Png) => "png",
            Content::Image(Format::WebP) => "webp",
            Content::Image(Format::Gif) => "gif",
            Content::Image(Format::Bmp) => "bmp",
            Content::Image(Format::Tiff) => "tif",
            #[cfg(feature = "heic")]
            Content::Image(Format::Heic) => "heic",
            #[cfg(feature = "avif")]
            Content::Image(Format::Avif) => "avif",
            Content::Unread(_) | Content::Other => {
                let detail = "its format is not known".to_owned();
                return Err(ImageError { kind: Kind::UnknownFormat, detail });
            }
        };
        Ok((ending, bytes))
    };
    let (ending, image) = match read() {
        Ok(found) => found,
        Err(error) => return Ok(Err(Skipped { name: sample.name, error })),
    };
    let caption = if captions.len() == 1 { json!(captions[0]) } else { json!(captions) };
    let mut object = json!({
        "caption": caption,
        "image_id": data.image_ids()[first],
        "name": sample.name,
    });
    if sample.key != place_key(&sample.location, &sample.name) {
        object["source_image_id"] = json!(sample.key);
    }
    if of_entries.len() > 1 {
        object[shard::ENTRIES] = json!(of_entries);
    }
    let text: Vec<String> =
        captions.iter().map(|c| c.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    Ok(Ok(Ready {
        pairs: samples.len(),
        captions: captions.len(),
        ending,
        image,
        text: text.join("\n").into_bytes(),
        object: object.to_string().into_bytes(),
    }))
}
