use std::collections::BTreeSet;

use albef_data::text::TokenBatch;

use super::*;
use crate::init::{fresh_params, fresh_queues};
use crate::objectives::PairsObjective;
use crate::objectives::momentum::copy_for_momentum;
use crate::params::{cpu, from_vec};
use crate::task::TaskRef;
use crate::train::optimizer::Optimizer;
use crate::train::schedule::CosineSchedule;

fn small() -> ModelConfig {
    let mut config = ModelConfig::nano();
    config.vision.image_res = 16;
    config.text.vocab_size = 60;
    config.embed_dim = 8;
    config
}

fn settings() -> StepSettings {
    let cosine = CosineSchedule {
        lr: 1e-3,
        min_lr: 1e-4,
        warmup_lr: 1e-5,
        warmup_epochs: 0,
        epochs: 2,
        iterations_per_step: 1,
    };
    StepSettings {
        model: small(),
        special: SpecialIds { pad: 0, cls: 2, mask: 4 },
        schedule: Schedule::PerStep { cosine, warmup_steps: 4, total_steps: 8 },
        alpha: 0.4,
        warm_up: false,
        momentum: 0.9,
        train_temp: true,
        precision: Precision::F32,
        seed: 3,
        grad_accum_steps: 2,
        batches_per_epoch: 4,
        replay: None,
    }
}

fn state() -> TrainState {
    let config = small();
    let online = fresh_params(&TaskRef::pretrain().schema(&config), 0.07, 3, &cpu()).unwrap();
    TrainState {
        momentum: copy_for_momentum(&online).unwrap(),
        queues: fresh_queues(6, config.embed_dim, 1, &cpu()),
        optimizer: Optimizer::new(&online, 0.02, (0.9, 0.999), 1e-8),
        online,
        place: TrainProgress::default(),
    }
}

fn batch(shift: f32) -> Batch {
    Batch {
        images: (0..2 * 3 * 16 * 16).map(|i| (i as f32 * 0.03 + shift).sin()).collect(),
        text: TokenBatch::packed(&[vec![2, 30, 31, 32], vec![2, 40, 41]]),
        image_ids: vec![0, 1],
        samples: vec![0, 1],
        ..Batch::default()
    }
}

/// What the forward passes of a step gave.
#[derive(Default)]
struct Seen(Vec<BTreeMap<&'static str, f64>>);

impl StepProbe for Seen {
    fn forward(&mut self, losses: &Losses, _trace: Option<Box<dyn Any>>) {
        self.0.push(losses.values().into_iter().collect());
    }
}

#[test]
fn every_batch_of_every_step_has_draws_of_its_own() {
    let settings = settings();
    let mut seeds = BTreeSet::new();
    for step in 0..5 {
        for i in 0..2 {
            let progress = TrainProgress { step, ..TrainProgress::default() };
            let StepRng::Seeded(seed) = settings.rng(&progress, i).unwrap() else {
                panic!("given")
            };
            assert_eq!(seed, derive_seed(3, 2 * step + i as u64));
            assert!(seeds.insert(seed), "step {step}, batch {i}");
        }
    }
    let given = StepSettings { replay: Some(vec![Replay::default()]), ..settings };
    assert!(given.rng(&TrainProgress::default(), 0).is_ok());
    let missing = given.rng(&TrainProgress::default(), 1).unwrap_err();
    assert!(missing.to_string().contains("1 batches of a step only"), "{missing}");
}

#[test]
fn batches_of_one_step_are_one_iteration_of_the_official_schedule() {
    let StepSettings { schedule: Schedule::PerStep { cosine, .. }, .. } = settings() else {
        panic!("another schedule")
    };
    let cosine = CosineSchedule { warmup_epochs: 5, ..cosine };
    let settings = StepSettings { schedule: Schedule::Official(cosine), ..settings() };
    let at = |batch| TrainProgress { batch, ..TrainProgress::default() };
    for (batch, iteration) in [(0, 0), (2, 1), (6, 3)] {
        assert_eq!(settings.learning_rate(&at(batch)), settings.schedule.rate(0, 0, iteration));
    }
    assert!(settings.learning_rate(&at(2)) < settings.learning_rate(&at(6)));
    let ramped = StepSettings { warm_up: true, ..settings };
    assert_eq!([0, 1, 4].map(|batch| ramped.distillation_weight(&at(batch))), [0.0, 0.1, 0.4]);
}

#[test]
fn a_step_counts_its_batches_and_reports_the_means_of_their_losses() {
    let (mut state, objective, settings) = (state(), PairsObjective::default(), settings());
    let mut sums = BTreeMap::<&str, f64>::new();
    for step in 1..=3 {
        let mut seen = Seen::default();
        let batches = [batch(step as f32), batch(0.5)];
        let report = train_step(&mut state, &objective, &batches, &settings, &mut seen).unwrap();
        assert_eq!((state.place.step, state.place.batch), (step, 2 * step as usize));
        assert_eq!((report.step, report.epoch, report.alpha), (step, 0, 0.4));
        assert_eq!(report.train_lr, settings.schedule.rate(step - 1, 0, 0));
        let [first, second] = &seen.0[..] else { panic!("{} batches", seen.0.len()) };
        assert_eq!(report.losses.keys().copied().collect::<Vec<_>>(), objective_names());
        for (name, value) in &report.losses {
            assert!((value - (first[name] + second[name]) / 2.0).abs() < 1e-12, "{name}");
            *sums.entry(name).or_default() += value;
        }
        *sums.entry("train_lr").or_default() += report.train_lr;
    }
    assert_eq!(state.place.sums.len(), sums.len());
    for (name, want) in sums {
        let (total, n) = state.place.sums[name];
        assert!((total - want).abs() < 1e-12 && n == 3, "{name}: {total} of {n}");
    }
}

fn objective_names() -> Vec<&'static str> {
    let mut names = PairsObjective::default().losses().to_vec();
    names.sort_unstable();
    names
}

#[test]
fn one_batch_twice_changes_the_weights_as_it_does_once() {
    let deterministic = PairsObjective {
        mlm: false,
        hard_negatives: false,
        dropout: 0.0,
        momentum_dropout: 0.0,
        ..PairsObjective::default()
    };
    let stepped = |batches: &[Batch]| {
        let mut state = state();
        train_step(&mut state, &deterministic, batches, &settings(), &mut ()).unwrap();
        to_vec(state.online.get("vision_proj.weight").unwrap().value.clone())
    };
    let (once, twice) = (stepped(&[batch(1.0)]), stepped(&[batch(1.0), batch(1.0)]));
    let moved = to_vec(state().online.get("vision_proj.weight").unwrap().value.clone());
    assert!(once.iter().zip(&moved).any(|(a, b)| (a - b).abs() > 1e-6));
    for (a, b) in once.iter().zip(&twice) {
        assert!((a - b).abs() < 1e-6, "{a} {b}");
    }
}

#[test]
fn weights_with_which_losses_are_not_finite_are_found_before_they_are_kept() {
    let (mut state, objective, settings) = (state(), PairsObjective::default(), settings());
    assert!(check_finite_losses(&state, &objective, &batch(0.0), &settings, 0).is_ok());
    state.place.step = 7;
    let broken = Batch { images: vec![f32::NAN; 2 * 3 * 16 * 16], ..batch(0.0) };
    let found = check_finite_losses(&state, &objective, &broken, &settings, 2).unwrap_err();
    assert!(matches!(found, Error::NotFinite { step: 7, epoch: 2, .. }), "{found}");
    let found = train_step(&mut state, &objective, &[broken], &settings, &mut ()).unwrap_err();
    assert!(matches!(found, Error::NotFinite { step: 8, epoch: 0, .. }), "{found}");
    assert!(found.to_string().contains("is NaN"), "{found}");
    assert_eq!(state.place.step, 7);
}

#[test]
fn a_weight_that_becomes_too_large_is_named_with_the_step_that_made_it() {
    let schedule = match settings().schedule {
        Schedule::PerStep { cosine, total_steps, .. } => {
            let cosine = CosineSchedule { lr: 1e39, ..cosine };
            Schedule::PerStep { cosine, warmup_steps: 0, total_steps }
        }
        official => official,
    };
    let (mut state, settings) = (state(), StepSettings { schedule, ..settings() });
    state.place.step = 3;
    let objective = PairsObjective::default();
    let found = train_step(&mut state, &objective, &[batch(0.0)], &settings, &mut ()).unwrap_err();
    assert!(matches!(found, Error::NotFinite { step: 4, epoch: 0, .. }), "{found}");
    assert!(found.to_string().contains("became too large"), "{found}");
}

#[test]
fn a_gradient_that_some_batches_lack_counts_as_zero_in_these() {
    let of = |value: f32| Some(from_vec::<1>(vec![value], [1], &cpu()));
    let mut sum = StepSum::new(4);
    for gradients in [
        vec![of(8.0), None, None, None],
        vec![of(4.0), of(2.0), None, None],
        vec![None, of(6.0), of(1.0), None],
        vec![None, None, None, None],
    ] {
        sum.add_gradients(gradients);
    }
    let found: Vec<_> = sum.gradients.into_iter().map(|g| g.map(|g| to_vec(g)[0])).collect();
    assert_eq!(found, [Some(3.0), Some(2.0), Some(0.25), None]);
}
