//! Fixtures of masking, optimiser, averages and schedules.

use serde_json::Value;

use super::encoders::token_ids;
use super::set::Tensors;
use super::{Comparison, GoldenSet, Outcome};
use crate::error::Result;
use crate::objectives::masking::{MaskDraw, mask_tokens};
use crate::params::{Params, to_vec};
use crate::train::optimizer::Optimizer;
use crate::train::schedule::{CosineSchedule, OFFICIAL_ITERATIONS_PER_STEP};

fn cases(fixture: &Value) -> impl Iterator<Item = &Value> {
    fixture["params"]["cases"].as_array().into_iter().flatten()
}

fn files(set: &GoldenSet, fixture: &Value) -> Result<(Tensors, Tensors)> {
    Ok((set.tensors(fixture, "inputs.safetensors")?, set.tensors(fixture, "expected.safetensors")?))
}

pub(super) fn mlm_mask(set: &GoldenSet, fixture: &Value) -> Result<Outcome> {
    let (t, expected) = files(set, fixture)?;
    let mut c = Comparison::new(fixture)?;
    let ids = token_ids(&t, "input_ids", t.count("input_ids")?)?;
    for case in cases(fixture) {
        let name = |n: &str| format!("case{}.{n}", case["index"]);
        let floats = |of: &str| t.floats_of(&name(of), ids.len());
        let (mask, replace, random) =
            (floats("u_mask")?, floats("u_replace")?, floats("u_random")?);
        let words = token_ids(&t, &name("random_words"), ids.len())?;
        let probability = case["probability"].as_f64().unwrap_or(0.0) as f32;
        let (got, labels) = mask_tokens(&ids, set.special()?, probability, |i| MaskDraw {
            mask: mask[i],
            replace: replace[i],
            random: random[i],
            word: words[i],
        });
        let got: Vec<i64> = got.into_iter().map(i64::from).collect();
        let labels: Vec<i64> = labels.into_iter().map(|l| l.map_or(-100, i64::from)).collect();
        c.integers(&name("input_ids"), &got, &expected.integers(&name("input_ids"))?);
        c.integers(&name("labels"), &labels, &expected.integers(&name("labels"))?);
    }
    Ok(c.finish())
}

pub(super) fn adamw(set: &GoldenSet, fixture: &Value) -> Result<Outcome> {
    let (t, expected) = files(set, fixture)?;
    let mut c = Comparison::new(fixture)?;
    for case in cases(fixture) {
        let number = |key: &str| case[key].as_f64().unwrap_or(0.0);
        let name = |n: &str| format!("case{}.{n}", case["case"]);
        let listed = |key: &str, i: usize| {
            let list = case[key].as_array().into_iter().flatten();
            list.filter_map(Value::as_u64).any(|v| v == i as u64)
        };
        let mut params = Params::new(set.device());
        params.insert("weight", t.shape(&name("param"))?, t.floats(&name("param"))?)?;
        let betas =
            (case["betas"][0].as_f64().unwrap_or(0.9), case["betas"][1].as_f64().unwrap_or(0.999));
        // One parameter, decayed by the case's own value.
        let mut optimizer = Optimizer::new(&params, number("weight_decay"), betas, number("eps"));
        let mut lr = number("lr");
        for i in 0..number("steps") as usize {
            // The bare optimiser knows missing gradients: such a step does not happen at all.
            if !listed("missing", i) {
                let gradient = name(&format!("grad{i}"));
                let gradient = if listed("zero", i) && !t.has(&gradient) {
                    params.entries()[0].value.zeros_like()
                } else {
                    let n = t.count(&name("param"))?;
                    let values = t.floats_of(&gradient, n)?;
                    crate::params::from_vec(values, [n], set.device())
                };
                optimizer.step(lr, &mut params, vec![Some(gradient)]);
            }
            let got = to_vec(params.entries()[0].value.clone());
            let key = name(&format!("param{i}"));
            c.tensor(&key, &got, &expected.floats(&key)?);
            if let Some(decay) = case["lr_decay"].as_f64() {
                lr *= decay;
            }
        }
        let Some(m) = optimizer.moments()[0].clone() else { continue };
        c.integers(
            &name("step_count"),
            &[m.steps as i64],
            &[case["step_count"].as_i64().unwrap_or(-1)],
        );
        let (average, square) = (name("exp_avg"), name("exp_avg_sq"));
        c.tensor(&average, &to_vec(m.exp_avg), &expected.floats(&average)?);
        c.tensor(&square, &to_vec(m.exp_avg_sq), &expected.floats(&square)?);
    }
    Ok(c.finish())
}

pub(super) fn ema(set: &GoldenSet, fixture: &Value) -> Result<Outcome> {
    let (t, expected) = files(set, fixture)?;
    let mut c = Comparison::new(fixture)?;
    for case in cases(fixture) {
        let name = |n: &str| format!("case{}.{n}", case["case"]);
        let mut average = t.floats(&name("average"))?;
        for i in 0..case["steps"].as_u64().unwrap_or(0) {
            let value = t.floats_of(&name(&format!("value{i}")), average.len())?;
            let momentum = case["momentum"].as_f64().unwrap_or(0.0);
            albef_kernels::ema(momentum, &mut average, &value);
            let key = name(&format!("average{i}"));
            if expected.has(&key) {
                c.tensor(&key, &average, &expected.floats(&key)?);
            }
        }
        let key = name("average");
        if expected.has(&key) {
            c.tensor(&key, &average, &expected.floats(&key)?);
        }
    }
    Ok(c.finish())
}

pub(super) fn schedules(set: &GoldenSet, fixture: &Value) -> Result<Outcome> {
    let json = set.json(fixture, "schedules.json")?;
    let mut c = Comparison::new(fixture)?;
    let list = |v: &Value| v.as_array().cloned().unwrap_or_default();
    let mut by_config = std::collections::HashMap::new();
    for entry in list(&json["schedules"]) {
        let (o, s) = (&entry["optimizer"], &entry["scheduler"]);
        let number = |v: &Value| v.as_f64().unwrap_or(f64::NAN);
        let schedule = CosineSchedule {
            lr: number(&o["lr"]),
            min_lr: number(&s["min_lr"]),
            warmup_lr: number(&s["warmup_lr"]),
            warmup_epochs: s["warmup_epochs"].as_u64().unwrap_or(0),
            epochs: s["epochs"].as_u64().unwrap_or(1),
            iterations_per_step: OFFICIAL_ITERATIONS_PER_STEP,
        };
        let name = entry["config"].as_str().unwrap_or("?").to_owned();
        let before = number(&entry["lr_before_any_step"]);
        c.numbers(&format!("{name}.initial"), &[schedule.initial()], &[before]);
        for (key, offset) in
            [("lr_after_warmup_step", 0), ("lr_of_epoch_step", schedule.warmup_epochs)]
        {
            let want: Vec<f64> = list(&entry[key]).iter().map(number).collect();
            let got: Vec<f64> = (0..want.len() as u64).map(|t| schedule.at(t + offset)).collect();
            c.numbers(&format!("{name}.{key}"), &got, &want);
        }
        by_config.insert(name, schedule);
    }
    for entry in list(&json["loops"]) {
        let name = entry["config"].as_str().unwrap_or("?");
        let Some(schedule) = by_config.get(name) else {
            c.fail(format!("loop of `{name}` without a schedule"));
            break;
        };
        let length = entry["iterations_per_epoch"].as_u64().unwrap_or(0);
        for (epoch, changes) in list(&entry["lr_changes"]).iter().enumerate() {
            let mut got = Vec::new();
            let mut last = None;
            for i in 0..length {
                let lr = schedule.official(epoch as u64, i);
                if last != Some(lr) {
                    got.extend([i as f64, lr]);
                    last = Some(lr);
                }
            }
            let want: Vec<f64> =
                list(changes).iter().flat_map(list).filter_map(|v| v.as_f64()).collect();
            c.numbers(&format!("{name}.epoch{epoch}"), &got, &want);
        }
    }
    Ok(c.finish())
}
