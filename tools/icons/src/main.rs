//! `icons`: makes the icon corpus. `README.md` beside `Cargo.toml` tells what it is.

mod caption;
mod corpus;
mod likeness;
mod pixels;
mod policy;
mod render;
mod select;
mod set;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Parser};

/// The icon corpus: images with captions from the npm package @iconify/json
#[derive(Parser)]
#[command(version)]
enum Command {
    /// Make shards, galleries and a manifest
    Make(Options),
    /// Print how far plain pixels lead: what the nearest training drawing names
    Pixels(PixelOptions),
}

/// What is made.
#[derive(Args)]
pub struct Options {
    /// Folder of the unpacked package (`npm pack @iconify/json@2.2.535`)
    #[arg(long)]
    pub package: PathBuf,
    /// Folder to write; must not exist
    #[arg(long)]
    pub output: PathBuf,
    /// Side of the images in pixels
    #[arg(long, default_value_t = 64)]
    pub side: u32,
    /// Drawings of each icon in training: the first black on white, others in drawn colors and weights
    #[arg(long, default_value_t = 2)]
    pub looks: u32,
    /// Drawings of one thing that a set may give to training, in different styles
    #[arg(long, default_value_t = 3)]
    pub styles: usize,
    /// Images of the gallery of a validation or test set; each shows something else
    #[arg(long, default_value_t = 400)]
    pub gallery: usize,
    /// Samples of a shard
    #[arg(long, default_value_t = 20_000)]
    pub shard: usize,
    /// Also all drawings of training in groups of so many that one set names alike, as hard negatives
    #[arg(long)]
    pub neighbors: Option<NonZeroUsize>,
    /// Lines of code points of emoji that stay out of training
    #[arg(long)]
    pub hold_out: Option<PathBuf>,
    /// With logos, brands and flags
    #[arg(long)]
    pub brands: bool,
    /// Threads
    #[arg(long, default_value_t = 2)]
    pub threads: usize,
}

/// What is measured.
#[derive(Args)]
pub struct PixelOptions {
    /// Folder of the corpus
    #[arg(long)]
    pub corpus: PathBuf,
    /// Which galleries: validation or test
    #[arg(long, default_value = "validation")]
    pub side: String,
    /// Threads
    #[arg(long, default_value_t = 2)]
    pub threads: usize,
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::Make(options) => corpus::make(&options),
        Command::Pixels(options) => pixels::measure(&options),
    }
}
