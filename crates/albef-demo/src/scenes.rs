//! Images with known content, composed of cut-outs, with lists for every task.

use std::path::PathBuf;

use albef::train::corpus_vocabulary;
use albef_data::scenes::{Sprites, TaskCorpus, build_tasks, write_tasks};
use anyhow::{Context, Result, bail};

/// The list that is written last.
const ANSWERS: &str = "answers.json";

/// How many scenes, of what, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SceneOptions {
    /// Folder for images and lists.
    pub output: PathBuf,
    /// Scenes of each task to train on, 1 to 1,000,000; the other splits have a fifth of it.
    pub scenes: usize,
    /// Side of the images in pixels, 16 to 1024.
    pub size: usize,
    /// Seed of everything drawn.
    pub seed: u64,
    /// Cut-outs to compose, `STYLE/NAME.png` or `NAME.png`; the built-in emoji art if not given.
    pub sprites: Option<PathBuf>,
    /// Style of the cut-outs that only `test` shows; the last one by name if not given.
    pub unseen: Option<String>,
    /// Concepts of `train`, `val` and `test`; nine tenths if not given.
    pub concepts: Option<usize>,
}

/// What was written.
#[derive(Clone, Debug)]
pub struct Scenes {
    /// The splits.
    pub splits: Vec<TaskCorpus>,
    /// Cut-outs that were skipped, with the reason.
    pub skipped: Vec<String>,
}

/// Composes and writes scenes, all or nothing.
///
/// # Errors
/// If an option is impossible, the folder has scenes already, or something cannot be read or written.
pub fn write_scenes(options: &SceneOptions) -> Result<Scenes> {
    if !(16..=1024).contains(&options.size) || !(1..=1_000_000).contains(&options.scenes) {
        bail!("--size must be from 16 to 1024 and --scenes from 1 to 1000000");
    }
    let output = &options.output;
    if output.join(ANSWERS).exists() {
        bail!("{} already holds scenes; choose another folder", output.display());
    }
    let (all, skipped) = match &options.sprites {
        None => (Sprites::embedded()?, Vec::new()),
        Some(folder) => Sprites::from_folder(folder, options.unseen.as_deref())?,
    };
    let (trained, others) = all.choose(options.concepts, options.seed)?;
    let splits =
        build_tasks(&trained, others.as_ref(), options.seed, options.size, options.scenes)?;
    let vocabulary = corpus_vocabulary(splits.iter().flat_map(TaskCorpus::texts))?;
    albef_files::folder::fill(output, ANSWERS, |folder| -> Result<()> {
        let words = folder.join("vocab.txt");
        std::fs::write(&words, &vocabulary)
            .with_context(|| format!("cannot write {}", words.display()))?;
        Ok(write_tasks(&splits, folder)?)
    })
    .with_context(|| format!("cannot write scenes to {}", output.display()))?;
    Ok(Scenes { splits, skipped })
}
