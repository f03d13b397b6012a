//! Every key of a checkpoint checked against what a model expects.

use std::collections::HashSet;

use crate::error::{Result, WeightsError};
use crate::tensor::{DType, StateDict};
use crate::words::{counted, is};

/// Problems that a message lists; all are counted.
const SHOWN: usize = 5;

/// What separates a checkpoint from a model.
#[derive(Default)]
pub(crate) struct Findings {
    /// Present, not expected, and known.
    ignored: Vec<String>,
    problems: Vec<String>,
    pub(crate) missing: Vec<String>,
    pub(crate) unexpected: Vec<String>,
    pub(crate) mismatched: usize,
    /// There, but of a type that is no float or not read.
    pub(crate) mistyped: usize,
}

impl Findings {
    /// The keys that are ignored, or an error that shows the first problems and counts all. `hint` ends
    /// the message.
    pub(crate) fn settle(self, source: &str, hint: &str) -> Result<Vec<String>> {
        if self.problems.is_empty() {
            return Ok(self.ignored);
        }
        let shown = self.problems[..self.problems.len().min(SHOWN)].join("; ");
        let Self { missing, unexpected, mismatched, mistyped, .. } = self;
        let types = match mistyped {
            0 => String::new(),
            n => format!(", {n} of a type that is no float"),
        };
        Err(WeightsError::Keys(format!(
            "{source}: {shown}; in all {} {} missing, {} unexpected, {mismatched} of another \
             shape{types}{hint}",
            counted(missing.len(), "key"),
            is(missing.len()),
            unexpected.len()
        )))
    }
}

/// Checks every key of `state` against the expected ones; keys that `known` accepts are ignored.
pub(crate) fn compare(
    state: &StateDict,
    expected: &[(String, Vec<usize>)],
    known: impl Fn(&str) -> bool,
) -> Findings {
    let mut found = Findings::default();
    for (name, shape) in expected {
        match state.get(name) {
            Some(t) if !t.dtype.is_float() => {
                found.mistyped += 1;
                found.problems.push(format!("`{name}` is there, of type {}", t.dtype));
            }
            Some(t) if t.shape == *shape || (shape.is_empty() && t.len() == 1) => {}
            Some(t) => {
                found.mismatched += 1;
                found.problems.push(format!("`{name}` is {:?} instead of {shape:?}", t.shape));
            }
            None => {
                found.missing.push(name.clone());
                found.problems.push(format!("missing `{name}` {shape:?}"));
            }
        }
    }
    let wanted: HashSet<&str> = expected.iter().map(|(n, _)| n.as_str()).collect();
    for (name, tensor) in state.iter().filter(|(n, _)| !wanted.contains(n)) {
        let unread = matches!(tensor.dtype, DType::Unread(_));
        if unread || known(name) || name.ends_with("position_ids") {
            found.ignored.push(name.to_owned());
        } else {
            found.unexpected.push(name.to_owned());
            found.problems.push(format!("unexpected `{name}`"));
        }
    }
    found
}
