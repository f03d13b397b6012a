//! What a model brings along about its use: thresholds, templates and maps that were found to suit it.
//!
//! They are in a file `defaults.json` of the model folder, beside `config.json`, and hold where nothing else is asked
//! for. [`crate::calibration`] measures most of them.

use std::io::Write;
use std::path::{Path, PathBuf};

use albef_data::image::{Background, DecodeOptions};
use albef_data::input::read_json;
use albef_weights::write_atomic;
use serde::{Deserialize, Serialize};

use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::gradcam::GroundingMode;
use crate::model_path::find_model;

/// Templates of a model.
const MAX_TEMPLATES: usize = 100;

/// Candidate answers of a model.
const MAX_ANSWERS: usize = 100_000;

/// Area under the ROC curve from which a match probability tells something.
const RELIABLE: f64 = 0.7;

/// What a model does where nothing else is asked for. Every field may be absent.
///
/// ```
/// use albef::ModelDefaults;
///
/// let found: ModelDefaults = serde_json::from_str(
///     r#"{"about": "drawings of single objects", "match_threshold": 0.4, "templates": ["{}", "a {}"]}"#,
/// )?;
/// assert_eq!(found.filled("dog"), ["dog", "a dog"]);
/// assert_eq!(ModelDefaults::default().filled("dog"), ["dog"]);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelDefaults {
    /// What the model is for, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// The map by which a phrase is found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ground: Option<GroundDefaults>,
    /// Probability of the matching head under which nothing matches: if the best image of a search has less, no
    /// image shows what the text says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub match_threshold: Option<f64>,
    /// Area under the ROC curve of the best match probability of a search, with its image there and without it: 1 if it
    /// tells the two apart, 0.5 if it says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub match_auc: Option<f64>,
    /// Weight of the log-odds of a match in the order `posterior`, beside the cosine over the temperature; 1 if not
    /// given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub match_weight: Option<f32>,
    /// Sentences with `{}` in the place of a text. The feature of a text is the mean of them all, unit length; the
    /// matching head reads the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub templates: Vec<String>,
    /// What is behind transparent pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub background: Option<Background>,
    /// Answers among which a model for questions chooses, where none are given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<String>,
}

/// The map by which a phrase is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroundDefaults {
    /// The score that it explains.
    #[serde(default)]
    pub mode: GroundingMode,
    /// Its layer; [`GroundingMode::default_layer`] if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<usize>,
}

impl ModelDefaults {
    /// The name of the file.
    pub const FILE: &str = "defaults.json";

    /// Those in a folder; none if it has no such file.
    ///
    /// # Errors
    /// If the file cannot be read, has a field that is not known, or a value that cannot be.
    pub fn of_folder(folder: &Path) -> Result<Self> {
        let path = folder.join(Self::FILE);
        if path.symlink_metadata().is_err() {
            return Ok(Self::default());
        }
        let found: Self = read_json(&path, "an object of defaults of a model")?;
        found.check(&path)?;
        Ok(found)
    }

    /// Those of a model, by its folder, its weights file or its name, without opening the model. None where no model
    /// is, which opening it reports.
    ///
    /// # Errors
    /// As [`ModelDefaults::of_folder`].
    pub fn of_model(model: &Path) -> Result<Self> {
        match find_model(model) {
            Ok(path) if path.is_dir() => Self::of_folder(&path),
            Ok(path) => path.parent().map_or_else(|| Ok(Self::default()), Self::of_folder),
            Err(_) => Ok(Self::default()),
        }
    }

    /// How one's own images are read for this model: upright, on its background if it has one.
    #[must_use]
    pub fn own_images(&self) -> DecodeOptions {
        let own = DecodeOptions::own_images();
        DecodeOptions { background: self.background.unwrap_or(own.background), ..own }
    }

    /// Whether the match probability tells whether an image matches; also where nobody has measured it.
    #[must_use]
    pub fn is_match_reliable(&self) -> bool {
        self.match_auc.is_none_or(|auc| auc >= RELIABLE)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Writes them to a folder, whole or not at all. A file that is there is replaced.
    ///
    /// # Errors
    /// If a value cannot be, or the file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<PathBuf> {
        let path = folder.join(Self::FILE);
        self.check(&path)?;
        let text = serde_json::to_string_pretty(self)
            .map_err(|e| Error::Format { path: path.clone(), detail: e.to_string() })?;
        write_atomic(&path, |f| f.write_all(format!("{text}\n").as_bytes()))?;
        Ok(path)
    }

    /// What of them may hold for other weights in the same folder: all but what was measured.
    #[must_use]
    pub fn for_other_weights(&self) -> Self {
        let Self { about, templates, background, answers, .. } = self.clone();
        Self { about, templates, background, answers, ..Self::default() }
    }

    /// The templates with a text in the place of `{}`; the text itself where there are no templates.
    #[must_use]
    pub fn filled(&self, text: &str) -> Vec<String> {
        match self.templates.is_empty() {
            true => vec![text.to_owned()],
            false => self.templates.iter().map(|t| t.replace("{}", text)).collect(),
        }
    }

    fn check(&self, path: &Path) -> Result<()> {
        let wrong = |detail: String| Err(Error::Format { path: path.to_owned(), detail });
        if let Some(about) = &self.about
            && (about.trim().is_empty() || about.chars().any(char::is_control))
        {
            return wrong("`about` must be one line with something in it".into());
        }
        if let Some(p) = self.match_threshold
            && !(0.0..=1.0).contains(&p)
        {
            return wrong(format!("`match_threshold` is {p}; it is a probability, from 0 to 1"));
        }
        if let Some(auc) = self.match_auc
            && !(0.0..=1.0).contains(&auc)
        {
            return wrong(format!("`match_auc` is {auc}; it is an area, from 0 to 1"));
        }
        if let Some(weight) = self.match_weight
            && !(weight.is_finite() && weight >= 0.0)
        {
            return wrong(format!("`match_weight` is {weight}; it must be 0 or more"));
        }
        if self.answers.len() > MAX_ANSWERS {
            let n = self.answers.len();
            return wrong(format!("`answers` are {n}; {MAX_ANSWERS} are the limit"));
        }
        if let Some(i) = self.answers.iter().position(|answer| answer.trim().is_empty()) {
            return wrong(format!("answer {i} of `answers` is empty"));
        }
        if self.templates.len() > MAX_TEMPLATES {
            let n = self.templates.len();
            return wrong(format!("`templates` are {n}; {MAX_TEMPLATES} are the limit"));
        }
        match self.templates.iter().find(|t| !t.contains("{}")) {
            Some(bad) => {
                wrong(format!("the template `{bad}` has no `{{}}` in the place of the text"))
            }
            None => Ok(()),
        }
    }

    /// Whether they fit a model of these sizes; `folder`: where they are from.
    pub(crate) fn check_sizes(&self, config: &ModelConfig, folder: &Path) -> Result<()> {
        let Some(GroundDefaults { mode, layer: Some(layer) }) = self.ground else { return Ok(()) };
        let layers = mode.layers(config);
        if layers.contains(&layer) {
            return Ok(());
        }
        Err(Error::Format {
            path: folder.join(Self::FILE),
            detail: format!(
                "`ground`: this model has no layer {layer} for the mode `{}`; there are {} to {}",
                mode.name(),
                layers.start,
                layers.end.saturating_sub(1)
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ModelDefaults> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(ModelDefaults::FILE), text).unwrap();
        ModelDefaults::of_folder(dir.path())
    }

    #[test]
    fn what_is_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        assert!(ModelDefaults::of_folder(dir.path()).unwrap().is_empty());
        let all = ModelDefaults {
            about: Some("drawings".into()),
            ground: Some(GroundDefaults { mode: GroundingMode::Itc, layer: Some(3) }),
            match_threshold: Some(0.25),
            match_auc: Some(0.875),
            match_weight: Some(0.5),
            templates: vec!["{}".into(), "a {}".into()],
            background: Some(Background::WHITE),
            answers: vec!["yes".into(), "no".into()],
        };
        let path = all.write(dir.path()).unwrap();
        assert_eq!(ModelDefaults::of_folder(dir.path()).unwrap(), all);
        assert_eq!(ModelDefaults::of_model(dir.path()).unwrap(), all);
        let weights = dir.path().join("model.pth");
        std::fs::write(&weights, "").unwrap();
        assert_eq!(ModelDefaults::of_model(&weights).unwrap(), all);
        // Only what is given is written.
        ModelDefaults { match_threshold: Some(0.5), ..ModelDefaults::default() }
            .write(dir.path())
            .unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(text, "{\n  \"match_threshold\": 0.5\n}\n");
    }

    #[test]
    fn what_was_measured_goes_with_the_weights() {
        let dir = tempfile::tempdir().unwrap();
        let config = ModelConfig::nano();
        let schema = crate::task::TaskRef::pretrain().schema(&config);
        let params = crate::init::fresh_params(&schema, 0.07, 3, &crate::params::cpu()).unwrap();
        let save = || {
            let keep_as = albef_weights::KeepAs::Same;
            crate::checkpoint::save_model_folder(dir.path(), &config, &params, "a\n", "", keep_as)
                .unwrap();
        };
        save();
        assert!(!dir.path().join(ModelDefaults::FILE).exists());
        let background = Some(Background::WHITE);
        let all = ModelDefaults { match_threshold: Some(0.3), background, ..Default::default() };
        all.write(dir.path()).unwrap();
        save();
        let kept = ModelDefaults::of_folder(dir.path()).unwrap();
        assert_eq!(kept, ModelDefaults { match_threshold: None, ..all });
    }

    #[test]
    fn wrong_values_are_errors_that_name_file_and_field() {
        for (text, part) in [
            (r#"{"treshold": 0.5}"#, "treshold"),
            (r#"{"match_threshold": 1.5}"#, "`match_threshold` is 1.5"),
            (r#"{"match_auc": -0.5}"#, "`match_auc` is -0.5"),
            (r#"{"match_weight": -1}"#, "`match_weight`"),
            (r#"{"templates": ["a picture"]}"#, "`a picture` has no `{}`"),
            (r#"{"about": "two\nlines"}"#, "`about`"),
            (r#"{"answers": ["yes", " "]}"#, "answer 1 of `answers` is empty"),
            (r#"{"background": "green"}"#, "`green`"),
            (r#"{"ground": {"mode": "both"}}"#, "both"),
            ("[1]", "an object of defaults"),
            ("{", "an object of defaults"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains("defaults.json") && error.contains(part), "{text}: {error}");
        }
        let layer = r#"{"ground": {"mode": "itc", "layer": 99}}"#;
        let error = read(layer).unwrap().check_sizes(&ModelConfig::nano(), "it".as_ref());
        assert!(error.unwrap_err().to_string().contains("no layer 99"));
    }
}
