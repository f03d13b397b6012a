//! `albef data`.

mod check;
mod pack;
mod stats;

use std::path::PathBuf;

use albef_demo::{SceneOptions, write_scenes};
use anyhow::Result;

use crate::ExitStatus;
use crate::output::say;
use crate::warnings::tell_first;

#[derive(clap::Subcommand)]
pub enum Command {
    /// Make images with known content, with lists for every task.
    Scenes(ScenesArguments),
    /// Check a data set before a run does: what it holds, and what is wrong with it.
    Check(check::Arguments),
    /// Show what a run would see of its data: pairs, captions in word pieces, image sizes, steps of an epoch.
    Stats(stats::Arguments),
    /// Write shards from any source, to be read fast and in any order.
    Pack(pack::Arguments),
}

#[derive(clap::Args)]
pub struct ScenesArguments {
    /// Folder for images and lists.
    #[arg(long)]
    output: PathBuf,
    /// Scenes of each task to train on; the other splits have a fifth of it.
    #[arg(long, default_value_t = 1000)]
    scenes: usize,
    /// Side of the images in pixels.
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Seed of everything drawn.
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Cut-outs to compose, instead of the emoji art that is built in: `STYLE/NAME.png` with transparency, or
    /// `NAME.png` for a single style.
    #[arg(long, value_name = "FOLDER")]
    sprites: Option<PathBuf>,
    /// Style of the cut-outs that only `test` shows; the last one by name if not given.
    #[arg(long, requires = "sprites")]
    unseen: Option<String>,
    /// Concepts of `train`, `val` and `test`, drawn by the seed; as many others at most make the split `concept`. Nine
    /// tenths if not given.
    #[arg(long, value_name = "N")]
    concepts: Option<usize>,
}

fn scenes(a: &ScenesArguments) -> Result<ExitStatus> {
    let made = write_scenes(&SceneOptions {
        output: a.output.clone(),
        scenes: a.scenes,
        size: a.size,
        seed: a.seed,
        sprites: a.sprites.clone(),
        unseen: a.unseen.clone(),
        concepts: a.concepts,
    })?;
    tell_first("left out", made.skipped.into_iter());
    made.splits.iter().try_for_each(|split| say!("{split}"))?;
    Ok(ExitStatus::Yes)
}

pub fn run(command: &Command) -> Result<ExitStatus> {
    match command {
        Command::Scenes(a) => scenes(a),
        Command::Check(a) => check::run(a),
        Command::Stats(a) => stats::run(a),
        Command::Pack(a) => pack::run(a),
    }
}
