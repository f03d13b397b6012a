//! What holds for all tasks.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use albef_data::dataset::{Batch, Contents, Dataset, ImageRoots, Sample};
use albef_data::random::Stream;
use albef_weights::{KeepAs, StateDict};
use burn::tensor::Device;
use serde_json::Value;

use super::configured::accessors;
use super::{EvalKey, Evaluator, TASKS, TaskConfig, TaskRef, read_annotations};
use crate::Control;
use crate::checkpoint::{Checkpoint, save_model_folder, state_dict};
use crate::config::{ModelConfig, RENAMED, Source, TrainConfig};
use crate::init::{fresh_params, fresh_queues};
use crate::model::Weights;
use crate::objectives::{Forward, Losses, Objective, StepContext};
use crate::params::{Params, cpu};
use crate::train::checkpoint::{TrainProgress, TrainState};
use crate::train::start::{self, Start};
use crate::train::{Event, RunOutcome, Trainer};

/// Word pieces enough to open a model folder.
const PIECES: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n";

/// The smallest model, with few word pieces.
pub(super) fn nano() -> ModelConfig {
    let mut model = ModelConfig::nano();
    model.text.vocab_size = 40;
    model
}

/// Fresh weights of a task's model.
pub(super) fn fresh(task: &str, seed: u64) -> Params {
    let task = TaskRef::named(task).unwrap();
    fresh_params(&task.schema(&nano()), 0.07, seed, &cpu()).unwrap()
}

/// A folder of a model with these weights.
pub(super) fn save(folder: &Path, params: &Params, task: Option<&str>) {
    let model = ModelConfig { task: task.map(str::to_owned), ..nano() };
    save_model_folder(folder, &model, params, PIECES, "", KeepAs::Same).unwrap();
}

/// A configuration of a task that starts from `checkpoint`.
pub(super) fn configured(task: &str, text: &str, checkpoint: &str) -> Box<dyn TaskConfig> {
    let task = TaskRef::named(task).unwrap();
    let settings = [format!("checkpoint={checkpoint}")];
    let settings = if task == TaskRef::pretrain() { &[][..] } else { &settings };
    task.configure(Source { text, settings, file: None })
        .unwrap_or_else(|e| panic!("{task:?}: {e}\n{text}"))
}

fn contents(task: &str, json: &str) -> crate::Result<Contents> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("list.json");
    fs::write(&path, json).unwrap();
    let roots = ImageRoots { image_root: "r".into(), ..ImageRoots::default() };
    read_annotations(TaskRef::named(task).unwrap(), &path, &roots)
}

/// Reads a list of a task.
pub(super) fn read(task: &str, json: &str) -> crate::Result<Vec<Sample>> {
    contents(task, json).map(|found| found.samples)
}

/// What is said of an entry that is not read.
pub(super) fn unread(task: &str, json: &str) -> String {
    match contents(task, json) {
        Ok(found) => found.left_out.first().map(|s| format!("{}: {}", s.name, s.error)).unwrap(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn names_and_aliases_are_those_of_one_task() {
    let mut seen = BTreeSet::new();
    for task in TASKS {
        for name in std::iter::once(task.name()).chain(task.aliases().iter().copied()) {
            assert!(seen.insert(name), "{name}");
            assert_eq!(TaskRef::named(name).unwrap(), task);
        }
        assert!(!task.title().is_empty() && !task.about().is_empty() && !task.used_by().is_empty());
    }
    let error = TaskRef::named("vga").unwrap_err().to_string();
    assert!(TASKS.iter().all(|task| error.contains(task.name())), "{error}");
}

#[test]
fn published_checkpoints_are_of_tasks() {
    for p in &albef_hub::PUBLISHED {
        assert_eq!(TaskRef::named(p.task).unwrap().name(), p.task, "{}", p.name);
    }
}

#[test]
fn a_task_serializes_as_its_name() {
    for task in TASKS {
        let text = serde_json::to_value(task).unwrap();
        assert_eq!(text, task.name());
        assert_eq!(serde_json::from_value::<TaskRef>(text).unwrap(), task);
    }
    assert!(serde_json::from_str::<TaskRef>("\"vga\"").is_err());
}

#[test]
fn tasks_that_a_task_names_exist() {
    for task in TASKS {
        let others = [task.model()].into_iter().chain(task.evaluates());
        for name in others.chain(task.starts_from().iter().copied()) {
            assert_eq!(TaskRef::named(name).unwrap().name(), name, "{task:?}");
        }
        assert!(task.can_start_from(task));
        let fine_tuning = task != TaskRef::pretrain();
        assert!(task.can_start_from(TaskRef::pretrain()));
        assert_eq!(!task.starts_from().is_empty(), fine_tuning);
    }
}

/// Dotted names of the keys of a configuration.
fn keys(above: &str, value: &Value, out: &mut BTreeSet<String>) {
    match value.as_object() {
        Some(map) => {
            map.iter().for_each(|(key, value)| keys(&format!("{above}.{key}"), value, out))
        }
        None => drop(out.insert(above.trim_start_matches('.').to_owned())),
    }
}

#[test]
fn the_sections_of_a_task_document_exactly_its_keys() {
    for task in TASKS {
        let mut of_config = BTreeSet::new();
        keys("", &task.default_config(), &mut of_config);
        let mut documented = BTreeSet::new();
        for section in task.sections() {
            assert!(!section.title.is_empty());
            for key in section.keys {
                assert!(!key.doc.trim().is_empty(), "{task:?}: `{}`", key.name);
                assert!(documented.insert(key.name.clone()), "{task:?}: `{}` twice", key.name);
            }
        }
        assert_eq!(documented, of_config, "{task:?}");
    }
}

#[test]
fn a_key_that_a_task_does_not_read_is_one_of_its_keys() {
    for task in TASKS {
        let all = task.default_config();
        assert!(task.unread().iter().all(|key| all.get(*key).is_some()), "{task:?}");
    }
}

#[test]
fn the_options_of_an_evaluation_are_documented_and_the_required_ones_known() {
    for options in TASKS.iter().filter_map(|task| task.evaluation_options()) {
        let names: Vec<&str> = options.section.keys.iter().map(|k| k.name.as_str()).collect();
        assert!(options.required.iter().all(|name| names.contains(name)), "{names:?}");
        assert!(options.section.keys.iter().all(|k| !k.doc.is_empty()));
    }
}

#[test]
fn an_unknown_option_of_an_evaluation_is_named_with_the_known_ones() {
    for task in TASKS {
        let error = task.evaluation(serde_json::json!({"zebra": 1})).err().unwrap().to_string();
        match task.evaluation_options() {
            Some(options) => {
                assert!(error.contains("`zebra`"), "{error}");
                let known = options.section.keys.iter().all(|key| error.contains(&key.name));
                assert!(known, "{error}");
            }
            None => assert!(error.contains(task.title()), "{error}"),
        }
    }
}

#[test]
fn a_model_is_recognized_by_its_configuration_and_by_its_keys_alone() {
    for task in TASKS {
        let params = fresh(task.name(), 1);
        let of_model = TaskRef::named(task.model()).unwrap();
        let keys = state_dict(&params);
        assert_eq!(TaskRef::of_checkpoint(&keys, None), of_model, "{task:?} by its keys");
        let named = ModelConfig { task: Some(task.model().to_owned()), ..nano() };
        assert_eq!(TaskRef::of_checkpoint(&keys, Some(&named)), of_model, "{task:?} by its name");
        for name in [Some(task.model()), None] {
            let dir = tempfile::tempdir().unwrap();
            save(dir.path(), &params, name);
            let found = Checkpoint::open(dir.path()).unwrap();
            assert_eq!((found.task, found.config.task.as_deref()), (of_model, name));
            let loaded = found.load(&[task], &cpu(), crate::checkpoint::Parts::All).unwrap();
            assert_eq!(loaded.online.entries().len(), params.entries().len());
        }
    }
}

#[test]
fn text_assignment_is_recognized_by_its_paired_layers_where_its_head_is_left_out() {
    let params = state_dict(&fresh("nlvr-ta", 1));
    let once: StateDict = params.into_iter().filter(|(n, _)| !n.starts_with("ta_head.")).collect();
    // Official files list what two layers share under both.
    let task = TaskRef::named("nlvr-ta").unwrap();
    let schema = task.schema(&nano());
    let mut twice = once.clone();
    for (name, tensor) in once.iter() {
        if let Some(twin) = schema.upper_twin(name) {
            twice.insert(twin, tensor.clone());
        }
    }
    assert!(twice.len() > once.len());
    for state in [once, twice] {
        assert_eq!(TaskRef::of_checkpoint(&state, None), task);
        let found = Checkpoint::new(state, nano(), PIECES.into(), Path::new("x.pth"));
        let nlvr = TaskRef::named("nlvr").unwrap();
        let start = found.start(nlvr, &cpu(), 1).unwrap();
        assert_eq!(start.online.count(), fresh("nlvr", 1).count());
    }
}

#[test]
fn a_task_starts_from_what_it_says_and_from_nothing_else() {
    for task in TASKS {
        for from in TASKS {
            let dir = tempfile::tempdir().unwrap();
            save(dir.path(), &fresh(from.name(), 1), Some(from.model()));
            let start = Checkpoint::open(dir.path()).unwrap().start(task, &cpu(), 1);
            match task.can_start_from(from) {
                true => {
                    let weights = start.unwrap().online;
                    let wanted = fresh(task.name(), 1);
                    assert_eq!(weights.count(), wanted.count(), "{task:?} from {from:?}");
                }
                false => {
                    let error = start.unwrap_err().to_string();
                    assert!(
                        error.contains(from.title()) && error.contains(task.title()),
                        "{error}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_list_of_another_task_is_named_with_the_commands_that_read_it() {
    let lists = [
        ("vqa", r#"[{"image": "a", "question": "q?", "answer": "red"}]"#),
        ("nlvr", r#"[{"images": ["a", "b"], "sentence": "s", "label": "True"}]"#),
        ("ve", r#"[{"image": "a", "sentence": "s", "label": "neutral"}]"#),
        ("grounding", r#"[{"image": "a", "text": "t", "ref_id": 4}]"#),
    ];
    for (task, list) in lists {
        assert_eq!(read(task, list).unwrap().len(), 1);
        for (other, _) in lists.iter().filter(|(other, _)| *other != task) {
            let error = unread(other, list);
            for part in ["list.json, entry 0", &format!("albef evaluate {task}"), other] {
                assert!(error.contains(part), "{part}: {error}");
            }
        }
    }
}

#[test]
fn an_odd_entry_costs_itself_and_is_named() {
    let good = [
        ("vqa", r#"{"image": "a", "question": "q?", "answer": "red"}"#),
        ("nlvr", r#"{"images": ["a", "b"], "sentence": "s", "label": "True"}"#),
        ("ve", r#"{"image": "a", "sentence": "s", "label": "neutral"}"#),
        ("grounding", r#"{"image": "a", "text": "t", "ref_id": 4}"#),
        ("classification", r#"{"image": "a", "label": "x"}"#),
    ];
    let odd: [&[&str]; 5] = [
        &[
            "null",
            r#"{"image": "a", "question": null}"#,
            r#"{"image": "a", "question": "q?", "answer": ["a", null, 3]}"#,
            r#"{"image": "a", "question": "q?", "answer": "a", "dataset": "gqa"}"#,
            r#"{"image": null, "question": "q?", "answer": "a"}"#,
        ],
        &[
            "7",
            r#"{"images": ["a", "b"], "sentence": "s", "label": "Maybe"}"#,
            r#"{"images": ["a"], "sentence": "s", "label": "True"}"#,
            r#"{"images": "a", "sentence": "s", "label": "True"}"#,
        ],
        &[
            "[]",
            r#"{"image": "a", "sentence": "s", "label": "maybe"}"#,
            r#"{"image": "a", "label": "neutral"}"#,
        ],
        &["null", r#"{"image": "a", "text": null, "ref_id": 5}"#],
        &["null", r#"{"image": "a", "label": null}"#, r#"{"image": "a", "label": ["a", null]}"#],
    ];
    for ((task, good), odd) in good.into_iter().zip(odd) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list.json");
        let entries = [&[good], odd, &[good]].concat();
        fs::write(&path, format!("[{}]", entries.join(","))).unwrap();
        let task = TaskRef::named(task).unwrap();
        let found = read_annotations(task, &path, &ImageRoots::default()).unwrap();
        assert_eq!(found.samples.len(), 2, "{task:?}");
        let names: Vec<&str> = found.left_out.iter().map(|s| s.name.as_str()).collect();
        let places: Vec<bool> = (1..=odd.len())
            .map(|i| names.iter().any(|name| name.ends_with(&format!("entry {i}"))))
            .collect();
        assert_eq!(
            (places, names.len()),
            (vec![true; odd.len()], odd.len()),
            "{task:?}: {names:?}"
        );
        // A list with nothing else is refused, by its first entry.
        fs::write(&path, format!("[{}]", odd.join(","))).unwrap();
        let error = read_annotations(task, &path, &ImageRoots::default()).unwrap_err().to_string();
        assert!(error.contains("entry 0"), "{error}");
    }
}

#[test]
fn a_file_that_is_no_list_of_objects_is_refused_by_name() {
    for task in TASKS.iter().filter(|task| task.annotations().is_some()) {
        for text in ["", "[1", "\"a\"", "[{]"] {
            let error = unread(task.name(), text);
            assert!(error.contains("list.json") && error.contains("list of objects"), "{error}");
        }
        for text in ["[1]", "[null]", "[[]]", "[\"a\"]", "[{}]"] {
            let error = unread(task.name(), text);
            assert!(error.contains("list.json, entry 0"), "{error}");
        }
        // One object a line.
        let error = unread(task.name(), "{}");
        assert!(error.contains("list.json, line 1"), "{error}");
    }
}

/// A few edits of the kinds that damaged and hostile files show.
fn mutated(bytes: &[u8], s: &mut Stream) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for _ in 0..=s.below(4) {
        if out.is_empty() {
            break;
        }
        let at = s.below(out.len());
        let end = (at + 1 + s.below(8)).min(out.len());
        let odd = [0, 1, 0x7f, 0x80, 0xff, b'"', b'[', b'\n'][s.below(8)];
        match s.below(7) {
            0 => out.truncate(at),
            1 => drop(out.drain(at..end)),
            2 => out[at..end].fill(odd),
            3 => out.insert(at, odd),
            4 => {
                let piece = out[at..end].to_vec();
                let to = s.below(out.len());
                out.splice(to..to, piece);
            }
            5 => out[at] ^= 1 << s.below(8),
            _ => out[at] = s.below(256) as u8,
        }
    }
    out
}

#[test]
fn damaged_lists_give_samples_or_an_error_that_names_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("list.json");
    for (task, whole) in [
        (
            "vqa",
            r#"[{"dataset": "vqa", "image": "a", "question": "q?", "question_id": 7,
                 "answer": ["red", "red", "blue"]},
                {"dataset": "vg", "image": "b", "question": "q?", "answer": "a man"}]"#,
        ),
        (
            "nlvr",
            r#"[{"images": ["a", "b"], "sentence": "s", "label": "True",
                 "crops": [[0, 1, 20, 30], [4, 5, 60, 70]]}]"#,
        ),
        ("ve", r#"[{"image": 12, "sentence": "s", "label": "entailment"}]"#),
        ("grounding", r#"[{"image": "d/a.jpg", "text": "t", "ref_id": 42}]"#),
    ] {
        let task = TaskRef::named(task).unwrap();
        let mut s = Stream::new(6, whole, &[]);
        let (mut read, mut refused) = (0, 0);
        for _ in 0..800 {
            fs::write(&path, mutated(whole.as_bytes(), &mut s)).unwrap();
            match read_annotations(task, &path, &ImageRoots::default()) {
                Ok(found) => {
                    assert!(
                        found.samples.iter().all(|s| s.views() == 1 || !s.view_name(1).is_empty())
                    );
                    read += 1;
                }
                Err(e) => {
                    assert!(e.to_string().contains("list.json"), "{e}");
                    refused += 1;
                }
            }
        }
        assert!(read > 0 && refused > 200, "{task:?}: {read} read, {refused} refused");
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The YAML files of a folder of the repository, with their stems.
fn yaml_files(folder: &str) -> Vec<(String, String)> {
    let entries = fs::read_dir(repository().join(folder)).unwrap().map(|e| e.unwrap().path());
    let files = entries.filter(|path| path.extension().is_some_and(|e| e == "yaml"));
    let named = |path: PathBuf| {
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        (stem, fs::read_to_string(&path).unwrap())
    };
    files.map(named).collect()
}

#[test]
fn the_configurations_of_the_repository_are_read_without_a_note() {
    for (name, text) in yaml_files("configs") {
        let tasks: &[&str] = match name.as_str() {
            "base" | "mini" | "nano" | "scenes" => &["pretrain"],
            "retrieval_coco" | "retrieval_flickr" => &["retrieval"],
            "nlvr_ta" => &["nlvr-ta"],
            "scenes_task" => &["ve", "nlvr", "nlvr-ta", "vqa", "grounding"],
            task => &[task],
        };
        for task in tasks {
            let config = configured(task, &text, "x");
            // One file serves five tasks, of which not all read every key.
            let wanted = match (name.as_str(), *task) {
                ("scenes_task", "nlvr-ta") => {
                    &["nlvr-ta does not read `momentum`, `distill`, `momentum_dropout`"][..]
                }
                _ => &[],
            };
            assert_eq!(config.notes(), wanted, "{name}.yaml");
        }
    }
}

/// All keys of a YAML value.
fn yaml_keys(value: &serde_norway::Value, out: &mut BTreeSet<String>) {
    match value {
        serde_norway::Value::Mapping(map) => map.iter().for_each(|(key, value)| {
            out.extend(key.as_str().map(str::to_owned));
            yaml_keys(value, out);
        }),
        serde_norway::Value::Sequence(list) => list.iter().for_each(|v| yaml_keys(v, out)),
        _ => {}
    }
}

#[test]
fn no_recipe_has_a_former_name_of_a_key() {
    let recipes = yaml_files("recipes");
    assert!(recipes.len() > 20);
    for (name, text) in recipes {
        let mut keys = BTreeSet::new();
        yaml_keys(&serde_norway::from_str(&text).unwrap(), &mut keys);
        let former = RENAMED.iter().map(|(former, _)| *former).find(|key| keys.contains(*key));
        assert_eq!(former, None, "{name}.yaml");
    }
}

/// A task of a test: it pulls the temperature towards 0, and nothing else.
#[derive(Debug, Default)]
struct StubConfig {
    train: TrainConfig,
    notes: Vec<String>,
}

struct StubObjective;

impl Objective for StubObjective {
    fn losses(&self) -> &'static [&'static str] {
        &["train_loss_stub"]
    }

    fn uses_momentum(&self) -> bool {
        false
    }

    fn forward(&self, _: &StepContext<'_>, weights: &Weights, _: &Batch) -> crate::Result<Forward> {
        let temp = weights.leaf("temp").unwrap().value.clone();
        let losses = Losses::of("train_loss_stub", temp.square());
        Ok(Forward { losses, metrics: Vec::new(), features: None, trace: None })
    }
}

impl serde::Serialize for StubConfig {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.train.serialize(to)
    }
}

impl TaskConfig for StubConfig {
    accessors!(super::pretrain::Pretrain);

    fn objective(&self, _: &Dataset) -> Box<dyn Objective> {
        Box::new(StubObjective)
    }

    fn initialize(&self, _: &Dataset, device: &Device) -> crate::Result<Start> {
        let (online, vocabulary) = (fresh("pretrain", 1), PIECES.to_owned());
        let optimizer = start::optimizer(&self.train, &online);
        let (momentum, place) = (Params::new(device), TrainProgress::default());
        let queues = fresh_queues(0, nano().embed_dim, 0, device);
        let state = TrainState { online, momentum, queues, optimizer, place };
        Ok(Start { model: nano(), vocabulary, state, notes: Vec::new() })
    }

    fn evaluator(&self, _: EvalKey) -> crate::Result<Option<Box<dyn Evaluator>>> {
        Ok(None)
    }
}

#[test]
fn an_objective_is_added_without_touching_the_trainer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.png");
    let image = albef_data::image::RgbImage::filled(8, 8, [9, 9, 9]);
    fs::write(&path, albef_data::scenes::png(&image).unwrap()).unwrap();
    let sample = || Sample {
        location: albef_data::dataset::Location::File(path.clone()),
        name: "a.png".into(),
        captions: vec!["a".into()],
        key: "a.png".into(),
        task: albef_data::dataset::TaskFields::default(),
    };
    let mut config = StubConfig::default();
    config.train.optim.batch_size = 2;
    config.train.optim.max_steps = 3;
    let data = Dataset::from_samples(vec![sample(), sample()]);
    let mut trainer = Trainer::with_data(Box::new(config), data, dir.path(), &cpu()).unwrap();
    let mut losses = Vec::new();
    let mut observe = |event: &Event<'_>| {
        if let Event::Step { report, .. } = event {
            losses.push(report.losses["train_loss_stub"]);
        }
        Ok(())
    };
    assert_eq!(trainer.run(&Control::new(), &mut observe).unwrap(), RunOutcome::Done);
    assert_eq!(losses.len(), 3);
    assert!(losses.windows(2).all(|pair| pair[1] < pair[0]), "{losses:?}");
}
