//! Visual entailment (paper section 5): does an image entail a sentence, contradict it, or neither?

use std::path::Path;

use albef_data::dataset::{
    Dataset, EntryContext, ReadEntry, Sample, Target, TaskFields, text_field,
};
use albef_weights::{Schema, StateDict};
use burn::tensor::{Device, Tensor};
use serde_json::{Map, Value, json};

use super::configured::{accessors, finetuned, task_config};
use super::labels::{self, LabelEvaluator, ListOptions, Logits};
use super::{
    Configuration, EvalKey, EvaluationOptions, Evaluator, PRETRAIN, Prediction, Query, Task,
    TaskConfig, TaskRef, classes,
};
use crate::checkpoint::LoadedModel;
use crate::config::{DistillConfig, ModelConfig, MomentumConfig, StartConfig, TrainConfig};
use crate::error::Result;
use crate::model::{Branch, DropoutRng, TokenBatch, VisualEntailmentModel};
use crate::objectives::{ClassificationObjective, ImagesPerText, Objective};
use crate::train::start::Start;

/// Three classes of a sentence about an image.
pub(super) struct VisualEntailment;

/// The classes in the order of the logits.
const CLASSES: [&str; 3] = VisualEntailmentModel::CLASSES;

impl Task for VisualEntailment {
    fn name(&self) -> &'static str {
        "ve"
    }

    fn aliases(&self) -> &'static [&'static str] {
        &["entailment"]
    }

    fn title(&self) -> &'static str {
        "visual entailment (ve)"
    }

    fn about(&self) -> &'static str {
        "Visual entailment"
    }

    fn used_by(&self) -> &'static str {
        "`albef entail` and `albef evaluate ve`"
    }

    fn schema(&self, config: &ModelConfig) -> Schema {
        let schema = Schema::new(config.sizes()).vision().text_encoder("text_encoder");
        schema.cls_head(CLASSES.len())
    }

    fn recognizes(&self, state: &StateDict) -> bool {
        classes(state) == Some(CLASSES.len())
    }

    fn starts_from(&self) -> &'static [&'static str] {
        &[PRETRAIN, "retrieval"]
    }

    fn annotations(&self) -> Option<ReadEntry> {
        Some(sentence)
    }

    fn configuration(&self) -> Configuration {
        Configuration::of::<VisualEntailmentConfig>()
    }

    fn evaluation_options(&self) -> Option<EvaluationOptions> {
        Some(EvaluationOptions::of::<ListOptions>(&["annotations"]))
    }

    fn evaluation(&self, options: Value) -> Result<Box<dyn Evaluator>> {
        let task = TaskRef::of(&VisualEntailment);
        let options = labels::options(task, options)?;
        Ok(Box::new(LabelEvaluator::from_options(task, 1, logits, &options)?))
    }

    fn predict(&self, model: &LoadedModel, query: &Query) -> Result<Prediction> {
        labels::needs_text(query)?;
        let (row, truncated) = labels::predict(model, query, 1, &*logits(model)?, labels::softmax)?;
        let best = labels::best(&row).unwrap_or(0);
        let named = || CLASSES.iter().zip(&row);
        let p: Map<String, Value> = named().map(|(c, p)| ((*c).to_owned(), json!(p))).collect();
        let mut choices: Vec<(String, f32)> = named().map(|(c, p)| ((*c).to_owned(), *p)).collect();
        choices.sort_by(|a, b| b.1.total_cmp(&a.1));
        Ok(Prediction {
            value: json!({"label": CLASSES[best], "probabilities": p}),
            lines: named().map(|(class, p)| format!("{p:>6.3}  {class}")).collect(),
            choices,
            truncated,
            unknown_words: labels::unknown_words(model, [&*query.text])?,
        })
    }
}

task_config! {
    /// The configuration of fine-tuning for visual entailment.
    pub struct VisualEntailmentConfig {
        train: TrainConfig,
        start: StartConfig,
        momentum: MomentumConfig,
        distill: DistillConfig,
    }
}

impl Default for VisualEntailmentConfig {
    fn default() -> Self {
        let mut train = TrainConfig::default();
        train.image.crop_scale = (0.5, 1.0);
        train.data.max_tokens = 512;
        Self {
            train,
            start: StartConfig::default(),
            momentum: MomentumConfig::default(),
            distill: DistillConfig::default(),
            notes: Vec::new(),
        }
    }
}

impl TaskConfig for VisualEntailmentConfig {
    accessors!(VisualEntailment, distilled);

    fn objective(&self, _data: &Dataset) -> Box<dyn Objective> {
        Box::new(ClassificationObjective {
            images: ImagesPerText::One,
            classes: CLASSES.len(),
            distill: self.distill.distill,
            dropout: self.train.optim.dropout as f32,
            momentum_dropout: self.momentum.momentum_dropout as f32,
        })
    }

    fn open_data(&self) -> Result<Dataset> {
        labels::train_data(self)
    }

    fn initialize(&self, _data: &Dataset, device: &Device) -> Result<Start> {
        finetuned(self, device)
    }

    fn evaluator(&self, key: EvalKey) -> Result<Option<Box<dyn Evaluator>>> {
        labels::run_evaluator(self, key, 1, logits)
    }
}

/// The logits of a loaded model.
fn logits(model: &LoadedModel) -> Result<Box<Logits<'_>>> {
    let weights = model.weights();
    let entailment = VisualEntailmentModel::new(&model.config, &weights, Branch::Online)?;
    Ok(Box::new(move |images: Tensor<4>, texts: &TokenBatch| {
        entailment.logits(images, texts, &mut DropoutRng::none())
    }))
}

/// An entry of the official lists.
fn sentence(entry: &Value, context: EntryContext<'_>) -> Result<Option<Sample>, String> {
    if entry.get("gold_label").is_some() {
        return sentence(&as_official(entry), context);
    }
    let label = entry["label"].as_str();
    // SNLI's mark where annotators did not agree.
    if label == Some("-") {
        return Ok(None);
    }
    let Some(label) = CLASSES.iter().position(|class| Some(*class) == label) else {
        return Err(format!(
            "`label` is {}; it must be entailment, neutral or contradiction",
            entry["label"]
        ));
    };
    // The official lists give the number of a JPEG file, as a text.
    let mut image = match &entry["image"] {
        Value::Number(number) => number.to_string(),
        _ => text_field(entry, "image")?,
    };
    if Path::new(&image).extension().is_none() {
        image.push_str(".jpg");
    }
    let task = TaskFields { target: Target::Label(label), ..TaskFields::default() };
    let text = text_field(entry, "sentence")?;
    Ok(Some(context.sample(&context.roots.image_root, image, text, task)))
}

/// An entry of SNLI-VE's own files in the form of the official lists.
fn as_official(entry: &Value) -> Value {
    json!({
        "image": entry["Flickr30K_ID"],
        "sentence": entry["sentence2"],
        "label": entry["gold_label"],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::tests::{read, unread};

    #[test]
    fn labels_are_read_and_images_may_be_numbers() {
        for (image, label, class) in
            [("\"12\"", "entailment", 2), ("12", "neutral", 1), ("\"12.jpg\"", "contradiction", 0)]
        {
            let list = format!(r#"[{{"image": {image}, "sentence": "s", "label": "{label}"}}]"#);
            let sample = &read("ve", &list).unwrap()[0];
            assert_eq!(sample.task.target, Target::Label(class));
            assert_eq!((sample.name.as_str(), &sample.captions[..]), ("12.jpg", &["s".into()][..]));
        }
    }

    #[test]
    fn snli_ve_s_own_entries_are_read_and_those_without_a_gold_label_left_out() {
        let of = |label: &str| {
            format!(
                r#"{{"Flickr30K_ID": "12", "pairID": "12.jpg#1r1n", "sentence1": "a", "sentence2": "s",
                    "gold_label": "{label}"}}"#
            )
            .replace('\n', "")
        };
        let lines = [of("neutral"), of("-"), of("entailment")].join("\n");
        let samples = read("ve", &lines).unwrap();
        let labels: Vec<_> = samples.iter().map(|s| s.task.target.clone()).collect();
        assert_eq!(labels, [Target::Label(1), Target::Label(2)]);
        assert_eq!(
            (samples[0].name.as_str(), &samples[0].captions[..]),
            ("12.jpg", &["s".into()][..])
        );
        assert!(unread("ve", &of("x")).contains("line 1: `label` is \"x\""));
    }

    #[test]
    fn odd_entries_are_refused_by_entry() {
        for (entry, part) in [
            (r#"{"image": "1", "sentence": "s", "label": "x"}"#, "entailment, neutral or"),
            (r#"{"image": "1", "sentence": "s", "label": 2}"#, "`label` is 2"),
            (r#"{"image": "1", "label": "neutral"}"#, "`sentence`"),
            (r#"{"image": [1], "sentence": "s", "label": "neutral"}"#, "`image`"),
        ] {
            let good = r#"{"image": "1", "sentence": "s", "label": "neutral"}"#;
            let error = unread("ve", &format!("[{good}, {entry}]"));
            assert!(error.contains("list.json, entry 1") && error.contains(part), "{error}");
        }
    }
}
