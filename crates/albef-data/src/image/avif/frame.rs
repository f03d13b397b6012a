//! A frame as AV1 stores it: planes of samples.

/// How colors are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Colors {
    /// How luma and color come from red, green and blue: a number of H.273.
    pub matrix: u16,
    /// Samples go from 0 to the highest value, not from 16/255 of it to 235/255.
    pub full: bool,
}

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
    pub fn size(&self, place: usize) -> Option<[usize; 2]> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
