//! Question answering as generation: the loss of weighted answers (paper section 5).
//!
//! Letters: `B` questions, `A` answers, `R` token rows, `T` tokens to predict, `D` width, `V`
//! vocabulary.

use albef_data::dataset::{Batch, Target};
use burn::tensor::{Tensor, TensorData};

use super::distill::{DistillAxis, distilled, log_softmax_over_positions};
use super::{Forward, Losses, Objective, StepContext};
use crate::error::{Error, Result};
use crate::fault::{Fault, injected};
use crate::model::{Branch, TokenBatch, VqaModel, Weights};
use crate::ops::index;

/// Answers to questions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VqaObjective {
    /// Whether the momentum model gives pseudo-targets.
    pub distill: bool,
    /// Over what the soft part normalizes.
    pub axis: DistillAxis,
    /// Dropout of text, fusion and decoder layers.
    pub dropout: f32,
    /// Dropout of the momentum model's.
    pub momentum_dropout: f32,
}

/// The intermediates of a forward pass.
#[derive(Clone, Debug)]
pub struct VqaTrace {
    /// Loss of each token that is to be predicted, `[T]`.
    pub token_loss: Tensor<1>,
    /// Answer of each of these tokens.
    pub answer_of: Vec<usize>,
    /// States of the questions, `[R, D]`.
    pub question_states: Tensor<2>,
    /// Logits at every token of the answers, `[R, V]`.
    pub logits: Tensor<2>,
    /// Those of the momentum model.
    pub logits_m: Option<Tensor<2>>,
}

impl Objective for VqaObjective {
    fn losses(&self) -> &'static [&'static str] {
        &["train_loss"]
    }

    fn uses_momentum(&self) -> bool {
        self.distill
    }

    /// The sum over answers of weight times the summed loss of their tokens, divided by `B`. The loss
    /// of a token is `(1 - alpha)` cross-entropy with it plus `alpha` cross-entropy with the momentum
    /// model's prediction (paper equation 7), which gets no gradient.
    fn forward(&self, cx: &StepContext<'_>, weights: &Weights, batch: &Batch) -> Result<Forward> {
        let open = |target: &Target| !matches!(target, Target::Answers(_));
        if let Some(row) = batch.targets.iter().position(open) {
            let sample = batch.samples.get(row).unwrap_or(&row);
            return Err(Error::Config(format!(
                "question {sample} of the training list has no `answer`"
            )));
        }
        let images = cx.images(batch)?;
        let questions = &batch.text;
        let question_of = &batch.answers.question_of;
        let own: Vec<usize> = (0..questions.len()).collect();
        let in_sequence = self.distill && cx.alpha > 0.0 && self.axis == DistillAxis::Sequence;
        let filled = in_sequence.then(|| batch.answers.tokens.filled(cx.special.pad));
        let answers = filled.as_ref().unwrap_or(&batch.answers.tokens);
        let (rows, labels, answer_of) = targets(answers);

        let mut dropout = cx.rng.dropout(self.dropout);
        let model = VqaModel::new(cx.model, weights, Branch::Online)?;
        let states = model.visual_encoder.forward(Tensor::from_inner(images.clone()))?;
        let question_states = model.question_states(&states, &own, questions, &mut dropout)?;
        let (mut teacher_logits, mut logits_m) = (None, None);
        if self.distill {
            let mut dropout = cx.rng.momentum_dropout(self.momentum_dropout);
            let momentum = VqaModel::new(cx.model, &cx.momentum_weights(), Branch::Momentum)?;
            let states = momentum.visual_encoder.forward(images)?;
            let states = momentum.question_states(&states, &own, questions, &mut dropout)?;
            let decoded = momentum.decode(answers, questions, states, question_of, &mut dropout)?;
            let kept = decoded.clone().select(0, index(&rows, &decoded.device()));
            teacher_logits = Some(momentum.head.forward(kept));
            logits_m = cx.trace.then(|| momentum.head.forward(decoded));
        }
        let decoded =
            model.decode(answers, questions, question_states.clone(), question_of, &mut dropout)?;
        let device = decoded.device();
        let (logits, other) = if in_sequence {
            let all = model.head.forward(decoded.clone());
            let other = over_positions(all.clone(), answers, &rows);
            (all.select(0, index(&rows, &device)), Some(other))
        } else {
            (model.head.forward(decoded.clone().select(0, index(&rows, &device))), None)
        };
        let tokens = distilled(logits, teacher_logits, other, &labels, cx.alpha);
        let share = 1.0 / questions.len().max(1) as f32;
        let weight = |answer: &usize| {
            if injected(Fault::WeightsOfAnswersIgnored) {
                return share;
            }
            batch.answers.weights[*answer] * share
        };
        let weights: Vec<f32> = answer_of.iter().map(weight).collect();
        let n = weights.len();
        let weights = Tensor::<1>::from_data(TensorData::new(weights, [n]), &device);
        let loss = (tokens.loss.clone() * weights.clone()).sum();
        let weights = weights.inner();
        let terms = tokens.terms.map(|terms| terms.map(|rows| (rows * weights.clone()).sum()));
        let names = ["vqa_hard", "vqa_soft", "vqa_kl"];
        let metrics = terms.map_or_else(Vec::new, |terms| terms.named(names));
        let trace = cx.trace.then(|| -> Box<dyn std::any::Any> {
            let logits = model.head.forward(decoded);
            let token_loss = tokens.loss;
            Box::new(VqaTrace { token_loss, answer_of, question_states, logits, logits_m })
        });
        Ok(Forward { losses: Losses::of("train_loss", loss), metrics, features: None, trace })
    }
}

/// Rows that predict a token, the token, and the answer that they belong to. Carried-along padding
/// predicts nothing.
fn targets(answers: &TokenBatch) -> (Vec<usize>, Vec<usize>, Vec<usize>) {
    let mut all = (Vec::new(), Vec::new(), Vec::new());
    for (i, s) in answers.sequences.iter().enumerate() {
        for row in s.start..(s.start + s.visible).saturating_sub(1) {
            all.0.push(row);
            all.1.push(answers.ids[row + 1] as usize);
            all.2.push(i);
        }
    }
    all
}

/// The log-soft-max that the soft part looks at in [`DistillAxis::Sequence`], at `rows`: over all positions
/// of an answer but the last, padding included, whose predictions the official code drops first.
fn over_positions(logits: Tensor<2>, answers: &TokenBatch, rows: &[usize]) -> Tensor<2> {
    let device = logits.device();
    let width = answers.sequences.first().map_or(1, |s| s.rows);
    let shifted = |row: usize| row % width + 1 < width;
    let kept: Vec<usize> = (0..answers.ids.len()).filter(|row| shifted(*row)).collect();
    let places: Vec<usize> = rows.iter().map(|row| row - row / width).collect();
    let log_p = log_softmax_over_positions(logits.select(0, index(&kept, &device)), answers.len());
    log_p.select(0, index(&places, &device))
}
