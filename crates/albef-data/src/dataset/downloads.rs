//! Files that data sets publish as one JSON object, as entries of a list: captions of COCO
//! (`captions_*.json`) and Karpathy's splits (`dataset.json`).

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use super::entries::Entry;
use crate::error::{DataError, Result};
use crate::input::{decode_text, parse_json};

/// A file of COCO or of Karpathy's splits; other fields are passed over.
#[derive(Deserialize)]
struct Whole {
    images: Option<Vec<Image>>,
    annotations: Option<Vec<Annotation>>,
    questions: Option<Vec<Value>>,
}

#[derive(Deserialize)]
struct Image {
    id: Option<i64>,
    file_name: Option<String>,
    filename: Option<String>,
    filepath: Option<String>,
    cocoid: Option<i64>,
    split: Option<String>,
    sentences: Option<Vec<Sentence>>,
}

#[derive(Deserialize)]
struct Sentence {
    raw: Option<String>,
}

#[derive(Deserialize)]
struct Annotation {
    image_id: Option<Value>,
    caption: Option<String>,
}

/// Whether an object is a whole file and not the entry of a line.
pub(super) fn is_whole(object: &Value) -> bool {
    let lists = ["images", "annotations", "questions"];
    object.get("image").is_none()
        && object.get("sentence").is_none()
        && lists.iter().any(|key| object[*key].is_array())
}

/// The entries of a file that is one object.
pub(super) fn each_entry(
    path: &Path,
    bytes: &[u8],
    take: &mut dyn FnMut(Entry) -> Result<()>,
) -> Result<()> {
    let fail = |detail: String| DataError::annotation(path, String::new(), detail);
    let (text, _) = decode_text(bytes).ok_or_else(|| fail("it is no text in UTF-8".into()))?;
    let whole: Whole = parse_json(&text).map_err(|e| {
        let detail = format!("not a JSON list of objects: {e}");
        DataError::annotation(path, format!(", line {}", e.line()), detail)
    })?;
    let mut give =
        |place: String, value: Result<Value, String>| take(Entry { place, value, mended: None });
    match whole {
        Whole { questions: Some(_), .. } => Err(fail(
            "it holds the questions of VQAv2 in the form of its download; the list of ALBEF is a JSON \
             list of `question_id`, `question`, `image` and `answer`"
                .into(),
        )),
        Whole { images: Some(images), .. } if images.iter().any(|i| i.sentences.is_some()) => {
            karpathy(images, &mut give)
        }
        Whole { images: Some(images), annotations: Some(annotations), .. }
            if annotations.iter().any(|a| a.caption.is_some()) =>
        {
            coco(images, annotations, &mut give)
        }
        _ => Err(fail(
            "the file must hold a JSON list of objects, one object a line, the captions of COCO or \
             Karpathy's splits"
                .into(),
        )),
    }
}

type Give<'a> = &'a mut dyn FnMut(String, Result<Value, String>) -> Result<()>;

fn coco(images: Vec<Image>, annotations: Vec<Annotation>, give: Give<'_>) -> Result<()> {
    let mut captions: HashMap<i64, Vec<String>> = HashMap::new();
    let mut strange = Vec::new();
    let known: std::collections::HashSet<i64> = images.iter().filter_map(|i| i.id).collect();
    for (i, annotation) in annotations.into_iter().enumerate() {
        let id = annotation.image_id.as_ref().and_then(Value::as_i64);
        match (id.filter(|id| known.contains(id)), annotation.caption) {
            (Some(id), Some(caption)) => captions.entry(id).or_default().push(caption),
            _ => strange.push(i),
        }
    }
    for (i, image) in images.into_iter().enumerate() {
        let captions = image.id.and_then(|id| captions.remove(&id)).unwrap_or_default();
        let value = json!({"image": image.file_name, "image_id": image.id, "caption": captions});
        give(format!(", image {i}"), Ok(value))?;
    }
    strange.into_iter().try_for_each(|i| {
        let detail = "it has no `caption`, or its `image_id` is none of `images`";
        give(format!(", annotation {i}"), Err(detail.into()))
    })
}

fn karpathy(images: Vec<Image>, give: Give<'_>) -> Result<()> {
    for (i, image) in images.into_iter().enumerate() {
        let name = image.filename.or(image.file_name);
        let place = match (image.filepath.filter(|f| !f.is_empty()), name) {
            (Some(folder), Some(name)) => Some(format!("{folder}/{name}")),
            (_, name) => name,
        };
        let captions: Vec<Option<String>> =
            image.sentences.into_iter().flatten().map(|s| s.raw).collect();
        let value = json!({"image": place, "caption": captions, "image_id": image.cocoid.or(image.id),
                           "split": image.split});
        give(format!(", image {i}"), Ok(value))?;
    }
    Ok(())
}
