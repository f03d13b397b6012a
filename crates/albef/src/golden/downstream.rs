//! Training steps of retrieval, visual entailment, statements about two images, and text assignment.

use albef_data::dataset::Target;
use serde_json::Value;

use super::encoders::padded_batch;
use super::pretrain::{columns, negative_weights, of_pairs};
use super::step::{Run, batch, compare_checksums, compare_gradients, packed};
use super::{Comparison, GoldenSet, Outcome};
use crate::error::Result;
use crate::model::{
    Branch, ClassificationModel, DropoutRng, Nlvr2Model, TokenBatch, VisualEntailmentModel,
};
use crate::objectives::classify::ClassificationTrace;
use crate::objectives::itc::positives;
use crate::objectives::pairs::PairsTrace;
use crate::objectives::rng::{AssignmentDraw, Replay};
use crate::objectives::text_assignment::TextAssignmentTrace;
use crate::objectives::{
    ClassificationObjective, ImagesPerText, PairsObjective, TextAssignmentObjective,
};
use crate::ops::Ops;
use crate::params::to_vec;

/// Runs a replay with padding carried along, then without.
fn both_ways(
    set: &GoldenSet,
    fixture: &Value,
    one: impl Fn(&TokenBatch, &mut Comparison) -> Result<()>,
) -> Result<Outcome> {
    let mut c = Comparison::new(fixture)?;
    let t = set.tensors(fixture, "inputs.safetensors")?;
    match padded_batch(&t, "input_ids", "attention_mask")? {
        None => c.fail("a mask with holes, where only visible prefixes are known".into()),
        Some(padded) => {
            one(&padded, &mut c)?;
            one(&packed(&padded), &mut c)?;
        }
    }
    Ok(c.finish())
}

pub(super) fn retrieval(set: &GoldenSet, fixture: &Value) -> Result<Outcome> {
    both_ways(set, fixture, |tokens, c| retrieval_step(set, fixture, tokens, c))
}

fn retrieval_step(
    set: &GoldenSet,
    fixture: &Value,
    tokens: &TokenBatch,
    c: &mut Comparison,
) -> Result<()> {
    let mut run = Run::of_task(set, fixture, |distill| {
        Box::new(PairsObjective { distill, ..PairsObjective::retrieval() })
    })?;
    let t = set.tensors(fixture, "inputs.safetensors")?;
    let expected = set.tensors(fixture, "expected.safetensors")?;
    let n = tokens.len();
    let ids = t.integers("idx")?;
    if ids.len() != n {
        return Err(set.wrong(fixture, &format!("`idx` has {} values for {n} texts", ids.len())));
    }
    // The replacement of `idx_queue`, if the set has one, came with the weights.
    if run.state.queues.is_empty() {
        return Err(set.wrong(fixture, "no queues in the weights"));
    }
    let draws = Replay {
        negative_image: t.indices("negative_image", n, n)?,
        negative_text: t.indices("negative_text", n, n)?,
        ..Replay::default()
    };
    let mut batch = batch(&t, "image", tokens.clone(), &run.settings.model)?;
    batch.image_ids.clone_from(&ids);
    let stale = run.state.queues.ids().to_vec();
    let (_, seen) = run.step(vec![(batch, draws)])?;
    let trace: &PairsTrace = seen.trace()?;
    let (queues, sims) = (&run.state.queues, &trace.contrast.sims);
    let same = |a: usize, b: usize| ids[a] == ids[b];
    for name in expected.names() {
        let got = match name.as_str() {
            "grad_norms" => continue,
            "queue_ptr" | "idx_queue" => {
                let ptr = name == "queue_ptr";
                let got = if ptr { vec![queues.ptr() as i64] } else { queues.ids().to_vec() };
                c.integers(&name, &got, &expected.integers(&name)?);
                continue;
            }
            "sim_targets" => Some(positives(n, Some((&ids, &stale)), stale.len())),
            "weights_i2t" => Some(negative_weights(&sims[0], same)),
            "weights_t2i" => Some(negative_weights(&sims[1], same)),
            "image_queue" => Some(columns(queues, true)),
            "text_queue" => Some(columns(queues, false)),
            _ => of_pairs(&name, &seen, trace),
        };
        match got {
            Some(got) => c.tensor(&name, &got, &expected.floats(&name)?),
            None => c.fail(format!("`{name}` is not computed here")),
        }
    }
    compare_gradients(set, fixture, &seen.gradients, c)?;
    compare_checksums(set, fixture, &run.state.momentum, c)
}

pub(super) fn entailment(set: &GoldenSet, fixture: &Value) -> Result<Outcome> {
    let classes = VisualEntailmentModel::CLASSES.len();
    both_ways(set, fixture, |t, c| {
        classification(set, fixture, (ImagesPerText::One, classes), t, c)
    })
}

pub(super) fn pairs(set: &GoldenSet, fixture: &Value) -> Result<Outcome> {
    both_ways(set, fixture, |t, c| {
        classification(set, fixture, (ImagesPerText::Two, Nlvr2Model::CLASSES), t, c)
    })
}

fn classification(
    set: &GoldenSet,
    fixture: &Value,
    (images, classes): (ImagesPerText, usize),
    tokens: &TokenBatch,
    c: &mut Comparison,
) -> Result<()> {
    let mut run = Run::of_task(set, fixture, |distill| {
        let (dropout, momentum_dropout) = (0.0, 0.0);
        Box::new(ClassificationObjective { images, classes, distill, dropout, momentum_dropout })
    })?;
    let t = set.tensors(fixture, "inputs.safetensors")?;
    let expected = set.tensors(fixture, "expected.safetensors")?;
    let config = &run.settings.model;
    let mut batch = batch(&t, "image", tokens.clone(), config)?;
    let frozen = run.state.online.frozen(Ops::for_device(set.device()));
    let before = ClassificationModel::new(config, &frozen, Branch::Online, images, classes)?;
    let eval_logits =
        before.logits(t.on("image", set.device())?, tokens, &mut DropoutRng::none())?;
    let labels = t.indices("targets", tokens.len(), classes)?;
    batch.targets = labels.into_iter().map(Target::Label).collect();

    let (_, seen) = run.step(vec![(batch, Replay::default())])?;
    let trace: &ClassificationTrace = seen.trace()?;
    for name in expected.names() {
        let got = match (name.as_str(), &trace.logits_m) {
            ("grad_norms", _) => continue,
            ("loss", _) => seen.loss("loss"),
            ("prediction", _) => Some(to_vec(trace.logits.clone())),
            ("prediction_m", Some(logits)) => Some(to_vec(logits.clone())),
            ("eval_logits", _) => Some(to_vec(eval_logits.clone())),
            _ => None,
        };
        match got {
            Some(got) => c.tensor(&name, &got, &expected.floats(&name)?),
            None => c.fail(format!("`{name}` is not computed here")),
        }
    }
    compare_gradients(set, fixture, &seen.gradients, c)?;
    compare_checksums(set, fixture, &run.state.momentum, c)
}

pub(super) fn assignment(set: &GoldenSet, fixture: &Value) -> Result<Outcome> {
    both_ways(set, fixture, |t, c| assignment_step(set, fixture, t, c))
}

fn assignment_step(
    set: &GoldenSet,
    fixture: &Value,
    tokens: &TokenBatch,
    c: &mut Comparison,
) -> Result<()> {
    let mut run =
        Run::of_task(set, fixture, |_| Box::new(TextAssignmentObjective { dropout: 0.0 }))?;
    let t = set.tensors(fixture, "inputs.safetensors")?;
    let expected = set.tensors(fixture, "expected.safetensors")?;
    let n = tokens.len();
    let index = t.integers("index")?;
    let held = |v: &i64| (-1..n as i64).contains(v);
    if index.len() != 2 * n || !index.iter().all(held) {
        let detail = format!("`index` must hold two images below {n} for each of {n} texts");
        return Err(set.wrong(fixture, &detail));
    }
    let (other, order) = (t.floats_of("u_other", n)?, t.floats_of("u_order", n)?);
    let draw = |row: usize| AssignmentDraw {
        other: f64::from(other[row]),
        order: f64::from(order[row]),
        index: [0.0; 2],
        given: Some([0, 1].map(|i| index[2 * row + i].max(0) as usize)),
    };
    let draws = Replay { assignments: (0..n).map(draw).collect(), ..Replay::default() };
    let batch = batch(&t, "image", tokens.clone(), &run.settings.model)?;
    let (_, seen) = run.step(vec![(batch, draws)])?;
    let trace: &TextAssignmentTrace = seen.trace()?;
    let labels: Vec<i64> = trace.labels.iter().map(|l| *l as i64).collect();
    c.integers("labels", &labels, &expected.integers("labels")?);
    c.tensor("loss", &seen.loss("loss").unwrap_or_default(), &expected.floats("loss")?);
    c.tensor("pred", &to_vec(trace.logits.clone()), &expected.floats("pred")?);
    c.tensor("weights", &trace.weights, &expected.floats("weights")?);
    compare_gradients(set, fixture, &seen.gradients, c)
}
