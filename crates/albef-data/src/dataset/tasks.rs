//! The annotation lists of the other tasks (spec `data` 1): questions with answers, statements
//! about two images, entailment, referring expressions.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::annotation::{found, text_of};
use super::source::{Location, Sample};
use crate::error::{DataError, Result};

/// What a sample asks a model for, besides its text.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Target {
    /// Nothing: image and caption belong together.
    #[default]
    None,
    /// Answers with their weights.
    Answers(Vec<(String, f32)>),
    /// A class.
    Label(usize),
}

/// What a sample has beyond one image with captions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TaskFields {
    /// The second image.
    pub second: Option<Location>,
    /// `[left, top, right, bottom]` of both images, where they are parts of pictures.
    pub crops: Option<[[usize; 4]; 2]>,
    /// What is asked for.
    pub target: Target,
    /// Number of the question or expression in its data set.
    pub id: Option<i64>,
}

/// The form of a task's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnnotationFormat {
    /// Questions of VQAv2 and Visual Genome.
    Vqa,
    /// Statements about two images.
    Nlvr,
    /// Sentences that an image entails, contradicts, or neither.
    Entailment,
    /// Images with expressions; all expressions of a file are positives of each other.
    Grounding,
}

/// Weight of an answer of Visual Genome.
pub const VG_WEIGHT: f32 = 0.5;

/// Where the pictures of a list lie; with an empty root as they stand, else beside the list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageRoots {
    /// Of most lists.
    pub image_root: PathBuf,
    /// Of questions with `"dataset": "vqa"`.
    pub vqa_root: PathBuf,
    /// Of questions with `"dataset": "vg"`.
    pub vg_root: PathBuf,
}

/// Reads a list in the official form of a task.
///
/// # Errors
/// Names the file, the entry and what is wrong with it.
pub fn read_task(path: &Path, form: AnnotationFormat, roots: &ImageRoots) -> Result<Vec<Sample>> {
    let text = text_of(path)?;
    let fail = |place: String, detail: String| DataError::annotation(path, place, detail);
    let list: Vec<Value> = serde_json::from_str(&text).map_err(|e| {
        fail(format!(", line {}", e.line()), format!("not a JSON list of objects: {e}"))
    })?;
    list.iter()
        .enumerate()
        .map(|(i, entry)| {
            let sample = match form {
                AnnotationFormat::Vqa => question(entry, roots, path),
                AnnotationFormat::Nlvr => statement(entry, roots, path),
                AnnotationFormat::Entailment => sentence(entry, roots, path),
                AnnotationFormat::Grounding => expression(entry, roots, path),
            };
            sample.map_err(|detail| fail(format!(", entry {i}"), detail))
        })
        .collect()
}

/// Entries whose number (`question_id`, `ref_id`) an earlier one has, each with the first that has it.
#[must_use]
pub fn repeated_ids(samples: &[Sample]) -> Vec<(usize, usize)> {
    let mut first = HashMap::new();
    let numbered = samples.iter().enumerate().filter_map(|(i, s)| Some((i, s.task.id?)));
    numbered
        .map(|(i, id)| (i, *first.entry(id).or_insert(i)))
        .filter(|(i, first)| i != first)
        .collect()
}

fn text(entry: &Value, key: &str) -> Result<String, String> {
    entry[key]
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| format!("there is no text under `{key}`, found {}", entry[key]))
}

/// A number of the data set, if the entry has one.
fn number(entry: &Value, key: &str) -> Result<Option<i64>, String> {
    match &entry[key] {
        Value::Null => Ok(None),
        given => given
            .as_i64()
            .map(Some)
            .ok_or_else(|| format!("`{key}` is {given}; it must be a whole number")),
    }
}

/// Below the root; without one as a picture of captions does.
fn location(root: &Path, image: &str, list: &Path) -> Location {
    Location::File(if root.as_os_str().is_empty() { found(image, list) } else { root.join(image) })
}

fn sample(location: Location, image: String, text: String, task: TaskFields) -> Sample {
    Sample { location, key: image.clone(), name: image, captions: vec![text], task }
}

/// Each different answer with its share of the annotators, in order of first appearance.
fn shares(answers: &[String]) -> Vec<(String, f32)> {
    let part = 1.0 / answers.len() as f32;
    let mut out: Vec<(String, f32)> = Vec::new();
    for answer in answers {
        match out.iter_mut().find(|(a, _)| a == answer) {
            Some((_, weight)) => *weight += part,
            None => out.push((answer.clone(), part)),
        }
    }
    out
}

fn question(entry: &Value, roots: &ImageRoots, list: &Path) -> Result<Sample, String> {
    let (set, root) = match &entry["dataset"] {
        Value::Null => ("vqa", &roots.vqa_root),
        Value::String(set) if set == "vqa" => ("vqa", &roots.vqa_root),
        Value::String(set) if set == "vg" => ("vg", &roots.vg_root),
        other => return Err(format!("`dataset` is {other}; it must be \"vqa\" or \"vg\"")),
    };
    let target = match &entry["answer"] {
        Value::Null => Target::None,
        Value::String(answer) => {
            Target::Answers(vec![(answer.clone(), if set == "vg" { VG_WEIGHT } else { 1.0 })])
        }
        Value::Array(list) if !list.is_empty() => {
            let answers: Option<Vec<String>> =
                list.iter().map(|a| a.as_str().map(str::to_owned)).collect();
            Target::Answers(shares(&answers.ok_or("an answer is no text")?))
        }
        other => return Err(format!("`answer` is {other}; it must be a text or a list of texts")),
    };
    let id = number(entry, "question_id")?;
    let task = TaskFields { target, id, ..TaskFields::default() };
    let image = text(entry, "image")?;
    Ok(sample(location(root, &image, list), image, text(entry, "question")?, task))
}

/// Two lists of four numbers, and nothing else.
fn crops(given: &Value) -> Option<[[usize; 4]; 2]> {
    let number = |n: &Value| n.as_u64().and_then(|n| usize::try_from(n).ok());
    let corners = |v: &Value| -> Option<[usize; 4]> {
        let list: Vec<usize> = v.as_array()?.iter().map(number).collect::<Option<_>>()?;
        list.try_into().ok()
    };
    match given.as_array()?.as_slice() {
        [first, second] => Some([corners(first)?, corners(second)?]),
        _ => None,
    }
}

fn statement(entry: &Value, roots: &ImageRoots, list: &Path) -> Result<Sample, String> {
    let images: Option<Vec<&str>> =
        entry["images"].as_array().and_then(|list| list.iter().map(Value::as_str).collect());
    let Some([first, second]) = images.as_deref() else {
        return Err(format!("`images` is {}; it must be a list of two texts", entry["images"]));
    };
    let label = match &entry["label"] {
        Value::String(s) if s == "True" => 1,
        Value::String(s) if s == "False" => 0,
        Value::Bool(b) => usize::from(*b),
        other => return Err(format!("`label` is {other}; it must be \"True\" or \"False\"")),
    };
    let crops = match &entry["crops"] {
        Value::Null => None,
        given => Some(crops(given).ok_or_else(|| {
            format!(
                "`crops` is {given}; it must hold two lists of four whole numbers from 0 on: \
                 left, top, right, bottom"
            )
        })?),
    };
    let task = TaskFields {
        second: Some(location(&roots.image_root, second, list)),
        crops,
        target: Target::Label(label),
        id: None,
    };
    let place = location(&roots.image_root, first, list);
    Ok(sample(place, (*first).to_owned(), text(entry, "sentence")?, task))
}

fn sentence(entry: &Value, roots: &ImageRoots, list: &Path) -> Result<Sample, String> {
    let label = match entry["label"].as_str() {
        Some("contradiction") => 0,
        Some("neutral") => 1,
        Some("entailment") => 2,
        _ => {
            return Err(format!(
                "`label` is {}; it must be entailment, neutral or contradiction",
                entry["label"]
            ));
        }
    };
    // The official lists give the number of a JPEG file, as a text.
    let mut image = match &entry["image"] {
        Value::Number(number) => number.to_string(),
        _ => text(entry, "image")?,
    };
    if Path::new(&image).extension().is_none() {
        image.push_str(".jpg");
    }
    let task = TaskFields { target: Target::Label(label), ..TaskFields::default() };
    let place = location(&roots.image_root, &image, list);
    Ok(sample(place, image, text(entry, "sentence")?, task))
}

fn expression(entry: &Value, roots: &ImageRoots, list: &Path) -> Result<Sample, String> {
    let task = TaskFields { id: number(entry, "ref_id")?, ..TaskFields::default() };
    let image = text(entry, "image")?;
    let place = location(&roots.image_root, &image, list);
    let mut sample = sample(place, image, text(entry, "text")?, task);
    sample.key = sample.name.rsplit('/').next().unwrap_or_default().to_owned();
    Ok(sample)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(form: AnnotationFormat, json: &str) -> Result<Vec<Sample>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list.json");
        std::fs::write(&path, json).unwrap();
        read_task(&path, form, &ImageRoots { image_root: "r".into(), ..ImageRoots::default() })
    }

    #[test]
    fn answers_weigh_as_often_as_they_were_given() {
        let list = r#"[{"dataset": "vqa", "image": "a.jpg", "question": "q?", "question_id": 7,
            "answer": ["red", "blue", "red", "red"]},
            {"dataset": "vg", "image": "b.jpg", "question": "q?", "answer": "a man"}]"#;
        let samples = read(AnnotationFormat::Vqa, list).unwrap();
        let wanted = Target::Answers(vec![("red".into(), 0.75), ("blue".into(), 0.25)]);
        assert_eq!(samples[0].task.target, wanted);
        assert_eq!(samples[0].task.id, Some(7));
        assert_eq!(samples[1].task.target, Target::Answers(vec![("a man".into(), 0.5)]));
    }

    #[test]
    fn labels_are_read_and_strange_ones_refused_by_entry() {
        let ve = r#"[{"image": "12", "sentence": "s", "label": "entailment"}]"#;
        let samples = read(AnnotationFormat::Entailment, ve).unwrap();
        assert_eq!(samples[0].task.target, Target::Label(2));
        assert_eq!(samples[0].name, "12.jpg");
        let number = r#"[{"image": 12, "sentence": "s", "label": "neutral"}]"#;
        assert_eq!(read(AnnotationFormat::Entailment, number).unwrap()[0].name, "12.jpg");
        let nlvr = r#"[{"images": ["a.png", "b.png"], "sentence": "s", "label": "True"},
            {"images": ["a.png"], "sentence": "s", "label": "True"}]"#;
        let error = read(AnnotationFormat::Nlvr, nlvr).unwrap_err().to_string();
        assert!(error.contains("entry 1") && error.contains("two texts"), "{error}");
        let error = read(
            AnnotationFormat::Entailment,
            r#"[{"image": "1", "sentence": "s", "label": "x"}]"#,
        );
        assert!(error.unwrap_err().to_string().contains("entailment"));
    }

    #[test]
    fn strange_images_and_crops_are_refused_by_entry() {
        let list = |images: &str, crops: &str| {
            let good = r#"{"images": ["a", "b"], "sentence": "s", "label": "True"}"#;
            let odd = format!(r#""sentence": "s", "label": "True", "crops": {crops}"#);
            read(AnnotationFormat::Nlvr, &format!(r#"[{good}, {{"images": {images}, {odd}}}]"#))
        };
        let good = &list(r#"["a", "b"]"#, "[[0, 1, 2, 3], [4, 5, 6, 7]]").unwrap()[1];
        assert_eq!(good.task.crops, Some([[0, 1, 2, 3], [4, 5, 6, 7]]));
        for images in [r#"["a", 3, "b"]"#, r#"["a", null]"#, r#""ab""#, r#"["a", "b", "c"]"#] {
            let said = list(images, "null").unwrap_err().to_string();
            assert!(said.contains("entry 1") && said.contains("two texts"), "{said}");
        }
        for crops in [
            "[[0, -1, 1, 2, 3], [4, 5, 6, 7]]",
            "[[0, 1, 2, 3], [4, 5.5, 5, 6, 7]]",
            "[[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]",
            "[[0, 1, 2, 3]]",
            r#"{"0": [0, 1, 2, 3], "1": [4, 5, 6, 7]}"#,
        ] {
            let said = list(r#"["a", "b"]"#, crops).unwrap_err().to_string();
            assert!(said.contains("entry 1") && said.contains("four whole numbers"), "{said}");
        }
    }

    #[test]
    fn truth_values_count_as_labels_and_numbers_must_be_whole() {
        let nlvr = r#"[{"images": ["a.png", "b.png"], "sentence": "s", "label": true}]"#;
        assert_eq!(read(AnnotationFormat::Nlvr, nlvr).unwrap()[0].task.target, Target::Label(1));
        for (form, list) in [
            (AnnotationFormat::Vqa, r#"[{"image": "a", "question": "q", "question_id": "7a"}]"#),
            (AnnotationFormat::Vqa, r#"[{"image": "a", "question": "q", "dataset": 3}]"#),
            (AnnotationFormat::Grounding, r#"[{"image": "a", "text": "t", "ref_id": 1.5}]"#),
        ] {
            assert!(read(form, list).unwrap_err().to_string().contains("entry 0"), "{list}");
        }
        let grounding = r#"[{"image": "train2014/x.jpg", "text": "man in red", "ref_id": 42}]"#;
        let sample = &read(AnnotationFormat::Grounding, grounding).unwrap()[0];
        assert_eq!((sample.key.as_str(), sample.task.id), ("x.jpg", Some(42)));
    }
}
