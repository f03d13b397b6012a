//! Image-text retrieval (paper section 5).

use std::path::{Path, PathBuf};

use albef_data::dataset::{Contents, Dataset, SourceSpec, copied_members, read_source};
use albef_data::names::text_of_path;
use albef_weights::{Schema, StateDict};
use burn::tensor::Device;
use serde_json::{Value, json};

use super::configured::{accessors, finetuned, task_config};
use super::evaluation::{first_of, left_out, measurable, refuse_if_none, some_present};
use super::labels::{self, truncated_warning};
use super::{
    Configuration, EvalKey, Evaluation, EvaluationOptions, Evaluator, PRETRAIN, RESAMPLES, Task,
    TaskConfig, TaskRef, classes, has, paired,
};
use crate::Control;
use crate::checkpoint::LoadedModel;
use crate::config::section::{rule, section};
use crate::config::{
    DistillConfig, MixGen, ModelConfig, MomentumConfig, PairsConfig, StartConfig, TrainConfig,
    check_length,
};
use crate::error::{Error, Result};
use crate::eval::metrics::RecallReport;
use crate::eval::protocol::{Measured, Protocol};
use crate::eval::retrieval::{Options, RetrievalReport, Score, intervals, measure};
use crate::images::ImageSet;
use crate::objectives::distill::DistillAxis;
use crate::objectives::{Objective, PairsObjective};
use crate::pipeline::Pipeline;
use crate::train::start::Start;

/// Contrast and matching with several positives.
pub(super) struct Retrieval;

/// The model of retrieval and of grounding.
pub(super) fn schema(config: &ModelConfig) -> Schema {
    let mut schema = Schema::new(config.sizes())
        .temp()
        .vision()
        .text_encoder("text_encoder")
        .projections()
        .head("itm_head", 2, config.text.hidden);
    schema.queues = true;
    schema
}

impl Task for Retrieval {
    fn name(&self) -> &'static str {
        "retrieval"
    }

    fn title(&self) -> &'static str {
        "retrieval or grounding"
    }

    fn about(&self) -> &'static str {
        "Image-text retrieval"
    }

    fn used_by(&self) -> &'static str {
        "`albef search`, `albef match`, `albef ground` and `albef evaluate retrieval`"
    }

    fn schema(&self, config: &ModelConfig) -> Schema {
        schema(config)
    }

    fn recognizes(&self, state: &StateDict) -> bool {
        let others = ["text_encoder.bert.", "text_decoder.", "ta_head."];
        classes(state).is_none() && !others.iter().any(|part| has(state, part)) && !paired(state)
    }

    fn configuration(&self) -> Configuration {
        Configuration::of::<RetrievalConfig>()
    }

    fn unread(&self) -> &'static [&'static str] {
        &["batch_size_test"]
    }

    fn evaluation_options(&self) -> Option<EvaluationOptions> {
        Some(EvaluationOptions::of::<RetrievalOptions>(&["annotations"]))
    }

    fn evaluation(&self, options: Value) -> Result<Box<dyn Evaluator>> {
        let options: RetrievalOptions = labels::options(TaskRef::of(&Retrieval), options)?;
        Ok(Box::new(RetrievalEvaluator::from_options(&options)?))
    }

    fn evaluates(&self) -> Vec<&'static str> {
        vec![PRETRAIN, "retrieval"]
    }

    /// That of a protocol, if one is named.
    fn evaluation_res(&self, options: &Value) -> Option<usize> {
        let name = options["protocol"].as_str()?;
        Protocol::named(name).ok().map(|p| p.image_res)
    }
}

section! {
    /// Keys of retrieval alone.
    pub struct RetrievalKeys: "Retrieval" {
        /// candidates that are re-ranked when measuring
        k_test: usize = 128;
    }
}

task_config! {
    /// The configuration of fine-tuning for retrieval.
    pub struct RetrievalConfig {
        train: TrainConfig,
        start: StartConfig,
        momentum: MomentumConfig,
        distill: DistillConfig,
        pairs: PairsConfig,
        queue: QueueKeys,
        retrieval: RetrievalKeys,
    }
}

section! {
    /// The queues of a fine-tuning run.
    pub struct QueueKeys: "Queues in fine-tuning" {
        /// start with new queues instead of the checkpoint's (quirk Q11)
        queue_reset: bool = false;
    }
}

impl Default for RetrievalConfig {
    fn default() -> Self {
        let mut train = TrainConfig::default();
        train.image.crop_scale = (0.5, 1.0);
        train.data.max_tokens = 512;
        Self {
            train,
            start: StartConfig::default(),
            momentum: MomentumConfig::default(),
            distill: DistillConfig::default(),
            pairs: PairsConfig { image_index: true, ..PairsConfig::default() },
            queue: QueueKeys::default(),
            retrieval: RetrievalKeys::default(),
            notes: Vec::new(),
        }
    }
}

/// An error if no loss is active, or a contrast within the batch is to use the momentum model. `mlm`: whether
/// the task has masked language modeling.
pub(super) fn check_pairs(pairs: &PairsConfig, momentum: &MomentumConfig, mlm: bool) -> Result<()> {
    if !pairs.momentum_contrast && (pairs.queue_size != 0 || momentum.alpha != 0.0) {
        return Err(Error::Config(
            "`momentum_contrast` is false, and queues and pseudo-targets are of the momentum model; set \
             `queue_size: 0` and `alpha: 0`"
                .into(),
        ));
    }
    let losses = &pairs.losses;
    if losses.ita || losses.itm || losses.mlm && mlm {
        return Ok(());
    }
    Err(Error::Config(match mlm {
        true => "`losses`: at least one of ita, itm and mlm must be active".into(),
        false => {
            "`losses`: at least one of ita and itm must be active; mlm is of pre-training only"
                .into()
        }
    }))
}

/// Contrast and matching without masked language modeling.
pub(super) fn objective(
    train: &TrainConfig,
    momentum: &MomentumConfig,
    distill: bool,
    pairs: &PairsConfig,
) -> PairsObjective {
    PairsObjective {
        ita: pairs.losses.ita,
        itm: pairs.losses.itm,
        mlm: false,
        distill,
        mlm_mod: pairs.losses.mlm_mod,
        mlm_distill_axis: DistillAxis::default(),
        mlm_probability: 0.0,
        itc_only_steps: 0,
        hard_negatives: pairs.hard_negatives,
        hard_negatives_start: pairs.hard_negatives_start,
        negative_temp: (pairs.negative_temp > 0.0).then_some(pairs.negative_temp),
        image_index: pairs.image_index,
        momentum_contrast: pairs.momentum_contrast,
        patch_dropout: pairs.patch_dropout as f32,
        dropout: train.optim.dropout as f32,
        momentum_dropout: momentum.momentum_dropout as f32,
    }
}

/// Checks the lengths of joined texts against the position table.
pub(super) fn check_mixgen(mixgen: &MixGen, positions: usize) -> Result<()> {
    match mixgen.is_active() {
        true => check_length("mixgen.max_tokens", mixgen.max_tokens, positions),
        false => Ok(()),
    }
}

impl TaskConfig for RetrievalConfig {
    accessors!(Retrieval, start);

    fn check(&self) -> Result<()> {
        check_pairs(&self.pairs, &self.momentum, false)
    }

    fn momentum(&self) -> Option<&MomentumConfig> {
        Some(&self.momentum)
    }

    fn warm_up(&self) -> bool {
        self.distill.warm_up
    }

    fn pairs(&self) -> Option<&PairsConfig> {
        Some(&self.pairs)
    }

    fn resets_queues(&self) -> bool {
        self.queue.queue_reset
    }

    fn objective(&self, _data: &Dataset) -> Box<dyn Objective> {
        Box::new(objective(&self.train, &self.momentum, self.distill.distill, &self.pairs))
    }

    fn initialize(&self, _data: &Dataset, device: &Device) -> Result<Start> {
        let start = finetuned(self, device)?;
        check_mixgen(&self.pairs.mixgen, start.model.text.max_positions)?;
        Ok(start)
    }

    fn evaluator(&self, key: EvalKey) -> Result<Option<Box<dyn Evaluator>>> {
        RetrievalEvaluator::of_run(self, key, self.retrieval.k_test)
    }
}

section! {
    /// Options of an evaluation.
    pub struct RetrievalOptions: "Evaluation" {
        /// retrieval list: a JSON list of images with their captions; or a folder or shards
        annotations: PathBuf = PathBuf::new();
        /// joined before its image paths
        image_root: Option<PathBuf> = None;
        /// candidates that are re-ranked; 0 for the cosine alone [default: 128]
        rerank_k: Option<usize> = None;
        /// score of re-ranking: itm as the official code, itm+itc as LAVIS, itm-prob or posterior
        score: Score = Score::default();
        /// measure as a named protocol does, and report deviations: flickr-zeroshot-paper, direct-256
        /// or direct-384
        protocol: Option<String> = None;
        /// count a hit by `image_id` (concept) instead of by image
        by_id: bool = false;
        /// resamples of bootstrap intervals
        resamples: usize = RESAMPLES, if rule::at_least_1;
        /// write the recalls at 1, 5 and 10 to this file as CLIP_benchmark does, for its tables
        clip_benchmark: Option<PathBuf> = None;
    }
}

/// Recall on images with their captions.
pub(super) struct RetrievalEvaluator {
    images: ImageSet,
    options: Options,
    protocol: Option<Protocol>,
    by_id: bool,
    resamples: usize,
    /// Whether a run asks, for which the figures are fewer.
    of_run: bool,
    /// Images whose bytes an earlier one has.
    copies: usize,
}

impl RetrievalEvaluator {
    fn from_options(o: &RetrievalOptions) -> Result<Self> {
        let protocol = o.protocol.as_deref().map(Protocol::named).transpose()?;
        let k = o.rerank_k.or(protocol.map(|p| p.k)).unwrap_or(128);
        let images = ImageSet::open(&text_of_path(&o.annotations), o.image_root.as_deref())?;
        let options = Options { k, score: o.score, ..Options::default() };
        measurable(images.samples(), &o.annotations)?;
        let (by_id, resamples) = (o.by_id, o.resamples);
        let copies = copied_members(images.samples());
        Ok(Self { images, options, protocol, by_id, resamples, of_run: false, copies })
    }

    /// The list of a run: one, and retrieval even for pre-training.
    pub fn of_run(
        config: &dyn TaskConfig,
        key: EvalKey,
        k: usize,
    ) -> Result<Option<Box<dyn Evaluator>>> {
        let (name, files) = (key.name(), config.eval_files(key));
        let file = match &files[..] {
            [] => return Ok(None),
            [one] => one,
            more => {
                return Err(Error::Config(format!(
                    "`{name}` names {} lists, and retrieval is measured on the images of one: give one, \
                     or join them into one",
                    more.len()
                )));
            }
        };
        let root = Some(&config.train().data.image_root).filter(|r| !r.is_empty()).map(Path::new);
        let contents: Contents =
            read_source(&SourceSpec::new(file, root)).map_err(Error::of_key(name))?;
        let samples = &contents.samples;
        if samples.is_empty() {
            return Err(Error::Config(format!("`{name}`: there is no image in {file}")));
        }
        if samples.iter().all(|s| s.captions.is_empty()) {
            return Err(Error::Config(format!(
                "`{name}`: the images of {file} have no captions, so there is nothing to measure"
            )));
        }
        some_present(samples, name, "image_root")?;
        let images = ImageSet::from_contents(contents);
        let copies = copied_members(images.samples());
        Ok(Some(Box::new(Self {
            images,
            copies,
            options: Options { k, ..Options::default() },
            protocol: None,
            by_id: false,
            resamples: RESAMPLES,
            of_run: true,
        })))
    }

    fn lines(&self, found: &RetrievalReport) -> Vec<String> {
        let (out, k) = (&found.evaluation, self.options.k);
        let stages = match k {
            0 => "not re-ranked".to_owned(),
            _ => format!("re-ranked: the best {k}"),
        };
        let line = |name: &str, report: &RecallReport, ranks: &[Vec<usize>; 2]| {
            let i = intervals(ranks, self.resamples);
            let bound = |key: &str, j: usize| i[key][j].as_f64().unwrap_or(f64::NAN);
            format!(
                "{name:<22} image to text R@1 {:.2} [{:.2}, {:.2}] R@5 {:.2} R@10 {:.2}   \
                 text to image R@1 {:.2} [{:.2}, {:.2}] R@5 {:.2} R@10 {:.2}   mean {:.2}",
                report.txt_r1,
                bound("txt_r1", 0),
                bound("txt_r1", 1),
                report.txt_r5,
                report.txt_r10,
                report.img_r1,
                bound("img_r1", 0),
                bound("img_r1", 1),
                report.img_r5,
                report.img_r10,
                report.r_mean
            )
        };
        let mut lines = vec![
            format!("{} images, {} texts; {stages}", found.images, found.texts),
            line("cosine (ITC)", &out.itc, &out.itc_ranks),
        ];
        if let Some(score) = found.score() {
            lines.push(line(&format!("re-ranked ({score})"), &out.itm, &out.itm_ranks));
        }
        lines
    }

    fn notes(&self, model: &Pipeline) -> Vec<String> {
        let mut out = self.images.notes().to_vec();
        let k = self.options.k;
        let distinct: std::collections::BTreeSet<u32> =
            self.images.image_ids().iter().copied().collect();
        if !self.by_id && !self.of_run && distinct.len() < self.images.len() {
            out.push(format!(
                "{} images share {} image ids; a hit is the very image, with --by-id any of its id",
                self.images.len(),
                distinct.len()
            ));
        }
        if self.copies > 0 && !self.by_id {
            out.push(format!(
                "{} of {} images have the very bytes of another one and count as images of their own, so that a \
                 text is right with one of the copies only; pack each image once with all its captions \
                 (`albef data pack` of the list), or give copies one `image_id` and measure with --by-id",
                self.copies,
                self.images.len()
            ));
        }
        if let Some(protocol) = self.protocol {
            let (weights, size) = (Protocol::weights_of(model), model.image_res());
            out.push(format!("protocol {}: {}", protocol.name, protocol.about));
            out.push(format!("measured: {weights}; {size} px; k {k}"));
        }
        if k > 0 && self.options.score == Score::Itm && !self.of_run {
            out.push(
                "re-ranked by the matching logit alone, as in the official code; `albef search` orders by \
                 `--score posterior`"
                    .into(),
            );
        }
        if (1..10).contains(&k) && !self.of_run {
            out.push(format!(
                "with --rerank-k {k} only the best {k} are re-ranked; recalls beyond rank {k} cannot rise"
            ));
        }
        out
    }

    fn warnings(&self, model: &Pipeline, found: &RetrievalReport) -> Vec<String> {
        let mut out = Vec::new();
        if let Some(protocol) = self.protocol {
            let score = self.options.score.name();
            let measured = Measured { k: self.options.k, score, by_id: self.by_id };
            for deviation in protocol.deviations(model, measured) {
                out.push(format!("not {}: {deviation}", protocol.name));
            }
        }
        out.extend(left_out(&found.skipped_members));
        out.extend(left_out(self.images.caption_faults()));
        out.extend(first_of(
            "not usable, counted as missed",
            found.skipped.iter().map(|s| format!("{}: {}", s.name, s.error)),
        ));
        out.extend(truncated_warning(found.truncated_texts, found.texts, model.caption_limits()));
        if found.empty_texts > 0 {
            out.push(format!(
                "{} of {} texts have no words; they are measured as they are",
                found.empty_texts, found.texts
            ));
        }
        if found.images_without_text > 0 {
            out.push(format!(
                "{} of {} images have no text; they count as missed",
                found.images_without_text, found.images
            ));
        }
        out
    }
}

impl Evaluator for RetrievalEvaluator {
    fn evaluate(&self, model: &LoadedModel, control: &Control) -> Result<Evaluation> {
        let pipeline = Pipeline::from_loaded(model)?;
        pipeline.needs_contrast()?;
        let found = measure(&pipeline, &self.images, &self.options, self.by_id, control)?;
        let usable = self.images.len() - found.skipped.len();
        refuse_if_none(usable, self.images.samples(), &found.skipped)?;
        let mut report = found.to_json(self.resamples, self.protocol.map(|p| p.name));
        let score = match self.options.k {
            0 => found.evaluation.itc.r_mean,
            _ => found.evaluation.itm.r_mean,
        };
        if self.of_run {
            report["score"] = json!(score);
        }
        Ok(Evaluation {
            report,
            score: Some(score),
            lines: self.lines(&found),
            outcomes: Some(found.outcomes(&self.images)),
            clip_metrics: found.clip_metrics(),
            warnings: self.warnings(&pipeline, &found),
            notes: self.notes(&pipeline),
            ..Evaluation::default()
        })
    }
}
