//! Files in the form of data sets' own downloads, as entries of a list: captions of COCO
//! (`captions_*.json`), Karpathy's splits (`dataset.json`), questions and annotations of VQAv2, expressions
//! of RefCOCO (`refs(unc).p`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use albef_weights::read_plain_pickle;
use serde::Deserialize;
use serde_json::{Value, json};

use super::entry::{Entry, Place};
use crate::error::{DataError, Result};
use crate::input::{decode_text, head_of, id_text, no_text, parse_json};

/// A file of COCO or of Karpathy's splits; other fields are passed over.
#[derive(Deserialize)]
struct Whole {
    images: Option<Vec<Image>>,
    annotations: Option<Vec<Annotation>>,
    questions: Option<Vec<Question>>,
    data_subtype: Option<String>,
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
    question_id: Option<Value>,
    answers: Option<Vec<Answer>>,
}

#[derive(Deserialize)]
struct Question {
    image_id: Option<i64>,
    question: Option<String>,
    question_id: Option<Value>,
}

#[derive(Deserialize)]
struct Answer {
    answer: Value,
}

/// Whether an object is a whole file and not the entry of a line.
pub(super) fn is_whole(object: &Value) -> bool {
    let lists = ["images", "annotations", "questions"];
    object.get("image").is_none()
        && object.get("sentence").is_none()
        && lists.iter().any(|key| object[*key].is_array())
}

fn whole(path: &Path, bytes: &[u8]) -> Result<Whole> {
    let text = decode_text(bytes).map(|(text, _)| text);
    let none = || DataError::annotation(path, String::new(), "it is no text in UTF-8");
    parse_json(&text.ok_or_else(none)?).map_err(|e| {
        let detail = format!("not a JSON list of objects: {e}");
        DataError::annotation(path, format!(", line {}", e.line()), detail)
    })
}

/// The entries of a file that is one object.
pub(super) fn each_entry(
    path: &Path,
    bytes: &[u8],
    take: &mut dyn FnMut(Entry<'_>) -> Result<()>,
) -> Result<()> {
    let mut give = |place: Place, value: Result<Value, String>| take(Entry::of(place, value));
    match whole(path, bytes)? {
        Whole { questions: Some(questions), data_subtype, .. } => {
            // A test list has no annotations.
            let annotations =
                match beside(path, |n| n.replace("OpenEnded_", ""), "questions", "annotations") {
                    Some(path) => read_whole(&path)?.annotations.unwrap_or_default(),
                    None => Vec::new(),
                };
            vqa(questions, data_subtype.as_deref(), annotations, &mut give)
        }
        Whole { images: Some(images), .. } if images.iter().any(|i| i.sentences.is_some()) => {
            karpathy(images, &mut give)
        }
        Whole { images: Some(images), annotations: Some(annotations), .. }
            if annotations.iter().any(|a| a.caption.is_some()) =>
        {
            coco(images, annotations, &mut give)
        }
        Whole { annotations: Some(annotations), data_subtype, .. }
            if annotations.iter().any(|a| a.answers.is_some()) =>
        {
            let open = |name: &str| name.replace("_mscoco_", "_OpenEnded_mscoco_");
            let Some(found) = beside(path, open, "annotations", "questions") else {
                let detail = "it holds the annotations of VQAv2; their questions \
                              (`v2_OpenEnded_mscoco_*_questions.json`) must be in the same folder";
                return Err(DataError::annotation(path, String::new(), detail));
            };
            let Whole { questions, data_subtype: of, .. } = read_whole(&found)?;
            let subtype = of.or(data_subtype);
            vqa(questions.unwrap_or_default(), subtype.as_deref(), annotations, &mut give)
        }
        _ => Err(DataError::annotation(
            path,
            String::new(),
            "the file must hold a JSON list of objects, one object a line, captions of COCO, Karpathy's \
             splits, or questions of VQAv2",
        )),
    }
}

/// A file beside another, by what their names differ in.
fn beside(path: &Path, change: impl Fn(&str) -> String, from: &str, to: &str) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?.replace(from, to);
    [change(&name), name]
        .into_iter()
        .map(|n| path.with_file_name(n))
        .find(|p| p != path && p.is_file())
}

fn read_whole(path: &Path) -> Result<Whole> {
    whole(path, &std::fs::read(path).map_err(DataError::io(path))?)
}

/// Questions with the answers of their annotators; images are named as COCO names them, below a folder for
/// each of its parts.
fn vqa(
    questions: Vec<Question>,
    subtype: Option<&str>,
    annotations: Vec<Annotation>,
    give: Give<'_>,
) -> Result<()> {
    // The images of `test-dev2015` are those of the whole test.
    let part = subtype.unwrap_or("train2014").replace("test-dev", "test");
    let mut answers: HashMap<String, Vec<Value>> = HashMap::new();
    for a in annotations {
        if let (Some(id), Some(all)) = (a.question_id.as_ref().and_then(id_text), a.answers) {
            answers.insert(id, all.into_iter().map(|a| a.answer).collect());
        }
    }
    for (i, q) in questions.into_iter().enumerate() {
        let own = q.question_id.as_ref().and_then(id_text).and_then(|id| answers.remove(&id));
        let value = match q.image_id {
            Some(id) => Ok(json!({
                "dataset": "vqa",
                "image": format!("{part}/COCO_{part}_{id:012}.jpg"),
                "question": q.question,
                "question_id": q.question_id,
                "answer": own,
            })),
            None => Err("there is no number under `image_id`".to_owned()),
        };
        give(Place::Question(i), value)?;
    }
    Ok(())
}

/// The expressions of RefCOCO, one entry each. The names of its images carry the number of an annotation, so
/// they are made from the numbers of the images.
pub(super) fn refs(path: &Path, take: &mut dyn FnMut(Entry<'_>) -> Result<()>) -> Result<()> {
    let fail = |detail: String| DataError::annotation(path, String::new(), detail);
    if let Some(detail) = no_text(&head_of(path)?.0, "a list of expressions") {
        return Err(fail(detail));
    }
    let list = read_plain_pickle(path).map_err(|e| fail(e.to_string()))?;
    let list = list.as_array().ok_or_else(|| fail("it holds no list of expressions".into()))?;
    for (i, entry) in list.iter().enumerate() {
        let place = Place::Entry(i);
        let (Some(image), Some(sentences)) =
            (entry["image_id"].as_i64(), entry["sentences"].as_array())
        else {
            let value = Err("there is no `image_id` or no list of `sentences`".to_owned());
            take(Entry::of(place, value))?;
            continue;
        };
        for sentence in sentences {
            let value = Ok(json!({
                "image": format!("train2014/COCO_train2014_{image:012}.jpg"),
                "text": sentence["sent"],
                "ref_id": entry["ref_id"],
                "split": entry["split"],
            }));
            take(Entry::of(place, value))?;
        }
    }
    Ok(())
}

type Give<'a> = &'a mut dyn FnMut(Place, Result<Value, String>) -> Result<()>;

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
        give(Place::Image(i), Ok(value))?;
    }
    strange.into_iter().try_for_each(|i| {
        let detail = "it has no `caption`, or its `image_id` is none of `images`";
        give(Place::Annotation(i), Err(detail.into()))
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
        give(Place::Image(i), Ok(value))?;
    }
    Ok(())
}
