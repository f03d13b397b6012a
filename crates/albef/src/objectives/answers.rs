//! Question answering as generation: the loss of weighted answers (paper section 5, spec `losses`
//! 8).

use burn::tensor::{Tensor, TensorData};

use super::distill::{DistillAxis, Metric, distilled, log_softmax_over_positions};
use crate::error::Result;
use crate::model::{DropoutRng, TokenBatch, VqaModel};
use crate::ops::index;

/// Questions with their answers.
#[derive(Clone, Debug)]
pub struct AnswerBatch {
    /// Normalised images `[B, 3, S, S]`, untracked, one per question.
    pub images: Tensor<4>,
    /// Questions, `[CLS]` first.
    pub questions: TokenBatch,
    /// Answers of all questions, `[CLS]` first, `[SEP]` last.
    pub answers: TokenBatch,
    /// Question of each answer.
    pub question_of: Vec<usize>,
    /// Weight of each answer.
    pub weights: Vec<f32>,
}

/// What decides about the loss besides weights and data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AnswerSettings {
    /// Weight of the teacher's predictions.
    pub alpha: f64,
    /// Over what their loss normalises.
    pub axis: DistillAxis,
    /// The id of padding, for [`DistillAxis::Sequence`].
    pub pad: u32,
}

/// The loss and what a comparison with the official code looks at.
#[derive(Clone, Debug)]
pub struct AnswerStep {
    /// Weighted sum over answers divided by the number of questions, `[1]`.
    pub loss: Tensor<1>,
    /// What the loss is made of, where a teacher takes part.
    pub parts: Vec<Metric>,
    /// Loss of each token that is to be predicted.
    pub token_loss: Tensor<1>,
    /// Answer of each of these tokens.
    pub answer_of: Vec<usize>,
    /// States of the questions.
    pub question_states: Tensor<2>,
    /// States of the decoder.
    pub decoder_states: Tensor<2>,
    /// The same of the teacher.
    pub teacher_states: Option<Tensor<2>>,
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

/// The forward pass. `teacher` is absent without distillation.
///
/// # Errors
/// If the batch does not fit the model.
pub fn forward(
    model: &VqaModel,
    teacher: Option<&VqaModel>,
    batch: &AnswerBatch,
    settings: AnswerSettings,
    dropout: [DropoutRng; 2],
) -> Result<AnswerStep> {
    let [mut dropout, mut dropout_m] = dropout;
    let own: Vec<usize> = (0..batch.questions.len()).collect();
    let distils = teacher.is_some() && settings.alpha > 0.0;
    let in_sequence = distils && settings.axis == DistillAxis::Sequence;
    let filled = in_sequence.then(|| batch.answers.filled(settings.pad));
    let answers = filled.as_ref().unwrap_or(&batch.answers);
    let (rows, labels, answer_of) = targets(answers);

    let images = model.visual_encoder.forward(Tensor::from_inner(batch.images.clone()))?;
    let question_states = model.question_states(&images, &own, &batch.questions, &mut dropout)?;
    let mut teacher_states = None;
    let mut teacher_logits = None;
    if let Some(teacher) = teacher {
        let images = teacher.visual_encoder.forward(batch.images.clone())?;
        let states = teacher.question_states(&images, &own, &batch.questions, &mut dropout_m)?;
        let decoded = teacher.decode(
            answers,
            &batch.questions,
            states,
            &batch.question_of,
            &mut dropout_m,
        )?;
        let kept = decoded.clone().select(0, index(&rows, &decoded.device()));
        teacher_logits = Some(teacher.head.forward(kept));
        teacher_states = Some(decoded);
    }
    let decoded = model.decode(
        answers,
        &batch.questions,
        question_states.clone(),
        &batch.question_of,
        &mut dropout,
    )?;
    let device = decoded.device();
    let (logits, other) = if in_sequence {
        let all = model.head.forward(decoded.clone());
        let other = over_positions(all.clone(), answers, &rows);
        (all.select(0, index(&rows, &device)), Some(other))
    } else {
        (model.head.forward(decoded.clone().select(0, index(&rows, &device))), None)
    };
    let tokens = distilled(logits, teacher_logits, other, &labels, settings.alpha);
    let share = 1.0 / batch.questions.len().max(1) as f32;
    let weights: Vec<f32> = answer_of.iter().map(|a| batch.weights[*a] * share).collect();
    let n = weights.len();
    let weights = Tensor::<1>::from_data(TensorData::new(weights, [n]), &device);
    let loss = (tokens.loss.clone() * weights.clone()).sum();
    let weights = weights.inner();
    let split = tokens.split.map(|split| split.map(|rows| (rows * weights.clone()).sum()));
    let names = ["answer_hard", "answer_soft", "answer_kl"];
    Ok(AnswerStep {
        loss,
        parts: split.map_or_else(Vec::new, |split| split.named(names)),
        token_loss: tokens.loss,
        answer_of,
        question_states,
        decoder_states: decoded,
        teacher_states,
    })
}
