//! Lists to measure a run on, opened before it starts.

use std::path::{Path, PathBuf};

use albef::config::FinetuneConfig;
use albef::eval::grounding::Cases;
use albef::eval::retrieval::Options;
use albef::eval::text_baseline::TextBaseline;
use albef::eval::vqa_score::ScoreRule;
use albef::pipeline::Pipeline;
use albef::train::objective::Objective;
use albef::train::trainer::Trainer;
use albef_data::dataset::{
    AnnotationFormat, Contents, ImageRoots, Sample, SourceSpec, Target, read_source, read_task,
};
use albef_report::Outcomes;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::corpus::{Pictures, open_model};
use crate::evaluate_retrieval::{measure, named};
use crate::ground::Mode;
use crate::notes::{tell_left_out, tell_skipped};
use crate::tasks::{TaskModel, answer_list};
use crate::{evaluate_grounding, outcomes, text_baseline};

/// The configuration's key of lists by which the best epoch is chosen.
pub const CHOOSING: &str = "val_file";
/// The key of lists that are looked at once, at the end.
pub const TESTING: &str = "test_file";

/// Of bootstrap intervals.
const RESAMPLES: usize = 1000;

/// Weights to measure: the trainer's, or those that it left in a folder.
pub struct Weights<'a> {
    pub trainer: &'a Trainer,
    pub folder: Option<&'a Path>,
}

impl Weights<'_> {
    fn ready(&self) -> Result<Pipeline> {
        let online = &self.trainer.state.online;
        match self.folder {
            Some(folder) => open_model(Some(folder), online.device()),
            None => {
                let model = self.trainer.model()?;
                Ok(Pipeline::new(model, online.clone(), self.trainer.vocabulary())?)
            }
        }
    }

    fn task_model(&self) -> Result<TaskModel> {
        let online = &self.trainer.state.online;
        let (device, task) = (online.device(), self.trainer.objective().task());
        match self.folder {
            Some(folder) => TaskModel::open(folder, task, device),
            None => {
                let sizes = self.trainer.model_config().clone();
                TaskModel::of(online, sizes, self.trainer.vocabulary(), device)
            }
        }
    }
}

/// What came of measuring.
pub struct Found {
    /// The figures; `score` is the one by which epochs are chosen.
    pub value: Value,
    /// Item by item.
    pub outcomes: Outcomes,
    /// Answers by question, where that is the task.
    pub answers: Vec<Value>,
}

/// Lists to measure on.
pub enum Lists {
    /// Items of a task, with the candidate answers if it is questions, and with what the texts that were
    /// trained on give away, where the result is the last word.
    Samples(Vec<Sample>, Vec<String>, Option<TextBaseline>),
    /// Pictures with their captions.
    Retrieval(Contents),
    /// Expressions with boxes.
    Grounding(Cases),
}

impl Lists {
    /// Opens the lists that stand under `key`; `None` if there is none.
    pub fn open(
        config: &FinetuneConfig,
        objective: Objective,
        key: &str,
        files: &[String],
    ) -> Result<Option<Self>> {
        if files.is_empty() {
            return Ok(None);
        }
        let form = match objective {
            Objective::Vqa => AnnotationFormat::Vqa,
            Objective::Nlvr => AnnotationFormat::Nlvr,
            Objective::Entailment => AnnotationFormat::Entailment,
            Objective::Retrieval | Objective::Pretrain => {
                return retrieval(config, key, files).map(Some);
            }
            Objective::Grounding => {
                let mut cases = cases(config, files)?;
                if key == CHOOSING {
                    cases.for_choosing()?;
                }
                some_present(&cases.samples, key, "image_root")?;
                return Ok(Some(Self::Grounding(cases)));
            }
            Objective::Assignment => {
                eprintln!("text assignment has no measure by lists: `{key}` is not read");
                return Ok(None);
            }
        };
        samples(config, form, key, files).map(Some)
    }

    /// Whether there are questions and none has an answer to compare with.
    pub fn is_for_server(&self) -> bool {
        match self {
            Self::Samples(samples, answers, _) => {
                !answers.is_empty() && !samples.iter().any(answered)
            }
            _ => false,
        }
    }

    /// Measures weights.
    pub fn measure(&self, weights: &Weights<'_>, config: &FinetuneConfig) -> Result<Found> {
        match self {
            Self::Retrieval(contents) => {
                let ready = weights.ready()?;
                let size = ready.image_res();
                let device = weights.trainer.state.online.device();
                let pictures = Pictures::of_source(contents.clone(), size, device);
                let k = config.base.k_test;
                let options = Options { k, ..Options::default() };
                let found = measure(&ready, &pictures, &options, false)?;
                found.tell();
                let out = &found.evaluation;
                let mut value = named(&out.itm);
                value.insert("score".into(), json!(out.itm.r_mean));
                value.extend(found.counts(&pictures));
                let outcomes = outcomes::retrieval(
                    pictures.data.samples(),
                    out,
                    (k > 0).then_some("itm"),
                    false,
                );
                Ok(Found { value: json!(value), outcomes, answers: Vec::new() })
            }
            Self::Grounding(cases) => {
                let out = evaluate_grounding::measure(&weights.ready()?, cases, Mode::Itm, None)?;
                out.tell();
                let mut value = out.json(RESAMPLES);
                // The official choice of the best epoch looks at the split `val` only.
                value["score"] = value.get("val_d").unwrap_or(&value["accuracy"]).clone();
                Ok(Found { value, outcomes: out.outcomes(cases), answers: Vec::new() })
            }
            Self::Samples(samples, answers, baseline) => {
                let task = weights.trainer.objective().task();
                let mut model = weights.task_model()?;
                model.batch = config.batch_size_test.max(1);
                let rule = ScoreRule::Official;
                let out = if weights.trainer.objective() == Objective::Vqa {
                    let k = config.base.k_test;
                    model.answer_accuracy(samples, answers, k, config.rank, rule)?
                } else {
                    model.accuracy(samples, task)?
                };
                tell_skipped(&out.skipped);
                let outcomes = outcomes::measured(task, rule, samples, &out);
                let value = if self.is_for_server() {
                    json!({"questions": samples.len(), "skipped": out.skipped.len(),
                           "cut_texts": out.cut})
                } else {
                    let mut value = out.json(RESAMPLES);
                    value["score"] = json!(out.mean());
                    if let Some(texts) = baseline {
                        let found =
                            text_baseline::measure(texts, rule, samples, &out.scores, RESAMPLES);
                        value["text_baseline"] = found;
                    }
                    value
                };
                Ok(Found { value, outcomes, answers: out.results })
            }
        }
    }
}

fn answered(sample: &Sample) -> bool {
    matches!(sample.task.target, Target::Answers(_))
}

fn retrieval(config: &FinetuneConfig, key: &str, files: &[String]) -> Result<Lists> {
    let [file] = files else {
        bail!(
            "`{key}` names {} lists, and retrieval is measured on the pictures of one: give one, or \
             join them into one",
            files.len()
        );
    };
    let root = Some(&config.base.image_root).filter(|r| !r.is_empty()).map(Path::new);
    let contents = read_source(&SourceSpec::new(file, root)).with_context(|| format!("`{key}`"))?;
    tell_left_out(file, &contents.left_out);
    let samples = &contents.samples;
    if samples.is_empty() {
        bail!("`{key}`: there is no picture in {file}");
    }
    if samples.iter().all(|s| s.captions.is_empty()) {
        bail!("`{key}`: the pictures of {file} have no captions, so there is nothing to measure");
    }
    some_present(samples, key, "image_root")?;
    Ok(Lists::Retrieval(contents))
}

fn samples(
    config: &FinetuneConfig,
    form: AnnotationFormat,
    key: &str,
    files: &[String],
) -> Result<Lists> {
    let roots = ImageRoots {
        image_root: config.base.image_root.clone().into(),
        vqa_root: config.vqa_root.clone().into(),
        vg_root: config.vg_root.clone().into(),
    };
    let mut samples = Vec::new();
    for file in files {
        let part = read_task(Path::new(file), form, &roots)?;
        if form == AnnotationFormat::Vqa {
            check_questions(&part, key, file)?;
        }
        samples.extend(part);
    }
    if samples.is_empty() {
        bail!("`{key}`: {} holds nothing to measure", files.join(", "));
    }
    let is_vqa = form == AnnotationFormat::Vqa;
    some_present(&samples, key, if is_vqa { "vqa_root" } else { "image_root" })?;
    let answers = if is_vqa { candidates(config, key)? } else { Vec::new() };
    let mut baseline = None;
    if key == TESTING && samples.iter().any(|s| s.task.target != Target::None) {
        let train: Vec<PathBuf> =
            config.base.train_file.paths().iter().map(PathBuf::from).collect();
        baseline = text_baseline::open(&train, form)?;
    }
    Ok(Lists::Samples(samples, answers, baseline))
}

/// Questions without answers choose no epoch; at the end they are answered for the evaluation server,
/// which knows them by their numbers.
fn check_questions(samples: &[Sample], key: &str, file: &str) -> Result<()> {
    if samples.is_empty() || samples.iter().any(answered) {
        return Ok(());
    }
    if key == CHOOSING {
        bail!(
            "`{key}`: the questions of {file} have no `answer`, so no epoch can be chosen by them; \
             hint: name them under `{TESTING}`, and their answers are written for the evaluation \
             server"
        );
    }
    if let Some(i) = samples.iter().position(|s| s.task.id.is_none()) {
        bail!(
            "`{key}`: {file}, entry {i}: there is neither an `answer` to compare with nor a \
             `question_id`, by which the evaluation server knows the question"
        );
    }
    Ok(())
}

fn candidates(config: &FinetuneConfig, key: &str) -> Result<Vec<String>> {
    let answers = answer_list(&config.answer_list)?;
    if answers.is_empty() {
        bail!(
            "`answer_list` names no answers, among which the questions of `{key}` are answered: \
             name the task's list, for instance with `--set answer_list=FILE`"
        );
    }
    Ok(answers)
}

/// A wrong root would show only after the first epoch, as a score of 0.
fn some_present(samples: &[Sample], key: &str, root: &str) -> Result<()> {
    let Some(first) = samples.first() else { return Ok(()) };
    match first.present() {
        Err(error) if samples.iter().all(|s| s.present().is_err()) => bail!(
            "`{key}`: none of the {} pictures can be found, the first is {} ({}); is `{root}` the \
             right folder?",
            samples.len(),
            first.name,
            error.detail
        ),
        _ => Ok(()),
    }
}

/// Expressions to measure on: with `refcoco_data` and `det_file` those of RefCOCO+, else a list with
/// boxes.
fn cases(config: &FinetuneConfig, files: &[String]) -> Result<Cases> {
    let lists: Vec<PathBuf> = files.iter().map(PathBuf::from).collect();
    let root = Path::new(&config.base.image_root);
    let (data, boxes) = (&config.refcoco_data, &config.det_file);
    match (data.is_empty(), boxes.is_empty()) {
        (true, true) => Ok(Cases::of_lists(&lists, root)?),
        (false, false) => Ok(Cases::of_refcoco(&lists, root, Path::new(data), Path::new(boxes))?),
        _ => bail!("`refcoco_data` and `det_file` belong together; one of them is empty"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lists of questions and of pictures, one picture, and a list of answers.
    fn prepared(folder: &Path) -> FinetuneConfig {
        let question = |answer: Value| {
            let mut q = json!({"image": "a.png", "question": "what?", "question_id": 3});
            q["answer"] = answer;
            q
        };
        for (name, content) in [
            ("known.json", json!([question(json!("red")), question(json!(null))])),
            ("open.json", json!([question(json!(null))])),
            ("nameless.json", json!([{"image": "a.png", "question": "what?"}])),
            ("answers.json", json!(["red", "blue"])),
            ("none.json", json!([])),
            ("captions.json", json!([{"image": "a.png", "caption": ["red"]}])),
            ("lost.json", json!([{"image": "b.png", "caption": ["red"]}])),
        ] {
            std::fs::write(folder.join(name), content.to_string()).unwrap();
        }
        std::fs::write(folder.join("a.png"), b"present").unwrap();
        let mut config = FinetuneConfig {
            vqa_root: folder.display().to_string(),
            answer_list: folder.join("answers.json").display().to_string(),
            ..FinetuneConfig::default()
        };
        config.base.image_root = folder.display().to_string();
        config
    }

    fn open(
        config: &FinetuneConfig,
        objective: Objective,
        key: &str,
        names: &[&str],
    ) -> Result<Option<Lists>> {
        let folder = Path::new(&config.vqa_root);
        let files: Vec<String> =
            names.iter().map(|n| folder.join(n).display().to_string()).collect();
        Lists::open(config, objective, key, &files)
    }

    #[test]
    fn questions_without_answers_are_for_the_server_and_choose_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let config = prepared(dir.path());
        let of = |key, name| open(&config, Objective::Vqa, key, &[name]);
        assert!(!of(CHOOSING, "known.json").unwrap().unwrap().is_for_server());
        assert!(of(TESTING, "open.json").unwrap().unwrap().is_for_server());
        let error = of(CHOOSING, "open.json").err().unwrap().to_string();
        assert!(error.contains("open.json") && error.contains("test_file"), "{error}");
        let error = of(TESTING, "nameless.json").err().unwrap().to_string();
        assert!(error.contains("entry 0") && error.contains("question_id"), "{error}");
    }

    #[test]
    fn what_would_fail_after_the_first_epoch_fails_at_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let config = prepared(dir.path());
        let failed = |config: &FinetuneConfig, objective, names: &[&str]| {
            format!("{:#}", open(config, objective, CHOOSING, names).err().unwrap())
        };
        for list in ["", "none.json", "absent.json"] {
            let path = dir.path().join(list).display().to_string();
            let answer_list = if list.is_empty() { String::new() } else { path };
            let without = FinetuneConfig { answer_list, ..config.clone() };
            let error = failed(&without, Objective::Vqa, &["known.json"]);
            assert!(error.contains("answer"), "{list}: {error}");
        }
        for objective in [Objective::Retrieval, Objective::Pretrain] {
            open(&config, objective, CHOOSING, &["captions.json"]).unwrap().unwrap();
            let two = failed(&config, objective, &["captions.json", "captions.json"]);
            assert!(two.contains("2 lists"), "{two}");
            assert!(failed(&config, objective, &["absent.json"]).contains("absent.json"));
            assert!(failed(&config, objective, &["lost.json"]).contains("image_root"));
        }
    }
}
