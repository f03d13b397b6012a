//! The best weights of a run, and which epochs were measured.

use std::io::Write;
use std::path::{Path, PathBuf};

use albef_files::folder;
use albef_report::{JsonLines, Outcomes};
use albef_weights::{KeepAs, write_atomic};
use serde_json::Value;

use super::card::card;
use crate::error::{Error, Result};
use crate::eval::outcomes;
use crate::train::trainer::Trainer;

/// The folder in a run's folder: a model, its score and what it got right.
pub const FOLDER: &str = "best";
const SCORE: &str = "score.json";
/// Every measurement of the run, one a line.
const LOG: &str = "validation.jsonl";

/// The best weights so far. Folder and log together outlive a kill at any time: the log names an
/// epoch only after the folder has taken it.
pub(super) struct Best {
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
        std::fs::create_dir_all(output).map_err(Error::io(output))?;
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
        let log = JsonLines::open(&path, "step", step).map_err(Error::io(&path))?;
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
        let last = text.lines().last().and_then(|l| serde_json::from_str::<Value>(l).ok());
        let measured = last.and_then(|v| v["step"].as_u64());
        Ok(Self { output: output.to_owned(), score, log, measured })
    }

    /// Whether the trainer's weights were measured already.
    pub fn has_measured(&self, trainer: &Trainer) -> bool {
        self.measured == Some(trainer.state.place.step)
    }

    /// Keeps the trainer's weights if they are better, and notes that they were measured.
    pub fn take(
        &mut self,
        trainer: &Trainer,
        score: &Value,
        found: Option<&Outcomes>,
    ) -> Result<()> {
        let new = score["score"].as_f64();
        // Strictly better, as in the official code.
        if self.score.is_none_or(|before| new.is_some_and(|new| new > before)) {
            self.replace(trainer, score, found)?;
            self.score = new;
        }
        self.log.write(score).map_err(Error::io(self.output.join(LOG)))?;
        self.measured = Some(trainer.state.place.step);
        Ok(())
    }

    fn replace(&self, trainer: &Trainer, score: &Value, found: Option<&Outcomes>) -> Result<()> {
        folder::write(&self.output.join(FOLDER), |folder| write(folder, trainer, score, found))?;
        publish(&self.output)
    }
}

fn write(folder: &Path, trainer: &Trainer, score: &Value, found: Option<&Outcomes>) -> Result<()> {
    trainer.export(folder, &card(trainer, None), KeepAs::Same)?;
    if let Some(found) = found {
        outcomes::save(&folder.join(outcomes::FILE), found)?;
    }
    let text = score.to_string();
    write_atomic(&folder.join(SCORE), |f| f.write_all(text.as_bytes()))?;
    Ok(())
}

/// Outcomes lie in the run's folder too, where `albef compare` looks for them.
fn publish(output: &Path) -> Result<()> {
    let from = output.join(FOLDER).join(outcomes::FILE);
    if !from.is_file() {
        return Ok(());
    }
    let bytes = std::fs::read(&from).map_err(Error::io(&from))?;
    write_atomic(&output.join(outcomes::FILE), |f| f.write_all(&bytes))?;
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
pub(super) fn score(output: &Path) -> Result<Value> {
    let path = output.join(FOLDER).join(SCORE);
    let wrong = |what: String| Error::Format {
        path: path.clone(),
        detail: format!(
            "{what}; it says how good the weights beside it are; hint: move that folder away, then the \
             next measured epoch is kept"
        ),
    };
    let text = std::fs::read_to_string(&path).map_err(|e| wrong(e.to_string()))?;
    let value: Value =
        serde_json::from_str(&text).map_err(|e| wrong(format!("the file is damaged ({e})")))?;
    match value.get("score") {
        Some(_) => Ok(value),
        None => Err(wrong("there is no `score`".into())),
    }
}

/// What is trained anew does not compete with what was kept of its former course, nor removes it.
fn set_aside(best: &Path) -> Result<()> {
    if !best.exists() {
        return Ok(());
    }
    let mut numbered = (1..).map(|i| best.with_file_name(format!("{FOLDER}-before-{i}")));
    let Some(aside) = numbered.find(|p| !p.exists()) else { return Ok(()) };
    std::fs::rename(best, &aside).map_err(Error::io(best))?;
    tracing::info!(
        "steps are made anew: weights that were kept of their former course are now in {}",
        aside.display()
    );
    Ok(())
}
