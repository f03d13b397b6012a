//! Measuring a model on the lists of a task.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use albef_data::dataset::{Contents, Sample, Skipped, other_root, unread_formats};
use albef_data::error::ImageErrorKind as Kind;
use albef_report::Outcomes;
use albef_weights::write_atomic;
use serde_json::{Map, Value, json};

use crate::Control;
use crate::checkpoint::LoadedModel;
use crate::error::{Error, Result};

/// Resamples of bootstrap intervals, if nothing else is asked for.
pub const RESAMPLES: usize = 1000;

/// Lists that were opened, ready to measure any model of the task on them.
pub trait Evaluator: Send {
    /// Measures a model.
    ///
    /// # Errors
    /// If the model does not fit, not one item can be used, or `control` is cancelled.
    fn evaluate(&self, model: &LoadedModel, control: &Control) -> Result<Evaluation>;

    /// Whether the items have no known answers, so that only the evaluation server can score them.
    fn is_for_server(&self) -> bool {
        false
    }
}

/// What an evaluation found.
#[derive(Clone, Debug, Default)]
pub struct Evaluation {
    /// The figures by name.
    pub report: Value,
    /// The figure by which the best epoch is chosen, larger being better.
    pub score: Option<f64>,
    /// The figures for people, line by line.
    pub lines: Vec<String>,
    /// Item by item, for comparisons; `None` where nothing was scored.
    pub outcomes: Option<Outcomes>,
    /// Answers in the format of the evaluation server.
    pub answers: Vec<Value>,
    /// Recalls under the names of CLIP_benchmark, between 0 and 1.
    pub clip_metrics: Map<String, Value>,
    /// What was not used as it was given: skipped images, truncated texts.
    pub warnings: Vec<String>,
    /// What helps to read the figures.
    pub notes: Vec<String>,
}

impl Evaluation {
    /// Reports notes and warnings as events.
    pub fn tell(&self) {
        self.notes.iter().for_each(|line| tracing::info!("{line}"));
        self.warnings.iter().for_each(|line| tracing::warn!("{line}"));
    }

    /// Writes the result as CLIP_benchmark writes those of its task `zeroshot_retrieval`.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write_clip_benchmark(&self, path: &Path, dataset: &str, model: &str) -> Result<()> {
        let found = json!({
            "dataset": dataset,
            "model": model,
            "pretrained": "",
            "task": "zeroshot_retrieval",
            "metrics": self.clip_metrics,
            "language": "en",
        });
        Ok(write_atomic(path, |f| f.write_all(found.to_string().as_bytes()))?)
    }

    /// Writes the answers for the evaluation server, a JSON list.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write_answers(&self, path: &Path) -> Result<()> {
        let text = Value::from(self.answers.clone()).to_string();
        Ok(write_atomic(path, |f| f.write_all(text.as_bytes()))?)
    }
}

/// Items that a message lists; all are counted.
const SHOWN: usize = 10;

/// The first of several lines about single items, and how many more there are.
pub(crate) fn first_of(
    what: &str,
    mut items: impl ExactSizeIterator<Item = String>,
) -> Vec<String> {
    let all = items.len();
    let mut out: Vec<String> =
        items.by_ref().take(SHOWN).map(|line| format!("{what}: {line}")).collect();
    if all > SHOWN {
        out.push(format!("and {} more", all - SHOWN));
    }
    out
}

/// Counts the files of formats that are not read and the members of archives that form no sample, and names
/// the first of these.
pub(crate) fn left_out(skipped: &[Skipped]) -> Vec<String> {
    let mut out = Vec::from_iter(unread_formats(skipped));
    let members: Vec<&Skipped> =
        skipped.iter().filter(|s| !matches!(s.error.kind, Kind::Unsupported(_))).collect();
    if members.is_empty() {
        return out;
    }
    let lines = members.iter().map(|s| format!("{}: {}", s.name, s.error));
    if members.iter().all(|s| s.error.kind != Kind::Entry && s.error.kind != Kind::Caption) {
        out.push(format!("{} members form no sample and are skipped", members.len()));
        out.extend(first_of("skipped member", lines));
        return out;
    }
    let faults = members.iter().filter(|s| s.error.kind == Kind::Caption).count();
    if members.len() > faults {
        let n = members.len() - faults;
        out.push(format!("{n} entries or members form no sample and are skipped"));
    }
    if faults > 0 {
        out.push(format!("{faults} captions cannot be used, or not as they are written"));
    }
    out.extend(first_of("not used as given", lines));
    out
}

/// What of a list was not used as given, and which of its entries repeat an earlier one.
pub(crate) fn list_warnings(contents: &Contents) -> Vec<String> {
    let mut out = left_out(&contents.left_out);
    out.extend(left_out(&contents.faults));
    let mut first = HashMap::new();
    let mut repeated = Vec::new();
    for (i, s) in contents.samples.iter().enumerate() {
        let of = (&s.location, &s.task.second, s.task.crops, &s.captions);
        if first.insert(of, i).is_some() {
            repeated.push(i);
        }
    }
    if let Some(at) = repeated.first() {
        let name = &contents.samples[*at].name;
        out.push(format!(
            "{} entries repeat the image and text of an earlier one, such as sample {at} ({name}); each is \
             counted",
            repeated.len()
        ));
    }
    out
}

/// Warnings about images that cannot be used.
pub(crate) fn unusable(skipped: &[Skipped]) -> Vec<String> {
    first_of(
        "not usable, counted as wrong",
        skipped.iter().map(|s| format!("{}: {}", s.name, s.error)),
    )
}

/// An error if not one sample could be used: a wrong folder, most likely.
pub(crate) fn refuse_if_none(usable: usize, samples: &[Sample], skipped: &[Skipped]) -> Result<()> {
    let hint = || other_root(samples).map_or(String::new(), |hint| format!("; hint: {hint}"));
    match skipped.first() {
        Some(first) if usable == 0 => Err(Error::Argument(format!(
            "none of the images of {} samples can be used ({}: {}); is the image root the right folder?{}",
            samples.len(),
            first.name,
            first.error,
            hint()
        ))),
        _ => Ok(()),
    }
}

/// An error if none of the images of a list exists: a wrong root would show only after the first epoch,
/// as a score of 0.
pub(crate) fn some_present(samples: &[Sample], key: &str, root: &str) -> Result<()> {
    match none_present(samples, &format!("`{root}`")) {
        Some(problem) => Err(Error::Config(format!("`{key}`: {problem}"))),
        None => Ok(()),
    }
}

/// An error if a list has no samples, or none of its images exists, before a model is opened.
pub(super) fn measurable(samples: &[Sample], list: &Path) -> Result<()> {
    let list = list.display();
    if samples.is_empty() {
        return Err(Error::Argument(format!("{list} has nothing to measure")));
    }
    match none_present(samples, "the image root") {
        Some(problem) => Err(Error::Argument(format!("{list}: {problem}"))),
        None => Ok(()),
    }
}

/// That none of the images exists.
fn none_present(samples: &[Sample], root: &str) -> Option<String> {
    let first = samples.first()?;
    let error = first.present().err()?;
    if samples.iter().any(|s| s.present().is_ok()) {
        return None;
    }
    let hint = other_root(samples).map_or(String::new(), |hint| format!("; hint: {hint}"));
    Some(format!(
        "none of the {} images can be found, the first is {} ({error}); is {root} the right folder?{hint}",
        samples.len(),
        first.name,
    ))
}
