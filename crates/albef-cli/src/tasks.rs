//! Models of the downstream tasks as the commands use them.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use albef::checkpoint::{Checkpoint, Parts};
use albef::config::ModelConfig;
use albef::eval::answers::{Candidates, RankRule, rank};
use albef::eval::vqa_score::{ScoreRule, accuracy, annotators};
use albef::model::{
    Branch, DropoutRng, ImageStates, Nlvr2Model, TokenBatch, VisualEntailmentModel, VqaModel,
    Weights,
};
use albef::ops::Ops;
use albef::params::from_vec;
use albef::task::TaskRef;
use albef_data::dataset::{Dataset, Sample, Skipped, Target, load_samples};
use albef_data::image::{DecodeOptions, Normalization};
use albef_data::text::{Encoded, Tokenizer, Truncation, Vocabulary};
use albef_report::bootstrap_interval;
use anyhow::{Context, Result, bail};
use burn::tensor::{Device, Tensor, activation};
use serde_json::{Value, json};

use crate::corpus::note_inferred;
use crate::notes::tell_cut;

/// Words of a sentence and of a question that are kept in evaluation.
const SENTENCE_WORDS: usize = 30;
const QUESTION_WORDS: usize = 50;
const BATCH: usize = 16;

/// A fine-tuned model with its words.
pub struct TaskModel {
    pub config: ModelConfig,
    tokenizer: Tokenizer,
    weights: Weights,
    device: Device,
    /// Samples of an evaluation step.
    pub batch: usize,
}

/// One answer of a ranking.
pub struct Answered {
    /// Its place in the list of candidates.
    pub candidate: usize,
    /// Its share among the candidates that were scored in full.
    pub p: f32,
}

/// The best answers of a question, best first.
pub type Ranked = Vec<Answered>;

/// An error if not one sample could be used: a wrong folder, most likely.
pub fn refuse_if_none(usable: usize, samples: usize, skipped: &[Skipped]) -> Result<()> {
    match skipped.first() {
        Some(first) if usable == 0 => bail!(
            "none of the pictures of {samples} samples can be used ({}: {}); is --image-root the \
             right folder?",
            first.name,
            first.error
        ),
        _ => Ok(()),
    }
}

/// What a model gave for samples, in their order.
pub struct Seen<T> {
    pub rows: Vec<T>,
    /// What could not be used.
    pub skipped: Vec<Skipped>,
    /// Texts of which the end is not read.
    pub cut: usize,
}

/// What came of a list of samples.
pub struct Measured {
    /// Score of each sample, 0 to 100; unusable ones score 0.
    pub scores: Vec<f64>,
    /// What could not be used.
    pub skipped: Vec<Skipped>,
    /// Texts of which the end is not read.
    pub cut: usize,
    /// What always giving the most frequent answer would score.
    pub majority: f64,
    /// Answers by question, in the form that the evaluation server takes.
    pub results: Vec<Value>,
}

impl Measured {
    pub fn mean(&self) -> f64 {
        self.scores.iter().sum::<f64>() / self.scores.len().max(1) as f64
    }

    pub fn json(&self, resamples: usize) -> Value {
        json!({
            "accuracy": self.mean(),
            "interval": bootstrap_interval(&self.scores, resamples, 42),
            "majority": self.majority,
            "samples": self.scores.len(),
            "skipped": self.skipped.len(),
            "cut_texts": self.cut,
        })
    }
}

impl TaskModel {
    /// Opens a model folder or weights file that is fine-tuned for `task`.
    pub fn open(path: &Path, task: TaskRef, device: &Device) -> Result<Self> {
        Self::open_at(path, task, None, device)
    }

    /// The same for pictures of `image_res` pixels along a side, if not those of the model.
    pub fn open_at(
        path: &Path,
        task: TaskRef,
        image_res: Option<usize>,
        device: &Device,
    ) -> Result<Self> {
        note_inferred(path);
        let taken = Checkpoint::open(path)
            .and_then(|found| found.at(image_res)?.load(&[task], device, Parts::Inference))
            .with_context(|| format!("cannot open the model {}", path.display()))?;
        if taken.report.resized.is_some() || !taken.report.unequal_twins.is_empty() {
            eprintln!("note: {}", taken.report.lines().join("; "));
        }
        Self::of(&taken.online, taken.config, &taken.vocabulary, device)
    }

    /// The model on weights at hand.
    pub fn of(
        params: &albef::params::Params,
        config: ModelConfig,
        vocabulary: &str,
        device: &Device,
    ) -> Result<Self> {
        let tokenizer = Tokenizer::new(Vocabulary::from_text(vocabulary)?);
        let weights = params.frozen(Ops::for_device(device));
        Ok(Self { config, tokenizer, weights, device: device.clone(), batch: BATCH })
    }

    /// Up to where texts are read: as the official code cuts words, and as far as the model has positions.
    fn limits(&self, words: usize) -> Truncation {
        Truncation { words, ids: self.config.text.max_positions }
    }

    /// The texts of samples as `encode` reads them, and how many of them are cut.
    fn texts<'a>(
        samples: impl Iterator<Item = &'a Sample>,
        encode: impl Fn(&str) -> Encoded,
    ) -> (TokenBatch, usize) {
        let text = |s: &'a Sample| s.captions.first().map_or("", String::as_str);
        let encoded = samples.map(|s| encode(text(s))).map(|e| (e.ids, e.truncated));
        let (ids, cut): (Vec<Vec<u32>>, Vec<bool>) = encoded.unzip();
        (TokenBatch::packed(&ids), cut.into_iter().filter(|c| *c).count())
    }

    fn images(
        &self,
        data: &Dataset,
        which: &[usize],
        views: usize,
    ) -> (Tensor<4>, Vec<(usize, Skipped)>) {
        let size = self.config.vision.image_res;
        let (pixels, failed) = load_samples(
            data,
            which,
            views,
            size,
            Normalization::default(),
            &DecodeOptions::default(),
            rayon::current_num_threads(),
        );
        (from_vec(pixels, [which.len() * views, 3, size, size], &self.device), failed)
    }

    /// Class probabilities of each sample: true and false of statements about two images, or the
    /// three of entailment.
    pub fn classes(&self, samples: &[Sample], task: TaskRef) -> Result<Seen<Vec<f32>>> {
        let views = if task.name() == "nlvr" { 2 } else { 1 };
        let data = Dataset::from_samples(samples.to_vec());
        let all: Vec<usize> = (0..samples.len()).collect();
        let limits = self.limits(SENTENCE_WORDS);
        let (mut rows, mut skipped, mut cut) = (Vec::new(), Vec::new(), 0);
        let bar = indicatif::ProgressBar::new(all.len() as u64);
        for part in all.chunks(self.batch) {
            let (images, failed) = self.images(&data, part, views);
            let of_part = part.iter().map(|i| &samples[*i]);
            let (texts, cut_here) =
                Self::texts(of_part, |text| self.tokenizer.caption(text, limits));
            cut += cut_here;
            let none = &mut DropoutRng::none();
            let logits = if task.name() == "nlvr" {
                Nlvr2Model::new(&self.config, &self.weights, Branch::Online)?
                    .logits(images, &texts, none)?
            } else {
                VisualEntailmentModel::new(&self.config, &self.weights, Branch::Online)?
                    .logits(images, &texts, none)?
            };
            let classes = logits.dims()[1];
            let p = albef::params::to_vec(activation::softmax(logits, 1));
            rows.extend(p.chunks(classes).map(<[f32]>::to_vec));
            for (i, s) in failed {
                rows[i].clear();
                skipped.push(s);
            }
            bar.inc(part.len() as u64);
        }
        bar.finish_and_clear();
        tell_cut(cut, samples.len(), limits);
        Ok(Seen { rows, skipped, cut })
    }

    /// Accuracy of classes.
    pub fn accuracy(&self, samples: &[Sample], task: TaskRef) -> Result<Measured> {
        let Seen { rows, skipped, cut } = self.classes(samples, task)?;
        let labels: Vec<usize> = samples
            .iter()
            .map(|s| match s.task.target {
                Target::Label(label) => Ok(label),
                _ => bail!("{} has no `label`", s.name),
            })
            .collect::<Result<_>>()?;
        let scores = rows
            .iter()
            .zip(&labels)
            .map(|(row, label)| {
                // The first of equal maxima, as the official code picks it.
                let best = (0..row.len()).rev().max_by(|a, b| row[*a].total_cmp(&row[*b]));
                if best == Some(*label) { 100.0 } else { 0.0 }
            })
            .collect();
        refuse_if_none(rows.iter().filter(|r| !r.is_empty()).count(), samples.len(), &skipped)?;
        let most = (0..3).map(|c| labels.iter().filter(|l| **l == c).count()).max().unwrap_or(0);
        let majority = 100.0 * most as f64 / labels.len().max(1) as f64;
        Ok(Measured { scores, skipped, cut, majority, results: Vec::new() })
    }

    /// The candidate answers of a list.
    pub fn candidates(&self, answers: &[String]) -> Result<Candidates> {
        let tokens: Vec<Vec<u32>> =
            answers.iter().map(|a| self.tokenizer.encode(&format!("{a}[SEP]"))).collect();
        let room = self.config.text.max_positions;
        if let Some(i) = tokens.iter().position(|t| t.len() > room) {
            // `[CLS]` and `[SEP]` are no pieces of the answer.
            bail!(
                "answer {i} has {} word pieces, and the model reads {} at most; shorten `{}`",
                tokens[i].len() - 2,
                room.saturating_sub(2),
                shortened(&answers[i])
            );
        }
        Ok(Candidates::new(tokens)?)
    }

    /// The `keep` best answers of each question; none where the picture cannot be used.
    pub fn answers(
        &self,
        samples: &[Sample],
        candidates: &Candidates,
        k: usize,
        rule: RankRule,
        keep: usize,
    ) -> Result<Seen<Option<Ranked>>> {
        let model = VqaModel::new(&self.config, &self.weights, Branch::Online)?;
        let data = Arc::new(Dataset::from_samples(samples.to_vec()));
        let all: Vec<usize> = (0..samples.len()).collect();
        let limits = self.limits(QUESTION_WORDS);
        let (mut rows, mut skipped, mut cut) = (Vec::new(), Vec::new(), 0);
        let bar = indicatif::ProgressBar::new(all.len() as u64);
        for part in all.chunks(self.batch) {
            // A picture is encoded once for all of its questions in a row.
            let mut pictures: Vec<usize> = Vec::new();
            let mut image_of = Vec::new();
            for i in part {
                let same = |p: &usize| samples[*p].location == samples[*i].location;
                let place = pictures.iter().position(same).unwrap_or_else(|| {
                    pictures.push(*i);
                    pictures.len() - 1
                });
                image_of.push(place);
            }
            let (images, failed) = self.images(&data, &pictures, 1);
            let states: ImageStates = model.visual_encoder.forward(images)?;
            let of_part = part.iter().map(|i| &samples[*i]);
            let (questions, cut_here) =
                Self::texts(of_part, |text| self.tokenizer.question(text, limits));
            cut += cut_here;
            let ranked = rank(&model, &states, &image_of, &questions, candidates, k, rule)?;
            for (ranking, place) in ranked.into_iter().zip(&image_of) {
                let bad = failed.iter().any(|(i, _)| *i == pictures[*place]);
                let best = ranking.candidates.into_iter().zip(ranking.probabilities);
                let best = best.take(keep).map(|(candidate, p)| Answered { candidate, p });
                rows.push((!bad).then(|| best.collect()));
            }
            // A question is an item; several may be about one broken picture.
            let failure = |place: &usize| failed.iter().find(|(i, _)| *i == pictures[*place]);
            skipped.extend(image_of.iter().filter_map(failure).map(|(_, s)| s.clone()));
            bar.inc(part.len() as u64);
        }
        bar.finish_and_clear();
        tell_cut(cut, samples.len(), limits);
        Ok(Seen { rows, skipped, cut })
    }

    /// Soft accuracy of questions with known answers, and the answers given to all.
    pub fn answer_accuracy(
        &self,
        samples: &[Sample],
        answers: &[String],
        k: usize,
        rule: RankRule,
        score: ScoreRule,
    ) -> Result<Measured> {
        let candidates = self.candidates(answers)?;
        let Seen { rows: rankings, skipped, cut } =
            self.answers(samples, &candidates, k, rule, 1)?;
        refuse_if_none(rankings.iter().flatten().count(), samples.len(), &skipped)?;
        let mut scores = Vec::new();
        let mut results = Vec::new();
        let mut given = std::collections::BTreeMap::<&str, f64>::new();
        for (sample, ranking) in samples.iter().zip(&rankings) {
            let best = ranking.as_ref().and_then(|r| r.first());
            let answer = best.map_or("", |a| answers[a.candidate].as_str());
            results.push(json!({"question_id": sample.task.id, "answer": answer}));
            if let Target::Answers(shares) = &sample.task.target {
                scores.push(accuracy(answer, &annotators(shares), score));
                for (text, share) in shares {
                    *given.entry(text).or_default() += f64::from(*share);
                }
            }
        }
        let most = given.iter().max_by(|a, b| a.1.total_cmp(b.1)).map_or("", |(text, _)| *text);
        let always = samples.iter().filter_map(|s| match &s.task.target {
            Target::Answers(shares) => Some(accuracy(most, &annotators(shares), score)),
            _ => None,
        });
        let majority = always.sum::<f64>() / scores.len().max(1) as f64;
        Ok(Measured { scores, skipped, cut, majority, results })
    }
}

/// A JSON list of candidate answers, or answers separated by commas; each is listed once.
pub fn answer_list(given: &str) -> Result<Vec<String>> {
    let path = Path::new(given);
    let answers: Vec<String> = if path.is_file() {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {given}"))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{given} must be a JSON list of answers"))?
    } else if given.ends_with(".json") {
        bail!("there is no answer list {given}");
    } else if given.trim().is_empty() {
        Vec::new()
    } else {
        given.split(',').map(|a| a.trim().to_owned()).collect()
    };
    if let Some(i) = answers.iter().position(|a| a.trim().is_empty()) {
        bail!("answer {i} of `{}` is empty; take it out of the list", shortened(given));
    }
    Ok(distinct("answer", answers))
}

/// Each of them once, in order of first appearance; says so of those that come again.
pub fn distinct(what: &str, mut all: Vec<String>) -> Vec<String> {
    let (given, mut seen) = (all.len(), HashSet::new());
    let mut again = None;
    all.retain(|one| {
        let new = seen.insert(one.clone());
        if !new {
            again.get_or_insert_with(|| one.clone());
        }
        new
    });
    if let Some(first) = again {
        let repeated = given - all.len();
        let first = shortened(&first);
        eprintln!(
            "note: {repeated} of {given} repeat an earlier {what} (such as `{first}`) and are left out"
        );
    }
    all
}

/// The beginning of a text, for messages.
fn shortened(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// One picture, or two, with a text, as a sample.
pub fn sample(image: &Path, second: Option<&Path>, text: &str) -> Sample {
    use albef_data::dataset::{Location, TaskFields};
    let task = TaskFields {
        second: second.map(|p| Location::File(p.to_owned())),
        ..TaskFields::default()
    };
    Sample {
        location: Location::File(image.to_owned()),
        name: image.display().to_string(),
        captions: vec![text.to_owned()],
        key: String::new(),
        task,
    }
}
