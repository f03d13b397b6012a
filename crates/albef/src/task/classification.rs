//! Classification of images, with or without a text, into labels of one's own: what ALBEF is fine-tuned
//! for most. The fused `[CLS]` state goes through the two-layer head of visual entailment; without a text
//! the text encoder reads `[CLS]` alone.
//!
//! Letters: `B` samples, `C` labels.

mod figures;
mod objective;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use albef_data::dataset::{
    Contents, Dataset, EntryContext, ImageRoots, ReadEntry, Sample, Skipped, SourceSpec, Target,
    TaskFields, read_list, read_source, text_field,
};
use albef_data::error::{ImageError, ImageErrorKind};
use albef_data::names::text_of_os;
use albef_data::text::TokenBatch;
use albef_report::{Kind, bootstrap_interval};
use albef_weights::{Schema, StateDict};
use burn::tensor::{Device, Tensor, activation};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::figures::{LabelFigures, confusion, confusion_lines, mean};
use self::objective::LabelsObjective;
use super::configured::{accessors, finetuned, no_train_file, task_config};
use super::evaluation::{measurable, refuse_if_none, some_present, unusable};
use super::labels::{self, BATCH, Logits, best, softmax};
use super::{
    Configuration, EvalKey, Evaluation, EvaluationOptions, Evaluator, PRETRAIN, Prediction, Query,
    RESAMPLES, Task, TaskConfig, TaskRef, classes,
};
use crate::Control;
use crate::checkpoint::LoadedModel;
use crate::config::section::{rule, section};
use crate::config::{DistillConfig, ModelConfig, MomentumConfig, StartConfig, TrainConfig};
use crate::error::{Error, Result};
use crate::eval::outcomes;
use crate::model::{Branch, ClassificationModel, DropoutRng, ImagesPerText};
use crate::objectives::Objective;
use crate::train::start::Start;

/// Labels of one's own.
pub(super) struct Classification;

/// Labels that a message names.
const SHOWN: usize = 10;
/// Probability from which one of several labels counts as given.
const THRESHOLD: f32 = 0.5;

impl Task for Classification {
    fn name(&self) -> &'static str {
        "classification"
    }

    fn title(&self) -> &'static str {
        "classification"
    }

    fn about(&self) -> &'static str {
        "Classification of images, with or without a text"
    }

    fn used_by(&self) -> &'static str {
        "`albef predict` and `albef evaluate classification`"
    }

    fn schema(&self, config: &ModelConfig) -> Schema {
        let schema = Schema::new(config.sizes()).vision().text_encoder("text_encoder");
        schema.cls_head(config.labels.len().max(1))
    }

    fn recognizes(&self, state: &StateDict) -> bool {
        classes(state).is_some()
    }

    fn starts_from(&self) -> &'static [&'static str] {
        &[PRETRAIN, "retrieval"]
    }

    fn needs_text(&self) -> bool {
        false
    }

    fn annotations(&self) -> Option<ReadEntry> {
        Some(entry)
    }

    fn read_list(&self, path: &Path, roots: &ImageRoots) -> Result<Contents> {
        match path.is_dir() {
            true => image_folder(path),
            false => Ok(read_list(path, roots, entry)?),
        }
    }

    fn configuration(&self) -> Configuration {
        Configuration::of::<ClassificationConfig>()
    }

    fn evaluation_options(&self) -> Option<EvaluationOptions> {
        Some(EvaluationOptions::of::<ClassificationOptions>(&["annotations"]))
    }

    fn evaluation(&self, options: Value) -> Result<Box<dyn Evaluator>> {
        let task = TaskRef::of(&Classification);
        let options: ClassificationOptions = labels::options(task, options)?;
        let contents = read(&options.annotations, &options.image_root)?;
        measurable(&contents.samples, &options.annotations)?;
        Ok(Box::new(LabelsEvaluator { contents, batch: BATCH, resamples: options.resamples }))
    }

    fn predict(&self, model: &LoadedModel, query: &Query) -> Result<Prediction> {
        let head = logits(model)?;
        let (row, truncated) = labels::predict(model, query, 1, &*head, activate(&model.config))?;
        let names = &model.config.labels;
        let mut choices: Vec<(String, f32)> = names.iter().cloned().zip(row).collect();
        let p: serde_json::Map<String, Value> =
            choices.iter().map(|(label, p)| (label.clone(), json!(p))).collect();
        choices.sort_by(|a, b| b.1.total_cmp(&a.1));
        let given = |(_, p): &&(String, f32)| !model.config.multi_label || *p >= THRESHOLD;
        let found: Vec<&String> = choices.iter().filter(given).map(|(label, _)| label).collect();
        let value = match model.config.multi_label {
            true => json!({"labels": found, "probabilities": p}),
            false => json!({"label": found.first(), "probabilities": p}),
        };
        let lines = choices.iter().map(|(label, p)| format!("{p:>6.3}  {label}")).collect();
        let unknown_words = labels::unknown_words(model, [&*query.text])?;
        Ok(Prediction { value, lines, choices, truncated, unknown_words })
    }
}

/// Weights of the labels in the loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ClassWeights {
    /// By a rule.
    Rule(WeightRule),
    /// One for each label.
    Each(Vec<f32>),
}

/// How the weights of labels follow from the training data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightRule {
    /// All 1.
    None,
    /// Inversely proportional to the label's frequency.
    Balanced,
}

section! {
    /// Keys of classification alone.
    pub struct ClassificationKeys: "Classification" {
        /// labels in the order of the logits; if none are given, those of the training data, sorted
        labels: Vec<String> = Vec::new();
        /// a sample may have any number of labels: sigmoids instead of a softmax
        multi_label: bool = false;
        /// weights of the labels in the loss: `none`, `balanced` (inversely proportional to their
        /// frequency) or a list of numbers
        class_weights: ClassWeights = ClassWeights::Rule(WeightRule::None);
    }
}

section! {
    /// Options of an evaluation.
    pub struct ClassificationOptions: "Evaluation" {
        /// JSON list or CSV file of `image`, `label` and perhaps `text`, or a folder with a folder of
        /// images for each label
        annotations: PathBuf = PathBuf::new();
        /// joined before the image paths of a list
        image_root: PathBuf = PathBuf::new();
        /// resamples of bootstrap intervals
        resamples: usize = RESAMPLES, if rule::at_least_1;
    }
}

task_config! {
    /// The configuration of classification.
    pub struct ClassificationConfig {
        train: TrainConfig,
        start: StartConfig,
        momentum: MomentumConfig,
        distill: DistillConfig,
        classification: ClassificationKeys,
    }
}

impl Default for ClassificationConfig {
    fn default() -> Self {
        let mut train = TrainConfig::default();
        train.image.crop_scale = (0.5, 1.0);
        train.data.max_tokens = 512;
        Self {
            train,
            start: StartConfig::default(),
            momentum: MomentumConfig::default(),
            // Labels of one's own are taken at their word, and a step costs less.
            distill: DistillConfig { distill: false, ..DistillConfig::default() },
            classification: ClassificationKeys::default(),
            notes: Vec::new(),
        }
    }
}

impl ClassificationConfig {
    /// The samples of lists, their labels still by name.
    fn contents(&self, files: &[String]) -> Result<Contents> {
        let root = Path::new(&self.train.data.image_root);
        let mut all = Contents::default();
        for file in files {
            all.extend(read(Path::new(file), root)?);
        }
        Ok(all)
    }

    fn train_contents(&self) -> Result<Contents> {
        let files = self.train.data.train_file.paths();
        match files.is_empty() {
            true => Err(no_train_file()),
            false => self.contents(&files).map_err(Error::of_key("train_file")),
        }
    }

    /// The labels in the order of the logits.
    fn labels(&self) -> Result<Vec<String>> {
        let given = &self.classification.labels;
        let names: BTreeSet<String> = match given.is_empty() {
            false => given.iter().cloned().collect(),
            true => {
                self.train_contents()?.samples.iter().flat_map(named).map(str::to_owned).collect()
            }
        };
        if names.len() < 2 || (!given.is_empty() && names.len() != given.len()) {
            return Err(Error::Config(format!(
                "`labels`: classification needs at least two different labels, and there are {}",
                names.len()
            )));
        }
        if let ClassWeights::Each(weights) = &self.classification.class_weights
            && (weights.len() != names.len() || weights.iter().any(|w| *w < 0.0 || w.is_nan()))
        {
            return Err(Error::Config(format!(
                "`class_weights` has {} numbers; it needs one from 0 on for each of the {} labels",
                weights.len(),
                names.len()
            )));
        }
        Ok(if given.is_empty() { names.into_iter().collect() } else { given.clone() })
    }
}

impl TaskConfig for ClassificationConfig {
    accessors!(Classification, distilled);

    fn check(&self) -> Result<()> {
        match self.train.data.train_file.draws() {
            None => Ok(()),
            Some(_) => Err(Error::Config(
                "`train_file` has `weight` or `together`, by which classification does not draw; `class_weights` weighs labels"
                    .into(),
            )),
        }
    }

    fn objective(&self, data: &Dataset) -> Box<dyn Objective> {
        let class_weights = match &self.classification.class_weights {
            ClassWeights::Rule(WeightRule::None) => None,
            ClassWeights::Rule(WeightRule::Balanced) => {
                Some(balanced(data.samples().iter().flatten()))
            }
            ClassWeights::Each(weights) => Some(weights.clone()),
        };
        Box::new(LabelsObjective {
            class_weights,
            distill: self.distill.distill,
            dropout: self.train.optim.dropout as f32,
            momentum_dropout: self.momentum.momentum_dropout as f32,
        })
    }

    fn open_data(&self) -> Result<Dataset> {
        let (labels, multi) = (self.labels()?, self.classification.multi_label);
        let contents = self.train_contents()?;
        let (mut contents, places) =
            fitting(contents, &labels, multi).map_err(Error::of_key("train_file"))?;
        for (sample, found) in contents.samples.iter_mut().zip(places) {
            sample.task.target = match (multi, &found[..]) {
                (false, [label]) => Target::Label(*label),
                _ => Target::Labels(found),
            };
        }
        Ok(Dataset::from_contents(contents))
    }

    fn adapted(&self, model: ModelConfig) -> Result<ModelConfig> {
        let multi_label = self.classification.multi_label;
        Ok(ModelConfig { labels: self.labels()?, multi_label, ..model })
    }

    fn initialize(&self, _data: &Dataset, device: &Device) -> Result<Start> {
        finetuned(self, device)
    }

    fn evaluator(&self, key: EvalKey) -> Result<Option<Box<dyn Evaluator>>> {
        let files = self.eval_files(key);
        if files.is_empty() {
            return Ok(None);
        }
        let contents = self.contents(&files).map_err(Error::of_key(key.name()))?;
        some_present(&contents.samples, key.name(), "image_root")?;
        let (labels, multi) = (self.labels()?, self.classification.multi_label);
        let (contents, _) = fitting(contents, &labels, multi).map_err(Error::of_key(key.name()))?;
        let batch = self.start.batch_size_test;
        Ok(Some(Box::new(LabelsEvaluator { contents, batch, resamples: RESAMPLES })))
    }
}

/// Reads a list or folder.
fn read(path: &Path, image_root: &Path) -> Result<Contents> {
    let roots = ImageRoots { image_root: image_root.to_owned(), ..ImageRoots::default() };
    super::read_annotations(TaskRef::of(&Classification), path, &roots)
}

/// An entry of a list: `image`, `label` (a text, several separated by `|`, or a list of texts) and
/// perhaps `text`. The labels stay names until those of the model are known.
fn entry(entry: &Value, context: EntryContext<'_>) -> Result<Option<Sample>, String> {
    let names: Option<Vec<&str>> = match &entry["label"] {
        Value::String(text) => Some(text.split('|').collect()),
        Value::Array(list) => list.iter().map(Value::as_str).collect(),
        _ => None,
    };
    let names = names.ok_or_else(|| {
        format!("`label` is {}; it must be a text or a list of texts", entry["label"])
    })?;
    let text = match &entry["text"] {
        Value::Null => String::new(),
        _ => text_field(entry, "text")?,
    };
    let image = text_field(entry, "image")?;
    Ok(Some(context.sample(&context.roots.image_root, image, text, fields(&names))))
}

fn fields(names: &[&str]) -> TaskFields {
    let mut different: Vec<(String, f32)> = Vec::new();
    for name in names.iter().map(|name| name.trim()).filter(|name| !name.is_empty()) {
        if different.iter().all(|(earlier, _)| earlier != name) {
            different.push((name.to_owned(), 1.0));
        }
    }
    TaskFields { target: Target::Answers(different), ..TaskFields::default() }
}

/// A folder that has a folder of images for each label.
fn image_folder(root: &Path) -> Result<Contents> {
    let mut folders: Vec<PathBuf> = std::fs::read_dir(root)
        .map_err(Error::io(root))?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<std::io::Result<_>>()
        .map_err(Error::io(root))?;
    // Programs keep their own things in hidden folders.
    let hidden =
        |path: &Path| path.file_name().is_some_and(|name| name.as_encoded_bytes()[0] == b'.');
    folders.retain(|path| path.is_dir() && !hidden(path));
    folders.sort();
    let mut out = Contents::default();
    for folder in folders {
        let label = text_of_os(folder.file_name().unwrap_or_default());
        if folder.is_symlink() && leads_back(&folder, root) {
            let detail = "it links to this folder, or within it, whose images have labels already";
            let error = ImageError { kind: ImageErrorKind::Entry, detail: detail.into() };
            out.left_out.push(Skipped { name: label, error });
            continue;
        }
        let found = read_source(&SourceSpec::of(&folder, None).with_unnamed())?;
        out.left_out.extend(found.left_out);
        for sample in found.samples {
            let name = format!("{label}/{}", sample.name);
            let (task, captions) = (fields(&[&label]), vec![String::new()]);
            out.samples.push(Sample { key: name.clone(), name, captions, task, ..sample });
        }
    }
    if out.samples.is_empty() {
        let detail = "there are no images; classification needs a folder of images for each label";
        return Err(Error::Format { path: root.to_owned(), detail: detail.into() });
    }
    Ok(out)
}

/// Whether a link leads into a folder, or above it.
fn leads_back(link: &Path, root: &Path) -> bool {
    matches!((link.canonicalize(), root.canonicalize()),
        (Ok(link), Ok(root)) if link.starts_with(&root) || root.starts_with(&link))
}

/// The labels of a sample by name.
fn named(sample: &Sample) -> impl Iterator<Item = &str> {
    let names = match &sample.task.target {
        Target::Answers(names) => &names[..],
        _ => &[],
    };
    names.iter().map(|(name, _)| name.as_str())
}

/// The labels of a sample by their place among `labels`, or why there are none.
fn indices(sample: &Sample, labels: &[String], multi_label: bool) -> Result<Vec<usize>, String> {
    let place = |name: &str| {
        let found = labels.iter().position(|label| label == name);
        found.ok_or_else(|| {
            let more = if labels.len() > SHOWN { ", …" } else { "" };
            let known = labels[..labels.len().min(SHOWN)].join(", ");
            format!("the label `{name}` is not one of the {}: {known}{more}", labels.len())
        })
    };
    let found: Vec<usize> = named(sample).map(place).collect::<Result<_, _>>()?;
    match (multi_label, found.len()) {
        (true, _) | (false, 1) => Ok(found),
        (false, n) => Err(format!(
            "it has {n} labels, and one is needed; hint: several are learned with `multi_label: true`"
        )),
    }
}

/// The samples whose labels fit, with their places. The others are left out, but where they are most of all something
/// else is wrong.
fn fitting(
    contents: Contents,
    labels: &[String],
    multi_label: bool,
) -> Result<(Contents, Vec<Vec<usize>>)> {
    let (mut out, mut places) = (Contents { samples: Vec::new(), ..contents }, Vec::new());
    let mut unfit = Vec::new();
    for sample in contents.samples {
        match indices(&sample, labels, multi_label) {
            Ok(found) => {
                places.push(found);
                out.samples.push(sample);
            }
            Err(detail) => {
                let error = ImageError { kind: ImageErrorKind::Entry, detail };
                unfit.push(Skipped { name: sample.name, error });
            }
        }
    }
    match unfit.first() {
        Some(first) if unfit.len() > places.len() => Err(Error::Argument(format!(
            "the labels of {} of {} samples do not fit; the first is {}: {}",
            unfit.len(),
            unfit.len() + places.len(),
            first.name,
            first.error
        ))),
        _ => {
            out.left_out.extend(unfit);
            Ok((out, places))
        }
    }
}

/// Weights inversely proportional to the frequency of labels, 1 on the average of samples.
fn balanced(samples: impl Iterator<Item = Sample>) -> Vec<f32> {
    let mut counts: Vec<usize> = Vec::new();
    for sample in samples {
        let labels = match &sample.task.target {
            Target::Label(label) => std::slice::from_ref(label),
            Target::Labels(labels) => labels,
            _ => &[],
        };
        for label in labels {
            counts.resize(counts.len().max(label + 1), 0);
            counts[*label] += 1;
        }
    }
    let (all, classes) = (counts.iter().sum::<usize>(), counts.len());
    counts.iter().map(|n| all as f32 / (classes * n.max(&1)) as f32).collect()
}

/// The logits of a loaded model.
fn logits(model: &LoadedModel) -> Result<Box<Logits<'_>>> {
    let weights = model.weights();
    let classes = model.config.labels.len();
    let (branch, images) = (Branch::Online, ImagesPerText::One);
    let head = ClassificationModel::new(&model.config, &weights, branch, images, classes)?;
    Ok(Box::new(move |images: Tensor<4>, texts: &TokenBatch| {
        head.logits(images, texts, &mut DropoutRng::none())
    }))
}

/// What makes probabilities of logits.
fn activate(config: &ModelConfig) -> fn(Tensor<2>) -> Tensor<2> {
    if config.multi_label { activation::sigmoid::<2> } else { softmax }
}

/// Figures on samples with labels.
struct LabelsEvaluator {
    contents: Contents,
    batch: usize,
    resamples: usize,
}

impl Evaluator for LabelsEvaluator {
    fn evaluate(&self, model: &LoadedModel, control: &Control) -> Result<Evaluation> {
        let (names, multi) = (&model.config.labels, model.config.multi_label);
        let (contents, wanted) = fitting(self.contents.clone(), names, multi)?;
        let samples = &contents.samples;
        let head = logits(model)?;
        let activate = activate(&model.config);
        let found =
            labels::probabilities(model, samples, 1, self.batch, &*head, activate, control)?;
        let usable = found.rows.iter().filter(|row| !row.is_empty()).count();
        refuse_if_none(usable, samples, &found.skipped)?;
        let given: Vec<Vec<usize>> = found.rows.iter().map(|row| decided(row, multi)).collect();
        let scores: Vec<f64> = wanted
            .iter()
            .zip(&given)
            .zip(&found.rows)
            .map(|((w, g), row)| if !row.is_empty() && same(w, g) { 100.0 } else { 0.0 })
            .collect();
        let figures: Vec<LabelFigures> =
            (0..names.len()).map(|c| LabelFigures::of(c, &found.rows, &wanted, &given)).collect();
        let accuracy = scores.iter().sum::<f64>() / scores.len().max(1) as f64;
        let interval = bootstrap_interval(&scores, self.resamples, 42);
        let macro_f1 = mean(figures.iter().map(|f| f.f1));
        let measured: Vec<f64> = figures.iter().filter_map(|f| f.auroc).collect();
        let auroc = (!measured.is_empty()).then(|| mean(measured.into_iter()));
        let mut report = json!({
            "accuracy": accuracy, "interval": interval, "macro_f1": macro_f1, "auroc": auroc,
            "samples": scores.len(), "skipped": found.skipped.len(),
            "left_out": contents.left_out.len(), "truncated_texts": found.truncated, "labels": names,
            "per_label": figures.iter().zip(names).map(|(f, n)| f.to_json(n)).collect::<Vec<_>>(),
        });
        let mut lines = vec![format!(
            "accuracy {accuracy:.2} [{:.2}, {:.2}], macro F1 {macro_f1:.2}, AUROC {} on {} samples",
            interval.0,
            interval.1,
            figures::percent(auroc),
            scores.len()
        )];
        lines.extend(figures.iter().zip(names).map(|(f, name)| f.line(name)));
        if !multi {
            let confusion = confusion(&wanted, &given, &found.rows, names.len());
            lines.extend(confusion_lines(&confusion, names));
            report["confusion"] = json!(confusion);
        }
        let all = samples.iter();
        let limits = labels::sentence_limits(model);
        let mut warnings = unusable(&found.skipped);
        warnings.extend(found.warnings(&contents, limits));
        Ok(Evaluation {
            report,
            score: Some(if multi { macro_f1 } else { accuracy }),
            lines,
            outcomes: Some(outcomes::scores("classification", Kind::Hit, all, &scores)),
            warnings,
            ..Evaluation::default()
        })
    }
}

/// The labels that a row of probabilities gives.
fn decided(row: &[f32], multi_label: bool) -> Vec<usize> {
    match multi_label {
        true => (0..row.len()).filter(|c| row[*c] >= THRESHOLD).collect(),
        false => best(row).into_iter().collect(),
    }
}

fn same(a: &[usize], b: &[usize]) -> bool {
    a.iter().collect::<BTreeSet<_>>() == b.iter().collect::<BTreeSet<_>>()
}
