//! Replays golden fixtures: inputs and outputs of the official code, in a documented format.
//!
//! Nothing about sizes is fixed here: every replay takes them from the set's `config.json`.

mod answers;
mod compare;
mod downstream;
mod encoders;
mod maps;
mod pretrain;
mod retrieval;
mod set;
mod training;

use std::path::Path;

use serde_json::Value;

pub use compare::{Comparison, Outcome, Tolerance};
pub use set::GoldenSet;

use crate::error::Result;
use burn::tensor::Device;

/// One fixture of a set and what came of it.
#[derive(Debug)]
pub struct Replayed {
    /// Name of the fixture.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// `None` for a kind that this program does not know.
    pub outcome: Option<Result<Outcome>>,
}

impl Replayed {
    /// Whether the fixture is known and within tolerance.
    #[must_use]
    pub fn passed(&self) -> bool {
        matches!(&self.outcome, Some(Ok(o)) if o.passed)
    }
}

/// What other devices than the CPU are allowed, as a multiple of a set's own tolerances: these
/// were chosen for sums of one precision and any order on one processor, while drivers also have
/// their own exponentials and roots. Nothing that must be equal is let off.
const ELSEWHERE: f64 = 4.0;

/// By how much [`replay`] widens the tolerances of a set on `device`; 1 on the CPU.
#[must_use]
pub fn slack(device: &Device) -> f64 {
    if crate::ops::is_cpu(device) { 1.0 } else { ELSEWHERE }
}

/// `tolerance` with each absolute and relative bound multiplied by `factor`. Of outliers, entries
/// whose gradient is of rounding size, more may exist (a larger share, and in the smallest tensor
/// `factor`), but none may lie further off.
fn widened(tolerance: &Value, factor: f64) -> Value {
    match tolerance {
        Value::Object(entries) => entries
            .iter()
            .map(|(key, value)| {
                let value = match (key.as_str(), value.as_f64()) {
                    ("abs" | "rel" | "max_share", Some(bound)) => (bound * factor).into(),
                    ("outliers", _) => {
                        let mut wider = widened(value, factor);
                        wider["abs"] = value["abs"].clone();
                        wider["least"] = factor.into();
                        wider
                    }
                    _ => widened(value, factor),
                };
                (key.clone(), value)
            })
            .collect(),
        Value::Array(entries) => entries.iter().map(|e| widened(e, factor)).collect(),
        other => other.clone(),
    }
}

/// Replays the fixtures of the set at `root` whose kind is in `only` (all, if `None`), in order.
/// Tolerances are those of the set times [`slack`].
///
/// # Errors
/// If the set itself cannot be read; what fails inside a fixture is part of its outcome.
pub fn replay(
    root: &Path,
    only: Option<&[String]>,
    device: &Device,
    mut each: impl FnMut(&Replayed),
) -> Result<Vec<Replayed>> {
    let set = GoldenSet::open(root, device)?;
    let slack = slack(device);
    let mut all = Vec::new();
    for fixture in set.fixtures() {
        let text = |key: &str| fixture[key].as_str().unwrap_or_default().to_owned();
        let (name, kind) = (text("name"), text("kind"));
        if only.is_some_and(|o| !o.contains(&kind)) {
            continue;
        }
        let outcome = if slack == 1.0 {
            one(&set, &kind, fixture)
        } else {
            let mut wide = fixture.clone();
            wide["tolerance"] = widened(&fixture["tolerance"], slack);
            one(&set, &kind, &wide)
        };
        // What needs no model is computed on the CPU in any case, within the set's own bounds.
        let outcome = outcome.or_else(|| elsewhere(&set, &kind, fixture));
        let replayed = Replayed { name, kind, outcome };
        each(&replayed);
        all.push(replayed);
    }
    Ok(all)
}

/// Kinds that are replayed on a model or with what trains it.
fn one(set: &GoldenSet, kind: &str, fixture: &Value) -> Option<Result<Outcome>> {
    Some(match kind {
        "vit" => encoders::vit(set, fixture),
        "bert" => encoders::bert(set, fixture),
        "projections" => encoders::projections(set, fixture),
        "pretrain_step" => pretrain::step(set, fixture),
        "trajectory" => pretrain::trajectory(set, fixture),
        "mlm_mask" => training::mlm_mask(set, fixture),
        "adamw" => training::adamw(set, fixture),
        "ema" => training::ema(set, fixture),
        "schedules" => training::schedules(set, fixture),
        "retrieval_train" => downstream::retrieval(set, fixture),
        "ve_train" => downstream::entailment(set, fixture),
        "nlvr_train" => downstream::pairs(set, fixture),
        "ta_step" => downstream::assignment(set, fixture),
        "bert_decoder" => answers::decoder(set, fixture),
        "vqa_train" => answers::training(set, fixture),
        "vqa_rank" => answers::ranking(set, fixture),
        "vqa_score" => answers::score(set, fixture),
        "gradcam" => maps::gradcam(set, fixture),
        "grounding_boxes" => maps::boxes(set, fixture),
        "itm_eval" => retrieval::itm_eval(set, fixture),
        "retrieval_eval" => retrieval::evaluation(set, fixture),
        _ => return None,
    })
}

/// Kinds that need no model are replayed by the crates that own the code.
fn elsewhere(set: &GoldenSet, kind: &str, fixture: &Value) -> Option<Result<Outcome>> {
    if let Some(outcome) = albef_data::golden::replay(kind, set.root(), fixture) {
        return Some(outcome.map_err(Into::into).map(|o| Outcome {
            worst: if o.passed { 0.0 } else { f64::INFINITY },
            error: o.worst,
            tolerance: o.tolerance,
            compared: o.compared,
            detail: o.detail,
            passed: o.passed,
        }));
    }
    let outcome = albef_weights::golden::replay(kind, set.root(), fixture)?;
    Some(outcome.map_err(Into::into).map(|o| Outcome {
        worst: if o.passed { 0.0 } else { f64::INFINITY },
        error: o.worst,
        tolerance: o.tolerance,
        compared: o.compared,
        detail: o.detail,
        passed: o.passed,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn widening_reaches_every_bound_and_nothing_else() {
        let given = json!({"mode": "mixed", "exact": ["ids"],
            "default": {"mode": "tensor_max", "abs": 0.5, "rel": 0.25,
                "outliers": {"abs": 3.0, "max_share": 0.25}},
            "overrides": [{"match": "x$", "rows_of_qkv_bias": [1, 2], "abs": 1, "rel": 0}]});
        let want = json!({"mode": "mixed", "exact": ["ids"],
            "default": {"mode": "tensor_max", "abs": 1.0, "rel": 0.5,
                "outliers": {"abs": 3.0, "max_share": 0.5, "least": 2.0}},
            "overrides": [{"match": "x$", "rows_of_qkv_bias": [1, 2], "abs": 2.0, "rel": 0.0}]});
        assert_eq!(widened(&given, 2.0), want);
        assert_eq!(widened(&json!({"mode": "exact"}), 8.0), json!({"mode": "exact"}));
    }

    #[test]
    fn the_cpu_gets_the_tolerances_of_the_set() {
        assert_eq!(slack(&crate::params::cpu()), 1.0);
    }
}
