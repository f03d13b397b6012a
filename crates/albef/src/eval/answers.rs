//! Ranking candidate answers (paper section 5).

use burn::tensor::{Tensor, activation};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::model::{DropoutRng, ImageStates, TokenBatch, VqaModel};
use crate::ops::index;
use crate::params::outputs;

/// How a candidate is scored (quirk Q19).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RankRule {
    /// The log-probability of its tokens, `[SEP]` included, plus that of the first token once more, as
    /// in the official code; for models of LAVIS as in LAVIS.
    #[default]
    #[serde(alias = "official")]
    Reference,
    /// The log-probability of its tokens: the chain rule.
    #[serde(alias = "corrected")]
    Chain,
    /// The same divided by the number of tokens, so that long answers are not held back.
    Normalised,
    /// The negative loss of its tokens with smoothed labels, as in LAVIS.
    Lavis,
}

/// Label smoothing of the answer decoder of LAVIS.
const LAVIS_SMOOTHING: f32 = 0.1;

impl RankRule {
    /// The score of a candidate of `tokens` tokens after `[CLS]` from the log-probabilities of its first
    /// token and of all.
    #[must_use]
    pub fn score(self, first: f64, all: f64, tokens: usize) -> f64 {
        match self {
            Self::Reference => first + all,
            Self::Chain | Self::Lavis => all,
            Self::Normalised => all / tokens.max(1) as f64,
        }
    }
}

/// The best candidates of one question.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranking {
    /// Candidates, best first.
    pub candidates: Vec<usize>,
    /// Soft-max of their scores among the `k` that were scored.
    pub probabilities: Vec<f32>,
    /// The candidates that are scored in full, by falling probability of their first token.
    pub shortlist: Vec<usize>,
    /// Score of each of them, a log-probability.
    pub scores: Vec<f32>,
    /// Probability of the first token of every candidate.
    pub first_token: Vec<f32>,
}

/// Candidate answers, tokenised once.
#[derive(Clone, Debug)]
pub struct Candidates {
    tokens: Vec<Vec<u32>>,
}

impl Candidates {
    /// From token sequences `[CLS] answer [SEP]`.
    ///
    /// # Errors
    /// If there is none, or one holds no token after `[CLS]`.
    pub fn new(tokens: Vec<Vec<u32>>) -> Result<Self> {
        if tokens.is_empty() {
            return Err(Error::Argument(
                "there are no candidate answers to rank, and the model has none of its own; hint: give them with \
                 --answers, as red,green,blue or as a file with a JSON list"
                    .into(),
            ));
        }
        match tokens.iter().position(|t| t.len() < 2) {
            Some(i) => Err(Error::Config(format!("candidate answer {i} has no tokens"))),
            None => Ok(Self { tokens }),
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }
}

/// Ranks the candidates for each question, about the image `image_of[question]`. Of all candidates
/// the `k` with the most probable first token are scored in full (all, if there are fewer). Of equal
/// ones that with the lower number goes first, at this cut and in the ranking.
///
/// # Errors
/// If questions and images do not fit the model.
pub fn rank(
    model: &VqaModel,
    images: &ImageStates,
    image_of: &[usize],
    questions: &TokenBatch,
    candidates: &Candidates,
    k: usize,
    rule: RankRule,
) -> Result<Vec<Ranking>> {
    let k = k.clamp(1, candidates.len());
    let none = &mut DropoutRng::none();
    let states = model.question_states(images, image_of, questions, none)?;
    let own: Vec<usize> = (0..questions.len()).collect();
    let starts = TokenBatch::packed(&vec![[candidates.tokens[0][0]]; questions.len()]);
    let first = model.decode(&starts, questions, states.clone(), &own, none)?;
    let p = outputs(activation::softmax(model.head.forward(first), 1), "probabilities")?;
    let vocabulary = p.len() / questions.len().max(1);

    let mut rankings = Vec::with_capacity(questions.len());
    for (q, p) in p.chunks(vocabulary.max(1)).enumerate() {
        let first_token: Vec<f32> = candidates.tokens.iter().map(|t| p[t[1] as usize]).collect();
        let mut order: Vec<usize> = (0..candidates.len()).collect();
        order.sort_by(|a, b| first_token[*b].total_cmp(&first_token[*a]));
        order.truncate(k);
        let smoothing = if rule == RankRule::Lavis { LAVIS_SMOOTHING } else { 0.0 };
        let log_probabilities =
            sequence_scores(model, questions, &states, q, &order, candidates, smoothing)?;
        let score: Vec<f64> = order
            .iter()
            .zip(&log_probabilities)
            .map(|(c, all)| {
                let first = f64::from(first_token[*c]).ln();
                rule.score(first, f64::from(*all), candidates.tokens[*c].len() - 1)
            })
            .collect();
        let top = score.iter().copied().fold(f64::MIN, f64::max);
        let sum: f64 = score.iter().map(|s| (s - top).exp()).sum();
        let mut best: Vec<usize> = (0..order.len()).collect();
        best.sort_by(|a, b| score[*b].total_cmp(&score[*a]).then(order[*a].cmp(&order[*b])));
        rankings.push(Ranking {
            candidates: best.iter().map(|i| order[*i]).collect(),
            probabilities: best.iter().map(|i| ((score[*i] - top).exp() / sum) as f32).collect(),
            shortlist: order,
            scores: score.iter().map(|s| *s as f32).collect(),
            first_token,
        });
    }
    Ok(rankings)
}

/// Summed log-probabilities of the tokens after `[CLS]` of the candidates of a shortlist; `smoothing`: the
/// share that the mean over all tokens has in them.
fn sequence_scores(
    model: &VqaModel,
    questions: &TokenBatch,
    states: &Tensor<2>,
    question: usize,
    shortlist: &[usize],
    candidates: &Candidates,
    smoothing: f32,
) -> Result<Vec<f32>> {
    let texts: Vec<&[u32]> = shortlist.iter().map(|c| &candidates.tokens[*c][..]).collect();
    let answers = TokenBatch::packed(&texts);
    let question_of = vec![question; shortlist.len()];
    let none = &mut DropoutRng::none();
    let decoded = model.decode(&answers, questions, states.clone(), &question_of, none)?;
    let mut rows = Vec::new();
    let mut labels = Vec::new();
    for s in &answers.sequences {
        for row in s.start..s.start + s.rows - 1 {
            rows.push(row);
            labels.push(answers.ids[row + 1] as usize);
        }
    }
    let logits = model.head.forward(decoded.clone().select(0, index(&rows, &decoded.device())));
    let log_p = activation::log_softmax(logits, 1);
    let mean = (smoothing > 0.0).then(|| log_p.clone().mean_dim(1).reshape([labels.len()]));
    let mut chosen = crate::objectives::labels::gather_labels(log_p, &labels);
    if let Some(mean) = mean {
        chosen = chosen * (1.0 - smoothing) + mean * smoothing;
    }
    let tokens = outputs(chosen, "probabilities")?;
    let mut at = 0;
    Ok(texts
        .iter()
        .map(|t| {
            let n = t.len() - 1;
            at += n;
            tokens[at - n..at].iter().sum()
        })
        .collect())
}
