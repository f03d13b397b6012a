//! `albef evaluate vqa-results`: soft accuracy of answers that lie in a file.

use std::path::PathBuf;

use albef::eval::vqa_files::score_results;
use albef::eval::vqa_score::ScoreRule;
use anyhow::Result;

use crate::ExitStatus;
use crate::arguments::at_least_one;
use crate::output::say;

/// What the subcommand does.
pub const ABOUT: &str =
    "Accuracy of a file of answers by the official annotations of VQAv2, without a model";

#[derive(clap::Args)]
pub struct Arguments {
    /// Answers in the form of the evaluation server: a JSON list of `question_id` and `answer`.
    #[arg(long)]
    results: PathBuf,
    /// Official annotations (`v2_mscoco_*_annotations.json`).
    #[arg(long)]
    annotations: PathBuf,
    /// Official questions, to check that they are the same ones.
    #[arg(long)]
    questions: Option<PathBuf>,
    /// Score the questions that are answered, where others are not.
    #[arg(long)]
    partial: bool,
    /// By the current rules of the challenge instead of those of the method's tool.
    #[arg(long)]
    challenge_rules: bool,
    /// Resamples of the bootstrap interval.
    #[arg(long, default_value_t = 1000, value_parser = at_least_one)]
    resamples: usize,
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
}

pub fn run(a: &Arguments) -> Result<ExitStatus> {
    let rule = if a.challenge_rules { ScoreRule::Challenge } else { ScoreRule::Official };
    let out = score_results(&a.results, &a.annotations, a.questions.as_deref(), rule, a.partial)?;
    out.notes().iter().for_each(|note| eprintln!("{note}"));
    let interval = out.interval(a.resamples);
    match a.json {
        true => say!("{}", out.to_json(interval))?,
        false => out.lines(interval).iter().try_for_each(|line| say!("{line}"))?,
    }
    Ok(ExitStatus::Yes)
}
