//! Tasks whose answer is one class: inference and accuracy, shared by entailment, statements about two
//! images and classification.

use std::path::PathBuf;

use albef_data::dataset::{
    Contents, Dataset, ImageRoots, Location, Sample, Skipped, Target, TaskFields, load_samples,
};
use albef_data::error::in_words;
use albef_data::image::Normalization;
use albef_data::text::{TextProcessing, TokenBatch, Tokenizer, Truncation, Vocabulary};
use albef_report::{Kind, bootstrap_interval};
use burn::tensor::{Tensor, activation};
use serde_json::{Value, json};

use super::evaluation::{list_warnings, measurable, refuse_if_none, some_present, unusable};
use super::{
    EvalKey, Evaluation, Evaluator, Query, RESAMPLES, TaskConfig, TaskRef, read_annotations,
};
use crate::Control;
use crate::checkpoint::LoadedModel;
use crate::config::section::{Section, rule, section};
use crate::error::{Error, Result};
use crate::eval::outcomes;
use crate::eval::text_baseline::{self, TextBaseline};
use crate::eval::vqa_score::ScoreRule;
use crate::params::{from_vec, outputs, to_vec};

/// Words of a sentence that are kept in evaluation, as in the official code.
const SENTENCE_WORDS: usize = 30;
/// Ids of a statement or sentence that LAVIS reads.
const LAVIS_SENTENCE_IDS: usize = 40;

/// Samples of an evaluation step, if nothing else is configured.
pub(super) const BATCH: usize = 16;

section! {
    /// Options of an evaluation that counts right answers.
    pub struct ListOptions: "Evaluation" {
        /// the task's list
        annotations: PathBuf = PathBuf::new();
        /// joined before its image paths
        image_root: PathBuf = PathBuf::new();
        /// training lists of the task: print what their texts alone would score, without any image
        text_baseline: Vec<PathBuf> = Vec::new();
        /// resamples of bootstrap intervals
        resamples: usize = RESAMPLES, if rule::at_least_1;
    }
}

/// What a model gave for samples, in their order.
pub(super) struct Predictions<T> {
    /// A row for each sample.
    pub rows: Vec<T>,
    /// Images that cannot be used.
    pub skipped: Vec<Skipped>,
    /// Texts whose end is not read.
    pub truncated: usize,
}

impl<T> Predictions<T> {
    /// What of a list, and of its texts, was not used as given.
    pub fn warnings(&self, contents: &Contents, limits: Truncation) -> Vec<String> {
        let mut out = list_warnings(contents);
        out.extend(truncated_warning(self.truncated, contents.samples.len(), limits));
        out
    }
}

/// How sentences are truncated.
pub(super) fn sentence_limits(model: &LoadedModel) -> Truncation {
    truncation(model, SENTENCE_WORDS, LAVIS_SENTENCE_IDS)
}

/// How texts are truncated in evaluation: by words as in the official code, and to the positions of the
/// model; `lavis`: ids that LAVIS reads.
pub(super) fn truncation(model: &LoadedModel, words: usize, lavis: usize) -> Truncation {
    let text = &model.config.text;
    match text.processing {
        TextProcessing::Official => Truncation { words, ids: text.max_positions },
        TextProcessing::Lavis => Truncation { words: 50, ids: lavis.min(text.max_positions) },
    }
}

/// The texts of samples by `encode`, and how many of them are truncated.
pub(super) fn texts<'a>(
    samples: impl Iterator<Item = &'a Sample>,
    encode: impl Fn(&str) -> albef_data::text::Encoded,
) -> (TokenBatch, usize) {
    let text = |s: &'a Sample| s.captions.first().map_or("", String::as_str);
    let encoded = samples.map(|s| encode(text(s))).map(|e| (e.ids, e.truncated));
    let (ids, truncated): (Vec<Vec<u32>>, Vec<bool>) = encoded.unzip();
    (TokenBatch::packed(&ids), truncated.into_iter().filter(|c| *c).count())
}

/// Normalized images `[views * n, 3, S, S]` of samples, and those that cannot be used.
pub(super) fn images(
    model: &LoadedModel,
    samples: &[Sample],
    which: &[usize],
    views: usize,
) -> (Tensor<4>, Vec<(usize, Skipped)>) {
    let size = model.config.vision.image_res;
    let (pixels, failed) = load_samples(
        samples,
        which,
        views,
        size,
        Normalization::default(),
        &model.reader,
        rayon::current_num_threads(),
    );
    (from_vec(pixels, [which.len() * views, 3, size, size], model.online.device()), failed)
}

/// The tokenizer of a model.
pub(super) fn tokenizer(model: &LoadedModel) -> Result<Tokenizer> {
    let tokenizer = Tokenizer::new(Vocabulary::from_text(&model.vocabulary)?);
    Ok(tokenizer.processed(model.config.text.processing))
}

/// The words of texts that a model does not know, each once.
pub(super) fn unknown_words<'a>(
    model: &LoadedModel,
    texts: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<String>> {
    let tokenizer = tokenizer(model)?;
    let unknown = tokenizer.vocabulary().unk;
    let words = texts.into_iter().flat_map(|text| text.split(|c: char| !c.is_alphanumeric()));
    let mut found: Vec<String> = Vec::new();
    for word in words.filter(|word| !word.is_empty()) {
        if tokenizer.encode(word).contains(&unknown) && !found.iter().any(|known| known == word) {
            found.push(word.to_owned());
        }
    }
    Ok(found)
}

/// Logits `[n, classes]` of images `[views * n, 3, S, S]` with a text each.
pub(super) type Logits<'a> = dyn Fn(Tensor<4>, &TokenBatch) -> Result<Tensor<2>> + 'a;

/// Class probabilities of samples; an empty row where an image cannot be used.
pub(super) fn probabilities(
    model: &LoadedModel,
    samples: &[Sample],
    views: usize,
    batch: usize,
    logits: &Logits<'_>,
    activate: fn(Tensor<2>) -> Tensor<2>,
    control: &Control,
) -> Result<Predictions<Vec<f32>>> {
    let all: Vec<usize> = (0..samples.len()).collect();
    let (tokenizer, limits) = (tokenizer(model)?, sentence_limits(model));
    let mut out = Predictions { rows: Vec::new(), skipped: Vec::new(), truncated: 0 };
    for part in all.chunks(batch.max(1)) {
        control.check()?;
        let (images, failed) = images(model, samples, part, views);
        let (tokens, truncated) =
            texts(part.iter().map(|i| &samples[*i]), |text| tokenizer.caption(text, limits));
        out.truncated += truncated;
        let logits = logits(images, &tokens)?;
        let classes = logits.dims()[1];
        outputs(logits.clone(), "logits")?;
        out.rows.extend(to_vec(activate(logits)).chunks(classes).map(<[f32]>::to_vec));
        for (i, skipped) in failed {
            out.rows[i].clear();
            out.skipped.push(skipped);
        }
        control.advance("samples", out.rows.len(), samples.len());
    }
    Ok(out)
}

/// Soft-max over classes.
pub(super) fn softmax(logits: Tensor<2>) -> Tensor<2> {
    activation::softmax(logits, 1)
}

/// The class with the largest probability, the first of equal ones as the official code picks it.
pub(super) fn best(row: &[f32]) -> Option<usize> {
    (0..row.len()).rev().max_by(|a, b| row[*a].total_cmp(&row[*b]))
}

/// Makes the logits of a loaded model.
pub(super) type Build = fn(&LoadedModel) -> Result<Box<Logits<'_>>>;

/// Accuracy on a list whose samples have one label each.
pub(super) struct LabelEvaluator {
    pub task: TaskRef,
    pub contents: Contents,
    /// Images of a sample.
    pub views: usize,
    pub batch: usize,
    pub build: Build,
    /// What the texts that were trained on give away.
    pub baseline: Option<TextBaseline>,
    pub resamples: usize,
}

impl LabelEvaluator {
    /// The lists of a command or recipe.
    pub fn from_options(
        task: TaskRef,
        views: usize,
        build: Build,
        options: &ListOptions,
    ) -> Result<Self> {
        let roots = ImageRoots { image_root: options.image_root.clone(), ..ImageRoots::default() };
        let contents = read_annotations(task, &options.annotations, &roots)?;
        measurable(&contents.samples, &options.annotations)?;
        let baseline = baseline(task, &options.text_baseline)?;
        let resamples = options.resamples;
        Ok(Self { task, contents, views, batch: BATCH, build, baseline, resamples })
    }

    /// The lists of a run.
    pub fn from_config(
        config: &dyn TaskConfig,
        key: EvalKey,
        views: usize,
        build: Build,
    ) -> Result<Option<Self>> {
        let files = config.eval_files(key);
        if files.is_empty() {
            return Ok(None);
        }
        let (task, train) = (config.task(), config.train());
        let image_root = train.data.image_root.clone().into();
        let roots = ImageRoots { image_root, ..ImageRoots::default() };
        let contents = read_all(task, key, &files, &roots)?;
        some_present(&contents.samples, key.name(), "image_root")?;
        let baseline = match key {
            EvalKey::Test => baseline(task, &train_lists(config))?,
            EvalKey::Val => None,
        };
        let batch = config.start().map_or(BATCH, |s| s.batch_size_test);
        Ok(Some(Self { task, contents, views, batch, build, baseline, resamples: RESAMPLES }))
    }
}

/// The training data of a run, from the task's lists.
pub(super) fn train_data(config: &dyn TaskConfig) -> Result<Dataset> {
    let data = &config.train().data;
    let files = data.train_file.paths();
    if files.is_empty() {
        return Err(super::configured::no_train_file());
    }
    let roots = ImageRoots { image_root: data.image_root.clone().into(), ..ImageRoots::default() };
    let mut parts = Vec::new();
    for file in &files {
        let part = read_annotations(config.task(), file.as_ref(), &roots);
        parts.push((file.as_str(), part.map_err(Error::of_key("train_file"))?));
    }
    let draws = data.train_file.draws();
    Dataset::mixed(parts, draws.as_deref()).map_err(Error::of_key("train_file"))
}

/// The evaluator of a run.
pub(super) fn run_evaluator(
    config: &dyn TaskConfig,
    key: EvalKey,
    views: usize,
    build: Build,
) -> Result<Option<Box<dyn Evaluator>>> {
    let found = LabelEvaluator::from_config(config, key, views, build)?;
    Ok(found.map(|evaluator| Box::new(evaluator) as Box<dyn Evaluator>))
}

/// The training lists of a run.
pub(super) fn train_lists(config: &dyn TaskConfig) -> Vec<PathBuf> {
    config.train().data.train_file.paths().iter().map(PathBuf::from).collect()
}

/// The samples of several lists.
pub(super) fn read_all(
    task: TaskRef,
    key: EvalKey,
    files: &[String],
    roots: &ImageRoots,
) -> Result<Contents> {
    let mut contents = Contents::default();
    for file in files {
        contents.extend(read_annotations(task, file.as_ref(), roots)?);
    }
    if contents.samples.is_empty() {
        let (key, files) = (key.name(), files.join(", "));
        return Err(Error::Config(format!("`{key}`: {files} has nothing to measure")));
    }
    Ok(contents)
}

/// What the texts of training lists give away; `None` if no list is named.
pub(super) fn baseline(task: TaskRef, lists: &[PathBuf]) -> Result<Option<TextBaseline>> {
    if lists.is_empty() {
        return Ok(None);
    }
    let mut samples = Vec::new();
    for list in lists {
        // Images are never opened, so their folder does not matter.
        samples.extend(read_annotations(task, list, &ImageRoots::default())?.samples);
    }
    TextBaseline::fit(&samples).map(Some)
}

/// The label of each sample.
fn labels(samples: &[Sample]) -> Result<Vec<usize>> {
    let label = |s: &Sample| match s.task.target {
        Target::Label(label) => Ok(label),
        _ => Err(Error::Argument(format!("{} has no `label`", s.name))),
    };
    samples.iter().map(label).collect()
}

impl Evaluator for LabelEvaluator {
    fn evaluate(&self, model: &LoadedModel, control: &Control) -> Result<Evaluation> {
        let labels = labels(&self.contents.samples)?;
        let logits = (self.build)(model)?;
        let found = probabilities(
            model,
            &self.contents.samples,
            self.views,
            self.batch,
            &*logits,
            softmax,
            control,
        )?;
        let usable = found.rows.iter().filter(|r| !r.is_empty()).count();
        refuse_if_none(usable, &self.contents.samples, &found.skipped)?;
        let right = |(row, label): (&Vec<f32>, &usize)| {
            if best(row) == Some(*label) { 100.0 } else { 0.0 }
        };
        let scores: Vec<f64> = found.rows.iter().zip(&labels).map(right).collect();
        let classes = labels.iter().max().map_or(0, |most| most + 1);
        let most = (0..classes).map(|c| labels.iter().filter(|l| **l == c).count()).max();
        let majority = 100.0 * most.unwrap_or(0) as f64 / labels.len().max(1) as f64;
        let summary = Summary::new(&scores, majority, &found, self.resamples);
        let mut out =
            summary.evaluation(&self.contents.samples, self.baseline.as_ref(), ScoreRule::Official);
        out.report["left_out"] = json!(self.contents.left_out.len());
        let name = self.task.name();
        out.outcomes =
            Some(outcomes::scores(name, Kind::Hit, self.contents.samples.iter(), &scores));
        let limits = sentence_limits(model);
        out.warnings.extend(found.warnings(&self.contents, limits));
        Ok(out)
    }
}

/// A warning about texts whose end is not read.
pub(super) fn truncated_warning(count: usize, texts: usize, limits: Truncation) -> Option<String> {
    // `[CLS]` is not a piece of the text.
    let (words, pieces) = (limits.words, limits.ids.saturating_sub(1));
    match (count, texts) {
        (0, _) => None,
        (1, 1) => Some(format!("text truncated to {words} words or {pieces} word pieces")),
        _ => Some(format!(
            "{count} of {texts} texts truncated to {words} words or {pieces} word pieces"
        )),
    }
}

/// Scores of samples, 0 to 100; unusable ones score 0.
pub(super) struct Summary<'a> {
    scores: &'a [f64],
    majority: f64,
    skipped: &'a [Skipped],
    truncated: usize,
    resamples: usize,
}

impl<'a> Summary<'a> {
    /// `majority`: what always giving the most frequent answer would score.
    pub fn new<T>(
        scores: &'a [f64],
        majority: f64,
        found: &'a Predictions<T>,
        resamples: usize,
    ) -> Self {
        Self { scores, majority, skipped: &found.skipped, truncated: found.truncated, resamples }
    }

    /// The figures, with those of the text baseline.
    pub fn evaluation(
        &self,
        samples: &[Sample],
        baseline: Option<&TextBaseline>,
        rule: ScoreRule,
    ) -> Evaluation {
        let scores = self.scores;
        let mean = scores.iter().sum::<f64>() / scores.len().max(1) as f64;
        let interval = bootstrap_interval(scores, self.resamples, 42);
        let mut report = json!({
            "accuracy": mean,
            "interval": interval,
            "majority_acc": self.majority,
            "samples": scores.len(),
            "skipped": self.skipped.len(),
            "truncated_texts": self.truncated,
            // Former names, for one release.
            "majority": self.majority,
            "cut_texts": self.truncated,
        });
        let mut lines = vec![format!(
            "accuracy {mean:.2} [{:.2}, {:.2}] on {} samples; always the most frequent: {:.2}",
            interval.0,
            interval.1,
            scores.len(),
            self.majority
        )];
        if let Some(baseline) = baseline {
            let found = text_baseline::report(baseline, rule, samples, scores, self.resamples);
            lines.extend(text_baseline::lines(&found));
            report["text_baseline"] = found;
        }
        let warnings = unusable(self.skipped);
        Evaluation { report, score: Some(mean), lines, warnings, ..Evaluation::default() }
    }
}

/// An error if a query has no text, for models that read one.
pub(super) fn needs_text(query: &Query) -> Result<()> {
    match query.text.trim().is_empty() {
        true => Err(Error::Argument("there is no text, and the model reads one".into())),
        false => Ok(()),
    }
}

/// The images and the text of a query as a sample; there must be `views` images.
pub(super) fn query_sample(query: &Query, views: usize) -> Result<Sample> {
    if query.images.len() != views {
        return Err(Error::Argument(format!(
            "the task takes {views} image{}, and {} were given",
            if views == 1 { "" } else { "s" },
            query.images.len()
        )));
    }
    let second = query.images.get(1).map(|p| Location::File(p.clone()));
    Ok(Sample {
        location: Location::File(query.images[0].clone()),
        name: query.images[0].display().to_string(),
        captions: vec![query.text.clone()],
        key: String::new(),
        task: TaskFields { second, ..TaskFields::default() },
    })
}

/// The probabilities of a query, and whether its text is truncated.
pub(super) fn predict(
    model: &LoadedModel,
    query: &Query,
    views: usize,
    logits: &Logits<'_>,
    activate: fn(Tensor<2>) -> Tensor<2>,
) -> Result<(Vec<f32>, bool)> {
    let sample = query_sample(query, views)?;
    let found = probabilities(model, &[sample], views, 1, logits, activate, &Control::default())?;
    let row = found.rows.into_iter().next().filter(|row| !row.is_empty());
    match row {
        Some(row) => Ok((row, found.truncated > 0)),
        None => Err(unusable_image(&found.skipped)),
    }
}

/// The error about the image of a query that cannot be used.
pub(super) fn unusable_image(skipped: &[Skipped]) -> Error {
    match skipped.first() {
        Some(s) => Error::Argument(format!("{}: {}", s.name, s.error)),
        None => Error::Argument("the image cannot be used".into()),
    }
}

/// Typed options of an evaluation. A number may be given as text, as on a command line.
///
/// # Errors
/// Names an option that is unknown or does not fit.
pub(super) fn options<T>(task: TaskRef, given: Value) -> Result<T>
where
    T: Section + serde::Serialize + serde::de::DeserializeOwned + Default,
{
    let mut all = serde_json::to_value(T::default()).unwrap_or_default();
    for (key, value) in given.as_object().into_iter().flatten() {
        let key = current_option(key);
        if all.get(key).is_none() {
            let known: Vec<&str> =
                all.as_object().into_iter().flatten().map(|(k, _)| k.as_str()).collect();
            return Err(Error::Argument(format!(
                "evaluate {} has no option `{key}`; it has {}",
                task.name(),
                known.join(", ")
            )));
        }
        let mut one = serde_json::to_value(T::default()).unwrap_or_default();
        let forms =
            [Some(value.clone()), value.as_str().and_then(|t| serde_json::from_str(t).ok())];
        let mut refused = None;
        let fits = forms.into_iter().flatten().find(|form| {
            one[key] = form.clone();
            let read = serde_json::from_value::<T>(one.clone());
            read.map_err(|e| refused.get_or_insert(e.to_string()).clone()).is_ok()
        });
        all[key] = fits.ok_or_else(|| {
            let problem = in_words(refused.as_deref().unwrap_or("it does not fit"));
            Error::Argument(format!("`{key}`: {problem}"))
        })?;
    }
    let options: T = serde_json::from_value(all)
        .map_err(|e| Error::Argument(format!("evaluate {}: {e}", task.name())))?;
    options.check_values("")?;
    Ok(options)
}

/// The present name of an option.
fn current_option(key: &str) -> &str {
    match key {
        "k" => "rerank_k",
        "rank" => "answer_scoring",
        other => other,
    }
}
