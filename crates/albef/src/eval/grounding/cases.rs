//! What grounding is evaluated on: expressions with the box that is meant and the boxes to choose from.

use std::path::{Path, PathBuf};

use albef_data::dataset::{Contents, ImageRoots, Sample, Skipped, entries_by_place};
use albef_data::error::{ImageError, ImageErrorKind};
use serde_json::Value;

use super::boxes::pixel_box;
use super::{PixelBox, within};
use crate::error::{Error, Result};
use crate::eval::refcoco::{RefCoco, SPLITS};
use crate::task::{TaskRef, read_annotations};

/// One expression.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// The box that is meant.
    pub meant: PixelBox,
    /// The boxes to choose from.
    pub boxes: Vec<PixelBox>,
    /// Height and width that the boxes refer to; those of the image if not given.
    pub size: Option<(usize, usize)>,
    /// Split that it counts for.
    pub split: Option<String>,
}

/// Expressions (the captions of `samples`) and, in the same order, what they mean.
#[derive(Clone, Debug, Default)]
pub struct Cases {
    /// Images with their expressions.
    pub samples: Vec<Sample>,
    /// Boxes of the expressions.
    pub cases: Vec<Case>,
    /// Entries that cannot be measured.
    pub left_out: Vec<Skipped>,
}

impl Cases {
    /// Reads lists whose entries have `image`, `text`, `box` and `boxes`.
    ///
    /// # Errors
    /// If a list is damaged or empty, or no entry has its boxes.
    pub fn of_lists(lists: &[PathBuf], image_root: &Path) -> Result<Self> {
        let mut out = Self::default();
        for list in lists {
            let (samples, left_out) = samples(list, image_root)?;
            out.left_out.extend(left_out);
            let entries = entries_by_place(list)?;
            let before = (out.samples.len(), out.left_out.len());
            for (i, sample) in samples.into_iter().enumerate() {
                let entry = sample.task.place.and_then(|place| entries.get(&place));
                match entry.and_then(boxes) {
                    Some(case) => {
                        out.cases.push(case);
                        out.samples.push(sample);
                    }
                    None => out.left_out.push(without_boxes(list, sample.entry_name(i))),
                }
            }
            if let (true, Some(first)) = (out.samples.len() == before.0, out.left_out.get(before.1))
            {
                let detail = format!("{}: {}", first.name, first.error);
                return Err(Error::Format { path: list.clone(), detail });
            }
        }
        Ok(out)
    }

    /// Reads the official lists of RefCOCO+ with the data set's own files. Expressions of other splits than
    /// val, testA and testB are skipped.
    ///
    /// # Errors
    /// If a file is damaged, an expression is not of RefCOCO+, or no image has proposals.
    pub fn of_refcoco(
        lists: &[PathBuf],
        image_root: &Path,
        refcoco_data: &Path,
        det_file: &Path,
    ) -> Result<Self> {
        let data = RefCoco::open(refcoco_data, det_file)?;
        let mut out = Self::default();
        for list in lists {
            let (samples, left_out) = samples(list, image_root)?;
            out.left_out.extend(left_out);
            for (i, sample) in samples.into_iter().enumerate() {
                let wrong = |detail: String| Error::Format {
                    path: list.clone(),
                    detail: format!("{}: {detail}", sample.entry_name(i)),
                };
                let id = sample.task.id.ok_or_else(|| {
                    let detail = "there is no `ref_id`, which identifies an expression of RefCOCO+";
                    wrong(detail.into())
                })?;
                let referent = data.referent(id).ok_or_else(|| {
                    wrong(format!("RefCOCO+ has no expression with the `ref_id` {id}"))
                })?;
                if !SPLITS.contains(&referent.split.as_str()) {
                    continue;
                }
                out.cases.push(Case {
                    meant: referent.meant,
                    boxes: data.proposals(referent.image_id).to_vec(),
                    size: Some(referent.size),
                    split: Some(referent.split.clone()),
                });
                out.samples.push(sample);
            }
        }
        let names = lists.iter().map(|l| l.display().to_string()).collect::<Vec<_>>().join(", ");
        if out.samples.is_empty() {
            let splits = SPLITS.join(", ");
            return Err(Error::Argument(format!(
                "{names} has no expression of the splits {splits}"
            )));
        }
        match out.without_proposals() {
            0 => {}
            n if n == out.samples.len() => {
                let detail = format!("there are no boxes for any image of {names}");
                return Err(Error::Format { path: det_file.to_owned(), detail });
            }
            n => {
                tracing::warn!("{n} expressions are of images without proposals and count as wrong")
            }
        }
        Ok(out)
    }

    /// Expressions without boxes to choose from.
    #[must_use]
    pub fn without_proposals(&self) -> usize {
        self.cases.iter().filter(|c| c.boxes.is_empty()).count()
    }

    /// Keeps only the split `val` where there are splits: the others may not choose among epochs.
    ///
    /// # Errors
    /// If nothing is left.
    pub fn for_choosing(&mut self) -> Result<()> {
        if self.cases.iter().all(|c| c.split.is_none()) {
            return Ok(());
        }
        let own = |c: &Case| c.split.as_deref() == Some(SPLITS[0]);
        let mut keep = self.cases.iter().map(own).collect::<Vec<_>>().into_iter();
        self.samples.retain(|_| keep.next() == Some(true));
        self.cases.retain(own);
        if self.cases.is_empty() {
            let split = SPLITS[0];
            return Err(Error::Argument(format!(
                "`val_file` has no expression of the split {split}"
            )));
        }
        Ok(())
    }
}

/// The expressions of a list, and what is left out of them.
fn samples(list: &Path, image_root: &Path) -> Result<(Vec<Sample>, Vec<Skipped>)> {
    let roots = ImageRoots { image_root: image_root.to_owned(), ..ImageRoots::default() };
    let Contents { samples, left_out, .. } =
        read_annotations(TaskRef::named("grounding")?, list, &roots)?;
    if samples.is_empty() {
        return Err(Error::Format { path: list.to_owned(), detail: "the list is empty".into() });
    }
    Ok((samples, left_out))
}

/// The boxes of an entry; `None` if one is none, or there is none to choose from.
fn boxes(entry: &Value) -> Option<Case> {
    let corners = |v: &Value| pixel_box(v).filter(|b| b[2] > 0.0 && b[3] > 0.0);
    let boxes: Vec<PixelBox> =
        entry["boxes"].as_array()?.iter().map(corners).collect::<Option<_>>()?;
    let meant = corners(&entry["box"])?;
    (!boxes.is_empty()).then_some(Case { meant, boxes, size: None, split: None })
}

fn without_boxes(list: &Path, entry: String) -> Skipped {
    let detail = "`box` and `boxes` must hold [left, top, width, height] with a width and a height above 0; the official \
                  list of RefCOCO+ has no boxes: give its files with --refcoco-data and --det-file";
    let error = ImageError { kind: ImageErrorKind::Entry, detail: detail.into() };
    Skipped { name: format!("{}, {entry}", list.display()), error }
}

impl Case {
    /// The boxes to choose from that share an area with an image of this height and width.
    #[must_use]
    pub fn boxes_within(&self, size: (usize, usize)) -> Vec<PixelBox> {
        self.boxes.iter().copied().filter(|b| within(*b, size)).collect()
    }
}
