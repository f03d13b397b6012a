//! Reading of configurations, and what is said of one that cannot work.

use serde_json::{Value, json};

use super::{ModelConfig, RENAMED, Source};
use crate::task::{TASKS, TaskConfig, TaskRef};

fn configure(task: &str, text: &str, settings: &[&str]) -> crate::Result<Box<dyn TaskConfig>> {
    let task = TaskRef::named(task)?;
    let start = (task != TaskRef::pretrain()).then_some("checkpoint=x");
    let settings: Vec<String> =
        start.into_iter().chain(settings.iter().copied()).map(str::to_owned).collect();
    task.configure(Source { text, settings: &settings, file: None })
}

fn configured(task: &str, text: &str, settings: &[&str]) -> Box<dyn TaskConfig> {
    configure(task, text, settings).unwrap_or_else(|e| panic!("{task}, {text}, {settings:?}: {e}"))
}

fn failed(task: &str, text: &str, settings: &[&str]) -> String {
    configure(task, text, settings).unwrap_err().to_string()
}

/// The value of a dotted key in a configuration.
fn at(config: &dyn TaskConfig, key: &str) -> Value {
    key.split('.').fold(&config.record(), |value, part| &value[part]).clone()
}

#[test]
fn official_keys_are_understood_and_settings_override_them() {
    let text = "train_file: [a.json]\nbatch_size: 8\noptimizer: {opt: adamW, lr: 1e-4}\n\
                schedular: {sched: cosine, epochs: 3}";
    let config =
        configured("pretrain", text, &["optimizer.lr=3e-4", "train_file=[b.json, c.json]"]);
    let train = config.train();
    assert_eq!(train.optim.optimizer.lr, 3e-4);
    assert_eq!(train.data.train_file.paths(), ["b.json", "c.json"]);
    assert_eq!((train.optim.batch_size, train.optim.schedular.epochs), (8, 3));
    assert_eq!(config.queue_size(), 65_536);
    assert!(config.notes().is_empty());
}

#[test]
fn the_official_keys_of_a_task_are_understood() {
    let text = "train_file: [vqa_train.json]\nvqa_root: v\nvg_root: g\nimage_res: 384\n\
                batch_size_train: 32\nbatch_size_test: 16\nalpha: 0.4\ndistill: True\n\
                warm_up: True\neos: '[SEP]'\nk_test: 128\nanswer_list: a.json\n\
                bert_config: c\noptimizer: {opt: adamW, lr: 2e-5, weight_decay: 0.02}";
    let config = configured("vqa", text, &[]);
    let train = config.train();
    assert_eq!((train.optim.batch_size, train.data.max_tokens), (32, 25));
    assert_eq!((train.optim.optimizer.lr, train.image.image_res), (2e-5, Some(384)));
    assert_eq!(at(&*config, "vg_root"), "g");
    let error = TaskRef::named("vqa").unwrap().configure(Source::default()).unwrap_err();
    assert!(error.to_string().contains("`checkpoint` is empty"), "{error}");
}

#[test]
fn tasks_have_defaults_of_their_own() {
    for (task, crop, tokens) in [
        ("pretrain", [0.2, 1.0], 25),
        ("retrieval", [0.5, 1.0], 512),
        ("grounding", [1.0, 1.0], 512),
        ("vqa", [0.5, 1.0], 25),
        ("nlvr", [0.5, 1.0], 512),
        ("nlvr-ta", [0.2, 1.0], 25),
        ("ve", [0.5, 1.0], 512),
    ] {
        let config = configured(task, "", &[]);
        assert_eq!(at(&*config, "crop_scale"), json!(crop), "{task}");
        assert_eq!(at(&*config, "max_tokens"), tokens, "{task}");
    }
    let by_id = |task: &str| configured(task, "", &[]).pairs().unwrap().image_index;
    assert_eq!([by_id("pretrain"), by_id("retrieval"), by_id("grounding")], [false, true, true]);
}

#[test]
fn a_misspelt_key_names_the_nearest() {
    for (task, text, wrong, right) in [
        ("pretrain", "batch_sise: 8", "`batch_sise`", "`batch_size`"),
        ("pretrain", "optimizer: {weight_decy: 0}", "weight_decy", "`optimizer.weight_decay`"),
        ("vqa", "distil: true", "`distil`", "`distill`"),
    ] {
        let error = failed(task, text, &[]);
        assert!(error.contains(wrong) && error.contains(right), "{error}");
    }
    let error = failed("pretrain", "", &["batch_sise=8"]);
    assert!(error.contains("--set batch_sise=8") && error.contains("`batch_size`"), "{error}");
    let error = failed("pretrain", "zebra: 8", &[]);
    assert!(error.contains("`zebra`") && !error.contains("did you mean"), "{error}");
}

#[test]
fn duplicate_keys_are_refused_by_name() {
    for (text, key) in [
        ("seed: 1\nbatch_size: 2\nbatch_size: 4", "batch_size"),
        ("optimizer:\n  lr: 1e-3\n  lr: 1e-4", "lr"),
        ("optimizer: {lr: 1e-3, lr: 1e-4}", "lr"),
    ] {
        let error = failed("pretrain", text, &[]);
        assert!(error.contains(&format!("duplicate entry with key \"{key}\"")), "{error}");
    }
    assert_eq!(configured("pretrain", "\u{feff}seed: 7\n", &[]).train().data.seed, 7);
}

#[test]
fn a_number_that_is_not_finite_is_named_by_its_key() {
    for (text, setting, key) in [
        ("alpha: .nan", "seed=1", "alpha"),
        ("optimizer: {lr: .NaN}", "seed=1", "optimizer.lr"),
        ("crop_scale: [0.5, -.inf]", "seed=1", "crop_scale"),
        ("", "optimizer.lr=.nan", "optimizer.lr"),
        ("", "optimizer={lr: .nan}", "optimizer.lr"),
    ] {
        let error = failed("pretrain", text, &[setting]);
        assert!(error.contains(&format!("`{key}` is not a finite number")), "{error}");
    }
}

#[test]
fn a_value_of_another_type_is_named_with_its_key_and_setting() {
    for (text, settings, parts) in [
        ("batch_size: '8'", &[][..], &["`batch_size`", "text"][..]),
        ("optimizer: {weight_decay: 0.1, lr: fast}", &[], &["`optimizer.lr`", "a number"]),
        ("temp: 0.1", &["flip=true", "schedular.epochs=-1"], &["--set schedular.epochs=-1"]),
        ("", &["optimizer={lr: [1]}"], &["`optimizer.lr`", "--set optimizer"]),
        ("", &["rand_augment=[1"], &["--set rand_augment=[1"]),
        ("", &["seed"], &["--set seed", "key=value"]),
        ("", &["seed.deep=1"], &["`seed`", "--set seed.deep=1"]),
        ("train_file: 3", &[], &["`train_file`", "a path or a list of paths"]),
        ("[1, 2]", &[], &["keys with values"]),
        ("optimizer.lr: 1e-3", &[], &["`lr` below `optimizer`", "`--set`"]),
        ("", &["background=#ffffff"], &["`background`", "`#` begins a comment"]),
        ("", &["optimizer="], &["`optimizer`", "keys with values"]),
    ] {
        let error = failed("pretrain", text, settings);
        assert!(parts.iter().all(|part| error.contains(part)), "{parts:?}: {error}");
    }
}

#[test]
fn a_problem_of_a_file_names_the_file() {
    let file = std::path::Path::new("mine.yaml");
    for text in ["zebra: 1", "seed: x", "seed: .inf", "batch_size: 1\nbatch_size: 2"] {
        let source = Source { text, settings: &[], file: Some(file) };
        let error = TaskRef::pretrain().configure(source).unwrap_err().to_string();
        assert!(error.contains("in mine.yaml"), "{text}: {error}");
    }
}

#[test]
fn values_out_of_range_are_refused_by_name() {
    for (setting, possible) in [
        ("optimizer.lr=0", "above 0"),
        ("optimizer.opt_betas=[0.9, 1]", "below 1"),
        ("optimizer.opt_betas=[-0.1, 0.9]", "below 1"),
        ("optimizer.opt_eps=0", "above 0"),
        ("optimizer.weight_decay=-1", "0 or more"),
        ("optimizer.opt=sgd", "`adamW`"),
        ("temp=0", "above 0"),
        ("alpha=2", "between 0 and 1"),
        ("momentum=-0.1", "between 0 and 1"),
        ("mlm_probability=1.5", "between 0 and 1"),
        ("dropout=1", "below 1"),
        ("momentum_dropout=1", "below 1"),
        ("negative_temp=-1", "0 or more"),
        ("patch_dropout=1", "below 1"),
        ("text_lr_scale=-1", "0 or more"),
        ("crop_scale=[0.5, 0.2]", "rise within 0 to 1"),
        ("schedular.epochs=0", "at least 1"),
        ("schedular.sched=linear", "`per_step`"),
        ("batch_size=0", "at least 1"),
        ("grad_accum_steps=0", "at least 1"),
        ("keep_last_n=0", "at least 1"),
        ("max_tokens=513", "positions for 1 to 512"),
        ("max_tokens=0", "at least 1"),
        ("max_skipped=-2", "-1"),
        ("queue_size=1000000000000", "at most 4194304"),
        ("num_workers=100000", "at most 256"),
        ("rand_augment=[1000000000, 7]", "is 1000000000; it can be at most 100"),
    ] {
        let error = failed("pretrain", "", &[setting]);
        let key = setting.split('=').next().unwrap_or_default();
        assert!(error.contains(&format!("`{key}")) && error.contains(possible), "{error}");
    }
    configured("pretrain", "", &["max_skipped=-1", "alpha=1", "dropout=0", "queue_size=0"]);
}

#[test]
fn values_that_contradict_each_other_are_refused() {
    for (text, part) in [
        ("image_res: 250", "240"),
        ("preset: huge", "huge"),
        ("vision_width: 384", "contradicts the preset"),
        ("losses: {ita: false, itm: false, mlm: false}", "at least one"),
        ("itc_only_steps: 5\nlosses: {ita: false}", "`itc_only_steps`"),
        ("mixgen: {mode: batch, max_tokens: 600}", "`mixgen.max_tokens` is 600"),
        ("mixture_weights: [1, 2]\ntrain_file: a.json", "2 `mixture_weights` for 1"),
        ("momentum_contrast: false\nalpha: 0", "`queue_size: 0`"),
        ("momentum_contrast: false\nqueue_size: 0", "`alpha: 0`"),
    ] {
        let error = failed("pretrain", text, &[]);
        assert!(error.contains(part), "{error}");
    }
    assert!(failed("nlvr", "init_text: b.safetensors", &[]).contains("teacher_init"));
    configured("nlvr", "init_text: b.safetensors\nteacher_init: reference", &[]);
    let mixgen = "mixgen: {mode: batch}";
    assert!(failed("grounding", mixgen, &[]).contains("`mixgen`"));
    assert!(configured("retrieval", mixgen, &[]).pairs().unwrap().mixgen.is_active());
    assert!(failed("vqa", "eos: '.'", &[]).contains("`eos`"));
}

#[test]
fn switches_for_errors_of_the_official_code_have_named_values() {
    for (task, key, value) in [
        ("vqa", "answer_scoring", "`normalised`"),
        ("vqa", "mlm_distill_axis", "`vocabulary`"),
        ("vqa", "optimizer.decay_rule", "`clean`"),
        ("nlvr", "teacher_init", "`loaded`"),
        ("ve", "augment.sharpness", "`correct`"),
    ] {
        let error = failed(task, "", &[&format!("{key}=other")]);
        assert!(error.contains(&format!("`{key}`")) && error.contains(value), "{error}");
    }
}

#[test]
fn the_other_spelling_of_the_schedule_can_be_set_too() {
    let settings = ["schedular.epochs=3", "scheduler.min_lr=0"];
    let config = configured("pretrain", "scheduler: {epochs: 9}", &settings);
    let schedule = &config.train().optim.schedular;
    assert_eq!((schedule.epochs, schedule.min_lr), (3, 0.0));
    assert!(config.notes().is_empty(), "{:?}", config.notes());
}

/// Former names with the present one, and a task that has the key.
fn renamed() -> impl Iterator<Item = (&'static str, &'static str, TaskRef)> {
    RENAMED.into_iter().filter(|(former, _)| *former != "scheduler").map(|(former, name)| {
        let has = |task: &TaskRef| task.default_config().get(name).is_some();
        let task = TASKS.into_iter().find(has);
        (former, name, task.unwrap_or_else(|| panic!("no task has the key `{name}`")))
    })
}

#[test]
fn a_former_name_is_understood_and_noted() {
    for (former, name, task) in renamed() {
        let note = format!("`{former}` is now called `{name}`");
        let (key, value) = match name {
            "answer_scoring" => (task.name(), "chain"),
            "mixture_weights" => (task.name(), "[]"),
            "flip_with_side_words" | "train_temp" => (task.name(), "false"),
            _ => (task.name(), "3"),
        };
        let [present, text, setting] = [
            configured(key, &format!("{name}: {value}"), &[]),
            configured(key, &format!("{former}: {value}"), &[]),
            configured(key, "", &[&format!("{former}={value}")]),
        ];
        assert!(present.notes().is_empty());
        for old in [text, setting] {
            assert_eq!(old.notes(), [note.as_str()]);
            assert_eq!(old.record(), present.record(), "{former}");
        }
    }
}

#[test]
fn both_names_of_a_key_in_one_file_are_an_error() {
    let both = renamed().map(|(former, name, task)| (former, name, task.name()));
    for (former, name, task) in both.chain([("scheduler", "schedular", "pretrain")]) {
        let value = if former == "scheduler" { "{}" } else { "1" };
        let error = failed(task, &format!("{name}: {value}\n{former}: {value}"), &[]);
        let says = format!("`{former}` and `{name}` are one key");
        assert!(error.contains(&says), "{error}");
    }
}

#[test]
fn a_key_of_other_tasks_names_them() {
    for (task, setting, owners) in [
        ("ve", "answer_scoring=chain", "vqa"),
        ("ve", "rank=chain", "vqa"),
        ("retrieval", "teacher_init=reference", "nlvr"),
        ("vqa", "det_file=d.json", "grounding"),
        ("ve", "queue_reset=true", "retrieval and grounding"),
    ] {
        let (key, value) = setting.split_once('=').unwrap_or_default();
        for error in [failed(task, "", &[setting]), failed(task, &format!("{key}: {value}"), &[])] {
            assert!(error.contains(&format!("is a key of {owners}")), "{error}");
            assert!(error.contains("albef finetune"), "{error}");
        }
    }
    for setting in ["distill=false", "checkpoint=x", "answer_scoring=chain"] {
        let error = failed("pretrain", "", &[setting]);
        assert!(error.contains("is a key of"), "{error}");
        assert!(error.contains("albef finetune"), "{error}");
    }
}

#[test]
fn keys_without_effect_are_noted() {
    let notes = |task: &str, text: &str| configured(task, text, &[]).notes().join("; ");
    let sizes = "vision_width: 768\nembed_dim: 256\ntemp: 0.07\nqueue_size: 128";
    for (task, unread) in [
        ("retrieval", &["embed_dim", "vision_width"][..]),
        ("vqa", &["embed_dim", "vision_width", "queue_size"]),
    ] {
        let found = notes(task, sizes);
        assert!(found.starts_with(&format!("{task} does not read ")), "{found}");
        assert!(unread.iter().all(|key| found.contains(&format!("`{key}`"))), "{found}");
        // The temperature is at its default, and so misleads nobody.
        assert_eq!(found.matches('`').count(), 2 * unread.len(), "{found}");
    }
    for (task, text, key) in [
        ("retrieval", "batch_size_test: 64", "batch_size_test"),
        ("nlvr-ta", "val_file: a.json", "val_file"),
    ] {
        assert_eq!(notes(task, text), format!("{task} does not read `{key}`"));
        assert_eq!(notes("ve", text), "");
    }
    assert_eq!(notes("nlvr-ta", "alpha: 0.1"), "nlvr-ta does not read `alpha`");
    assert_eq!(notes("vqa", "mixture_weights: []\nvocab: bert\nteacher_init: loaded"), "");
}

#[test]
fn sizes_are_those_of_the_checkpoint_and_not_of_a_preset() {
    let config = configured("retrieval", "vision_width: 384", &["image_res=72"]);
    assert_eq!(config.train().image.image_res, Some(72));
}

#[test]
fn values_of_many_levels_are_refused_at_once() {
    for text in ["seed: [[[", "- - - "].map(|part| part.repeat(50_000)) {
        let source = Source { text: &text, settings: &[], file: None };
        let error = TaskRef::pretrain().configure(source).unwrap_err().to_string();
        assert!(error.contains("within each other"), "{error}");
    }
}

#[test]
fn a_resolution_out_of_proportion_is_refused() {
    let mut model = ModelConfig::nano();
    model.vision.image_res = 4096 / model.vision.patch * model.vision.patch;
    let error = model.check().unwrap_err().to_string();
    assert!(error.contains("patches") && error.contains("96 x 96"), "{error}");
}
