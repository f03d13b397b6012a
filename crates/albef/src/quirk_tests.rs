//! Switches for errors of the official code do what that code did; the defaults do not (docs/src/reference/quirks.md).

use crate::config::ModelConfig;
use crate::eval::answers::{Candidates, RankRule, rank};
use crate::eval::grounding::best_box;
use crate::init::{fresh_params, fresh_queues};
use crate::model::{
    Albef, Branch, DropoutRng, ImageContext, ImageStates, OutputRows, TokenBatch, VqaModel,
};
use crate::objectives::distill::DistillAxis;
use crate::objectives::masking::SpecialIds;
use crate::objectives::momentum::copy_for_momentum;
use crate::objectives::pairs::PairsTrace;
use crate::objectives::rng::StepRng;
use crate::objectives::vqa::VqaTrace;
use crate::objectives::{Losses, Metric, Objective, PairsObjective, StepContext, VqaObjective};
use crate::ops::{Ops, Precision};
use crate::params::{Params, cpu, from_vec, to_vec};
use crate::task::TaskRef;
use albef_data::dataset::{Answers, Batch};
use burn::tensor::Tensor;

const WORDS: usize = 90;
const ALPHA: f64 = 0.4;

fn small() -> ModelConfig {
    let mut config = ModelConfig::nano();
    config.vision.image_res = 32;
    config.text.vocab_size = WORDS;
    config.text.max_positions = 32;
    config.embed_dim = 24;
    config
}

fn pixels(n: usize) -> Vec<f32> {
    (0..n * 3 * 32 * 32).map(|i| (i as f32 * 0.017).sin()).collect()
}

fn images(n: usize) -> Tensor<4> {
    from_vec(pixels(n), [n, 3, 32, 32], &cpu())
}

fn texts() -> Vec<Vec<u32>> {
    vec![vec![2, 30, 31, 32, 40, 41], vec![2, 50, 51], vec![2, 60, 61, 62]]
}

/// Weights that predict something: fresh ones are near zero.
fn loud(mut params: Params) -> Params {
    for (name, value) in params.values_mut() {
        if name.ends_with(".weight") && !name.contains("orm") {
            *value = value.clone() * 4.0;
        }
    }
    params
}

fn log_softmax(row: &[f32]) -> Vec<f64> {
    let top = row.iter().fold(f64::MIN, |m, v| m.max(f64::from(*v)));
    let sum: f64 = row.iter().map(|v| (f64::from(*v) - top).exp()).sum();
    row.iter().map(|v| f64::from(*v) - top - sum.ln()).collect()
}

/// `- sum over words of softmax(teacher) log softmax(logits over positions)` at a position of a text,
/// whose logits are `[length, WORDS]`.
fn soft_over_positions(text: &[f32], at: usize, teacher: &[f32]) -> f64 {
    let teacher = log_softmax(teacher);
    let term = |w: usize| {
        let column: Vec<f32> = text.chunks(WORDS).map(|row| row[w]).collect();
        teacher[w].exp() * log_softmax(&column)[at]
    };
    -(0..WORDS).map(term).sum::<f64>()
}

fn settings() -> PairsObjective {
    PairsObjective {
        mlm_probability: 0.5,
        dropout: 0.0,
        momentum_dropout: 0.0,
        ..PairsObjective::default()
    }
}

/// What a forward pass gives, its intermediates unpacked.
struct Seen<T> {
    losses: Losses,
    metrics: Vec<Metric>,
    trace: T,
}

/// A forward pass of these weights and a momentum model's.
fn seen<T: Clone + 'static>(
    objective: &dyn Objective,
    [online, momentum]: [Params; 2],
    batch: &Batch,
) -> Seen<T> {
    let config = small();
    let cx = StepContext {
        model: &config,
        special: SpecialIds { pad: 0, cls: 2, mask: 4 },
        momentum: &copy_for_momentum(&momentum).unwrap(),
        queues: &fresh_queues(7, config.embed_dim, 1, &cpu()),
        alpha: ALPHA,
        step: 0,
        rng: &StepRng::Seeded(5),
        precision: Precision::F32,
        trace: true,
    };
    let weights = online.trainable(Ops::Fused(Precision::F32));
    let forward = objective.forward(&cx, &weights, batch).unwrap();
    let trace = forward.trace.unwrap().downcast_ref::<T>().unwrap().clone();
    Seen { losses: forward.losses, metrics: forward.metrics, trace }
}

/// Weights of a model and of its teacher.
fn pair() -> [Params; 2] {
    [3, 4].map(|seed| {
        loud(fresh_params(&TaskRef::pretrain().schema(&small()), 0.07, seed, &cpu()).unwrap())
    })
}

/// A forward pass on three images of the given ids.
fn pretrain_step(settings: &PairsObjective, image_ids: [i64; 3]) -> Seen<PairsTrace> {
    let batch = Batch {
        images: pixels(3),
        text: TokenBatch::packed(&texts()),
        image_ids: image_ids.to_vec(),
        ..Batch::default()
    };
    seen(settings, pair(), &batch)
}

fn part(step: &[(&'static str, f64)], name: &str) -> f64 {
    step.iter().find(|(n, _)| *n == name).unwrap().1
}

fn number(loss: &Tensor<1>) -> f64 {
    f64::from(to_vec(loss.clone().inner())[0])
}

#[test]
fn masked_words_can_be_distilled_over_the_positions_of_the_padded_text() {
    let config = small();
    let [online, _] = pair();
    let [words, positions] = [DistillAxis::Vocabulary, DistillAxis::Sequence]
        .map(|axis| PairsObjective { mlm_distill_axis: axis, ..settings() })
        .map(|settings| pretrain_step(&settings, [0, 1, 2]));
    let masked = positions.trace.masked.clone().unwrap();
    assert_eq!(words.trace.masked.as_ref().unwrap().labels, masked.labels);
    let hard = [&words, &positions].map(|s| part(&s.metrics, "mlm_hard"));
    assert!((hard[0] - hard[1]).abs() < 1e-5, "{hard:?}");

    // Logits of every position of the masked captions, padded to the longest.
    let lengths = texts().iter().map(Vec::len).collect::<Vec<_>>();
    let width = *lengths.iter().max().unwrap();
    let mut ids = Vec::new();
    let mut row = 0;
    for n in &lengths {
        ids.extend_from_slice(&masked.ids[row..row + n]);
        ids.resize(ids.len() + width - n, 0);
        row += n;
    }
    let padded = TokenBatch::padded(&ids, width, &lengths);
    let model = Albef::new(&config, &online.frozen(Ops::Fused(Precision::F32))).unwrap();
    let encoders = &model.encoders;
    let states = encoders.visual_encoder.forward(images(3)).unwrap();
    let context = ImageContext { states: &states, image_of: &[0, 1, 2], visible: None };
    let none = &mut DropoutRng::none();
    let hidden =
        encoders.text_encoder.multi_modal(&padded, context, OutputRows::All, none, None).unwrap();
    let logits = to_vec(encoders.mlm_head.as_ref().unwrap().forward(hidden));
    let teacher = to_vec(positions.trace.mlm_logits_m.clone().unwrap());

    let mut terms = Vec::new();
    let mut row = 0;
    for (b, n) in lengths.iter().enumerate() {
        for at in 0..*n {
            if masked.labels[row + at].is_some() {
                let text = &logits[b * width * WORDS..][..width * WORDS];
                let teacher = &teacher[terms.len() * WORDS..][..WORDS];
                terms.push(soft_over_positions(text, at, teacher));
            }
        }
        row += n;
    }
    let soft = terms.iter().sum::<f64>() / terms.len() as f64;
    let got = part(&positions.metrics, "mlm_soft");
    assert!((got - soft).abs() < 1e-4 * soft, "{got} instead of {soft}");
    let loss = number(positions.losses.get("train_loss_mlm").unwrap());
    assert!((loss - ((1.0 - ALPHA) * hard[1] + ALPHA * soft)).abs() < 1e-4 * loss);
    assert!((part(&words.metrics, "mlm_soft") - soft).abs() > 0.1, "the axis makes a difference");
    // Over positions there is no divergence of two distributions.
    assert!(words.metrics.iter().any(|(n, _)| *n == "mlm_kl"));
    assert!(positions.metrics.iter().all(|(n, _)| *n != "mlm_kl"));
}

#[test]
fn the_parts_of_contrast_make_up_its_loss() {
    let step = pretrain_step(&settings(), [0, 1, 2]);
    let of = |name| part(&step.metrics, name);
    let loss = number(step.losses.get("train_loss_ita").unwrap());
    assert!((loss - ((1.0 - ALPHA) * of("ita_hard") + ALPHA * of("ita_soft"))).abs() < 1e-4);
    let (mut soft, mut kl) = (0.0, 0.0);
    for (sims, sims_m) in step.trace.contrast.sims.iter().zip(&step.trace.contrast.sims_m) {
        let (p, q) = (to_vec(sims.clone().inner()), to_vec(sims_m.clone()));
        for (p, q) in p.chunks(10).zip(q.chunks(10)) {
            for (p, q) in log_softmax(p).into_iter().zip(log_softmax(q)) {
                soft -= q.exp() * p / 6.0;
                kl += q.exp() * (q - p) / 6.0;
            }
        }
    }
    assert!((of("ita_soft") - soft).abs() < 1e-4 && (of("ita_kl") - kl).abs() < 1e-4);
    assert!((0.0..=1.0).contains(&of("itm_accuracy")));
}

#[test]
fn without_a_masked_word_or_a_negative_a_step_goes_on_and_says_so() {
    let none_masked =
        pretrain_step(&PairsObjective { mlm_probability: 0.0, ..settings() }, [0, 1, 2]);
    assert_eq!(number(none_masked.losses.get("train_loss_mlm").unwrap()), 0.0);
    assert!(number(&none_masked.losses.total().unwrap()).is_finite());
    let by_id = PairsObjective { image_index: true, ..settings() };
    let alike = pretrain_step(&by_id, [7, 7, 7]);
    assert_eq!(alike.trace.itm_labels, [1, 1, 1]);
    assert_eq!(part(&alike.metrics, "itm_rows_without_negative"), 6.0);
    assert!(number(&alike.losses.total().unwrap()).is_finite());
    let apart = pretrain_step(&by_id, [7, 8, 9]);
    assert!(apart.metrics.iter().all(|(name, _)| *name != "itm_rows_without_negative"));
}

#[test]
fn captions_of_one_image_are_negatives_unless_the_index_is_used() {
    let targets = |image_index| {
        let settings = PairsObjective { image_index, distill: false, ..settings() };
        to_vec(pretrain_step(&settings, [7, 7, 8]).trace.contrast.targets[0].clone())[..3].to_vec()
    };
    assert_eq!(targets(false), [1.0, 0.0, 0.0]);
    assert_eq!(targets(true), [0.5, 0.5, 0.0]);
}

#[test]
fn all_patches_are_the_image_and_some_are_another_sequence() {
    let config = small();
    let params = loud(fresh_params(&TaskRef::pretrain().schema(&config), 0.07, 3, &cpu()).unwrap());
    let weights = params.frozen(Ops::Fused(Precision::F32));
    let vision = Albef::new(&config, &weights).unwrap().encoders.visual_encoder;
    let patches = config.vision.tokens() - 1;
    let whole = vision.forward(images(2)).unwrap();
    let all: Vec<usize> = (0..patches).chain(0..patches).collect();
    let same = vision.forward_some(images(2), &all).unwrap();
    assert_eq!(to_vec(same.tokens), to_vec(whole.tokens.clone()));
    let some = vision.forward_some(images(2), &[0, 2, 1, 3]).unwrap();
    assert_eq!((some.length, some.tokens.dims()[0]), (3, 6));
    assert_ne!(to_vec(some.class_tokens()), to_vec(whole.class_tokens()));
}

#[test]
fn without_momentum_contrast_a_step_sees_fewer_patches_and_no_teacher() {
    let settings = |patch_dropout| PairsObjective {
        momentum_contrast: false,
        distill: false,
        patch_dropout,
        ..settings()
    };
    let [whole, part] = [0.0, 0.5].map(|share| pretrain_step(&settings(share), [0, 1, 2]));
    let tokens = small().vision.tokens();
    assert_eq!((whole.trace.image.length, part.trace.image.length), (tokens, (tokens - 1) / 2 + 1));
    // The seven entries of the queue take no part.
    assert_eq!(whole.trace.contrast.sims[0].dims(), [3, 3]);
    let feats = &whole.trace.feats;
    assert_eq!(to_vec(feats[2].clone()), to_vec(feats[0].clone().inner()));
    assert_eq!(to_vec(feats[3].clone()), to_vec(feats[1].clone().inner()));
    for step in [whole, part] {
        for name in ["train_loss_ita", "train_loss_itm", "train_loss_mlm"] {
            assert!(number(step.losses.get(name).unwrap()).is_finite());
        }
    }
}

#[test]
fn the_teacher_has_dropout_of_its_own() {
    let [still, noisy] = [0.0, 0.1]
        .map(|p| pretrain_step(&PairsObjective { momentum_dropout: p, ..settings() }, [0, 1, 2]));
    let feats = |step: &Seen<PairsTrace>, i: usize| to_vec(step.trace.feats[i].clone().inner());
    assert_eq!(feats(&still, 1), feats(&noisy, 1));
    let text_m = |step: &Seen<PairsTrace>| to_vec(step.trace.feats[3].clone());
    assert_ne!(text_m(&still), text_m(&noisy));
}

#[test]
fn a_queue_that_the_batch_does_not_divide_goes_on_at_its_start() {
    let mut queues = fresh_queues(5, 2, 1, &cpu());
    for round in 0..2_i64 {
        let feats = |s: f32| from_vec(vec![s + round as f32; 6], [3, 2], &cpu());
        queues.push(feats(0.25), feats(0.5), &[10 * round, 10 * round + 1, 10 * round + 2]);
    }
    assert_eq!((queues.ids(), queues.ptr()), (&[12, 1, 2, 10, 11][..], 1));
    assert_eq!(queues.rows().0, [1.25, 1.25, 0.25, 0.25, 0.25, 0.25, 1.25, 1.25, 1.25, 1.25]);
}

#[test]
fn where_no_box_scores_none_is_chosen() {
    assert_eq!(best_box(&[0.0, -1.0]), None);
    assert_eq!(best_box(&[0.1, 0.3, 0.3]), Some(1));
}

#[test]
fn answers_can_be_distilled_over_their_positions() {
    let config = small();
    let schema = TaskRef::named("vqa").unwrap().schema(&config);
    let fresh = |seed| loud(fresh_params(&schema, 0.07, seed, &cpu()).unwrap());
    let answers: Vec<Vec<u32>> = vec![vec![2, 70, 3], vec![2, 71, 72, 73, 3], vec![2, 74, 3]];
    let weights = vec![0.7, 0.3, 1.0];
    let tokens = TokenBatch::packed(&answers);
    let batch = Batch {
        images: pixels(2),
        text: TokenBatch::packed(&texts()[..2]),
        answers: Answers { tokens, question_of: vec![0, 0, 1], weights: weights.clone() },
        ..Batch::default()
    };
    let run = |axis| {
        let (dropout, momentum_dropout) = (0.0, 0.0);
        let objective = VqaObjective { distill: true, axis, dropout, momentum_dropout };
        seen::<VqaTrace>(&objective, [fresh(7), fresh(8)], &batch)
    };
    let [words, positions] = [DistillAxis::Vocabulary, DistillAxis::Sequence].map(run);
    let hard = [&words, &positions].map(|s| part(&s.metrics, "vqa_hard"));
    assert!((hard[0] - hard[1]).abs() < 1e-4, "{hard:?}");
    let width = 5;
    let logits = to_vec(positions.trace.logits.clone().inner());
    let taught = to_vec(positions.trace.logits_m.clone().unwrap());
    assert_eq!(logits.len(), 3 * width * WORDS);
    let mut soft = 0.0;
    for (i, answer) in answers.iter().enumerate() {
        // The last position predicts nothing and is dropped before.
        let text = &logits[i * width * WORDS..][..(width - 1) * WORDS];
        for at in 0..answer.len() - 1 {
            let teacher = &taught[(i * width + at) * WORDS..][..WORDS];
            let weight = f64::from(weights[i]) / 2.0;
            soft += weight * soft_over_positions(text, at, teacher);
        }
    }
    let got = part(&positions.metrics, "vqa_soft");
    assert!((got - soft).abs() < 1e-4 * soft, "{got} instead of {soft}");
    let loss = number(positions.losses.get("train_loss").unwrap());
    assert!((loss - ((1.0 - ALPHA) * hard[1] + ALPHA * soft)).abs() < 1e-4 * loss);
    assert!((part(&words.metrics, "vqa_soft") - soft).abs() > 0.1);
}

#[test]
fn answers_are_ranked_by_the_rule_and_equal_ones_by_their_number() {
    let config = small();
    let params = loud(
        fresh_params(&TaskRef::named("vqa").unwrap().schema(&config), 0.07, 7, &cpu()).unwrap(),
    );
    let weights = params.frozen(Ops::Fused(Precision::F32));
    let model = VqaModel::new(&config, &weights, Branch::Online).unwrap();
    let states: ImageStates = model.visual_encoder.forward(images(1)).unwrap();
    let questions = TokenBatch::packed(&texts()[..1]);
    let (long, short) = (vec![2, 71, 72, 73, 3], vec![2, 70, 3]);
    let tokens = vec![long.clone(), short.clone(), short.clone(), long.clone()];
    let lengths: Vec<f64> = tokens.iter().map(|t| t.len() as f64 - 1.0).collect();
    let candidates = Candidates::new(tokens).unwrap();
    let of = |k: usize, rule| {
        rank(&model, &states, &[0], &questions, &candidates, k, rule).unwrap().remove(0)
    };
    let [reference, chain, normalised] =
        [RankRule::Reference, RankRule::Chain, RankRule::Normalised].map(|rule| of(4, rule));
    assert_eq!(reference.shortlist, chain.shortlist);
    for (i, c) in reference.shortlist.iter().enumerate() {
        let once = chain.scores[i];
        assert!((reference.scores[i] - once - reference.first_token[*c].ln()).abs() < 1e-4);
        assert!((f64::from(normalised.scores[i]) - f64::from(once) / lengths[*c]).abs() < 1e-5);
    }
    for ranking in [&reference, &chain, &normalised] {
        let place = |c: usize| ranking.candidates.iter().position(|x| *x == c).unwrap();
        assert!(place(0) < place(3) && place(1) < place(2), "{:?}", ranking.candidates);
    }
    // The cut falls between two that are equal.
    let first = reference.shortlist[0];
    assert_eq!(of(1, RankRule::Reference).candidates, [first]);
    assert!(first < 2);
}

#[test]
fn answers_of_lavis_are_ranked_by_its_smoothed_loss() {
    let config = small();
    let params = loud(
        fresh_params(&TaskRef::named("vqa").unwrap().schema(&config), 0.07, 7, &cpu()).unwrap(),
    );
    let weights = params.frozen(Ops::Fused(Precision::F32));
    let model = VqaModel::new(&config, &weights, Branch::Online).unwrap();
    let images: ImageStates = model.visual_encoder.forward(images(1)).unwrap();
    let questions = TokenBatch::packed(&texts()[..1]);
    let answer = vec![2, 71, 72, 73, 3];
    let candidates = Candidates::new(vec![answer.clone()]).unwrap();
    let found = rank(&model, &images, &[0], &questions, &candidates, 1, RankRule::Lavis).unwrap();
    let none = &mut DropoutRng::none();
    let states = model.question_states(&images, &[0], &questions, none).unwrap();
    let tokens = TokenBatch::packed(std::slice::from_ref(&answer));
    let decoded = model.decode(&tokens, &questions, states, &[0], none).unwrap();
    let logits = to_vec(model.head.forward(decoded));
    let mut want = 0.0;
    for (row, target) in logits.chunks(WORDS).zip(&answer[1..]) {
        let sum: f64 = row.iter().map(|l| f64::from(*l).exp()).sum();
        let log_p: Vec<f64> = row.iter().map(|l| f64::from(*l) - sum.ln()).collect();
        let mean = log_p.iter().sum::<f64>() / WORDS as f64;
        want += 0.9 * log_p[*target as usize] + 0.1 * mean;
    }
    let got = f64::from(found[0].scores[0]);
    assert!((got - want).abs() < 1e-3 * want.abs(), "{got} instead of {want}");
}
