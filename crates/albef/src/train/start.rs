//! What a run starts from: its word pieces, first weights and optimizer.

use std::collections::HashSet;
use std::path::Path;

use albef_data::text::{Tokenizer, Vocabulary};
use albef_weights::{ModelKind, Schema, StateDict};
use burn::tensor::Device;

use super::checkpoint::{TrainProgress, TrainState};
use super::kept::ResumeMeta;
use super::optimizer::Optimizer;
use crate::checkpoint::{BERT_VOCABULARY, Checkpoint, LoadedModel, finite};
use crate::config::{ModelConfig, TrainConfig};
use crate::error::{Error, Result};
use crate::init::fresh_queues;
use crate::model_path::find_model;
use crate::params::Params;
use crate::task::TaskConfig;

/// Temperature of the contrastive loss of a model that has no trained one.
pub(crate) const TEMP: f64 = 0.07;

/// What a run starts from.
#[derive(Debug)]
pub struct Start {
    /// Sizes.
    pub model: ModelConfig,
    /// The word pieces, one per line.
    pub vocabulary: String,
    /// Weights, momentum copies, queues and optimizer.
    pub state: TrainState,
    /// What a user should know about it, line by line.
    pub notes: Vec<String>,
}

impl Start {
    /// What a run has kept, to be filled from its checkpoint. Nothing of it comes from where the run
    /// started.
    pub(super) fn kept(config: &TrainConfig, kept: ResumeMeta, device: &Device) -> Result<Self> {
        let (online, momentum, queues) = kept.blank(device)?;
        let optimizer = optimizer(config, &online);
        let place = TrainProgress::default();
        let state = TrainState { online, momentum, queues, optimizer, place };
        let ResumeMeta { model, vocabulary, .. } = kept;
        Ok(Self { model, vocabulary, state, notes: Vec::new() })
    }
}

/// The checkpoint that fine-tuning starts from, as the task's model. `adjust` may change what was
/// loaded, with the run's seed; it gives notes.
pub(crate) fn from_checkpoint(
    config: &dyn TaskConfig,
    device: &Device,
    adjust: impl FnOnce(&mut LoadedModel, u64) -> Result<Vec<String>>,
) -> Result<Start> {
    let path = config.start().map_or("", |start| &start.checkpoint);
    let found = Checkpoint::open(Path::new(path))
        .map_err(Error::of_key("checkpoint"))?
        .at(config.train().image.image_res)?;
    of_checkpoint(config, found, device, adjust)
}

fn of_checkpoint(
    config: &dyn TaskConfig,
    mut found: Checkpoint,
    device: &Device,
    adjust: impl FnOnce(&mut LoadedModel, u64) -> Result<Vec<String>>,
) -> Result<Start> {
    let (train, task) = (config.train(), config.task());
    found.config = config.adapted(found.config)?;
    let schema = task.schema(&found.config);
    check_memory(&schema, config.uses_momentum(), config.queue_size(), found.config.embed_dim)?;
    let mut loaded = found.start(task, device, train.data.seed)?;
    let mut notes = loaded.report.lines();
    notes.extend(adjust(&mut loaded, train.data.seed)?);
    let size = config.queue_size();
    if config.resets_queues() {
        loaded.queues = None;
    }
    if let Some(found) = loaded.queues.as_ref().filter(|q| size > 0 && q.len() != size) {
        notes.push(format!(
            "the checkpoint's queues of {} entries are kept; `queue_size` {size} is not used, but \
             would be with `queue_reset: true`",
            found.len()
        ));
    }
    let momentum = match config.uses_momentum() {
        true => loaded.momentum_or_copy()?.0,
        false => Params::new(device),
    };
    let mut model = loaded.config;
    model.task = Some(task.model().to_owned());
    model.text.dropout = train.optim.dropout as f32;
    model.check()?;
    let fresh = || fresh_queues(size, model.embed_dim, train.data.seed, device);
    let queues = loaded.queues.take().filter(|_| size > 0).unwrap_or_else(fresh);
    let optimizer = optimizer(train, &loaded.online);
    let (online, place) = (loaded.online, TrainProgress::default());
    let state = TrainState { online, momentum, queues, optimizer, place };
    Ok(Start { model, vocabulary: loaded.vocabulary, state, notes })
}

/// Refuses sizes whose weights and queues alone are more than the memory of this machine, before any is taken.
pub(crate) fn check_memory(
    schema: &Schema,
    momentum: bool,
    queue_size: usize,
    embed_dim: usize,
) -> Result<()> {
    let Some(there) = memory_of_machine() else { return Ok(()) };
    let weights: u128 = schema
        .parameters()
        .iter()
        .map(|parameter| parameter.shape.iter().map(|n| *n as u128).product::<u128>())
        .sum();
    // Weights, gradients and the two moments of AdamW, and the momentum model.
    let copies = if momentum { 5 } else { 4 };
    let of_weights = weights * copies * size_of::<f32>() as u128;
    let of_queues = 2 * queue_size as u128 * embed_dim as u128 * size_of::<f32>() as u128;
    if of_weights + of_queues <= u128::from(there) {
        return Ok(());
    }
    let gb = |bytes: u128| bytes as f64 / 1e9;
    Err(Error::Config(format!(
        "training needs {:.1} GB for the weights and {:.1} GB for the queues (`queue_size` {queue_size}, `embed_dim` \
         {embed_dim}), and this machine has {:.1} GB; choose a smaller `preset` or `queue_size`",
        gb(of_weights),
        gb(of_queues),
        gb(there.into())
    )))
}

/// Bytes of memory, where the system tells.
fn memory_of_machine() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The optimizer that a configuration asks for.
pub(crate) fn optimizer(config: &TrainConfig, online: &Params) -> Optimizer {
    let o = &config.optim.optimizer;
    Optimizer::new(online, o.weight_decay, o.opt_betas, o.opt_eps)
        .decaying(online, o.decay_rule)
        .scaled(online, "text_encoder", config.optim.text_lr_scale)
}

/// The pieces of the full list that a text corpus needs: special ones, single characters, and all
/// that its captions are made of.
///
/// # Errors
/// Never for the built-in list.
pub fn corpus_vocabulary<T: AsRef<str>>(captions: impl Iterator<Item = T>) -> Result<String> {
    let full = Tokenizer::new(Vocabulary::from_text(BERT_VOCABULARY)?);
    let mut used = vec![false; full.vocabulary().len()];
    for caption in captions {
        let clean = albef_data::text::pre_caption(caption.as_ref(), usize::MAX);
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

/// The tensors of a file that a key names, `init_vision` for a ViT or `init_text` for a BERT, without what a trainer has
/// put before their names. Adds what a user should know to `notes`.
pub(crate) fn read_of(
    key: &'static str,
    path: &Path,
    notes: &mut Vec<String>,
) -> Result<StateDict> {
    let path = &find_model(path).map_err(Error::of_key(key))?;
    let found = albef_weights::read(path).map_err(Error::of_key(key))?;
    notes.extend(found.notes.into_iter().map(|note| format!("`{key}`: {note}")));
    let state = found.tensors;
    let has = |part: &str| state.names().any(|n| n.contains(part));
    let wanted = if key == "init_text" { ModelKind::Bert } else { ModelKind::Vit };
    let detail = match has("patch_embed.") && has("word_embeddings.") {
        true => Some("this is a whole ALBEF; hint: name it under `init_albef`".to_owned()),
        false => ModelKind::of(&state).and_then(|kind| kind.instead_of(wanted)),
    };
    match detail {
        Some(detail) => Err(Error::of_key(key)(Error::Format { path: path.to_owned(), detail })),
        None => Ok(without_prefix(key, state, notes)),
    }
}

/// The tensors below the prefix of the one that every such model has.
fn without_prefix(key: &str, state: StateDict, notes: &mut Vec<String>) -> StateDict {
    let anchor = match key {
        "init_vision" => "patch_embed.proj.weight",
        _ => "embeddings.word_embeddings.weight",
    };
    let prefix = state.names().find_map(|name| name.strip_suffix(anchor)).unwrap_or_default();
    let prefix = prefix.strip_suffix("bert.").unwrap_or(prefix).to_owned();
    if prefix.is_empty() {
        return state;
    }
    let all = state.len();
    let below =
        |(name, tensor): (String, _)| Some((name.strip_prefix(&prefix)?.to_owned(), tensor));
    let state: StateDict = state.into_iter().filter_map(below).collect();
    notes
        .push(format!("`{key}`: the {} tensors below `{prefix}` are taken, of {all}", state.len()));
    state
}

/// Puts the weights of another model in the place of fresh ones. A start from which little could be
/// taken is an error, not a silent random start; what stays fresh is said.
pub(crate) fn take_over(
    online: &mut Params,
    state: &StateDict,
    path: &Path,
    part: &str,
) -> Result<Option<String>> {
    let fail = |detail: String| Error::Format { path: path.to_owned(), detail };
    let mut taken = HashSet::new();
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
        taken.insert(name);
    }
    let below = || online.entries().iter().filter(|p| p.name.starts_with(part));
    let all = below().count();
    let found = below().filter(|p| taken.contains(p.name.as_str())).count();
    if found * 3 < all {
        return Err(fail(format!("only {found} of {all} weights below `{part}` are in this file")));
    }
    let first = below().find(|p| !taken.contains(p.name.as_str()));
    Ok(first.map(|first| {
        format!(
            "{found} of {all} weights below `{part}` are from {}; the others start fresh, such as `{}`",
            path.display(),
            first.name
        )
    }))
}

#[cfg(test)]
mod tests {
    use albef_weights::{DType, HostTensor};

    use super::*;
    use crate::checkpoint::state_dict;
    use crate::config::Source;
    use crate::init::fresh_params;
    use crate::objectives::queue::NO_ID;
    use crate::params::cpu;
    use crate::task::TaskRef;

    fn fresh(task: &str, model: &ModelConfig, seed: u64) -> Result<Params> {
        fresh_params(&TaskRef::named(task)?.schema(model), 0.07, seed, &cpu())
    }

    fn nano() -> ModelConfig {
        let mut model = ModelConfig::nano();
        model.text.vocab_size = 40;
        model
    }

    fn configured(task: &str, text: &str) -> Box<dyn TaskConfig> {
        let settings = ["checkpoint=x".to_owned()];
        let settings = if task == "pretrain" { &[][..] } else { &settings };
        TaskRef::named(task).unwrap().configure(Source { text, settings, file: None }).unwrap()
    }

    #[test]
    fn the_rule_of_decay_is_the_configured_one() {
        let params = fresh("pretrain", &nano(), 1).unwrap();
        let decaying = |text: &str| {
            let config = configured("pretrain", text);
            let decay = optimizer(config.train(), &params).decay().to_vec();
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
    fn a_vit_and_a_bert_under_each_other_s_keys_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        for (names, key, other) in [
            (&["patch_embed.proj.bias"][..], "init_text", "init_vision"),
            (&["bert.embeddings.word_embeddings.weight"], "init_vision", "init_text"),
            (&["v.patch_embed.proj.bias", "t.word_embeddings.weight"], "init_text", "init_albef"),
        ] {
            let one = || HostTensor::from_f32(&[1], &[1.0]);
            let state: StateDict = names.iter().map(|n| ((*n).to_owned(), one())).collect();
            let keep = albef_weights::KeepAs::Same;
            albef_weights::write_safetensors(&path, &state, &Default::default(), keep).unwrap();
            let said = read_of(key, &path, &mut Vec::new()).unwrap_err().to_string();
            assert!(said.contains(&format!("under `{other}`")), "{said}");
        }
    }

    #[test]
    fn what_no_memory_holds_is_refused_before_it_is_taken() {
        let schema = TaskRef::pretrain().schema(&nano());
        check_memory(&schema, true, 65_536, 256).unwrap();
        let said = check_memory(&schema, true, 1 << 22, 1 << 26).unwrap_err().to_string();
        assert!(said.contains("`queue_size` 4194304") && said.contains("GB"), "{said}");
    }

    #[test]
    fn a_start_is_found_below_a_prefix_and_what_stays_fresh_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let mut online = fresh("pretrain", &nano(), 1).unwrap();
        let vision = state_dict(&online).into_iter().filter_map(|(name, tensor)| {
            let name = name.strip_prefix("visual_encoder.")?;
            (name != "norm.weight").then(|| (format!("model.backbone.{name}"), tensor))
        });
        let other = ("model.head.weight".to_owned(), HostTensor::from_f32(&[1], &[1.0]));
        let state: StateDict = vision.chain([other]).collect();
        let keep = albef_weights::KeepAs::Same;
        albef_weights::write_safetensors(&path, &state, &Default::default(), keep).unwrap();
        let mut notes = Vec::new();
        let found = read_of("init_vision", &path, &mut notes).unwrap();
        let taken = state.len() - 1;
        assert_eq!(
            notes,
            [format!(
                "`init_vision`: the {taken} tensors below `model.backbone.` are taken, of {}",
                taken + 1
            )]
        );
        let found = albef_weights::from_deit(found);
        let note = take_over(&mut online, &found, &path, "visual_encoder.").unwrap().unwrap();
        assert!(note.starts_with(&format!("{taken} of {} weights", taken + 1)), "{note}");
        assert!(note.ends_with("such as `visual_encoder.norm.weight`"), "{note}");
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
        let start = |text: &str| {
            let config = configured("retrieval", text);
            let found = Checkpoint::new(tensors.clone(), nano(), String::new(), Path::new("it"));
            of_checkpoint(&*config, found, &cpu(), |_, _| Ok(Vec::new())).unwrap().state.queues
        };
        let kept = start("queue_size: 4");
        assert_eq!((kept.len(), kept.ptr(), kept.rows().0[0]), (6, 2, 0.25));
        let anew = start("queue_size: 4\nqueue_reset: true");
        assert_eq!((anew.len(), anew.ptr()), (4, 0));
        assert!(anew.rows().0[0] != 0.25 && anew.ids() == [NO_ID; 4]);
    }
}
