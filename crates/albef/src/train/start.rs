//! What a run starts from: its word pieces, first weights and optimizer.

use std::path::Path;

use albef_data::text::{Tokenizer, Vocabulary};
use albef_weights::StateDict;
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

/// The tensors of a file that a key names, `init_vision` for a ViT or `init_text` for a BERT.
pub(crate) fn read_of(key: &'static str, path: &Path) -> Result<StateDict> {
    let path = &find_model(path).map_err(Error::of_key(key))?;
    let state = albef_weights::read(path).map_err(Error::of_key(key))?.tensors;
    let has = |part: &str| state.names().any(|n| n.contains(part));
    let (vision, text) = (has("patch_embed."), has("word_embeddings."));
    let (found, other) = match key {
        "init_vision" if text && !vision => ("a BERT", "init_text"),
        "init_text" if vision && !text => ("a ViT", "init_vision"),
        "init_vision" | "init_text" if vision && text => ("a whole ALBEF", "init_albef"),
        _ => return Ok(state),
    };
    let detail = format!("this is {found}; hint: name it under `{other}`");
    Err(Error::of_key(key)(Error::Format { path: path.to_owned(), detail }))
}

/// Puts the weights of another model in the place of fresh ones. A start from which little could be
/// taken is an error, not a silent random start.
pub(crate) fn take_over(
    online: &mut Params,
    state: &StateDict,
    path: &Path,
    part: &str,
) -> Result<()> {
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
            let said = read_of(key, &path).unwrap_err().to_string();
            assert!(said.contains(&format!("under `{other}`")), "{said}");
        }
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
