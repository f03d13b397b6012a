//! The fused way equals the plain way, dropout included, and training does not grow in memory.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::sync::atomic::AtomicBool;

use albef::config::ModelConfig;
use albef::init::{fresh_params, fresh_queues};
use albef::model::{Albef, TokenBatch};
use albef::objectives::masking::SpecialIds;
use albef::objectives::pretrain::{Batch, Draws, Settings, forward};
use albef::ops::{Ops, Precision};
use albef::params::{cpu, tensor, values};
use albef::weights::{copy_for_momentum, momentum_encoders};

fn small() -> ModelConfig {
    let mut config = ModelConfig::nano();
    config.vision.image_res = 32;
    config.text.vocab_size = 120;
    config.text.max_positions = 32;
    config.embed_dim = 24;
    config
}

/// Losses and all gradients of one step.
fn step(ops: Ops) -> (Vec<f32>, Vec<Vec<f32>>) {
    step_with(ops, 0.4, true)
}

/// The same with a weight of the pseudo-targets, and with or without them for masked words.
fn step_with(ops: Ops, alpha: f64, mlm_mod: bool) -> (Vec<f32>, Vec<Vec<f32>>) {
    let config = small();
    let device = cpu();
    let online = fresh_params(&config, 0.07, 3, &device).unwrap();
    let weights = online.tracked(ops);
    let model = Albef::new(&config, &weights).unwrap();
    let teacher =
        momentum_encoders(&copy_for_momentum(&online).unwrap(), &config, Precision::F32).unwrap();
    let pixels = (0..3 * 3 * 32 * 32).map(|i| (i as f32 * 0.017).sin()).collect();
    let texts: Vec<Vec<u32>> = vec![vec![2, 30, 31, 32, 40], vec![2, 50], vec![2, 60, 61, 62]];
    let batch = Batch {
        images: tensor(pixels, [3, 3, 32, 32], &device),
        text: TokenBatch::packed(&texts),
        image_ids: vec![0, 1, 2],
        related: Vec::new(),
    };
    let settings = Settings {
        alpha,
        ita: true,
        itm: true,
        mlm: true,
        mlm_mod,
        hard_negatives: true,
        negative_temp: None,
        mlm_probability: 0.4,
        image_index: true,
        dropout: 0.1,
        momentum_dropout: 0.0,
        special: SpecialIds { pad: 0, cls: 2, mask: 4 },
        vocab_size: 120,
    };
    let queues = fresh_queues(7, config.embed_dim, 1, &device);
    let out = forward(&model, &teacher, &queues, &batch, &settings, Draws::Seeded(5)).unwrap();
    let losses = [&out.loss_mlm, &out.loss_ita, &out.loss_itm];
    let losses = losses.map(|l| values(l.clone().inner())[0]).to_vec();
    let mut all = out.loss().backward();
    let gradients = online
        .entries()
        .iter()
        .map(|p| weights.leaf(&p.name).unwrap().value.grad_remove(&mut all).map_or(vec![], values))
        .collect();
    (losses, gradients)
}

#[test]
fn fused_and_plain_steps_agree_in_losses_and_gradients() {
    let (fused, plain) = (step(Ops::Fused(Precision::F32)), step(Ops::Plain));
    for (a, b) in fused.0.iter().zip(&plain.0) {
        assert!((a - b).abs() < 1e-4, "{:?} {:?}", fused.0, plain.0);
    }
    for (i, (a, b)) in fused.1.iter().zip(&plain.1).enumerate() {
        assert_eq!(a.len(), b.len(), "gradient {i}");
        let top = b.iter().fold(1e-4_f32, |m, v| m.max(v.abs()));
        let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 2e-3 * top, "gradient {i}: {worst} of {top}");
    }
}

#[test]
fn masked_words_alone_can_do_without_the_momentum_model() {
    let of = |alpha, mlm_mod| step_with(Ops::Fused(Precision::F32), alpha, mlm_mod).0;
    let (both, contrast, none) = (of(0.4, true), of(0.4, false), of(0.0, true));
    let [mlm, ita] = [0, 1];
    assert_eq!((contrast[mlm], contrast[ita]), (none[mlm], both[ita]));
    assert!(both[mlm] != none[mlm] && both[ita] != none[ita], "{both:?} {none:?}");
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmRSS:"));
    line.and_then(|l| l.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
}

#[test]
fn memory_stays_flat_over_two_hundred_steps() {
    use albef_data::dataset::{Dataset, Location, Sample};
    let dir = tempfile::tempdir().unwrap();
    let samples = (0..8)
        .map(|i| {
            let path = dir.path().join(format!("{i}.png"));
            let image = albef_data::image::RgbImage::filled(20, 20, [i * 30, 9, 9]);
            std::fs::write(&path, albef_data::scenes::png(&image).unwrap()).unwrap();
            Sample {
                location: Location::File(path),
                name: i.to_string(),
                captions: vec![format!("picture number {i} of red")],
                key: i.to_string(),
                task: Default::default(),
            }
        })
        .collect();
    let settings: Vec<String> = [
        "preset=nano",
        "image_res=16",
        "batch_size=4",
        "queue_size=8",
        "vocab=corpus",
        "checkpoint_every=100000",
        "schedular.epochs=1000",
        "max_steps=200",
    ]
    .map(String::from)
    .to_vec();
    let config = albef::config::PretrainConfig::parse("", &settings).unwrap();
    let data = Dataset::from_samples(samples);
    let mut trainer =
        albef::train::trainer::Trainer::with_data(config, data, dir.path(), &cpu()).unwrap();
    let mut early = 0;
    let mut step = 0;
    trainer
        .run(&AtomicBool::new(false), &mut |_| {
            step += 1;
            if step == 60 {
                early = resident_kib();
            }
            Ok(())
        })
        .unwrap();
    let late = resident_kib();
    assert!(late < early + 80 * 1024, "{early} KiB after 60 steps, {late} after 200");
}
