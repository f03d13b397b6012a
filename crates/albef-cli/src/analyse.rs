//! `albef analyse`: what a model has learnt, beyond its score.

use std::path::PathBuf;

use albef::eval::mutual_information::{MutualInformation, Parts, Report, other_images};
use albef::model::TokenBatch;
use albef::objectives::masking::{MaskDraw, SpecialIds};
use albef::ops::Precision;
use albef::params::to_vec;
use albef::pipeline::Pipeline;
use albef::train::checkpoint;
use albef::weights::{ModelFolder, momentum_encoders};
use albef_data::dataset::Batch;
use albef_data::random::Stream;
use albef_report::cluster_interval;
use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::Answer;
use crate::arguments::at_least_one;
use crate::corpus::{Pictures, of_another_task};
use crate::device::Where;
use crate::notes::{tell_cut, tell_first};
use crate::output::say;

#[derive(clap::Subcommand)]
pub enum Command {
    /// Bounds on mutual information: what picture and text, and words and picture, tell about each
    /// other, and how many views the teacher's pseudo-targets amount to.
    Mi(MiArguments),
}

#[derive(clap::Args)]
pub struct MiArguments {
    /// Model folder or weights file; for momentum copies and queues the folder of a run or of one of
    /// its checkpoints, or a `.pth` of pre-training.
    #[arg(long)]
    model: PathBuf,
    /// List of pictures with captions; a folder or archive will do too.
    #[arg(long)]
    annotations: PathBuf,
    /// Joined before its image paths.
    #[arg(long)]
    image_root: Option<PathBuf>,
    /// Pairs of a batch: the candidates, the queue's not counted.
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// Pairs that are looked at; all if not given.
    #[arg(long)]
    pairs: Option<usize>,
    /// Leave the queues of the checkpoint out of the candidates.
    #[arg(long)]
    no_queue: bool,
    /// Share of words to mask.
    #[arg(long, default_value_t = 0.15)]
    mlm_probability: f32,
    /// Seed of the order, of the captions taken and of the masks.
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Resamples of the bootstrap interval.
    #[arg(long, default_value_t = 1000, value_parser = at_least_one)]
    resamples: usize,
    #[command(flatten)]
    device: Where,
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
}

pub fn run(command: &Command) -> Result<Answer> {
    match command {
        Command::Mi(a) => mi(a),
    }
}

fn mi(a: &MiArguments) -> Result<Answer> {
    if a.batch < 2 {
        bail!("--batch is {}; bounds need at least 2 candidates", a.batch);
    }
    if !(a.mlm_probability > 0.0 && a.mlm_probability <= 1.0) {
        bail!("--mlm-probability is {}; it must be above 0 and at most 1", a.mlm_probability);
    }
    let device = a.device.open()?;
    let open = || match checkpoint::open(&a.model, &device)? {
        Some(folder) => Ok(folder),
        None => ModelFolder::open(&a.model, &device),
    };
    let folder = open().map_err(|e| of_another_task(&a.model, e))?;
    let (config, state) = (&folder.config, &folder.state);
    let model = state.model(config).map_err(|e| of_another_task(&a.model, e))?;
    let teacher = state
        .momentum
        .as_ref()
        .map(|m| momentum_encoders(m, config, Precision::F32))
        .transpose()?;
    let ready = Pipeline::of(model, state.online.clone(), folder.vocabulary.as_str())?;
    let v = ready.tokenizer.vocabulary();
    let parts = Parts {
        model: &ready.model,
        teacher: teacher.as_ref(),
        queues: state.queues.as_ref().filter(|q| !a.no_queue && !q.is_empty()),
        special: SpecialIds { pad: v.pad, cls: v.cls, mask: v.mask },
        mlm_probability: a.mlm_probability,
    };
    let list = a.annotations.display().to_string();
    let size = config.vision.image_res;
    let pictures = Pictures::open(&list, a.image_root.as_deref(), size, &device)?;
    let samples = pictures.data.samples();
    let words = |i: &usize| samples[*i].captions.iter().any(|c| !c.trim().is_empty());
    let mut order: Vec<usize> = (0..samples.len()).filter(words).collect();
    Stream::new(a.seed, "order", &[]).shuffle(&mut order);
    order.truncate(a.pairs.unwrap_or(usize::MAX));
    let given = order.len();
    let cut = |i: &&usize| ready.caption(caption(&samples[**i].captions, a.seed, **i)).cut;
    tell_cut(order.iter().filter(cut).count(), given, Pipeline::TRUNCATION);

    let mut found = MutualInformation::default();
    let mut measure = |images: Vec<f32>, which: &[usize]| -> Result<()> {
        let texts: Vec<Vec<u32>> = which
            .iter()
            .map(|i| ready.tokens(caption(&samples[*i].captions, a.seed, *i)))
            .collect();
        let image_ids: Vec<i64> =
            which.iter().map(|i| i64::from(pictures.data.image_ids()[*i])).collect();
        let seed = Stream::new(a.seed, "masks", &[which[0] as u64]).next_u64();
        let other = other_images(&image_ids, seed as usize)?;
        let text = TokenBatch::packed(&texts);
        let samples = which.to_vec();
        let batch = Batch { images, text, image_ids, samples, ..Batch::default() };
        let vocabulary = config.text.vocab_size;
        let masks = |row: usize| MaskDraw::seeded(seed, row, vocabulary);
        Ok(found.add(&parts, &batch, masks, &other)?)
    };
    // Whole batches of usable pictures only: bounds over different numbers of candidates have no
    // common mean.
    let bar = indicatif::ProgressBar::new(given as u64);
    let (mut at, mut batch) = (0, a.batch);
    let mut skipped = Vec::new();
    loop {
        if at == 0 {
            batch = batch.min(order.len());
        }
        if batch < 2 || order.len() - at < batch {
            break;
        }
        let which = &order[at..at + batch];
        let (images, failed) = pictures.load(which);
        if failed.is_empty() {
            measure(to_vec(images), which)?;
            at += batch;
            bar.inc(batch as u64);
        }
        for (i, s) in failed {
            order.retain(|o| *o != i);
            skipped.push(format!("{}: {}", s.name, s.error));
        }
    }
    bar.finish_and_clear();
    tell_first("not usable, left out", skipped.iter().cloned());
    if at == 0 {
        bail!(
            "{} of the {given} pictures with captions in {list} can be used; 2 are needed",
            order.len()
        );
    }
    let queue = parts.queues.map_or(0, albef::objectives::queue::Queues::len);
    let report = found.report();
    let interval = cluster_interval(&[found.by_text().to_vec()], a.resamples, a.seed);
    let about = About {
        teacher: if teacher.is_some() { "momentum" } else { "the model itself" },
        queue,
        left_out: order.len() - at,
        skipped: skipped.len(),
        head: ready.model.encoders.mlm_head.is_some(),
        interval: [interval.0, interval.1],
    };
    if a.json {
        say!("{}", as_json(&report, &about)?)?;
    } else {
        print(&report, &about)?;
    }
    Ok(Answer::Yes)
}

/// One of a picture's captions.
fn caption(captions: &[String], seed: u64, sample: usize) -> &str {
    let usable: Vec<&String> = captions.iter().filter(|c| !c.trim().is_empty()).collect();
    let drawn = Stream::new(seed, "caption", &[sample as u64]).below(usable.len());
    usable.get(drawn).map_or("", |c| c.as_str())
}

struct About {
    teacher: &'static str,
    queue: usize,
    left_out: usize,
    skipped: usize,
    head: bool,
    /// Of the difference that the image makes.
    interval: [f64; 2],
}

fn as_json(report: &Report, about: &About) -> Result<Value> {
    let mut value = serde_json::to_value(report)?;
    value["teacher"] = json!(about.teacher);
    value["queue"] = json!(about.queue);
    value["left_out"] = json!(about.left_out);
    value["skipped"] = json!(about.skipped);
    if report.mlm.is_some() {
        value["mlm"]["difference_interval"] = json!(about.interval);
    }
    Ok(value)
}

fn print(report: &Report, about: &About) -> Result<()> {
    let itc = &report.itc;
    say!(
        "{} pairs ({} left out of whole batches); teacher: {}; all in nats",
        report.pairs,
        about.left_out,
        about.teacher
    )?;
    say!("contrast over {} candidates ({} of them of the queue)", itc.candidates, about.queue)?;
    say!("{:<34}{:>16}{:>16}{:>10}", "", "image to text", "text to image", "mean")?;
    let row = |name: &str, values: [f64; 2]| -> Result<()> {
        let mean = (values[0] + values[1]) / 2.0;
        say!("{name:<34}{:>16.4}{:>16.4}{mean:>10.4}", values[0], values[1])
    };
    let (a, b) = (&itc.i2t, &itc.t2i);
    row("hard ITC loss", [a.bound.loss, b.bound.loss])?;
    row(&format!("MI bound (at most {:.4})", itc.ceiling), [a.bound.bound, b.bound.bound])?;
    row("teacher entropy H(q)", [a.teacher.entropy, b.teacher.entropy])?;
    let views = [a.teacher.effective_views, b.teacher.effective_views];
    say!("{:<34}{:>16.4}{:>16.4}", "effective number of views", views[0], views[1])?;
    row("KL(q||p)", [a.teacher.kl, b.teacher.kl])?;
    row("teacher mass on the own pair", [a.teacher.mass_on_label, b.teacher.mass_on_label])?;
    row(
        &format!("multi-positive loss (from {:.4})", itc.multi_positive_floor),
        [a.multi_positive_loss, b.multi_positive_loss],
    )?;
    say!("{:<34}{:>16.4}", "positives in the batch, by image_id", itc.positives)?;
    let Some(mlm) = &report.mlm else {
        say!(
            "masked words: {}",
            if about.head { "none was masked" } else { "the weights have no vocabulary head" }
        )?;
        return Ok(());
    };
    say!("masked language modelling, {} words", mlm.words)?;
    say!("{:<34}{:>16}{:>16}", "", "own image", "other image")?;
    let row = |name: &str, values: [f64; 2]| -> Result<()> {
        say!("{name:<34}{:>16.4}{:>16.4}", values[0], values[1])
    };
    row("hard MLM loss", [mlm.own_image.loss, mlm.other_image.loss])?;
    let bounds = [mlm.own_image.bound, mlm.other_image.bound];
    row(&format!("MI bound (at most {:.4})", mlm.ceiling), bounds)?;
    say!(
        "{:<34}{:>16.4} [{:.4}, {:.4}]",
        "what the image tells (difference)",
        mlm.difference,
        about.interval[0],
        about.interval[1]
    )?;
    say!("{:<34}{:>16.4}", "teacher entropy H(q)", mlm.teacher.entropy)?;
    say!("{:<34}{:>16.4}", "effective number of views", mlm.teacher.effective_views)?;
    say!("{:<34}{:>16.4}", "KL(q||p)", mlm.teacher.kl)?;
    say!("{:<34}{:>16.4}", "teacher mass on the word", mlm.teacher.mass_on_label)?;
    Ok(())
}
