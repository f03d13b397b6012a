//! AV1 frames, by the crate `re_rav1d`.

use re_rav1d::dav1d::pixel::YUVRange;
use re_rav1d::dav1d::{self, PixelLayout, PlanarImageComponent, Settings};

use super::color::Colors;
use crate::error::{ImageError, ImageErrorKind as Kind};
use crate::image::decode::error;

/// Frames in the data of an image: one for each layer. More of them could be hidden, and each takes the time of an image.
const MOST_FRAMES: usize = 8;
/// Kinds of the units of an AV1 stream.
const FRAME_HEADER: u8 = 3;
const FRAME: u8 = 6;

/// Samples of a frame: one byte each, or two in the order of the machine if there are more than 8 bits.
#[derive(Debug, Default)]
pub(super) struct Plane {
    pub width: usize,
    pub bytes: Vec<u8>,
}

/// A frame as it is stored.
#[derive(Debug)]
pub(super) struct Frame {
    pub width: usize,
    pub height: usize,
    /// Bits of a sample.
    pub depth: u8,
    /// By how much the planes of color are smaller, as shifts of width and height; `None` if there are none.
    pub shifts: Option<[u8; 2]>,
    /// Luma, and two of color.
    pub planes: [Plane; 3],
    /// What the stream says of its colors.
    pub colors: Colors,
}

impl Frame {
    /// A black frame of the same kind and another size.
    pub fn like(other: &Self, width: u32, height: u32) -> Self {
        let mut frame = Self {
            width: width as usize,
            height: height as usize,
            planes: Default::default(),
            ..*other
        };
        for place in 0..3 {
            if let Some([width, height]) = frame.size(place) {
                let bytes = vec![0; width * height * frame.sample()];
                frame.planes[place] = Plane { width, bytes };
            }
        }
        frame
    }

    pub fn is_like(&self, other: &Self) -> bool {
        (self.depth, self.shifts, self.colors) == (other.depth, other.shifts, other.colors)
    }

    /// Bytes of a sample.
    pub fn sample(&self) -> usize {
        if self.depth > 8 { 2 } else { 1 }
    }

    /// Width and height of a plane, if there is one.
    fn size(&self, place: usize) -> Option<[usize; 2]> {
        match (place, self.shifts) {
            (0, _) => Some([self.width, self.height]),
            (_, Some([x, y])) => Some([self.width.div_ceil(1 << x), self.height.div_ceil(1 << y)]),
            (_, None) => None,
        }
    }

    /// The frame with a tile at a place. What is outside of the frame is left out.
    pub fn with(mut self, tile: &Self, left: u32, top: u32) -> Self {
        let sample = self.sample();
        for place in 0..3 {
            let [x, y] = if place == 0 { [0, 0] } else { self.shifts.unwrap_or_default() };
            let (left, top) = (left as usize >> x, top as usize >> y);
            let into = &mut self.planes[place];
            let from = &tile.planes[place];
            let width = from.width.min(into.width.saturating_sub(left)) * sample;
            if width == 0 {
                continue;
            }
            let rows = into.bytes.chunks_exact_mut(into.width * sample).skip(top);
            for (into, from) in rows.zip(from.bytes.chunks_exact(from.width * sample)) {
                into[left * sample..][..width].copy_from_slice(&from[..width]);
            }
        }
        self
    }

    /// The samples of a row.
    pub fn row(&self, place: usize, row: usize, into: &mut Vec<u16>) {
        let plane = &self.planes[place];
        let bytes = plane.width * self.sample();
        let bytes = &plane.bytes[row * bytes..][..bytes];
        into.clear();
        match self.sample() {
            1 => into.extend(bytes.iter().map(|b| u16::from(*b))),
            _ => {
                let most = (1 << self.depth) - 1;
                let pairs = bytes.as_chunks::<2>().0;
                into.extend(pairs.iter().map(|b| u16::from_ne_bytes(*b).min(most)));
            }
        }
    }

    /// The frame as alpha of 8 bits.
    pub fn opacity(mut self) -> Vec<u8> {
        let most = (1u32 << self.depth) - 1;
        let shift = self.depth - 8;
        // Alpha has the full range, but for encoders that were not told.
        let [least, range] = match self.colors.full {
            true => [0, most],
            false => [16 << shift, 219 << shift],
        };
        let value = |v: u16| {
            let full = (u32::from(v).saturating_sub(least) * most + range / 2) / range;
            ((full.min(most) * 255 + most / 2) / most) as u8
        };
        if self.depth == 8 && self.colors.full {
            return std::mem::take(&mut self.planes[0].bytes);
        }
        let mut row = Vec::new();
        let mut all = Vec::with_capacity(self.width * self.height);
        for y in 0..self.height {
            self.row(0, y, &mut row);
            all.extend(row.iter().map(|v| value(*v)));
        }
        all
    }
}

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
            return Err(error(Kind::Corrupt, detail));
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
    let broken = || error(Kind::Corrupt, "its AV1 data end within a unit");
    let mut frames = 0;
    let mut rest = data;
    if data.is_empty() {
        return Err(error(Kind::Corrupt, "it has no AV1 data"));
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
        0 => Err(error(Kind::Corrupt, "its AV1 data hold no frame")),
        _ if frames > MOST_FRAMES => {
            Err(error(Kind::Corrupt, format!("its AV1 data hold {frames} frames")))
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
        dav1d::Error::Again => error(Kind::Corrupt, "its AV1 data give no picture"),
        dav1d::Error::UnsupportedBitstream => {
            error(Kind::Unsupported("AVIF"), "AV1 data of a kind that the decoder does not read")
        }
        _ => error(Kind::Corrupt, format!("its AV1 data are broken ({cause})")),
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

    #[test]
    fn alpha_becomes_8_bits_of_the_full_range() {
        let frame = |depth, full, bytes: &[u8]| Frame {
            width: 4,
            height: 1,
            depth,
            shifts: None,
            planes: [Plane { width: 4, bytes: bytes.to_vec() }, Plane::default(), Plane::default()],
            colors: Colors { matrix: 2, full },
        };
        assert_eq!(frame(8, true, &[0, 9, 128, 255]).opacity(), [0, 9, 128, 255]);
        assert_eq!(frame(8, false, &[0, 16, 125, 240]).opacity(), [0, 0, 127, 255]);
        let wide: Vec<u8> = [0u16, 512, 1023, 4000].iter().flat_map(|v| v.to_ne_bytes()).collect();
        assert_eq!(frame(10, true, &wide).opacity(), [0, 128, 255, 255]);
    }
}
