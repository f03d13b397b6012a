//! The recipes of `recipes/`, which are compiled in, and the configurations that they name.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Map, Value};

macro_rules! texts {
    ($folder:literal: $($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../../", $folder, "/", $name, ".yaml")))),*]
    };
}

/// Recipes in the order of the tables.
const RECIPES: &[(&str, &str)] = texts!("recipes":
    "pretrain-4m", "pretrain-14m",
    "table1-mlm-itm", "table1-itc", "table1-hard", "table1-itc-mod", "table1-full",
    "table1-full-downstream", "table1-14m",
    "table2-flickr-4m", "table2-flickr-14m", "table2-coco-4m", "table2-coco-14m",
    "table3-4m", "table3-14m",
    "table4-vqa-4m", "table4-vqa-14m", "table4-nlvr-4m", "table4-nlvr-14m", "table4-ve-4m",
    "table4-ve-14m",
    "table5-itc", "table5-itm",
    "table6-hard", "table6-random",
    "table7-ta", "table7-no-ta",
);

const FILES: &str = include_str!("../../../recipes/files.yaml");

const CONFIGS: &[(&str, &str)] = texts!("configs":
    "base", "retrieval_coco", "retrieval_flickr", "vqa", "nlvr_ta", "nlvr", "ve", "grounding",
);

/// A row of a table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name on the command line.
    pub id: String,
    /// Table of the paper.
    pub table: String,
    /// Row of the table.
    pub row: String,
    /// Where the claims come from.
    pub source: String,
    /// What to know before comparing.
    #[serde(default)]
    pub note: String,
    /// Published figures.
    pub claims: Vec<Claim>,
    /// Commands, in order.
    pub steps: Vec<Step>,
}

/// A figure of the paper.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// What is measured.
    pub name: String,
    /// The claimed figure, in per cent; none where it is not at hand.
    pub value: Option<f64>,
    /// `STEP.KEY` of the report that it is compared with.
    pub metric: Option<String>,
    /// Whether only the evaluation server can give the figure.
    #[serde(default)]
    pub server: bool,
    /// What confirms the figure besides the source.
    #[serde(default)]
    pub confirmed: String,
}

/// One command of a recipe.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Its name in the recipe.
    pub name: String,
    /// `pretrain`, `finetune TASK` or `evaluate TASK`.
    pub run: Run,
    /// Configuration of a training step.
    #[serde(default)]
    pub config: String,
    /// Which weights a training step hands on.
    #[serde(default)]
    pub keep: Keep,
    /// Changed keys of the configuration, or the options of an evaluation.
    pub set: Map<String, Value>,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Run {
    /// Pre-training.
    Pretrain,
    /// Fine-tuning for a task.
    Finetune(String),
    /// Evaluation of a task.
    Evaluate(String),
}

impl TryFrom<String> for Run {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.split_once(' ') {
            None if text == "pretrain" => Ok(Self::Pretrain),
            Some(("finetune", task)) => Ok(Self::Finetune(task.to_owned())),
            Some(("evaluate", task)) => Ok(Self::Evaluate(task.to_owned())),
            _ => Err(format!("`{text}` is none of pretrain, finetune TASK, evaluate TASK")),
        }
    }
}

impl Run {
    /// Whether the step makes weights.
    #[must_use]
    pub fn trains(&self) -> bool {
        !matches!(self, Self::Evaluate(_))
    }
}

/// Which weights of a run count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// Those of the best epoch by `val_file`.
    Best,
    /// Those at the end.
    #[default]
    Last,
}

/// A file or folder below the data root.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Below the data root.
    pub path: String,
    /// Its form.
    pub form: Form,
    /// Roots of its images below the data root; for questions those of VQAv2 and Visual Genome.
    #[serde(default)]
    pub images: Vec<String>,
    /// Usual number of entries.
    pub entries: Option<usize>,
    /// In words.
    pub about: String,
}

/// The form of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// Images with captions.
    Captions,
    /// Questions.
    Vqa,
    /// Candidate answers.
    Answers,
    /// Statements about two images.
    Nlvr,
    /// Sentences with labels.
    Ve,
    /// Expressions.
    Grounding,
    /// The folder of RefCOCO+.
    Refcoco,
    /// Boxes by image.
    Detections,
    /// Any folder.
    Folder,
    /// A model folder or checkpoint.
    Model,
    /// A weights file.
    Weights,
}

/// All recipes.
///
/// # Errors
/// If one is damaged, which a test excludes.
pub fn all() -> Result<Vec<Recipe>> {
    RECIPES
        .iter()
        .map(|(name, text)| {
            serde_norway::from_str(text).with_context(|| format!("in recipes/{name}.yaml"))
        })
        .collect()
}

/// The recipe of that name.
///
/// # Errors
/// If there is none.
pub fn named(id: &str) -> Result<Recipe> {
    let recipes = all()?;
    let names = recipes.iter().map(|r| r.id.clone()).collect::<Vec<_>>().join(", ");
    match recipes.into_iter().find(|r| r.id == id) {
        Some(recipe) => Ok(recipe),
        None => bail!("there is no row `{id}`; there are {names}"),
    }
}

/// Files below the data root, by the names that recipes use.
///
/// # Errors
/// If the list is damaged, which a test excludes.
pub fn files() -> Result<BTreeMap<String, FileEntry>> {
    serde_norway::from_str(FILES).context("in recipes/files.yaml")
}

/// The text of a configuration of the repository.
///
/// # Errors
/// If there is none of that name.
pub fn config(name: &str) -> Result<&'static str> {
    let found = CONFIGS.iter().find(|(n, _)| format!("{n}.yaml") == name);
    found.map(|(_, text)| *text).with_context(|| format!("there is no configuration `{name}`"))
}

/// The names in braces within a value.
pub fn names_in(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::String(text) => {
            let mut rest = text.as_str();
            while let Some((_, after)) = rest.split_once('{') {
                let Some((name, behind)) = after.split_once('}') else { return };
                out.push(name.to_owned());
                rest = behind;
            }
        }
        Value::Array(items) => items.iter().for_each(|v| names_in(v, out)),
        Value::Object(map) => map.values().for_each(|v| names_in(v, out)),
        _ => {}
    }
}

/// The value with each name in braces replaced.
///
/// # Errors
/// Those of `of`.
pub fn filled(value: &Value, of: &dyn Fn(&str) -> Result<String>) -> Result<Value> {
    Ok(match value {
        Value::String(text) => {
            let mut names = Vec::new();
            names_in(value, &mut names);
            let mut text = text.clone();
            for name in names {
                text = text.replace(&format!("{{{name}}}"), &of(&name)?);
            }
            Value::String(text)
        }
        Value::Array(items) => {
            Value::Array(items.iter().map(|v| filled(v, of)).collect::<Result<_>>()?)
        }
        Value::Object(map) => {
            let pairs = map.iter().map(|(k, v)| Ok((k.clone(), filled(v, of)?)));
            Value::Object(pairs.collect::<Result<_>>()?)
        }
        other => other.clone(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn the_table_in_the_program_is_the_folder() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes");
        let found: BTreeSet<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
            .filter(|n| n != "files")
            .collect();
        let listed: BTreeSet<String> = RECIPES.iter().map(|(n, _)| (*n).to_owned()).collect();
        assert_eq!(found, listed);
        for (recipe, (name, _)) in all().unwrap().iter().zip(RECIPES) {
            assert_eq!(recipe.id, *name);
        }
    }

    #[test]
    fn every_step_and_claim_refers_to_what_is_there() {
        let files = files().unwrap();
        for recipe in all().unwrap() {
            let id = &recipe.id;
            let mut done: Vec<&str> = Vec::new();
            for step in &recipe.steps {
                let mut names = Vec::new();
                names_in(&Value::Object(step.set.clone()), &mut names);
                for name in names {
                    match name.strip_prefix("step:") {
                        Some(earlier) => assert!(done.contains(&earlier), "{id}: {name}"),
                        None => assert!(files.contains_key(&name), "{id}: {name}"),
                    }
                }
                assert_eq!(step.keep == Keep::Best, step.set.contains_key("val_file"), "{id}");
                done.push(&step.name);
            }
            for claim in &recipe.claims {
                assert!(claim.server != claim.metric.is_some(), "{id}: {}", claim.name);
                if let Some(metric) = &claim.metric {
                    let (step, _) = metric.split_once('.').unwrap();
                    assert!(done.contains(&step), "{id}: {metric}");
                }
                assert!(claim.value.is_some() || !recipe.note.is_empty(), "{id} must say why");
            }
        }
    }

    #[test]
    fn names_in_braces_are_found_and_filled() {
        let value = serde_json::json!({"a": ["{x}", "{step:y}/z"], "b": 3});
        let mut names = Vec::new();
        names_in(&value, &mut names);
        assert_eq!(names, ["x", "step:y"]);
        let full = filled(&value, &|name| Ok(name.to_uppercase())).unwrap();
        assert_eq!(full, serde_json::json!({"a": ["X", "STEP:Y/z"], "b": 3}));
    }
}
