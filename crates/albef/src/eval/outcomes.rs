//! Results of evaluations item by item, for paired comparisons (`albef_report::compare`).

use std::path::Path;

use albef_data::dataset::{Location, Sample};
use albef_report::{Kind, OutcomeSet, Outcomes};
use albef_weights::write_atomic;

use super::metrics::MISSED;
use super::retrieval::Evaluation;
use crate::error::{Error, Result};

/// The file of outcomes in a run's folder.
pub const FILE: &str = "outcomes.json";

/// Writes outcomes whole or not at all.
///
/// # Errors
/// If the file cannot be written.
pub fn save(path: &Path, outcomes: &Outcomes) -> Result<()> {
    let wrong = |e: serde_json::Error| Error::Format { path: path.into(), detail: e.to_string() };
    let text = serde_json::to_string(outcomes).map_err(wrong)?;
    Ok(write_atomic(path, |f| std::io::Write::write_all(f, text.as_bytes()))?)
}

/// Identifies images and text of a sample, independent of the image folder.
fn key(sample: &Sample) -> String {
    let text = sample.captions.first().map_or("", String::as_str);
    match &sample.task.second {
        Some(Location::File(path)) => {
            let second = path.file_name().unwrap_or_default().to_string_lossy();
            format!("{}, {second}: {text}", sample.name)
        }
        _ => format!("{}: {text}", sample.name),
    }
}

/// One score, 0 to 100, for each sample.
#[must_use]
pub fn scores<'a>(
    task: &str,
    kind: Kind,
    samples: impl Iterator<Item = &'a Sample>,
    scores: &[f64],
) -> Outcomes {
    let mut set = OutcomeSet::new(task, &[("accuracy", kind)]);
    set.extend(samples.zip(scores).map(|(s, v)| (key(s), s.name.clone(), vec![Some(*v)])));
    Outcomes::new(task, vec![set])
}

/// Ranks of every image and of every text: those of the cosine (`itc`) and, with re-ranking, those by
/// `score`.
#[must_use]
pub fn retrieval(
    samples: &[Sample],
    out: &Evaluation,
    score: Option<&str>,
    by_id: bool,
) -> Outcomes {
    let mut columns = vec![("itc", Kind::Rank)];
    let mut stages = vec![&out.itc_ranks];
    if let Some(score) = score {
        columns.push((score, Kind::Rank));
        stages.push(&out.itm_ranks);
    }
    let ranks = |side: usize, i: usize| {
        stages.iter().map(|s| Some(s[side][i]).filter(|r| *r != MISSED).map(|r| r as f64)).collect()
    };
    let mut images = OutcomeSet::new("txt", &columns);
    images.extend(
        samples.iter().enumerate().map(|(i, s)| (s.name.clone(), s.name.clone(), ranks(0, i))),
    );
    let captions = samples.iter().flat_map(|s| s.captions.iter().map(move |c| (s, c)));
    let mut texts = OutcomeSet::new("img", &columns);
    texts.extend(
        captions
            .enumerate()
            .map(|(t, (s, c))| (format!("{}: {c}", s.name), s.name.clone(), ranks(1, t))),
    );
    let task = if by_id { "retrieval by image_id" } else { "retrieval" };
    Outcomes::new(task, vec![images, texts])
}
