//! Natural language for visual reasoning, NLVR2 (paper section 5): is a statement about two images true?

use std::path::Path;

use albef_data::dataset::{
    Dataset, EntryContext, Location, ReadEntry, Sample, Target, TaskFields, text_field,
};
use albef_weights::{Schema, StateDict};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::configured::{accessors, task_config};
use super::labels::{self, LabelEvaluator, ListOptions, Logits};
use super::{
    Configuration, EvalKey, EvaluationOptions, Evaluator, PRETRAIN, Prediction, Query, Task,
    TaskConfig, TaskRef, classes, remap_to_pairs,
};
use crate::checkpoint::LoadedModel;
use crate::config::section::section;
use crate::config::{DistillConfig, ModelConfig, MomentumConfig, StartConfig, TrainConfig};
use crate::error::{Error, Result};
use crate::init::fresh_params;
use crate::model::{Branch, DropoutRng, Nlvr2Model, TokenBatch};
use crate::objectives::momentum::copy_for_momentum;
use crate::objectives::{ClassificationObjective, ImagesPerText, Objective};
use crate::params::to_vec;
use crate::train::start::{self, Start};

/// Statements about two images.
pub(super) struct Nlvr2;

/// False, true.
const CLASSES: usize = Nlvr2Model::CLASSES;

impl Task for Nlvr2 {
    fn name(&self) -> &'static str {
        "nlvr"
    }

    fn title(&self) -> &'static str {
        "statements about two images (nlvr)"
    }

    fn about(&self) -> &'static str {
        "Statements about two images"
    }

    fn used_by(&self) -> &'static str {
        "`albef reason` and `albef evaluate nlvr`"
    }

    fn schema(&self, config: &ModelConfig) -> Schema {
        let schema = Schema::new(config.sizes()).vision().paired_text_encoder("text_encoder");
        schema.cls_head(CLASSES)
    }

    fn recognizes(&self, state: &StateDict) -> bool {
        classes(state) == Some(CLASSES)
    }

    fn starts_from(&self) -> &'static [&'static str] {
        &[PRETRAIN, "nlvr-ta", "retrieval"]
    }

    fn remap(&self, name: &str, fusion_layer: usize) -> Vec<String> {
        remap_to_pairs(name, fusion_layer)
    }

    fn has_paired_layers(&self) -> bool {
        true
    }

    fn annotations(&self) -> Option<ReadEntry> {
        Some(statement)
    }

    fn configuration(&self) -> Configuration {
        Configuration::of::<Nlvr2Config>()
    }

    fn unread(&self) -> &'static [&'static str] {
        &["eval_ema"]
    }

    fn images(&self) -> usize {
        2
    }

    fn evaluation_options(&self) -> Option<EvaluationOptions> {
        Some(EvaluationOptions::of::<ListOptions>(&["annotations"]))
    }

    fn evaluation(&self, options: Value) -> Result<Box<dyn Evaluator>> {
        let task = TaskRef::of(&Nlvr2);
        let options = labels::options(task, options)?;
        Ok(Box::new(LabelEvaluator::from_options(task, 2, logits, &options)?))
    }

    fn predict(&self, model: &LoadedModel, query: &Query) -> Result<Prediction> {
        labels::needs_text(query)?;
        let (row, truncated) = labels::predict(model, query, 2, &*logits(model)?, labels::softmax)?;
        let [p_false, p_true] = [row[0], row[1]];
        let truth = p_true > p_false;
        let mut choices = vec![("true".to_owned(), p_true), ("false".to_owned(), p_false)];
        choices.sort_by(|a, b| b.1.total_cmp(&a.1));
        Ok(Prediction {
            value: json!({"label": truth, "probability": p_true}),
            lines: vec![format!("{truth}, with probability {p_true:.3} of being true")],
            choices,
            truncated,
            unknown_words: labels::unknown_words(model, [&*query.text])?,
        })
    }
}

/// What a momentum model starts from that the checkpoint does not have (quirk Q12).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TeacherInit {
    /// The trained weights, once they are loaded.
    #[default]
    Loaded,
    /// Fresh weights, and those of the BERT that `init_text` names: in the official code the copy is
    /// made before the checkpoint is read.
    Reference,
}

section! {
    /// Keys of statements about two images alone.
    pub struct Nlvr2Keys: "Statements about two images" {
        /// what the momentum model starts from; or `reference` (quirk Q12)
        teacher_init: TeacherInit = TeacherInit::default();
        /// a BERT for the momentum model, with `teacher_init: reference`
        init_text: String = String::new();
        /// not read, as in the official code
        eval_ema: bool = false;
    }
}

task_config! {
    /// The configuration of fine-tuning for statements about two images.
    pub struct Nlvr2Config {
        train: TrainConfig,
        start: StartConfig,
        momentum: MomentumConfig,
        distill: DistillConfig,
        nlvr: Nlvr2Keys,
    }
}

impl Default for Nlvr2Config {
    fn default() -> Self {
        let mut train = TrainConfig::default();
        train.image.crop_scale = (0.5, 1.0);
        train.data.max_tokens = 512;
        Self {
            train,
            start: StartConfig::default(),
            momentum: MomentumConfig::default(),
            distill: DistillConfig::default(),
            nlvr: Nlvr2Keys::default(),
            notes: Vec::new(),
        }
    }
}

impl TaskConfig for Nlvr2Config {
    accessors!(Nlvr2, distilled);

    fn check(&self) -> Result<()> {
        if !self.nlvr.init_text.is_empty() && self.nlvr.teacher_init == TeacherInit::Loaded {
            return Err(Error::Config(
                "`init_text` names a BERT for the momentum model and needs `teacher_init: reference`"
                    .into(),
            ));
        }
        Ok(())
    }

    fn objective(&self, _data: &Dataset) -> Box<dyn Objective> {
        Box::new(ClassificationObjective {
            images: ImagesPerText::Two,
            classes: CLASSES,
            distill: self.distill.distill,
            dropout: self.train.optim.dropout as f32,
            momentum_dropout: self.momentum.momentum_dropout as f32,
        })
    }

    fn open_data(&self) -> Result<Dataset> {
        labels::train_data(self)
    }

    fn initialize(&self, _data: &Dataset, device: &Device) -> Result<Start> {
        start::from_checkpoint(self, device, |loaded, seed| {
            if !self.distill.distill || self.nlvr.teacher_init == TeacherInit::Loaded {
                return Ok(Vec::new());
            }
            let note = match start_apart(loaded, &self.nlvr.init_text, seed, device)? {
                0 => "the checkpoint has its own momentum copies: `teacher_init` changes nothing"
                    .into(),
                n => format!("{n} weights of the momentum model start apart from the trained ones"),
            };
            Ok(vec![note])
        })
    }

    fn evaluator(&self, key: EvalKey) -> Result<Option<Box<dyn Evaluator>>> {
        labels::run_evaluator(self, key, 2, logits)
    }
}

/// Puts fresh weights, and those of a BERT if one is named, in the place of the momentum copies that the
/// checkpoint does not have, as the official code does (quirk Q12). Fresh heads are the trained model's
/// own ones. Gives the number of weights that changed.
fn start_apart(
    loaded: &mut LoadedModel,
    init_text: &str,
    seed: u64,
    device: &Device,
) -> Result<usize> {
    let mut fresh = fresh_params(&Nlvr2.schema(&loaded.config), start::TEMP, seed, device)?;
    if !init_text.is_empty() {
        let path = Path::new(init_text);
        let mut notes = Vec::new();
        let bert = albef_weights::from_bert(start::read_of("init_text", path, &mut notes)?);
        let body = bert.into_iter().filter_map(|(name, tensor)| {
            let name = name.strip_prefix("text_encoder.bert.")?;
            Some((format!("text_encoder.{name}"), tensor))
        });
        notes.extend(start::take_over(&mut fresh, &body.collect(), path, "text_encoder.")?);
        notes.iter().for_each(|note| tracing::info!("{note}"));
    }
    let fresh = copy_for_momentum(&fresh)?;
    let (momentum, copied) = loaded.momentum_or_copy()?;
    loaded.momentum = momentum;
    let mut changed = 0;
    for name in &copied {
        let Some(p) = fresh.get(name) else { continue };
        let value = to_vec(p.value.clone());
        if loaded.momentum.get(name).is_none_or(|own| to_vec(own.value.clone()) != value) {
            loaded.momentum.insert(name, &p.shape, value)?;
            changed += 1;
        }
    }
    Ok(changed)
}

/// The logits of a loaded model.
fn logits(model: &LoadedModel) -> Result<Box<Logits<'_>>> {
    let weights = model.weights();
    let pairs = Nlvr2Model::new(&model.config, &weights, Branch::Online)?;
    Ok(Box::new(move |images: Tensor<4>, texts: &TokenBatch| {
        pairs.logits(images, texts, &mut DropoutRng::none())
    }))
}

/// Two lists of four numbers, and nothing else.
fn crops(given: &Value) -> Option<[[usize; 4]; 2]> {
    let number = |n: &Value| n.as_u64().and_then(|n| usize::try_from(n).ok());
    let corners = |v: &Value| -> Option<[usize; 4]> {
        let list: Vec<usize> = v.as_array()?.iter().map(number).collect::<Option<_>>()?;
        list.try_into().ok()
    };
    match given.as_array()?.as_slice() {
        [first, second] => Some([corners(first)?, corners(second)?]),
        _ => None,
    }
}

/// An entry of the official lists.
fn statement(entry: &Value, context: EntryContext<'_>) -> Result<Option<Sample>, String> {
    if let (None, Some(id)) = (entry.get("images"), entry["identifier"].as_str()) {
        let mut official = entry.clone();
        official["images"] = json!(images_of(id, entry, context)?);
        return statement(&official, context);
    }
    let images: Option<Vec<&str>> =
        entry["images"].as_array().and_then(|list| list.iter().map(Value::as_str).collect());
    let Some([first, second]) = images.as_deref() else {
        return Err(format!("`images` is {}; it must be a list of two texts", entry["images"]));
    };
    let label = match &entry["label"] {
        Value::String(s) if s == "True" => 1,
        Value::String(s) if s == "False" => 0,
        Value::Bool(b) => usize::from(*b),
        other => return Err(format!("`label` is {other}; it must be \"True\" or \"False\"")),
    };
    let crops = match &entry["crops"] {
        Value::Null => None,
        given => Some(crops(given).ok_or_else(|| {
            format!(
                "`crops` is {given}; it must hold two lists of four whole numbers from 0 on: \
                 left, top, right, bottom"
            )
        })?),
    };
    let root = &context.roots.image_root;
    let task = TaskFields {
        second: Some(context.location(root, second)),
        crops,
        target: Target::Label(label),
        ..TaskFields::default()
    };
    let text = text_field(entry, "sentence")?;
    Ok(Some(context.sample(root, (*first).to_owned(), text, task)))
}

/// The images of an entry of NLVR2's own files, `SPLIT-SET-PAIR-SENTENCE`: those of `train` in numbered
/// folders. Of the places that the data set's own layouts give, the first where there is an image.
fn images_of(id: &str, entry: &Value, context: EntryContext<'_>) -> Result<[String; 2], String> {
    let wrong = || format!("`identifier` is {id}; it must be such as `dev-850-0-1`");
    let (pair, _) = id.rsplit_once('-').ok_or_else(wrong)?;
    let (split, _) = pair.split_once('-').ok_or_else(wrong)?;
    let below = match entry["directory"].as_u64() {
        Some(number) => format!("{split}/{number}/"),
        None => format!("{split}/"),
    };
    let official = if split == "train" { format!("images/{below}") } else { below.clone() };
    let named = |folder: &str| [0, 1].map(|i| format!("{folder}{pair}-img{i}.png"));
    let folders = [official.clone(), below.clone(), format!("images/{below}"), String::new()];
    let there = |folder: &&String| {
        let first = &named(folder)[0];
        match context.location(&context.roots.image_root, first) {
            Location::File(path) => path.is_file(),
            Location::Member { .. } => false,
        }
    };
    Ok(named(folders.iter().find(there).unwrap_or(&official)))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use albef_weights::{KeepAs, write_safetensors};

    use super::*;
    use crate::checkpoint::state_dict;
    use crate::params::{Params, cpu};
    use crate::task::tests::{configured, fresh, read, save, unread};
    use crate::train::checkpoint::TrainState;

    const QUERY: &str = "encoder.layer.0.attention.self.query.weight";

    fn online_query() -> String {
        format!("text_encoder.{QUERY}")
    }

    fn momentum_query() -> String {
        format!("text_encoder_m.{QUERY}")
    }

    /// The start from these weights, with notes.
    fn start(weights: &Params, text: &str) -> (TrainState, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), weights, None);
        let config = configured("nlvr", text, &dir.path().display().to_string());
        let found = config.initialize(&Dataset::from_samples(Vec::new()), &cpu()).unwrap();
        (found.state, found.notes)
    }

    fn of(params: &Params, name: &str) -> Vec<f32> {
        to_vec(params.get(name).unwrap().value.clone())
    }

    #[test]
    fn a_teacher_of_statements_can_start_apart_from_the_loaded_weights() {
        let prepared = fresh("nlvr-ta", 1);
        let (loaded, _) = start(&prepared, "");
        let (online, momentum) = (online_query(), momentum_query());
        assert_eq!(of(&loaded.momentum, &momentum), of(&loaded.online, &online));
        let (apart, notes) = start(&prepared, "teacher_init: reference");
        assert_eq!(of(&apart.online, &online), of(&loaded.online, &online));
        assert_ne!(of(&apart.momentum, &momentum), of(&apart.online, &online));
        let head = of(&apart.online, "cls_head.0.weight");
        let own_head = of(&apart.momentum, "cls_head_m.0.weight");
        assert_eq!(head, own_head, "both start from one fresh head");

        let differs = |name: &str| of(&loaded.momentum, name) != of(&apart.momentum, name);
        let all = loaded.momentum.entries();
        let n = all.iter().filter(|p| differs(&p.name)).count();
        assert!(0 < n && n < all.len(), "heads and fresh biases are the same: {n}");
        let note = format!("{n} weights of the momentum model start apart from the trained ones");
        assert!(notes.contains(&note), "{notes:?}");
    }

    #[test]
    fn a_teacher_of_statements_can_start_from_a_bert() {
        // A BERT knows no cross-attention.
        let bert = fresh("nlvr", 9);
        let body = state_dict(&bert).into_iter().filter_map(|(name, tensor)| {
            let name = name.strip_prefix("text_encoder.")?;
            (!name.contains("crossattention")).then(|| (format!("bert.{name}"), tensor))
        });
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bert.safetensors");
        write_safetensors(&path, &body.collect(), &HashMap::new(), KeepAs::Same).unwrap();
        let text = format!("teacher_init: reference\ninit_text: {}", path.display());
        let (state, _) = start(&fresh("nlvr-ta", 1), &text);
        assert_eq!(of(&state.momentum, &momentum_query()), of(&bert, &online_query()));
    }

    #[test]
    fn an_init_of_the_teacher_without_effect_is_not_said_to_have_one() {
        let mut prepared = fresh("nlvr", 1);
        for p in copy_for_momentum(&prepared).unwrap().entries() {
            prepared.insert(&p.name, &p.shape, to_vec(p.value.clone())).unwrap();
        }
        let (state, notes) = start(&prepared, "teacher_init: reference");
        let own = "the checkpoint has its own momentum copies: `teacher_init` changes nothing";
        assert!(notes.iter().any(|line| line == own), "{notes:?}");
        assert_eq!(of(&state.momentum, &momentum_query()), of(&prepared, &momentum_query()));

        // Without a teacher the BERT is not read.
        let text = "teacher_init: reference\ndistill: false\ninit_text: gone.safetensors";
        let (state, notes) = start(&prepared, text);
        assert!(state.momentum.entries().is_empty());
        let about = |line: &String| line.contains("apart") || line.contains("teacher_init");
        assert!(!notes.iter().any(about), "{notes:?}");
    }

    #[test]
    fn truth_values_count_as_labels() {
        for (label, class) in [("true", 1), ("false", 0), ("\"True\"", 1), ("\"False\"", 0)] {
            let list = format!(r#"[{{"images": ["a", "b"], "sentence": "s", "label": {label}}}]"#);
            let sample = &read("nlvr", &list).unwrap()[0];
            assert_eq!(sample.task.target, Target::Label(class));
            assert_eq!((sample.name.as_str(), sample.view_name(1)), ("a", "b".to_owned()));
        }
        let list = r#"[{"images": ["a", "b"], "sentence": "s", "label": "yes"}]"#;
        assert!(unread("nlvr", list).contains("`label` is \"yes\""));
    }

    #[test]
    fn nlvr2_s_own_entries_are_read() {
        let of = |id: &str, more: &str| {
            format!(r#"{{"identifier": "{id}", "sentence": "s", "label": "True"{more}}}"#)
        };
        let lines = [of("train-10-0-1", r#", "directory": 11"#), of("dev-850-2-0", "")].join("\n");
        let samples = read("nlvr", &lines).unwrap();
        let names = |i: usize| (samples[i].name.clone(), samples[i].view_name(1));
        let pair = |of: &str| (format!("{of}-img0.png"), format!("{of}-img1.png"));
        assert_eq!(names(0), pair("images/train/11/train-10-0"));
        assert_eq!(names(1), pair("dev/dev-850-2"));
        assert!(unread("nlvr", &of("dev", "")).contains("`identifier` is dev"));
    }

    #[test]
    fn odd_images_and_crops_are_refused_by_entry() {
        let list = |images: &str, crops: &str| {
            let good = r#"{"images": ["a", "b"], "sentence": "s", "label": "True"}"#;
            let odd = format!(r#""sentence": "s", "label": "True", "crops": {crops}"#);
            format!(r#"[{good}, {{"images": {images}, {odd}}}]"#)
        };
        let good = list(r#"["a", "b"]"#, "[[0, 1, 2, 3], [4, 5, 6, 7]]");
        assert_eq!(read("nlvr", &good).unwrap()[1].task.crops, Some([[0, 1, 2, 3], [4, 5, 6, 7]]));
        for images in [r#"["a", 3, "b"]"#, r#"["a", null]"#, r#""ab""#, r#"["a", "b", "c"]"#] {
            let error = unread("nlvr", &list(images, "null"));
            assert!(error.contains("entry 1") && error.contains("two texts"), "{error}");
        }
        for crops in [
            "[[0, -1, 1, 2, 3], [4, 5, 6, 7]]",
            "[[0, 1, 2, 3], [4, 5.5, 5, 6, 7]]",
            "[[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]",
            "[[0, 1, 2, 3]]",
            r#"{"0": [0, 1, 2, 3], "1": [4, 5, 6, 7]}"#,
        ] {
            let error = unread("nlvr", &list(r#"["a", "b"]"#, crops));
            assert!(error.contains("entry 1") && error.contains("four whole numbers"), "{error}");
        }
    }
}
