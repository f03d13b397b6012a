//! `albef compare`: two models, or several seeds of each, on the same items.

use std::path::PathBuf;

use albef::eval::outcomes;
use albef_report::{Comparison, Draw, Named};
use anyhow::{Result, bail};

use crate::ExitStatus;
use crate::arguments::at_least_one;
use crate::output::say;

#[derive(clap::Args)]
pub struct Arguments {
    /// The first: outcomes that `albef evaluate … --save-outcomes` wrote, or the folder of a run with
    /// `val_file`.
    #[arg(value_name = "A", requires = "second", conflicts_with_all = ["a", "b"])]
    first: Option<PathBuf>,
    /// The second.
    #[arg(value_name = "B")]
    second: Option<PathBuf>,
    /// Several runs (seeds) of the first, averaged item by item.
    #[arg(long, num_args = 1.., value_name = "FILE", requires = "b")]
    a: Vec<PathBuf>,
    /// Several runs of the second.
    #[arg(long, num_args = 1.., value_name = "FILE", requires = "a")]
    b: Vec<PathBuf>,
    /// Resamples of the bootstrap intervals and of the permutation tests.
    #[arg(long, default_value_t = 5000, value_parser = at_least_one)]
    resamples: usize,
    /// Seed of both.
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> Result<ExitStatus> {
    let (a, b) = match (&arguments.first, &arguments.second) {
        (Some(a), Some(b)) => (vec![a.clone()], vec![b.clone()]),
        _ if !arguments.a.is_empty() => (arguments.a.clone(), arguments.b.clone()),
        _ => {
            bail!("two files are needed: `albef compare A.json B.json`, or lists with --a and --b")
        }
    };
    let all = |paths: &[PathBuf]| -> Result<Vec<Named>> {
        Ok(paths.iter().map(|p| outcomes::read(p)).collect::<Result<_, _>>()?)
    };
    let draw = Draw { resamples: arguments.resamples, seed: arguments.seed };
    let found = Comparison::of(all(&a)?, all(&b)?, draw)?;
    if arguments.json {
        say!("{}", found.to_json()?)?;
    } else {
        say!("{found}")?;
    }
    Ok(ExitStatus::Yes)
}
