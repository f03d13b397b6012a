//! Visual question answering (paper section 5): the fused question is what an answer decoder attends to.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use albef_data::dataset::{
    Dataset, EntryContext, ImageRoots, ReadEntry, Sample, Target, TaskFields, TextRule,
    number_field, repeated_ids, text_field,
};
use albef_report::Kind;
use albef_weights::{Bert, Schema, StateDict, layer_of};
use burn::tensor::Device;
use serde_json::{Value, json};

use super::configured::{accessors, check_finetuning, finetuned, no_train_file, task_config};
use super::evaluation::{refuse_if_none, some_present};
use super::labels::{
    self, Predictions, Summary, baseline, query_sample, read_all, train_lists, truncated_warning,
    truncation, unusable_image,
};
use super::{
    EvalKey, Evaluation, EvaluationOptions, Evaluator, ListFault, Prediction, Query, RESAMPLES,
    Task, TaskConfig, TaskRef, has, read_annotations,
};
use crate::checkpoint::LoadedModel;
use crate::config::section::{SectionDoc, rule, section};
use crate::config::{DistillConfig, ModelConfig, MomentumConfig, Source, StartConfig, TrainConfig};
use crate::control::Control;
use crate::error::{Error, Result};
use crate::eval::answers::{Candidates, RankRule, rank};
use crate::eval::outcomes;
use crate::eval::text_baseline::TextBaseline;
use crate::eval::vqa_score::{ScoreRule, accuracy, annotators};
use crate::model::{Branch, VqaModel};
use crate::objectives::distill::DistillAxis;
use crate::objectives::{Objective, VqaObjective};
use crate::ops::Ops;
use crate::train::start::Start;

/// Answers by generation, ranked among candidates.
pub(super) struct Vqa;

/// Words of a question that are kept in evaluation, as in the official code.
const QUESTION_WORDS: usize = 50;
/// Weight of an answer of Visual Genome.
const VG_WEIGHT: f32 = 0.5;
/// The only end of an answer.
const EOS: &str = "[SEP]";

section! {
    /// Keys of question answering alone.
    pub struct VqaKeys: "Visual question answering" {
        /// root of the images of VQAv2
        vqa_root: String = String::new();
        /// root of the images of Visual Genome
        vg_root: String = String::new();
        /// candidate answers: a JSON list, or answers separated by commas
        answer_list: String = String::new();
        /// candidates that are scored in full when measuring
        k_test: usize = 128;
        /// how candidate answers are scored: or `chain`, `normalised` (quirk Q19)
        answer_scoring: RankRule = RankRule::default();
        /// or `sequence`: the soft part normalizes over positions, as before March 2022 (quirk Q1)
        mlm_distill_axis: DistillAxis = DistillAxis::default();
        /// ends an answer
        eos: String = EOS.into(), if rule::one_of(&[EOS]);
    }
}

task_config! {
    /// The configuration of fine-tuning for question answering.
    pub struct VqaConfig {
        train: TrainConfig,
        start: StartConfig,
        momentum: MomentumConfig,
        distill: DistillConfig,
        vqa: VqaKeys,
    }
}

impl Default for VqaConfig {
    fn default() -> Self {
        let mut train = TrainConfig::default();
        train.image.crop_scale = (0.5, 1.0);
        Self {
            train,
            start: StartConfig::default(),
            momentum: MomentumConfig::default(),
            distill: DistillConfig::default(),
            vqa: VqaKeys::default(),
            notes: Vec::new(),
        }
    }
}

section! {
    /// Options of an evaluation.
    pub struct VqaOptions: "Evaluation" {
        /// the task's list
        annotations: PathBuf = PathBuf::new();
        /// joined before its image paths
        image_root: PathBuf = PathBuf::from(".");
        /// candidate answers: a JSON list, or answers separated by commas
        answer_list: String = String::new();
        /// candidates that are scored in full
        rerank_k: usize = 128;
        /// how candidates are scored: reference, chain or normalised
        answer_scoring: RankRule = RankRule::default();
        /// score by the current rules of the challenge instead of those of the method's tool
        challenge_rules: bool = false;
        /// write the answers to all questions to this file, in the format of the evaluation server
        results: Option<PathBuf> = None;
        /// training lists of the task: print what their texts alone would score, without any image
        text_baseline: Vec<PathBuf> = Vec::new();
        /// resamples of bootstrap intervals
        resamples: usize = RESAMPLES, if rule::at_least_1;
    }
}

impl Task for Vqa {
    fn name(&self) -> &'static str {
        "vqa"
    }

    fn title(&self) -> &'static str {
        "visual question answering (vqa)"
    }

    fn about(&self) -> &'static str {
        "Visual question answering"
    }

    fn used_by(&self) -> &'static str {
        "`albef ask` and `albef evaluate vqa`"
    }

    fn schema(&self, config: &ModelConfig) -> Schema {
        let sizes = config.sizes();
        let decoder = Bert {
            layers: sizes.layers - sizes.fusion_layer,
            fusion_layer: 0,
            encoder_width: sizes.hidden,
            paired: false,
        };
        Schema::new(sizes)
            .vision()
            .text_encoder("text_encoder")
            .bert("text_decoder.bert", decoder)
            .lm_head("text_decoder")
    }

    fn recognizes(&self, state: &StateDict) -> bool {
        has(state, "text_decoder.")
    }

    /// The encoder drops the level `bert.`; the fusion layers, the embeddings and the vocabulary head
    /// become the decoder's too.
    fn remap(&self, name: &str, fusion_layer: usize) -> Vec<String> {
        if !name.contains("text_encoder") {
            return vec![name.to_owned()];
        }
        let encoder = name.contains("bert.").then(|| name.replace("bert.", ""));
        let decoder = name.replace("text_encoder", "text_decoder");
        let decoder = match layer_of(&decoder) {
            Some((_, layer, _)) if layer < fusion_layer => None,
            Some((before, layer, after)) => {
                Some(format!("{before}encoder.layer.{}.{after}", layer - fusion_layer))
            }
            None => Some(decoder),
        };
        encoder.into_iter().chain(decoder).collect()
    }

    fn annotations(&self) -> Option<ReadEntry> {
        Some(question)
    }

    fn sections(&self) -> Vec<SectionDoc> {
        VqaConfig::sections()
    }

    fn default_config(&self) -> Value {
        serde_json::to_value(VqaConfig::default()).unwrap_or_default()
    }

    fn unread(&self) -> &'static [&'static str] {
        &["image_root"]
    }

    fn configure(&self, source: Source<'_>) -> Result<Box<dyn TaskConfig>> {
        let mut config = VqaConfig::parse(source, TaskRef::of(&Vqa))?;
        check_finetuning(&mut config.train, &config.start)?;
        config.check_sections()?;
        Ok(Box::new(config))
    }

    fn list_faults(&self, _: &Path, samples: &[Sample], _: bool) -> Result<Vec<ListFault>> {
        let line = |(again, first): (usize, usize)| {
            format!("entry {again}: its `question_id` stands at entry {first} already")
        };
        let lines: Vec<String> = repeated_ids(samples).into_iter().map(line).collect();
        let repeated = ListFault {
            key: "repeated_question_ids",
            about: "questions with the `question_id` of an earlier one",
            count: lines.len(),
            lines,
        };
        let open = ListFault {
            key: "without_answers",
            about: "questions without answers, as in a test list",
            count: samples.iter().filter(|s| !answered(s)).count(),
            lines: Vec::new(),
        };
        Ok(vec![repeated, open])
    }

    fn evaluation_options(&self) -> Option<EvaluationOptions> {
        let required = &["annotations", "answer_list"];
        Some(EvaluationOptions::of::<VqaOptions>(required))
    }

    fn evaluation(&self, options: Value) -> Result<Box<dyn Evaluator>> {
        let options: VqaOptions = labels::options(TaskRef::of(&Vqa), options)?;
        Ok(Box::new(VqaEvaluator::from_options(&options)?))
    }

    fn predict(&self, model: &LoadedModel, query: &Query) -> Result<Prediction> {
        labels::needs_text(query)?;
        let answering = Answering::new(model, &query.answers)?;
        let samples = [query_sample(query, 1)?];
        let (k, rule) = (query.rerank_k, query.answer_scoring);
        let found = answering.answers(&samples, k, rule, query.top_k, 1, &Control::default())?;
        let Some(top) = found.rows.into_iter().next().flatten() else {
            return Err(unusable_image(&found.skipped));
        };
        let choices: Vec<(String, f32)> =
            top.iter().map(|(candidate, p)| (query.answers[*candidate].clone(), *p)).collect();
        let answers: Vec<Value> =
            choices.iter().map(|(answer, p)| json!({"answer": answer, "probability": p})).collect();
        Ok(Prediction {
            value: json!({"question": query.text, "answers": answers}),
            lines: choices.iter().map(|(answer, p)| format!("{p:>6.3}  {answer}")).collect(),
            choices,
            truncated: found.truncated > 0,
        })
    }
}

impl TaskConfig for VqaConfig {
    accessors!(Vqa, distilled);

    fn objective(&self, _data: &Dataset) -> Box<dyn Objective> {
        Box::new(VqaObjective {
            distill: self.distill.distill,
            axis: self.vqa.mlm_distill_axis,
            dropout: self.train.optim.dropout as f32,
            momentum_dropout: self.momentum.momentum_dropout as f32,
        })
    }

    fn text_rule(&self) -> TextRule {
        TextRule::Question
    }

    fn open_data(&self) -> Result<Dataset> {
        let files = self.train.data.train_file.paths();
        if files.is_empty() {
            return Err(no_train_file());
        }
        let mut samples = Vec::new();
        for file in &files {
            let part = read_annotations(self.task(), Path::new(file), &self.roots())
                .map_err(Error::of_key("train_file"))?;
            all_answered(file, &part)?;
            samples.extend(part);
        }
        Ok(Dataset::from_samples(samples))
    }

    fn initialize(&self, _data: &Dataset, device: &Device) -> Result<Start> {
        finetuned(self, device)
    }

    fn evaluator(&self, key: EvalKey) -> Result<Option<Box<dyn Evaluator>>> {
        let files = self.eval_files(key);
        if files.is_empty() {
            return Ok(None);
        }
        let samples = read_all(self.task(), key, &files, &self.roots())?;
        check_questions(&samples, key, &files.join(", "))?;
        some_present(&samples, key.name(), "vqa_root")?;
        let answers = answer_list(&self.vqa.answer_list)?;
        if answers.is_empty() {
            return Err(Error::Config(format!(
                "`answer_list` names no answers, among which the questions of `{}` are answered: name \
                 the task's list, for instance with `--set answer_list=FILE`",
                key.name()
            )));
        }
        let known = samples.iter().any(|s| s.task.target != Target::None);
        let texts = if key == EvalKey::Test && known { train_lists(self) } else { Vec::new() };
        Ok(Some(Box::new(VqaEvaluator {
            baseline: baseline(self.task(), &texts)?,
            samples,
            answers,
            batch: self.start.batch_size_test,
            k: self.vqa.k_test,
            rule: self.vqa.answer_scoring,
            score: ScoreRule::Official,
            resamples: RESAMPLES,
        })))
    }
}

impl VqaConfig {
    fn roots(&self) -> ImageRoots {
        ImageRoots {
            image_root: self.train.data.image_root.clone().into(),
            vqa_root: self.vqa.vqa_root.clone().into(),
            vg_root: self.vqa.vg_root.clone().into(),
        }
    }
}

/// Each different answer with its share of the annotators, in order of first appearance.
fn shares(answers: &[String]) -> Vec<(String, f32)> {
    let part = 1.0 / answers.len() as f32;
    let mut out: Vec<(String, f32)> = Vec::new();
    for answer in answers {
        match out.iter_mut().find(|(a, _)| a == answer) {
            Some((_, weight)) => *weight += part,
            None => out.push((answer.clone(), part)),
        }
    }
    out
}

/// A question of VQAv2 or Visual Genome.
fn question(entry: &Value, context: EntryContext<'_>) -> Result<Sample, String> {
    let roots = context.roots;
    let (set, root) = match &entry["dataset"] {
        Value::Null => ("vqa", &roots.vqa_root),
        Value::String(set) if set == "vqa" => ("vqa", &roots.vqa_root),
        Value::String(set) if set == "vg" => ("vg", &roots.vg_root),
        other => return Err(format!("`dataset` is {other}; it must be \"vqa\" or \"vg\"")),
    };
    let target = match &entry["answer"] {
        Value::Null => Target::None,
        Value::String(answer) => {
            Target::Answers(vec![(answer.clone(), if set == "vg" { VG_WEIGHT } else { 1.0 })])
        }
        Value::Array(list) if !list.is_empty() => {
            let answers: Option<Vec<String>> =
                list.iter().map(|a| a.as_str().map(str::to_owned)).collect();
            Target::Answers(shares(&answers.ok_or("an answer is no text")?))
        }
        other => return Err(format!("`answer` is {other}; it must be a text or a list of texts")),
    };
    let id = number_field(entry, "question_id")?;
    let task = TaskFields { target, id, ..TaskFields::default() };
    let (image, text) = (text_field(entry, "image")?, text_field(entry, "question")?);
    Ok(context.sample(root, image, text, task))
}

fn answered(sample: &Sample) -> bool {
    matches!(sample.task.target, Target::Answers(_))
}

/// A question without an answer teaches nothing, and would stop the run when its batch comes.
fn all_answered(file: &str, samples: &[Sample]) -> Result<()> {
    let mut without = samples.iter().enumerate().filter(|(_, s)| !answered(s)).map(|(i, _)| i);
    let Some(first) = without.next() else { return Ok(()) };
    Err(Error::Config(format!(
        "{file}, entry {first}: the question has no `answer` to learn, and {} others of the list have \
         none; hint: a list of test questions belongs under `test_file`",
        without.count()
    )))
}

/// Questions without answers choose no epoch; at the end they are answered for the evaluation server,
/// which knows them by their numbers.
fn check_questions(samples: &[Sample], key: EvalKey, files: &str) -> Result<()> {
    if samples.iter().any(answered) {
        return Ok(());
    }
    let name = key.name();
    if key == EvalKey::Val {
        return Err(Error::Config(format!(
            "`{name}`: the questions of {files} have no `answer`, so no epoch can be chosen by them; \
             hint: name them under `{}`, and their answers are written for the evaluation server",
            EvalKey::Test.name()
        )));
    }
    match samples.iter().position(|s| s.task.id.is_none()) {
        Some(i) => Err(Error::Config(format!(
            "`{name}`: {files}, entry {i}: there is neither an `answer` to compare with nor a \
             `question_id`, by which the evaluation server knows the question"
        ))),
        None => Ok(()),
    }
}

/// A JSON list of candidate answers, or answers separated by commas; each is listed once.
///
/// # Errors
/// If the file cannot be read, or an answer is empty.
pub fn answer_list(given: &str) -> Result<Vec<String>> {
    let path = Path::new(given);
    let answers: Vec<String> = if path.is_file() {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        serde_json::from_str(&text).map_err(|e| Error::Format {
            path: path.to_owned(),
            detail: format!("it must be a JSON list of answers: {e}"),
        })?
    } else if given.ends_with(".json") {
        return Err(Error::Argument(format!("there is no answer list {given}")));
    } else if given.trim().is_empty() {
        Vec::new()
    } else {
        given.split(',').map(|a| a.trim().to_owned()).collect()
    };
    if let Some(i) = answers.iter().position(|a| a.trim().is_empty()) {
        return Err(Error::Argument(format!(
            "answer {i} of `{}` is empty; remove it from the list",
            shortened(given)
        )));
    }
    Ok(distinct("answer", answers))
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

/// The best candidates of a question, by place in the list, with their share among those that were
/// scored in full; best first.
type Ranked = Vec<(usize, f32)>;

/// A model with the candidates among which it answers.
struct Answering<'a> {
    model: &'a LoadedModel,
    candidates: Candidates,
}

impl<'a> Answering<'a> {
    fn new(model: &'a LoadedModel, answers: &[String]) -> Result<Self> {
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
    fn answers(
        &self,
        samples: &[Sample],
        k: usize,
        rule: RankRule,
        keep: usize,
        batch: usize,
        control: &Control,
    ) -> Result<Predictions<Option<Ranked>>> {
        let loaded = self.model;
        let weights = loaded.online.frozen(Ops::for_device(loaded.online.device()));
        let model = VqaModel::new(&loaded.config, &weights, Branch::Online)?;
        let (tokenizer, limits) = (labels::tokenizer(loaded)?, truncation(loaded, QUESTION_WORDS));
        let data = Arc::new(Dataset::from_samples(samples.to_vec()));
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
            let (pixels, failed) = labels::images(loaded, &data, &images, 1);
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
struct VqaEvaluator {
    samples: Vec<Sample>,
    answers: Vec<String>,
    batch: usize,
    k: usize,
    rule: RankRule,
    score: ScoreRule,
    baseline: Option<TextBaseline>,
    resamples: usize,
}

impl VqaEvaluator {
    fn from_options(o: &VqaOptions) -> Result<Self> {
        let answers = answer_list(&o.answer_list)?;
        let root = || o.image_root.clone();
        let roots = ImageRoots { image_root: root(), vqa_root: root(), vg_root: root() };
        let samples = read_annotations(TaskRef::of(&Vqa), &o.annotations, &roots)?;
        let list = o.annotations.display();
        if samples.is_empty() {
            return Err(Error::Argument(format!("{list} has nothing to measure")));
        }
        check_for_server(&samples, o)?;
        let score = if o.challenge_rules { ScoreRule::Challenge } else { ScoreRule::Official };
        Ok(Self {
            samples,
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
    if let Some(i) = samples.iter().position(|s| s.task.id.is_none()) {
        return fail(format!(
            "{list}, entry {i}: there is no `question_id`, by which the evaluation server knows the \
             question"
        ));
    }
    if let Some((again, first)) = repeated_ids(samples).first() {
        return fail(format!(
            "{list}, entry {again}: entry {first} has the same `question_id`, and the evaluation server \
             takes one answer to a question"
        ));
    }
    Ok(())
}

impl Evaluator for VqaEvaluator {
    fn is_for_server(&self) -> bool {
        !self.samples.iter().any(answered)
    }

    fn evaluate(&self, model: &LoadedModel, control: &Control) -> Result<Evaluation> {
        let answering = Answering::new(model, &self.answers)?;
        let found = answering.answers(&self.samples, self.k, self.rule, 1, self.batch, control)?;
        refuse_if_none(found.rows.iter().flatten().count(), self.samples.len(), &found.skipped)?;
        let (mut scores, mut answers) = (Vec::new(), Vec::new());
        let mut given = BTreeMap::<&str, f64>::new();
        for (sample, ranking) in self.samples.iter().zip(&found.rows) {
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
                "questions": self.samples.len(), "skipped": found.skipped.len(),
                "truncated_texts": found.truncated, "cut_texts": found.truncated,
            });
            Evaluation {
                report,
                warnings: super::evaluation::unusable(&found.skipped),
                ..Evaluation::default()
            }
        } else {
            let most = given.iter().max_by(|a, b| a.1.total_cmp(b.1)).map_or("", |(text, _)| *text);
            let always = self.samples.iter().filter_map(|s| match &s.task.target {
                Target::Answers(shares) => Some(accuracy(most, &annotators(shares), self.score)),
                _ => None,
            });
            let majority = always.sum::<f64>() / scores.len() as f64;
            let summary = Summary {
                scores: &scores,
                majority,
                skipped: &found.skipped,
                truncated: found.truncated,
                resamples: self.resamples,
            };
            let mut out = summary.evaluation(&self.samples, self.baseline.as_ref(), self.score);
            let name = match self.score {
                ScoreRule::Official => "vqa",
                ScoreRule::Challenge => "vqa by the challenge's rules",
            };
            let scored = self.samples.iter().filter(|s| answered(s));
            out.outcomes = Some(outcomes::scores(name, Kind::Score, scored, &scores));
            out
        };
        out.answers = answers;
        let limits = truncation(model, QUESTION_WORDS);
        out.warnings.extend(truncated_warning(found.truncated, self.samples.len(), limits));
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::tests::{configured, read, unread};

    #[test]
    fn answers_weigh_as_often_as_they_were_given() {
        let list = r#"[{"dataset": "vqa", "image": "a.jpg", "question": "q?", "question_id": 7,
            "answer": ["red", "blue", "red", "red"]},
            {"dataset": "vg", "image": "b.jpg", "question": "q?", "answer": "a man"},
            {"image": "c.jpg", "question": "q?"}]"#;
        let samples = read("vqa", list).unwrap();
        let wanted = Target::Answers(vec![("red".into(), 0.75), ("blue".into(), 0.25)]);
        assert_eq!(samples[0].task.target, wanted);
        assert_eq!((samples[0].task.id, samples[1].task.id), (Some(7), None));
        assert_eq!(samples[1].task.target, Target::Answers(vec![("a man".into(), 0.5)]));
        assert_eq!(samples[2].task.target, Target::None);
    }

    #[test]
    fn images_are_below_the_root_of_their_data_set() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list.json");
        let list = r#"[{"image": "a.jpg", "question": "q"},
            {"dataset": "vg", "image": "b.jpg", "question": "q"}]"#;
        std::fs::write(&path, list).unwrap();
        let roots = ImageRoots { vqa_root: "v".into(), vg_root: "g".into(), ..Default::default() };
        let samples = read_annotations(TaskRef::of(&Vqa), &path, &roots).unwrap();
        let places = samples.iter().map(|s| s.location.clone());
        let wanted = ["v/a.jpg", "g/b.jpg"].map(|p| albef_data::dataset::Location::File(p.into()));
        assert_eq!(places.collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn odd_questions_are_refused_by_entry() {
        for (entry, part) in [
            (r#"{"image": "a", "question": "q", "question_id": "7a"}"#, "`question_id`"),
            (r#"{"image": "a", "question": "q", "question_id": 1.5}"#, "`question_id`"),
            (r#"{"image": "a", "question": "q", "dataset": 3}"#, "`dataset`"),
            (r#"{"image": "a", "question": "q", "dataset": "coco"}"#, "`dataset`"),
            (r#"{"image": "a", "question": "q", "answer": []}"#, "`answer`"),
            (r#"{"image": "a", "question": "q", "answer": ["red", 2]}"#, "an answer"),
            (r#"{"image": "a"}"#, "`question`"),
            (r#"{"question": "q"}"#, "`image`"),
        ] {
            let good = r#"{"image": "a", "question": "q"}"#;
            let error = unread("vqa", &format!("[{good}, {entry}]"));
            assert!(error.contains("list.json, entry 1") && error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_question_without_an_answer_to_learn_is_found_at_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let entry = |answer: &str| format!(r#"{{"image": "a", "question": "q"{answer}}}"#);
        let known = entry(r#", "answer": "red""#);
        let list = |name: &str, entries: &[&str]| {
            let path = dir.path().join(name);
            std::fs::write(&path, format!("[{}]", entries.join(","))).unwrap();
            path.display().to_string()
        };
        let whole = list("whole.json", &[&known, &known]);
        let torn = list("torn.json", &[&known, &entry(""), &entry("")]);
        let data =
            |files: &str| configured("vqa", &format!("train_file: [{files}]"), "x").open_data();
        let error = data(&format!("{whole}, {torn}")).unwrap_err().to_string();
        for part in ["torn.json, entry 1", "1 others", "`test_file`"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert_eq!(data(&whole).unwrap().len(), 2);
        assert!(data("").unwrap_err().to_string().contains("`train_file` is empty"));
    }

    #[test]
    fn candidate_answers_are_listed_once_and_none_is_empty() {
        assert_eq!(answer_list("red, blue,red").unwrap(), ["red", "blue"]);
        assert!(answer_list(" ").unwrap().is_empty());
        assert!(answer_list("red,,blue").unwrap_err().to_string().contains("answer 1"));
        assert!(answer_list("gone.json").unwrap_err().to_string().contains("gone.json"));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("answers.json");
        std::fs::write(&path, r#"["a, b", "c"]"#).unwrap();
        assert_eq!(answer_list(&path.display().to_string()).unwrap(), ["a, b", "c"]);
        std::fs::write(&path, "[1]").unwrap();
        let error = answer_list(&path.display().to_string()).unwrap_err().to_string();
        assert!(error.contains("answers.json") && error.contains("JSON list"), "{error}");
    }
}
