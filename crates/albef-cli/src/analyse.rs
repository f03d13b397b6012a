//! `albef analyse`: what a model has learned, beyond its score.

use std::path::PathBuf;

use albef::Pipeline;
use albef::checkpoint::LoadedModel;
use albef::eval::mutual_information::{self, Analysis, Options};
use anyhow::{Result, bail};

use crate::ExitStatus;
use crate::arguments::at_least_one;
use crate::device::DeviceArg;
use crate::image_options::ImageOptions;
use crate::models::open_images;
use crate::output::say;
use crate::progress::bar;
use crate::warnings::{tell_notes, tell_truncated, tell_unusable};

#[derive(clap::Subcommand)]
pub enum Command {
    /// Bounds on mutual information: what image and text, and words and image, tell about each
    /// other, and how many views the teacher's pseudo-targets amount to.
    Mi(MiArguments),
}

#[derive(clap::Args)]
pub struct MiArguments {
    /// Model folder or weights file; a run's folder, one of its checkpoints or a `.pth` of pre-training has
    /// momentum copies and queues too.
    #[arg(long)]
    model: PathBuf,
    /// List of images with captions, folder or archive.
    #[arg(long)]
    annotations: PathBuf,
    /// Joined before its image paths.
    #[arg(long)]
    image_root: Option<PathBuf>,
    /// Pairs of a batch: the candidates, the queue's not counted.
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// Pairs to look at; all if not given.
    #[arg(long)]
    pairs: Option<usize>,
    /// Exclude the queues of the checkpoint from the candidates.
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
    images: ImageOptions,
    #[command(flatten)]
    device: DeviceArg,
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
}

pub fn run(command: &Command) -> Result<ExitStatus> {
    match command {
        Command::Mi(a) => mi(a),
    }
}

fn mi(a: &MiArguments) -> Result<ExitStatus> {
    if a.batch < 2 {
        bail!("--batch is {}; bounds need at least 2 candidates", a.batch);
    }
    if !(a.mlm_probability > 0.0 && a.mlm_probability <= 1.0) {
        bail!("--mlm-probability is {}; it must be above 0 and at most 1", a.mlm_probability);
    }
    let device = a.device.open()?;
    let model = mutual_information::open(&a.model, &device)?;
    let model = LoadedModel { reader: a.images.lists(), ..model };
    let list = a.annotations.display().to_string();
    let images = open_images(&list, a.image_root.as_deref())?;
    let options = Options {
        batch: a.batch,
        pairs: a.pairs,
        queue: !a.no_queue,
        mlm_probability: a.mlm_probability,
        seed: a.seed,
    };
    let found = mutual_information::measure(&model, &images, &options, &bar())?;
    tell_truncated(found.truncated_texts, found.texts, Pipeline::TRUNCATION);
    tell_unusable("not usable, skipped", &found.skipped);
    tell_notes(&model.reader);
    if a.json {
        say!("{}", found.to_json(a.resamples))?;
    } else {
        print(&found, a.resamples)?;
    }
    Ok(ExitStatus::Yes)
}

fn print(found: &Analysis, resamples: usize) -> Result<()> {
    let report = &found.report;
    let itc = &report.itc;
    say!(
        "{} pairs ({} left over from whole batches); teacher: {}; all in nats",
        report.pairs,
        found.pairs_left_over,
        found.teacher
    )?;
    say!("contrast over {} candidates ({} of them of the queue)", itc.candidates, found.queue)?;
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
            if found.mlm_head { "none was masked" } else { "the weights have no vocabulary head" }
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
    let [low, high] = found.difference_interval(resamples);
    say!(
        "{:<34}{:>16.4} [{low:.4}, {high:.4}]",
        "what the image tells (difference)",
        mlm.difference
    )?;
    say!("{:<34}{:>16.4}", "teacher entropy H(q)", mlm.teacher.entropy)?;
    say!("{:<34}{:>16.4}", "effective number of views", mlm.teacher.effective_views)?;
    say!("{:<34}{:>16.4}", "KL(q||p)", mlm.teacher.kl)?;
    say!("{:<34}{:>16.4}", "teacher mass on the word", mlm.teacher.mass_on_label)?;
    Ok(())
}
