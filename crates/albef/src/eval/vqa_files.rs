//! The files of VQAv2 as the challenge gives and takes them: annotations, questions, results (spec
//! `evaluation` 3).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::vqa_score::{ScoreRule, Totals, accuracy, totals};
use crate::error::{Error, Result};
use crate::input::read_json;

/// What annotators said to a question.
#[derive(Clone, Debug, Deserialize)]
pub struct Annotated {
    /// Number of the question.
    pub question_id: i64,
    /// Its type, by its first words.
    pub question_type: String,
    /// `yes/no`, `number` or `other`.
    pub answer_type: String,
    /// Ten answers.
    pub answers: Vec<AnnotatorAnswer>,
}

/// The answer of one annotator.
#[derive(Clone, Debug, Deserialize)]
pub struct AnnotatorAnswer {
    /// In words.
    pub answer: String,
}

/// An answer to be scored, in the form that the evaluation server takes.
#[derive(Clone, Debug, Deserialize)]
pub struct Given {
    /// Number of the question.
    pub question_id: i64,
    /// The answer.
    pub answer: String,
}

#[derive(Deserialize)]
struct AnnotationFile {
    annotations: Vec<Annotated>,
}

#[derive(Deserialize)]
struct QuestionFile {
    questions: Vec<Question>,
}

#[derive(Deserialize)]
struct Question {
    question_id: i64,
}

/// Scores of a file of results.
#[derive(Clone, Debug)]
pub struct Scored {
    /// Number of each question and its accuracy in per cent, in the order of the annotations.
    pub questions: Vec<(i64, f64)>,
    /// Means over all and by type.
    pub totals: Totals,
    /// Results that repeat a question; the last one counts.
    pub repeated: usize,
}

fn read<T: DeserializeOwned>(path: &Path, wanted: &str) -> Result<T> {
    read_json(path, &format!("{wanted} is needed"))
}

/// Scores `results` against `annotations`. As in the official tool both must be of the same questions,
/// and those of `questions` if that file is given.
///
/// # Errors
/// If a file is missing or of another form, a question has no answers, or the questions differ; the
/// message counts them and names the first.
pub fn score_results(
    results: &Path,
    annotations: &Path,
    questions: Option<&Path>,
    rule: ScoreRule,
) -> Result<Scored> {
    let given: Vec<Given> = read(results, "a list of `question_id` and `answer`")?;
    let truth: AnnotationFile = read(annotations, "`annotations` of VQAv2")?;
    let truth = truth.annotations;
    if truth.is_empty() {
        let detail = "there is no question in it, so there is nothing to measure".into();
        return Err(Error::Format { path: annotations.to_owned(), detail });
    }
    let asked: BTreeSet<i64> = truth.iter().map(|a| a.question_id).collect();
    let count = given.len();
    let given: BTreeMap<i64, String> =
        given.into_iter().map(|g| (g.question_id, g.answer)).collect();
    let answered: BTreeSet<i64> = given.keys().copied().collect();
    same(results, &answered, annotations, &asked)?;
    if let Some(path) = questions {
        let file: QuestionFile = read(path, "`questions` of VQAv2")?;
        let ids = file.questions.iter().map(|q| q.question_id).collect();
        same(path, &ids, annotations, &asked)?;
    }
    let mut scores = Vec::with_capacity(truth.len());
    for a in &truth {
        if a.answers.is_empty() {
            let detail = format!("question {} has no answers", a.question_id);
            return Err(Error::Format { path: annotations.to_owned(), detail });
        }
        let annotators: Vec<String> = a.answers.iter().map(|one| one.answer.clone()).collect();
        let answer = given.get(&a.question_id).map_or("", String::as_str);
        scores.push(accuracy(answer, &annotators, rule));
    }
    let typed = truth.iter().zip(&scores);
    let totals = totals(typed.map(|(a, s)| (*s, a.question_type.as_str(), a.answer_type.as_str())));
    let questions = truth.iter().map(|a| a.question_id).zip(scores).collect();
    Ok(Scored { questions, totals, repeated: count - given.len() })
}

fn same(path: &Path, ids: &BTreeSet<i64>, other: &Path, wanted: &BTreeSet<i64>) -> Result<()> {
    let first = |set: Vec<&i64>| (set.len(), set.first().map_or(String::new(), |i| i.to_string()));
    let (lacking, one) = first(wanted.difference(ids).collect());
    let (strange, other_one) = first(ids.difference(wanted).collect());
    if lacking + strange == 0 {
        return Ok(());
    }
    let mut parts = Vec::new();
    if lacking > 0 {
        parts.push(format!("{lacking} questions of it are missing (such as {one})"));
    }
    if strange > 0 {
        parts.push(format!("{strange} questions are not in it (such as {other_one})"));
    }
    Err(Error::Format {
        path: path.to_owned(),
        detail: format!(
            "the questions differ from those of {}: {}",
            other.display(),
            parts.join(", ")
        ),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use serde_json::{Value, json};

    use super::*;

    fn annotations() -> Value {
        let ten = |first: &str, n: usize, second: &str| -> Vec<Value> {
            (0..10)
                .map(|i| json!({"answer_id": i + 1, "answer": if i < n { first } else { second }}))
                .collect()
        };
        json!({"info": {}, "data_type": "mscoco", "annotations": [
            {"question_id": 1, "image_id": 5, "question_type": "what color", "answer_type": "other",
             "multiple_choice_answer": "red", "answers": ten("red", 3, "dark red")},
            {"question_id": 2, "image_id": 5, "question_type": "is the", "answer_type": "yes/no",
             "multiple_choice_answer": "yes", "answers": ten("yes", 10, "")}]})
    }

    fn score(results: &Value, questions: Option<Value>) -> Result<Scored> {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, value: &Value| -> PathBuf {
            let path = dir.path().join(name);
            fs::write(&path, value.to_string()).unwrap();
            path
        };
        let (r, a) = (write("r.json", results), write("a.json", &annotations()));
        let q = questions.map(|q| write("q.json", &q));
        score_results(&r, &a, q.as_deref(), ScoreRule::Official)
    }

    #[test]
    fn answers_are_scored_by_question_and_by_type() {
        let results = json!([{"question_id": 2, "answer": "no"}, {"question_id": 1, "answer": "Red."},
                             {"question_id": 2, "answer": "Yes"}]);
        let questions = json!({"questions": [{"question_id": 1, "question": "q", "image_id": 5},
                                             {"question_id": 2, "question": "q", "image_id": 5}]});
        let out = score(&results, Some(questions)).unwrap();
        assert_eq!(out.repeated, 1);
        assert!((out.questions[0].1 - 90.0).abs() < 1e-9 && out.questions[1].1 > 99.99);
        assert_eq!(out.totals.overall, 95.0);
        assert_eq!(out.totals.per_answer_type["other"], 90.0);
        assert_eq!(out.totals.per_question_type["is the"], 100.0);
    }

    #[test]
    fn other_questions_than_the_annotated_ones_are_refused() {
        let error = score(
            &json!([{"question_id": 1, "answer": "x"}, {"question_id": 9, "answer": "x"}]),
            None,
        );
        let error = error.unwrap_err().to_string();
        assert!(error.contains("such as 2") && error.contains("such as 9"), "{error}");
        assert!(score(&json!({"answers": []}), None).is_err());
    }
}
