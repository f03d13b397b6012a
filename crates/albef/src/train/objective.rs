//! What is trained for, by task.

use albef_data::dataset::TextRule;
use albef_weights::Task;
use serde::{Deserialize, Serialize};

use crate::config::PretrainConfig;
use crate::model::{Nlvr2Model, VisualEntailmentModel};
use crate::objectives::{
    self, ClassificationObjective, ImagesPerText, PairsObjective, TextAssignmentObjective,
    VqaObjective,
};

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
    /// The kind of model that it trains.
    #[must_use]
    pub fn task(self) -> Task {
        match self {
            Self::Pretrain => Task::Pretrain,
            Self::Retrieval | Self::Grounding => Task::Retrieval,
            Self::Vqa => Task::Vqa,
            Self::Nlvr => Task::Nlvr,
            Self::Assignment => Task::Ta,
            Self::Entailment => Task::Ve,
        }
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

    /// What it minimizes, by a configuration; `distill`: whether the momentum model gives
    /// pseudo-targets.
    #[must_use]
    pub fn objective(self, c: &PretrainConfig, distill: bool) -> Box<dyn objectives::Objective> {
        let (dropout, momentum_dropout) = (c.dropout as f32, c.momentum_dropout as f32);
        let classification = |images, classes| {
            Box::new(ClassificationObjective {
                images,
                classes,
                distill,
                dropout,
                momentum_dropout,
            })
        };
        match self {
            Self::Pretrain | Self::Retrieval | Self::Grounding => {
                let pretrain = self == Self::Pretrain;
                Box::new(PairsObjective {
                    ita: c.losses.ita,
                    itm: c.losses.itm,
                    mlm: pretrain && c.losses.mlm,
                    distill,
                    mlm_mod: c.losses.mlm_mod,
                    mlm_distill_axis: c.mlm_distill_axis,
                    mlm_probability: c.mlm_probability as f32,
                    itc_only_steps: if pretrain { c.align_steps } else { 0 },
                    hard_negatives: c.hard_negatives,
                    hard_negatives_start: c.hard_negatives_from,
                    negative_temp: (c.negative_temp > 0.0).then_some(c.negative_temp),
                    image_index: c.image_index,
                    dropout,
                    momentum_dropout,
                })
            }
            Self::Vqa => {
                let axis = c.mlm_distill_axis;
                Box::new(VqaObjective { distill, axis, dropout, momentum_dropout })
            }
            Self::Nlvr => classification(ImagesPerText::Two, Nlvr2Model::CLASSES),
            Self::Entailment => {
                classification(ImagesPerText::One, VisualEntailmentModel::CLASSES.len())
            }
            Self::Assignment => Box::new(TextAssignmentObjective { dropout }),
        }
    }
}
