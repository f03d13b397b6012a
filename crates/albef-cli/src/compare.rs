//! `albef compare`: two models, or several seeds of each, on the same items.

use std::path::{Path, PathBuf};

use albef::eval::outcomes::FILE;
use albef_report::{Comparison, Draw, Named, Outcomes};
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

fn read(path: &Path) -> Result<Named> {
    let file = if path.is_dir() { path.join(FILE) } else { path.to_owned() };
    if path.is_dir() && !file.is_file() {
        bail!(
            "{} holds no `{FILE}`; hint: a run writes it when it has a `val_file`, and \
             `albef evaluate … --save-outcomes FILE` writes one for any list",
            path.display()
        );
    }
    Ok(Named { name: file.display().to_string(), outcomes: Outcomes::read(&file)? })
}

pub fn run(arguments: &Arguments) -> Result<ExitStatus> {
    let (a, b) = match (&arguments.first, &arguments.second) {
        (Some(a), Some(b)) => (vec![a.clone()], vec![b.clone()]),
        _ if !arguments.a.is_empty() => (arguments.a.clone(), arguments.b.clone()),
        _ => {
            bail!("two files are needed: `albef compare A.json B.json`, or lists with --a and --b")
        }
    };
    let all = |paths: &[PathBuf]| paths.iter().map(|p| read(p)).collect::<Result<Vec<_>>>();
    let draw = Draw { resamples: arguments.resamples, seed: arguments.seed };
    let found = Comparison::of(all(&a)?, all(&b)?, draw)?;
    if arguments.json {
        say!("{}", found.to_json()?)?;
    } else {
        say!("{found}")?;
    }
    Ok(ExitStatus::Yes)
}
