//! The configuration of fine-tuning: the official keys of all tasks (spec `training` section 3).

use albef_data::dataset::MixMode;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::pretrain::{Files, Parsed, PretrainConfig, parse_config};
use crate::error::{Error, Result};
use crate::eval::answers::RankRule;
use crate::train::objective::Objective;

/// From what a momentum model starts that the checkpoint does not have.
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

/// Everything that decides about a fine-tuning run. Keys that pre-training knows too keep their
/// meaning; their values there are in `base`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FinetuneConfig {
    /// Model folder or checkpoint to start from.
    pub checkpoint: String,
    /// List to report on.
    pub test_file: Files,
    /// Root of the pictures of VQAv2.
    pub vqa_root: String,
    /// Root of the pictures of Visual Genome.
    pub vg_root: String,
    /// Candidate answers, a JSON list of texts.
    pub answer_list: String,
    /// Pairs of a training step, if given.
    pub batch_size_train: Option<usize>,
    /// Pictures of an evaluation step.
    pub batch_size_test: usize,
    /// Whether the momentum model's predictions are learnt from.
    pub distill: bool,
    /// Whether the distillation weight rises over the first epoch.
    pub warm_up: bool,
    /// How answers are ranked when measuring: `reference`, `chain` or `normalised` (quirk Q19).
    pub rank: RankRule,
    /// Whether the queues start anew instead of with the checkpoint's (quirk Q11).
    pub queue_reset: bool,
    /// From what the momentum model of statements starts where the checkpoint has none: `loaded` or
    /// `reference` (quirk Q12).
    pub teacher_init: TeacherInit,
    /// Ends an answer.
    pub eos: String,
    /// Accepted and not read, as in the official code.
    pub eval_ema: bool,
    /// Folder with `refcoco+/refs(unc).p` and `refcoco+/instances.json`.
    pub refcoco_data: String,
    /// Proposals for RefCOCO+.
    pub det_file: String,
    /// Accepted and not read, as in the official code.
    pub coco_file: String,
    /// Keys that were given another value than their default and that the task does not read.
    #[serde(skip)]
    pub unread: Vec<String>,
    /// The keys shared with pre-training.
    #[serde(flatten)]
    pub base: PretrainConfig,
}

/// Keys that no fine-tuning reads: sizes, word pieces and temperature come with the checkpoint.
const NEVER_READ: [&str; 13] = [
    "preset",
    "vision_width",
    "embed_dim",
    "bert_config",
    "vocab",
    "init_vision",
    "init_albef",
    "temp",
    "train_weights",
    "align_steps",
    "mlm_probability",
    "eval_ema",
    "coco_file",
];

/// Keys that only the objectives with contrast read.
const OF_CONTRAST: [&str; 9] = [
    "queue_size",
    "queue_reset",
    "image_index",
    "losses",
    "mixgen",
    "hard_negatives",
    "hard_negatives_from",
    "negative_temp",
    "learn_temp",
];

/// Keys that only the objectives with a teacher read.
const OF_TEACHERS: [&str; 5] = ["distill", "warm_up", "alpha", "momentum", "momentum_dropout"];

/// Keys that only question answering reads.
const OF_ANSWERS: [&str; 6] =
    ["vqa_root", "vg_root", "answer_list", "eos", "rank", "mlm_distill_axis"];

/// Whether fine-tuning for a task looks at a key.
fn reads(objective: Objective, key: &str) -> bool {
    use Objective::{Assignment, Grounding, Nlvr, Retrieval, Vqa};
    match key {
        _ if NEVER_READ.contains(&key) => false,
        _ if OF_CONTRAST.contains(&key) => matches!(objective, Retrieval | Grounding),
        _ if OF_TEACHERS.contains(&key) => objective != Assignment,
        _ if OF_ANSWERS.contains(&key) => objective == Vqa,
        "teacher_init" | "init_text" => objective == Nlvr,
        "image_root" => objective != Vqa,
        "batch_size_test" => !matches!(objective, Retrieval | Grounding | Assignment),
        "k_test" => matches!(objective, Retrieval | Vqa),
        "refcoco_data" | "det_file" => objective == Grounding,
        "val_file" | "test_file" => objective != Assignment,
        _ => true,
    }
}

/// The given keys that the task does not read. A key that stands at its default, as some do in the
/// official files, misleads nobody.
fn unread(given: &Value, defaults: &Value, objective: Objective) -> Vec<String> {
    let given = given.as_object().into_iter().flatten();
    let changed = given.clone().filter(|(key, value)| **value != defaults[key.as_str()]);
    // `batch_size_train` is the official name and goes before.
    let twice = given.clone().any(|(key, _)| key == "batch_size_train");
    changed
        .map(|(key, _)| key.clone())
        .filter(|key| !reads(objective, key) || (twice && key == "batch_size"))
        .collect()
}

impl Default for FinetuneConfig {
    fn default() -> Self {
        let base = PretrainConfig {
            crop_scale: (0.5, 1.0),
            max_tokens: 512,
            image_index: true,
            ..PretrainConfig::default()
        };
        Self {
            checkpoint: String::new(),
            test_file: Files::Many(Vec::new()),
            vqa_root: String::new(),
            vg_root: String::new(),
            answer_list: String::new(),
            batch_size_train: None,
            batch_size_test: 32,
            distill: true,
            warm_up: true,
            rank: RankRule::default(),
            queue_reset: false,
            teacher_init: TeacherInit::default(),
            eos: "[SEP]".into(),
            eval_ema: false,
            refcoco_data: String::new(),
            det_file: String::new(),
            coco_file: String::new(),
            unread: Vec::new(),
            base,
        }
    }
}

impl FinetuneConfig {
    /// The defaults of a task.
    pub(crate) fn of(objective: Objective) -> Self {
        let mut defaults = Self::default();
        match objective {
            Objective::Vqa => defaults.base.max_tokens = 25,
            Objective::Assignment => {
                defaults.base.crop_scale = (0.2, 1.0);
                defaults.base.max_tokens = 25;
            }
            Objective::Grounding => defaults.base.crop_scale = (1.0, 1.0),
            _ => {}
        }
        defaults
    }

    /// Reads a configuration text (YAML) and applies `key=value` settings, nested keys with dots.
    ///
    /// # Errors
    /// Names an unknown key with the nearest known one, or the key whose value does not fit. Sizes are
    /// checked once the checkpoint is known.
    pub fn parse(text: &str, settings: &[String], objective: Objective) -> Result<Self> {
        let Parsed { config: mut parsed, given, defaults } =
            parse_config(text, settings, &Self::of(objective))?;
        parsed.unread = unread(&given, &defaults, objective);
        if let Some(size) = parsed.batch_size_train {
            parsed.base.batch_size = size;
        }
        parsed.base.check_values()?;
        if parsed.checkpoint.is_empty() {
            return Err(Error::Config(
                "`checkpoint` is empty: name a model folder to start from, for instance with \
                 `--set checkpoint=models/mini`"
                    .into(),
            ));
        }
        parsed.check_teacher(objective)?;
        let contrastive = matches!(objective, Objective::Retrieval);
        if parsed.base.mixgen.mode != MixMode::Off && !contrastive {
            return Err(Error::Config(
                "`mixgen` mixes image-text pairs: it serves pre-training and retrieval only".into(),
            ));
        }
        if parsed.eos != "[SEP]" {
            return Err(Error::Config(format!("`eos` is `{}`; only [SEP] is known", parsed.eos)));
        }
        Ok(parsed)
    }

    fn check_teacher(&self, objective: Objective) -> Result<()> {
        let fresh = self.teacher_init == TeacherInit::Reference;
        if objective == Objective::Nlvr && !self.base.init_text.is_empty() && !fresh {
            return Err(Error::Config(
                "`init_text` names a BERT for the momentum model and needs `teacher_init: reference`"
                    .into(),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configurations_of_the_repository_are_valid() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
        let named = |o: Objective| match o {
            Objective::Retrieval => vec!["retrieval_coco", "retrieval_flickr"],
            Objective::Grounding => vec!["grounding"],
            Objective::Vqa => vec!["vqa"],
            Objective::Nlvr => vec!["nlvr"],
            Objective::Assignment => vec!["nlvr_ta"],
            Objective::Entailment => vec!["ve"],
            Objective::Pretrain => vec!["base", "mini", "nano"],
        };
        for objective in [
            Objective::Pretrain,
            Objective::Retrieval,
            Objective::Grounding,
            Objective::Vqa,
            Objective::Nlvr,
            Objective::Assignment,
            Objective::Entailment,
        ] {
            for name in named(objective) {
                let path = folder.join(format!("{name}.yaml"));
                let text = std::fs::read_to_string(&path).unwrap();
                if objective == Objective::Pretrain {
                    PretrainConfig::parse(&text, &[]).unwrap();
                } else {
                    let start = ["checkpoint=x".to_owned()];
                    FinetuneConfig::parse(&text, &start, objective).unwrap();
                }
            }
        }
    }

    #[test]
    fn the_official_keys_of_a_task_are_understood() {
        let text = "train_file: [vqa_train.json]\nvqa_root: v\nvg_root: g\nimage_res: 384\n\
                    batch_size_train: 32\nbatch_size_test: 16\nalpha: 0.4\ndistill: True\n\
                    warm_up: True\neos: '[SEP]'\nk_test: 128\nanswer_list: a.json\n\
                    bert_config: c\noptimizer: {opt: adamW, lr: 2e-5, weight_decay: 0.02}";
        let settings = ["checkpoint=x".to_owned()];
        let config = FinetuneConfig::parse(text, &settings, Objective::Vqa).unwrap();
        assert_eq!(config.base.batch_size, 32);
        assert_eq!(config.base.optimizer.lr, 2e-5);
        assert_eq!(config.base.max_tokens, 25);
        let error = FinetuneConfig::parse("distil: true", &settings, Objective::Vqa).unwrap_err();
        assert!(error.to_string().contains("`distill`"), "{error}");
        assert!(FinetuneConfig::parse("", &[], Objective::Vqa).is_err());
    }

    #[test]
    fn sizes_are_those_of_the_checkpoint_and_not_of_a_preset() {
        let settings = ["checkpoint=x".to_owned(), "image_res=72".to_owned()];
        let config =
            FinetuneConfig::parse("vision_width: 384", &settings, Objective::Retrieval).unwrap();
        assert_eq!(config.base.image_res, Some(72));
    }

    #[test]
    fn keys_without_effect_are_told() {
        let unread = |text: &str, objective: Objective| {
            FinetuneConfig::parse(text, &["checkpoint=x".to_owned()], objective).unwrap().unread
        };
        let text = "vision_width: 768\nembed_dim: 256\ntemp: 0.07\nqueue_size: 128\n\
                    batch_size_test: 64\nval_file: []\nbatch_size: 8";
        let sizes = ["vision_width", "embed_dim"];
        assert_eq!(unread(text, Objective::Retrieval), [&sizes[..], &["batch_size_test"]].concat());
        let more = ["queue_size"];
        assert_eq!(unread(text, Objective::Vqa), [&sizes[..], &more[..]].concat());
        assert!(unread("train_weights: []\nvocab: bert", Objective::Vqa).is_empty());
        assert_eq!(unread("alpha: 0.1", Objective::Assignment), ["alpha"]);
        for (key, task) in [
            ("rank: chain", Objective::Vqa),
            ("mlm_distill_axis: sequence", Objective::Vqa),
            ("queue_reset: true", Objective::Retrieval),
            ("teacher_init: reference", Objective::Nlvr),
        ] {
            assert!(unread(key, task).is_empty(), "{key}");
            let name = key.split(':').next().unwrap();
            assert_eq!(unread(key, Objective::Entailment), [name]);
        }
    }

    #[test]
    fn switches_for_errors_of_the_official_code_have_named_values() {
        let failed = |text: &str, objective: Objective| {
            let settings = ["checkpoint=x".to_owned()];
            FinetuneConfig::parse(text, &settings, objective).unwrap_err().to_string()
        };
        for (key, value) in [
            ("rank", "`normalised`"),
            ("teacher_init", "`loaded`"),
            ("mlm_distill_axis", "`vocabulary`"),
            ("optimizer.decay_rule", "`clean`"),
        ] {
            let text = match key.split_once('.') {
                Some((above, key)) => format!("{above}: {{{key}: other}}"),
                None => format!("{key}: other"),
            };
            let error = failed(&text, Objective::Vqa);
            assert!(error.contains(&format!("`{key}`")) && error.contains(value), "{error}");
        }
        assert!(failed("init_text: b.safetensors", Objective::Nlvr).contains("teacher_init"));
        let error = PretrainConfig::parse("", &["rank=chain".to_owned()]).unwrap_err();
        assert!(error.to_string().contains("unknown key `rank`"), "{error}");
    }
}
