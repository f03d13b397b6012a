//! The evaluations of recipes, by the same functions as `albef evaluate`.

use std::path::{Path, PathBuf};

use albef::eval::answers::RankRule;
use albef::eval::grounding::Cases;
use albef::eval::retrieval;
use albef::eval::vqa_score::ScoreRule;
use albef::task::TaskRef;
use albef_data::dataset::{AnnotationFormat, ImageRoots, read_task};
use albef_report::{Outcomes, bootstrap_interval};
use albef_weights::write_atomic;
use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use clap::ValueEnum;
use serde_json::{Map, Value, json};

use crate::ask::Rank;
use crate::corpus::{Pictures, open_model};
use crate::evaluate_retrieval::{intervals, measure, named};
use crate::ground::Mode;
use crate::notes::tell_skipped;
use crate::tasks::{TaskModel, answer_list};
use crate::{evaluate_grounding, outcomes};

const RESAMPLES: usize = 1000;

/// The options of an evaluation.
struct Options<'a>(&'a Map<String, Value>);

impl Options<'_> {
    fn text(&self, key: &str) -> Result<&str> {
        self.0.get(key).and_then(Value::as_str).with_context(|| format!("`{key}` must be a text"))
    }

    fn path(&self, key: &str) -> Result<PathBuf> {
        self.text(key).map(PathBuf::from)
    }

    fn paths(&self, key: &str) -> Result<Vec<PathBuf>> {
        match self.0.get(key) {
            Some(Value::Array(list)) => list
                .iter()
                .map(|v| v.as_str().map(PathBuf::from))
                .collect::<Option<_>>()
                .with_context(|| format!("`{key}` must hold texts")),
            _ => Ok(vec![self.path(key)?]),
        }
    }

    fn rank(&self) -> Result<RankRule> {
        if !self.0.contains_key("rank") {
            return Ok(RankRule::default());
        }
        let given = Rank::from_str(self.text("rank")?, false);
        given.map(RankRule::from).map_err(|e| anyhow::anyhow!("`rank`: {e}"))
    }

    fn mode(&self) -> Result<Mode> {
        let given = Mode::from_str(self.text("mode")?, false);
        given.map_err(|e| anyhow::anyhow!("`mode`: {e}"))
    }

    fn number(&self, key: &str) -> Result<Option<usize>> {
        match self.0.get(key) {
            None => Ok(None),
            Some(v) => {
                let n = v.as_u64().and_then(|n| usize::try_from(n).ok());
                n.map(Some).with_context(|| format!("`{key}` must be a whole number, found {v}"))
            }
        }
    }
}

/// The options that a task knows.
fn known(task: &str) -> Result<&'static [&'static str]> {
    Ok(match task {
        "retrieval" => &["model", "annotations", "image_root", "k"],
        "vqa" => &["model", "annotations", "image_root", "answer_list", "k", "rank", "results"],
        "nlvr" | "ve" => &["model", "annotations", "image_root"],
        "grounding" => {
            &["model", "annotations", "image_root", "refcoco_data", "det_file", "mode", "layer"]
        }
        other => bail!("there is no evaluation `{other}`"),
    })
}

/// Whether all options are known to the task and hold what it can read.
pub fn accepts(task: &str, options: &Map<String, Value>) -> Result<()> {
    let known = known(task)?;
    if let Some(strange) = options.keys().find(|k| !known.contains(&k.as_str())) {
        bail!("evaluate {task} has no option `{strange}`; it has {}", known.join(", "));
    }
    let o = Options(options);
    for key in ["k", "layer"] {
        o.number(key)?;
    }
    o.rank()?;
    if task == "grounding" {
        o.mode()?;
    }
    Ok(())
}

/// Where what a step found item by item is kept, for `albef compare`.
fn saved(output: &Path, step: &str) -> PathBuf {
    output.join(format!("{step}.{}", outcomes::IN_A_RUN))
}

/// Measures by the options of a step; files that it makes go to `output`.
pub fn run(
    task: &str,
    step: &str,
    options: &Map<String, Value>,
    output: &Path,
    device: &Device,
) -> Result<Value> {
    accepts(task, options)?;
    let o = Options(options);
    let (value, found) = match task {
        "retrieval" => retrieval(&o, device)?,
        "vqa" => vqa(&o, output, device)?,
        "nlvr" => classes(&o, TaskRef::named("nlvr")?, AnnotationFormat::Nlvr, device)?,
        "ve" => classes(&o, TaskRef::named("ve")?, AnnotationFormat::Entailment, device)?,
        _ => grounding(&o, device)?,
    };
    if let Some(found) = found {
        outcomes::save(&saved(output, step), &found)?;
    }
    Ok(value)
}

/// A report, and what was found item by item where there was something to compare with.
type Found = (Value, Option<Outcomes>);

/// The ordinary command that measures the same.
pub fn command(task: &str, step: &str, options: &Map<String, Value>, output: &Path) -> Vec<String> {
    let mut out: Vec<String> = ["albef", "evaluate", task, "--json"].map(str::to_owned).to_vec();
    for (key, value) in options {
        out.push(format!("--{}", key.replace('_', "-")));
        match value {
            Value::String(s) if key == "results" => out.push(output.join(s).display().to_string()),
            Value::String(s) => out.push(s.clone()),
            Value::Array(list) => {
                out.extend(list.iter().filter_map(Value::as_str).map(str::to_owned));
            }
            other => out.push(other.to_string()),
        }
    }
    out.extend(["--save".to_owned(), saved(output, step).display().to_string()]);
    out
}

fn retrieval(o: &Options<'_>, device: &Device) -> Result<Found> {
    let ready = open_model(Some(&o.path("model")?), device)?;
    let size = ready.image_res();
    let root = o.path("image_root")?;
    let pictures = Pictures::open(o.text("annotations")?, Some(&root), size, device)?;
    let k = o.number("k")?.unwrap_or(128);
    let options = retrieval::Options { k, ..retrieval::Options::default() };
    let recalls = measure(&ready, &pictures, &options, false)?;
    let out = &recalls.evaluation;
    if recalls.skipped.len() == pictures.data.len() {
        bail!("none of the pictures of {} can be used", o.text("annotations")?);
    }
    recalls.tell();
    // Without candidates to re-rank the contrastive score alone decides.
    let (report, ranks) =
        if k == 0 { (&out.itc, &out.itc_ranks) } else { (&out.itm, &out.itm_ranks) };
    let mut value = named(report);
    value.extend(recalls.counts(&pictures));
    let mut value = Value::Object(value);
    value["itc"] = Value::Object(named(&out.itc));
    value["interval"] = intervals(ranks, RESAMPLES);
    value["gallery"] = json!({"images": pictures.data.len(), "texts": recalls.texts});
    value["k"] = json!(k);
    let found = outcomes::retrieval(pictures.data.samples(), out, (k > 0).then_some("itm"), false);
    Ok((value, Some(found)))
}

fn vqa(o: &Options<'_>, output: &Path, device: &Device) -> Result<Found> {
    let model = TaskModel::open(&o.path("model")?, TaskRef::named("vqa")?, device)?;
    let root = o.path("image_root")?;
    let roots = ImageRoots { image_root: root.clone(), vqa_root: root.clone(), vg_root: root };
    let list = o.path("annotations")?;
    let samples = read_task(&list, AnnotationFormat::Vqa, &roots)?;
    if let Some(i) = samples.iter().position(|s| s.task.id.is_none()) {
        bail!("{}, entry {i}: there is no `question_id`", list.display());
    }
    let answers = answer_list(o.text("answer_list")?)?;
    let k = o.number("k")?.unwrap_or(128);
    let (rule, score) = (o.rank()?, ScoreRule::Official);
    let out = model.answer_accuracy(&samples, &answers, k, rule, score)?;
    tell_skipped(&out.skipped);
    let path = output.join(o.text("results")?);
    let text = Value::Array(out.results.clone()).to_string();
    write_atomic(&path, |f| std::io::Write::write_all(f, text.as_bytes()))?;
    let mut value = json!({"results": path, "answers": out.results.len(),
                           "skipped": out.skipped.len(), "cut_texts": out.cut});
    if out.scores.is_empty() {
        return Ok((value, None));
    }
    value["accuracy"] = json!(out.mean());
    value["interval"] = json!(bootstrap_interval(&out.scores, RESAMPLES, 42));
    Ok((value, Some(outcomes::measured(TaskRef::named("vqa")?, score, &samples, &out))))
}

fn classes(
    o: &Options<'_>,
    task: TaskRef,
    form: AnnotationFormat,
    device: &Device,
) -> Result<Found> {
    let model = TaskModel::open(&o.path("model")?, task, device)?;
    let roots = ImageRoots { image_root: o.path("image_root")?, ..ImageRoots::default() };
    let list = o.path("annotations")?;
    let samples = read_task(&list, form, &roots)?;
    if samples.is_empty() {
        bail!("{} holds nothing to measure", list.display());
    }
    let out = model.accuracy(&samples, task)?;
    tell_skipped(&out.skipped);
    let found = outcomes::measured(task, ScoreRule::Official, &samples, &out);
    Ok((out.json(RESAMPLES), Some(found)))
}

fn grounding(o: &Options<'_>, device: &Device) -> Result<Found> {
    let (lists, root) = (o.paths("annotations")?, o.path("image_root")?);
    let cases = Cases::of_refcoco(&lists, &root, &o.path("refcoco_data")?, &o.path("det_file")?)?;
    let mode = o.mode()?;
    let ready = open_model(Some(&o.path("model")?), device)?;
    let out = evaluate_grounding::measure(&ready, &cases, mode, o.number("layer")?)?;
    out.tell();
    Ok((out.json(RESAMPLES), Some(out.outcomes(&cases))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_ranked_as_the_step_says_and_other_tasks_know_no_ranking() {
        let ranked = |options: &Value| {
            let options = options.as_object().cloned().unwrap_or_default();
            accepts("vqa", &options).and_then(|()| Options(&options).rank())
        };
        assert_eq!(ranked(&json!({})).ok(), Some(RankRule::Reference));
        assert_eq!(ranked(&json!({"rank": "chain"})).ok(), Some(RankRule::Chain));
        let error = ranked(&json!({"rank": "length"})).err().map(|e| e.to_string());
        assert!(error.is_some_and(|e| e.contains("`rank`")));
        let options = json!({"rank": "chain"});
        assert!(accepts("nlvr", options.as_object().unwrap_or(&Map::new())).is_err());
    }

    #[test]
    fn what_a_step_cannot_read_is_refused_before_anything_is_trained() {
        for (task, options, key) in [
            ("retrieval", json!({"k": "abc"}), "`k`"),
            ("grounding", json!({"mode": "foo"}), "`mode`"),
            ("grounding", json!({"mode": "itm", "layer": -1}), "`layer`"),
        ] {
            let error = accepts(task, options.as_object().unwrap_or(&Map::new())).err();
            assert!(error.is_some_and(|e| e.to_string().contains(key)), "{task}: {key}");
        }
    }
}
