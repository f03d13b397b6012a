//! `albef evaluate`.

use std::path::{Path, PathBuf};

use albef::eval::text_baseline::TextBaseline;
use albef::eval::vqa_score::ScoreRule;
use albef::task::TaskRef;
use albef_data::dataset::{AnnotationFormat, ImageRoots, Sample, Target, read_task, repeated_ids};
use albef_weights::write_atomic;
use anyhow::{Result, bail};
use serde_json::Value;

use crate::Answer;
use crate::arguments::place;
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
    #[arg(long, value_name = "FILE", value_parser = place)]
    results: Option<PathBuf>,
}

/// What can be known to be wrong before the model runs: the list, the model's task, the training lists.
struct Opened {
    samples: Vec<Sample>,
    model: TaskModel,
    baseline: Option<TextBaseline>,
}

impl ListArguments {
    fn open(
        &self,
        task: TaskRef,
        form: AnnotationFormat,
        roots: &ImageRoots,
        check: impl Fn(&[Sample]) -> Result<()>,
    ) -> Result<Opened> {
        let device = self.reporting.device.open()?;
        let samples = read_task(&self.annotations, form, roots)?;
        if samples.is_empty() {
            bail!("{} holds nothing to measure", self.annotations.display());
        }
        check(&samples)?;
        let baseline = text_baseline::open(&self.text_baseline, form)?;
        let model = TaskModel::open_at(&self.model, task, self.image_res, &device)?;
        Ok(Opened { samples, model, baseline })
    }
}

/// Prints accuracy with its interval, beside what the most frequent answer alone would score, and
/// the baselines of the training lists.
fn print(
    out: &Measured,
    list: &ListArguments,
    samples: &[Sample],
    baseline: Option<&TextBaseline>,
    rule: ScoreRule,
) -> Result<()> {
    let resamples = list.reporting.resamples;
    let baseline =
        baseline.map(|b| text_baseline::measure(b, rule, samples, &out.scores, resamples));
    tell_skipped(&out.skipped);
    let mut value = out.json(resamples);
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

fn classes(a: &ListArguments, task: TaskRef, form: AnnotationFormat) -> Result<Answer> {
    let roots = ImageRoots { image_root: a.image_root.clone(), ..ImageRoots::default() };
    let Opened { samples, model, baseline } = a.open(task, form, &roots, |_| Ok(()))?;
    let out = model.accuracy(&samples, task)?;
    // The figures first: they are not lost where saving fails.
    let printed = print(&out, a, &samples, baseline.as_ref(), ScoreRule::Official);
    let saved = outcomes::save_if(a.reporting.save_outcomes.as_deref(), || {
        outcomes::measured(task, ScoreRule::Official, &samples, &out)
    });
    printed.and(saved)?;
    Ok(Answer::Yes)
}

/// Questions without answers can only be answered for the evaluation server, which knows them by number.
fn check_questions(a: &VqaArguments, samples: &[Sample]) -> Result<()> {
    let list = a.list.annotations.display();
    if a.results.is_none() {
        if samples.iter().all(|s| s.task.target == Target::None) {
            bail!(
                "the questions of {list} have no `answer` to compare with; write the answers with \
                 --results"
            );
        }
        return Ok(());
    }
    if let Some(i) = samples.iter().position(|s| s.task.id.is_none()) {
        bail!(
            "{list}, entry {i}: there is no `question_id`, by which the evaluation server knows the \
             question"
        );
    }
    if let Some((again, first)) = repeated_ids(samples).first() {
        bail!(
            "{list}, entry {again}: its `question_id` stands at entry {first} already, and the \
             evaluation server takes one answer to a question"
        );
    }
    Ok(())
}

fn write_results(path: &Path, results: &[Value]) -> Result<()> {
    let text = serde_json::to_string(results)?;
    write_atomic(path, |f| std::io::Write::write_all(f, text.as_bytes()))?;
    eprintln!("wrote {} answers to {}", results.len(), path.display());
    Ok(())
}

fn vqa(a: &VqaArguments) -> Result<Answer> {
    let list = &a.list;
    let answers = answer_list(&a.answer_list)?;
    let root = || list.image_root.clone();
    let roots = ImageRoots { image_root: root(), vqa_root: root(), vg_root: root() };
    let Opened { samples, model, baseline } =
        list.open(TaskRef::named("vqa")?, AnnotationFormat::Vqa, &roots, |samples| {
            check_questions(a, samples)
        })?;
    let score = if a.challenge_rules { ScoreRule::Challenge } else { ScoreRule::Official };
    let out = model.answer_accuracy(&samples, &answers, a.k, a.rank.into(), score)?;
    let write = || a.results.as_deref().map_or(Ok(()), |path| write_results(path, &out.results));
    let save = list.reporting.save_outcomes.as_deref();
    if out.scores.is_empty() {
        tell_skipped(&out.skipped);
        write()?;
        if save.is_some() || baseline.is_some() {
            eprintln!(
                "the questions have no answers to compare with: nothing is saved or compared"
            );
        }
        return Ok(Answer::Yes);
    }
    // The figures first: they are not lost where a file cannot be written, nor is one file with another.
    let printed = print(&out, list, &samples, baseline.as_ref(), score);
    let written = write();
    let task = TaskRef::named("vqa")?;
    let saved = outcomes::save_if(save, || outcomes::measured(task, score, &samples, &out));
    printed.and(written).and(saved)?;
    Ok(Answer::Yes)
}

pub fn run(command: &Command) -> Result<Answer> {
    match command {
        Command::Retrieval(a) => crate::evaluate_retrieval::run(a),
        Command::Vqa(a) => vqa(a),
        Command::VqaResults(a) => crate::evaluate_vqa_results::run(a),
        Command::Nlvr(a) => classes(a, TaskRef::named("nlvr")?, AnnotationFormat::Nlvr),
        Command::Ve(a) => classes(a, TaskRef::named("ve")?, AnnotationFormat::Entailment),
        Command::Grounding(a) => crate::evaluate_grounding::run(a),
    }
}
