//! Visual question answering (paper section 5): the fused question is what an answer decoder attends to.

mod answering;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use albef_data::dataset::{
    Contents, Dataset, EntryContext, ImageRoots, ReadEntry, Sample, Skipped, Target, TaskFields,
    TextRule, number_field, repeated_ids, text_field,
};
use albef_data::error::{ImageError, ImageErrorKind};
use albef_weights::{Bert, Schema, StateDict, layer_of};
use burn::tensor::Device;
use serde_json::{Value, json};

use self::answering::{Answering, VqaEvaluator};
pub use self::answering::{answer_list, checked_answers, distinct};
use super::configured::{accessors, finetuned, no_train_file, task_config};
use super::evaluation::some_present;
use super::labels::{self, baseline, query_sample, read_all, train_lists, unusable_image};
use super::{
    Configuration, EvalKey, EvaluationOptions, Evaluator, ListFault, Prediction, Query, RESAMPLES,
    Task, TaskConfig, TaskRef, has, read_annotations,
};
use crate::Control;
use crate::checkpoint::LoadedModel;
use crate::config::section::{rule, section};
use crate::config::{DistillConfig, ModelConfig, MomentumConfig, StartConfig, TrainConfig};
use crate::error::{Error, Result};
use crate::eval::answers::RankRule;
use crate::eval::vqa_score::ScoreRule;
use crate::objectives::distill::DistillAxis;
use crate::objectives::{Objective, VqaObjective};
use crate::train::start::Start;

/// Answers by generation, ranked among candidates.
pub(super) struct Vqa;

/// Words of a question that are kept in evaluation, as in the official code.
const QUESTION_WORDS: usize = 50;
/// Weight of an answer of Visual Genome.
const VG_WEIGHT: f32 = 0.5;
/// Answers that a model keeps of its training data, as many as the official list has.
const ANSWERS: usize = 3128;
/// The only end of an answer.
const EOS: &str = "[SEP]";

section! {
    /// Keys of question answering alone.
    pub struct VqaKeys: "Visual question answering" {
        /// root of the images of VQAv2; `image_root` if empty
        vqa_root: String = String::new();
        /// root of the images of Visual Genome; `image_root` if empty
        vg_root: String = String::new();
        /// candidate answers: a JSON list, or answers separated by commas
        answer_list: String = String::new();
        /// candidates that are scored in full when measuring
        k_test: usize = 128;
        /// how candidate answers are scored: or `chain`, `normalised`, `lavis` (quirk Q19)
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
        image_root: PathBuf = PathBuf::new();
        /// candidate answers: a JSON list, or answers separated by commas
        answer_list: String = String::new();
        /// candidates that are scored in full
        rerank_k: usize = 128;
        /// how candidates are scored: reference, chain, normalised or lavis
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
            layers: sizes.decoder_layers,
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

    /// The decoder reads states of the text encoder where the fusion layers, from which it starts, read those of the
    /// image encoder: keys and values fit if both are of one width, as in the published models.
    fn unfit(&self, config: &ModelConfig) -> Vec<String> {
        if config.vision.width == config.text.hidden {
            return Vec::new();
        }
        let read = ["crossattention.self.key.", "crossattention.self.value."];
        let names =
            self.schema(config).parameters().iter().map(|p| p.name.clone()).collect::<Vec<_>>();
        let of_decoder = names.into_iter().filter(|n| n.starts_with("text_decoder."));
        of_decoder.filter(|n| read.iter().any(|part| n.contains(part))).collect()
    }

    fn annotations(&self) -> Option<ReadEntry> {
        Some(question)
    }

    fn configuration(&self) -> Configuration {
        Configuration::of::<VqaConfig>()
    }

    fn list_faults(&self, _: &Path, samples: &[Sample], _: bool) -> Result<Vec<ListFault>> {
        let line = |(again, first): (String, String)| {
            format!("{again}: its `question_id` stands at {first} already")
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
        let candidates = match query.answers.is_empty() {
            true => &model.defaults.answers,
            false => &query.answers,
        };
        let answering = Answering::new(model, candidates)?;
        let samples = [query_sample(query, 1)?];
        let (k, rule) = (query.rerank_k, query.answer_scoring);
        let found = answering.answers(&samples, k, rule, query.top_k, 1, &Control::default())?;
        let Some(top) = found.rows.into_iter().next().flatten() else {
            return Err(unusable_image(&found.skipped));
        };
        let choices: Vec<(String, f32)> =
            top.iter().map(|(candidate, p)| (candidates[*candidate].clone(), *p)).collect();
        let texts = std::iter::once(&*query.text).chain(query.answers.iter().map(|a| &**a));
        let answers: Vec<Value> =
            choices.iter().map(|(answer, p)| json!({"answer": answer, "probability": p})).collect();
        Ok(Prediction {
            value: json!({"question": query.text, "answers": answers}),
            lines: choices.iter().map(|(answer, p)| format!("{p:>6.3}  {answer}")).collect(),
            choices,
            truncated: found.truncated > 0,
            unknown_words: labels::unknown_words(model, texts)?,
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
        let mut parts = Vec::new();
        for file in &files {
            let part = read_annotations(self.task(), Path::new(file), &self.roots())
                .map_err(Error::of_key("train_file"))?;
            parts.push((file.as_str(), with_answers(file, part)?));
        }
        let draws = self.train.data.train_file.draws();
        Dataset::mixed(parts, draws.as_deref()).map_err(Error::of_key("train_file"))
    }

    fn answers(&self, data: &Dataset) -> Result<Vec<String>> {
        let listed = answer_list(&self.vqa.answer_list)?;
        if listed.is_empty() { most_frequent(data) } else { Ok(listed) }
    }

    fn initialize(&self, _data: &Dataset, device: &Device) -> Result<Start> {
        finetuned(self, device)
    }

    fn evaluator(&self, key: EvalKey) -> Result<Option<Box<dyn Evaluator>>> {
        let files = self.eval_files(key);
        if files.is_empty() {
            return Ok(None);
        }
        let contents = read_all(self.task(), key, &files, &self.roots())?;
        let samples = &contents.samples;
        check_questions(samples, key, &files.join(", "))?;
        let own = if self.vqa.vqa_root.is_empty() { "image_root" } else { "vqa_root" };
        some_present(samples, key.name(), own)?;
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
            contents,
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
        let common = &self.train.data.image_root;
        let or_common = |own: &String| if own.is_empty() { common } else { own }.into();
        ImageRoots {
            image_root: common.into(),
            vqa_root: or_common(&self.vqa.vqa_root),
            vg_root: or_common(&self.vqa.vg_root),
        }
    }
}

/// The answers that the training data gives most often, at most [`ANSWERS`]; of equally frequent ones the first by
/// alphabet.
fn most_frequent(data: &Dataset) -> Result<Vec<String>> {
    let mut weights = BTreeMap::<String, f64>::new();
    for sample in data.samples().iter() {
        if let Target::Answers(answers) = &sample?.task.target {
            for (answer, weight) in answers.iter().filter(|(answer, _)| !answer.trim().is_empty()) {
                *weights.entry(answer.clone()).or_default() += f64::from(*weight);
            }
        }
    }
    let mut all: Vec<(String, f64)> = weights.into_iter().collect();
    all.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    Ok(all.into_iter().take(ANSWERS).map(|(answer, _)| answer).collect())
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
fn question(entry: &Value, context: EntryContext<'_>) -> Result<Option<Sample>, String> {
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
    Ok(Some(context.sample(root, image, text, task)))
}

fn answered(sample: &Sample) -> bool {
    matches!(sample.task.target, Target::Answers(_))
}

/// A question without an answer teaches nothing and is left out. Where most have none it is a list of another kind.
fn with_answers(file: &str, mut part: Contents) -> Result<Contents> {
    let all = part.samples.len();
    let mut without = Vec::new();
    for (i, sample) in std::mem::take(&mut part.samples).into_iter().enumerate() {
        if answered(&sample) {
            part.samples.push(sample);
            continue;
        }
        let detail = "the question has no `answer` to learn".into();
        let error = ImageError { kind: ImageErrorKind::Entry, detail };
        let name = format!("{file}, {}", sample.entry_name(i));
        without.push(Skipped { name, error });
    }
    match without.first() {
        Some(first) if 2 * without.len() > all => Err(Error::Config(format!(
            "{}: {}, and {} others of the list have none; hint: a list of test questions belongs under \
             `test_file`",
            first.name,
            first.error,
            without.len() - 1
        ))),
        _ => {
            part.left_out.extend(without);
            Ok(part)
        }
    }
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
    match samples.iter().enumerate().find(|(_, s)| s.task.id.is_none()) {
        Some((i, sample)) => Err(Error::Config(format!(
            "`{name}`: {files}, {}: there is neither an `answer` to compare with nor a \
             `question_id`, by which the evaluation server knows the question",
            sample.entry_name(i)
        ))),
        None => Ok(()),
    }
}
