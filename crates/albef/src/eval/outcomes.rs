//! Results of evaluations item by item, for paired comparisons (`albef_report::compare`).

use std::path::Path;

use std::collections::BTreeSet;

use albef_data::dataset::{Location, Sample};
use albef_data::names;
use albef_report::{Kind, Named, OutcomeSet, Outcomes};
use albef_weights::write_atomic;

use super::metrics::MISSED;
use super::retrieval::Evaluation;
use crate::error::{Error, Result};
use crate::images::ImageSet;

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

/// Outcomes of a file, or of the folder of a run, with the name of the file.
///
/// # Errors
/// If there are none, or the file is damaged.
pub fn read(path: &Path) -> Result<Named> {
    let file = if path.is_dir() { path.join(FILE) } else { path.to_owned() };
    if path.is_dir() && !file.is_file() {
        return Err(Error::Argument(format!(
            "{} holds no `{FILE}`; hint: a run writes it when it has a `val_file`, and \
             `albef evaluate … --save-outcomes FILE` writes one for any list",
            path.display()
        )));
    }
    let name = file.display().to_string();
    let outcomes = Outcomes::read(&file).map_err(|e| Error::Argument(e.to_string()))?;
    Ok(Named { name, outcomes })
}

/// Identifies images and text of a sample, independent of the image folder.
fn key(sample: &Sample) -> String {
    let text = sample.captions.first().map_or("", String::as_str);
    match &sample.task.second {
        Some(Location::File(path)) => {
            let second = names::text_of_os(path.file_name().unwrap_or_default());
            names::readable(&format!("{}, {second}: {text}", sample.name))
        }
        _ => names::readable(&format!("{}: {text}", sample.name)),
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
    set.extend(
        samples.zip(scores).map(|(s, v)| (key(s), names::readable(&s.name), vec![Some(*v)])),
    );
    Outcomes::new(task, vec![set])
}

/// Ranks of every image and of every text: those of the cosine (`itc`) and, with re-ranking, those by
/// `score`.
#[must_use]
pub fn retrieval(set: &ImageSet, out: &Evaluation, score: Option<&str>, by_id: bool) -> Outcomes {
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
    // Shards number their members alike.
    let archives: BTreeSet<_> = (0..set.len()).filter_map(|i| set.archive(i)).collect();
    let name = |i: usize| match archives.len() {
        0 | 1 => names::readable(&set.samples()[i].name),
        _ => names::readable(&set.full_name(i)),
    };
    images.extend((0..set.len()).map(|i| (name(i), name(i), ranks(0, i))));
    let captions =
        set.samples().iter().enumerate().flat_map(|(i, s)| s.captions.iter().map(move |c| (i, c)));
    let mut texts = OutcomeSet::new("img", &columns);
    texts.extend(
        captions.enumerate().map(|(t, (i, c))| (format!("{}: {c}", name(i)), name(i), ranks(1, t))),
    );
    let task = if by_id { "retrieval by image_id" } else { "retrieval" };
    Outcomes::new(task, vec![images, texts])
}
