//! Continuing a run, and knowing that it is the same one.

use albef_files::folder;
use serde_json::Value;

use super::Trainer;
use crate::error::{Error, Result};
use crate::train::checkpoint;
use crate::train::identity::RunFingerprint;

/// Keys that name what a run starts from. Once it has a checkpoint, nothing is taken from there.
const STARTS: [&str; 4] = ["checkpoint", "init_albef", "init_text", "init_vision"];

impl Trainer {
    /// Continues from the newest whole checkpoint of the output folder. `None` if there is none;
    /// otherwise what the reader should know about it, often nothing.
    ///
    /// # Errors
    /// If that checkpoint is damaged or of another run, with the keys in which they differ.
    pub fn resume(&mut self) -> Result<Option<Vec<String>>> {
        folder::recover(&self.checkpoints())?;
        let Some(newest) = checkpoint::list(&self.checkpoints())?.pop() else { return Ok(None) };
        let mut notes: Vec<String> = self.vocabulary_note.iter().cloned().collect();
        let before = checkpoint::identity(&newest)?;
        match &before {
            Some(before) => notes.extend(self.compare(before)?),
            None => notes.push(
                "the checkpoint does not say of what configuration and data it is: whether they \
                 are those of now is not checked"
                    .to_owned(),
            ),
        }
        checkpoint::load(&newest, &mut self.state, &self.device)?;
        self.saved = Some(self.state.place.step);
        if let Some(before) = &before {
            notes.extend(self.jump(&before.config));
        }
        Ok(Some(notes))
    }

    /// Both rates where the next step has another one than it would have had by the former configuration.
    fn jump(&self, before: &Value) -> Option<String> {
        let mut was = self.config.train().clone();
        was.optim.max_steps = before["max_steps"].as_u64().unwrap_or(was.optim.max_steps);
        was.optim.optimizer.lr =
            before["optimizer"]["lr"].as_f64().unwrap_or(was.optim.optimizer.lr);
        let place = &self.state.place;
        let (now, former) = (self.step_settings(), self.settings_of(&was));
        let (next, planned) = (now.learning_rate(place), former.learning_rate(place));
        if place.step == 0
            || place.step >= self.total_steps()
            || (next - planned).abs() <= 1e-9 * planned.abs()
        {
            return None;
        }
        let mut last = place.clone();
        last.step -= 1;
        if last.batch == 0 {
            (last.epoch, last.batch) = (last.epoch.saturating_sub(1), self.epoch_batches());
        }
        last.batch = last.batch.saturating_sub(1);
        let key = if self.config.start().is_some() { "checkpoint" } else { "init_albef" };
        Some(format!(
            "the rate goes from {:.3e} (step {}) to {next:.3e} (step {}); `{key}={}` in another folder \
             starts a new run from these weights",
            former.learning_rate(&last),
            place.step,
            place.step + 1,
            self.output.display()
        ))
    }

    /// An error if a checkpoint is of another run; notes if its rates were others or made for another
    /// length, or another start is named, which is not read any more.
    fn compare(&self, before: &RunFingerprint) -> Result<Vec<String>> {
        let now = self.identity();
        let differences = before.differences(&now);
        if !differences.is_empty() {
            return Err(Error::Config(format!(
                "{folder} holds a run of another configuration: {}; hint: give the former values to \
                 continue it, or choose another folder, where `{key}={folder}` starts from its weights",
                differences.join("; "),
                folder = self.output.display(),
                key = if self.config.start().is_some() { "checkpoint" } else { "init_albef" }
            )));
        }
        let (was, is) = (before.config["max_steps"].as_u64(), self.config.train().optim.max_steps);
        let per_step = self.config.train().optim.schedular.sched == "per_step";
        let mut notes = Vec::new();
        let mut before_it = self.config.train().clone();
        before_it.optim.max_steps = was.unwrap_or(is);
        let other_length = self.steps_of(&before_it) != self.total_steps();
        if let Some(was) = was.filter(|_| other_length && per_step) {
            notes.push(format!(
                "`max_steps` was {was} and is {is}: the rates of `per_step` follow the new one"
            ));
        }
        let rate = |config: &Value| config["optimizer"]["lr"].as_f64();
        let (was, is) = (rate(&before.config), rate(&now.config));
        if let (Some(was), Some(is)) = (was, is)
            // A number may lose its last bit in a file.
            && (was - is).abs() > 1e-12 * was.abs()
        {
            notes.push(format!(
                "`optimizer.lr` was {was} and is {is}: the run goes on with the new one"
            ));
        }
        for key in STARTS {
            let (was, is) = (&before.config[key], &now.config[key]);
            if !was.is_null() && !is.is_null() && was != is {
                notes.push(format!("`{key}` was {was} and is {is}: the run keeps its own weights"));
            }
        }
        Ok(notes)
    }

    pub(super) fn identity(&self) -> RunFingerprint {
        RunFingerprint {
            task: self.config.task(),
            config: self.config.record(),
            samples: self.data.len(),
            data: self.data_hash.clone(),
        }
    }
}
