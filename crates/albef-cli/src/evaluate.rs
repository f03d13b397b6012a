//! `albef evaluate`.

use std::cell::RefCell;
use std::path::PathBuf;

use albef::eval::metrics::RecallReport;
use albef::eval::retrieval::{Evaluation, Gallery, Options, evaluate};
use albef::pipeline::Pipeline;
use albef_report::bootstrap_interval;
use anyhow::{Result, bail};
use serde_json::{Map, Value, json};

use albef::eval::vqa_score::ScoreRule;
use albef_data::dataset::{Sample, Skipped, TaskForm, TaskRoots, read_task};
use albef_weights::{Task, write_atomic};

use crate::Answer;
use crate::ask::Rank;
use crate::corpus::{Pictures, open_model};
use crate::device::Where;
use crate::tasks::{Measured, TaskModel, answer_list};
use crate::{outcomes, text_baseline};

#[derive(clap::Subcommand)]
pub enum Command {
    /// Recall in both directions: ranked by cosine, then re-ranked by the matching head.
    Retrieval(Arguments),
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
    /// Training lists of the task: print what their texts alone would score, no picture seen.
    #[arg(long, num_args = 1.., value_name = "TRAIN_LIST")]
    text_baseline: Vec<PathBuf>,
    /// Resamples of the bootstrap interval.
    #[arg(long, default_value_t = 1000)]
    resamples: usize,
    #[command(flatten)]
    device: Where,
    /// Write what was found item by item here, for `albef compare`.
    #[arg(long, value_name = "FILE", value_parser = outcomes::place)]
    save: Option<PathBuf>,
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
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

/// Names the first pictures that could not be used, and counts the others.
pub fn tell_skipped(skipped: &[Skipped]) {
    for s in skipped.iter().take(SHOWN) {
        eprintln!("not usable, counted as wrong: {}: {}", s.name, s.error);
    }
    if skipped.len() > SHOWN {
        eprintln!("and {} more", skipped.len() - SHOWN);
    }
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
    let baseline = text_baseline::measure(train, form, rule, samples, &out.scores, list.resamples)?;
    tell_skipped(&out.skipped);
    let mut value = out.json(list.resamples);
    if list.json {
        if let Some(baseline) = baseline {
            value["text_baseline"] = baseline;
        }
        println!("{value}");
    } else {
        let bound = |i: usize| value["interval"][i].as_f64().unwrap_or(f64::NAN);
        println!(
            "accuracy {:.2} [{:.2}, {:.2}] on {} samples; always the most frequent: {:.2}",
            out.mean(),
            bound(0),
            bound(1),
            out.scores.len(),
            out.majority
        );
        if let Some(baseline) = baseline {
            text_baseline::print(&baseline);
        }
    }
    Ok(())
}

fn classes(a: &ListArguments, task: Task, form: TaskForm) -> Result<Answer> {
    let model = TaskModel::open(&a.model, task, &a.device.open()?)?;
    let roots = TaskRoots { image_root: a.image_root.clone(), ..TaskRoots::default() };
    let samples = read_task(&a.annotations, form, &roots)?;
    if samples.is_empty() {
        bail!("{} holds nothing to measure", a.annotations.display());
    }
    let out = model.accuracy(&samples, task)?;
    outcomes::save_if(a.save.as_deref(), || {
        outcomes::measured(task, ScoreRule::Official, &samples, &out)
    })?;
    print(&out, a, &samples, form, ScoreRule::Official)?;
    Ok(Answer::Yes)
}

fn vqa(a: &VqaArguments) -> Result<Answer> {
    let list = &a.list;
    let model = TaskModel::open(&list.model, Task::Vqa, &list.device.open()?)?;
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
        if list.save.is_some() || !list.text_baseline.is_empty() {
            eprintln!(
                "the questions have no answers to compare with: nothing is saved or compared"
            );
        }
        return Ok(Answer::Yes);
    }
    outcomes::save_if(list.save.as_deref(), || {
        outcomes::measured(Task::Vqa, score, &samples, &out)
    })?;
    print(&out, list, &samples, TaskForm::Vqa, score)?;
    Ok(Answer::Yes)
}

#[derive(clap::Args)]
pub struct Arguments {
    /// Model folder or weights file.
    #[arg(long)]
    model: Option<PathBuf>,
    /// Retrieval list: a JSON list of images with their captions.
    #[arg(long)]
    annotations: PathBuf,
    /// Joined before its image paths.
    #[arg(long)]
    image_root: Option<PathBuf>,
    /// Candidates that are re-ranked; 0 for none.
    #[arg(long, default_value_t = 128)]
    k: usize,
    /// Count a hit by `image_id` (concept) instead of by picture.
    #[arg(long)]
    by_id: bool,
    /// Resamples of the bootstrap intervals.
    #[arg(long, default_value_t = 1000)]
    resamples: usize,
    #[command(flatten)]
    device: Where,
    /// Write what was found item by item here, for `albef compare`.
    #[arg(long, value_name = "FILE", value_parser = outcomes::place)]
    save: Option<PathBuf>,
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
}

/// Unusable pictures that are named one by one.
pub const SHOWN: usize = 10;

pub fn run(command: &Command) -> Result<Answer> {
    match command {
        Command::Retrieval(a) => retrieval(a),
        Command::Vqa(a) => vqa(a),
        Command::VqaResults(a) => crate::evaluate_vqa_results::run(a),
        Command::Nlvr(a) => classes(a, Task::Nlvr, TaskForm::Nlvr),
        Command::Ve(a) => classes(a, Task::Ve, TaskForm::Entailment),
        Command::Grounding(a) => crate::evaluate_grounding::run(a),
    }
}

fn retrieval(a: &Arguments) -> Result<Answer> {
    let device = a.device.open()?;
    let ready = open_model(a.model.as_deref(), &device)?;
    let size = ready.model.config.vision.image_res;
    let list = a.annotations.display().to_string();
    let pictures = Pictures::open(&list, a.image_root.as_deref(), size, &device)?;
    let (out, skipped, texts) = measure(&ready, &pictures, a.k, a.by_id)?;
    let gallery = pictures.data.len();
    for s in skipped.iter().take(SHOWN) {
        eprintln!("not usable, counted as missed: {s}");
    }
    if skipped.len() > SHOWN {
        eprintln!("and {} more", skipped.len() - SHOWN);
    }
    if skipped.len() == gallery {
        bail!("none of the {gallery} pictures can be used; is --image-root the right folder?");
    }
    outcomes::save_if(a.save.as_deref(), || {
        outcomes::retrieval(pictures.data.samples(), &out, a.k, a.by_id)
    })?;
    if a.json {
        let mut report = named(&out.itm);
        report.insert("queries".into(), json!({"txt": gallery, "img": texts}));
        report.insert("gallery".into(), json!({"images": gallery, "texts": texts}));
        report.insert("k".into(), json!(a.k));
        report.insert("itc".into(), Value::Object(named(&out.itc)));
        report.insert("interval".into(), intervals(&out.itm_ranks, a.resamples));
        report.insert("skipped".into(), json!(skipped.len()));
        println!("{}", Value::Object(report));
        return Ok(Answer::Yes);
    }
    println!("{gallery} pictures, {texts} texts; re-ranked: the best {}", a.k);
    for (name, report, ranks) in
        [("cosine (ITC)", &out.itc, &out.itc_ranks), ("re-ranked (ITM)", &out.itm, &out.itm_ranks)]
    {
        let i = intervals(ranks, a.resamples);
        println!(
            "{name:<16} image to text R@1 {:.2} [{:.2}, {:.2}] R@5 {:.2} R@10 {:.2}   \
             text to image R@1 {:.2} [{:.2}, {:.2}] R@5 {:.2} R@10 {:.2}   mean {:.2}",
            report.txt_r1,
            i["txt_r1"][0].as_f64().unwrap_or(f64::NAN),
            i["txt_r1"][1].as_f64().unwrap_or(f64::NAN),
            report.txt_r5,
            report.txt_r10,
            report.img_r1,
            i["img_r1"][0].as_f64().unwrap_or(f64::NAN),
            i["img_r1"][1].as_f64().unwrap_or(f64::NAN),
            report.img_r5,
            report.img_r10,
            report.r_mean
        );
    }
    Ok(Answer::Yes)
}

/// Recalls under the official names.
pub fn named(report: &RecallReport) -> Map<String, Value> {
    report.named().into_iter().map(|(k, v)| (k.to_owned(), json!(v))).collect()
}

/// 95 % bootstrap intervals over queries, in percent.
pub fn intervals(ranks: &[Vec<usize>; 2], resamples: usize) -> Value {
    let mut out = Map::new();
    for (side, ranks) in ["txt", "img"].into_iter().zip(ranks) {
        for k in [1, 5, 10] {
            let hits: Vec<f64> = ranks.iter().map(|r| if *r < k { 100.0 } else { 0.0 }).collect();
            let (low, high) = bootstrap_interval(&hits, resamples, 42);
            out.insert(format!("{side}_r{k}"), json!([low, high]));
        }
    }
    Value::Object(out)
}

/// Evaluates pictures with their captions; gives the result, the unusable pictures and the number
/// of texts.
pub fn measure(
    ready: &Pipeline,
    pictures: &Pictures,
    k: usize,
    by_id: bool,
) -> Result<(Evaluation, Vec<String>, usize)> {
    let mut texts = Vec::new();
    let mut txt2img = Vec::new();
    for (i, sample) in pictures.data.samples().iter().enumerate() {
        for caption in &sample.captions {
            texts.push(ready.tokens(caption));
            txt2img.push(i);
        }
    }
    if texts.is_empty() {
        bail!("the list has no captions, so there is nothing to measure");
    }
    let gallery = Gallery {
        images: pictures.data.len(),
        texts: &texts,
        txt2img: &txt2img,
        ids: by_id.then_some(pictures.data.image_ids()),
    };
    let skipped = RefCell::new(std::collections::BTreeMap::new());
    let load = |which: &[usize]| -> albef::Result<_> {
        let (images, failed) = pictures.load(which);
        for (i, s) in failed {
            skipped.borrow_mut().insert(i, format!("{}: {}", s.name, s.error));
        }
        Ok(images)
    };
    let bar = indicatif::ProgressBar::new(0);
    let options = Options { k, ..Options::default() };
    let mut out = evaluate(&ready.model, &gallery, &options, &load, &mut |p| {
        bar.set_length(p.total as u64);
        bar.set_position(p.done as u64);
        bar.set_message(p.phase);
    })?;
    bar.finish_and_clear();
    let skipped = skipped.into_inner();
    // A picture that cannot be used is a miss in both directions, never a lucky hit.
    for i in skipped.keys() {
        for ranks in [&mut out.itc_ranks, &mut out.itm_ranks] {
            ranks[0][*i] = albef::eval::metrics::MISSED;
            for (t, image) in txt2img.iter().enumerate() {
                if image == i {
                    ranks[1][t] = albef::eval::metrics::MISSED;
                }
            }
        }
    }
    out.itc = RecallReport::from_ranks(&out.itc_ranks[0], &out.itc_ranks[1]);
    out.itm = RecallReport::from_ranks(&out.itm_ranks[0], &out.itm_ranks[1]);
    Ok((out, skipped.into_values().collect(), texts.len()))
}
