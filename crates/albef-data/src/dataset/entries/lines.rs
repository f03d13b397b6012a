//! Lines of an image, the number of a caption among its captions, and the caption, as Flickr's data sets are downloaded:
//! `1000092795.jpg#0`, a tab, `Two young guys …`.

use std::io::{BufRead, Read};
use std::path::Path;

use serde_json::{Value, json};

use super::super::entry::{Entry, Place, Take, Written};
use super::super::keys::NUMBER;
use super::LONGEST;
use crate::error::{DataError, Result};
use crate::input::{Encoding, decode_text};
use crate::names;

/// Image, number and caption of a line.
fn parts(line: &[u8]) -> Option<(&[u8], u32, &[u8])> {
    let tab = line.iter().position(|b| *b == b'\t')?;
    let (front, caption) = (line[..tab].trim_ascii(), line[tab + 1..].trim_ascii());
    let mark = front.iter().rposition(|b| *b == b'#')?;
    let (image, number) = (&front[..mark], &front[mark + 1..]);
    let digits = !number.is_empty() && number.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(number).ok().filter(|_| digits)?.parse().ok()?;
    (!image.is_empty()).then_some((image, number, caption))
}

/// Whether a list that begins so is one of such lines.
pub(super) fn are_in(first: &[u8]) -> bool {
    let mut lines = first.split(|b| *b == b'\n').map(<[u8]>::trim_ascii);
    lines.find(|line| !line.is_empty()).is_some_and(|line| parts(line).is_some())
}

/// The lines as entries.
pub(super) fn each(path: &Path, reader: &mut dyn BufRead, take: Take<'_>) -> Result<()> {
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let most = LONGEST as u64;
        let read = reader.take(most).read_until(b'\n', &mut line).map_err(DataError::io(path))?;
        if read as u64 == most {
            let place = Place::Line(number).to_string();
            let detail = format!("the line is longer than {} MiB", most >> 20);
            return Err(DataError::annotation(path, place, detail));
        }
        if read == 0 {
            break;
        }
        if !line.trim_ascii().is_empty() {
            take(entry(&line, Place::Line(number)))?;
        }
    }
    Ok(())
}

fn entry(line: &[u8], place: Place) -> Entry<'static> {
    let Some((image, number, caption)) = parts(line) else {
        let detail = "the line is not `IMAGE#NUMBER`, a tab and a caption".to_owned();
        return Entry::of(place, Err(detail));
    };
    let (Some((name, of_name)), Some((text, of_text))) = (decode_text(image), decode_text(caption))
    else {
        return Entry::of(place, Err("it is no text in UTF-8".into()));
    };
    let odd = [of_name, of_text].into_iter().find(|encoding| *encoding != Encoding::Utf8);
    let mended = odd.map(|encoding| format!("it is no UTF-8 and is read as {}", encoding.name()));
    let written = (of_name != Encoding::Utf8)
        .then(|| Written::of("image", names::text_of(image), of_text == Encoding::Utf8));
    let value: Value = json!({"image": name, "caption": text, NUMBER: number});
    Entry::mended(place, Ok(value), mended).with_written(written)
}
