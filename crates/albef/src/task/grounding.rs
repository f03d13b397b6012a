//! Weakly supervised visual grounding (paper section 6).

use std::path::{Path, PathBuf};

use albef_data::dataset::{
    Dataset, EntryContext, ImageRoots, ReadEntry, Sample, TaskFields, number_field, text_field,
};
use albef_weights::{Schema, StateDict};
use burn::tensor::Device;
use serde_json::{Value, json};

use super::configured::{accessors, finetuned, task_config};
use super::evaluation::{first_of, left_out, measurable, some_present, unusable};
use super::labels::{self, truncated_warning};
use super::retrieval::{self, QueueKeys};
use super::{
    Configuration, EvalKey, Evaluation, EvaluationOptions, Evaluator, ListFault, PRETRAIN,
    RESAMPLES, Task, TaskConfig, TaskRef,
};
use crate::Control;
use crate::checkpoint::LoadedModel;
use crate::config::section::{rule, section};
use crate::config::{
    DistillConfig, ModelConfig, MomentumConfig, PairsConfig, StartConfig, TrainConfig,
};
use crate::error::{Error, Result};
use crate::eval::grounding::{Cases, GroundingReport, box_faults, measure};
use crate::inference::GroundingMode;
use crate::objectives::Objective;
use crate::pipeline::Pipeline;
use crate::train::start::Start;

/// Trains as retrieval does, on uncropped images; measured by the boxes that Grad-CAM chooses.
pub(super) struct Grounding;

impl Task for Grounding {
    fn name(&self) -> &'static str {
        "grounding"
    }

    fn title(&self) -> &'static str {
        "retrieval or grounding"
    }

    fn about(&self) -> &'static str {
        "Weakly supervised visual grounding"
    }

    fn used_by(&self) -> &'static str {
        "`albef ground` and `albef evaluate grounding`"
    }

    fn model(&self) -> &'static str {
        "retrieval"
    }

    fn schema(&self, config: &ModelConfig) -> Schema {
        retrieval::schema(config)
    }

    fn recognizes(&self, _state: &StateDict) -> bool {
        // Its keys are those of retrieval.
        false
    }

    fn annotations(&self) -> Option<ReadEntry> {
        Some(expression)
    }

    fn configuration(&self) -> Configuration {
        Configuration::of::<GroundingConfig>()
    }

    fn unread(&self) -> &'static [&'static str] {
        &["batch_size_test", "coco_file"]
    }

    fn list_faults(&self, list: &Path, samples: &[Sample], decode: bool) -> Result<Vec<ListFault>> {
        let roots = ImageRoots::default();
        let context = EntryContext { roots: &roots, list };
        let lines = box_faults(list, samples, decode, |value| {
            matches!(expression(value, context), Ok(Some(_)))
        })?;
        let about = "boxes that cannot be used";
        Ok(vec![ListFault { key: "unusable_boxes", about, count: lines.len(), lines }])
    }

    fn evaluation_options(&self) -> Option<EvaluationOptions> {
        Some(EvaluationOptions::of::<GroundingOptions>(&["annotations"]))
    }

    fn evaluation(&self, options: Value) -> Result<Box<dyn Evaluator>> {
        let o: GroundingOptions = labels::options(TaskRef::of(&Grounding), options)?;
        let [data, boxes] = [&o.refcoco_data, &o.det_file].map(|p| p.clone().unwrap_or_default());
        let cases = cases(&o.annotations, &o.image_root, &data, &boxes)?;
        let list = o.annotations.first().cloned().unwrap_or_default();
        measurable(&cases.samples, &list)?;
        let (mode, layer, resamples) = (o.mode, o.layer, o.resamples);
        Ok(Box::new(GroundingEvaluator { cases, mode, layer, resamples }))
    }

    fn evaluates(&self) -> Vec<&'static str> {
        vec![PRETRAIN, "retrieval"]
    }
}

section! {
    /// Keys of grounding alone.
    pub struct GroundingKeys: "Grounding" {
        /// folder with `refcoco+/refs(unc).p` and `refcoco+/instances.json`
        refcoco_data: String = String::new();
        /// proposals for RefCOCO+
        det_file: String = String::new();
        /// not read, as in the official code
        coco_file: String = String::new();
    }
}

task_config! {
    /// The configuration of fine-tuning for grounding.
    pub struct GroundingConfig {
        train: TrainConfig,
        start: StartConfig,
        momentum: MomentumConfig,
        distill: DistillConfig,
        pairs: PairsConfig,
        queue: QueueKeys,
        grounding: GroundingKeys,
    }
}

impl Default for GroundingConfig {
    fn default() -> Self {
        let mut train = TrainConfig::default();
        train.image.crop_scale = (1.0, 1.0);
        train.data.max_tokens = 512;
        Self {
            train,
            start: StartConfig::default(),
            momentum: MomentumConfig::default(),
            distill: DistillConfig::default(),
            pairs: PairsConfig { image_index: true, ..PairsConfig::default() },
            queue: QueueKeys::default(),
            grounding: GroundingKeys::default(),
            notes: Vec::new(),
        }
    }
}

impl TaskConfig for GroundingConfig {
    accessors!(Grounding, start);

    fn check(&self) -> Result<()> {
        retrieval::check_pairs(&self.pairs, &self.momentum, false)?;
        if self.pairs.mixgen.is_active() {
            return Err(Error::Config(
                "`mixgen` mixes image-text pairs: it serves pre-training and retrieval only".into(),
            ));
        }
        Ok(())
    }

    fn momentum(&self) -> Option<&MomentumConfig> {
        Some(&self.momentum)
    }

    fn warm_up(&self) -> bool {
        self.distill.warm_up
    }

    fn pairs(&self) -> Option<&PairsConfig> {
        Some(&self.pairs)
    }

    fn resets_queues(&self) -> bool {
        self.queue.queue_reset
    }

    fn objective(&self, _data: &Dataset) -> Box<dyn Objective> {
        let distill = self.distill.distill;
        Box::new(retrieval::objective(&self.train, &self.momentum, distill, &self.pairs))
    }

    fn open_data(&self) -> Result<Dataset> {
        labels::train_data(self)
    }

    fn initialize(&self, _data: &Dataset, device: &Device) -> Result<Start> {
        finetuned(self, device)
    }

    fn evaluator(&self, key: EvalKey) -> Result<Option<Box<dyn Evaluator>>> {
        let files = self.eval_files(key);
        if files.is_empty() {
            return Ok(None);
        }
        let lists: Vec<PathBuf> = files.iter().map(PathBuf::from).collect();
        let keys = &self.grounding;
        let root = Path::new(&self.train.data.image_root);
        let mut cases =
            cases(&lists, root, Path::new(&keys.refcoco_data), Path::new(&keys.det_file))?;
        if key == EvalKey::Val {
            cases.for_choosing()?;
        }
        some_present(&cases.samples, key.name(), "image_root")?;
        let (mode, layer) = (GroundingMode::default(), None);
        Ok(Some(Box::new(GroundingEvaluator { cases, mode, layer, resamples: RESAMPLES })))
    }
}

section! {
    /// Options of an evaluation.
    pub struct GroundingOptions: "Evaluation" {
        /// JSON list of `image`, `text`, `box` (what is meant) and `boxes` (to choose from), boxes as
        /// `[left, top, width, height]` in pixels; or, with --refcoco-data, the official lists of
        /// `image`, `text` and `ref_id`. Several lists count as one
        annotations: Vec<PathBuf> = Vec::new();
        /// joined before its image paths
        image_root: PathBuf = PathBuf::new();
        /// folder with `refcoco+/refs(unc).p` and `refcoco+/instances.json`; gives accuracy by split
        refcoco_data: Option<PathBuf> = None;
        /// proposals for RefCOCO+: a JSON object, boxes by image number
        det_file: Option<PathBuf> = None;
        /// score that the map explains: itm or itc
        mode: GroundingMode = GroundingMode::default();
        /// layer whose map is used: a fusion layer (the third, if there is one), or for `itc` an image
        /// block (the last)
        layer: Option<usize> = None;
        /// resamples of bootstrap intervals
        resamples: usize = RESAMPLES, if rule::at_least_1;
    }
}

/// Expressions to measure on: with the files of RefCOCO+ those of its splits, else a list with boxes.
fn cases(lists: &[PathBuf], root: &Path, data: &Path, boxes: &Path) -> Result<Cases> {
    let named = |path: &Path| !path.as_os_str().is_empty();
    match (named(data), named(boxes)) {
        (false, false) => Cases::of_lists(lists, root),
        (true, true) => Cases::of_refcoco(lists, root, data, boxes),
        _ => Err(Error::Argument(
            "`refcoco_data` and `det_file` belong together; one of them is missing".into(),
        )),
    }
}

/// Accuracy of the boxes that Grad-CAM chooses.
struct GroundingEvaluator {
    cases: Cases,
    mode: GroundingMode,
    layer: Option<usize>,
    resamples: usize,
}

fn lines(found: &GroundingReport, value: &Value) -> Vec<String> {
    let line = |name: &str, v: &Value| {
        let number = |v: &Value| v.as_f64().unwrap_or(f64::NAN);
        format!(
            "{name}accuracy {:.2} [{:.2}, {:.2}] on {} expressions (layer {}); a random box {:.2}, the \
             box nearest to the center {:.2}",
            number(&v["accuracy"]),
            number(&v["interval"][0]),
            number(&v["interval"][1]),
            v["expressions"],
            found.layer,
            number(&v["random_box"]),
            number(&v["centre_box"])
        )
    };
    let mut lines: Vec<String> = match value["splits"].as_object() {
        Some(splits) => splits.iter().map(|(name, v)| line(&format!("{name}: "), v)).collect(),
        None => vec![line("", value)],
    };
    if found.no_box_scored > 0 {
        lines.push(format!("no box scored, counted as wrong: {}", found.no_box_scored));
    }
    lines
}

impl Evaluator for GroundingEvaluator {
    fn evaluate(&self, model: &LoadedModel, control: &Control) -> Result<Evaluation> {
        let pipeline = Pipeline::from_loaded(model)?;
        if self.mode == GroundingMode::Itc {
            pipeline.needs_contrast()?;
        }
        let found = measure(&pipeline, &self.cases, self.mode, self.layer, control)?;
        let mut report = found.to_json(self.resamples);
        // The official choice of the best epoch looks at the split `val` only.
        let score = report.get("val_d").unwrap_or(&report["accuracy"]).as_f64();
        report["score"] = json!(score);
        report["left_out"] = json!(self.cases.left_out.len());
        let mut warnings = left_out(&self.cases.left_out);
        warnings.extend(unusable(&found.skipped));
        let outside = found.gt_outside_image.iter().cloned();
        warnings.extend(first_of("its `box` is outside the image, counted as wrong", outside));
        let others = found.other_sizes.iter().cloned();
        warnings.extend(first_of("not of the stated size, to which its boxes refer", others));
        if found.proposals_outside > 0 {
            let n = found.proposals_outside;
            warnings.push(format!("{n} proposals are outside their images and are never chosen"));
        }
        let without = self.cases.without_proposals();
        if without > 0 {
            warnings.push(format!(
                "{without} expressions are of images without proposals and count as wrong"
            ));
        }
        warnings.extend(truncated_warning(
            found.truncated_texts,
            self.cases.samples.len(),
            pipeline.phrase_limits(),
        ));
        Ok(Evaluation {
            lines: lines(&found, &report),
            score,
            outcomes: Some(found.outcomes(&self.cases)),
            report,
            warnings,
            ..Evaluation::default()
        })
    }
}

/// An entry of the official lists; all expressions of an image file are positives of each other.
fn expression(entry: &Value, context: EntryContext<'_>) -> Result<Option<Sample>, String> {
    let task = TaskFields { id: number_field(entry, "ref_id")?, ..TaskFields::default() };
    let (image, text) = (text_field(entry, "image")?, text_field(entry, "text")?);
    let mut sample = context.sample(&context.roots.image_root, image, text, task);
    sample.key = sample.name.rsplit('/').next().unwrap_or_default().to_owned();
    Ok(Some(sample))
}

#[cfg(test)]
mod tests {
    use crate::task::tests::{read, unread};

    #[test]
    fn expressions_of_an_image_file_share_its_key() {
        let list = r#"[{"image": "train2014/x.jpg", "text": "man in red", "ref_id": 42},
            {"image": "x.jpg", "text": "the dog"}]"#;
        let samples = read("grounding", list).unwrap();
        let found: Vec<_> = samples.iter().map(|s| (s.key.as_str(), s.task.id)).collect();
        assert_eq!(found, [("x.jpg", Some(42)), ("x.jpg", None)]);
        assert_eq!(samples[0].name, "train2014/x.jpg");
    }

    #[test]
    fn odd_expressions_are_refused_by_entry() {
        for (entry, part) in [
            (r#"{"image": "a", "text": "t", "ref_id": 1.5}"#, "`ref_id`"),
            (r#"{"image": "a", "text": 3}"#, "`text`"),
            (r#"{"text": "t"}"#, "`image`"),
        ] {
            let error =
                unread("grounding", &format!(r#"[{{"image": "a", "text": "t"}}, {entry}]"#));
            assert!(error.contains("list.json, entry 1") && error.contains(part), "{error}");
        }
    }
}
