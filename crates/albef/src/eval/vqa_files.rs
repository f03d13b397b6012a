//! The files of VQAv2 as the challenge gives and takes them: annotations, questions, results (spec
//! `evaluation` 3).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use albef_data::input::{id_text, read_json};
use albef_report::bootstrap_interval;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::vqa_score::{ScoreRule, Totals, accuracy_share, totals};
use crate::error::{Error, Result};

/// What annotators said to a question.
#[derive(Clone, Debug, Deserialize)]
pub struct Annotated {
    /// The question; a number may be given as a text.
    #[serde(deserialize_with = "id")]
    pub question_id: String,
    /// Its type, by its first words.
    pub question_type: Option<String>,
    /// `yes/no`, `number` or `other`.
    pub answer_type: Option<String>,
    /// Ten answers.
    pub answers: Vec<AnnotatorAnswer>,
}

/// The text of an identity: 7, "7" and 7.0 are one.
fn id<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let value = Value::deserialize(from)?;
    id_text(&value)
        .ok_or_else(|| serde::de::Error::custom("null, where a text or number is needed"))
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
    /// The question; a number may be given as a text.
    #[serde(deserialize_with = "id")]
    pub question_id: String,
    /// The answer; a number may be given as one.
    #[serde(deserialize_with = "id")]
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
    #[serde(deserialize_with = "id")]
    question_id: String,
}

/// Scores of a file of results.
#[derive(Clone, Debug)]
pub struct Scored {
    /// Each question that was scored and its accuracy in percent, in the order of the annotations.
    pub questions: Vec<(String, f64)>,
    /// Means over all and by type.
    pub totals: Totals,
    /// Results that repeat a question; the last one counts.
    pub repeated: usize,
    /// Annotated questions without a result, which are not scored.
    pub unanswered: usize,
    /// Questions without a type.
    pub untyped: usize,
}

impl Scored {
    /// The accuracy over all questions with its 95 % bootstrap interval, in per cent.
    #[must_use]
    pub fn interval(&self, resamples: usize) -> (f64, f64) {
        let scores: Vec<f64> = self.questions.iter().map(|(_, score)| *score).collect();
        bootstrap_interval(&scores, resamples, 42)
    }

    /// The figures, with the interval of [`Scored::interval`].
    #[must_use]
    pub fn to_json(&self, interval: (f64, f64)) -> Value {
        json!({
            "accuracy": self.totals.overall,
            "interval": interval,
            "questions": self.questions.len(),
            "unanswered": self.unanswered,
            "per_answer_type": self.totals.per_answer_type,
            "per_question_type": self.totals.per_question_type,
        })
    }

    /// The figures for people, line by line.
    #[must_use]
    pub fn lines(&self, (low, high): (f64, f64)) -> Vec<String> {
        let (totals, n) = (&self.totals, self.questions.len());
        let all = format!("accuracy {:.2} [{low:.2}, {high:.2}] on {n} questions", totals.overall);
        let by_type = totals.per_answer_type.iter().chain(&totals.per_question_type);
        let by_type = by_type.map(|(name, accuracy)| format!("  {name}: {accuracy:.2}"));
        std::iter::once(all).chain(by_type).collect()
    }

    /// What was not scored, or not as it was given.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let Self { repeated, unanswered, untyped, .. } = self;
        let all = unanswered + self.questions.len();
        let of = |n: usize, line: String| (n > 0).then_some(line);
        [
            of(*repeated, format!("{repeated} answers repeat a question; the last one counts")),
            of(
                *unanswered,
                format!("{unanswered} of {all} questions are not answered and not scored"),
            ),
            of(*untyped, format!("{untyped} questions have no `question_type` or `answer_type`")),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

fn read<T: DeserializeOwned>(path: &Path, wanted: &str) -> Result<T> {
    Ok(read_json(path, wanted)?)
}

/// Scores `results` against `annotations`. As in the official tool both must be of the same questions,
/// and those of `questions` if that file is given; with `partial` there may be fewer results, and only
/// those are scored.
///
/// # Errors
/// If a file is missing or of another form, a question has no answers, or the questions differ; the
/// message counts them and names the first.
pub fn score_results(
    results: &Path,
    annotations: &Path,
    questions: Option<&Path>,
    rule: ScoreRule,
    partial: bool,
) -> Result<Scored> {
    let given: Vec<Given> = read(results, "a list of `question_id` and `answer`")?;
    let truth: AnnotationFile = read(annotations, "`annotations` of VQAv2")?;
    let truth = truth.annotations;
    if truth.is_empty() {
        let detail = "there is no question in it, so there is nothing to measure".into();
        return Err(Error::Format { path: annotations.to_owned(), detail });
    }
    if given.is_empty() {
        let detail = "there is no answer in it, so there is nothing to score".into();
        return Err(Error::Format { path: results.to_owned(), detail });
    }
    let asked: BTreeSet<&str> = truth.iter().map(|a| a.question_id.as_str()).collect();
    let count = given.len();
    let given: BTreeMap<&str, &str> =
        given.iter().map(|g| (g.question_id.as_str(), g.answer.as_str())).collect();
    let answered: BTreeSet<&str> = given.keys().copied().collect();
    same(results, &answered, annotations, &asked, partial)?;
    if let Some(path) = questions {
        let file: QuestionFile = read(path, "`questions` of VQAv2")?;
        let ids = file.questions.iter().map(|q| q.question_id.as_str()).collect();
        same(path, &ids, annotations, &asked, false)?;
    }
    let mut questions = Vec::with_capacity(truth.len());
    let mut typed = Vec::with_capacity(truth.len());
    let (mut unanswered, mut untyped) = (0, 0);
    // Of entries with one number the last one counts, as in the official evaluation.
    let last: BTreeMap<&str, usize> =
        truth.iter().enumerate().map(|(i, a)| (a.question_id.as_str(), i)).collect();
    let entries = truth.iter().enumerate();
    for a in entries.filter(|(i, a)| last[a.question_id.as_str()] == *i).map(|(_, a)| a) {
        if a.answers.is_empty() {
            let detail = format!("question {} has no answers", a.question_id);
            return Err(Error::Format { path: annotations.to_owned(), detail });
        }
        let Some(answer) = given.get(a.question_id.as_str()) else {
            unanswered += 1;
            continue;
        };
        let annotators: Vec<String> = a.answers.iter().map(|one| one.answer.clone()).collect();
        let score = accuracy_share(answer, &annotators, rule);
        let [question, answer] = [&a.question_type, &a.answer_type].map(Option::as_deref);
        untyped += usize::from(question.is_none() || answer.is_none());
        typed.push((score, question.unwrap_or(NO_TYPE), answer.unwrap_or(NO_TYPE)));
        questions.push((a.question_id.clone(), 100.0 * score));
    }
    let totals = totals(typed.into_iter());
    let repeated_entries = truth.len() - last.len();
    if repeated_entries > 0 {
        tracing::warn!(
            "{}: {repeated_entries} entries have the `question_id` of a later one and are left out",
            annotations.display()
        );
    }
    Ok(Scored { questions, totals, repeated: count - given.len(), unanswered, untyped })
}

/// The type of a question that has none.
const NO_TYPE: &str = "without a type";

/// `partial`: questions may be missing.
fn same(
    path: &Path,
    ids: &BTreeSet<&str>,
    other: &Path,
    wanted: &BTreeSet<&str>,
    partial: bool,
) -> Result<()> {
    let first =
        |set: Vec<&&str>| (set.len(), set.first().map_or(String::new(), |i| (**i).to_owned()));
    let (lacking, one) = first(wanted.difference(ids).collect());
    let (strange, other_one) = first(ids.difference(wanted).collect());
    let lacking = if partial { 0 } else { lacking };
    if lacking + strange == 0 {
        return Ok(());
    }
    let mut parts = Vec::new();
    if lacking > 0 {
        parts.push(format!(
            "{lacking} questions of it are missing (such as {one}; `--partial` scores the others)"
        ));
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

    use serde_json::json;

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
        score_results(&r, &a, q.as_deref(), ScoreRule::Official, false)
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

    #[test]
    fn ids_may_be_texts_and_types_absent_and_a_part_is_scored_on_demand() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str, value: &Value| {
            let path = dir.path().join(name);
            fs::write(&path, format!("\u{feff}{value}")).unwrap();
            path
        };
        let of = |results: &Value, truth: &Value, partial| {
            let (r, a) = (at("r.json", results), at("a.json", truth));
            score_results(&r, &a, None, ScoreRule::Official, partial)
        };
        let whole = json!([{"question_id": "1", "answer": "dark red"}, {"question_id": 2.0, "answer": "yes"}]);
        let out = of(&whole, &annotations(), false).unwrap();
        assert_eq!((out.questions.len(), out.untyped, out.unanswered), (2, 0, 0));
        let mut untyped = annotations();
        for a in untyped["annotations"].as_array_mut().unwrap() {
            a.as_object_mut().unwrap().remove("question_type");
        }
        let out = of(&whole, &untyped, false).unwrap();
        assert_eq!((out.untyped, out.totals.per_question_type.len()), (2, 1));
        let part = json!([{"question_id": 2, "answer": "yes"}]);
        let said = of(&part, &annotations(), false).unwrap_err().to_string();
        assert!(said.contains("--partial"), "{said}");
        let out = of(&part, &annotations(), true).unwrap();
        assert!(out.unanswered == 1 && out.totals.overall > 99.99);
        assert!(of(&json!([]), &annotations(), true).is_err());
        let strange = json!([{"question_id": 9, "answer": "x"}]);
        assert!(of(&strange, &annotations(), true).unwrap_err().to_string().contains("such as 9"));
    }
}
