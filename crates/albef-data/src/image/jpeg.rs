//! JPEGs whose data end early. libjpeg leaves what is missing gray; the decoder goes on with zero bits instead, so
//! that what it makes of them is overwritten here.

use image::DynamicImage;

/// What libjpeg shows where there are no coefficients.
const GRAY: u8 = 128;
/// Bits of the longest code.
const LONGEST: usize = 16;

/// Grays what is missing from the image of a JPEG, whose bytes end with an end marker. `ends_early` says that data are
/// missing; else they are looked for only where the image looks like it.
pub(super) fn gray_what_is_missing(image: &mut DynamicImage, bytes: &[u8], ends_early: bool) {
    let Some(scan) = Scan::of(bytes) else { return };
    if !ends_early && !scan.may_end_early(image) {
        return;
    }
    let whole = scan.whole_units();
    for unit in whole..scan.columns * scan.rows {
        let (left, top) = (unit % scan.columns * scan.width, unit / scan.columns * scan.height);
        for y in top..(top + scan.height).min(image.height() as usize) {
            for x in left..(left + scan.width).min(image.width() as usize) {
                put_gray(image, x as u32, y as u32);
            }
        }
    }
}

fn put_gray(image: &mut DynamicImage, x: u32, y: u32) {
    match image {
        DynamicImage::ImageLuma8(image) => image.put_pixel(x, y, image::Luma([GRAY])),
        DynamicImage::ImageRgb8(image) => image.put_pixel(x, y, image::Rgb([GRAY; 3])),
        _ => {}
    }
}

/// A table of Huffman codes (ITU-T T.81, annex C).
#[derive(Clone)]
struct Codes {
    /// For each length the code behind its last one, with the place of its first symbol less its first code.
    lengths: [(u32, i32); LONGEST],
    symbols: Vec<u8>,
}

impl Codes {
    fn new(counts: &[u8], symbols: &[u8]) -> Self {
        let (mut code, mut place) = (0_u32, 0_i32);
        let mut lengths = [(0, 0); LONGEST];
        for (length, count) in lengths.iter_mut().zip(counts) {
            *length = (code + u32::from(*count), place - code as i32);
            code = (code + u32::from(*count)) << 1;
            place += i32::from(*count);
        }
        Self { lengths, symbols: symbols.to_vec() }
    }
}

/// A component in the scan.
struct Component {
    /// Blocks of it in a unit.
    blocks: usize,
    dc: Codes,
    ac: Codes,
}

/// The one scan of a sequential JPEG of one or three components. A unit (MCU) has the blocks that are coded together.
struct Scan<'a> {
    /// Of a unit, in pixels.
    width: usize,
    height: usize,
    /// Units of the image.
    columns: usize,
    rows: usize,
    /// Units between restart markers, 0 for none.
    interval: usize,
    components: Vec<Component>,
    data: &'a [u8],
}

impl<'a> Scan<'a> {
    /// `None` for what is not judged here: progressive and arithmetic coding, several scans, CMYK.
    fn of(bytes: &'a [u8]) -> Option<Self> {
        let (mut dc, mut ac): ([Option<Codes>; 4], [Option<Codes>; 4]) = Default::default();
        let (mut frame, mut interval) = (None, 0);
        let mut at = 2;
        loop {
            // The structure was read before: segments follow each other, with bytes between them at most.
            at += bytes.get(at..)?.iter().position(|b| *b == 0xff)?;
            let marker = *bytes.get(at + 1)?;
            if matches!(marker, 0 | 0x01 | 0xff | 0xd0..=0xd9) {
                at += if marker == 0xff { 1 } else { 2 };
                continue;
            }
            let length =
                usize::from(u16::from_be_bytes([*bytes.get(at + 2)?, *bytes.get(at + 3)?]));
            let body = bytes.get(at + 4..at + 2 + length.max(2))?;
            at += 2 + length.max(2);
            match marker {
                0xc0 | 0xc1 => frame = Some(body),
                0xc2..=0xcf if !matches!(marker, 0xc4 | 0xc8 | 0xcc) => return None,
                0xc4 => {
                    let mut rest = body;
                    while let Some((&[place, ref counts @ ..], more)) =
                        rest.split_first_chunk::<17>()
                    {
                        let symbols = counts.iter().map(|n| usize::from(*n)).sum::<usize>();
                        let table = Codes::new(counts, more.get(..symbols)?);
                        let tables = if place >> 4 == 0 { &mut dc } else { &mut ac };
                        *tables.get_mut(usize::from(place & 15))? = Some(table);
                        rest = &more[symbols..];
                    }
                }
                0xdd => interval = usize::from(u16::from_be_bytes([*body.first()?, *body.get(1)?])),
                0xda => return Self::new(frame?, body, (&dc, &ac), interval, bytes.get(at..)?),
                _ => {}
            }
        }
    }

    fn new(
        frame: &[u8],
        scan: &[u8],
        (dc, ac): (&[Option<Codes>; 4], &[Option<Codes>; 4]),
        interval: usize,
        data: &'a [u8],
    ) -> Option<Self> {
        let &[_, y1, y0, x1, x0, count, ref parts @ ..] = frame else { return None };
        let size = |high, low| usize::from(u16::from_be_bytes([high, low]));
        let parts: Vec<&[u8]> = parts.chunks_exact(3).take(count.into()).collect();
        if !matches!(count, 1 | 3)
            || parts.len() != usize::from(count)
            || scan.first() != Some(&count)
        {
            return None;
        }
        let factor = |part: &[u8]| (usize::from(part[1] >> 4), usize::from(part[1] & 15));
        // A component that is alone has a block in each unit, whatever its factors.
        let factors: Vec<_> =
            parts.iter().map(|part| if count == 1 { (1, 1) } else { factor(part) }).collect();
        let across = factors.iter().map(|f| f.0).max().filter(|n| *n > 0)?;
        let down = factors.iter().map(|f| f.1).max().filter(|n| *n > 0)?;
        let mut components = Vec::new();
        for own in scan[1..].chunks_exact(2).take(count.into()) {
            let place = parts.iter().position(|part| part[0] == own[0])?;
            components.push(Component {
                blocks: factors[place].0 * factors[place].1,
                dc: dc.get(usize::from(own[1] >> 4))?.clone()?,
                ac: ac.get(usize::from(own[1] & 15))?.clone()?,
            });
        }
        let (width, height) = (across * 8, down * 8);
        let (columns, rows) = (size(x1, x0).div_ceil(width), size(y1, y0).div_ceil(height));
        Some(Self { width, height, columns, rows, interval, components, data })
    }

    /// Whether the last two units are the same but for their brightness, as units of zero bits are. Flat images are so
    /// too.
    fn may_end_early(&self, image: &DynamicImage) -> bool {
        let (width, height) = (image.width() as usize, image.height() as usize);
        // Whole units only, and not their edges, where the decoder mixes colors of neighbors.
        let (columns, rows) = (width / self.width, height / self.height);
        if columns < 2 || rows < 1 {
            return true;
        }
        let (left, top) = ((columns - 2) * self.width, (rows - 1) * self.height);
        let (bytes, channels) = match image {
            DynamicImage::ImageLuma8(image) => (image.as_raw(), 1),
            DynamicImage::ImageRgb8(image) => (image.as_raw(), 3),
            _ => return false,
        };
        let at = |x: usize, y: usize, channel: usize| bytes[(y * width + x) * channels + channel];
        (0..channels).all(|channel| {
            let mut differences = (i16::MAX, i16::MIN);
            for (y, x) in (top + 2..top + self.height - 2)
                .flat_map(|y| (left + 2..left + self.width - 2).map(move |x| (y, x)))
            {
                let (one, other) = (at(x, y, channel), at(x + self.width, y, channel));
                if ![one, other].iter().any(|value| matches!(value, 0 | 255)) {
                    let difference = i16::from(one) - i16::from(other);
                    differences = (differences.0.min(difference), differences.1.max(difference));
                }
            }
            differences.1.saturating_sub(differences.0) <= 4
        })
    }

    /// Units that have any data; the last of them may be in part. All of them where the data cannot be followed.
    fn whole_units(&self) -> usize {
        let all = self.columns * self.rows;
        let mut bits = Bits { data: self.data, at: 0, buffer: 0, left: 0, ended: false };
        for unit in 0..all {
            if self.interval > 0 && unit > 0 && unit % self.interval == 0 && !bits.restart() {
                return unit;
            }
            for component in &self.components {
                for _ in 0..component.blocks {
                    if bits.skip_block(component).is_none() {
                        return all;
                    }
                }
            }
            if bits.ended {
                return unit + 1;
            }
        }
        all
    }
}

/// The bits of a scan up to the next marker, and zeros behind it.
struct Bits<'a> {
    data: &'a [u8],
    at: usize,
    buffer: u64,
    left: u32,
    /// Zeros were given.
    ended: bool,
}

impl Bits<'_> {
    fn take(&mut self, count: u32) -> u32 {
        while self.left < count {
            let byte = match (self.data.get(self.at), self.data.get(self.at + 1)) {
                (Some(0xff), Some(0)) => {
                    self.at += 2;
                    0xff
                }
                (None | Some(0xff), _) => {
                    self.ended = true;
                    0
                }
                (Some(byte), _) => {
                    self.at += 1;
                    *byte
                }
            };
            self.buffer = self.buffer << 8 | u64::from(byte);
            self.left += 8;
        }
        self.left -= count;
        (self.buffer >> self.left) as u32 & ((1 << count) - 1)
    }

    /// Passes over a restart marker, if it is the next thing.
    fn restart(&mut self) -> bool {
        let there = self.data.get(self.at) == Some(&0xff)
            && matches!(self.data.get(self.at + 1), Some(0xd0..=0xd7));
        self.at += 2;
        self.left = 0;
        there
    }

    fn symbol(&mut self, codes: &Codes) -> Option<u8> {
        let mut code = 0;
        for (behind, offset) in codes.lengths {
            code = code << 1 | self.take(1);
            if code < behind {
                return codes.symbols.get(usize::try_from(code as i32 + offset).ok()?).copied();
            }
        }
        None
    }

    /// `None` for a code that there is not.
    fn skip_block(&mut self, component: &Component) -> Option<()> {
        let size = self.symbol(&component.dc)?;
        self.take(u32::from(size).min(16));
        let mut place = 1;
        while place < 64 {
            let symbol = self.symbol(&component.ac)?;
            match (symbol >> 4, symbol & 15) {
                (15, 0) => place += 16,
                (_, 0) => break,
                (zeros, size) => {
                    self.take(size.into());
                    place += usize::from(zeros) + 1;
                }
            }
        }
        Some(())
    }
}
