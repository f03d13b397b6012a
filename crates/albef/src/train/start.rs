//! What a run starts from: its data and its first weights.

use std::io::ErrorKind;
use std::path::Path;

use albef_data::dataset::{
    AnnotationFormat, Dataset, ImageRoots, Sample, SourceSpec, Target, read_task,
};
use albef_data::error::DataError;
use albef_data::text::{Tokenizer, Vocabulary};
use albef_weights::StateDict;
use burn::tensor::Device;

use super::checkpoint::{TrainProgress, TrainState};
use super::kept::ResumeMeta;
use super::objective::Objective;
use super::optimizer::Optimizer;
use crate::checkpoint::{BERT_VOCABULARY, Checkpoint, LoadedModel, copy_for_momentum, finite};
use crate::config::{FinetuneConfig, ModelConfig, PretrainConfig, TeacherInit};
use crate::error::{Error, Result};
use crate::init::{fresh_params, fresh_queues};
use crate::params::{Params, to_vec};
use crate::task::TaskRef;

/// The pieces of the full list that a text corpus needs: special ones, single characters, and all
/// that its captions are made of.
///
/// # Errors
/// Never for the built-in list.
pub fn corpus_vocabulary<'a>(captions: impl Iterator<Item = &'a str>) -> Result<String> {
    let full = Tokenizer::new(Vocabulary::from_text(BERT_VOCABULARY)?);
    let mut used = vec![false; full.vocabulary().len()];
    for caption in captions {
        let clean = albef_data::text::pre_caption(caption, usize::MAX);
        full.encode(&clean).into_iter().for_each(|id| used[id as usize] = true);
    }
    let single = |piece: &str| {
        let bare = piece.strip_prefix("##").unwrap_or(piece);
        bare.len() == 1 && bare.is_ascii()
    };
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
    let mut text = special.join("\n");
    for (i, piece) in BERT_VOCABULARY.lines().enumerate() {
        if !special.contains(&piece) && (used[i] || single(piece)) {
            text.push('\n');
            text.push_str(piece);
        }
    }
    text.push('\n');
    Ok(text)
}

/// The word list that a configuration names, for a run that has its own one already: that list tells
/// another run apart, and where its file is gone the run's own will do. With a note then.
pub(super) fn vocabulary_beside(
    config: &PretrainConfig,
    data: &Dataset,
    own: &str,
) -> Result<(String, Option<String>)> {
    match vocabulary_text(config, data) {
        Err(Error::Data(DataError::Io { cause, .. })) if cause.kind() == ErrorKind::NotFound => {
            let note = format!(
                "`vocab` is {} and cannot be read ({cause}): the run keeps its own word pieces",
                config.vocab
            );
            Ok((own.to_owned(), Some(note)))
        }
        named => Ok((named.map_err(Error::of_key("vocab"))?, None)),
    }
}

/// The word list that a configuration names.
pub(super) fn vocabulary_text(config: &PretrainConfig, data: &Dataset) -> Result<String> {
    match config.vocab.as_str() {
        "bert" | "" => Ok(BERT_VOCABULARY.to_owned()),
        "corpus" => {
            corpus_vocabulary(data.samples().iter().flat_map(|s| &s.captions).map(String::as_str))
        }
        path => Ok(Vocabulary::read(Path::new(path))?.1),
    }
}

/// The training data of pre-training.
pub(super) fn open_data(config: &PretrainConfig) -> Result<Dataset> {
    let root = (!config.image_root.is_empty()).then(|| Path::new(&config.image_root));
    let weight = |i: usize| config.train_weights.get(i).copied().unwrap_or(1.0);
    let files = config.train_file.paths();
    let spec = |(i, path): (usize, &String)| SourceSpec {
        weight: weight(i),
        ..SourceSpec::new(path, root)
    };
    let specs: Vec<SourceSpec> = files.iter().enumerate().map(spec).collect();
    if specs.is_empty() {
        return Err(Error::Config(
            "`train_file` is empty: name a JSON list, a folder or tar shards, for instance with \
             `--set train_file=[FILE]`"
                .into(),
        ));
    }
    Dataset::open(&specs).map_err(Error::of_key("train_file"))
}

/// The training list of a task.
pub(super) fn task_data(config: &FinetuneConfig, objective: Objective) -> Result<Dataset> {
    let files = config.base.train_file.paths();
    if files.is_empty() {
        return Err(Error::Config(
            "`train_file` is empty: name the task's list, for instance with \
             `--set train_file=[FILE]`"
                .into(),
        ));
    }
    let roots = ImageRoots {
        image_root: config.base.image_root.clone().into(),
        vqa_root: config.vqa_root.clone().into(),
        vg_root: config.vg_root.clone().into(),
    };
    let form = match objective {
        Objective::Vqa => AnnotationFormat::Vqa,
        Objective::Nlvr => AnnotationFormat::Nlvr,
        Objective::Entailment => AnnotationFormat::Entailment,
        Objective::Grounding => AnnotationFormat::Grounding,
        Objective::Pretrain | Objective::Retrieval | Objective::Assignment => {
            let root = (!config.base.image_root.is_empty()).then_some(roots.image_root);
            let spec = |p: &String| SourceSpec::new(p, root.as_deref());
            let specs: Vec<SourceSpec> = files.iter().map(spec).collect();
            return Dataset::open(&specs).map_err(Error::of_key("train_file"));
        }
    };
    let mut samples = Vec::new();
    for file in &files {
        let part = read_task(Path::new(file), form, &roots).map_err(Error::of_key("train_file"))?;
        if objective == Objective::Vqa {
            all_answered(file, &part)?;
        }
        samples.extend(part);
    }
    Ok(Dataset::from_samples(samples))
}

/// A question without an answer teaches nothing, and would stop the run when its batch comes.
fn all_answered(file: &str, samples: &[Sample]) -> Result<()> {
    let open = |s: &Sample| !matches!(s.task.target, Target::Answers(_));
    let mut without = samples.iter().enumerate().filter(|(_, s)| open(s)).map(|(i, _)| i);
    let Some(first) = without.next() else { return Ok(()) };
    Err(Error::Config(format!(
        "{file}, entry {first}: the question has no `answer` to learn, and {} others of the list have \
         none; hint: a list of test questions belongs under `test_file`",
        without.count()
    )))
}

/// What fine-tuning starts from, or goes on from.
pub(super) struct TaskStart {
    /// Sizes.
    pub model: ModelConfig,
    /// The word pieces, one per line.
    pub vocabulary: String,
    /// Weights, momentum copies, queues and optimiser.
    pub state: TrainState,
    /// What a user should know about it, line by line.
    pub about: Vec<String>,
}

impl TaskStart {
    /// The checkpoint that the configuration names.
    pub(super) fn open(
        config: &FinetuneConfig,
        objective: Objective,
        device: &Device,
    ) -> Result<Self> {
        let files = Checkpoint::open(Path::new(&config.checkpoint))
            .map_err(Error::of_key("checkpoint"))?
            .at(config.base.image_res)?;
        let mut model = files.config.clone();
        model.text.dropout = config.base.dropout as f32;
        model.check()?;
        let vocabulary = files.vocabulary.clone();
        let (state, about) = task_state(config, objective, &model, files, device)?;
        Ok(Self { model, vocabulary, state, about })
    }

    /// What the run itself has kept, to be filled from its checkpoint.
    pub(super) fn kept(config: &FinetuneConfig, kept: ResumeMeta, device: &Device) -> Result<Self> {
        let state = blank_state(&config.base, &kept, device)?;
        let ResumeMeta { model, vocabulary, .. } = kept;
        Ok(Self { model, vocabulary, state, about: Vec::new() })
    }
}

/// The state from which a task is fine-tuned.
fn task_state(
    config: &FinetuneConfig,
    objective: Objective,
    model: &ModelConfig,
    files: Checkpoint,
    device: &Device,
) -> Result<(TrainState, Vec<String>)> {
    let base = &config.base;
    let mut weights = files.start(objective.task(), device, base.seed)?;
    let mut about = weights.report.lines();
    let teaches = objective.has_teacher(config.distill);
    let apart = objective == Objective::Nlvr && config.teacher_init == TeacherInit::Reference;
    if teaches && apart {
        about.push(match start_apart(&mut weights, objective.task(), base, model, device)? {
            0 => {
                "the checkpoint has its own momentum copies: `teacher_init` changes nothing".into()
            }
            n => format!("the momentum model starts apart from the trained one: {n} weights"),
        });
    }
    let optimizer = optimizer(base, &weights.online);
    let contrastive = matches!(objective, Objective::Retrieval | Objective::Grounding);
    let size = if contrastive { base.queue_size } else { 0 };
    if config.queue_reset {
        weights.queues = None;
    }
    if let Some(found) = weights.queues.as_ref().filter(|q| contrastive && q.len() != size) {
        about.push(format!(
            "the checkpoint's queues of {} entries are kept; `queue_size` {size} is not used, but \
             would be with `queue_reset: true`",
            found.len()
        ));
    }
    let fresh = || fresh_queues(size, model.embed_dim, base.seed, device);
    let queues = weights.queues.take().unwrap_or_else(fresh);
    let momentum = if teaches { weights.momentum_or_copy()?.0 } else { Params::new(device) };
    let (online, place) = (weights.online, TrainProgress::default());
    Ok((TrainState { online, momentum, queues, optimizer, place }, about))
}

/// The optimiser that a configuration asks for.
fn optimizer(config: &PretrainConfig, online: &Params) -> Optimizer {
    let o = &config.optimizer;
    Optimizer::new(online, o.weight_decay, o.opt_betas, o.opt_eps)
        .decaying(online, o.decay_rule)
        .scaled(online, "text_encoder", config.text_lr_scale)
}

/// A state that a checkpoint of the run is to fill. Nothing of it comes from where the run started.
pub(super) fn blank_state(
    config: &PretrainConfig,
    kept: &ResumeMeta,
    device: &Device,
) -> Result<TrainState> {
    let (online, momentum, queues) = kept.blank(device)?;
    let optimizer = optimizer(config, &online);
    Ok(TrainState { online, momentum, queues, optimizer, place: TrainProgress::default() })
}

/// Puts fresh weights, and those of a BERT if one is named, in the place of the momentum copies that the
/// checkpoint does not have, as the official code does for statements (quirk Q12). Fresh heads are the
/// online model's own ones. Gives the number of weights that became others.
fn start_apart(
    weights: &mut LoadedModel,
    task: TaskRef,
    base: &PretrainConfig,
    model: &ModelConfig,
    device: &Device,
) -> Result<usize> {
    let mut fresh = fresh_params(&task.schema(model), base.temp, base.seed, device)?;
    if !base.init_text.is_empty() {
        let path = Path::new(&base.init_text);
        let bert = albef_weights::from_bert(read_of("init_text", path)?);
        let body = bert.into_iter().filter_map(|(name, tensor)| {
            let name = name.strip_prefix("text_encoder.bert.")?;
            Some((format!("text_encoder.{name}"), tensor))
        });
        take_over(&mut fresh, &body.collect(), path, "text_encoder.")?;
    }
    let fresh = copy_for_momentum(&fresh)?;
    let (momentum, copied) = weights.momentum_or_copy()?;
    weights.momentum = momentum;
    let mut changed = 0;
    for name in &copied {
        let Some(p) = fresh.get(name) else { continue };
        let value = to_vec(p.value.clone());
        if weights.momentum.get(name).is_none_or(|own| to_vec(own.value.clone()) != value) {
            weights.momentum.insert(name, &p.shape, value)?;
            changed += 1;
        }
    }
    Ok(changed)
}

/// Fresh weights, or those of the models that the configuration names.
pub(super) fn starting_state(
    config: &PretrainConfig,
    model: &ModelConfig,
    device: &Device,
) -> Result<TrainState> {
    let schema = TaskRef::pretrain().schema(model);
    let mut online = fresh_params(&schema, config.temp, config.seed, device)?;
    if !config.init_text.is_empty() {
        let path = Path::new(&config.init_text);
        let state = albef_weights::from_bert(read_of("init_text", path)?);
        take_over(&mut online, &state, path, "text_encoder.")?;
    }
    if !config.init_vision.is_empty() {
        let path = Path::new(&config.init_vision);
        let mut state = albef_weights::from_deit(read_of("init_vision", path)?);
        albef_weights::resize_tables(&mut state, model.vision.grid())?;
        take_over(&mut online, &state, path, "visual_encoder.")?;
    }
    let mut momentum = None;
    if !config.init_albef.is_empty() {
        let loaded = albef_start(Path::new(&config.init_albef), model, device)
            .map_err(Error::of_key("init_albef"))?;
        momentum = Some(loaded.momentum_or_copy()?.0);
        online = loaded.online;
    }
    let momentum = momentum.map_or_else(|| copy_for_momentum(&online), Ok)?;
    let optimizer = optimizer(config, &online);
    let queues = fresh_queues(config.queue_size, model.embed_dim, config.seed, device);
    Ok(TrainState { online, momentum, queues, optimizer, place: TrainProgress::default() })
}

/// The model that pre-training continues from, at the configured sizes.
fn albef_start(path: &Path, model: &ModelConfig, device: &Device) -> Result<LoadedModel> {
    let mut checkpoint = Checkpoint::tensors_of(path, model)?;
    checkpoint.config = model.clone();
    checkpoint.start(TaskRef::pretrain(), device, 0)
}

/// The tensors of a file that a key names.
fn read_of(key: &'static str, path: &Path) -> Result<StateDict> {
    Ok(albef_weights::read(path).map_err(Error::of_key(key))?.tensors)
}

/// Puts the weights of another model in the place of fresh ones. A start from which little could be
/// taken is an error, not a silent random start.
fn take_over(online: &mut Params, state: &StateDict, path: &Path, part: &str) -> Result<()> {
    let fail = |detail: String| Error::Format { path: path.to_owned(), detail };
    let mut taken = 0;
    for (name, host) in state.iter() {
        let Some(own) = online.get(name) else {
            return Err(fail(format!("`{name}` has no place in this model")));
        };
        let shape = own.shape.clone();
        if host.shape != shape {
            let detail = format!("`{name}` is {:?}, this model has {shape:?}", host.shape);
            return Err(fail(detail));
        }
        online.insert(name, &shape, finite(name, host, &format!("`{}`", path.display()))?)?;
        taken += 1;
    }
    let all = online.entries().iter().filter(|p| p.name.starts_with(part)).count();
    if taken * 3 < all {
        return Err(fail(format!("only {taken} of {all} weights below `{part}` are in this file")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use albef_weights::{DType, HostTensor, KeepAs};

    use super::*;
    use crate::checkpoint::state_dict;
    use crate::objectives::queue::NO_ID;
    use crate::params::cpu;

    fn fresh(task: &str, model: &ModelConfig, seed: u64) -> Result<Params> {
        fresh_params(&TaskRef::named(task)?.schema(model), 0.07, seed, &cpu())
    }

    fn nano() -> ModelConfig {
        let mut model = ModelConfig::nano();
        model.text.vocab_size = 40;
        model
    }

    /// The start of a task from weights, by a configuration text.
    fn start(
        objective: Objective,
        tensors: albef_weights::StateDict,
        text: &str,
    ) -> (TrainState, Vec<String>) {
        let setting = ["checkpoint=x".to_owned()];
        let config = FinetuneConfig::parse(text, &setting, objective).unwrap();
        let files = Checkpoint::new(tensors, nano(), String::new(), Path::new("the checkpoint"));
        task_state(&config, objective, &nano(), files, &cpu()).unwrap()
    }

    fn of(params: &Params, name: &str) -> Vec<f32> {
        to_vec(params.get(name).unwrap().value.clone())
    }

    #[test]
    fn the_rule_of_decay_is_the_configured_one() {
        let params = fresh("pretrain", &nano(), 1).unwrap();
        let decaying = |text: &str| {
            let config = PretrainConfig::parse(text, &[]).unwrap();
            let decay = optimizer(&config, &params).decay().to_vec();
            let all = params.entries().iter().zip(decay).filter(|(_, decays)| *decays);
            all.map(|(p, _)| p.name.clone()).collect::<Vec<_>>()
        };
        let (reference, clean) = (decaying(""), decaying("optimizer: {decay_rule: clean}"));
        let spared: Vec<&String> = reference.iter().filter(|n| !clean.contains(n)).collect();
        let embeddings = |part: &str| format!("text_encoder.bert.embeddings.{part}.weight");
        for name in [
            "temp".to_owned(),
            "visual_encoder.cls_token".to_owned(),
            "visual_encoder.pos_embed".to_owned(),
            embeddings("word_embeddings"),
            embeddings("position_embeddings"),
            embeddings("token_type_embeddings"),
        ] {
            assert!(spared.contains(&&name), "{name}: {spared:?}");
        }
        assert_eq!(spared.len(), 6);
        assert!(clean.contains(&"visual_encoder.patch_embed.proj.weight".to_owned()));
        assert!(clean.iter().all(|n| reference.contains(n) && n.ends_with(".weight")));
    }

    #[test]
    fn a_teacher_of_statements_can_start_apart_from_the_loaded_weights() {
        let prepared = fresh("nlvr-ta", &nano(), 1).unwrap();
        let start = |text: &str| start(Objective::Nlvr, state_dict(&prepared), text);
        let query = "encoder.layer.0.attention.self.query.weight";
        let online = format!("text_encoder.{query}");
        let momentum = format!("text_encoder_m.{query}");
        let (loaded, _) = start("");
        assert_eq!(of(&loaded.momentum, &momentum), of(&loaded.online, &online));
        let (apart, about) = start("teacher_init: reference");
        assert!(about.iter().any(|line| line.contains("starts apart")), "{about:?}");
        assert_eq!(of(&apart.online, &online), of(&loaded.online, &online));
        assert_ne!(of(&apart.momentum, &momentum), of(&apart.online, &online));
        let head = |state: &TrainState| {
            (of(&state.online, "cls_head.0.weight"), of(&state.momentum, "cls_head_m.0.weight"))
        };
        let (online_head, own_head) = head(&apart);
        assert_eq!(online_head, own_head, "both start from one fresh head");

        // A BERT knows no cross-attention.
        let bert = fresh("nlvr", &nano(), 9).unwrap();
        let body = state_dict(&bert).into_iter().filter_map(|(name, tensor)| {
            let name = name.strip_prefix("text_encoder.")?;
            (!name.contains("crossattention")).then(|| (format!("bert.{name}"), tensor))
        });
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bert.safetensors");
        albef_weights::write_safetensors(&path, &body.collect(), &HashMap::new(), KeepAs::Same)
            .unwrap();
        let text = format!("teacher_init: reference\ninit_text: {}", path.display());
        assert_eq!(of(&start(&text).0.momentum, &momentum), of(&bert, &online));
    }

    #[test]
    fn an_init_of_the_teacher_without_effect_is_not_said_to_have_one() {
        let mut prepared = fresh("nlvr", &nano(), 1).unwrap();
        for p in copy_for_momentum(&prepared).unwrap().entries() {
            prepared.insert(&p.name, &p.shape, to_vec(p.value.clone())).unwrap();
        }
        let start = |text: &str| start(Objective::Nlvr, state_dict(&prepared), text);
        let (state, about) = start("teacher_init: reference");
        let own = "the checkpoint has its own momentum copies: `teacher_init` changes nothing";
        assert!(about.iter().any(|line| line == own), "{about:?}");
        let name = "text_encoder_m.encoder.layer.0.attention.self.query.weight";
        assert_eq!(of(&state.momentum, name), of(&prepared, name));

        // Without a teacher the BERT is not read.
        let text = "teacher_init: reference\ndistill: false\ninit_text: /gone.safetensors";
        let (state, about) = start(text);
        assert!(state.momentum.entries().is_empty());
        assert!(!about.iter().any(|line| line.contains("momentum") && line.contains("apart")));
        assert!(!about.iter().any(|line| line.contains("teacher_init")), "{about:?}");
    }

    #[test]
    fn the_weights_of_a_teacher_that_become_others_are_counted() {
        let prepared = fresh("nlvr-ta", &nano(), 1).unwrap();
        let start = |text: &str| start(Objective::Nlvr, state_dict(&prepared), text);
        let (loaded, _) = start("");
        let (apart, about) = start("teacher_init: reference");
        let all = loaded.momentum.entries();
        let differs = |name: &str| of(&loaded.momentum, name) != of(&apart.momentum, name);
        let n = all.iter().filter(|p| differs(&p.name)).count();
        assert!(0 < n && n < all.len(), "heads and fresh biases are the same: {n}");
        assert!(about.iter().any(|line| line.ends_with(&format!(": {n} weights"))), "{about:?}");
    }

    #[test]
    fn queues_of_a_checkpoint_are_kept_unless_they_are_reset() {
        let model = nano();
        let pretrained = fresh("pretrain", &model, 1).unwrap();
        let mut tensors = state_dict(&pretrained);
        let mut queues = Params::new(&cpu());
        for name in ["image_queue", "text_queue"] {
            let n = model.embed_dim * 6;
            queues.insert(name, &[model.embed_dim, 6], vec![0.25; n]).unwrap();
        }
        let ptr = 2_i64.to_le_bytes().to_vec();
        tensors.insert(
            "queue_ptr".into(),
            HostTensor { dtype: DType::I64, shape: vec![1], bytes: ptr.into() },
        );
        for (name, tensor) in state_dict(&queues) {
            tensors.insert(name, tensor);
        }
        let start = |text: &str| start(Objective::Retrieval, tensors.clone(), text).0.queues;
        let kept = start("queue_size: 4");
        assert_eq!((kept.len(), kept.ptr(), kept.rows().0[0]), (6, 2, 0.25));
        let anew = start("queue_size: 4\nqueue_reset: true");
        assert_eq!((anew.len(), anew.ptr()), (4, 0));
        assert!(anew.rows().0[0] != 0.25 && anew.ids() == [NO_ID; 4]);
    }

    #[test]
    fn a_question_without_an_answer_to_learn_is_found_at_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let entry = |answer: &str| format!(r#"{{"image": "a", "question": "q"{answer}}}"#);
        let known = entry(r#", "answer": "red""#);
        let list = |name: &str, entries: &[&str]| {
            let path = dir.path().join(name);
            std::fs::write(&path, format!("[{}]", entries.join(","))).unwrap();
            path.display().to_string()
        };
        let files = vec![
            list("whole.json", &[&known, &known]),
            list("torn.json", &[&known, &entry(""), &entry("")]),
        ];
        let mut config = FinetuneConfig::default();
        config.base.train_file = crate::config::Files::Many(files.clone());
        let error = task_data(&config, Objective::Vqa).unwrap_err().to_string();
        for part in ["torn.json, entry 1", "1 others"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        config.base.train_file = crate::config::Files::Many(files[..1].to_vec());
        assert_eq!(task_data(&config, Objective::Vqa).unwrap().len(), 2);
    }
}
