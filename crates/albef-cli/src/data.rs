//! `albef data`.

use std::path::PathBuf;

use albef_data::scenes::{Sprites, build_tasks, write_tasks};
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
    /// Cut-outs to compose, instead of the emoji art that is built in: `STYLE/NAME.png` with transparency, or
    /// `NAME.png` for a single style.
    #[arg(long, value_name = "FOLDER")]
    sprites: Option<PathBuf>,
    /// Style of the cut-outs that only `test` shows; the last one by name if not given.
    #[arg(long, requires = "sprites")]
    unseen: Option<String>,
    /// Only so many concepts, drawn by the seed.
    #[arg(long, value_name = "N")]
    concepts: Option<usize>,
}

/// Left-out cut-outs that are named one by one.
const SHOWN: usize = 10;

fn sprites(a: &ScenesArguments) -> Result<Sprites> {
    let all = match &a.sprites {
        None => Sprites::embedded()?,
        Some(folder) => {
            let (sprites, left_out) = Sprites::from_folder(folder, a.unseen.as_deref())?;
            for line in left_out.iter().take(SHOWN) {
                eprintln!("left out: {line}");
            }
            if left_out.len() > SHOWN {
                eprintln!("and {} more", left_out.len() - SHOWN);
            }
            sprites
        }
    };
    Ok(match a.concepts {
        Some(n) => all.choose(n, a.seed)?,
        None => all,
    })
}

pub fn run(command: &Command) -> Result<Answer> {
    let Command::Scenes(a) = command;
    if a.size < 16 || a.scenes == 0 {
        bail!("--size must be at least 16 and --scenes at least 1");
    }
    if a.output.join("answers.json").exists() {
        bail!("{} already holds scenes; choose another folder", a.output.display());
    }
    let splits = build_tasks(&sprites(a)?, a.seed, a.size, a.scenes)?;
    write_tasks(&splits, &a.output)
        .with_context(|| format!("cannot write scenes to {}", a.output.display()))?;
    for s in &splits {
        println!(
            "{}: {} pictures, {} of single things, {} of captioned scenes, {} questions, {} \
             statements, {} sentences, {} expressions",
            s.name,
            s.pictures.len(),
            s.things.len(),
            s.captions.len(),
            s.vqa.len(),
            s.nlvr.len(),
            s.ve.len(),
            s.grounding.len()
        );
    }
    Ok(Answer::Yes)
}
