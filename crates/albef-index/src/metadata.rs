//! What a file says of an image besides its pixels' meaning: content hash, Exif, and a hash of its looks.

use std::io::Cursor;

use albef_data::image::{RgbImage, cell_means};
use exif::{Exif, In, Tag, Value};
use sha2::{Digest, Sha256};

use crate::record::ContentHash;

/// The SHA-256 of a file.
#[must_use]
pub fn content_hash(bytes: &[u8]) -> ContentHash {
    Sha256::digest(bytes).into()
}

/// When and by what an image was taken, as far as its Exif tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Seconds since 1970 of the camera's clock, whatever its time zone.
    pub date: Option<i64>,
    /// Maker and model.
    pub camera: Option<String>,
}

impl Taken {
    /// Reads the Exif of JPEG, PNG and WebP; what is absent or broken is `None`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        // The parser is other people's code and sees hostile bytes.
        let read = || exif::Reader::new().read_from_container(&mut Cursor::new(bytes)).ok();
        let Some(exif) = std::panic::catch_unwind(read).ok().flatten() else {
            return Self::default();
        };
        let tags = [Tag::DateTimeOriginal, Tag::DateTimeDigitized, Tag::DateTime];
        Self { date: tags.iter().find_map(|tag| date(&exif, *tag)), camera: camera(&exif) }
    }
}

fn text(exif: &Exif, tag: Tag) -> Option<String> {
    let Value::Ascii(parts) = &exif.get_field(tag, In::PRIMARY)?.value else { return None };
    let text = String::from_utf8_lossy(parts.first()?);
    let text = text.trim_matches(|c: char| c == '\0' || c.is_whitespace());
    // A name must not steer a terminal, nor fill the catalogue.
    let text: String = text.chars().filter(|c| !c.is_control()).take(100).collect();
    (!text.is_empty()).then_some(text)
}

/// `2024:05:17 12:30:00`, also with other separators, or the day alone.
fn date(exif: &Exif, tag: Tag) -> Option<i64> {
    parse_date(&text(exif, tag)?)
}

fn parse_date(text: &str) -> Option<i64> {
    let mut parts = text.split(|c: char| !c.is_ascii_digit()).filter(|p| !p.is_empty());
    let mut next = || parts.next()?.parse::<i64>().ok();
    let (year, month, day) = (next()?, next()?, next()?);
    let time = [next().unwrap_or(0), next().unwrap_or(0), next().unwrap_or(0)];
    let [hour, minute, second] = time;
    let possible = (1800..=9999).contains(&year)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..=60).contains(&second);
    let days = possible.then(|| days_since_1970(year, month, day)).flatten()?;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

/// Days from 1970-01-01 to a day of the Gregorian calendar; `None` for a day that there is not.
#[must_use]
pub fn days_since_1970(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let length = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=length).contains(&day) {
        return None;
    }
    // Years that begin in March have the leap day at their end.
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    Some(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year - 719_468)
}

fn camera(exif: &Exif) -> Option<String> {
    match (text(exif, Tag::Make), text(exif, Tag::Model)) {
        // Many models begin with their maker.
        (Some(make), Some(model)) => {
            let first = make.split(' ').next().unwrap_or_default().to_lowercase();
            match model.to_lowercase().starts_with(&first) {
                true => Some(model),
                false => Some(format!("{make} {model}")),
            }
        }
        (make, model) => model.or(make),
    }
}

/// The difference hash of an image: on a grid of 9 by 8 means of brightness, a bit for each two neighbors in a row,
/// set where brightness falls. Images that look alike differ in few bits, whatever their size and compression.
#[must_use]
pub fn perceptual_hash(image: &RgbImage) -> u64 {
    const GRID: [usize; 2] = [9, 8];
    let [columns, rows] = GRID;
    if image.is_empty() {
        return 0;
    }
    let means = cell_means(image, GRID, |[r, g, b]| [299 * r + 587 * g + 114 * b]);
    let bits = (0..rows).flat_map(|row| (0..columns - 1).map(move |column| row * columns + column));
    bits.fold(0, |hash, at| hash << 1 | u64::from(means[at] > means[at + 1]))
}

#[cfg(test)]
pub(crate) mod tests {
    use albef_data::image::{ResizeOrder, resize_bicubic};

    use super::*;

    /// A JPEG's Exif segment with a date and a camera in front of an image's other bytes.
    pub(crate) fn with_exif(jpeg: &[u8], date: &str, make: &str, model: &str) -> Vec<u8> {
        let mut tiff = b"II*\0\x08\0\0\0".to_vec();
        let texts: Vec<Vec<u8>> =
            [make, model, date].iter().map(|t| [t.as_bytes(), b"\0"].concat()).collect();
        let entries = texts.len() as u16;
        let mut at = 8 + 2 + 12 * u32::from(entries) + 4;
        tiff.extend(entries.to_le_bytes());
        for (tag, text) in [0x010f_u16, 0x0110, 0x0132].iter().zip(&texts) {
            tiff.extend(tag.to_le_bytes());
            tiff.extend(2_u16.to_le_bytes());
            tiff.extend((text.len() as u32).to_le_bytes());
            if text.len() <= 4 {
                let mut short = text.clone();
                short.resize(4, 0);
                tiff.extend(short);
            } else {
                tiff.extend(at.to_le_bytes());
                at += text.len() as u32;
            }
        }
        tiff.extend([0; 4]);
        texts.iter().filter(|t| t.len() > 4).for_each(|t| tiff.extend(t));
        let mut out = jpeg[..2].to_vec();
        out.extend([0xff, 0xe1]);
        out.extend((tiff.len() as u16 + 8).to_be_bytes());
        out.extend(b"Exif\0\0");
        out.extend(tiff);
        out.extend(&jpeg[2..]);
        out
    }

    /// The least that a reader of containers takes for a JPEG.
    const JPEG: [u8; 10] = [0xff, 0xd8, 0xff, 0xda, 0, 2, 0, 0, 0xff, 0xd9];

    #[test]
    fn date_and_camera_are_read_from_exif() {
        let found =
            Taken::of(&with_exif(&JPEG, "2024:05:17 12:30:01", "NIKON CORPORATION", "NIKON D750"));
        let date = 1_715_949_001; // date -ud '2024-05-17 12:30:01' +%s
        assert_eq!(found, Taken { date: Some(date), camera: Some("NIKON D750".into()) });
        let found = Taken::of(&with_exif(&JPEG, "0000:00:00 00:00:00", "Fuji", "X\u{1b}[1m-T3"));
        assert_eq!(found, Taken { date: None, camera: Some("Fuji X[1m-T3".into()) });
    }

    #[test]
    fn bytes_that_are_no_exif_say_nothing() {
        let whole = with_exif(&JPEG, "2024:05:17 12:30:01", "NIKON", "D750");
        for end in 0..whole.len() {
            let _ = Taken::of(&whole[..end]);
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0xff;
            let _ = Taken::of(&bytes);
        }
        assert_eq!(Taken::of(b""), Taken::default());
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        for (day, expected) in [
            ((1970, 1, 1), Some(0)),
            ((2000, 2, 29), Some(11_016)),
            ((1900, 2, 29), None),
            ((1969, 12, 31), Some(-1)),
            ((2024, 5, 17), Some(19_860)),
            ((2024, 13, 1), None),
            ((2024, 4, 31), None),
        ] {
            assert_eq!(days_since_1970(day.0, day.1, day.2), expected, "{day:?}");
        }
    }

    #[test]
    fn images_that_look_alike_have_hashes_that_are_alike() {
        let draw = |seed: usize| {
            let mut image = RgbImage::filled(120, 90, [0; 3]);
            for y in 0..90 {
                for x in 0..120 {
                    let v = ((x / 13 * (seed + 3) + y / 17 * (seed * 7 + 1)) * 37 % 256) as u8;
                    image.pixels[(y * 120 + x) * 3..][..3].copy_from_slice(&[v, v / 2, 255 - v]);
                }
            }
            image
        };
        let one = draw(1);
        let small = resize_bicubic(&one, 64, 48, ResizeOrder::default());
        let distance =
            |a: &RgbImage, b: &RgbImage| (perceptual_hash(a) ^ perceptual_hash(b)).count_ones();
        assert!(distance(&one, &small) <= 6, "{}", distance(&one, &small));
        assert!(distance(&one, &draw(4)) >= 16, "{}", distance(&one, &draw(4)));
        for (width, height) in [(0, 5), (1, 1), (3, 2)] {
            assert_eq!(perceptual_hash(&RgbImage::filled(width, height, [9; 3])), 0);
        }
    }
}
