//! `albef data`.

use std::path::PathBuf;

use albef_data::scenes::{build_tasks, write_tasks};
use anyhow::{Context, Result, bail};

use crate::Answer;

#[derive(clap::Subcommand)]
pub enum Command {
    /// Pictures with known content, with lists for every task.
    Scenes(ScenesArguments),
}

#[derive(clap::Args)]
pub struct ScenesArguments {
    /// Folder for pictures and lists.
    #[arg(long)]
    output: PathBuf,
    /// Scenes of each task to train on; `val` and `test` have a fifth of it.
    #[arg(long, default_value_t = 1000)]
    scenes: usize,
    /// Side of the pictures.
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Seed of everything drawn.
    #[arg(long, default_value_t = 42)]
    seed: u64,
}

pub fn run(command: &Command) -> Result<Answer> {
    let Command::Scenes(a) = command;
    if a.size < 16 || a.scenes == 0 {
        bail!("--size must be at least 16 and --scenes at least 1");
    }
    if a.output.join("answers.json").exists() {
        bail!("{} already holds scenes; choose another folder", a.output.display());
    }
    let splits = build_tasks(a.seed, a.size, a.scenes)?;
    write_tasks(&splits, &a.output)
        .with_context(|| format!("cannot write scenes to {}", a.output.display()))?;
    for s in &splits {
        println!(
            "{}: {} pictures, {} captioned, {} questions, {} statements, {} sentences, {} \
             expressions",
            s.name,
            s.pictures.len(),
            s.captions.len(),
            s.vqa.len(),
            s.nlvr.len(),
            s.ve.len(),
            s.grounding.len()
        );
    }
    Ok(Answer::Yes)
}
