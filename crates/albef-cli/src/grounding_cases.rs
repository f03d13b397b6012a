//! What grounding is measured on: expressions with the box that is meant and the boxes to choose from.

use std::path::{Path, PathBuf};

use albef::eval::grounding::{PixelBox, within};
use albef::eval::refcoco::{RefCoco, SPLITS};
use albef_data::dataset::{AnnotationFormat, ImageRoots, Sample, read_task};
use albef_data::image::DecodeOptions;
use anyhow::{Context, Result, bail};
use rayon::prelude::*;
use serde_json::Value;

/// One expression.
pub struct Case {
    /// The box that is meant.
    pub meant: PixelBox,
    /// The boxes to choose from.
    pub boxes: Vec<PixelBox>,
    /// Height and width that the boxes refer to; those of the picture if not given.
    pub size: Option<(usize, usize)>,
    /// DistillTerms that it counts for.
    pub split: Option<String>,
}

/// Expressions and, in the same order, what they mean.
pub struct Cases {
    pub samples: Vec<Sample>,
    pub cases: Vec<Case>,
}

impl Cases {
    /// Lists whose entries hold `box` and `boxes`.
    pub fn of_lists(lists: &[PathBuf], image_root: &Path) -> Result<Self> {
        let mut out = Self { samples: Vec::new(), cases: Vec::new() };
        for list in lists {
            out.samples.extend(samples(list, image_root)?);
            out.cases.extend(boxes_of(list)?);
        }
        Ok(out)
    }

    /// The official lists of RefCOCO+ with the data set's own files; expressions of other splits than
    /// val, testA and testB are left out.
    pub fn of_refcoco(
        lists: &[PathBuf],
        image_root: &Path,
        refcoco_data: &Path,
        det_file: &Path,
    ) -> Result<Self> {
        let data = RefCoco::open(refcoco_data, det_file)?;
        let mut out = Self { samples: Vec::new(), cases: Vec::new() };
        let mut without = 0;
        for list in lists {
            for (i, sample) in samples(list, image_root)?.into_iter().enumerate() {
                let at = || format!("{}, entry {i}", list.display());
                let Some(id) = sample.task.id else {
                    bail!("{}: there is no `ref_id`, by which RefCOCO+ knows the expression", at())
                };
                let Some(referent) = data.referent(id) else {
                    bail!("{}: RefCOCO+ has no expression with the `ref_id` {id}", at())
                };
                if !SPLITS.contains(&referent.split.as_str()) {
                    continue;
                }
                let boxes = data.proposals(referent.image_id).to_vec();
                without += usize::from(boxes.is_empty());
                out.cases.push(Case {
                    meant: referent.meant,
                    boxes,
                    size: Some(referent.size),
                    split: Some(referent.split.clone()),
                });
                out.samples.push(sample);
            }
        }
        let names = || lists.iter().map(|l| l.display().to_string()).collect::<Vec<_>>().join(", ");
        if out.samples.is_empty() {
            bail!("{} has no expression of the splits {}", names(), SPLITS.join(", "));
        }
        if without == out.samples.len() {
            bail!("{} has no boxes for any picture of {}", det_file.display(), names());
        }
        if without > 0 {
            eprintln!("{without} expressions are of pictures without proposals and count as wrong");
        }
        Ok(out)
    }

    /// Leaves only the split `val` where there are splits: the others are not looked at to choose
    /// among epochs.
    pub fn for_choosing(&mut self) -> Result<()> {
        if self.cases.iter().all(|c| c.split.is_none()) {
            return Ok(());
        }
        let own = |c: &Case| c.split.as_deref() == Some(SPLITS[0]);
        let mut keep = self.cases.iter().map(own).collect::<Vec<_>>().into_iter();
        self.samples.retain(|_| keep.next() == Some(true));
        self.cases.retain(own);
        if self.cases.is_empty() {
            bail!("`val_file` has no expression of the split {}", SPLITS[0]);
        }
        Ok(())
    }
}

fn samples(list: &Path, image_root: &Path) -> Result<Vec<Sample>> {
    let roots = ImageRoots { image_root: image_root.to_owned(), ..ImageRoots::default() };
    let samples = read_task(list, AnnotationFormat::Grounding, &roots)?;
    if samples.is_empty() {
        bail!("{} holds nothing to measure", list.display());
    }
    Ok(samples)
}

/// `[left, top, width, height]`; a score may follow, as in the files of proposals.
pub fn pixel_box(given: &Value) -> Option<PixelBox> {
    let numbers: Option<Vec<f64>> = given.as_array()?.iter().map(Value::as_f64).collect();
    match numbers?[..] {
        [left, top, width, height] | [left, top, width, height, _] => {
            Some([left, top, width, height])
        }
        _ => None,
    }
}

/// Why a box cannot be found in a picture, of this height and width if they are known.
pub fn fault(b: PixelBox, size: Option<(usize, usize)>) -> Option<String> {
    if !(b[2] > 0.0 && b[3] > 0.0) {
        return Some("has no area: width and height must be above 0".into());
    }
    let (height, width) = size.filter(|size| !within(b, *size))?;
    Some(format!("lies outside of the picture of {width} x {height} pixels"))
}

/// What is wrong with the boxes of a list, where entries have some; where pictures are looked at, with
/// those outside of theirs too.
pub fn box_faults(list: &Path, samples: &[Sample], look: bool) -> Result<Vec<String>> {
    let entries = entries_of(list)?;
    let all = entries.par_iter().zip(samples).enumerate().map(|(i, (entry, sample))| {
        let given = BOXES.iter().filter(|key| !entry[**key].is_null());
        let mut named: Vec<(String, &Value)> = Vec::new();
        for key in given {
            match (*key, entry[*key].as_array()) {
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
        // A picture that cannot be used is a fault of its own.
        let picture = look.then(|| sample.decode(&DecodeOptions::default()).ok()).flatten();
        let size = picture.map(|p| (p.height, p.width));
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

/// The box that is meant, and those to choose from.
const BOXES: [&str; 2] = ["box", "boxes"];

fn entries_of(path: &Path) -> Result<Vec<Value>> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    // Some editors put a byte order mark first.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    serde_json::from_str(text).with_context(|| format!("{} must be a JSON list", path.display()))
}

fn boxes_of(path: &Path) -> Result<Vec<Case>> {
    let list = entries_of(path)?;
    let corners = |v: &Value| pixel_box(v).filter(|b| b[2] > 0.0 && b[3] > 0.0);
    list.iter()
        .enumerate()
        .map(|(i, entry)| {
            let meant = corners(&entry["box"]);
            let boxes: Option<Vec<PixelBox>> =
                entry["boxes"].as_array().and_then(|l| l.iter().map(corners).collect());
            match (meant, boxes.filter(|b| !b.is_empty())) {
                (Some(meant), Some(boxes)) => Ok(Case { meant, boxes, size: None, split: None }),
                _ => bail!(
                    "{}, entry {i}: `box` and `boxes` must hold [left, top, width, height] with a \
                     width and a height above 0; the official list of RefCOCO+ has no boxes: give \
                     its files with --refcoco-data and --det-file",
                    path.display()
                ),
            }
        })
        .collect()
}
