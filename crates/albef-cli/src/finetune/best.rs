//! The best weights of a run, and which epochs were measured.

use std::path::{Path, PathBuf};

use albef::train::folder;
use albef::train::trainer::Trainer;
use albef_report::{JsonLines, Outcomes};
use albef_weights::{KeepAs, write_atomic};
use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::outcomes;
use crate::pretrain::card;

/// The folder in a run's folder: a model, its score and what it got right.
pub const FOLDER: &str = "best";
const SCORE: &str = "score.json";
/// Every measurement of the run, one a line.
const LOG: &str = "validation.jsonl";

/// The best weights so far. Folder and log together outlive a kill at any time: the log names an
/// epoch only after the folder has taken it.
pub struct Best {
    output: PathBuf,
    /// Score of the kept weights; `None` before the first, or where it is no number.
    score: Option<f64>,
    log: JsonLines,
    /// Step of the last measurement.
    measured: Option<u64>,
}

impl Best {
    /// What a run has so far. Measurements of steps that will be made again are forgotten.
    pub fn open(output: &Path, trainer: &Trainer) -> Result<Self> {
        std::fs::create_dir_all(output)
            .with_context(|| format!("cannot create {}", output.display()))?;
        folder::recover(output)?;
        let step = trainer.state.place.step;
        if step == 0 {
            set_aside(&output.join(FOLDER))?;
        }
        let mut kept = kept(output)?;
        let later = |v: &Value| v["step"].as_u64().is_some_and(|best| best > step);
        if kept.as_ref().is_some_and(later) {
            // Steps that will be made again, perhaps at other rates, do not compete with themselves.
            set_aside(&output.join(FOLDER))?;
            kept = None;
        }
        let score = kept.and_then(|v| v["score"].as_f64());
        let path = output.join(LOG);
        let log = JsonLines::open(&path, "step", step)?;
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let last = text.lines().last().and_then(|l| serde_json::from_str::<Value>(l).ok());
        let measured = last.and_then(|v| v["step"].as_u64());
        Ok(Self { output: output.to_owned(), score, log, measured })
    }

    /// Whether the trainer's weights were measured already.
    pub fn has_measured(&self, trainer: &Trainer) -> bool {
        self.measured == Some(trainer.state.place.step)
    }

    /// Keeps the trainer's weights if they are better, and notes that they were measured.
    pub fn take(&mut self, trainer: &Trainer, score: &Value, found: &Outcomes) -> Result<()> {
        let new = score["score"].as_f64();
        // Strictly better, as in the official code.
        if self.score.is_none_or(|before| new.is_some_and(|new| new > before)) {
            self.replace(trainer, score, found)?;
            self.score = new;
        }
        self.log.write(score).with_context(|| format!("cannot write {LOG}"))?;
        self.measured = Some(trainer.state.place.step);
        Ok(())
    }

    fn replace(&self, trainer: &Trainer, score: &Value, found: &Outcomes) -> Result<()> {
        let writing = folder::writing(&self.output)?;
        let written = write(&writing, trainer, score, found)
            .and_then(|()| Ok(folder::replace(&writing, &self.output.join(FOLDER))?));
        if written.is_err() {
            let _ = std::fs::remove_dir_all(&writing);
        }
        written?;
        publish(&self.output)
    }
}

fn write(folder: &Path, trainer: &Trainer, score: &Value, found: &Outcomes) -> Result<()> {
    trainer.export(folder, &card(trainer, None), KeepAs::Same)?;
    outcomes::save(&folder.join(outcomes::IN_A_RUN), found)?;
    let text = score.to_string();
    write_atomic(&folder.join(SCORE), |f| std::io::Write::write_all(f, text.as_bytes()))?;
    Ok(())
}

/// Outcomes lie in the run's folder too, where `albef compare` looks for them.
fn publish(output: &Path) -> Result<()> {
    let from = output.join(FOLDER).join(outcomes::IN_A_RUN);
    if !from.is_file() {
        return Ok(());
    }
    let bytes = std::fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
    write_atomic(&output.join(outcomes::IN_A_RUN), |f| std::io::Write::write_all(f, &bytes))?;
    Ok(())
}

/// The score of the kept weights; `None` if none are kept. A kill may have come between them and the
/// copy of their outcomes, which is made good here.
fn kept(output: &Path) -> Result<Option<Value>> {
    if !output.join(FOLDER).exists() {
        return Ok(None);
    }
    let value = score(output)?;
    publish(output)?;
    Ok(Some(value))
}

/// What was measured with the kept weights.
pub fn score(output: &Path) -> Result<Value> {
    let path = output.join(FOLDER).join(SCORE);
    let hint = "it says how good the weights beside it are; hint: move that folder away, then the \
                next measured epoch is kept";
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}: {hint}", path.display()))?;
    let value: Value = serde_json::from_str(&text)
        .with_context(|| format!("{} is damaged: {hint}", path.display()))?;
    if value.get("score").is_none() {
        bail!("{} has no `score`: {hint}", path.display());
    }
    Ok(value)
}

/// What is trained anew does not compete with what was kept of its former course, nor removes it.
fn set_aside(best: &Path) -> Result<()> {
    if !best.exists() {
        return Ok(());
    }
    let mut numbered = (1..).map(|i| best.with_file_name(format!("{FOLDER}-before-{i}")));
    let Some(aside) = numbered.find(|p| !p.exists()) else { return Ok(()) };
    std::fs::rename(best, &aside).with_context(|| format!("cannot rename {}", best.display()))?;
    eprintln!(
        "steps are made anew: weights that were kept of their former course are now in {}",
        aside.display()
    );
    Ok(())
}
