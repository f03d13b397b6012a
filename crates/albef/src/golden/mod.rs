//! Replays golden fixtures: inputs and outputs of the official code, in a documented format.
//!
//! Nothing about sizes is fixed here: every replay takes them from the set's `config.json`.

mod answers;
mod compare;
mod downstream;
mod encoders;
#[cfg(test)]
mod falsification;
mod keys;
mod maps;
mod panics;
mod pretrain;
mod retrieval;
mod set;
mod step;
mod training;

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use serde_json::{Value, json};

pub use compare::{Comparison, Outcome, Outliers, Tolerance, Worst};
pub use set::GoldenSet;

use crate::error::{Error, Result};
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
        matches!(&self.outcome, Some(Ok(o)) if o.passed())
    }

    /// Name, kind, and how far it is from what was recorded.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut value = json!({ "name": self.name, "kind": self.kind, "passed": self.passed() });
        match &self.outcome {
            None => value["error"] = json!("unknown kind"),
            Some(Err(e)) => value["error"] = json!(e.to_string()),
            Some(Ok(o)) => {
                let worst = o.worst.as_ref();
                value["worst"] = json!(worst.map_or(0.0, |w| w.error));
                value["tolerance"] = json!(worst.map(|w| w.allowed));
                value["where"] = json!(worst.map(|w| &w.place));
                value["problem"] = json!(o.problem);
                value["outliers"] = json!(o.outliers.map(|x| json!({
                    "found": x.found, "allowed": x.allowed, "worst": x.error, "limit": x.limit
                })));
                value["compared"] = json!(o.compared);
            }
        }
        value
    }
}

impl fmt::Display for Replayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            None => write!(f, "UNKNOWN  {:<32} kind `{}`", self.name, self.kind),
            Some(Err(e)) => write!(f, "ERROR    {:<32} {e}", self.name),
            Some(Ok(o)) => {
                let verdict = if o.passed() { "ok     " } else { "FAILED " };
                write!(f, "{verdict}  {:<32} {o}", self.name)
            }
        }
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
/// If the set itself cannot be read, or `only` names a kind that neither this program nor the set
/// knows; what fails inside a fixture is part of its outcome.
pub fn replay(
    root: &Path,
    only: Option<&[String]>,
    device: &Device,
    mut each: impl FnMut(&Replayed),
) -> Result<Vec<Replayed>> {
    let set = GoldenSet::open(root, device)?;
    check_kinds(&set, only.unwrap_or_default())?;
    let slack = slack(device);
    let mut all = Vec::new();
    for fixture in set.fixtures() {
        let text = |key: &str| fixture[key].as_str().unwrap_or_default().to_owned();
        let (name, kind) = (text("name"), text("kind"));
        if only.is_some_and(|o| !o.contains(&kind)) {
            continue;
        }
        let outcome = panics::caught(|| outcome(&set, &kind, fixture, slack)).unwrap_or_else(|e| {
            let detail = format!(
                "the replay broke off ({e}); hint: an input of it has another shape or range than the \
                 format says"
            );
            Some(Err(set.wrong(fixture, &detail)))
        });
        let replayed = Replayed { name, kind, outcome };
        each(&replayed);
        all.push(replayed);
    }
    Ok(all)
}

/// An error for kinds that nobody knows, since nothing would be replayed and nothing fail.
fn check_kinds(set: &GoldenSet, only: &[String]) -> Result<()> {
    let own = MODEL_KINDS.iter().map(|(kind, _)| *kind);
    let mut known: BTreeSet<&str> = set.fixtures().filter_map(|f| f["kind"].as_str()).collect();
    for kind in own.chain(albef_data::golden::kinds()).chain(albef_weights::golden::kinds()) {
        known.insert(kind);
    }
    match only.iter().find(|kind| !known.contains(kind.as_str())) {
        None => Ok(()),
        Some(kind) => {
            let known = known.into_iter().collect::<Vec<_>>().join(", ");
            Err(Error::Config(format!(
                "there is no kind `{kind}` of fixtures; the kinds are {known}"
            )))
        }
    }
}

fn outcome(set: &GoldenSet, kind: &str, fixture: &Value, slack: f64) -> Option<Result<Outcome>> {
    if let Some((_, replay)) = MODEL_KINDS.iter().find(|(name, _)| *name == kind) {
        if slack == 1.0 {
            return Some(replay(set, fixture));
        }
        let mut wide = fixture.clone();
        wide["tolerance"] = widened(&fixture["tolerance"], slack);
        return Some(replay(set, &wide));
    }
    // What needs no model is computed on the CPU in any case, within the set's own bounds, by the
    // crates that own the code.
    let data = albef_data::golden::replay(kind, set.root(), fixture);
    data.map(|outcome| outcome.map_err(Error::from)).or_else(|| {
        let weights = albef_weights::golden::replay(kind, set.root(), fixture)?;
        Some(weights.map_err(Error::from))
    })
}

type Replay = fn(&GoldenSet, &Value) -> Result<Outcome>;

/// Kinds that are replayed on a model or with what trains it.
const MODEL_KINDS: [(&str, Replay); 23] = [
    ("checkpoint_keys", keys::checkpoint_keys),
    ("param_groups", keys::param_groups),
    ("vit", encoders::vit),
    ("bert", encoders::bert),
    ("projections", encoders::projections),
    ("pretrain_step", pretrain::step),
    ("trajectory", pretrain::trajectory),
    ("mlm_mask", training::mlm_mask),
    ("adamw", training::adamw),
    ("ema", training::ema),
    ("schedules", training::schedules),
    ("retrieval_train", downstream::retrieval),
    ("ve_train", downstream::entailment),
    ("nlvr_train", downstream::pairs),
    ("ta_step", downstream::assignment),
    ("bert_decoder", answers::decoder),
    ("vqa_train", answers::training),
    ("vqa_rank", answers::ranking),
    ("vqa_score", answers::score),
    ("gradcam", maps::gradcam),
    ("grounding_boxes", maps::boxes),
    ("itm_eval", retrieval::itm_eval),
    ("retrieval_eval", retrieval::evaluation),
];

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
