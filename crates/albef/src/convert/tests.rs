use std::fs;

use albef_weights::HostTensor;

use super::*;
use crate::checkpoint::{Parts, state_dict};
use crate::init::fresh_params;
use crate::params::cpu;
use crate::pipeline::Pipeline;
use crate::task::{TASKS, TaskRef};

const PIECES: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\ndog\n";

fn nano() -> ModelConfig {
    let mut config = ModelConfig::nano();
    config.text.vocab_size = PIECES.lines().count();
    config
}

/// A model of a task with fresh weights; token types are drawn so that they matter.
fn of_task(task: TaskRef, config: ModelConfig) -> Checkpoint {
    let config = ModelConfig { task: Some(task.model().to_owned()), ..config };
    let params = fresh_params(&task.schema(&config), 0.07, 1, &cpu()).unwrap();
    Checkpoint::new(state_dict(&params), config, PIECES.into(), Path::new("x.pth"))
}

fn converted(model: &Checkpoint, output: &Path, options: ConvertOptions) -> Converted {
    convert(model, output, &options, &Control::new()).unwrap()
}

const FORMATS: [ModelFormat; 3] =
    [ModelFormat::Safetensors, ModelFormat::Official, ModelFormat::Lavis];

#[test]
fn a_head_that_is_not_tied_is_kept_and_refused_by_formats_whose_classes_tie_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut model = of_task(TaskRef::named("vqa").unwrap(), nano());
    let own = "text_decoder.cls.predictions.decoder.weight";
    let table = model.tensors.get("text_decoder.bert.embeddings.word_embeddings.weight").unwrap();
    let matrix = HostTensor::from_f32(&table.shape, &vec![0.5; table.shape.iter().product()]);
    model.tensors.insert(own.into(), matrix.clone());
    let folder = dir.path().join("kept");
    converted(&model, &folder, ConvertOptions::new(ModelFormat::Safetensors));
    let again = Checkpoint::open(&folder).unwrap();
    assert_eq!(again.tensors.get(own), Some(&matrix));
    assert_eq!(again.check().unwrap().untied, [own]);
    for format in [ModelFormat::Official, ModelFormat::Lavis] {
        let output = dir.path().join("model.pth");
        let refused = convert(&model, &output, &ConvertOptions::new(format), &Control::new());
        let said = refused.unwrap_err().to_string();
        assert!(said.contains(own) && !output.exists(), "{said}");
    }
}

#[test]
fn a_model_of_each_task_comes_back_from_each_format_and_number_format() {
    let dir = tempfile::tempdir().unwrap();
    for task in TASKS {
        let model = of_task(task, nano());
        let report = model.check().unwrap();
        for format in FORMATS {
            let folder = dir.path().join(format!("{}-{format}", task.name()));
            converted(&model, &folder, ConvertOptions::new(format));
            let again = Checkpoint::open(&folder).unwrap();
            let found = again.check().unwrap();
            assert!(found.fresh.is_empty() && found.unequal_twins.is_empty(), "{task:?} {found:?}");
            if format == ModelFormat::Safetensors {
                assert_eq!(found, report, "{task:?}");
                assert_eq!(again.config, model.config);
            }
            for (name, tensor) in model.tensors.iter() {
                let found = again.tensors.get(name);
                match format == ModelFormat::Lavis && name.contains("embeddings.") {
                    true => assert_eq!(found.is_some(), !name.contains("token_type"), "{name}"),
                    false => assert!(found == Some(tensor), "{task:?} {format}: {name}"),
                }
            }
            // A second conversion changes nothing any more.
            let twice = dir.path().join(format!("{}-{format}-twice", task.name()));
            converted(&again, &twice, ConvertOptions::new(format));
            let twice = Checkpoint::open(&twice).unwrap();
            assert!(twice.tensors == again.tensors, "{task:?} {format}");

            let half = dir.path().join(format!("{}-{format}-half", task.name()));
            converted(&model, &half, ConvertOptions::new(format).dtype(KeepAs::BF16));
            let half = Checkpoint::open(&half).unwrap();
            assert!(half.check().is_ok());
            let floats = half.tensors.iter().filter(|(_, t)| t.dtype.is_float());
            assert!(floats.map(|(_, t)| t.dtype).all(|t| t == DType::BF16), "{task:?} {format}");
        }
    }
}

#[test]
fn outputs_are_the_same_in_each_format() {
    let dir = tempfile::tempdir().unwrap();
    let model = of_task(TaskRef::named("retrieval").unwrap(), nano());
    let features = |path: &Path| {
        let found = Checkpoint::open(path).unwrap();
        let task = TaskRef::named("retrieval").unwrap();
        let loaded = found.load(&[task], &cpu(), Parts::Inference).unwrap();
        let pipeline = Pipeline::from_loaded(&loaded).unwrap();
        pipeline.embed_text("a dog").unwrap()
    };
    let mut all = Vec::new();
    for format in FORMATS {
        let folder = dir.path().join(format.to_string());
        converted(&model, &folder, ConvertOptions::new(format));
        all.push(features(&folder));
    }
    assert_eq!(all[0], all[1]);
    assert_ne!(all[0], all[2], "token types are folded");
    for (a, b) in all[0].iter().zip(&all[2]) {
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }
}

#[test]
fn momentum_copies_and_queues_are_kept_or_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let task = TaskRef::named("retrieval").unwrap();
    let mut model = of_task(task, nano());
    let own = HostTensor::from_f32(&[nano().embed_dim], &vec![0.5; nano().embed_dim]);
    // Some of a whole set, as `with_official_keys` completes it.
    let (all, _) = with_official_keys(model.tensors.clone(), &task.schema(&model.config), true);
    model.tensors = all;
    model.tensors.insert("text_proj_m.bias".into(), own.clone());
    let queue = HostTensor::from_f32(&[nano().embed_dim, 1], &vec![1.0; nano().embed_dim]);
    model.tensors.insert("image_queue".into(), queue.clone());
    model.tensors.insert("text_queue".into(), queue.clone());
    model.tensors.insert("queue_ptr".into(), HostTensor::from_i64(&[1], &[0]));
    for format in FORMATS {
        for momentum in [true, false] {
            let folder = dir.path().join(format!("{format}-{momentum}"));
            converted(&model, &folder, ConvertOptions::new(format).momentum(momentum));
            let again = Checkpoint::open(&folder).unwrap();
            let has = |name: &str| again.tensors.get(name).cloned();
            assert_eq!(has("text_proj_m.bias"), momentum.then(|| own.clone()));
            assert_eq!(has("image_queue"), momentum.then(|| queue.clone()));
            assert_eq!(again.has_momentum(), momentum);
        }
    }
}

#[test]
fn a_model_without_token_types_gets_zeros_for_the_official_code() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = nano();
    (config.text.type_vocab, config.text.processing) = (0, TextProcessing::Lavis);
    let model = of_task(TaskRef::named("ve").unwrap(), config);
    let written =
        converted(&model, &dir.path().join("x"), ConvertOptions::new(ModelFormat::Official));
    assert!(written.notes.iter().any(|n| n.contains("zeros")), "{:?}", written.notes);
    assert!(written.notes.iter().any(|n| n.contains("does not end them with [SEP]")));
    let again = Checkpoint::open(&dir.path().join("x")).unwrap();
    assert_eq!(
        (again.config.text.type_vocab, again.config.text.processing),
        (2, TextProcessing::Lavis)
    );
    let types = again.tensors.get("text_encoder.embeddings.token_type_embeddings.weight").unwrap();
    assert!(types.to_f32().unwrap().iter().all(|v| *v == 0.0));
}

#[test]
fn a_file_alone_tells_what_it_does_not_hold() {
    let dir = tempfile::tempdir().unwrap();
    let model = of_task(TaskRef::named("ve").unwrap(), nano());
    let file = dir.path().join("x.pth");
    let written = converted(&model, &file, ConvertOptions::new(ModelFormat::Official));
    let note = written.notes.last().unwrap();
    assert!(note.contains("config.json"), "{note}");
    for name in ["config.json", "vocab.txt"] {
        let folder = dir.path().join("folder");
        if !folder.exists() {
            converted(&model, &folder, ConvertOptions::new(ModelFormat::Official));
        }
        fs::copy(folder.join(name), dir.path().join(name)).unwrap();
    }
    let written = converted(&model, &file, ConvertOptions::new(ModelFormat::Official));
    assert_eq!(written.notes.len(), 1, "{:?}", written.notes);
    assert!(Checkpoint::open(&file).unwrap().check().is_ok());
}

#[test]
fn what_cannot_be_written_whole_is_not_begun() {
    let dir = tempfile::tempdir().unwrap();
    let ve = TaskRef::named("ve").unwrap();
    let names = || fs::read_dir(dir.path()).unwrap().count();
    let refused = |model: &Checkpoint, output: &str, options: ConvertOptions, control: &Control| {
        let error = convert(model, &dir.path().join(output), &options, control).unwrap_err();
        assert_eq!(names(), 0, "{error}");
        error.to_string()
    };
    let options = ConvertOptions::new;
    let mut nan = of_task(ve, nano());
    let shape = nan.tensors.get("cls_head.2.bias").unwrap().shape.clone();
    nan.tensors.insert("cls_head.2.bias".into(), HostTensor::from_f32(&shape, &[f32::NAN; 3]));
    let mut large = of_task(ve, nano());
    large.tensors.insert("cls_head.2.bias".into(), HostTensor::from_f32(&shape, &[1e9; 3]));
    let mut part = of_task(ve, nano());
    part.tensors = part.tensors.into_iter().filter(|(n, _)| n != "cls_head.2.bias").collect();
    for format in FORMATS {
        let said = refused(&nan, "x", options(format), &Control::new());
        assert!(said.contains("`cls_head.2.bias`") && said.contains("not finite"), "{said}");
        let said = refused(&large, "x", options(format).dtype(KeepAs::F16), &Control::new());
        assert!(said.contains("beyond f16"), "{said}");
        let said = refused(&part, "x", options(format), &Control::new());
        assert!(said.contains("missing `cls_head.2.bias`"), "{said}");
        let control = Control::new();
        let cancel = control.clone();
        let control = control.on_progress(move |_| cancel.cancel());
        let model = of_task(ve, nano());
        assert!(refused(&model, "x", options(format), &control).contains("cancelled"));
    }
    let model = of_task(ve, nano());
    for (format, name) in [
        (ModelFormat::Safetensors, "x.safetensors"),
        (ModelFormat::Safetensors, "x.pth"),
        (ModelFormat::Official, "x.bin"),
        (ModelFormat::Lavis, "x.safetensors"),
    ] {
        let said = refused(&model, name, options(format), &Control::new());
        assert!(said.contains("name a file") || said.contains("name a folder"), "{said}");
    }
    fs::write(dir.path().join("file"), "kept").unwrap();
    for format in FORMATS {
        let error = convert(&model, &dir.path().join("file"), &options(format), &Control::new());
        assert!(error.unwrap_err().to_string().contains("is a file"), "{format}");
    }
    assert_eq!(fs::read(dir.path().join("file")).unwrap(), b"kept");
    fs::remove_file(dir.path().join("file")).unwrap();
    converted(&model, &dir.path().join("x"), options(ModelFormat::Lavis));
    for format in FORMATS {
        let error = convert(&model, &dir.path().join("x"), &options(format), &Control::new());
        assert!(error.unwrap_err().to_string().contains("already holds a model"));
    }
    let own = Checkpoint::open(&dir.path().join("x")).unwrap();
    let itself = dir.path().join("x/model.pth");
    let error = convert(&own, &itself, &options(ModelFormat::Official), &Control::new());
    assert!(error.unwrap_err().to_string().contains("is the model that is converted"));
}
