//! Every key of a checkpoint held against what a model expects.

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
    let mut report = Report::default();
    let mut problems = Vec::new();
    let (mut missing, mut unexpected, mut mismatched) = (0, 0, 0);
    for (name, shape) in expected {
        match state.get(name) {
            Some(t) if t.shape == *shape || (shape.is_empty() && t.len() == 1) => {}
            Some(t) => {
                mismatched += 1;
                problems.push(format!("`{name}` is {:?} instead of {shape:?}", t.shape));
            }
            None if named(may_miss, name) => report.missing.push(name.clone()),
            None => {
                missing += 1;
                problems.push(format!("missing `{name}` {shape:?}"));
            }
        }
    }
    let known: std::collections::HashSet<&str> = expected.iter().map(|(n, _)| n.as_str()).collect();
    for name in state.names().filter(|n| !known.contains(n)) {
        if named(may_have, name) || name.ends_with("position_ids") {
            report.unexpected.push(name.to_owned());
        } else {
            unexpected += 1;
            problems.push(format!("unexpected `{name}`"));
        }
    }
    if problems.is_empty() {
        return Ok(report);
    }
    let shown = problems[..problems.len().min(5)].join("; ");
    let hint = hint(state, missing);
    Err(WeightsError::Keys(format!(
        "{source}: {shown}; in all {missing} keys are missing, {unexpected} unexpected, \
         {mismatched} of another shape{hint}"
    )))
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
