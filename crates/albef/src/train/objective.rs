//! What a step minimises, by task: a batch and weights in, named losses out.

use albef_data::dataset::{Batch as DataBatch, Target, TextRule};
use albef_data::random::Stream;
use albef_data::text::Tokenizer;
use albef_kernels::uniform;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::checkpoint::momentum_encoders;
use crate::config::{ModelConfig, PretrainConfig};
use crate::error::{Error, Result};
use crate::model::{
    Albef, AssignmentModel, Branch, DropoutRng, Nlvr2Model, TokenBatch, VisualEntailmentModel,
    VqaModel, Weights,
};
use crate::objectives::answers::{self, AnswerBatch, AnswerSettings};
use crate::objectives::assignment::{self, AssignmentDraw};
use crate::objectives::classify::distilled_cross_entropy;
use crate::objectives::distill::Metric;
use crate::objectives::masking::SpecialIds;
use crate::objectives::mixgen::Mixed;
use crate::objectives::pretrain::{Batch, Settings, StepRng, derive_seed, forward};
use crate::objectives::queue::Queues;
use crate::ops::Ops;
use crate::params::{Params, from_vec};
use crate::task::TaskRef;

/// What is trained for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Objective {
    /// Contrast, matching and masked words.
    Pretrain,
    /// Contrast and matching with several positives.
    Retrieval,
    /// As retrieval; pictures are not cropped.
    Grounding,
    /// Answers.
    Vqa,
    /// Statements about two images.
    Nlvr,
    /// Text assignment, which prepares for them.
    Assignment,
    /// Entailment.
    Entailment,
}

impl Objective {
    /// The task.
    #[must_use]
    pub fn task(self) -> TaskRef {
        let name = match self {
            Self::Pretrain => "pretrain",
            Self::Retrieval => "retrieval",
            Self::Grounding => "grounding",
            Self::Vqa => "vqa",
            Self::Nlvr => "nlvr",
            Self::Assignment => "nlvr-ta",
            Self::Entailment => "ve",
        };
        TaskRef::named(name).unwrap_or(TaskRef::pretrain())
    }

    /// Names of its losses in logs.
    #[must_use]
    pub fn losses(self) -> &'static [&'static str] {
        match self {
            Self::Pretrain => &["train_loss_mlm", "train_loss_ita", "train_loss_itm"],
            Self::Retrieval | Self::Grounding => &["train_loss_ita", "train_loss_itm"],
            _ => &["train_loss"],
        }
    }

    /// How its texts are cleaned.
    #[must_use]
    pub fn text_rule(self) -> TextRule {
        if self == Self::Vqa { TextRule::Question } else { TextRule::Caption }
    }

    /// Whether the momentum model takes part.
    #[must_use]
    pub fn has_teacher(self, distill: bool) -> bool {
        match self {
            Self::Pretrain | Self::Retrieval | Self::Grounding => true,
            Self::Assignment => false,
            Self::Vqa | Self::Nlvr | Self::Entailment => distill,
        }
    }
}

/// What a forward pass of any task may look at.
pub(super) struct Context<'a> {
    pub config: &'a PretrainConfig,
    pub model: &'a ModelConfig,
    pub tokenizer: &'a Tokenizer,
    pub momentum: &'a Params,
    pub queues: &'a Queues,
    pub distill: bool,
    pub alpha: f64,
    pub seed: u64,
    pub step: u64,
}

/// Ids of mixed pictures begin here.
const MIXED: i64 = 1 << 40;

/// Features for the queues: images, texts, image ids.
pub(super) type Features = (Tensor<2>, Tensor<2>, Vec<i64>);

/// What a forward pass gives.
pub(super) struct Losses {
    /// In the order of [`Objective::losses`], to be summed; `None` where one takes no part.
    pub terms: Vec<Option<Tensor<1>>>,
    /// What they are made of.
    pub parts: Vec<Metric>,
    pub features: Option<Features>,
}

impl Context<'_> {
    fn dropout(&self) -> DropoutRng {
        DropoutRng::new(self.config.dropout as f32, derive_seed(self.seed, 1))
    }

    fn momentum_dropout(&self) -> DropoutRng {
        DropoutRng::new(self.config.momentum_dropout as f32, derive_seed(self.seed, 2))
    }

    fn teacher(&self) -> Weights {
        let ops = Ops::for_device(self.momentum.device());
        self.momentum.frozen(ops.with_precision(self.config.precision))
    }

    fn images(&self, part: &DataBatch) -> Tensor<4> {
        let res = self.model.vision.image_res;
        let count = part.images.len() / (3 * res * res).max(1);
        from_vec(part.images.clone(), [count, 3, res, res], self.momentum.device())
    }

    /// The losses of a batch.
    pub fn losses(
        &self,
        objective: Objective,
        weights: &Weights,
        part: &DataBatch,
    ) -> Result<Losses> {
        match objective {
            Objective::Pretrain | Objective::Retrieval | Objective::Grounding => {
                self.pairs(objective == Objective::Pretrain, weights, part)
            }
            Objective::Vqa => self.answers(weights, part),
            Objective::Assignment => self.assignment(weights, part),
            Objective::Nlvr | Objective::Entailment => {
                self.classes(objective == Objective::Nlvr, weights, part)
            }
        }
    }

    fn pairs(&self, mlm: bool, weights: &Weights, part: &DataBatch) -> Result<Losses> {
        let c = self.config;
        let v = self.tokenizer.vocabulary();
        let aligning = mlm && self.step < c.align_steps;
        let settings = Settings {
            alpha: if self.distill { self.alpha } else { 0.0 },
            ita: c.losses.ita,
            itm: c.losses.itm && !aligning,
            mlm: mlm && c.losses.mlm && !aligning,
            mlm_mod: c.losses.mlm_mod,
            mlm_distill_axis: c.mlm_distill_axis,
            hard_negatives: c.hard_negatives && self.step >= c.hard_negatives_from,
            negative_temp: (c.negative_temp > 0.0).then_some(c.negative_temp),
            mlm_probability: c.mlm_probability as f32,
            image_index: c.image_index,
            dropout: c.dropout as f32,
            momentum_dropout: c.momentum_dropout as f32,
            special: SpecialIds { pad: v.pad, cls: v.cls, mask: v.mask },
            vocab_size: self.model.text.vocab_size,
        };
        let mut image_ids: Vec<i64> = part.image_ids.iter().map(|i| i64::from(*i)).collect();
        let (mut pixels, mut texts) = (part.images.clone(), part.token_ids.clone());
        let size = texts.len();
        let pairs = c.mixgen.pairs(size, &mut Stream::new(self.seed, "mixgen", &[]));
        let res = self.model.vision.image_res;
        c.mixgen.mix(&pairs, &mut pixels, 3 * res * res, &mut texts);
        let mut related = Vec::new();
        for Mixed { row, partner, .. } in &pairs {
            if c.mixgen.mask_partners || c.image_index {
                related.push((*row, *partner));
            }
            if c.image_index {
                // A mixed picture is nobody's second view; rows of both sources are no negatives.
                let sources = [part.image_ids[*row], part.image_ids[*partner]];
                let same = (0..size).filter(|i| sources.contains(&part.image_ids[*i]));
                related.extend(same.map(|i| (*row, i)));
                image_ids[*row] = MIXED + (self.step * size as u64) as i64 + *row as i64;
            }
        }
        let batch = Batch {
            images: from_vec(pixels, [size, 3, res, res], self.momentum.device()),
            text: TokenBatch::packed(&texts),
            image_ids: image_ids.clone(),
            related,
        };
        let model = Albef::new(self.model, weights)?;
        let teacher = momentum_encoders(self.momentum, self.model, c.precision)?;
        let draws = StepRng::Seeded(self.seed);
        let step = forward(&model, &teacher, self.queues, &batch, &settings, draws)?;
        let [_, _, image, text] = step.feats;
        let mut terms =
            vec![settings.ita.then_some(step.loss_ita), settings.itm.then_some(step.loss_itm)];
        if mlm {
            terms.insert(0, settings.mlm.then_some(step.loss_mlm));
        }
        Ok(Losses { terms, parts: step.parts, features: Some((image, text, image_ids)) })
    }

    fn answers(&self, weights: &Weights, part: &DataBatch) -> Result<Losses> {
        let mut answers = Vec::new();
        let mut shares = Vec::new();
        let mut question_of = Vec::new();
        for (q, target) in part.targets.iter().enumerate() {
            let Target::Answers(given) = target else {
                return Err(Error::Config(format!(
                    "question {} of the training list has no `answer`",
                    part.samples[q]
                )));
            };
            for (answer, weight) in given {
                answers.push(self.tokenizer.encode(&format!("{answer}[SEP]")));
                shares.push(*weight);
                question_of.push(q);
            }
        }
        let batch = AnswerBatch {
            images: self.images(part),
            questions: TokenBatch::packed(&part.token_ids),
            answers: TokenBatch::packed(&answers),
            question_of,
            weights: shares,
        };
        let model = VqaModel::new(self.model, weights, Branch::Online)?;
        let read = || VqaModel::new(self.model, &self.teacher(), Branch::Momentum);
        let teacher = self.distill.then(read).transpose()?;
        let dropout = [self.dropout(), self.momentum_dropout()];
        let settings = AnswerSettings {
            alpha: self.alpha,
            axis: self.config.mlm_distill_axis,
            pad: self.tokenizer.vocabulary().pad,
        };
        let step = answers::forward(&model, teacher.as_ref(), &batch, settings, dropout)?;
        Ok(Losses { terms: vec![Some(step.loss)], parts: step.parts, features: None })
    }

    fn assignment(&self, weights: &Weights, part: &DataBatch) -> Result<Losses> {
        let model = AssignmentModel::new(self.model, weights)?;
        let draw = |row: usize| {
            let u = |salt: u64| f64::from(uniform(derive_seed(self.seed, salt), row as u64));
            AssignmentDraw { other: u(3), order: u(4), index: [u(5), u(6)], given: None }
        };
        let texts = TokenBatch::packed(&part.token_ids);
        let images = self.images(part);
        let step = assignment::forward(&model, &images, &texts, draw, &mut self.dropout())?;
        Ok(Losses { terms: vec![Some(step.loss)], parts: Vec::new(), features: None })
    }

    fn classes(&self, two: bool, weights: &Weights, part: &DataBatch) -> Result<Losses> {
        let labels = part
            .targets
            .iter()
            .zip(&part.samples)
            .map(|(target, sample)| match target {
                Target::Label(label) => Ok(*label),
                _ => Err(Error::Config(format!("sample {sample} of the list has no `label`"))),
            })
            .collect::<Result<Vec<usize>>>()?;
        let (images, texts) = (self.images(part), TokenBatch::packed(&part.token_ids));
        let lifted = Tensor::from_inner(images.clone());
        let run = |weights: &Weights, copy, images, mut dropout: DropoutRng| {
            if two {
                Nlvr2Model::new(self.model, weights, copy)?.logits(images, &texts, &mut dropout)
            } else {
                let model = VisualEntailmentModel::new(self.model, weights, copy)?;
                model.logits(images, &texts, &mut dropout)
            }
        };
        let logits = run(weights, Branch::Online, lifted, self.dropout())?;
        let teacher = self
            .distill
            .then(|| run(&self.teacher(), Branch::Momentum, images, self.momentum_dropout()))
            .transpose()?;
        let out = distilled_cross_entropy(logits, teacher, &labels, self.alpha);
        let names = ["class_hard", "class_soft", "class_kl"];
        let parts = out.split.map_or_else(Vec::new, |split| split.named(names));
        Ok(Losses { terms: vec![Some(out.loss)], parts, features: None })
    }
}
