//! The golden replay finds faults: with one put into the training step, the fixtures that are listed
//! beside it fail, and without one all pass.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use super::{GoldenSet, outcome};
use crate::fault::{Fault, with};
use crate::params::cpu;

/// The kinds of fixtures that run the training step or its optimizer.
const KINDS: [&str; 8] = [
    "pretrain_step",
    "trajectory",
    "adamw",
    "retrieval_train",
    "vqa_train",
    "ve_train",
    "nlvr_train",
    "ta_step",
];

/// The fixtures that fail with a fault in.
fn failing(fault: Option<Fault>) -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let set = GoldenSet::open(&root, &cpu()).unwrap();
    let mut failing = BTreeSet::new();
    let mut kinds = BTreeSet::new();
    for fixture in set.fixtures() {
        let text = |key: &str| fixture[key].as_str().unwrap().to_owned();
        let (name, kind) = (text("name"), text("kind"));
        if !KINDS.contains(&kind.as_str()) {
            continue;
        }
        let replay = || outcome(&set, &kind, fixture, 1.0).unwrap();
        let replayed = catch_unwind(AssertUnwindSafe(|| with(fault, replay)));
        if !matches!(replayed, Ok(Ok(outcome)) if outcome.passed()) {
            failing.insert(name);
        }
        kinds.insert(kind);
    }
    assert_eq!(kinds.len(), KINDS.len());
    failing
}

#[test]
fn without_a_fault_every_fixture_of_training_passes() {
    assert_eq!(failing(None), BTreeSet::new());
}

macro_rules! faults {
    ($($test:ident: $fault:ident => [$($fixture:literal),+ $(,)?];)+) => {
        $(
            #[test]
            fn $test() {
                let want = [$($fixture),+].map(str::to_owned);
                assert_eq!(failing(Some(Fault::$fault)), BTreeSet::from(want));
            }
        )+

        #[test]
        fn every_fault_is_tried() {
            let tried = [$(Fault::$fault),+];
            assert_eq!(tried.len(), Fault::ALL.len());
            assert!(Fault::ALL.iter().all(|fault| tried.contains(fault)));
        }
    };
}

faults! {
    accumulated_gradients_that_are_not_averaged: AccumulationNotAveraged => ["pretrain_step_alpha0", "pretrain_step_alpha04"];
    the_distillation_weight_of_the_next_step: AlphaOfNextStep => ["trajectory"];
    labels_of_text_assignment_swapped: AssignmentLabelsSwapped => ["ta_step"];
    a_bias_correction_that_is_off_by_one: BiasCorrectionOffByOne => ["adamw", "trajectory"];
    a_temperature_that_is_not_clamped: ClampLeftOut => ["pretrain_step_alpha0", "pretrain_step_alpha04"];
    targets_without_the_momentum_model: HardLabelsOnly => ["nlvr_train_distill", "pretrain_step_alpha04", "trajectory", "ve_train_distill", "vqa_train_distill_alpha04"];
    image_ids_that_are_ignored: ImageIdsIgnored => ["retrieval_train_distill_alpha00", "retrieval_train_distill_alpha04", "retrieval_train_plain_alpha04"];
    negatives_that_are_labelled_as_matches: MatchingLabelsOfNegatives => ["pretrain_step_alpha0", "pretrain_step_alpha04","retrieval_train_distill_alpha00", "retrieval_train_distill_alpha04", "retrieval_train_plain_alpha04","trajectory"];
    labels_of_masked_tokens_shifted: MaskedLabelsShifted => ["pretrain_step_alpha0", "pretrain_step_alpha04","trajectory"];
    a_momentum_update_after_the_forward_pass: MomentumAfterForward => ["nlvr_train_distill", "pretrain_step_alpha0", "pretrain_step_alpha04", "retrieval_train_distill_alpha00", "retrieval_train_distill_alpha04", "retrieval_train_plain_alpha04", "trajectory", "ve_train_distill", "vqa_train_distill_alpha04"];
    negatives_of_the_wrong_side: NegativesOfWrongSide => ["pretrain_step_alpha0", "pretrain_step_alpha04","retrieval_train_distill_alpha00", "retrieval_train_distill_alpha04", "retrieval_train_plain_alpha04","trajectory"];
    features_of_the_trained_model_in_the_queues: OnlineFeaturesInQueue => ["pretrain_step_alpha0", "pretrain_step_alpha04","retrieval_train_distill_alpha00", "retrieval_train_distill_alpha04", "retrieval_train_plain_alpha04","trajectory"];
    targets_of_the_trained_model: OnlineTargets => ["pretrain_step_alpha0", "pretrain_step_alpha04", "retrieval_train_distill_alpha04", "trajectory"];
    queues_that_are_filled_before_the_loss: QueueBeforeLoss => ["pretrain_step_alpha0", "pretrain_step_alpha04","retrieval_train_distill_alpha00", "retrieval_train_distill_alpha04", "retrieval_train_plain_alpha04","trajectory"];
    a_schedule_that_is_a_step_ahead: ScheduleStepTooEarly => ["trajectory"];
    a_temperature_without_gradient: TemperatureGradientDropped => ["pretrain_step_alpha0", "pretrain_step_alpha04","retrieval_train_distill_alpha00", "retrieval_train_distill_alpha04", "retrieval_train_plain_alpha04","trajectory"];
    weight_decay_on_biases: WeightDecayOnBiases => ["trajectory"];
    answers_without_their_weights: WeightsOfAnswersIgnored => ["vqa_train_distill_alpha00", "vqa_train_distill_alpha04", "vqa_train_plain_alpha00"];
}
