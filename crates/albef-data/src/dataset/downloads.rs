//! Files in the form of data sets' own downloads, as entries of a list: captions of COCO
//! (`captions_*.json`), Karpathy's splits (`dataset.json`), questions and annotations of VQAv2, expressions
//! of RefCOCO (`refs(unc).p`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use albef_weights::read_plain_pickle;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::entry::{Entry, Place, Take, Written};
use crate::error::{DataError, Result};
use crate::input::{
    Encoding, decode_text, has_lone_surrogate, head_of, id_text, no_text, parse_json, parse_names,
};
use crate::names;

/// A file of COCO or of Karpathy's splits; other fields are passed over.
#[derive(Deserialize)]
struct Whole {
    images: Option<Vec<Image>>,
    annotations: Option<Vec<Annotation>>,
    questions: Option<Vec<Question>>,
    data_subtype: Option<String>,
    /// Whether a lone surrogate is in it.
    #[serde(skip)]
    lone: bool,
}

#[derive(Deserialize)]
struct Image {
    id: Option<Value>,
    #[serde(default, deserialize_with = "text")]
    file_name: Option<String>,
    #[serde(default, deserialize_with = "text")]
    filename: Option<String>,
    #[serde(default, deserialize_with = "text")]
    filepath: Option<String>,
    cocoid: Option<Value>,
    split: Option<String>,
    sentences: Option<Vec<Sentence>>,
}

/// A text; anything else costs its own image the name, and not the file.
fn text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Ok(Value::deserialize(from)?.as_str().map(str::to_owned))
}

#[derive(Deserialize)]
struct Sentence {
    raw: Option<Value>,
}

#[derive(Deserialize)]
struct Annotation {
    image_id: Option<Value>,
    caption: Option<Value>,
    question_id: Option<Value>,
    answers: Option<Vec<Answer>>,
}

#[derive(Deserialize)]
struct Question {
    image_id: Option<Value>,
    question: Option<Value>,
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

/// The file, in whose texts each byte that is no UTF-8 is a character by [`crate::names`], so that one of them costs
/// its own text only. Names have the bytes that Python writes as `\udcXX`, too; other texts have U+FFFD there.
fn whole(path: &Path, bytes: &[u8]) -> Result<Whole> {
    let text = match decode_text(bytes) {
        Some((text, Encoding::Utf16)) => names::text_of(text.as_bytes()),
        _ => names::text_of(bytes),
    };
    let mut whole: Whole = parse_json(&text).map_err(|e| {
        let detail = format!("not a JSON list of objects: {e}");
        DataError::annotation(path, format!(", line {}", e.line()), detail)
    })?;
    whole.lone = has_lone_surrogate(&text);
    let named = if whole.lone { parse_names(&text) } else { None };
    if let (Some(images), Some(named)) = (&mut whole.images, named.and_then(|w: Whole| w.images)) {
        for (image, named) in images.iter_mut().zip(named) {
            let Image { file_name, filename, filepath, .. } = named;
            (image.file_name, image.filename, image.filepath) = (file_name, filename, filepath);
        }
    }
    Ok(whole)
}

/// The texts of an entry, and what of them is read otherwise than it is written.
struct Reading {
    /// Whether U+FFFD may stand for a lone surrogate.
    lone: bool,
    mended: Option<String>,
    /// The path of the image, where its bytes are no UTF-8.
    written: Option<String>,
}

impl Reading {
    fn new(lone: bool) -> Self {
        Self { lone, mended: None, written: None }
    }

    /// A text; what is none is told of by the reader of entries.
    fn value(&mut self, value: Value) -> Value {
        match value {
            Value::String(text) => self.text(text).into(),
            other => other,
        }
    }

    fn text(&mut self, text: String) -> String {
        if self.lone && text.contains(char::REPLACEMENT_CHARACTER) {
            self.mended = Some("a lone surrogate is read as U+FFFD".into());
        }
        let Some(bytes) = names::odd_bytes(&text) else { return text };
        let Some((read, encoding)) = decode_text(&bytes) else {
            self.mended = Some("it is no text in UTF-8; other bytes are escaped".into());
            return names::shown(&text);
        };
        self.mended = Some(format!("it is no UTF-8 and is read as {}", encoding.name()));
        read.into_owned()
    }

    /// The same for the path of an image, of which the bytes are tried first.
    fn path(&mut self, path: String) -> String {
        let path = names::settled(&path);
        let Some(bytes) = names::odd_bytes(&path) else { return path };
        let read = decode_text(&bytes).map(|(text, _)| text.into_owned());
        let read = read.unwrap_or_else(|| path.clone());
        self.written = Some(path);
        read
    }

    fn entry(self, place: Place, value: Value) -> Entry<'static> {
        let Self { mended, written, .. } = self;
        let alone = mended.is_none();
        let of_path = || "its path is no UTF-8 and is read as Windows-1252".to_owned();
        let mended = mended.or_else(|| written.as_ref().map(|_| of_path()));
        let written = written.map(|path| Written::of("image", path, alone));
        Entry::mended(place, Ok(value), mended).with_written(written)
    }
}

/// The entries of a file that is one object.
pub(super) fn each_entry(path: &Path, bytes: &[u8], take: Take<'_>) -> Result<()> {
    match whole(path, bytes)? {
        Whole { questions: Some(questions), data_subtype, lone, .. } => {
            // A test list has no annotations.
            let annotations =
                match beside(path, |n| n.replace("OpenEnded_", ""), "questions", "annotations") {
                    Some(path) => read_whole(&path)?.annotations.unwrap_or_default(),
                    None => Vec::new(),
                };
            vqa(questions, data_subtype.as_deref(), annotations, lone, take)
        }
        Whole { images: Some(images), lone, .. }
            if images.iter().any(|i| i.sentences.is_some()) =>
        {
            karpathy(images, lone, take)
        }
        Whole { images: Some(images), annotations: Some(annotations), lone, .. }
            if annotations.iter().any(|a| a.caption.is_some()) =>
        {
            coco(images, annotations, lone, take)
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
            let Whole { questions, data_subtype: of, lone, .. } = read_whole(&found)?;
            let subtype = of.or(data_subtype);
            vqa(questions.unwrap_or_default(), subtype.as_deref(), annotations, lone, take)
        }
        _ => Err(DataError::annotation(
            path,
            String::new(),
            "the file must hold a JSON list of objects, one object a line, captions of COCO, Karpathy's \
             splits, or questions of VQAv2; or be a table, or lines of captions as of Flickr30k",
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
    lone: bool,
    take: Take<'_>,
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
        let place = Place::Question(i);
        let id = q.image_id.as_ref().and_then(id_text).and_then(|id| id.parse::<u64>().ok());
        let Some(id) = id else {
            take(Entry::of(place, Err("there is no number under `image_id`".to_owned())))?;
            continue;
        };
        let mut reading = Reading::new(lone);
        let own: Option<Vec<Value>> =
            own.map(|answers| answers.into_iter().map(|a| reading.value(a)).collect());
        let value = json!({
            "dataset": "vqa",
            "image": format!("{part}/COCO_{part}_{id:012}.jpg"),
            "question": q.question.map(|question| reading.value(question)),
            "question_id": q.question_id,
            "answer": own,
        });
        take(reading.entry(place, value))?;
    }
    Ok(())
}

/// The expressions of RefCOCO, one entry each. The names of its images carry the number of an annotation, so
/// they are made from the numbers of the images.
pub(super) fn refs(path: &Path, take: Take<'_>) -> Result<()> {
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

fn coco(
    images: Vec<Image>,
    annotations: Vec<Annotation>,
    lone: bool,
    take: Take<'_>,
) -> Result<()> {
    let mut captions: HashMap<String, Vec<Value>> = HashMap::new();
    let mut strange = Vec::new();
    let mut known: HashMap<String, usize> = HashMap::new();
    let ids: Vec<Option<String>> =
        images.iter().map(|image| image.id.as_ref().and_then(id_text)).collect();
    for (i, id) in ids.iter().enumerate() {
        id.clone().map(|id| *known.entry(id).or_insert(i));
    }
    for (i, annotation) in annotations.into_iter().enumerate() {
        let id = annotation.image_id.as_ref().and_then(id_text);
        match (id.filter(|id| known.contains_key(id)), annotation.caption) {
            (Some(id), Some(caption)) => captions.entry(id).or_default().push(caption),
            _ => strange.push(i),
        }
    }
    for ((i, image), id) in images.into_iter().enumerate().zip(ids) {
        let place = Place::Image(i);
        if let Some(first) = id.as_ref().and_then(|id| known.get(id)).filter(|first| **first < i) {
            let detail = format!("image {first} has the same `id`, and is the one used");
            take(Entry::of(place, Err(detail)))?;
            continue;
        }
        let captions = id.and_then(|id| captions.remove(&id)).unwrap_or_default();
        let mut reading = Reading::new(lone);
        let name = image.file_name.map(|name| reading.path(name));
        let captions: Vec<Value> = captions.into_iter().map(|c| reading.value(c)).collect();
        let value = json!({"image": name, "image_id": image.id, "caption": captions});
        take(reading.entry(place, value))?;
    }
    strange.into_iter().try_for_each(|i| {
        let detail = "it has no `caption`, or its `image_id` is none of `images`";
        take(Entry::of(Place::Annotation(i), Err(detail.into())))
    })
}

fn karpathy(images: Vec<Image>, lone: bool, take: Take<'_>) -> Result<()> {
    for (i, image) in images.into_iter().enumerate() {
        let name = image.filename.or(image.file_name);
        let path = match (image.filepath.filter(|f| !f.is_empty()), name) {
            (Some(folder), Some(name)) => Some(format!("{folder}/{name}")),
            (_, name) => name,
        };
        let mut reading = Reading::new(lone);
        let path = path.map(|path| reading.path(path));
        let texts = image.sentences.into_iter().flatten().map(|s| s.raw);
        let captions: Vec<Option<Value>> =
            texts.map(|raw| raw.map(|text| reading.value(text))).collect();
        let value = json!({"image": path, "caption": captions, "image_id": image.cocoid.or(image.id),
                           "split": image.split});
        take(reading.entry(Place::Image(i), value))?;
    }
    Ok(())
}
