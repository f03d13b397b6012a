//! The fused way equals the plain way, dropout included, also on other devices that are compiled in.

use crate::config::ModelConfig;
use crate::init::{fresh_params, fresh_queues};
use crate::model::TokenBatch;
use crate::objectives::masking::SpecialIds;
use crate::objectives::momentum::copy_for_momentum;
use crate::objectives::rng::StepRng;
use crate::objectives::{Objective, PairsObjective, StepContext};
use crate::ops::{Ops, Precision};
use crate::params::{cpu, to_vec};
use crate::task::TaskRef;
use albef_data::dataset::Batch;
use burn::tensor::Device;

fn small() -> ModelConfig {
    let mut config = ModelConfig::nano();
    config.vision.image_res = 32;
    config.text.vocab_size = 120;
    config.text.max_positions = 32;
    config.embed_dim = 24;
    config
}

/// Losses and all gradients of one step.
fn step(ops: Ops, device: &Device) -> (Vec<f32>, Vec<Vec<f32>>) {
    step_with(ops, 0.4, true, device)
}

/// The same with a weight of the pseudo-targets, and with or without them for masked words.
fn step_with(ops: Ops, alpha: f64, mlm_mod: bool, device: &Device) -> (Vec<f32>, Vec<Vec<f32>>) {
    let config = small();
    let online = fresh_params(&TaskRef::pretrain().schema(&config), 0.07, 3, device).unwrap();
    let weights = online.trainable(ops);
    let momentum = copy_for_momentum(&online).unwrap();
    let texts: Vec<Vec<u32>> = vec![vec![2, 30, 31, 32, 40], vec![2, 50], vec![2, 60, 61, 62]];
    let batch = Batch {
        images: (0..3 * 3 * 32 * 32).map(|i| (i as f32 * 0.017).sin()).collect(),
        text: TokenBatch::packed(&texts),
        image_ids: vec![0, 1, 2],
        ..Batch::default()
    };
    let objective = PairsObjective {
        mlm_mod,
        mlm_probability: 0.4,
        image_index: true,
        momentum_dropout: 0.0,
        ..PairsObjective::default()
    };
    let cx = StepContext {
        model: &config,
        special: SpecialIds { pad: 0, cls: 2, mask: 4 },
        momentum: &momentum,
        queues: &fresh_queues(7, config.embed_dim, 1, device),
        alpha,
        step: 0,
        rng: &StepRng::Seeded(5),
        precision: Precision::F32,
        trace: false,
    };
    let out = objective.forward(&cx, &weights, &batch).unwrap();
    let losses = out.losses.values().into_iter().map(|(_, value)| value as f32).collect();
    let mut all = out.losses.total().unwrap().backward();
    let gradients = online
        .entries()
        .iter()
        .map(|p| weights.leaf(&p.name).unwrap().value.grad_remove(&mut all).map_or(vec![], to_vec))
        .collect();
    (losses, gradients)
}

/// Compares losses with an absolute bound, gradients with one relative to their largest entry.
fn assert_agree(a: &(Vec<f32>, Vec<Vec<f32>>), b: &(Vec<f32>, Vec<Vec<f32>>)) {
    for (x, y) in a.0.iter().zip(&b.0) {
        assert!((x - y).abs() < 1e-4, "{:?} {:?}", a.0, b.0);
    }
    for (i, (a, b)) in a.1.iter().zip(&b.1).enumerate() {
        assert_eq!(a.len(), b.len(), "gradient {i}");
        let top = b.iter().fold(1e-4_f32, |m, v| m.max(v.abs()));
        assert!(a.iter().chain(b).all(|v| v.is_finite()), "gradient {i}");
        let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 2e-3 * top, "gradient {i}: {worst} of {top}");
    }
}

#[test]
fn masked_words_alone_can_do_without_the_momentum_model() {
    let of = |alpha, mlm_mod| step_with(Ops::Fused(Precision::F32), alpha, mlm_mod, &cpu()).0;
    let (both, contrast, none) = (of(0.4, true), of(0.4, false), of(0.0, true));
    let [mlm, ita] = [0, 1];
    assert_eq!((contrast[mlm], contrast[ita]), (none[mlm], both[ita]));
    assert!(both[mlm] != none[mlm] && both[ita] != none[ita], "{both:?} {none:?}");
}

#[test]
fn fused_and_plain_steps_agree_in_losses_and_gradients() {
    assert_agree(&step(Ops::Fused(Precision::F32), &cpu()), &step(Ops::Plain, &cpu()));
}

#[test]
fn a_step_in_bf16_stays_near_one_in_f32() {
    let [f32, bf16] = [Precision::F32, Precision::Bf16].map(|p| step(Ops::Fused(p), &cpu()));
    for (a, b) in f32.0.iter().zip(&bf16.0) {
        assert!((a - b).abs() < 2e-2 * a, "{:?} {:?}", f32.0, bf16.0);
    }
    let mut off = 0.0;
    let mut whole = 0.0;
    for (a, b) in f32.1.iter().flatten().zip(bf16.1.iter().flatten()) {
        off += f64::from(a - b).powi(2);
        whole += f64::from(*a).powi(2);
    }
    assert!(off < 1e-3 * whole, "gradients: {off} of {whole}");
    let unit = crate::ops::bf16_unit().is_some();
    assert_eq!(f32.0 != bf16.0, unit, "without a unit the two are the same");
}

/// Each device that this build and this machine offer, against the CPU.
#[cfg(any(feature = "vulkan", feature = "cuda"))]
mod devices {
    use super::*;
    use crate::device::{Kind, found, open};
    use crate::objectives::momentum::update_average;
    use crate::objectives::queue::Queues;
    use crate::params::{Params, from_vec};
    use crate::train::checkpoint::{TrainProgress, TrainState, list, load, save};
    use crate::train::optimizer::Optimizer;
    use crate::train::temperature::clamp_temperature;

    fn offered() -> Vec<Device> {
        let others = Kind::ALL.into_iter().filter(|k| *k != Kind::Cpu);
        let devices: Vec<Device> = others.flat_map(found).map(|f| open(&f.name).unwrap()).collect();
        assert!(
            !devices.is_empty(),
            "no driver finds a device; see docs/src/explanation/devices.md"
        );
        devices
    }

    #[test]
    fn a_step_agrees_with_the_cpu_in_losses_and_gradients() {
        let on_cpu = step(Ops::Fused(Precision::F32), &cpu());
        for device in offered() {
            assert_agree(&step(Ops::for_device(&device), &device), &on_cpu);
            // Fused kernels exist on the CPU alone; asking for them elsewhere is no panic.
            assert_agree(&step(Ops::Fused(Precision::F32), &device), &on_cpu);
        }
    }

    fn wave(n: usize, s: f32) -> Vec<f32> {
        (0..n).map(|i| ((i as f32 + 1.0) * s).sin()).collect()
    }

    fn fresh(device: &Device) -> TrainState {
        let mut online = Params::new(device);
        online.insert("text_encoder.w.weight", &[5, 7], wave(35, 0.3)).unwrap();
        online.insert("text_encoder.w.bias", &[5], wave(5, 0.9)).unwrap();
        online.insert("temp", &[], vec![0.9]).unwrap();
        let momentum = copy_for_momentum(&online).unwrap();
        let optimizer =
            Optimizer::new(&online, 0.02, (0.9, 0.999), 1e-8).scaled(&online, "text_encoder", 0.5);
        let queues = Queues::new(wave(18, 0.2), wave(18, 0.4), vec![0; 6], 0, 3, device);
        TrainState { online, momentum, queues, optimizer, place: TrainProgress::default() }
    }

    /// Clamps, averages, fills the queues past their end, and steps, once without a gradient.
    fn advance(state: &mut TrainState, device: &Device) {
        for i in 0..4_u64 {
            clamp_temperature(&mut state.online);
            update_average(0.9, &mut state.momentum, &mut state.online);
            let n = if i == 3 { 8 } else { 4 };
            let feats = |s: f32| from_vec(wave(n * 3, s + i as f32), [n, 3], device);
            state.queues.push(feats(0.1), feats(0.2), &[i as i64; 8][..n]);
            let gradient = |n: usize, s: f32| Some(from_vec(wave(n, s + i as f32), [n], device));
            let bias = if i == 1 { None } else { gradient(5, 0.7) };
            let gradients = vec![gradient(35, 0.6), bias, gradient(1, 0.8)];
            state.optimizer.step(1e-2, &mut state.online, gradients);
            state.place.step += 1;
        }
    }

    fn everything(state: &TrainState) -> Vec<f32> {
        let lists = [&state.online, &state.momentum];
        let mut all: Vec<f32> =
            lists.iter().flat_map(|l| l.entries()).flat_map(|p| to_vec(p.value.clone())).collect();
        for m in state.optimizer.moments().iter().flatten() {
            all.push(m.steps as f32);
            all.extend(to_vec(m.exp_avg.clone()));
            all.extend(to_vec(m.exp_avg_sq.clone()));
        }
        let (image, text) = state.queues.rows();
        all.extend(image);
        all.extend(text);
        all.extend(state.queues.ids().iter().map(|i| *i as f32));
        all.push(state.queues.ptr() as f32);
        all
    }

    #[test]
    fn state_changes_as_on_the_cpu_and_checkpoints_go_from_device_to_device() {
        let mut on_cpu = fresh(&cpu());
        advance(&mut on_cpu, &cpu());
        let want = everything(&on_cpu);
        for device in offered() {
            let mut state = fresh(&device);
            advance(&mut state, &device);
            let got = everything(&state);
            assert_eq!(got.len(), want.len());
            for (i, (a, b)) in got.iter().zip(&want).enumerate() {
                assert!((a - b).abs() < 1e-6 + 1e-5 * b.abs(), "value {i}: {a} instead of {b}");
            }
            let dir = tempfile::tempdir().unwrap();
            save(dir.path(), &state, 1).unwrap();
            let folder = list(dir.path()).unwrap().pop().unwrap();
            for target in [&device, &cpu()] {
                let mut again = fresh(target);
                load(&folder, &mut again, target).unwrap();
                assert_eq!(everything(&again), got);
                advance(&mut again, target);
            }
        }
    }
}
