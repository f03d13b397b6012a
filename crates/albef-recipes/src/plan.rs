//! A recipe with the reader's data, folder and changes: which steps run, on which files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

use crate::recipe::{FileEntry, Form, Keep, Recipe, Run, Step, files, filled, names_in};

/// What `--smoke` changes in a training step: two steps of four images of 32 pixels.
const SMALL: &[&str] = &[
    "image_res=32",
    "batch_size=4",
    "queue_size=32",
    "accumulate=1",
    "max_steps=2",
    "schedular.epochs=1",
];
/// And in pre-training: the smallest model from random weights.
const SMALL_PRETRAIN: &[&str] =
    &["preset=nano", "vision_width=128", "embed_dim=32", "init_text=''", "init_vision=''"];
const SMALL_FINETUNE: &[&str] = &["batch_size_train=4", "k_test=8"];

/// A recipe ready to run.
pub struct Plan {
    /// The recipe.
    pub recipe: Recipe,
    /// The data root.
    pub data: PathBuf,
    /// The folder of the run.
    pub output: PathBuf,
    /// Models that stand in for training steps.
    pub models: BTreeMap<String, PathBuf>,
    /// Whether training steps are shortened to two steps.
    pub small: bool,
    /// The changes as they were typed.
    pub changed: Vec<String>,
    changes: BTreeMap<String, Vec<(String, Value)>>,
    files: BTreeMap<String, FileEntry>,
}

fn pair(setting: &str) -> Result<(String, Value)> {
    let (key, value) = setting
        .split_once('=')
        .with_context(|| format!("`{setting}` must have the form key=value"))?;
    let value = serde_norway::from_str(value).with_context(|| format!("in `{setting}`"))?;
    Ok((key.trim().to_owned(), value))
}

impl Plan {
    /// `models` are `STEP=PATH`, `changed` are `KEY=VALUE` for all training steps or
    /// `STEP:KEY=VALUE` for one step.
    ///
    /// # Errors
    /// If one of them has another form or names a step that is not there.
    pub fn new(
        recipe: Recipe,
        data: &Path,
        output: &Path,
        models: &[String],
        small: bool,
        changed: &[String],
    ) -> Result<Self> {
        let trained: Vec<&str> =
            recipe.steps.iter().filter(|s| s.run.trains()).map(|s| s.name.as_str()).collect();
        let mut given = BTreeMap::new();
        for model in models {
            let (step, path) = model
                .split_once('=')
                .with_context(|| format!("--model {model} must have the form STEP=PATH"))?;
            if !trained.contains(&step) {
                bail!(
                    "--model {model}: `{}` has no training step `{step}`; it has {}",
                    recipe.id,
                    trained.join(", ")
                );
            }
            given.insert(step.to_owned(), PathBuf::from(path));
        }
        let mut changes: BTreeMap<String, Vec<(String, Value)>> = BTreeMap::new();
        let mut add = |step: &Step, setting: &str| -> Result<()> {
            changes.entry(step.name.clone()).or_default().push(pair(setting)?);
            Ok(())
        };
        for step in recipe.steps.iter().filter(|s| small && s.run.trains()) {
            let own = if step.run == Run::Pretrain { SMALL_PRETRAIN } else { SMALL_FINETUNE };
            for setting in SMALL.iter().chain(own) {
                add(step, setting)?;
            }
        }
        for setting in changed {
            let key = setting.split('=').next().unwrap_or_default();
            match key.split_once(':') {
                None => {
                    for step in recipe.steps.iter().filter(|s| s.run.trains()) {
                        add(step, setting)?;
                    }
                }
                Some((name, _)) => {
                    let Some(step) = recipe.steps.iter().find(|s| s.name == name) else {
                        let names = recipe.steps.iter().map(|s| s.name.as_str());
                        bail!(
                            "--set {setting}: `{}` has no step `{name}`; it has {}",
                            recipe.id,
                            names.collect::<Vec<_>>().join(", ")
                        );
                    };
                    add(step, &setting[name.len() + 1..])?;
                }
            }
        }
        Ok(Self {
            recipe,
            data: data.to_owned(),
            output: output.to_owned(),
            models: given,
            small,
            changed: changed.to_vec(),
            changes,
            files: files()?,
        })
    }

    fn changes_of(&self, step: &Step) -> &[(String, Value)] {
        self.changes.get(&step.name).map_or(&[], Vec::as_slice)
    }

    /// The keys of a step that the recipe sets and nobody changed.
    fn kept<'a>(&'a self, step: &'a Step) -> impl Iterator<Item = (&'a String, &'a Value)> {
        let changes = self.changes_of(step);
        step.set.iter().filter(move |(key, _)| !changes.iter().any(|(k, _)| k == *key))
    }

    fn names(&self, step: &Step) -> Vec<String> {
        let mut names = Vec::new();
        self.kept(step).for_each(|(_, value)| names_in(value, &mut names));
        names
    }

    /// The steps to run: all but those that a given model replaces and those that only serve them.
    #[must_use]
    pub fn steps(&self) -> Vec<&Step> {
        let mut running: Vec<&Step> = Vec::new();
        for (i, step) in self.recipe.steps.iter().enumerate().rev() {
            let own = format!("step:{}", step.name);
            let serves = |s: &&Step| self.names(s).contains(&own);
            let ends = !self.recipe.steps[i + 1..].iter().any(|s| serves(&s));
            let needed = ends || running.iter().any(serves);
            if needed && !self.models.contains_key(&step.name) {
                running.push(step);
            }
        }
        running.reverse();
        running
    }

    /// The files that those steps need, by name.
    #[must_use]
    pub fn needed(&self) -> Vec<(&str, &FileEntry)> {
        let mut wanted: Vec<String> = self.steps().iter().flat_map(|s| self.names(s)).collect();
        wanted.sort();
        wanted.dedup();
        let entry = |name: &String| self.files.get_key_value(name);
        wanted.iter().filter_map(entry).map(|(name, entry)| (name.as_str(), entry)).collect()
    }

    /// The path of a file.
    #[must_use]
    pub fn place(&self, entry: &FileEntry) -> PathBuf {
        let path = self.data.join(&entry.path);
        if entry.form == Form::Model { weights_in(&path) } else { path }
    }

    /// The weights that a training step hands on.
    #[must_use]
    pub fn model_of(&self, step: &Step) -> PathBuf {
        let folder = if step.keep == Keep::Best { "best" } else { "model" };
        let own = || self.output.join(&step.name).join(folder);
        self.models.get(&step.name).cloned().unwrap_or_else(own)
    }

    /// The keys and values of a step, with paths in place of names and with all changes.
    ///
    /// # Errors
    /// If a name is unknown.
    pub fn settings(&self, step: &Step) -> Result<Map<String, Value>> {
        let of = |name: &str| -> Result<String> {
            if let Some(earlier) = name.strip_prefix("step:") {
                let step = self.recipe.steps.iter().find(|s| s.name == earlier);
                let step = step.with_context(|| format!("there is no step `{earlier}`"))?;
                return Ok(self.model_of(step).display().to_string());
            }
            let entry =
                self.files.get(name).with_context(|| format!("there is no file `{name}`"))?;
            Ok(self.place(entry).display().to_string())
        };
        let mut out = Map::new();
        for (key, value) in self.kept(step) {
            out.insert(key.clone(), filled(value, &of)?);
        }
        for (key, value) in self.changes_of(step) {
            out.insert(key.clone(), value.clone());
        }
        Ok(out)
    }
}

/// A model folder as it is; where it has no `model.safetensors` but one `.pth`, that file.
fn weights_in(folder: &Path) -> PathBuf {
    if folder.join("model.safetensors").is_file() {
        return folder.to_owned();
    }
    let found = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path());
    let found: Vec<PathBuf> = found.filter(|p| p.extension().is_some_and(|e| e == "pth")).collect();
    match &found[..] {
        [one] => one.clone(),
        _ => folder.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::named;

    fn plan(id: &str, models: &[&str], changed: &[&str]) -> Result<Plan> {
        let own = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let (data, output) = (Path::new("/data"), Path::new("/out"));
        Plan::new(named(id)?, data, output, &own(models), false, &own(changed))
    }

    #[test]
    fn a_given_model_spares_its_step_and_what_only_serves_it() {
        let names = |p: &Plan| p.steps().iter().map(|s| s.name.clone()).collect::<Vec<_>>();
        let whole = plan("table4-nlvr-4m", &[], &[]).unwrap();
        assert_eq!(names(&whole), ["ta", "nlvr", "nlvr_dev", "nlvr_test"]);
        let given = plan("table4-nlvr-4m", &["nlvr=/m"], &[]).unwrap();
        assert_eq!(names(&given), ["nlvr_dev", "nlvr_test"]);
        let needed: Vec<&str> = given.needed().iter().map(|(n, _)| *n).collect();
        assert_eq!(needed, ["nlvr2_images", "nlvr_dev", "nlvr_test"]);
        assert_eq!(given.settings(given.steps()[0]).unwrap()["model"], "/m");
        assert_eq!(names(&plan("pretrain-4m", &[], &[]).unwrap()), ["pretrain"]);
        assert!(plan("table4-nlvr-4m", &["nlvr_dev=/m"], &[]).is_err());
    }

    #[test]
    fn changes_reach_their_step_and_free_it_of_files() {
        let p = plan("table3-4m", &[], &["finetune:checkpoint=/own-{1}", "test:k=16"]).unwrap();
        assert!(p.needed().iter().all(|(name, _)| *name != "albef-4m"));
        let steps = p.steps();
        let (tune, test) = (p.settings(steps[0]).unwrap(), p.settings(steps[1]).unwrap());
        assert_eq!(tune["checkpoint"], "/own-{1}");
        assert_eq!(test["k"], 16);
        assert_eq!(test["model"], "/out/finetune/best");
        assert_eq!(tune["train_file"][0], "/data/data/coco_train.json");
        let error = plan("table3-4m", &[], &["tune:alpha=0"]).err().unwrap().to_string();
        assert!(error.contains("finetune"), "{error}");
    }
}
