//! Every key of a checkpoint held against what a model expects.

use std::collections::HashSet;

use crate::error::{Result, WeightsError};
use crate::tensor::StateDict;

/// What an accounting found besides the tensors that fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Expected, absent, and allowed to be.
    pub missing: Vec<String>,
    /// Present, not expected, and allowed to be.
    pub unexpected: Vec<String>,
}

/// A name or, with a trailing `*`, all names that begin so.
fn named(patterns: &[&str], name: &str) -> bool {
    patterns.iter().any(|p| match p.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => *p == name,
    })
}

/// What stands between a checkpoint and a model.
#[derive(Default)]
pub(crate) struct Findings {
    report: Report,
    problems: Vec<String>,
    pub(crate) missing: usize,
    pub(crate) unexpected: usize,
    pub(crate) mismatched: usize,
}

impl Findings {
    /// The report, or an error that shows the first problems and counts all. `hint` ends the message.
    pub(crate) fn settle(self, source: &str, hint: &str) -> Result<Report> {
        if self.problems.is_empty() {
            return Ok(self.report);
        }
        let shown = self.problems[..self.problems.len().min(5)].join("; ");
        let Self { missing, unexpected, mismatched, .. } = self;
        Err(WeightsError::Keys(format!(
            "{source}: {shown}; in all {missing} keys are missing, {unexpected} unexpected, \
             {mismatched} of another shape{hint}"
        )))
    }
}

/// Holds every key of `state` against the expected ones.
pub(crate) fn compare(
    state: &StateDict,
    expected: &[(String, Vec<usize>)],
    may_miss: impl Fn(&str) -> bool,
    may_have: impl Fn(&str) -> bool,
) -> Findings {
    let mut found = Findings::default();
    for (name, shape) in expected {
        match state.get(name) {
            Some(t) if t.shape == *shape || (shape.is_empty() && t.len() == 1) => {}
            Some(t) => {
                found.mismatched += 1;
                found.problems.push(format!("`{name}` is {:?} instead of {shape:?}", t.shape));
            }
            None if may_miss(name) => found.report.missing.push(name.clone()),
            None => {
                found.missing += 1;
                found.problems.push(format!("missing `{name}` {shape:?}"));
            }
        }
    }
    let known: HashSet<&str> = expected.iter().map(|(n, _)| n.as_str()).collect();
    for name in state.names().filter(|n| !known.contains(n)) {
        if may_have(name) || name.ends_with("position_ids") {
            found.report.unexpected.push(name.to_owned());
        } else {
            found.unexpected += 1;
            found.problems.push(format!("unexpected `{name}`"));
        }
    }
    found
}

/// Checks that `state` has every expected tensor in its shape and nothing else. What may be
/// missing or unexpected is named; a pattern may end in `*`. `source` stands in the message.
///
/// # Errors
/// Names the first keys that are missing, unexpected or of another shape, counts all, and gives a
/// hint where the cause is known.
pub fn account(
    source: &str,
    state: &StateDict,
    expected: &[(String, Vec<usize>)],
    may_miss: &[&str],
    may_have: &[&str],
) -> Result<Report> {
    let found = compare(state, expected, |n| named(may_miss, n), |n| named(may_have, n));
    let hint = hint(state, found.missing);
    found.settle(source, hint)
}

fn hint(state: &StateDict, missing: usize) -> &'static str {
    let has = |part: &str| state.names().any(|n| n.contains(part));
    if has("text_decoder") {
        ". hint: this looks like a question-answering checkpoint"
    } else if has("cls_head") {
        ". hint: this looks like a classification checkpoint (NLVR2 or entailment)"
    } else if missing > 0 && !has("text_encoder.bert.") && has("text_encoder.") {
        ". hint: this looks like a retrieval checkpoint, without the `bert.` level and the \
         vocabulary head"
    } else if missing > 0 && !has("visual_encoder.") {
        ". hint: this holds no image encoder; is it a BERT or a ViT alone?"
    } else {
        ""
    }
}
