//! A batch: the one type from collation to the loss.

use super::sample::Target;
use crate::error::{DataError, Result};
use crate::text::{TokenBatch, Tokenizer};

/// `B` samples, decoded, augmented, tokenized and collated.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Normalized pixels `[views * B, 3, S, S]`; with two images a sample all first ones, then all
    /// second ones.
    pub images: Vec<f32>,
    /// The text of each sample, `[CLS]` first.
    pub text: TokenBatch,
    /// The image id of each sample. A mixed image ([`MixGen`](super::MixGen)) has one of its own
    /// where ids decide which pairs are positives.
    pub image_ids: Vec<i64>,
    /// Pairs of rows that share content and are never negatives of each other in matching.
    pub related: Vec<(usize, usize)>,
    /// The target of each sample.
    pub targets: Vec<Target>,
    /// The tokens of [`Target::Answers`].
    pub answers: Answers,
    /// The index of each sample in the data set.
    pub samples: Vec<usize>,
}

/// The answers to the questions of a batch, in one list; empty unless targets are answers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answers {
    /// Answers, `[CLS]` first, `[SEP]` last.
    pub tokens: TokenBatch,
    /// The question of each answer.
    pub question_of: Vec<usize>,
    /// The weight of each answer.
    pub weights: Vec<f32>,
}

impl Answers {
    /// Tokenizes the answers among `targets`.
    pub(super) fn collate(targets: &[Target], tokenizer: &Tokenizer) -> Self {
        let mut out = Self::default();
        let mut tokens = Vec::new();
        for (question, target) in targets.iter().enumerate() {
            let Target::Answers(answers) = target else { continue };
            for (answer, weight) in answers {
                tokens.push(tokenizer.encode(&format!("{answer}[SEP]")));
                out.question_of.push(question);
                out.weights.push(*weight);
            }
        }
        out.tokens = TokenBatch::packed(&tokens);
        out
    }
}

impl Batch {
    /// Number of samples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.text.len()
    }

    /// Whether there is no sample.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// The class of each sample.
    ///
    /// # Errors
    /// If a sample has none, with its index in the data set.
    pub fn labels(&self) -> Result<Vec<usize>> {
        let label = |(row, target): (usize, &Target)| match target {
            Target::Label(label) => Ok(*label),
            _ => {
                let sample = self.samples.get(row).unwrap_or(&row);
                Err(DataError::Argument(format!("sample {sample} of the list has no `label`")))
            }
        };
        self.targets.iter().enumerate().map(label).collect()
    }
}
