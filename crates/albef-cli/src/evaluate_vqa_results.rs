//! `albef evaluate vqa-results`: soft accuracy of answers that lie in a file.

use std::path::PathBuf;

use albef::eval::vqa_files::score_results;
use albef::eval::vqa_score::ScoreRule;
use albef_report::bootstrap_interval;
use anyhow::Result;
use serde_json::json;

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
    if out.repeated > 0 {
        eprintln!("{} answers repeat a question; the last one counts", out.repeated);
    }
    if out.unanswered > 0 {
        let all = out.unanswered + out.questions.len();
        eprintln!("{} of {all} questions are not answered and not scored", out.unanswered);
    }
    if out.untyped > 0 {
        eprintln!("{} questions have no `question_type` or `answer_type`", out.untyped);
    }
    let scores: Vec<f64> = out.questions.iter().map(|(_, s)| *s).collect();
    let (low, high) = bootstrap_interval(&scores, a.resamples, 42);
    let t = &out.totals;
    if a.json {
        say!(
            "{}",
            json!({"accuracy": t.overall, "interval": [low, high], "questions": scores.len(),
                   "unanswered": out.unanswered,
                   "per_answer_type": t.per_answer_type, "per_question_type": t.per_question_type})
        )?;
        return Ok(ExitStatus::Yes);
    }
    say!("accuracy {:.2} [{low:.2}, {high:.2}] on {} questions", t.overall, scores.len())?;
    for (name, accuracy) in t.per_answer_type.iter().chain(&t.per_question_type) {
        say!("  {name}: {accuracy:.2}")?;
    }
    Ok(ExitStatus::Yes)
}
