//! Boxes in JSON files, and what can be wrong with them.

use std::path::Path;

use albef_data::dataset::{Sample, read_entries};
use albef_data::image::DecodeOptions;
use albef_data::input::read_json;
use rayon::prelude::*;
use serde_json::Value;

use super::{PixelBox, cut_to, within};
use crate::error::{Error, Result};

/// `[left, top, width, height]`; a score may follow, as in files of proposals.
#[must_use]
pub fn pixel_box(given: &Value) -> Option<PixelBox> {
    let numbers: Option<Vec<f64>> = given.as_array()?.iter().map(Value::as_f64).collect();
    match numbers?[..] {
        [left, top, width, height] | [left, top, width, height, _] => {
            Some([left, top, width, height])
        }
        _ => None,
    }
}

/// Why a box cannot be found in an image, of this height and width if they are known.
fn fault(b: PixelBox, size: Option<(usize, usize)>) -> Option<String> {
    if !(b[2] > 0.0 && b[3] > 0.0) {
        return Some("has no area: width and height must be above 0".into());
    }
    let (height, width) = size.filter(|size| !within(b, *size))?;
    Some(format!("is outside the image of {width} x {height} pixels"))
}

/// Boxes to choose from.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposals {
    /// The boxes, clipped to the image.
    pub boxes: Vec<PixelBox>,
    /// How many reached beyond it.
    pub clipped: usize,
}

impl Proposals {
    /// Reads a JSON list of `[left, top, width, height]` in pixels for an image of `size` (height, width); a
    /// score after a box is not read.
    ///
    /// # Errors
    /// If the file cannot be read, or a box has no area or is outside the image.
    pub fn read(path: &Path, size: (usize, usize)) -> Result<Self> {
        let wrong = |detail: String| Error::Format { path: path.to_owned(), detail };
        let list: Vec<Value> = read_json(path, "a list of [left, top, width, height]")?;
        let (mut boxes, mut clipped) = (Vec::with_capacity(list.len()), 0);
        for (i, given) in list.iter().enumerate() {
            let b = pixel_box(given).ok_or_else(|| {
                wrong(format!("box {i}: {given} must be [left, top, width, height]"))
            })?;
            if let Some(fault) = fault(b, Some(size)) {
                return Err(wrong(format!("box {i}: {given} {fault}")));
            }
            let inside = cut_to(b, size);
            clipped += usize::from(inside != b);
            boxes.push(inside);
        }
        Ok(Self { boxes, clipped })
    }
}

/// What is wrong with the boxes of an annotation list, where entries have some. With `decode` images are
/// read, and boxes outside theirs are found too. `is_sample`: whether an entry is one of `samples`.
///
/// # Errors
/// If the list cannot be read.
pub fn box_faults(
    list: &Path,
    samples: &[Sample],
    decode: bool,
    is_sample: impl Fn(&Value) -> bool,
) -> Result<Vec<String>> {
    let entries = entries_of(list)?;
    let entries: Vec<(usize, &Value)> =
        entries.iter().enumerate().filter(|(_, entry)| is_sample(entry)).collect();
    let all = entries.par_iter().zip(samples).map(|((i, entry), sample)| {
        let given = ["box", "boxes"].into_iter().filter(|key| !entry[*key].is_null());
        let mut named: Vec<(String, &Value)> = Vec::new();
        for key in given {
            match (key, entry[key].as_array()) {
                ("boxes", Some(all)) => {
                    let of = |(at, b)| (format!("`boxes`, box {at}"), b);
                    named.extend(all.iter().enumerate().map(of));
                }
                (key, _) => named.push((format!("`{key}`"), &entry[key])),
            }
        }
        if named.is_empty() {
            return Vec::new();
        }
        // An image that cannot be used is a fault of its own.
        let image = decode.then(|| sample.decode(&DecodeOptions::default()).ok()).flatten();
        let size = image.map(|p| (p.height, p.width));
        let faults = named.into_iter().filter_map(|(what, given)| {
            let fault = match pixel_box(given) {
                None => Some("must be [left, top, width, height]".to_owned()),
                Some(b) => fault(b, size),
            };
            fault.map(|fault| format!("entry {i}, {what}: {given} {fault}"))
        });
        faults.collect()
    });
    Ok(all.collect::<Vec<Vec<String>>>().into_iter().flatten().collect())
}

fn entries_of(path: &Path) -> Result<Vec<Value>> {
    Ok(read_entries(path)?)
}
