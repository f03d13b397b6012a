//! What the demonstration is asked for, and what it tells.

use std::path::PathBuf;

use albef::train::RunEvent;

/// How long, where and from what seed.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Minutes of training, for which the task is chosen: as many things, in as many steps, as this machine
    /// learns in this time.
    pub minutes: f64,
    /// Steps instead: equal steps and seeds give equal results on machines with the same instructions.
    pub steps: Option<u64>,
    /// Things that are shown, 8 to 160; chosen by the number of steps if not given.
    pub concepts: Option<usize>,
    /// Folder for data, run, model and report.
    pub output: PathBuf,
    /// Seed of corpus and training.
    pub seed: u64,
    /// A model to measure beside the fresh one.
    pub shipped: Option<PathBuf>,
}

/// What the demonstration tells while it goes on.
#[derive(Debug)]
pub enum Event<'a> {
    /// What it does next, or what it found.
    Status(&'a str),
    /// A short trial of training is a step further, of so many.
    Trial(u64, u64),
    /// The pre-training run.
    Run(&'a RunEvent<'a>),
}
