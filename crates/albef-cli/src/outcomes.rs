//! Results item by item, as files for `albef compare`.

use std::path::{Path, PathBuf};

use albef::eval::outcomes;
use albef_report::Outcomes;
use anyhow::{Context, Result};

use crate::arguments;
use crate::device::DeviceArg;

pub use albef::eval::outcomes::FILE as IN_A_RUN;

/// Where an evaluation computes, and what becomes of its results.
#[derive(clap::Args)]
pub struct Reporting {
    /// Resamples of the bootstrap intervals.
    #[arg(long, default_value_t = 1000, value_parser = arguments::at_least_one)]
    pub resamples: usize,
    #[command(flatten)]
    pub device: DeviceArg,
    /// Write the results item by item here, for `albef compare`.
    #[arg(long, alias = "save", value_name = "FILE", value_parser = arguments::place)]
    pub save_outcomes: Option<PathBuf>,
    /// One JSON object on standard output.
    #[arg(long)]
    pub json: bool,
}

/// Writes outcomes whole or not at all.
pub fn save(path: &Path, found: &Outcomes) -> Result<()> {
    outcomes::save(path, found)
        .with_context(|| format!("cannot write the outcomes to {}", path.display()))
}

/// Saves if a file was named, and prints its path.
pub fn save_if(path: Option<&Path>, found: impl FnOnce() -> Outcomes) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    save(path, &found())?;
    eprintln!("outcomes item by item: {}", path.display());
    Ok(())
}

pub use albef::eval::outcomes::retrieval;

/// Results of a task's list.
pub fn measured(
    task: albef::task::TaskRef,
    rule: albef::eval::vqa_score::ScoreRule,
    samples: &[albef::Sample],
    out: &crate::tasks::Measured,
) -> Outcomes {
    outcomes::task(task, rule, samples, &out.scores)
}
