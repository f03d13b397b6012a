//! Continuing a run, and knowing that it is the same one.

use serde_json::Value;

use super::Trainer;
use crate::config::FinetuneConfig;
use crate::error::{Error, Result};
use crate::train::identity::Identity;
use crate::train::{checkpoint, folder};

impl Trainer {
    /// Continues from the newest whole checkpoint of the output folder. `None` if there is none;
    /// otherwise what the reader should know about it, often nothing.
    ///
    /// # Errors
    /// If that checkpoint is damaged or of another run, with the keys in which they differ.
    pub fn resume(&mut self) -> Result<Option<Vec<String>>> {
        folder::recover(&self.checkpoints())?;
        let Some(newest) = checkpoint::list(&self.checkpoints())?.pop() else { return Ok(None) };
        let mut notes = Vec::new();
        match checkpoint::identity(&newest)? {
            Some(before) => notes.extend(self.compare(&before)?),
            None => notes.push(
                "the checkpoint does not say of what configuration and data it is: whether they \
                 are those of now is not checked"
                    .to_owned(),
            ),
        }
        checkpoint::load(&newest, &mut self.state, &self.device)?;
        self.saved = Some(self.state.place.step);
        Ok(Some(notes))
    }

    /// An error if a checkpoint is of another run; a note if its rates were made for another length.
    fn compare(&self, before: &Identity) -> Result<Option<String>> {
        let differences = before.differences(&self.identity()?);
        if !differences.is_empty() {
            return Err(Error::Config(format!(
                "{} holds a run of another configuration: {}; hint: give the former values to \
                 continue it, or choose another folder",
                self.output.display(),
                differences.join("; ")
            )));
        }
        let (was, is) = (before.config["max_steps"].as_u64(), self.config.max_steps);
        let changed = self.config.schedular.sched == "per_step" && was.is_some_and(|w| w != is);
        Ok(changed.then(|| {
            let was = was.unwrap_or_default();
            format!("`max_steps` was {was} and is {is}: the rates of `per_step` follow the new one")
        }))
    }

    pub(super) fn identity(&self) -> Result<Identity> {
        Ok(Identity {
            task: self.objective,
            config: self.record()?,
            samples: self.data.len(),
            data: self.data_hash.clone(),
        })
    }

    /// The whole configuration with all defaults, fine-tuning's own keys included.
    ///
    /// # Errors
    /// Never for a configuration that was parsed.
    pub fn record(&self) -> Result<Value> {
        let base = self.config.clone();
        let value = match &self.tuning {
            Some(tuning) => serde_json::to_value(FinetuneConfig { base, ..tuning.clone() }),
            None => serde_json::to_value(base),
        };
        value.map_err(|e| Error::Config(e.to_string()))
    }

    /// The configuration of fine-tuning, if it is that.
    #[must_use]
    pub fn tuning(&self) -> Option<&FinetuneConfig> {
        self.tuning.as_ref()
    }
}
