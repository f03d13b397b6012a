//! `--text-baseline`: what a training list's texts alone would score, beside the model.

use std::path::PathBuf;

use albef::eval::text_baseline::{Guess, TextBaseline, class_score};
use albef::eval::vqa_score::{ScoreRule, accuracy, annotators};
use albef_data::dataset::{AnnotationFormat, ImageRoots, Sample, Target, read_task};
use albef_report::bootstrap_interval;
use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::output::say;

/// What training lists teach; `None` if none is named.
pub fn open(train: &[PathBuf], form: AnnotationFormat) -> Result<Option<TextBaseline>> {
    if train.is_empty() {
        return Ok(None);
    }
    let mut list = Vec::new();
    for path in train {
        // Pictures are never opened, so it does not matter where they lie.
        list.extend(read_task(path, form, &ImageRoots::default())?);
    }
    TextBaseline::fit(&list).context("the text baseline cannot be made").map(Some)
}

/// The baselines for a list that the model scored with `scores`.
pub fn measure(
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
        let lead: Vec<f64> = scores.iter().zip(&guessed).map(|(m, b)| m - b).collect();
        let value = json!({
            "accuracy": mean(&guessed),
            "interval": bootstrap_interval(&guessed, resamples, 42),
            "lead": mean(&lead),
            "lead_interval": bootstrap_interval(&lead, resamples, 42),
        });
        out.insert(way.name().into(), value);
    }
    Value::Object(out)
}

/// The same for people.
pub fn print(baseline: &Value) -> Result<()> {
    let number = |v: &Value| v.as_f64().unwrap_or(f64::NAN);
    say!(
        "without the picture, from {} training texts ({:.2} % of the texts are among them):",
        baseline["train_texts"],
        number(&baseline["seen"])
    )?;
    for way in Guess::ALL {
        let b = &baseline[way.name()];
        say!(
            "  {:<42}{:>6.2} [{:.2}, {:.2}]; the model leads by {:+.2} [{:+.2}, {:+.2}]",
            match way {
                Guess::Majority => "the most frequent answer",
                Guess::FirstWords => "the most frequent after the same words",
                Guess::SameText => "the most frequent to the same text",
            },
            number(&b["accuracy"]),
            number(&b["interval"][0]),
            number(&b["interval"][1]),
            number(&b["lead"]),
            number(&b["lead_interval"][0]),
            number(&b["lead_interval"][1]),
        )?;
    }
    Ok(())
}
