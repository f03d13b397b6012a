//! `albef reproduce`: the rows of the paper's tables, from files to figures beside the claims.

use std::path::PathBuf;

use albef::train::FolderLock;
use albef_recipes::plan::Plan;
use albef_recipes::record::{Record, State};
use albef_recipes::{Device, Event, check, list, recipe};
use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::ExitStatus;
use crate::device::DeviceArg;
use crate::output::{self, say};
use crate::train::{Progress, interruptible, tell_test};

#[derive(clap::Args)]
pub struct Arguments {
    /// The row, by its name in `--list`.
    #[arg(required_unless_present = "list", conflicts_with = "list")]
    row: Option<String>,
    /// List all rows with their claims and whether their files are there.
    #[arg(long, conflicts_with_all = ["check", "resume", "set", "model", "smoke", "server"])]
    list: bool,
    /// Folder with `data`, `images` and `models` (see docs/src/how-to/reproduce.md).
    #[arg(long, value_name = "ROOT")]
    data: Option<PathBuf>,
    /// Folder of the run; with --list a folder of such folders.
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Only look whether the files are there and can be read.
    #[arg(long)]
    check: bool,
    /// Go on with the run in the folder.
    #[arg(long)]
    resume: bool,
    /// Use these weights instead of running a training step.
    #[arg(long, value_name = "STEP=PATH")]
    model: Vec<String>,
    /// Change a key of all training steps, or with `STEP:` of one step.
    #[arg(long, value_name = "[STEP:]KEY=VALUE")]
    set: Vec<String>,
    /// Two training steps of four small images: tries the machinery, not the claim.
    #[arg(long, alias = "small")]
    smoke: bool,
    /// A figure that the evaluation server gave, by the claim's name.
    #[arg(long, value_name = "CLAIM=FIGURE")]
    server: Vec<String>,
    #[command(flatten)]
    device: DeviceArg,
    /// JSON on standard output.
    #[arg(long)]
    json: bool,
}

pub fn run(a: &Arguments) -> Result<ExitStatus> {
    let Some(row) = &a.row else {
        return list_rows(a);
    };
    let recipe = recipe::named(row)?;
    let data = a.data.as_deref().context("name the folder with the data: --data ROOT")?;
    let output = match &a.output {
        Some(output) => output.clone(),
        None if a.check => PathBuf::from("."),
        None => bail!("name the folder of the run: --output DIR"),
    };
    let plan = Plan::new(recipe, data, &output, &a.model, a.smoke, &a.set)?;
    albef_recipes::validate(&plan)?;
    let files = check::check(&plan);
    let good = files.iter().all(check::FileState::is_good);
    if a.check {
        if a.json {
            say!("{}", serde_json::to_string(&files)?)?;
        } else {
            files.iter().try_for_each(|f| say!("{}", f.line()))?;
        }
        return Ok(if good { ExitStatus::Yes } else { ExitStatus::No });
    }
    let mut record = Record::begin(&plan, &output, a.resume)?;
    a.server.iter().try_for_each(|figure| record.add_server_figure(&plan, figure))?;
    for file in &files {
        eprintln!("{}", file.line());
    }
    if !good {
        let bad = files.iter().filter(|f| !f.is_good()).count();
        eprintln!(
            "{bad} of {} required files are missing or unusable; nothing was run",
            files.len()
        );
        return Ok(ExitStatus::No);
    }
    let _held = FolderLock::take(&output)?;
    record.files = files;
    record.state = State::Running;
    let ended = run_steps(&plan, &mut record, &a.device)?;
    if a.json {
        say!("{}", serde_json::to_string(&record)?)?;
    } else {
        output::write(format_args!("{}", record.page()))?;
    }
    Ok(ended)
}

fn list_rows(a: &Arguments) -> Result<ExitStatus> {
    let rows = list::rows(a.data.as_deref(), a.output.as_deref())?;
    if a.json {
        say!("{}", Value::Array(rows))?;
        return Ok(ExitStatus::Yes);
    }
    output::write(format_args!("{}", list::text(&rows)))?;
    eprintln!("* no second source confirms this figure");
    if a.data.is_none() {
        eprintln!("give --data ROOT to see which rows have their files");
    }
    Ok(ExitStatus::Yes)
}

fn run_steps(plan: &Plan, record: &mut Record, place: &DeviceArg) -> Result<ExitStatus> {
    let opened = place.open()?;
    let device = Device { device: &opened, name: &place.device };
    let mut progress = None;
    let show = &mut |event: Event<'_>| match event {
        Event::Step { number, of, name, done } => {
            let done = if done { " is done" } else { "" };
            eprintln!("step {number} of {of}: {name}{done}");
        }
        Event::Training(folder) => progress = Some(Progress::new(folder, &place.device)),
        Event::Run(event) => progress.iter_mut().for_each(|p: &mut Progress<'_>| p.show(event)),
        Event::Trained(report) => {
            progress.take().iter().for_each(Progress::finish);
            report.into_iter().for_each(tell_test);
        }
        Event::Stopped => eprintln!("stopped; continue with --resume"),
    };
    let ended = albef_recipes::run(plan, record, device, &interruptible(), show)?;
    Ok(if ended { ExitStatus::Yes } else { ExitStatus::No })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn every_step_accepts_what_the_recipes_set() {
        let nowhere = Path::new("/nowhere");
        for recipe in recipe::all().unwrap() {
            for small in [false, true] {
                let plan = Plan::new(recipe.clone(), nowhere, nowhere, &[], small, &[]).unwrap();
                albef_recipes::validate(&plan).unwrap();
            }
        }
    }
}
