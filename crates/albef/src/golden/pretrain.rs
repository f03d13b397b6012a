//! Whole pre-training steps and the five-step trajectory.

use std::collections::HashMap;

use albef_data::dataset::Batch;
use burn::tensor::{Tensor, activation};
use serde_json::Value;

use super::encoders::{padded_batch, token_ids};
use super::set::{Tensors, parameter};
use super::step::{Run, Seen, batch, compare_checksums, compare_gradients, packed};
use super::{Comparison, GoldenSet, Outcome};
use crate::error::Result;
use crate::model::{DropoutRng, TokenBatch};
use crate::objectives::PairsObjective;
use crate::objectives::masking::MaskDraw;
use crate::objectives::momentum::momentum_encoders;
use crate::objectives::pairs::PairsTrace;
use crate::objectives::queue::Queues;
use crate::objectives::rng::Replay;
use crate::ops::Precision;
use crate::params::to_vec;
use crate::params::transposed;
use crate::train::optimizer::Optimizer;
use crate::train::schedule::{CosineSchedule, Schedule};

/// Draws of a fixture, for the token rows of `tokens`, which are in a table of `width` columns.
fn draws(t: &Tensors, prefix: &str, tokens: &TokenBatch, width: usize) -> Result<Replay> {
    let name = |n: &str| format!("{prefix}{n}");
    let (batch, n) = (tokens.len(), tokens.len() * width);
    let floats = |of: &str| t.floats_of(&name(of), n);
    let (mask, replace, random) = (floats("u_mask")?, floats("u_replace")?, floats("u_random")?);
    let words = token_ids(t, &name("random_words"), n)?;
    let masks = tokens
        .sequences
        .iter()
        .enumerate()
        .flat_map(|(b, s)| (0..s.rows).map(move |i| b * width + i))
        .map(|at| MaskDraw {
            mask: mask[at],
            replace: replace[at],
            random: random[at],
            word: words[at],
        })
        .collect();
    Ok(Replay {
        negative_image: t.indices(&name("negative_image"), batch, batch)?,
        negative_text: t.indices(&name("negative_text"), batch, batch)?,
        masks,
        ..Replay::default()
    })
}

fn run(set: &GoldenSet, fixture: &Value) -> Result<Run> {
    let objective =
        PairsObjective { mlm_probability: set.mlm_probability()?, ..PairsObjective::default() };
    Run::of_pretraining(set, fixture, Box::new(objective))
}

pub(super) fn step(set: &GoldenSet, fixture: &Value) -> Result<Outcome> {
    let mut c = Comparison::new(fixture)?;
    let t = set.tensors(fixture, "inputs.safetensors")?;
    let Some(padded) = padded_batch(&t, "input_ids", "attention_mask")? else {
        c.fail("a mask with holes".into());
        return Ok(c.finish());
    };
    // Padding carried along, every intermediate can be compared; without it, losses, gradients
    // and state must be the same.
    one_step(set, fixture, &t, padded.clone(), true, &mut c)?;
    one_step(set, fixture, &t, packed(&padded), false, &mut c)?;
    accumulated(set, fixture, &t, packed(&padded), &mut c)?;
    clamped(set, fixture, &t, packed(&padded), &mut c)?;
    Ok(c.finish())
}

/// The batch of a fixture with its draws.
fn given(t: &Tensors, tokens: TokenBatch, run: &Run) -> Result<(Batch, Replay)> {
    let [_, width] = t.axes("input_ids")?;
    let draws = draws(t, "", &tokens, width)?;
    Ok((batch(t, "image", tokens, &run.settings.model)?, draws))
}

fn one_step(
    set: &GoldenSet,
    fixture: &Value,
    t: &Tensors,
    tokens: TokenBatch,
    with_padding: bool,
    c: &mut Comparison,
) -> Result<()> {
    let expected = set.tensors(fixture, "expected.safetensors")?;
    let mut run = run(set, fixture)?;
    let (_, seen) = run.step(vec![given(t, tokens, &run)?])?;
    let trace: &PairsTrace = seen.trace()?;

    for name in expected.names() {
        let integer =
            matches!(name.as_str(), "itm_labels" | "masked_input_ids" | "mlm_labels" | "queue_ptr");
        if integer {
            let got: Vec<i64> = match (name.as_str(), &trace.masked) {
                ("itm_labels", _) => trace.itm_labels.iter().map(|l| *l as i64).collect(),
                ("queue_ptr", _) => vec![run.state.queues.ptr() as i64],
                _ if !with_padding => continue,
                ("masked_input_ids", Some(m)) => m.ids.iter().map(|i| i64::from(*i)).collect(),
                (_, Some(m)) => m.labels.iter().map(|l| l.map_or(-100, i64::from)).collect(),
                (_, None) => Vec::new(),
            };
            c.integers(&name, &got, &expected.integers(&name)?);
            continue;
        }
        if name == "text_embeds" && !with_padding {
            continue;
        }
        match computed(&name, &seen, trace, &run) {
            Some(got) => c.tensor(&name, &got, &expected.floats(&name)?),
            None => c.fail(format!("`{name}` is not computed here")),
        }
    }
    compare_gradients(set, fixture, &seen.gradients, c)?;
    compare_checksums(set, fixture, &run.state.momentum, c)
}

/// Two batches of one optimizer step, both the fixture's: means of equal losses and gradients are
/// these.
fn accumulated(
    set: &GoldenSet,
    fixture: &Value,
    t: &Tensors,
    tokens: TokenBatch,
    c: &mut Comparison,
) -> Result<()> {
    let expected = set.tensors(fixture, "expected.safetensors")?;
    let mut run = run(set, fixture)?;
    let one = given(t, tokens, &run)?;
    let (report, seen) = run.step(vec![one.clone(), one])?;
    for name in ["loss_mlm", "loss_ita", "loss_itm"] {
        let want: Vec<f64> = expected.floats(name)?.into_iter().map(f64::from).collect();
        let got = report.losses.get(format!("train_{name}").as_str()).copied();
        c.numbers(name, &[got.unwrap_or(f64::NAN)], &want);
    }
    compare_gradients(set, fixture, &seen.gradients, c)
}

/// From a temperature out of bounds a step gives the losses of one from the bound.
fn clamped(
    set: &GoldenSet,
    fixture: &Value,
    t: &Tensors,
    tokens: TokenBatch,
    c: &mut Comparison,
) -> Result<()> {
    let from = |temp: f32| {
        let mut run = run(set, fixture)?;
        run.state.online.insert("temp", &[], vec![temp])?;
        let (report, _) = run.step(vec![given(t, tokens.clone(), &run)?])?;
        Ok::<_, crate::Error>(report.losses.into_values().collect::<Vec<f64>>())
    };
    let [low, high] = [0.001, 0.5];
    for (outside, bound) in [(low / 2.0, low), (high * 2.0, high)] {
        c.numbers("loss.clamped", &from(outside)?, &from(bound)?);
    }
    Ok(())
}

/// The queue of images or of texts as columns, as the official buffers are.
pub(super) fn columns(queues: &Queues, images: bool) -> Vec<f32> {
    let (image, text) = queues.rows();
    let rows = if images { image } else { text };
    let size = queues.len();
    transposed(&rows, size, rows.len() / size.max(1))
}

/// What pre-training and retrieval compute alike.
pub(super) fn of_pairs(name: &str, seen: &Seen, trace: &PairsTrace) -> Option<Vec<f32>> {
    let contrast = &trace.contrast;
    let inner = |t: &Tensor<2>| to_vec(t.clone());
    Some(match name {
        "loss" | "loss_ita" | "loss_itm" | "loss_mlm" => seen.loss(name)?,
        "loss_i2t" => to_vec(contrast.directions[0].clone()),
        "loss_t2i" => to_vec(contrast.directions[1].clone()),
        "image_feat" => inner(&trace.feats[0]),
        "text_feat" => inner(&trace.feats[1]),
        "image_feat_m" => inner(&trace.feats[2]),
        "text_feat_m" => inner(&trace.feats[3]),
        "sim_i2t" => inner(&contrast.sims[0]),
        "sim_t2i" => inner(&contrast.sims[1]),
        "sim_i2t_m" => inner(&contrast.sims_m[0]),
        "sim_t2i_m" => inner(&contrast.sims_m[1]),
        "sim_i2t_targets" => inner(&contrast.targets[0]),
        "sim_t2i_targets" => inner(&contrast.targets[1]),
        "vl_output" => inner(trace.itm_logits.as_ref()?),
        _ => return None,
    })
}

/// Batch columns of a soft-max of similarities, zero where `excluded`.
pub(super) fn negative_weights(
    sims: &Tensor<2>,
    excluded: impl Fn(usize, usize) -> bool,
) -> Vec<f32> {
    let n = sims.dims()[0];
    let mut weights = to_vec(activation::softmax(sims.clone().narrow(1, 0, n), 1));
    for (at, weight) in weights.iter_mut().enumerate() {
        if excluded(at / n, at % n) {
            *weight = 0.0;
        }
    }
    weights
}

fn computed(name: &str, seen: &Seen, trace: &PairsTrace, run: &Run) -> Option<Vec<f32>> {
    if let Some(name) = name.strip_prefix("momentum.") {
        return parameter(&run.state.momentum, name);
    }
    let sims = &trace.contrast.sims;
    Some(match name {
        "image_embeds" => to_vec(trace.image.tokens.clone()),
        "image_embeds_m" => to_vec(trace.image_m.tokens.clone()),
        "text_embeds" => to_vec(trace.text_embeds.clone()),
        "sim_targets" => {
            let [rows, columns] = sims[0].dims();
            crate::objectives::itc::positives(rows, None, columns - rows)
        }
        "mlm_logits" => to_vec(trace.mlm_logits.clone()?),
        "mlm_logits_m" => to_vec(momentum_words(trace, run)?),
        "weights_i2t" => negative_weights(&sims[0], |a, b| a == b),
        "weights_t2i" => negative_weights(&sims[1], |a, b| a == b),
        "image_queue" => columns(&run.state.queues, true),
        "text_queue" => columns(&run.state.queues, false),
        _ => return of_pairs(name, seen, trace),
    })
}

/// The momentum model's token logits, which a step without distillation leaves out.
fn momentum_words(trace: &PairsTrace, run: &Run) -> Option<Tensor<2>> {
    let computed = || {
        let config = &run.settings.model;
        let momentum = momentum_encoders(&run.state.momentum, config, Precision::F32).ok()?;
        let masked = trace.masked.as_ref()?;
        masked.momentum_logits(&momentum, &trace.image_m, &mut DropoutRng::none()).ok()
    };
    trace.mlm_logits_m.clone().or_else(computed)
}

/// The distillation weight after the first epoch and the length of that epoch. A recording may end within
/// it: then the weight is the set's (`own`), and the length is the one by which it ramps.
fn ramp(steps: &[&Value], own: Option<f64>) -> (f64, usize) {
    let alpha = |step: &Value| step["alpha"].as_f64().unwrap_or(f64::NAN);
    let first: Vec<f64> =
        steps.iter().filter(|s| s["epoch"] == 0).map(|step| alpha(step)).collect();
    let after = steps.iter().find(|s| s["epoch"] != 0).map(|step| alpha(step));
    let largest = first.iter().copied().fold(0.0, f64::max);
    let full = after.or(own.filter(|own| *own >= largest)).unwrap_or(largest);
    // Of the last step that is still on the ramp: it tells the length best.
    let on_ramp = first.iter().enumerate().rev().find(|(_, a)| **a > 0.0 && **a < full);
    let length = on_ramp.map_or(first.len() as f64, |(i, a)| (i as f64 * full / a).round());
    (full, (length as usize).max(1))
}

pub(super) fn trajectory(set: &GoldenSet, fixture: &Value) -> Result<Outcome> {
    let mut c = Comparison::new(fixture)?;
    let t = set.tensors(fixture, "inputs.safetensors")?;
    let expected = set.tensors(fixture, "expected.safetensors")?;
    let plan = set.json(fixture, "steps.json")?;
    let number = |v: &Value| v.as_f64().unwrap_or(f64::NAN);
    let steps: Vec<&Value> = plan["steps"].as_array().into_iter().flatten().collect();
    let mut run = run(set, fixture)?;
    let betas = (number(&plan["betas"][0]), number(&plan["betas"][1]));
    let decay = number(&plan["optimizer"]["weight_decay"]);
    run.state.optimizer = Optimizer::new(&run.state.online, decay, betas, number(&plan["eps"]));
    // Rate and distillation weight of each step are the step's own work: the weight ramps over the first
    // epoch up to that of the last, and the schedule is stepped in every iteration.
    run.settings.momentum = set.momentum()?;
    let (alpha, batches_per_epoch) = ramp(&steps, set.alpha());
    (run.settings.alpha, run.settings.batches_per_epoch) = (alpha, batches_per_epoch);
    run.settings.warm_up = true;
    run.settings.schedule = Schedule::Official(CosineSchedule {
        lr: number(&plan["optimizer"]["lr"]),
        min_lr: number(&plan["scheduler"]["min_lr"]),
        warmup_lr: number(&plan["scheduler"]["warmup_lr"]),
        warmup_epochs: plan["scheduler"]["warmup_epochs"].as_u64().unwrap_or(0),
        epochs: plan["scheduler"]["epochs"].as_u64().unwrap_or(1),
        iterations_per_step: 1,
    });
    for (i, step) in steps.into_iter().enumerate() {
        let epoch = step["epoch"].as_u64().unwrap_or(0);
        if epoch != run.state.place.epoch {
            (run.state.place.epoch, run.state.place.batch) = (epoch, 0);
        }
        let prefix = format!("step{i}.");
        let ids = format!("{prefix}input_ids");
        let Some(padded) = padded_batch(&t, &ids, &format!("{prefix}attention_mask"))? else {
            c.fail("a mask with holes".into());
            break;
        };
        let tokens = packed(&padded);
        let [_, width] = t.axes(&ids)?;
        let draws = draws(&t, &prefix, &tokens, width)?;
        let image = fixture["params"]["image_of_step"][i].as_u64().unwrap_or(i as u64);
        let image = format!("step{image}.image");
        let batch = batch(&t, &image, tokens, &run.settings.model)?;
        let (report, _) = run.step(vec![(batch, draws)])?;
        c.numbers("loss.lr", &[report.train_lr], &[number(&step["lr_used"])]);
        c.numbers("loss.alpha", &[report.alpha], &[number(&step["alpha"])]);
        for name in ["loss_mlm", "loss_ita", "loss_itm"] {
            let got = report.losses.get(format!("train_{name}").as_str()).copied();
            let got = got.unwrap_or(f64::NAN);
            c.numbers(&format!("{name}.step{i}"), &[got], &[number(&step[name])]);
        }
        let temp: Vec<f64> = report.temp.into_iter().collect();
        c.numbers("temp_after", &temp, &[number(&step["temp_after"])]);
        let ptr = step["queue_ptr_after"].as_i64().unwrap_or(-1);
        c.integers("queue_ptr", &[run.state.queues.ptr() as i64], &[ptr]);
    }
    let state = &run.state;
    let place: HashMap<&str, usize> =
        state.online.entries().iter().enumerate().map(|(i, p)| (p.name.as_str(), i)).collect();
    for name in expected.names() {
        if name == "queue_ptr" {
            c.integers(&name, &[state.queues.ptr() as i64], &expected.integers(&name)?);
            continue;
        }
        let moments = |n: &str| state.optimizer.moments()[*place.get(n)?].clone();
        let got = match name.split_once('.') {
            Some(("param", n)) => {
                parameter(&state.online, n).or_else(|| parameter(&state.momentum, n))
            }
            Some(("exp_avg", n)) => moments(n).map(|m| to_vec(m.exp_avg)),
            Some(("exp_avg_sq", n)) => moments(n).map(|m| to_vec(m.exp_avg_sq)),
            _ if name == "image_queue" => Some(columns(&state.queues, true)),
            _ if name == "text_queue" => Some(columns(&state.queues, false)),
            _ => parameter(&state.momentum, name.trim_start_matches("momentum.")),
        };
        match got {
            Some(got) => c.tensor(&name, &got, &expected.floats(&name)?),
            None => c.fail(format!("`{name}` is not computed here")),
        }
    }
    compare_checksums(set, fixture, &state.momentum, &mut c)?;
    Ok(c.finish())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_ramp_of_a_recording_that_ends_within_the_first_epoch_is_told_by_its_steps() {
        let ramp = |alphas: &[(u64, f64)], own| {
            let steps: Vec<Value> = alphas
                .iter()
                .map(|(epoch, alpha)| json!({"epoch": epoch, "alpha": alpha}))
                .collect();
            super::ramp(&steps.iter().collect::<Vec<_>>(), own)
        };
        assert_eq!(ramp(&[(0, 0.0), (0, 0.2), (1, 0.4)], Some(0.9)), (0.4, 2));
        assert_eq!(ramp(&[(0, 0.0), (0, 0.04), (0, 0.08)], Some(0.4)), (0.4, 10));
        assert_eq!(ramp(&[(0, 0.0), (1, 0.4)], None), (0.4, 1));
        assert_eq!(ramp(&[(0, 0.0), (0, 0.0), (1, 0.0)], Some(0.4)), (0.0, 2));
        assert_eq!(ramp(&[(0, 0.0), (0, 0.2), (0, 0.4), (0, 0.4)], Some(0.1)), (0.4, 2));
    }
}
