//! `albef compare`: two models, or several seeds of each, on the same items.

use std::path::{Path, PathBuf};

use albef_report::{Difference, Draw, Named, Outcomes, Side, Test, compare};
use anyhow::{Result, bail};
use serde_json::{Map, Value, json};

use crate::ExitStatus;
use crate::arguments::at_least_one;
use crate::output::say;
use albef::eval::outcomes::FILE;

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
    let (a, b) = (all(&a)?, all(&b)?);
    let draw = Draw { resamples: arguments.resamples, seed: arguments.seed };
    let found = compare(&a, &b, draw)?;
    if arguments.json {
        say!("{}", report(&a, &b, &found)?)?;
    } else {
        print(&a, &b, &found)?;
    }
    Ok(ExitStatus::Yes)
}

fn report(a: &[Named], b: &[Named], found: &[Difference]) -> Result<Value> {
    let names = |side: &[Named]| side.iter().map(|n| n.name.clone()).collect::<Vec<_>>();
    let mut metrics = Map::new();
    for d in found {
        let mut value = serde_json::to_value(d)?;
        if let Some(fields) = value.as_object_mut() {
            fields.shift_remove("metric");
        }
        metrics.insert(d.metric.clone(), value);
    }
    let task = a.first().map(|n| n.outcomes.task.as_str());
    Ok(json!({"task": task, "a": names(a), "b": names(b), "metrics": metrics}))
}

/// A value, with its deviation between runs where there are several.
fn shown(side: &Side) -> String {
    match side.deviation {
        Some(deviation) => format!("{:.2} ± {deviation:.2}", side.mean),
        None => format!("{:.2}", side.mean),
    }
}

fn print(a: &[Named], b: &[Named], found: &[Difference]) -> Result<()> {
    for (letter, side) in [("A", a), ("B", b)] {
        for run in side {
            say!("{letter}  {}", run.name)?;
        }
    }
    say!(
        "{:<16}{:>7}{:>16}{:>16}{:>9}  {:<20}{:>15}  p",
        "",
        "items",
        "A",
        "B",
        "B - A",
        "95 % interval",
        "better: A, B"
    )?;
    for d in found {
        let by_picture = match (d.p_by_picture, d.test) {
            (Some(p), Test::Mcnemar | Test::SignFlip) => format!("; by pictures {p:.4}"),
            _ => String::new(),
        };
        let test = match d.test {
            Test::Mcnemar => "McNemar",
            Test::SignFlip => "sign flips",
            Test::SignFlipByPicture => "sign flips of pictures",
        };
        say!(
            "{:<16}{:>7}{:>16}{:>16}{:>+9.2}  {:<20}{:>15}  {:.4} ({test}{by_picture})",
            d.metric,
            d.items,
            shown(&d.a),
            shown(&d.b),
            d.difference,
            format!("[{:+.2}, {:+.2}]", d.interval[0], d.interval[1]),
            format!("{}, {}", d.better[0], d.better[1]),
            d.p,
        )?;
    }
    if a.len() + b.len() > 2 {
        say!(
            "A and B are means over runs, ± the deviation between runs; interval and p speak about \
             other items, not about other seeds"
        )?;
    }
    Ok(())
}
