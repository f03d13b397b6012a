//! What makes a run this run, so that nobody continues another one by mistake.

use albef_data::dataset::{Dataset, Target};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::{current_names, merge};
use crate::error::Result;
use crate::task::TaskRef;

/// Keys that may change between two sessions of a run. They say how long and how fast it goes on, how it
/// is stored, what is measured, or are not read; where data and first weights lie may change as well, since the
/// data itself is compared and the weights are those of the run.
const FREE: [&str; 34] = [
    // A run whose losses or weights were no numbers any more goes on with a smaller one.
    "optimizer.lr",
    "max_steps",
    "num_workers",
    "checkpoint_every",
    "keep_last_n",
    "max_skipped",
    "train_file",
    "data_manifest",
    "image_root",
    "vqa_root",
    "vg_root",
    "test_file",
    "val_file",
    "k_test",
    "rerank_k",
    "answer_scoring",
    "answer_list",
    "refcoco_data",
    "det_file",
    "checkpoint",
    "init_albef",
    "init_text",
    "init_vision",
    "vocab",
    "mixture_weights",
    "batch_size_train",
    "batch_size_test",
    "bert_config",
    "vision_width",
    "coco_file",
    "eval_ema",
    "schedular.lr",
    "schedular.decay_rate",
    "schedular.cooldown_epochs",
];

/// Task, configuration and data of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunFingerprint {
    /// What is trained for.
    pub task: TaskRef,
    /// The whole configuration; keys that may change are kept and not compared.
    pub config: Value,
    /// Samples of the training data.
    pub samples: usize,
    /// Hash over their names, texts, image numbers, crops and targets, in order, and the word pieces.
    pub data: String,
}

impl RunFingerprint {
    /// In what another run differs, each as one phrase.
    #[must_use]
    pub fn differences(&self, now: &Self) -> Vec<String> {
        let mut found = Vec::new();
        if self.task != now.task {
            found.push(format!("the task was {}, is {}", self.task.name(), now.task.name()));
        }
        // A key that the run did not know yet had no other effect than its default has.
        let mut was = self.task.default_config();
        let mut stored = self.config.clone();
        if let Err(error) = current_names(&mut stored, &mut Vec::new()) {
            found.push(error.to_string());
        }
        merge(&mut was, stored);
        compare(&as_stored(&was), &as_stored(&now.config), "", &mut found);
        if self.samples != now.samples {
            found.push(format!("the data had {} samples, has {}", self.samples, now.samples));
        } else if self.data != now.data && self.config["vocab"] != now.config["vocab"] {
            let (was, is) = (&self.config["vocab"], &now.config["vocab"]);
            found.push(format!("`vocab` was {was}, is {is}, and has other word pieces"));
        } else if self.data != now.data {
            found.push(format!(
                "the {} samples of the data are others, or in another order",
                now.samples
            ));
        }
        found
    }
}

/// A value as it comes back from a file, where numbers may differ in their last bit.
fn as_stored(value: &Value) -> Value {
    serde_json::from_str(&value.to_string()).unwrap_or_default()
}

/// A key that is not known any more is passed over.
fn compare(was: &Value, is: &Value, above: &str, found: &mut Vec<String>) {
    if let (Some(was), Some(is)) = (was.as_object(), is.as_object()) {
        for (key, was) in was {
            let Some(is) = is.get(key) else { continue };
            let key = format!("{above}{key}");
            if !FREE.contains(&key.as_str()) {
                let above = if was.is_object() { format!("{key}.") } else { key };
                compare(was, is, &above, found);
            }
        }
    } else if was != is {
        found.push(format!("`{}` was {was}, is {is}", above.trim_end_matches('.')));
    }
}

/// FNV-1a: tells mistakes, not malice.
pub(super) struct Hash(u64);

impl Default for Hash {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hash {
    pub fn take(&mut self, bytes: &[u8]) {
        // The length keeps neighbours apart.
        for byte in bytes.iter().chain(&bytes.len().to_le_bytes()) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub fn text(&self) -> String {
        format!("{:016x}", self.0)
    }
}

/// Over the data, whatever folder it lies in.
///
/// # Errors
/// If it cannot be gone through.
pub(super) fn data_hash(data: &Dataset, vocabulary: &str) -> Result<String> {
    let mut hash = Hash::default();
    let mut take = |bytes: &[u8]| hash.take(bytes);
    take(vocabulary.as_bytes());
    for source in data.sources() {
        take(&source.samples.to_le_bytes());
        take(&source.draw.weight.to_bits().to_le_bytes());
        let together = source.draw.together.get();
        // Runs of before this could be chosen have no place for it in their hash.
        if together > 1 {
            take(&together.to_le_bytes());
        }
    }
    for (sample, image) in data.samples().iter().zip(data.image_ids()) {
        let sample = sample?;
        take(&image.to_le_bytes());
        take(sample.name.as_bytes());
        sample.captions.iter().for_each(|caption| take(caption.as_bytes()));
        if sample.task.second.is_some() {
            take(sample.view_name(1).as_bytes());
        }
        if let Some(crops) = &sample.task.crops {
            crops.as_flattened().iter().for_each(|edge| take(&edge.to_le_bytes()));
        }
        match &sample.task.target {
            Target::None => {}
            Target::Label(label) => take(&label.to_le_bytes()),
            Target::Labels(labels) => labels.iter().for_each(|label| take(&label.to_le_bytes())),
            Target::Answers(answers) => answers.iter().for_each(|(answer, weight)| {
                take(answer.as_bytes());
                take(&weight.to_bits().to_le_bytes());
            }),
        }
    }
    Ok(hash.text())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Source;
    use albef_data::dataset::{Location, Sample, TaskFields};
    use serde_json::json;

    fn identity(config: Value) -> RunFingerprint {
        RunFingerprint {
            task: TaskRef::named("vqa").unwrap(),
            config,
            samples: 3,
            data: "0".into(),
        }
    }

    #[test]
    fn differing_keys_are_listed_with_both_values() {
        let was = identity(json!({"optimizer": {"lr": 1e-3, "opt": "adamW"}, "max_steps": 5,
                                  "schedular": {"lr": 1.0}, "seed": 1, "gone": true}));
        let is = identity(json!({"optimizer": {"lr": 3e-4, "opt": "adam"}, "max_steps": 9,
                                 "schedular": {"lr": 2.0}, "seed": 2, "new": true}));
        let found = was.differences(&is);
        assert_eq!(found, ["`seed` was 1, is 2", "`optimizer.opt` was \"adamW\", is \"adam\""]);
        assert!(was.differences(&was).is_empty());
        let other = RunFingerprint {
            data: "1".into(),
            task: TaskRef::named("nlvr").unwrap(),
            ..was.clone()
        };
        assert_eq!(was.differences(&other).len(), 2);
    }

    #[test]
    fn a_key_that_the_run_did_not_know_counts_as_its_default() {
        let now = |setting: &str| {
            let settings = ["checkpoint=x".to_owned(), setting.to_owned()];
            let source = Source { text: "", settings: &settings, file: None };
            identity(TaskRef::named("vqa").unwrap().configure(source).unwrap().record())
        };
        let mut was = now("seed=42");
        let config = was.config.as_object_mut().unwrap();
        for key in ["answer_scoring", "max_tokens", "num_workers", "mlm_distill_axis"] {
            config.remove(key).unwrap();
        }
        config["optimizer"].as_object_mut().unwrap().remove("decay_rule").unwrap();
        assert!(was.differences(&now("seed=42")).is_empty());
        assert!(was.differences(&now("num_workers=7")).is_empty());
        for (setting, found) in [
            ("mlm_distill_axis=sequence", r#"`mlm_distill_axis` was "vocabulary", is "sequence""#),
            ("optimizer.decay_rule=clean", r#"`optimizer.decay_rule` was "reference", is "clean""#),
            ("max_tokens=30", "`max_tokens` was 25, is 30"),
        ] {
            assert_eq!(was.differences(&now(setting)), [found]);
        }
    }

    /// The record of a pre-training of an older version.
    const OLD_PRETRAINING: &str = r#"{
        "preset": "base", "train_file": ["a.json"], "val_file": [], "k_test": 128,
        "train_weights": [], "image_root": "", "bert_config": "", "image_res": null,
        "vision_width": null, "embed_dim": null, "batch_size": 64, "accumulate": 1, "temp": 0.07,
        "learn_temp": true, "mlm_probability": 0.15, "queue_size": 65536, "momentum": 0.995,
        "alpha": 0.4, "mlm_distill_axis": "vocabulary", "image_index": false,
        "losses": {"ita": true, "itm": true, "mlm": true, "mlm_mod": true},
        "mixgen": {"mode": "off", "ratio": 0.25, "lambda": 0.5, "max_tokens": 25,
                   "mask_partners": false, "in_place": false},
        "align_steps": 0, "hard_negatives": true, "hard_negatives_from": 0,
        "negative_temp": 0.0, "text_lr_scale": 1.0, "dropout": 0.1, "momentum_dropout": 0.1,
        "crop_scale": [0.2, 1.0], "flip": true, "flip_sided": true, "rand_augment": [2, 7.0],
        "augment": {"autocontrast": "correct", "sharpness": "correct"}, "max_words": 30,
        "max_tokens": 25, "vocab": "bert", "init_text": "", "init_vision": "", "init_albef": "",
        "optimizer": {"opt": "adamW", "lr": 1e-4, "weight_decay": 0.02, "opt_eps": 1e-8,
                      "opt_betas": [0.9, 0.999], "decay_rule": "reference"},
        "schedular": {"sched": "cosine", "lr": 1e-4, "epochs": 30, "min_lr": 1e-5,
                      "decay_rate": 1.0, "warmup_lr": 1e-5, "warmup_epochs": 20,
                      "cooldown_epochs": 0, "warmup_steps": 100},
        "max_steps": 0, "seed": 42, "precision": "f32", "workers": 2, "checkpoint_every": 0,
        "keep_last": 2, "max_skipped": -1
    }"#;

    /// The whole record of a run of an older version, which had the keys of all fine-tuning tasks and
    /// former names.
    fn old_record(task: &str) -> Value {
        let mut all: Value = serde_json::from_str(OLD_PRETRAINING).unwrap();
        if task != "pretrain" {
            let crop = match task {
                "assignment" => [0.2, 1.0],
                "grounding" => [1.0, 1.0],
                _ => [0.5, 1.0],
            };
            let tokens = if matches!(task, "assignment" | "vqa") { 25 } else { 512 };
            let own = json!({
                "checkpoint": "gone", "test_file": [], "vqa_root": "", "vg_root": "",
                "answer_list": "", "batch_size_train": null, "batch_size_test": 32,
                "distill": true, "warm_up": true, "rank": "reference", "queue_reset": false,
                "teacher_init": "loaded", "eos": "[SEP]", "eval_ema": false, "refcoco_data": "",
                "det_file": "", "coco_file": "", "crop_scale": crop, "max_tokens": tokens,
                "image_index": true
            });
            merge(&mut all, own);
        }
        all
    }

    /// A run of an older version, as its checkpoint has it.
    fn old_run(task: &str, changes: Value) -> RunFingerprint {
        let mut config = old_record(task);
        merge(&mut config, changes);
        let text = json!({"task": task, "config": config, "samples": 3, "data": "0"}).to_string();
        serde_json::from_str(&text).unwrap()
    }

    /// The present run of an older task with settings.
    fn present(task: TaskRef, settings: &[&str]) -> RunFingerprint {
        let start = (task != TaskRef::pretrain()).then_some("checkpoint=x");
        let settings: Vec<String> =
            start.into_iter().chain(settings.iter().copied()).map(str::to_owned).collect();
        let source = Source { text: "", settings: &settings, file: None };
        RunFingerprint { task, ..identity(task.configure(source).unwrap().record()) }
    }

    #[test]
    fn a_run_of_an_older_version_goes_on() {
        for (old, name) in [
            ("pretrain", "pretrain"),
            ("retrieval", "retrieval"),
            ("grounding", "grounding"),
            ("vqa", "vqa"),
            ("nlvr", "nlvr"),
            ("assignment", "nlvr-ta"),
            ("entailment", "ve"),
        ] {
            let was = old_run(old, json!({}));
            assert_eq!(was.task.name(), name);
            let found = was.differences(&present(was.task, &[]));
            assert!(found.is_empty(), "{old}: {found:?}");

            let changed = json!({"accumulate": 8, "flip_sided": false, "workers": 7, "keep_last": 9,
                                 "optimizer": {"lr": 3.0}});
            let was = old_run(old, changed);
            let now = ["grad_accum_steps=8", "flip_with_side_words=false"];
            assert!(was.differences(&present(was.task, &now)).is_empty(), "{old}");
            let mut found = was.differences(&present(was.task, &[]));
            found.sort();
            let differences =
                ["`flip_with_side_words` was false, is true", "`grad_accum_steps` was 8, is 1"];
            assert_eq!(found, differences, "{old}");
        }
    }

    #[test]
    fn former_names_of_an_older_pre_training_are_compared_under_the_present_ones() {
        let old = json!({"align_steps": 5, "hard_negatives_from": 6, "learn_temp": false,
                         "train_weights": [1.0, 2.0]});
        let found = old_run("pretrain", old).differences(&present(TaskRef::pretrain(), &[]));
        let said = |text: &str| found.iter().any(|line| line == text);
        assert!(said("`itc_only_steps` was 5, is 0"), "{found:?}");
        assert!(said("`hard_negatives_start` was 6, is 0"), "{found:?}");
        assert!(said("`train_temp` was false, is true"), "{found:?}");
        assert_eq!(found.len(), 3, "the mixture is compared by the data itself: {found:?}");
    }

    #[test]
    fn data_is_known_by_names_and_texts_and_not_by_its_folder() {
        let data = |folder: &str, text: &str| {
            let sample = Sample {
                location: Location::File(format!("{folder}/a.png").into()),
                name: "a.png".into(),
                captions: vec![text.into()],
                key: format!("{folder}/a.png"),
                task: TaskFields::default(),
            };
            data_hash(&Dataset::from_samples(vec![sample]), "[PAD]").unwrap()
        };
        assert_eq!(data("here", "red"), data("there", "red"));
        assert_ne!(data("here", "red"), data("here", "blue"));
    }
}
