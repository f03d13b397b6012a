//! Answering questions: candidate answers, their ranking, and accuracy on lists of questions.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use albef_data::dataset::{Contents, ImageRoots, Sample, Target, repeated_ids};
use albef_data::input::read_json;
use albef_data::text::TextProcessing;
use albef_report::Kind;
use serde_json::json;

use super::{EOS, QUESTION_WORDS, Vqa, VqaOptions, answered};
use crate::Control;
use crate::checkpoint::LoadedModel;
use crate::error::{Error, Result};
use crate::eval::answers::{Candidates, RankRule, rank};
use crate::eval::outcomes;
use crate::eval::text_baseline::TextBaseline;
use crate::eval::vqa_score::{ScoreRule, accuracy, annotators};
use crate::model::{Branch, VqaModel};
use crate::task::evaluation::{measurable, refuse_if_none, unusable};
use crate::task::labels::{self, Predictions, Summary, baseline, truncation};
use crate::task::{Evaluation, Evaluator, TaskRef, read_annotations};

/// A JSON list of candidate answers, or answers separated by commas; each is listed once.
///
/// # Errors
/// If the file cannot be read, has no answer, or an answer is empty.
pub fn answer_list(given: &str) -> Result<Vec<String>> {
    let path = Path::new(given);
    let answers: Vec<String> = if path.is_file() {
        read_json(path, "a JSON list of answers")?
    } else if looks_like_a_file(given) {
        return Err(Error::Argument(format!(
            "there is no answer list {given}; name a JSON list, or give the answers separated by commas"
        )));
    } else if given.trim().is_empty() {
        Vec::new()
    } else if given.trim_start().starts_with('[') {
        serde_json::from_str(given).map_err(|e| {
            Error::Argument(format!("`{}` is no JSON list of answers: {e}", shortened(given)))
        })?
    } else {
        given.split(',').map(|a| a.trim().to_owned()).collect()
    };
    if answers.is_empty() && !given.trim().is_empty() {
        return Err(Error::Argument(format!("`{}` has no answer", shortened(given))));
    }
    checked_answers(answers, given)
}

/// Candidate answers, each once.
///
/// # Errors
/// If one is empty. `given` is where they are from, for the message.
pub fn checked_answers(answers: Vec<String>, given: &str) -> Result<Vec<String>> {
    if let Some(i) = answers.iter().position(|a| a.trim().is_empty()) {
        return Err(Error::Argument(format!(
            "answer {i} of `{}` is empty; remove it from the list",
            shortened(given)
        )));
    }
    Ok(distinct("answer", answers))
}

/// Whether a single candidate is rather meant to be a file.
fn looks_like_a_file(given: &str) -> bool {
    let ending = Path::new(given).extension().and_then(|ending| ending.to_str());
    let known = ending.is_some_and(|e| ["json", "jsonl", "txt", "csv", "tsv"].contains(&e));
    !given.contains(',') && (known || given.starts_with(['/', '.', '~', '<']))
}

/// Each of them once, in order of first appearance; repetitions are noted.
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
        tracing::info!(
            "{repeated} of {given} repeat an earlier {what} (such as `{first}`) and are left out"
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

/// Ids of a question that LAVIS reads.
const LAVIS_QUESTION_IDS: usize = 25;

/// The best candidates of a question, by place in the list, with their share among those that were
/// scored in full; best first.
type Ranked = Vec<(usize, f32)>;

/// A model with the candidates among which it answers.
pub(super) struct Answering<'a> {
    model: &'a LoadedModel,
    candidates: Candidates,
}

impl<'a> Answering<'a> {
    pub fn new(model: &'a LoadedModel, answers: &[String]) -> Result<Self> {
        let tokenizer = labels::tokenizer(model)?;
        let tokens: Vec<Vec<u32>> =
            answers.iter().map(|a| tokenizer.encode(&format!("{a}{EOS}"))).collect();
        let room = model.config.text.max_positions;
        if let Some(i) = tokens.iter().position(|t| t.len() > room) {
            // `[CLS]` and `[SEP]` are no pieces of the answer.
            return Err(Error::Argument(format!(
                "answer {i} has {} word pieces, and the model reads {} at most; shorten `{}`",
                tokens[i].len() - 2,
                room.saturating_sub(2),
                shortened(&answers[i])
            )));
        }
        Ok(Self { model, candidates: Candidates::new(tokens)? })
    }

    /// The `keep` best answers of each question; none where the image cannot be used.
    pub fn answers(
        &self,
        samples: &[Sample],
        k: usize,
        rule: RankRule,
        keep: usize,
        batch: usize,
        control: &Control,
    ) -> Result<Predictions<Option<Ranked>>> {
        let loaded = self.model;
        let rule = match (loaded.config.text.processing, rule) {
            (TextProcessing::Lavis, RankRule::Reference) => RankRule::Lavis,
            (_, rule) => rule,
        };
        let weights = loaded.weights();
        let model = VqaModel::new(&loaded.config, &weights, Branch::Online)?;
        let (tokenizer, limits) =
            (labels::tokenizer(loaded)?, truncation(loaded, QUESTION_WORDS, LAVIS_QUESTION_IDS));
        let all: Vec<usize> = (0..samples.len()).collect();
        let mut out = Predictions { rows: Vec::new(), skipped: Vec::new(), truncated: 0 };
        for part in all.chunks(batch.max(1)) {
            control.check()?;
            // An image is encoded once for all of its questions in a row.
            let mut images: Vec<usize> = Vec::new();
            let mut image_of = Vec::new();
            for i in part {
                let same = |p: &usize| samples[*p].location == samples[*i].location;
                let place = images.iter().position(same).unwrap_or_else(|| {
                    images.push(*i);
                    images.len() - 1
                });
                image_of.push(place);
            }
            let (pixels, failed) = labels::images(loaded, samples, &images, 1);
            let states = model.visual_encoder.forward(pixels)?;
            let (questions, truncated) = labels::texts(part.iter().map(|i| &samples[*i]), |text| {
                tokenizer.question(text, limits)
            });
            out.truncated += truncated;
            let ranked = rank(&model, &states, &image_of, &questions, &self.candidates, k, rule)?;
            for (ranking, place) in ranked.into_iter().zip(&image_of) {
                let bad = failed.iter().any(|(i, _)| *i == images[*place]);
                let best = ranking.candidates.into_iter().zip(ranking.probabilities);
                out.rows.push((!bad).then(|| best.take(keep).collect()));
            }
            // A question is an item; several may be about one broken image.
            let failure = |place: &usize| failed.iter().find(|(i, _)| *i == images[*place]);
            out.skipped.extend(image_of.iter().filter_map(failure).map(|(_, s)| s.clone()));
            control.advance("questions", out.rows.len(), samples.len());
        }
        Ok(out)
    }
}

/// Soft accuracy of questions with known answers, and the answers given to all.
pub(super) struct VqaEvaluator {
    pub contents: Contents,
    pub answers: Vec<String>,
    pub batch: usize,
    pub k: usize,
    pub rule: RankRule,
    pub score: ScoreRule,
    pub baseline: Option<TextBaseline>,
    pub resamples: usize,
}

impl VqaEvaluator {
    pub fn from_options(o: &VqaOptions) -> Result<Self> {
        let answers = answer_list(&o.answer_list)?;
        let root = || o.image_root.clone();
        let roots = ImageRoots { image_root: root(), vqa_root: root(), vg_root: root() };
        let contents = read_annotations(TaskRef::of(&Vqa), &o.annotations, &roots)?;
        measurable(&contents.samples, &o.annotations)?;
        check_for_server(&contents.samples, o)?;
        check_candidates(&contents.samples, &answers, o)?;
        let score = if o.challenge_rules { ScoreRule::Challenge } else { ScoreRule::Official };
        Ok(Self {
            contents,
            answers,
            batch: labels::BATCH,
            k: o.rerank_k,
            rule: o.answer_scoring,
            score,
            baseline: baseline(TaskRef::of(&Vqa), &o.text_baseline)?,
            resamples: o.resamples,
        })
    }
}

/// Refuses candidates of which none is an answer of the list: every question would be wrong.
fn check_candidates(samples: &[Sample], answers: &[String], o: &VqaOptions) -> Result<()> {
    let known: HashSet<&str> = answers.iter().map(String::as_str).collect();
    let of_list = || {
        samples.iter().flat_map(|sample| match &sample.task.target {
            Target::Answers(answers) => &answers[..],
            _ => &[],
        })
    };
    let Some((first, _)) = of_list().next() else { return Ok(()) };
    if of_list().any(|(answer, _)| known.contains(answer.as_str())) {
        return Ok(());
    }
    Err(Error::Argument(format!(
        "none of the {} candidates of --answer-list (the first is {:?}) is an answer of {} (the first is {first:?}); name \
         the list of the task",
        answers.len(),
        answers.first().map_or("", String::as_str),
        o.annotations.display()
    )))
}

/// Questions without answers can only be answered for the evaluation server, which knows them by number.
fn check_for_server(samples: &[Sample], o: &VqaOptions) -> Result<()> {
    let list = o.annotations.display();
    let fail = |detail: String| Err(Error::Argument(detail));
    if o.results.is_none() {
        if samples.iter().all(|s| s.task.target == Target::None) {
            return fail(format!(
                "the questions of {list} have no `answer` to compare with; write the answers with \
                 --results"
            ));
        }
        return Ok(());
    }
    if let Some((i, sample)) = samples.iter().enumerate().find(|(_, s)| s.task.id.is_none()) {
        return fail(format!(
            "{list}, {}: there is no `question_id`, by which the evaluation server knows the \
             question",
            sample.entry_name(i)
        ));
    }
    if let Some((again, first)) = repeated_ids(samples).first() {
        return fail(format!(
            "{list}, {again}: {first} has the same `question_id`, and the evaluation server \
             takes one answer to a question"
        ));
    }
    Ok(())
}

impl Evaluator for VqaEvaluator {
    fn is_for_server(&self) -> bool {
        !self.contents.samples.iter().any(answered)
    }

    fn evaluate(&self, model: &LoadedModel, control: &Control) -> Result<Evaluation> {
        let answering = Answering::new(model, &self.answers)?;
        let found =
            answering.answers(&self.contents.samples, self.k, self.rule, 1, self.batch, control)?;
        refuse_if_none(
            found.rows.iter().flatten().count(),
            &self.contents.samples,
            &found.skipped,
        )?;
        let (mut scores, mut answers) = (Vec::new(), Vec::new());
        let mut given = BTreeMap::<&str, f64>::new();
        for (sample, ranking) in self.contents.samples.iter().zip(&found.rows) {
            let best = ranking.as_ref().and_then(|r| r.first());
            let answer = best.map_or("", |(candidate, _)| self.answers[*candidate].as_str());
            answers.push(json!({"question_id": sample.task.id, "answer": answer}));
            if let Target::Answers(shares) = &sample.task.target {
                scores.push(accuracy(answer, &annotators(shares), self.score));
                for (text, share) in shares {
                    *given.entry(text).or_default() += f64::from(*share);
                }
            }
        }
        let mut out = if scores.is_empty() {
            let report = json!({
                "questions": self.contents.samples.len(), "skipped": found.skipped.len(),
                "truncated_texts": found.truncated, "cut_texts": found.truncated,
            });
            Evaluation { report, warnings: unusable(&found.skipped), ..Evaluation::default() }
        } else {
            let most = given.iter().max_by(|a, b| a.1.total_cmp(b.1)).map_or("", |(text, _)| *text);
            let always = self.contents.samples.iter().filter_map(|s| match &s.task.target {
                Target::Answers(shares) => Some(accuracy(most, &annotators(shares), self.score)),
                _ => None,
            });
            let majority = always.sum::<f64>() / scores.len() as f64;
            let summary = Summary::new(&scores, majority, &found, self.resamples);
            let mut out =
                summary.evaluation(&self.contents.samples, self.baseline.as_ref(), self.score);
            let name = match self.score {
                ScoreRule::Official => "vqa",
                ScoreRule::Challenge => "vqa by the challenge's rules",
            };
            let scored = self.contents.samples.iter().filter(|s| answered(s));
            out.outcomes = Some(outcomes::scores(name, Kind::Score, scored, &scores));
            out
        };
        out.answers = answers;
        out.report["left_out"] = json!(self.contents.left_out.len());
        let open = self.contents.samples.len() - scores.len();
        if !scores.is_empty() {
            out.report["unanswered"] = json!(open);
        }
        if !scores.is_empty() && open > 0 {
            out.warnings.push(format!(
                "{open} of {} questions have no `answer` to compare with and are not scored",
                self.contents.samples.len()
            ));
        }
        let again = repeated_ids(&self.contents.samples);
        if let Some((entry, first)) = again.first() {
            out.warnings.push(format!(
                "{} questions have the `question_id` of an earlier one, such as {entry} that of \
                 {first}; each is counted",
                again.len()
            ));
        }
        let limits = truncation(model, QUESTION_WORDS, LAVIS_QUESTION_IDS);
        out.warnings.extend(found.warnings(&self.contents, limits));
        Ok(out)
    }
}
