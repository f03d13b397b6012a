//! `albef demo`.

use std::path::PathBuf;
use std::time::Instant;

use albef_demo::{CANDIDATES, Event, Options, run as demonstrate};
use anyhow::Result;
use indicatif::ProgressBar;

use crate::ExitStatus;
use crate::output::say;
use crate::train::{Progress, interruptible};

#[derive(clap::Args)]
pub struct Arguments {
    /// Minutes of training; the task is chosen such that most searches come out right on this machine.
    #[arg(long, default_value_t = 6.0)]
    minutes: f64,
    /// Steps of training instead: equal steps and seeds give equal results on machines with the same instructions.
    #[arg(long, conflicts_with = "minutes")]
    steps: Option<u64>,
    /// Things that are shown, 8 to 160; chosen by the number of steps if not given.
    #[arg(long)]
    concepts: Option<usize>,
    /// Folder for data, run, model and report.
    #[arg(long, default_value = "albef-demo")]
    output: PathBuf,
    /// Seed of corpus and training.
    #[arg(long, default_value_t = 42)]
    seed: u64,
}

pub fn run(a: &Arguments) -> Result<ExitStatus> {
    let options = Options {
        minutes: a.minutes,
        steps: a.steps,
        concepts: a.concepts,
        output: a.output.clone(),
        seed: a.seed,
        shipped: albef::default_model(),
    };
    let (started, folder) = (Instant::now(), a.output.join("run"));
    let (mut progress, trials) = (Progress::new(&folder, "cpu"), ProgressBar::new(0));
    let made = demonstrate(&options, &interruptible(), &mut |event| match event {
        Event::Status(line) => eprintln!("{line}"),
        Event::Trial(step, all) => {
            trials.set_length(*all);
            trials.set_position(*step);
            if step == all {
                trials.finish_and_clear();
            }
        }
        Event::Run(event) => progress.show(event),
    });
    progress.finish();
    let Some(made) = made? else { return Ok(ExitStatus::No) };
    say!("{}", made.report.display())?;
    let seconds = started.elapsed().as_secs_f64();
    eprintln!("\ndone in {seconds:.0} s; the report is {}", made.report.display());
    eprintln!("to repeat this run: albef demo {}\nnext:", made.repeat);
    // As it was called, so that the commands can be pasted.
    let program = std::env::args().next().unwrap_or_else(|| "albef".into());
    let (out, caption) = (a.output.display(), made.caption);
    for command in [
        format!("search \"{caption}\" {out}/data/val_scenes"),
        format!("serve {out}/data/val_scenes"),
        format!("match {out}/data/val_style/00000.png \"a joker\""),
        format!(
            "evaluate retrieval --annotations {out}/data/val_style.json --image-root {out}/data \
             --rerank-k {CANDIDATES}"
        ),
    ] {
        eprintln!("  {program} {command} --model {out}/run/model");
    }
    Ok(ExitStatus::Yes)
}
