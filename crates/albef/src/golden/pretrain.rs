//! Whole pre-training steps and the five-step trajectory.

use std::collections::HashMap;

use burn::tensor::{Tensor, activation};
use serde_json::Value;

use super::encoders::{padded_batch, token_ids};
use super::set::{Tensors, checksum, checksums, parameter};
use super::{Comparison, GoldenSet, Outcome};
use crate::checkpoint::{LoadedModel, momentum_encoders};
use crate::config::ModelConfig;
use crate::error::Result;
use crate::model::{Albef, DropoutRng, TokenBatch, Weights};
use crate::objectives::distill::DistillAxis;
use crate::objectives::masking::MaskDraw;
use crate::objectives::pretrain::{Batch, Settings, Step, StepRng, forward};
use crate::objectives::queue::Queues;
use crate::ops::{Ops, Precision};
use crate::params::transposed;
use crate::params::{Params, to_vec};
use crate::train::optimizer::{Optimizer, update_average};
use crate::train::schedule::CosineSchedule;

/// StepRng of a fixture, for the token rows of `tokens`, which lie in a table of `width` columns.
fn draws(t: &Tensors, prefix: &str, tokens: &TokenBatch, width: usize) -> Result<StepRng> {
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
    Ok(StepRng::Replay {
        negative_image: t.indices(&name("negative_image"), batch, batch)?,
        negative_text: t.indices(&name("negative_text"), batch, batch)?,
        masks,
    })
}

/// The same batch without its padding.
pub(super) fn packed(padded: &TokenBatch) -> TokenBatch {
    let texts: Vec<&[u32]> =
        padded.sequences.iter().map(|s| &padded.ids[s.start..s.start + s.visible]).collect();
    TokenBatch::packed(&texts)
}

fn settings(set: &GoldenSet, config: &ModelConfig, alpha: f64) -> Result<Settings> {
    Ok(Settings {
        alpha,
        ita: true,
        itm: true,
        mlm: true,
        mlm_mod: true,
        mlm_distill_axis: DistillAxis::Vocabulary,
        hard_negatives: true,
        negative_temp: None,
        mlm_probability: set.mlm_probability()?,
        image_index: false,
        dropout: 0.0,
        momentum_dropout: 0.0,
        special: set.special()?,
        vocab_size: config.text.vocab_size,
    })
}

/// What a run carries from step to step.
struct Run {
    config: ModelConfig,
    online: Params,
    momentum: Params,
    queues: Queues,
}

impl Run {
    fn new(config: ModelConfig, state: &LoadedModel) -> Result<Self> {
        let queues = state.queues.clone().ok_or(crate::Error::Config("no queues".into()))?;
        Ok(Self { config, online: state.online.clone(), momentum: state.momentum.clone(), queues })
    }

    /// Clamp, momentum update, forward, queues: the order of a pre-training step.
    fn step(
        &mut self,
        momentum: f64,
        batch: &Batch,
        settings: &Settings,
        draws: StepRng,
    ) -> Result<(Step, Weights)> {
        crate::train::step::clamp_temperature(&mut self.online);
        update_average(momentum, &mut self.momentum, &mut self.online);
        let weights = self.online.trainable(Ops::for_device(self.online.device()));
        let model = Albef::new(&self.config, &weights)?;
        let teacher = momentum_encoders(&self.momentum, &self.config, Precision::F32)?;
        let step = forward(&model, &teacher, &self.queues, batch, settings, draws)?;
        let [_, _, image, text] = step.feats.clone();
        self.queues.push(image, text, &batch.image_ids);
        Ok((step, weights))
    }

    /// The momentum model's word logits, which a step without distillation leaves out.
    fn teacher_words(&self, step: &Step) -> Option<Tensor<2>> {
        let computed = || {
            let teacher = momentum_encoders(&self.momentum, &self.config, Precision::F32)?;
            step.masked.teacher(&teacher, &step.image_m, &mut DropoutRng::none())
        };
        step.mlm_logits_m.clone().or_else(|| computed().ok())
    }
}

/// Gradients by name; `None` where a tensor took no part.
pub(super) fn gradients(
    params: &Params,
    weights: &Weights,
    loss: &Tensor<1>,
) -> HashMap<String, Tensor<1>> {
    let mut all = loss.backward();
    params
        .entries()
        .iter()
        .filter_map(|p| {
            let leaf = weights.leaf(&p.name)?;
            Some((p.name.clone(), leaf.value.grad_remove(&mut all)?))
        })
        .collect()
}

pub(super) fn step(set: &GoldenSet, fixture: &Value) -> Result<Outcome> {
    let mut c = Comparison::new(fixture)?;
    let t = set.tensors(fixture, "inputs.safetensors")?;
    let Some(padded) = padded_batch(&t, "input_ids", "attention_mask")? else {
        c.fail("a mask with holes".into());
        return c.finish();
    };
    // Padding carried along, every intermediate can be compared; without it, losses, gradients
    // and state must be the same.
    one_step(set, fixture, &t, padded.clone(), true, &mut c)?;
    one_step(set, fixture, &t, packed(&padded), false, &mut c)?;
    c.finish()
}

fn one_step(
    set: &GoldenSet,
    fixture: &Value,
    t: &Tensors,
    tokens: TokenBatch,
    with_padding: bool,
    c: &mut Comparison,
) -> Result<()> {
    let (config, state) = set.model(fixture)?;
    let expected = set.tensors(fixture, "expected.safetensors")?;
    let alpha = fixture["params"]["alpha"].as_f64().unwrap_or(0.0);
    let momentum = fixture["params"]["momentum"].as_f64().unwrap_or(set.momentum()?);
    let [_, width] = t.axes("input_ids")?;
    let size = tokens.len();
    let draws = draws(t, "", &tokens, width)?;
    let batch = Batch {
        images: t.on("image", set.device())?,
        text: tokens,
        image_ids: (0..size as i64).collect(),
        related: Vec::new(),
    };
    let settings = settings(set, &config, alpha)?;
    let mut run = Run::new(config, &state)?;
    let (step, weights) = run.step(momentum, &batch, &settings, draws)?;
    let loss = step.loss();
    let gradients = gradients(&run.online, &weights, &loss);

    for name in expected.names() {
        let integer =
            matches!(name.as_str(), "itm_labels" | "masked_input_ids" | "mlm_labels" | "queue_ptr");
        if integer {
            let got: Vec<i64> = match name.as_str() {
                "itm_labels" => step.itm_labels.clone(),
                "queue_ptr" => vec![run.queues.ptr() as i64],
                _ if !with_padding => continue,
                "masked_input_ids" => step.masked.ids.iter().map(|i| i64::from(*i)).collect(),
                _ => step.masked.labels.iter().map(|l| l.map_or(-100, i64::from)).collect(),
            };
            c.integers(&name, &got, &expected.integers(&name)?);
            continue;
        }
        if name == "text_embeds" && !with_padding {
            continue;
        }
        match computed(&name, &step, &loss, &run) {
            Some(got) => c.tensor(&name, &got, &expected.floats(&name)?),
            None => c.fail(format!("`{name}` is not computed here")),
        }
    }
    compare_gradients(set, fixture, &gradients, c)?;
    compare_checksums(set, fixture, &run.momentum, c)
}

/// Compares gradients where the fixture has them, and their norms in the listed order.
pub(super) fn compare_gradients(
    set: &GoldenSet,
    fixture: &Value,
    gradients: &HashMap<String, Tensor<1>>,
    c: &mut Comparison,
) -> Result<()> {
    let of = |name: &str| gradients.get(name).map(|g| to_vec(g.clone()));
    let expected = set.tensors(fixture, "expected.safetensors")?;
    if expected.has("grad_norms") {
        let names = fixture["params"]["grad_names"].as_array().into_iter().flatten();
        let norms: Vec<f64> = names
            .filter_map(Value::as_str)
            .map(|n| of(n).map_or(0.0, |g| checksum(&g)[1]))
            .collect();
        let want: Vec<f64> = expected.floats("grad_norms")?.into_iter().map(f64::from).collect();
        c.numbers("grad_norms", &norms, &want);
    }
    if set.file(fixture, "grads.safetensors").is_err() {
        return Ok(());
    }
    let grads = set.tensors(fixture, "grads.safetensors")?;
    let mut seen = 0;
    for name in grads.names() {
        let want = grads.floats(&name)?;
        let got = name.strip_prefix("grad.").and_then(of);
        seen += usize::from(got.is_some());
        // A parameter without gradient is right where the reference has zeros.
        c.tensor(&name, &got.unwrap_or_else(|| vec![0.0; want.len()]), &want);
    }
    // Where norms list the trained parameters, the file may hold a selection of gradients.
    let listed = fixture["params"]["grad_names"].as_array().map_or(seen, Vec::len);
    if listed < gradients.len() {
        c.fail(format!("{} gradients too many", gradients.len() - listed));
    }
    Ok(())
}

/// Compares sums and norms of the momentum parameters where the fixture has them.
pub(super) fn compare_checksums(
    set: &GoldenSet,
    fixture: &Value,
    momentum: &Params,
    c: &mut Comparison,
) -> Result<()> {
    if set.file(fixture, "momentum_checksums.json").is_err() {
        return Ok(());
    }
    let want = checksums(&set.json(fixture, "momentum_checksums.json")?);
    for p in momentum.entries() {
        match want.get(&p.name) {
            Some(want) => {
                let got = checksum(&to_vec(p.value.clone()));
                c.numbers(&format!("checksum.{}", p.name), &got, want);
            }
            None => c.fail(format!("momentum_checksums.json has no sums of `{}`", p.name)),
        }
    }
    if let Some(name) = want.keys().find(|name| momentum.get(name).is_none()) {
        c.fail(format!("no momentum parameter `{name}`"));
    }
    Ok(())
}

fn computed(name: &str, step: &Step, loss: &Tensor<1>, run: &Run) -> Option<Vec<f32>> {
    let queue = |image: bool| {
        let (images, texts) = run.queues.rows();
        let rows = if image { images } else { texts };
        let size = run.queues.len();
        transposed(&rows, size, rows.len() / size.max(1))
    };
    // Batch columns of a soft-max of similarities, the own pair set to zero.
    let negatives = |sims: &Tensor<2>| {
        let n = sims.dims()[0];
        let weights = activation::softmax(sims.clone().narrow(1, 0, n), 1);
        let mut weights = to_vec(weights);
        (0..n).for_each(|i| weights[i * n + i] = 0.0);
        weights
    };
    if let Some(name) = name.strip_prefix("momentum.") {
        return parameter(&run.momentum, name);
    }
    Some(match name {
        "loss" => to_vec(loss.clone()),
        "loss_ita" => to_vec(step.loss_ita.clone()),
        "loss_itm" => to_vec(step.loss_itm.clone()),
        "loss_mlm" => to_vec(step.loss_mlm.clone()),
        "loss_i2t" => to_vec(step.loss_i2t.clone()),
        "loss_t2i" => to_vec(step.loss_t2i.clone()),
        "image_embeds" => to_vec(step.image.tokens.clone()),
        "image_embeds_m" => to_vec(step.image_m.tokens.clone()),
        "text_embeds" => to_vec(step.text_embeds.clone()),
        "image_feat" => to_vec(step.feats[0].clone()),
        "text_feat" => to_vec(step.feats[1].clone()),
        "image_feat_m" => to_vec(step.feats[2].clone()),
        "text_feat_m" => to_vec(step.feats[3].clone()),
        "sim_i2t" => to_vec(step.sims[0].clone()),
        "sim_t2i" => to_vec(step.sims[1].clone()),
        "sim_i2t_m" => to_vec(step.sims_m[0].clone()),
        "sim_t2i_m" => to_vec(step.sims_m[1].clone()),
        "sim_i2t_targets" => to_vec(step.targets[0].clone()),
        "sim_t2i_targets" => to_vec(step.targets[1].clone()),
        "sim_targets" => {
            let [rows, columns] = step.sims[0].dims();
            crate::objectives::itc::positives(rows, None, columns - rows)
        }
        "vl_output" => to_vec(step.itm_logits.clone()),
        "mlm_logits" => to_vec(step.mlm_logits.clone()?),
        "mlm_logits_m" => to_vec(run.teacher_words(step)?),
        "weights_i2t" => negatives(&step.sims[0]),
        "weights_t2i" => negatives(&step.sims[1]),
        "image_queue" => queue(true),
        "text_queue" => queue(false),
        _ => return None,
    })
}

pub(super) fn trajectory(set: &GoldenSet, fixture: &Value) -> Result<Outcome> {
    let mut c = Comparison::new(fixture)?;
    let (config, state) = set.model(fixture)?;
    let t = set.tensors(fixture, "inputs.safetensors")?;
    let expected = set.tensors(fixture, "expected.safetensors")?;
    let plan = set.json(fixture, "steps.json")?;
    let number = |v: &Value| v.as_f64().unwrap_or(f64::NAN);
    let schedule = CosineSchedule {
        lr: number(&plan["optimizer"]["lr"]),
        min_lr: number(&plan["scheduler"]["min_lr"]),
        warmup_lr: number(&plan["scheduler"]["warmup_lr"]),
        warmup_epochs: plan["scheduler"]["warmup_epochs"].as_u64().unwrap_or(0),
        epochs: plan["scheduler"]["epochs"].as_u64().unwrap_or(1),
    };
    let mut run = Run::new(config.clone(), &state)?;
    let betas = (number(&plan["betas"][0]), number(&plan["betas"][1]));
    let decay = number(&plan["optimizer"]["weight_decay"]);
    let mut optimizer = Optimizer::new(&run.online, decay, betas, number(&plan["eps"]));
    let mut lr = schedule.initial();
    for (i, step) in plan["steps"].as_array().into_iter().flatten().enumerate() {
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
        let batch = Batch {
            images: t.on(&format!("step{image}.image"), set.device())?,
            image_ids: (0..tokens.len() as i64).collect(),
            related: Vec::new(),
            text: tokens,
        };
        if let Some(at) = step["scheduler_step_before"].as_u64() {
            lr = schedule.at(at);
        }
        c.numbers("loss.lr", &[lr], &[number(&step["lr_used"])]);
        let settings = settings(set, &config, number(&step["alpha"]))?;
        let (out, weights) = run.step(set.momentum()?, &batch, &settings, draws)?;
        for (name, loss) in
            [("loss_mlm", &out.loss_mlm), ("loss_ita", &out.loss_ita), ("loss_itm", &out.loss_itm)]
        {
            let got = f64::from(to_vec(loss.clone())[0]);
            c.numbers(&format!("{name}.step{i}"), &[got], &[number(&step[name])]);
        }
        let mut gradients = gradients(&run.online, &weights, &out.loss());
        drop((out, weights));
        let gradients = run.online.entries().iter().map(|p| gradients.remove(&p.name)).collect();
        optimizer.step(lr, &mut run.online, gradients);
        let temp = parameter(&run.online, "temp").unwrap_or_default();
        let temp: Vec<f64> = temp.into_iter().map(f64::from).collect();
        c.numbers("temp_after", &temp, &[number(&step["temp_after"])]);
        let ptr = step["queue_ptr_after"].as_i64().unwrap_or(-1);
        c.integers("queue_ptr", &[run.queues.ptr() as i64], &[ptr]);
        if let Some(at) = step["scheduler_step_after"].as_u64() {
            lr = schedule.at(at);
        }
    }
    let place: HashMap<&str, usize> =
        run.online.entries().iter().enumerate().map(|(i, p)| (p.name.as_str(), i)).collect();
    for name in expected.names() {
        if name == "queue_ptr" {
            c.integers(&name, &[run.queues.ptr() as i64], &expected.integers(&name)?);
            continue;
        }
        let moments = |n: &str| optimizer.moments()[*place.get(n)?].clone();
        let (images, texts) = run.queues.rows();
        let got = match name.split_once('.') {
            Some(("param", n)) => parameter(&run.online, n).or_else(|| parameter(&run.momentum, n)),
            Some(("exp_avg", n)) => moments(n).map(|m| to_vec(m.exp_avg)),
            Some(("exp_avg_sq", n)) => moments(n).map(|m| to_vec(m.exp_avg_sq)),
            _ if name == "image_queue" => {
                Some(transposed(&images, run.queues.len(), config.embed_dim))
            }
            _ if name == "text_queue" => {
                Some(transposed(&texts, run.queues.len(), config.embed_dim))
            }
            _ => parameter(&run.momentum, name.trim_start_matches("momentum.")),
        };
        match got {
            Some(got) => c.tensor(&name, &got, &expected.floats(&name)?),
            None => c.fail(format!("`{name}` is not computed here")),
        }
    }
    compare_checksums(set, fixture, &run.momentum, &mut c)?;
    c.finish()
}
