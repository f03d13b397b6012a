//! `albef analyse`: what a model has learned, beyond its score.

use std::path::PathBuf;

use albef::Pipeline;
use albef::checkpoint::LoadedModel;
use albef::eval::mutual_information::{self, Options};
use anyhow::Result;

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
    let options = Options {
        batch: a.batch,
        pairs: a.pairs,
        queue: !a.no_queue,
        mlm_probability: a.mlm_probability,
        seed: a.seed,
        resamples: a.resamples,
    };
    options.check()?;
    let device = a.device.open()?;
    let model = mutual_information::open(&a.model, &device)?;
    let model = LoadedModel { reader: a.images.lists(), ..model };
    let list = a.annotations.display().to_string();
    let images = open_images(&list, a.image_root.as_deref())?;
    let found = mutual_information::measure(&model, &images, &options, &bar())?;
    tell_truncated(found.truncated_texts, found.texts, Pipeline::TRUNCATION);
    tell_unusable("not usable, skipped", &found.skipped);
    tell_notes(&model.reader);
    if a.json {
        say!("{}", found.to_json())?;
    } else {
        say!("{found}")?;
    }
    Ok(ExitStatus::Yes)
}
