//! RefCOCO+ in its official files: which box an expression means, and the boxes that a detector
//! proposes (paper section 6).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use albef_data::image::DecodeOptions;
use albef_data::input::read_json;
use albef_weights::read_plain_pickle;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::grounding::PixelBox;
use crate::error::{Error, Result};

/// The splits that are reported, under the names of the files.
pub const SPLITS: [&str; 3] = ["val", "testA", "testB"];

/// What an expression means.
#[derive(Clone, Debug, PartialEq)]
pub struct Referent {
    /// DistillTerms of the data set.
    pub split: String,
    /// Number of its image.
    pub image_id: i64,
    /// The annotated box.
    pub meant: PixelBox,
    /// Height and width of the image in pixels.
    pub size: (usize, usize),
}

/// Expressions and proposals of RefCOCO+.
#[derive(Clone, Debug)]
pub struct RefCoco {
    referents: HashMap<i64, Referent>,
    proposals: HashMap<String, Vec<PixelBox>>,
}

#[derive(Deserialize)]
struct Instances {
    images: Vec<ImageEntry>,
    annotations: Vec<Annotation>,
}

#[derive(Deserialize)]
struct ImageEntry {
    id: Value,
    height: Value,
    width: Value,
}

#[derive(Deserialize)]
struct Annotation {
    id: Value,
    bbox: PixelBox,
}

fn json<T: DeserializeOwned>(path: &Path, wanted: &str) -> Result<T> {
    Ok(read_json(path, wanted)?)
}

/// A whole number, or one written as a fraction or text.
fn whole(value: &Value) -> Option<i64> {
    let fraction = |v: f64| (v.fract() == 0.0 && v.abs() < 9e15).then_some(v as i64);
    match value {
        Value::Number(n) => n.as_i64().or_else(|| n.as_f64().and_then(fraction)),
        Value::String(s) => s.trim().parse().ok(),
        _ => None,
    }
}

/// Pixels along a side that an image can have: those of a JPEG.
const LONGEST_SIDE: i64 = 65_535;

/// Number, height and width of an image. An attention map takes memory by them, so they must be possible.
fn size(at: usize, image: &ImageEntry) -> Result<(i64, (usize, usize)), String> {
    let id = whole(&image.id).ok_or_else(|| format!("`images`, entry {at}: no number `id`"))?;
    let side = |name: &str, value: &Value| {
        let possible = whole(value).filter(|v| (1..=LONGEST_SIDE).contains(v));
        possible.and_then(|v| usize::try_from(v).ok()).ok_or_else(|| {
            format!(
                "`images`, entry {at} (id {id}): `{name}` is {value}; it must be a number of pixels from \
                 1 to {LONGEST_SIDE}"
            )
        })
    };
    let (height, width) = (side("height", &image.height)?, side("width", &image.width)?);
    let most = DecodeOptions::default().max_pixels;
    if height as u64 * width as u64 > most {
        return Err(format!(
            "`images`, entry {at} (id {id}): {width} x {height} pixels, and images have {most} at most"
        ));
    }
    Ok((id, (height, width)))
}

/// The folder with `refs(unc).p` and `instances.json`: `refcoco+` below the configured one, or that
/// one itself.
#[must_use]
pub fn folder(refcoco_data: &Path) -> PathBuf {
    let below = refcoco_data.join("refcoco+");
    if below.is_dir() || !refcoco_data.join(REFS).is_file() {
        below
    } else {
        refcoco_data.to_owned()
    }
}

/// The file of expressions, as the data set calls it.
pub const REFS: &str = "refs(unc).p";
/// The file of images and boxes.
pub const INSTANCES: &str = "instances.json";

impl RefCoco {
    /// Reads `refcoco+/refs(unc).p` and `refcoco+/instances.json` below `refcoco_data`, and the
    /// proposals of `det_file`: a JSON object of lists of `[left, top, width, height, ..]` by number of
    /// the image.
    ///
    /// # Errors
    /// If a file is missing or damaged, or an expression names a box or image that is not there.
    pub fn open(refcoco_data: &Path, det_file: &Path) -> Result<Self> {
        let folder = folder(refcoco_data);
        let Instances { images, annotations } =
            json(&folder.join(INSTANCES), "an object with `images` and `annotations`")?;
        let wrong = |detail: String| Error::Format { path: folder.join(INSTANCES), detail };
        let sizes = images.iter().enumerate().map(|(at, p)| size(at, p));
        let sizes: HashMap<i64, (usize, usize)> = sizes.collect::<Result<_, _>>().map_err(wrong)?;
        let annotated = |(at, a): (usize, &Annotation)| match whole(&a.id) {
            Some(id) => Ok((id, a.bbox)),
            None => Err(format!("`annotations`, entry {at}: no number `id`")),
        };
        let boxes: HashMap<i64, PixelBox> = annotations
            .iter()
            .enumerate()
            .map(annotated)
            .collect::<Result<_, _>>()
            .map_err(wrong)?;
        let referents = referents(&folder.join(REFS), &boxes, &sizes)?;
        let lists: HashMap<String, Vec<Vec<f64>>> =
            json(det_file, "an object of lists of boxes by number of the image")?;
        let mut proposals = HashMap::with_capacity(lists.len());
        for (image, list) in lists {
            let boxes: Option<Vec<PixelBox>> =
                list.iter().map(|b| b.get(..4).and_then(|four| four.try_into().ok())).collect();
            let boxes = boxes.ok_or_else(|| Error::Format {
                path: det_file.to_owned(),
                detail: format!("image {image}: a box is no [left, top, width, height, ..]"),
            })?;
            proposals.insert(image, boxes);
        }
        Ok(Self { referents, proposals })
    }

    /// What the expression of this `ref_id` means.
    #[must_use]
    pub fn referent(&self, ref_id: i64) -> Option<&Referent> {
        self.referents.get(&ref_id)
    }

    /// The boxes proposed for an image; empty if there are none.
    #[must_use]
    pub fn proposals(&self, image_id: i64) -> &[PixelBox] {
        self.proposals.get(&image_id.to_string()).map_or(&[], Vec::as_slice)
    }

    /// Images that have proposals.
    #[must_use]
    pub fn images_with_proposals(&self) -> usize {
        self.proposals.len()
    }

    /// Expressions of all splits.
    #[must_use]
    pub fn len(&self) -> usize {
        self.referents.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.referents.is_empty()
    }
}

fn referents(
    path: &Path,
    boxes: &HashMap<i64, PixelBox>,
    sizes: &HashMap<i64, (usize, usize)>,
) -> Result<HashMap<i64, Referent>> {
    let fail = |detail: String| Error::Format { path: path.to_owned(), detail };
    let Value::Array(list) = read_plain_pickle(path)? else {
        return Err(fail("a list of expressions is needed".into()));
    };
    let mut out = HashMap::with_capacity(list.len());
    for (i, entry) in list.iter().enumerate() {
        let number = |key: &str| {
            whole(&entry[key]).ok_or_else(|| fail(format!("entry {i} has no number `{key}`")))
        };
        let (ref_id, ann_id, image_id) =
            (number("ref_id")?, number("ann_id")?, number("image_id")?);
        let split = entry["split"].as_str();
        let split = split.ok_or_else(|| fail(format!("entry {i} has no `split`")))?.to_owned();
        let absent = |what: &str, id: i64| {
            fail(format!("entry {i} names {what} {id}, which {INSTANCES} does not have"))
        };
        let meant = *boxes.get(&ann_id).ok_or_else(|| absent("annotation", ann_id))?;
        let size = *sizes.get(&image_id).ok_or_else(|| absent("image", image_id))?;
        out.insert(ref_id, Referent { split, image_id, meant, size });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const PICKLE: &[u8] =
        b"(lp0\n(dp1\nS'ref_id'\nI42\nsS'ann_id'\nI7\nsS'image_id'\nI9\nsS'split'\n\
                            S'testA'\nsS'sentences'\n(l(dS'sent'\nS'man in red'\nsasa.";
    const BOXES: &str = r#"{"images": [{"id": 9, "height": 30, "width": 40, "file_name": "x"}],
        "annotations": [{"id": 7, "bbox": [1, 2.5, 3, 4], "segmentation": []}], "info": {}}"#;

    fn files(
        refs: &[u8],
        instances: &str,
        detections: &str,
    ) -> (tempfile::TempDir, Result<RefCoco>) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("refcoco+")).unwrap();
        fs::write(dir.path().join("refcoco+").join(REFS), refs).unwrap();
        fs::write(dir.path().join("refcoco+").join(INSTANCES), instances).unwrap();
        fs::write(dir.path().join("dets.json"), detections).unwrap();
        let read = RefCoco::open(dir.path(), &dir.path().join("dets.json"));
        (dir, read)
    }

    #[test]
    fn an_expression_finds_its_box_its_image_and_its_proposals() {
        let (dir, read) = files(PICKLE, BOXES, r#"{"9": [[0, 0, 5, 6, 0.9], [1, 1, 2, 2]]}"#);
        let data = read.unwrap();
        let r = data.referent(42).unwrap();
        assert_eq!((r.split.as_str(), r.size), ("testA", (30, 40)));
        assert_eq!(r.meant, [1.0, 2.5, 3.0, 4.0]);
        assert_eq!(data.proposals(9), [[0.0, 0.0, 5.0, 6.0], [1.0, 1.0, 2.0, 2.0]]);
        assert!(data.proposals(8).is_empty() && data.referent(1).is_none());
        let inner = dir.path().join("refcoco+");
        assert_eq!(RefCoco::open(&inner, &dir.path().join("dets.json")).unwrap().len(), 1);
    }

    #[test]
    fn sizes_that_no_image_has_are_refused_by_entry() {
        let with = |height: &str| BOXES.replace("\"height\": 30", &format!("\"height\": {height}"));
        for height in [
            "2147483648",
            "0",
            "-1",
            "1e300",
            "18446744073709551616",
            "null",
            "65535",
            "NaN",
            "30.5",
        ] {
            let instances = with(height).replace("\"width\": 40", "\"width\": 60000");
            let (_dir, read) = files(PICKLE, &instances, "{}");
            let error = read.unwrap_err().to_string();
            assert!(error.contains(INSTANCES) && error.contains("entry 0 (id 9)"), "{error}");
        }
        for height in ["30.0", "\"30\""] {
            let (_dir, read) = files(PICKLE, &with(height), "{}");
            assert_eq!(read.unwrap().referent(42).unwrap().size, (30, 40));
        }
        let (_dir, read) = files(PICKLE, &format!("\u{feff}{BOXES}"), "\u{feff}{}");
        assert_eq!(read.unwrap().len(), 1);
    }

    #[test]
    fn files_that_contradict_each_other_are_named() {
        let (_dir, read) = files(PICKLE, r#"{"images": [], "annotations": []}"#, "{}");
        let error = read.unwrap_err().to_string();
        assert!(error.contains("refs(unc).p") && error.contains("annotation 7"), "{error}");
        let (_dir, read) = files(PICKLE, BOXES, r#"{"9": [[0, 0, 5]]}"#);
        assert!(read.unwrap_err().to_string().contains("image 9"));
        let (_dir, read) = files(b"N.", BOXES, "{}");
        assert!(read.unwrap_err().to_string().contains("a list"));
    }
}
