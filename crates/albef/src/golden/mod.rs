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

/// Replays the fixtures of the set at `root` whose kind is in `only` (all, if `None`), in order.
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
    let mut all = Vec::new();
    for fixture in set.fixtures() {
        let text = |key: &str| fixture[key].as_str().unwrap_or_default().to_owned();
        let (name, kind) = (text("name"), text("kind"));
        if only.is_some_and(|o| !o.contains(&kind)) {
            continue;
        }
        let outcome = one(&set, &kind, fixture);
        let replayed = Replayed { name, kind, outcome };
        each(&replayed);
        all.push(replayed);
    }
    Ok(all)
}

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
        _ => return elsewhere(set, kind, fixture),
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
