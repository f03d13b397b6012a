//! `albef evaluate`.

use std::path::PathBuf;

use albef::eval::vqa_score::ScoreRule;
use albef_data::dataset::{Sample, TaskForm, TaskRoots, read_task};
use albef_weights::{Task, write_atomic};
use anyhow::{Result, bail};
use serde_json::Value;

use crate::Answer;
use crate::ask::Rank;
use crate::notes::tell_skipped;
use crate::outcomes::{self, Reporting};
use crate::output::say;
use crate::tasks::{Measured, TaskModel, answer_list};
use crate::text_baseline;

#[derive(clap::Subcommand)]
pub enum Command {
    /// Recall in both directions: ranked by cosine, then re-ranked by the matching head.
    Retrieval(crate::evaluate_retrieval::Arguments),
    /// Accuracy of answers by ranking a list of candidates.
    Vqa(VqaArguments),
    /// Accuracy of a file of answers by the official annotations of VQAv2, without a model.
    VqaResults(crate::evaluate_vqa_results::Arguments),
    /// Accuracy on statements about two images.
    Nlvr(ListArguments),
    /// Accuracy of visual entailment.
    Ve(ListArguments),
    /// Accuracy of boxes chosen by attention maps, beside random and centre boxes.
    Grounding(crate::evaluate_grounding::Arguments),
}

#[derive(clap::Args)]
pub struct ListArguments {
    /// Model folder or weights file that is fine-tuned for the task.
    #[arg(long)]
    model: PathBuf,
    /// The task's list.
    #[arg(long)]
    annotations: PathBuf,
    /// Joined before its image paths.
    #[arg(long, default_value = ".")]
    image_root: PathBuf,
    /// Pixels along the side of an image, a multiple of the patch size, if not those of the model; its
    /// position table is interpolated.
    #[arg(long, value_name = "PIXELS")]
    image_res: Option<usize>,
    /// Training lists of the task: print what their texts alone would score, no picture seen.
    #[arg(long, num_args = 1.., value_name = "TRAIN_LIST")]
    text_baseline: Vec<PathBuf>,
    #[command(flatten)]
    reporting: Reporting,
}

#[derive(clap::Args)]
pub struct VqaArguments {
    #[command(flatten)]
    list: ListArguments,
    /// Candidate answers, a JSON list of texts.
    #[arg(long)]
    answer_list: String,
    /// Candidates that are scored in full.
    #[arg(long, default_value_t = 128)]
    k: usize,
    /// How candidates are scored.
    #[arg(long, default_value = "reference")]
    rank: Rank,
    /// By the current rules of the challenge instead of those of the method's tool.
    #[arg(long)]
    challenge_rules: bool,
    /// Write the answers to all questions here, in the form of the evaluation server.
    #[arg(long, value_name = "FILE", value_parser = outcomes::place)]
    results: Option<PathBuf>,
}

/// Prints accuracy with its interval, beside what the most frequent answer alone would score, and
/// the baselines of the training lists.
fn print(
    out: &Measured,
    list: &ListArguments,
    samples: &[Sample],
    form: TaskForm,
    rule: ScoreRule,
) -> Result<()> {
    let train = &list.text_baseline;
    let baseline =
        text_baseline::measure(train, form, rule, samples, &out.scores, list.reporting.resamples)?;
    tell_skipped(&out.skipped);
    let mut value = out.json(list.reporting.resamples);
    if list.reporting.json {
        if let Some(baseline) = baseline {
            value["text_baseline"] = baseline;
        }
        say!("{value}")?;
    } else {
        let bound = |i: usize| value["interval"][i].as_f64().unwrap_or(f64::NAN);
        say!(
            "accuracy {:.2} [{:.2}, {:.2}] on {} samples; always the most frequent: {:.2}",
            out.mean(),
            bound(0),
            bound(1),
            out.scores.len(),
            out.majority
        )?;
        if let Some(baseline) = baseline {
            text_baseline::print(&baseline)?;
        }
    }
    Ok(())
}

fn classes(a: &ListArguments, task: Task, form: TaskForm) -> Result<Answer> {
    let model = TaskModel::open_at(&a.model, task, a.image_res, &a.reporting.device.open()?)?;
    let roots = TaskRoots { image_root: a.image_root.clone(), ..TaskRoots::default() };
    let samples = read_task(&a.annotations, form, &roots)?;
    if samples.is_empty() {
        bail!("{} holds nothing to measure", a.annotations.display());
    }
    let out = model.accuracy(&samples, task)?;
    outcomes::save_if(a.reporting.save.as_deref(), || {
        outcomes::measured(task, ScoreRule::Official, &samples, &out)
    })?;
    print(&out, a, &samples, form, ScoreRule::Official)?;
    Ok(Answer::Yes)
}

fn vqa(a: &VqaArguments) -> Result<Answer> {
    let list = &a.list;
    let device = list.reporting.device.open()?;
    let model = TaskModel::open_at(&list.model, Task::Vqa, list.image_res, &device)?;
    let root = || list.image_root.clone();
    let roots = TaskRoots { image_root: root(), vqa_root: root(), vg_root: root() };
    let samples = read_task(&list.annotations, TaskForm::Vqa, &roots)?;
    if samples.is_empty() {
        bail!("{} holds nothing to measure", list.annotations.display());
    }
    if a.results.is_some()
        && let Some(i) = samples.iter().position(|s| s.task.id.is_none())
    {
        bail!(
            "{}, entry {i}: there is no `question_id`, by which the evaluation server knows the \
             question",
            list.annotations.display()
        );
    }
    let answers = answer_list(&a.answer_list)?;
    let score = if a.challenge_rules { ScoreRule::Challenge } else { ScoreRule::Official };
    let out = model.answer_accuracy(&samples, &answers, a.k, a.rank.into(), score)?;
    if let Some(path) = &a.results {
        let text = Value::Array(out.results.clone()).to_string();
        write_atomic(path, |f| std::io::Write::write_all(f, text.as_bytes()))?;
        eprintln!("wrote {} answers to {}", out.results.len(), path.display());
    }
    if out.scores.is_empty() {
        tell_skipped(&out.skipped);
        if a.results.is_none() {
            bail!(
                "the questions of {} have no `answer` to compare with; write the answers with \
                 --results",
                list.annotations.display()
            );
        }
        if list.reporting.save.is_some() || !list.text_baseline.is_empty() {
            eprintln!(
                "the questions have no answers to compare with: nothing is saved or compared"
            );
        }
        return Ok(Answer::Yes);
    }
    outcomes::save_if(list.reporting.save.as_deref(), || {
        outcomes::measured(Task::Vqa, score, &samples, &out)
    })?;
    print(&out, list, &samples, TaskForm::Vqa, score)?;
    Ok(Answer::Yes)
}

pub fn run(command: &Command) -> Result<Answer> {
    match command {
        Command::Retrieval(a) => crate::evaluate_retrieval::run(a),
        Command::Vqa(a) => vqa(a),
        Command::VqaResults(a) => crate::evaluate_vqa_results::run(a),
        Command::Nlvr(a) => classes(a, Task::Nlvr, TaskForm::Nlvr),
        Command::Ve(a) => classes(a, Task::Ve, TaskForm::Entailment),
        Command::Grounding(a) => crate::evaluate_grounding::run(a),
    }
}
