//! What the text alone gives away: answers of a training list, chosen without looking at an image.
//! A model that does no better has learnt nothing from its images.

use std::collections::HashMap;

use albef_data::dataset::{Sample, Target};
use albef_data::text::pre_question;
use albef_report::bootstrap_interval;
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::eval::vqa_score::{ScoreRule, accuracy, annotators};

/// Words of a text that may decide about an answer in [`Guess::FirstWords`].
const START: usize = 4;

/// The ways of guessing, each falling back on the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guess {
    /// The most frequent answer of the training list.
    Majority,
    /// The most frequent answer to texts with the same start: the longest of one to four words that
    /// the training list has.
    FirstWords,
    /// The most frequent answer to the very same text.
    SameText,
}

impl Guess {
    /// All ways.
    pub const ALL: [Self; 3] = [Self::Majority, Self::FirstWords, Self::SameText];

    /// The name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Majority => "majority",
            Self::FirstWords => "first_words",
            Self::SameText => "same_text",
        }
    }
}

/// Answers with their weights.
#[derive(Debug, Default)]
struct Votes {
    weights: Vec<(String, f64)>,
}

impl Votes {
    fn add(&mut self, answer: &str, weight: f64) {
        match self.weights.iter_mut().find(|(a, _)| a == answer) {
            Some((_, sum)) => *sum += weight,
            None => self.weights.push((answer.to_owned(), weight)),
        }
    }

    /// The heaviest answer; of equals the one that came first.
    fn best(self) -> Option<String> {
        let mut best: Option<(String, f64)> = None;
        for (answer, weight) in self.weights {
            if best.as_ref().is_none_or(|(_, w)| weight > *w) {
                best = Some((answer, weight));
            }
        }
        best.map(|(answer, _)| answer)
    }
}

/// Answers learnt from the texts of a training list.
#[derive(Clone, Debug)]
pub struct TextBaseline {
    majority: String,
    by_start: HashMap<String, String>,
    by_text: HashMap<String, String>,
    texts: usize,
}

/// The words of a text without case and punctuation.
fn words(text: &str) -> Vec<String> {
    pre_question(text, usize::MAX).split_whitespace().map(str::to_owned).collect()
}

fn text_of(sample: &Sample) -> &str {
    sample.captions.first().map_or("", String::as_str)
}

/// What is right for a sample, classes by their number.
fn answers(sample: &Sample) -> Vec<(String, f64)> {
    match &sample.task.target {
        Target::None | Target::Labels(_) => Vec::new(),
        Target::Answers(shares) => shares.iter().map(|(a, w)| (a.clone(), f64::from(*w))).collect(),
        Target::Label(label) => vec![(label.to_string(), 1.0)],
    }
}

impl TextBaseline {
    /// Counts the answers of a training list; each of several annotators has its share.
    ///
    /// # Errors
    /// If no sample has an answer.
    pub fn fit(train: &[Sample]) -> Result<Self> {
        let mut majority = Votes::default();
        let mut by_start: HashMap<String, Votes> = HashMap::new();
        let mut by_text: HashMap<String, Votes> = HashMap::new();
        let mut texts = 0;
        for sample in train {
            let answers = answers(sample);
            texts += usize::from(!answers.is_empty());
            let words = words(text_of(sample));
            for (answer, weight) in answers {
                majority.add(&answer, weight);
                for n in 1..=words.len().min(START) {
                    by_start.entry(words[..n].join(" ")).or_default().add(&answer, weight);
                }
                by_text.entry(words.join(" ")).or_default().add(&answer, weight);
            }
        }
        let Some(majority) = majority.best() else {
            return Err(Error::Config(format!(
                "none of the {} entries of the training list has an answer to learn from",
                train.len()
            )));
        };
        let best = |votes: HashMap<String, Votes>| {
            votes.into_iter().filter_map(|(text, v)| Some((text, v.best()?))).collect()
        };
        Ok(Self { majority, by_start: best(by_start), by_text: best(by_text), texts })
    }

    /// Texts with answers that it was made of.
    #[must_use]
    pub fn texts(&self) -> usize {
        self.texts
    }

    /// Whether the training list has this text.
    #[must_use]
    pub fn knows(&self, text: &str) -> bool {
        self.by_text.contains_key(&words(text).join(" "))
    }

    /// The answer to a text.
    #[must_use]
    pub fn guess(&self, text: &str, way: Guess) -> &str {
        let words = words(text);
        let same = || self.by_text.get(&words.join(" "));
        let start = || {
            (1..=words.len().min(START))
                .rev()
                .find_map(|n| self.by_start.get(&words[..n].join(" ")))
        };
        let found = match way {
            Guess::Majority => None,
            Guess::FirstWords => start(),
            Guess::SameText => same().or_else(start),
        };
        found.unwrap_or(&self.majority)
    }

    /// Scores of the guesses on samples with known answers, by `score` of the sample and the guess.
    pub fn scores(
        &self,
        samples: &[Sample],
        way: Guess,
        score: impl Fn(&Sample, &str) -> f64,
    ) -> Vec<f64> {
        let known = samples.iter().filter(|s| s.task.target != Target::None);
        known.map(|s| score(s, self.guess(text_of(s), way))).collect()
    }

    /// Of the samples with known answers the share, in per cent, whose text the training list has.
    #[must_use]
    pub fn seen(&self, samples: &[Sample]) -> f64 {
        let known = samples.iter().filter(|s| s.task.target != Target::None);
        let (mut seen, mut all) = (0_u32, 0_u32);
        for sample in known {
            seen += u32::from(self.knows(text_of(sample)));
            all += 1;
        }
        100.0 * f64::from(seen) / f64::from(all.max(1))
    }
}

/// 100 where a guessed class is the sample's, else 0.
#[must_use]
pub fn class_score(sample: &Sample, guess: &str) -> f64 {
    match &sample.task.target {
        Target::Label(label) if label.to_string() == guess => 100.0,
        _ => 0.0,
    }
}

/// The baselines for samples that a model scored with `scores`, by name as JSON.
#[must_use]
pub fn report(
    baseline: &TextBaseline,
    rule: ScoreRule,
    samples: &[Sample],
    scores: &[f64],
    resamples: usize,
) -> Value {
    let score = |sample: &Sample, guess: &str| match &sample.task.target {
        Target::Answers(shares) => accuracy(guess, &annotators(shares), rule),
        _ => class_score(sample, guess),
    };
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len().max(1) as f64;
    let mut out = Map::new();
    out.insert("train_texts".into(), json!(baseline.texts()));
    out.insert("seen".into(), json!(baseline.seen(samples)));
    for way in Guess::ALL {
        let guessed = baseline.scores(samples, way, score);
        let gain: Vec<f64> = scores.iter().zip(&guessed).map(|(m, b)| m - b).collect();
        let (gain_mean, gain_interval) = (mean(&gain), bootstrap_interval(&gain, resamples, 42));
        let value = json!({
            "accuracy": mean(&guessed),
            "interval": bootstrap_interval(&guessed, resamples, 42),
            "gain_over_text_only": gain_mean,
            "gain_interval": gain_interval,
            // Former names, for one release.
            "lead": gain_mean,
            "lead_interval": gain_interval,
        });
        out.insert(way.name().into(), value);
    }
    Value::Object(out)
}

/// The same for people, line by line.
#[must_use]
pub fn lines(report: &Value) -> Vec<String> {
    let number = |v: &Value| v.as_f64().unwrap_or(f64::NAN);
    let mut lines = vec![format!(
        "without the image, from {} training texts ({:.2} % of the texts are among them):",
        report["train_texts"],
        number(&report["seen"])
    )];
    for way in Guess::ALL {
        let b = &report[way.name()];
        let name = match way {
            Guess::Majority => "the most frequent answer",
            Guess::FirstWords => "the most frequent after the same words",
            Guess::SameText => "the most frequent to the same text",
        };
        lines.push(format!(
            "  {name:<42}{:>6.2} [{:.2}, {:.2}]; gain of the model {:+.2} [{:+.2}, {:+.2}]",
            number(&b["accuracy"]),
            number(&b["interval"][0]),
            number(&b["interval"][1]),
            number(&b["gain_over_text_only"]),
            number(&b["gain_interval"][0]),
            number(&b["gain_interval"][1]),
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use albef_data::dataset::{Location, TaskFields};

    fn sample(text: &str, target: Target) -> Sample {
        Sample {
            location: Location::File("x.png".into()),
            name: "x.png".into(),
            captions: vec![text.into()],
            key: "x.png".into(),
            task: TaskFields { target, ..TaskFields::default() },
        }
    }

    fn question(text: &str, answers: &[(&str, f32)]) -> Sample {
        let shares = answers.iter().map(|(a, w)| ((*a).to_owned(), *w)).collect();
        sample(text, Target::Answers(shares))
    }

    fn fitted() -> TextBaseline {
        TextBaseline::fit(&[
            question("What colour is the car?", &[("red", 1.0)]),
            question("What colour is the sky?", &[("blue", 0.6), ("grey", 0.4)]),
            question("What colour is the sea?", &[("blue", 1.0)]),
            question("How many cars?", &[("2", 1.0)]),
            question("Is it red?", &[("yes", 0.9), ("no", 0.1)]),
            question("Is it green?", &[("yes", 1.0)]),
            question("Is it night?", &[("no", 1.0)]),
            question("Without an answer?", &[]),
        ])
        .unwrap()
    }

    #[test]
    fn each_way_falls_back_on_the_one_before() {
        let b = fitted();
        assert_eq!(b.texts(), 7);
        // Weights: yes 1.9, blue 1.6, no 1.1, red and 2 with 1 each, grey 0.4.
        assert_eq!(b.guess("How many cars?", Guess::Majority), "yes");
        // `what colour is the` was asked three times.
        assert_eq!(b.guess("What colour is the car", Guess::FirstWords), "blue");
        assert_eq!(b.guess("WHAT colour is the car", Guess::SameText), "red");
        assert_eq!(b.guess("What colour is a dog?", Guess::SameText), "blue");
        assert_eq!(b.guess("Is it night?", Guess::FirstWords), "no");
        assert_eq!(b.guess("How far?", Guess::FirstWords), "2");
        assert_eq!(b.guess("Which one?", Guess::SameText), "yes");
        assert_eq!(b.guess("", Guess::SameText), "yes");
    }

    #[test]
    fn equal_counts_go_to_the_answer_that_came_first() {
        let list = ["b", "a", "a", "b"].map(|a| question("one?", &[(a, 1.0)]));
        assert_eq!(TextBaseline::fit(&list).unwrap().guess("one", Guess::SameText), "b");
    }

    #[test]
    fn classes_are_scored_on_samples_with_a_label() {
        let train =
            [("a dog runs", 2), ("a dog runs", 2), ("a cat sits", 0), ("a man", 0), ("x", 0)]
                .map(|(text, label)| sample(text, Target::Label(label)));
        let b = TextBaseline::fit(&train).unwrap();
        let test = [
            sample("A dog runs.", Target::Label(2)),
            sample("a dog sleeps", Target::Label(2)),
            sample("nobody", Target::Label(0)),
            sample("nobody", Target::None),
            sample("a man", Target::Label(1)),
        ];
        let scores = |way| b.scores(&test, way, class_score);
        assert_eq!(scores(Guess::Majority), [0.0, 0.0, 100.0, 0.0]);
        assert_eq!(scores(Guess::FirstWords), [100.0, 100.0, 100.0, 0.0]);
        assert_eq!(scores(Guess::SameText), [100.0, 100.0, 100.0, 0.0]);
        assert_eq!(b.seen(&test), 50.0);
    }

    #[test]
    fn a_list_without_answers_is_refused() {
        let error = TextBaseline::fit(&[sample("q", Target::None)]).unwrap_err().to_string();
        assert!(error.contains("none of the 1 entries"), "{error}");
    }
}
