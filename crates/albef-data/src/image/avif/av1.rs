//! AV1 frames, by the crate `re_rav1d`.

use re_rav1d::dav1d::pixel::YUVRange;
use re_rav1d::dav1d::{self, PixelLayout, PlanarImageComponent, Settings};

use super::frame::{Colors, Frame, Plane};
use crate::error::{ImageError, ImageErrorKind as Kind};

/// Frames in the data of an image: one for each layer. More of them could be hidden, and each takes the time of an image.
const MOST_FRAMES: usize = 8;
/// Kinds of the units of an AV1 stream.
const FRAME_HEADER: u8 = 3;
const FRAME: u8 = 6;

/// A decoder of frames of one size.
pub(super) struct Decoder {
    decoder: dav1d::Decoder,
    width: u32,
    height: u32,
}

impl Decoder {
    pub fn new(width: u32, height: u32, operating_point: u8) -> Result<Self, ImageError> {
        let mut settings = Settings::new();
        // On the calling thread: images are decoded side by side, and a fault in another thread could not be told.
        settings.set_n_threads(1);
        settings.set_max_frame_delay(1);
        settings.set_all_layers(false);
        settings.set_operating_point(u32::from(operating_point & 31));
        // Of 0 pixels there would be no limit.
        settings.set_frame_size_limit(width.saturating_mul(height).max(1));
        let decoder = dav1d::Decoder::with_settings(&settings).map_err(|e| failed(&e))?;
        Ok(Self { decoder, width, height })
    }

    /// The frame in the data of an item.
    pub fn frame(&mut self, data: &[u8]) -> Result<Frame, ImageError> {
        check_units(data)?;
        let picture = match self.decoder.send_data(data.to_vec(), None, None, None) {
            Ok(()) | Err(dav1d::Error::Again) => self.decoder.get_picture(),
            Err(e) => Err(e),
        };
        self.decoder.flush();
        let picture = picture.map_err(|e| failed(&e))?;
        if (picture.width(), picture.height()) != (self.width, self.height) {
            let detail = format!(
                "a frame of {} x {} pixels for {} x {}",
                picture.width(),
                picture.height(),
                self.width,
                self.height
            );
            return Err(ImageError::new(Kind::Corrupt, detail));
        }
        let mut frame = Frame {
            width: picture.width() as usize,
            height: picture.height() as usize,
            depth: picture.bit_depth() as u8,
            shifts: match picture.pixel_layout() {
                PixelLayout::I400 => None,
                PixelLayout::I420 => Some([1, 1]),
                PixelLayout::I422 => Some([1, 0]),
                PixelLayout::I444 => Some([0, 0]),
            },
            planes: Default::default(),
            colors: Colors {
                // The numbers of H.273, in which the container speaks as well.
                matrix: picture.matrix_coefficients() as u16,
                full: picture.color_range() == YUVRange::Full,
            },
        };
        for place in 0..3 {
            let Some([width, height]) = frame.size(place) else { continue };
            let component = PlanarImageComponent::from(place);
            let plane = picture.plane(component);
            let stride = picture.stride(component) as usize;
            let row = width * frame.sample();
            let mut bytes = Vec::with_capacity(row * height);
            for line in plane.chunks(stride).take(height) {
                bytes.extend_from_slice(&line[..row]);
            }
            frame.planes[place] = Plane { width, bytes };
        }
        Ok(frame)
    }
}

/// Refuses data whose units do not fit into them, and those with more frames than an image has.
fn check_units(data: &[u8]) -> Result<(), ImageError> {
    let broken = || ImageError::new(Kind::Corrupt, "its AV1 data end within a unit");
    let mut frames = 0;
    let mut rest = data;
    if data.is_empty() {
        return Err(ImageError::new(Kind::Corrupt, "it has no AV1 data"));
    }
    while let [head, inner @ ..] = rest {
        let (kind, extended, sized) = (head >> 3 & 15, head >> 2 & 1, head >> 1 & 1);
        if matches!(kind, FRAME_HEADER | FRAME) {
            frames += 1;
        }
        rest = inner.get(usize::from(extended)..).ok_or_else(broken)?;
        let length = if sized == 1 { leb128(&mut rest).ok_or_else(broken)? } else { rest.len() };
        rest = rest.get(length..).ok_or_else(broken)?;
    }
    match frames {
        0 => Err(ImageError::new(Kind::Corrupt, "its AV1 data hold no frame")),
        _ if frames > MOST_FRAMES => {
            Err(ImageError::new(Kind::Corrupt, format!("its AV1 data hold {frames} frames")))
        }
        _ => Ok(()),
    }
}

/// A number of 7 bits a byte, of which the first are the lowest.
fn leb128(bytes: &mut &[u8]) -> Option<usize> {
    let mut value = 0;
    for place in 0..8 {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return usize::try_from(value).ok();
        }
    }
    None
}

fn failed(cause: &dav1d::Error) -> ImageError {
    match cause {
        dav1d::Error::Again => ImageError::new(Kind::Corrupt, "its AV1 data give no picture"),
        dav1d::Error::UnsupportedBitstream => ImageError::new(
            Kind::Unsupported("AVIF"),
            "AV1 data of a kind that the decoder does not read",
        ),
        _ => ImageError::new(Kind::Corrupt, format!("its AV1 data are broken ({cause})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_frames_and_units_that_are_cut_are_refused() {
        let unit = |kind: u8, length: u8| {
            let mut unit = vec![kind << 3 | 2, length];
            unit.resize(2 + usize::from(length), 0);
            unit
        };
        let frames = |count: usize| [unit(1, 3), unit(FRAME, 5).repeat(count)].concat();
        check_units(&frames(1)).unwrap();
        check_units(&frames(MOST_FRAMES)).unwrap();
        // Without a size, a unit goes to the end.
        check_units(&[unit(1, 3), vec![FRAME << 3, 9, 9]].concat()).unwrap();
        let whole = frames(1);
        for (data, part) in [
            (&frames(MOST_FRAMES + 1)[..], "hold 9 frames"),
            (&whole[..whole.len() - 1], "end within a unit"),
            (&[FRAME << 3 | 2, 0x80, 0x80], "end within a unit"),
            (&[FRAME << 3 | 2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "within a unit"),
            (&unit(1, 3), "no frame"),
            (&[], "no AV1 data"),
        ] {
            let refused = check_units(data).unwrap_err();
            assert_eq!(refused.kind, Kind::Corrupt);
            assert!(refused.detail.contains(part), "{refused}");
        }
    }
}
