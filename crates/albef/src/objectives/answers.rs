//! Question answering as generation: the loss of weighted answers (paper section 5, spec `losses`
//! 8).

use burn::tensor::{Tensor, TensorData};

use super::classify::distilled_rows;
use crate::error::Result;
use crate::model::{AnswerModel, DropoutDraws, TokenBatch};
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

/// The loss and what a comparison with the official code looks at.
#[derive(Clone, Debug)]
pub struct AnswerStep {
    /// Weighted sum over answers divided by the number of questions, `[1]`.
    pub loss: Tensor<1>,
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

/// The forward pass. `teacher` is absent without distillation.
///
/// # Errors
/// If the batch does not fit the model.
pub fn forward(
    model: &AnswerModel,
    teacher: Option<&AnswerModel>,
    batch: &AnswerBatch,
    alpha: f64,
    dropout: [DropoutDraws; 2],
) -> Result<AnswerStep> {
    let [mut dropout, mut dropout_m] = dropout;
    let own: Vec<usize> = (0..batch.questions.len()).collect();
    let (rows, labels, answer_of) = targets(&batch.answers);

    let images = model.visual_encoder.forward(Tensor::from_inner(batch.images.clone()))?;
    let question_states = model.question_states(&images, &own, &batch.questions, &mut dropout)?;
    let mut teacher_states = None;
    let mut teacher_logits = None;
    if let Some(teacher) = teacher {
        let images = teacher.visual_encoder.forward(batch.images.clone())?;
        let states = teacher.question_states(&images, &own, &batch.questions, &mut dropout_m)?;
        let decoded = teacher.decode(
            &batch.answers,
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
        &batch.answers,
        &batch.questions,
        question_states.clone(),
        &batch.question_of,
        &mut dropout,
    )?;
    let device = decoded.device();
    let logits = model.head.forward(decoded.clone().select(0, index(&rows, &device)));
    let token_loss = distilled_rows(logits, teacher_logits, &labels, alpha);
    let share = 1.0 / batch.questions.len().max(1) as f32;
    let weights: Vec<f32> = answer_of.iter().map(|a| batch.weights[*a] * share).collect();
    let n = weights.len();
    let weights = Tensor::<1>::from_data(TensorData::new(weights, [n]), &device);
    let loss = (token_loss.clone() * weights).sum();
    Ok(AnswerStep {
        loss,
        token_loss,
        answer_of,
        question_states,
        decoder_states: decoded,
        teacher_states,
    })
}
