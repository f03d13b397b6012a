//! What evaluations found item by item, as files for `albef compare`.

use std::path::{Path, PathBuf};

use albef::eval::metrics::MISSED;
use albef::eval::retrieval::Evaluation;
use albef::eval::vqa_score::ScoreRule;
use albef::task::TaskRef;
use albef_data::dataset::{Location, Sample, Target};
use albef_report::{Kind, OutcomeSet, Outcomes};
use albef_weights::write_atomic;
use anyhow::{Context, Result};

use crate::arguments;
use crate::device::Where;
use crate::tasks::Measured;

/// Where an evaluation computes, and what becomes of what it finds.
#[derive(clap::Args)]
pub struct Reporting {
    /// Resamples of the bootstrap intervals.
    #[arg(long, default_value_t = 1000, value_parser = arguments::at_least_one)]
    pub resamples: usize,
    #[command(flatten)]
    pub device: Where,
    /// Write what was found item by item here, for `albef compare`.
    #[arg(long, value_name = "FILE", value_parser = arguments::place)]
    pub save: Option<PathBuf>,
    /// One JSON object on standard output.
    #[arg(long)]
    pub json: bool,
}

/// The file of outcomes in a run's folder.
pub const IN_A_RUN: &str = "outcomes.json";

/// Writes outcomes whole or not at all.
pub fn save(path: &Path, outcomes: &Outcomes) -> Result<()> {
    let text = serde_json::to_string(outcomes)?;
    write_atomic(path, |f| std::io::Write::write_all(f, text.as_bytes()))
        .with_context(|| format!("cannot write the outcomes to {}", path.display()))
}

/// Saves if a file was named, and says so.
pub fn save_if(path: Option<&Path>, outcomes: impl FnOnce() -> Outcomes) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    save(path, &outcomes())?;
    eprintln!("outcomes item by item: {}", path.display());
    Ok(())
}

/// Names pictures and text of a sample, whatever folder the pictures lie in.
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

/// What came of a task's list.
pub fn measured(task: TaskRef, rule: ScoreRule, samples: &[Sample], out: &Measured) -> Outcomes {
    let (name, kind) = match (task.name(), rule) {
        ("vqa", ScoreRule::Official) => ("vqa", Kind::Score),
        ("vqa", ScoreRule::Challenge) => ("vqa by the challenge's rules", Kind::Score),
        ("nlvr", _) => ("nlvr", Kind::Hit),
        _ => ("ve", Kind::Hit),
    };
    // Questions without known answers have no score.
    let scored = |s: &&Sample| task.name() != "vqa" || matches!(s.task.target, Target::Answers(_));
    scores(name, kind, samples.iter().filter(scored), &out.scores)
}

/// One score, 0 to 100, for each sample.
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

/// Ranks of every picture and of every text, in both stages, the second under the name of its score; only the
/// first without re-ranking.
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
    let mut pictures = OutcomeSet::new("txt", &columns);
    pictures.extend(
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
    Outcomes::new(task, vec![pictures, texts])
}
