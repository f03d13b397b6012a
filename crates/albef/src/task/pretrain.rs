//! Pre-training (paper section 3).

use std::io::ErrorKind;
use std::path::Path;

use albef_data::dataset::Dataset;
use albef_data::error::DataError;
use albef_data::text::{Tokenizer, Vocabulary};
use albef_weights::{Schema, StateDict};
use burn::tensor::Device;

use super::configured::{ReadConfig, accessors, image_text_pairs, task_config};
use super::retrieval::{RetrievalEvaluator, check_mixgen, check_pairs, objective};
use super::{Configuration, EvalKey, Evaluator, PRETRAIN, Task, TaskConfig, TaskRef, has};
use crate::checkpoint::{BERT_VOCABULARY, Checkpoint};
use crate::config::section::{rule, section};
use crate::config::{ModelConfig, MomentumConfig, PairsConfig, Source, TrainConfig};
use crate::error::{Error, Result};
use crate::init::{fresh_params, fresh_queues};
use crate::objectives::distill::DistillAxis;
use crate::objectives::momentum::copy_for_momentum;
use crate::objectives::{Objective, PairsObjective};
use crate::train::checkpoint::{TrainProgress, TrainState};
use crate::train::corpus_vocabulary;
use crate::train::start::{self, Start, check_memory, optimizer, read_of, take_over};

/// Image-text contrast, image-text matching and masked language modeling.
pub(super) struct Pretrain;

impl Task for Pretrain {
    fn name(&self) -> &'static str {
        PRETRAIN
    }

    fn title(&self) -> &'static str {
        "pre-training"
    }

    fn about(&self) -> &'static str {
        "Image-text contrast, matching and masked language modeling"
    }

    fn used_by(&self) -> &'static str {
        "`albef search`, `albef match` and `albef finetune`"
    }

    fn schema(&self, config: &ModelConfig) -> Schema {
        let mut schema = Schema::new(config.sizes())
            .temp()
            .vision()
            .text_encoder("text_encoder.bert")
            .lm_head("text_encoder")
            .projections()
            .head("itm_head", 2, config.text.hidden);
        schema.optional = Some("text_encoder.cls.");
        schema.queues = true;
        schema
    }

    fn recognizes(&self, state: &StateDict) -> bool {
        has(state, "text_encoder.bert.") && !has(state, "text_decoder.")
    }

    fn starts_from(&self) -> &'static [&'static str] {
        &[]
    }

    fn remap(&self, name: &str, _fusion_layer: usize) -> Vec<String> {
        vec![name.to_owned()]
    }

    fn configuration(&self) -> Configuration {
        Configuration::of::<PretrainConfig>()
    }
}

section! {
    /// Sizes and starting weights.
    pub struct InitConfig: "Model" {
        /// sizes: `base` (the paper's), `mini`, `nano`, or a file like the `config.json` of a model (`sizes.json`)
        preset: String = "base".into();
        /// width of the joint space, if not the preset's
        embed_dim: Option<usize> = None;
        /// read only to check that it agrees with the preset
        vision_width: Option<usize> = None;
        /// not read: sizes come from the preset
        bert_config: String = String::new();
        /// word pieces: `bert` (all), `corpus` (those that the captions need, or those of `init_albef`) or a file
        vocab: String = "bert".into();
        /// a DeiT to initialize the image encoder from
        init_vision: String = String::new();
        /// a BERT (safetensors or `.pth`) to initialize text and fusion layers from
        init_text: String = String::new();
        /// a model folder, checkpoint or run to start from
        init_albef: String = String::new();
        /// initial temperature of the contrastive loss
        temp: f64 = start::TEMP, if rule::above_0;
        /// weight of each training file in the mixture; empty: each sample equally often
        mixture_weights: Vec<f64> = Vec::new();
        /// candidates that are re-ranked when measuring
        k_test: usize = 128;
    }
}

section! {
    /// Masked language modeling.
    pub struct MlmConfig: "Masked language modeling" {
        /// share of tokens that are masked
        mlm_probability: f64 = 0.15, if rule::within(0.0..=1.0);
        /// or `sequence`: the soft part normalizes over positions, as before March 2022 (quirk Q1)
        mlm_distill_axis: DistillAxis = DistillAxis::default();
        /// optimizer steps at the start with the contrastive loss alone
        itc_only_steps: u64 = 0;
    }
}

task_config! {
    /// The configuration of pre-training.
    #[derive(Default)]
    pub struct PretrainConfig {
        train: TrainConfig,
        init: InitConfig,
        momentum: MomentumConfig,
        pairs: PairsConfig,
        mlm: MlmConfig,
    }
}

impl PretrainConfig {
    /// Reads a configuration.
    ///
    /// # Errors
    /// Names the key that is unknown, of another task, or whose value does not fit.
    pub fn read(source: Source<'_>) -> Result<Self> {
        ReadConfig::read(source)
    }

    fn check_lengths(&self, positions: usize) -> Result<()> {
        self.train.check_lengths(positions)?;
        check_mixgen(&self.pairs.mixgen, positions)
    }

    /// The model's sizes; the size of the vocabulary is filled in once it is known.
    ///
    /// # Errors
    /// If sizes contradict each other.
    pub fn model(&self) -> Result<ModelConfig> {
        let init = &self.init;
        let mut model = ModelConfig::named(&init.preset).map_err(Error::of_key("preset"))?;
        if let Some(res) = self.train.image.image_res {
            model.vision.image_res = res;
        }
        if let Some(embed_dim) = init.embed_dim {
            model.embed_dim = embed_dim;
        }
        if let Some(width) = init.vision_width.filter(|w| *w != model.vision.width) {
            return Err(Error::Config(format!(
                "`vision_width` {width} contradicts the preset `{}`, which has {}",
                init.preset, model.vision.width
            )));
        }
        model.text.dropout = self.train.optim.dropout as f32;
        model.check()?;
        Ok(model)
    }

    /// The word list that the configuration names.
    fn vocabulary(&self, data: &Dataset) -> Result<String> {
        match self.init.vocab.as_str() {
            "bert" | "" => Ok(BERT_VOCABULARY.to_owned()),
            "corpus" => {
                let mut failed = None;
                let samples = data.samples().iter();
                let samples = samples.map_while(|s| s.map_err(|error| failed = Some(error)).ok());
                let vocabulary = corpus_vocabulary(samples.flat_map(|s| s.captions));
                failed.map_or(vocabulary, |error| Err(error.into()))
            }
            path => Ok(Vocabulary::read(Path::new(path))?.1),
        }
    }

    /// Fresh weights, or those of the models that the configuration names, with notes on these.
    fn weights(
        &self,
        model: &ModelConfig,
        start: Option<Checkpoint>,
        device: &Device,
    ) -> Result<(TrainState, Vec<String>)> {
        let mut notes = Vec::new();
        let (init, seed) = (&self.init, self.train.data.seed);
        let mut online = fresh_params(&Pretrain.schema(model), init.temp, seed, device)?;
        if !init.init_text.is_empty() {
            let path = Path::new(&init.init_text);
            let state = albef_weights::from_bert(read_of("init_text", path, &mut notes)?);
            let taken = take_over(&mut online, &state, path, "text_encoder.");
            notes.extend(taken.map_err(Error::of_key("init_text"))?);
        }
        if !init.init_vision.is_empty() {
            let path = Path::new(&init.init_vision);
            let mut state = albef_weights::from_deit(read_of("init_vision", path, &mut notes)?);
            albef_weights::resize_tables(&mut state, model.vision.grid()).map_err(|e| {
                let detail = e.to_string();
                Error::of_key("init_vision")(Error::Format { path: path.to_owned(), detail })
            })?;
            let taken = take_over(&mut online, &state, path, "visual_encoder.");
            notes.extend(taken.map_err(Error::of_key("init_vision"))?);
        }
        let mut momentum = None;
        if let Some(mut start) = start {
            start.config = model.clone();
            let loaded = start
                .start(TaskRef::pretrain(), device, seed)
                .map_err(Error::of_key("init_albef"))?;
            notes.extend(loaded.report.lines());
            momentum = Some(loaded.momentum_or_copy()?.0);
            online = loaded.online;
        }
        let momentum = momentum.map_or_else(|| copy_for_momentum(&online), Ok)?;
        let optimizer = optimizer(&self.train, &online);
        let queues = fresh_queues(self.pairs.queue_size, model.embed_dim, seed, device);
        let place = TrainProgress::default();
        Ok((TrainState { online, momentum, queues, optimizer, place }, notes))
    }
}

/// Takes over what a preset does not say, and refuses a model whose weights would mean something else: rows of other
/// word pieces, or sizes that shapes do not show, such as the number of heads.
fn agree(model: &mut ModelConfig, start: &Checkpoint, vocabulary: &str) -> Result<()> {
    let (own, theirs) = (&mut model.text, &start.config.text);
    (own.type_vocab, own.processing) = (theirs.type_vocab, theirs.processing);
    if !start.vocabulary.is_empty() {
        let mut rows = vocabulary.lines().zip(start.vocabulary.lines()).enumerate();
        let other = rows.find(|(_, (own, theirs))| own != theirs);
        let (here, there) = (vocabulary.lines().count(), start.vocabulary.lines().count());
        let how = match other {
            Some((row, (own, theirs))) => format!("row {row} is `{own}`, and `{theirs}` there"),
            None if here != there => format!("there are {here}, and {there} there"),
            None => String::new(),
        };
        if !how.is_empty() {
            return Err(Error::Config(format!(
                "`vocab`: the word pieces are not those of {}: {how}; `vocab: corpus` takes those of the model that \
                 pre-training starts from",
                start.source
            )));
        }
        own.vocab_size = own.vocab_size.max(theirs.vocab_size);
    }
    let differing: Vec<String> = compared(model)
        .into_iter()
        .zip(compared(&start.config))
        .filter(|((_, own), (_, theirs))| own != theirs)
        .map(|((name, own), (_, theirs))| format!("`{name}` is {own}, and {theirs} there"))
        .collect();
    match differing.is_empty() {
        true => Ok(()),
        false => Err(Error::Config(format!(
            "`preset`: the sizes are not those of {}: {}; name the `config.json` of that model as `preset`",
            start.source,
            differing.join("; ")
        ))),
    }
}

/// Sizes that have to be equal for weights to mean the same. The position table of images is interpolated.
fn compared(model: &ModelConfig) -> [(&'static str, f64); 14] {
    let (v, t) = (&model.vision, &model.text);
    let whole = |n: usize| n as f64;
    [
        ("vision.width", whole(v.width)),
        ("vision.depth", whole(v.depth)),
        ("vision.heads", whole(v.heads)),
        ("vision.mlp_width", whole(v.mlp_width)),
        ("vision.patch", whole(v.patch)),
        ("vision.layer_norm_eps", v.layer_norm_eps.into()),
        ("text.hidden", whole(t.hidden)),
        ("text.layers", whole(t.layers)),
        ("text.heads", whole(t.heads)),
        ("text.intermediate", whole(t.intermediate)),
        ("text.fusion_layer", whole(t.fusion_layer)),
        ("text.max_positions", whole(t.max_positions)),
        ("text.layer_norm_eps", t.layer_norm_eps.into()),
        ("embed_dim", whole(model.embed_dim)),
    ]
}

impl TaskConfig for PretrainConfig {
    accessors!(Pretrain);

    fn check(&self) -> Result<()> {
        check_pairs(&self.pairs, &self.momentum, true)?;
        let losses = &self.pairs.losses;
        if self.mlm.mlm_probability == 0.0 && !losses.ita && !losses.itm {
            return Err(Error::Config(
                "`mlm_probability` is 0, so no token is masked, and `losses` has nothing else to learn"
                    .into(),
            ));
        }
        if self.mlm.itc_only_steps > 0 && !self.pairs.losses.ita {
            return Err(Error::Config("`itc_only_steps` needs the loss `ita`".into()));
        }
        let init = &self.init;
        for (key, part) in [("init_text", &init.init_text), ("init_vision", &init.init_vision)] {
            if !init.init_albef.is_empty() && !part.is_empty() {
                return Err(Error::Config(format!(
                    "`init_albef` is a whole model, and `{key}` would have no effect; remove one of them"
                )));
            }
        }
        let weights = self.init.mixture_weights.len();
        let files = self.train.data.train_file.paths().len();
        if weights != 0 && weights != files {
            return Err(Error::Config(format!(
                "{weights} `mixture_weights` for {files} training files"
            )));
        }
        if weights != 0 && self.train.data.train_file.draws().is_some() {
            return Err(Error::Config(
                "`mixture_weights` and weights in `train_file` are given; keep one of them".into(),
            ));
        }
        self.check_lengths(self.model()?.text.max_positions)
    }

    fn warnings(&self, steps: u64) -> Vec<String> {
        let alone = self.mlm.itc_only_steps;
        let never = alone > 0 && alone >= steps;
        let line = || {
            format!(
                "`itc_only_steps` is {alone} and the run has {steps} steps: matching and masked tokens are never \
                 trained; lower it, or train longer (`schedular.epochs`, `max_steps`)"
            )
        };
        never.then(line).into_iter().collect()
    }

    fn momentum(&self) -> Option<&MomentumConfig> {
        Some(&self.momentum)
    }

    fn pairs(&self) -> Option<&PairsConfig> {
        Some(&self.pairs)
    }

    fn objective(&self, _data: &Dataset) -> Box<dyn Objective> {
        Box::new(PairsObjective {
            mlm: self.pairs.losses.mlm,
            mlm_distill_axis: self.mlm.mlm_distill_axis,
            mlm_probability: self.mlm.mlm_probability as f32,
            itc_only_steps: self.mlm.itc_only_steps,
            ..objective(&self.train, &self.momentum, true, &self.pairs)
        })
    }

    fn open_data(&self) -> Result<Dataset> {
        image_text_pairs(&self.train, |i| self.init.mixture_weights.get(i).copied().unwrap_or(1.0))
    }

    fn initialize(&self, data: &Dataset, device: &Device) -> Result<Start> {
        let mut model = self.model()?;
        let start = match self.init.init_albef.as_str() {
            "" => None,
            path => {
                let start = Checkpoint::start_for(Path::new(path), &model);
                Some(start.map_err(Error::of_key("init_albef"))?)
            }
        };
        let vocabulary = match &start {
            Some(start) if self.init.vocab == "corpus" && !start.vocabulary.is_empty() => {
                start.vocabulary.clone()
            }
            _ => self.vocabulary(data).map_err(Error::of_key("vocab"))?,
        };
        let tokenizer = Tokenizer::new(Vocabulary::from_text(&vocabulary)?);
        model.text.vocab_size = tokenizer.vocabulary().len();
        model.text.pad_id = tokenizer.vocabulary().pad;
        if let Some(start) = &start {
            agree(&mut model, start, &vocabulary)?;
        }
        check_memory(&Pretrain.schema(&model), true, self.pairs.queue_size, model.embed_dim)?;
        let (state, notes) = self.weights(&model, start, device)?;
        Ok(Start { model, vocabulary, state, notes })
    }

    /// The word list that is named tells another run apart; where its file is gone the run's own will do.
    fn resumed_vocabulary(&self, data: &Dataset, own: &str) -> Result<(String, Option<String>)> {
        if self.init.vocab == "corpus" && !self.init.init_albef.is_empty() {
            // They are those of the model that the run started from, which may be gone.
            return Ok((own.to_owned(), None));
        }
        match self.vocabulary(data) {
            Err(Error::Data(DataError::Io { cause, .. }))
                if cause.kind() == ErrorKind::NotFound =>
            {
                let note = format!(
                    "`vocab` is {} and cannot be read ({cause}): the run keeps its own word pieces",
                    self.init.vocab
                );
                Ok((own.to_owned(), Some(note)))
            }
            named => Ok((named.map_err(Error::of_key("vocab"))?, None)),
        }
    }

    /// Measured by retrieval.
    fn evaluator(&self, key: EvalKey) -> Result<Option<Box<dyn Evaluator>>> {
        RetrievalEvaluator::of_run(self, key, self.init.k_test)
    }

    fn origin(&self) -> Vec<String> {
        let init = &self.init;
        [&init.init_albef, &init.init_vision, &init.init_text]
            .into_iter()
            .filter(|path| !path.is_empty())
            .cloned()
            .collect()
    }

    fn model_name(&self) -> String {
        let preset = Path::new(&self.init.preset).file_stem().map(|name| name.to_string_lossy());
        format!("ALBEF `{}`", preset.unwrap_or_default())
    }
}
