//! What a step needs of objectives beyond the values that fixtures record.

use super::distill::{DistillAxis, DistillTerms, entropy};
use super::itc::Contrast;
use super::masking::SpecialIds;
use super::momentum::copy_for_momentum;
use super::rng::StepRng;
use super::*;
use crate::init::{fresh_params, fresh_queues};
use crate::params::{Params, cpu};
use crate::task::TaskRef;
use albef_data::dataset::Target;
use albef_data::text::TokenBatch;
use burn::tensor::activation;

fn row(values: &[f32]) -> Tensor<1> {
    from_vec(values.to_vec(), [values.len()], &cpu())
}

fn terms(hard: f32, soft: f32, kl: Option<f32>) -> DistillTerms<1> {
    DistillTerms { hard: row(&[hard]), soft: row(&[soft]), kl: kl.map(|v| row(&[v])) }
}

/// A batch of two captioned images.
fn two_pairs(config: &ModelConfig) -> Batch {
    let side = config.vision.image_res;
    Batch {
        images: vec![0.1; 2 * 3 * side * side],
        text: TokenBatch::packed(&[vec![2, 7, 8], vec![2, 9]]),
        image_ids: vec![0, 1],
        ..Batch::default()
    }
}

/// Runs `test` on a step of `config` with the weights `online`.
fn on_step<T>(
    config: &ModelConfig,
    online: &Params,
    test: impl FnOnce(&StepContext<'_>) -> T,
) -> T {
    test(&StepContext {
        model: config,
        special: SpecialIds { pad: 0, cls: 2, mask: 4 },
        momentum: &copy_for_momentum(online).unwrap(),
        queues: &fresh_queues(7, config.embed_dim, 1, &cpu()),
        alpha: 0.4,
        step: 0,
        rng: &StepRng::Seeded(5),
        precision: Precision::F32,
        trace: false,
    })
}

#[test]
fn pixels_of_a_batch_are_whole_images() {
    let config = ModelConfig::nano();
    let online = fresh_params(&TaskRef::pretrain().schema(&config), 0.07, 3, &cpu()).unwrap();
    let side = config.vision.image_res;
    let plane = 3 * side * side;
    on_step(&config, &online, |cx| {
        let of = |pixels| cx.images(&Batch { images: vec![0.0; pixels], ..Batch::default() });
        assert_eq!(of(2 * plane).unwrap().dims(), [2, 3, side, side]);
        for odd in [1, plane - 1, plane + 1] {
            let error = of(odd).unwrap_err().to_string();
            assert!(error.contains(&odd.to_string()), "{error}");
        }
    });
    let mut empty = config.clone();
    empty.vision.image_res = 0;
    on_step(&empty, &online, |cx| assert!(cx.images(&Batch::default()).is_err()));
}

/// `-log softmax(sims)[i, i]` over rows, the mean of all rows; `sims` `[n, n]`.
fn on_the_diagonal(sims: &[f32], n: usize) -> f32 {
    let of_row = |i: usize| {
        let row = &sims[i * n..(i + 1) * n];
        row.iter().map(|s| s.exp()).sum::<f32>().ln() - row[i]
    };
    (0..n).map(of_row).sum::<f32>() / n as f32
}

#[test]
fn contrast_within_the_batch_is_that_of_clip_with_gradients_on_both_sides() {
    let feat = |seed: f32| {
        let values: Vec<f32> = (0..12).map(|i| (i as f32 * seed).sin()).collect();
        from_vec(values, [3, 4], &cpu())
    };
    let [image, text, other]: [Tensor<2>; 3] = [1.3, 2.1, 0.4].map(feat);
    let temp: Tensor<1> = row(&[0.1]);
    let leaf = |x: &Tensor<2>| Tensor::from_inner(x.clone()).require_grad();
    let of = |within| {
        let leaves = [leaf(&image), leaf(&text)];
        let [a, b] = leaves.clone();
        let feats = [a, b, other.clone(), other.clone()];
        let queues = fresh_queues(0, 4, 1, &cpu());
        let contrast =
            Contrast::new(&feats, &Tensor::from_inner(temp.clone()), &queues, None, 0.0, within);
        let mut gradients = contrast.loss().backward();
        (to_vec(contrast.loss().inner())[0], leaves.map(|l| l.grad_remove(&mut gradients)))
    };
    let sims = to_vec(image.clone().matmul(text.clone().transpose()) / 0.1);
    let turned: Vec<f32> = (0..9).map(|i| sims[i % 3 * 3 + i / 3]).collect();
    let expected = (on_the_diagonal(&sims, 3) + on_the_diagonal(&turned, 3)) / 2.0;
    let (loss, gradients) = of(true);
    assert!((loss - expected).abs() < 1e-5, "{loss} {expected}");

    // The gradient of an image also comes from the direction of the texts: a difference quotient shows it.
    let [of_image, of_text] = gradients.map(|g| to_vec(g.unwrap()));
    let moved = |i: usize, by: f32| {
        let mut values = to_vec(image.clone());
        values[i] += by;
        let moved: Tensor<2> = from_vec(values, [3, 4], &cpu());
        let sims = to_vec(moved.matmul(text.clone().transpose()) / 0.1);
        let turned: Vec<f32> = (0..9).map(|i| sims[i % 3 * 3 + i / 3]).collect();
        (on_the_diagonal(&sims, 3) + on_the_diagonal(&turned, 3)) / 2.0
    };
    for (i, g) in of_image.iter().enumerate() {
        let quotient = (moved(i, 1e-3) - moved(i, -1e-3)) / 2e-3;
        assert!((g - quotient).abs() < 0.02 * quotient.abs().max(0.1), "{i}: {g} {quotient}");
    }
    assert!(of_text.iter().any(|g| g.abs() > 1e-3));
    assert_ne!(of(false).0, loss);
}

#[test]
fn each_image_keeps_other_patches_and_a_seed_the_same() {
    let rng = StepRng::Seeded(5);
    let kept = rng.patches(3, 16, 6);
    assert_eq!(kept, rng.patches(3, 16, 6));
    assert_ne!(kept, StepRng::Seeded(6).patches(3, 16, 6));
    let of_image: Vec<&[usize]> = kept.chunks(6).collect();
    assert_eq!(of_image.len(), 3);
    assert!(of_image[0] != of_image[1] && of_image[1] != of_image[2], "{of_image:?}");
    for patches in of_image {
        assert!(patches.windows(2).all(|w| w[0] < w[1]) && patches[5] < 16, "{patches:?}");
    }
    let mut seen = vec![0; 16];
    for patch in rng.patches(4000, 16, 6) {
        seen[patch] += 1;
    }
    assert!(seen.iter().all(|n| (1350..1650).contains(n)), "{seen:?}");
}

#[test]
fn losses_are_found_by_name_and_added_up() {
    let mut losses = Losses::of("first", row(&[2.0]));
    losses.push("second", row(&[0.5]));
    let value = |name| losses.get(name).map(|loss| to_vec(loss.clone())[0]);
    assert_eq!((value("first"), value("second"), value("third")), (Some(2.0), Some(0.5), None));
    assert_eq!(losses.values(), [("first", 2.0), ("second", 0.5)]);
    assert_eq!(to_vec(losses.total().unwrap()), [2.5]);
    assert!(Losses::default().total().is_none());
}

#[test]
fn both_directions_count_half_in_each_metric() {
    let names = ["hard", "soft", "kl"];
    let mean = terms(1.0, 2.0, Some(3.0)).mean_with(terms(2.0, 5.0, Some(8.0)));
    assert_eq!(mean.named(names), [("hard", 1.5), ("soft", 3.5), ("kl", 5.5)]);
    let without = terms(1.0, 2.0, Some(3.0)).mean_with(terms(2.0, 5.0, None));
    assert_eq!(without.named(names), [("hard", 1.5), ("soft", 3.5)]);
}

#[test]
fn the_divergence_of_contrast_is_soft_loss_less_entropy() {
    let wave =
        |n: usize, scale: f32| (0..n).map(|i| ((i * i) as f32 * 0.37).sin() * scale).collect();
    let grid = |scale| -> Tensor<2> { from_vec(wave(12, scale), [3, 4], &cpu()) };
    let (sims, sims_m) = (grid(2.0), grid(5.0));
    let (log_p, teacher) =
        (activation::log_softmax(sims, 1), activation::softmax(sims_m.clone(), 1));
    let positives = from_vec(itc::positives(3, None, 1), [3, 4], &cpu());
    let found = itc::terms(log_p.clone(), teacher.clone(), sims_m.clone(), positives);
    let mean_of = |q: &[f32]| {
        let p = to_vec(log_p.clone());
        -p.iter().zip(q).map(|(p, q)| f64::from(p * q)).sum::<f64>() / 3.0
    };
    let [hard, soft, kl] = found.named(["hard", "soft", "kl"]).try_into().unwrap();
    let h =
        to_vec(entropy(teacher.clone(), sims_m)).iter().map(|v| f64::from(*v)).sum::<f64>() / 3.0;
    assert!((soft.1 - mean_of(&to_vec(teacher))).abs() < 1e-5);
    assert!((hard.1 - mean_of(&itc::positives(3, None, 1))).abs() < 1e-5);
    assert!((kl.1 - (soft.1 - h)).abs() < 1e-5 && kl.1 > 0.1, "{kl:?}");
}

#[test]
fn matching_accuracy_is_the_share_of_right_pairs() {
    let logits = from_vec(vec![0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0], [4, 2], &cpu());
    assert_eq!(itm::accuracy(&logits, &[1, 0, 0, 0]), Some(0.5));
    assert_eq!(itm::accuracy(&from_vec(Vec::new(), [0, 2], &cpu()), &[]), None);
}

#[test]
fn a_classifier_names_its_loss_and_refuses_labels_that_it_lacks() {
    let config = ModelConfig::nano();
    let task = TaskRef::named("ve").unwrap();
    let online = fresh_params(&task.schema(&config), 0.07, 3, &cpu()).unwrap();
    let objective = ClassificationObjective {
        images: ImagesPerText::One,
        classes: 3,
        distill: true,
        dropout: 0.0,
        momentum_dropout: 0.0,
    };
    let side = config.vision.image_res;
    let batch = |labels: [usize; 2]| Batch {
        images: (0..2 * 3 * side * side).map(|i| (i as f32 * 0.017).sin()).collect(),
        text: TokenBatch::packed(&[vec![2, 5, 6], vec![2, 5]]),
        targets: labels.map(Target::Label).to_vec(),
        ..Batch::default()
    };
    let weights = online.trainable(Ops::for_device(&cpu()));
    on_step(&config, &online, |cx| {
        let found = objective.forward(cx, &weights, &batch([0, 2])).unwrap();
        let names: Vec<&str> = found.losses.iter().map(|(name, _)| name).collect();
        assert_eq!(names, objective.losses());
        let parts: Vec<&str> = found.metrics.iter().map(|(name, _)| *name).collect();
        assert_eq!(parts, ["cls_hard", "cls_soft", "cls_kl"]);
        let error = objective.forward(cx, &weights, &batch([0, 3])).unwrap_err().to_string();
        assert!(error.contains("label is 3, of 3 classes"), "{error}");
    });
    let alone = ClassificationObjective { distill: false, ..objective };
    assert_eq!((objective.uses_momentum(), alone.uses_momentum()), (true, false));
}

#[test]
fn negatives_are_drawn_by_the_soft_max_over_the_candidates_admitted() {
    let logits = [80.0, 2.0, 1.0, 0.0, -500.0, -500.5, -501.0, 3.0];
    let allowed = |row: usize, j: usize| if row == 0 { j != 0 } else { j != 3 };
    let mut counts = [[0_u32; 4]; 2];
    let draws = 4000;
    for i in 0..draws {
        let u = (f64::from(i) + 0.5) / f64::from(draws);
        let drawn = negatives::sample_negatives(&logits, 4, allowed, |_| u);
        for (row, j) in drawn.into_iter().enumerate() {
            counts[row][j.unwrap()] += 1;
        }
    }
    // e^2, e and 1 of their sum; 1, e^-0.5 and e^-1 of theirs.
    for (found, want) in
        [(counts[0], [0.0, 0.665, 0.245, 0.090]), (counts[1], [0.506, 0.307, 0.186, 0.0])]
    {
        for (n, share) in found.into_iter().zip(want) {
            assert!((f64::from(n) / f64::from(draws) - share).abs() < 2e-3, "{found:?} {want:?}");
        }
    }
    assert_eq!(negatives::sample_negatives(&[1.0, 2.0], 2, |_, _| false, |_| 0.5), [None]);
    // What has no probability is not drawn at the lower end either.
    assert_eq!(negatives::sample_negatives(&[-1e6, 0.0], 2, |_, _| true, |_| 0.0), [Some(1)]);
}

#[test]
fn sharpness_decides_how_hard_negatives_are() {
    // Each row has one near candidate among seven.
    let n = 8;
    let near = |i: usize| (i + 1) % n;
    let sims = |of: &dyn Fn(usize, usize) -> bool| {
        let values = (0..n * n).map(|at| if of(at / n, at % n) { 1.0 } else { 0.0 }).collect();
        from_vec(values, [n, n], &cpu())
    };
    let both = [sims(&|i, j| j == near(i)), sims(&|i, j| j == near(i))];
    let share = |sharpness: Option<f64>| {
        let hits: usize = (0..50)
            .map(|seed| {
                let rng = StepRng::Seeded(seed);
                let drawn = itm::Negatives::draw(&both, sharpness, |i, j| i != j, &rng);
                let hit = |of: &[Option<usize>]| {
                    of.iter().enumerate().filter(|(i, j)| **j == Some(near(*i))).count()
                };
                hit(&drawn.images) + hit(&drawn.texts)
            })
            .sum();
        hits as f64 / (50.0 * 2.0 * n as f64)
    };
    // e^s / (e^s + 6), the softmax over the candidates.
    for (sharpness, expected) in [(None, 1.0 / 7.0), (Some(3.0), 0.77), (Some(20.0), 1.0)] {
        let found = share(sharpness);
        assert!((found - expected).abs() < 0.05, "{sharpness:?}: {found}");
    }
}

#[test]
fn the_bounds_of_masking_are_those_of_the_paper() {
    let special = SpecialIds { pad: 0, cls: 1, mask: 2 };
    let masked = |mask: f32, replace: f32, random: f32| {
        let draw = masking::MaskDraw { mask, replace, random, word: 77 };
        let (ids, targets) = masking::mask_tokens(&[9], special, 0.15, |_| draw);
        (ids[0], targets[0])
    };
    // Below 0.15 a token is a target; of these four fifths become [MASK], and half of the others a random word.
    assert_eq!(masked(0.15, 0.0, 0.0), (9, None));
    assert_eq!(masked(0.149, 0.799, 0.0), (2, Some(9)));
    assert_eq!(masked(0.149, 0.8, 0.499), (77, Some(9)));
    assert_eq!(masked(0.149, 0.8, 0.5), (9, Some(9)));
}

#[test]
fn captions_without_a_masked_token_have_a_loss_of_zero() {
    let config = ModelConfig::nano();
    let online = fresh_params(&TaskRef::pretrain().schema(&config), 0.07, 3, &cpu()).unwrap();
    let weights = online.trainable(Ops::for_device(&cpu()));
    let batch = two_pairs(&config);
    for mlm_distill_axis in [DistillAxis::Vocabulary, DistillAxis::Sequence] {
        let objective =
            PairsObjective { mlm_probability: 0.0, mlm_distill_axis, ..PairsObjective::default() };
        let found = on_step(&config, &online, |cx| objective.forward(cx, &weights, &batch));
        let losses = found.unwrap().losses;
        let (name, loss) = losses.iter().next().unwrap();
        assert_eq!((name, to_vec(loss.clone().inner())), ("train_loss_mlm", vec![0.0]));
    }
}

#[test]
fn a_loss_takes_part_where_it_is_switched_on_and_once_contrast_had_its_steps() {
    let config = ModelConfig::nano();
    let online = fresh_params(&TaskRef::pretrain().schema(&config), 0.07, 3, &cpu()).unwrap();
    let weights = online.trainable(Ops::for_device(&cpu()));
    let batch = two_pairs(&config);
    let names = |itm, mlm, itc_only_steps| {
        let objective = PairsObjective { itm, mlm, itc_only_steps, ..PairsObjective::default() };
        on_step(&config, &online, |cx| {
            let found = objective.forward(cx, &weights, &batch).unwrap();
            found.losses.iter().map(|(name, _)| name).collect::<Vec<_>>()
        })
    };
    let (mlm, ita, itm) = ("train_loss_mlm", "train_loss_ita", "train_loss_itm");
    assert_eq!(names(true, true, 0), [mlm, ita, itm]);
    assert_eq!(names(false, true, 0), [mlm, ita]);
    assert_eq!(names(true, false, 0), [ita, itm]);
    assert_eq!(names(false, false, 0), [ita]);
    assert_eq!(names(true, true, 1), [ita]);
    assert_eq!(PairsObjective::default().losses(), [mlm, ita, itm]);
    assert_eq!(PairsObjective::retrieval().losses(), [ita, itm]);
}

#[test]
fn a_batch_has_a_text_and_an_id_for_each_image_and_is_not_empty() {
    let config = ModelConfig::nano();
    let online = fresh_params(&TaskRef::pretrain().schema(&config), 0.07, 3, &cpu()).unwrap();
    let weights = online.trainable(Ops::for_device(&cpu()));
    let pairs = || two_pairs(&config);
    let one_text = TokenBatch::packed(&[vec![2, 7, 8]]);
    let odd = [
        Batch { text: one_text, ..pairs() },
        Batch { image_ids: vec![0], ..pairs() },
        Batch { images: vec![0.1; pairs().images.len() / 2], ..pairs() },
        Batch::default(),
    ];
    for batch in odd {
        let found = on_step(&config, &online, |cx| {
            PairsObjective::default().forward(cx, &weights, &batch).map(|_| ())
        });
        assert!(matches!(found, Err(Error::ImageOfText { .. })), "{found:?}");
    }
}

#[test]
fn questions_have_one_loss_and_a_momentum_model_where_it_distills() {
    let of = |distill| {
        let axis = DistillAxis::Vocabulary;
        VqaObjective { distill, axis, dropout: 0.0, momentum_dropout: 0.0 }
    };
    assert_eq!(of(true).losses(), ["train_loss"]);
    assert!(of(true).uses_momentum() && !of(false).uses_momentum());
}

#[test]
fn a_question_without_an_answer_is_named() {
    let config = ModelConfig::nano();
    let online = fresh_params(&TaskRef::pretrain().schema(&config), 0.07, 3, &cpu()).unwrap();
    let weights = online.trainable(Ops::for_device(&cpu()));
    let axis = DistillAxis::Vocabulary;
    let objective = VqaObjective { distill: false, axis, dropout: 0.0, momentum_dropout: 0.0 };
    let answered = || Target::Answers(vec![("yes".into(), 1.0)]);
    let asked = |targets| {
        let batch = Batch { targets, samples: vec![7, 9], ..two_pairs(&config) };
        let run = |cx: &StepContext<'_>| objective.forward(cx, &weights, &batch).map(|_| ());
        on_step(&config, &online, run).unwrap_err().to_string()
    };
    let open = asked(vec![answered(), Target::None]);
    assert!(open.contains("question 9 of the training list has no `answer`"), "{open}");
    // The weights are those of another task.
    let all = asked(vec![answered(), answered()]);
    assert!(all.contains("the weights have no"), "{all}");
}

#[test]
fn text_assignment_needs_three_pairs_and_no_momentum_model() {
    let config = ModelConfig::nano();
    let online = fresh_params(&TaskRef::pretrain().schema(&config), 0.07, 3, &cpu()).unwrap();
    let weights = online.trainable(Ops::for_device(&cpu()));
    let objective = TextAssignmentObjective { dropout: 0.0 };
    assert_eq!((objective.losses(), objective.uses_momentum()), (&["train_loss"][..], false));
    let of = |batch: Batch| {
        let run = |cx: &StepContext<'_>| objective.forward(cx, &weights, &batch).map(|_| ());
        on_step(&config, &online, run).unwrap_err().to_string()
    };
    assert!(of(two_pairs(&config)).contains("needs 3 or more, not 2"));
    let three = TokenBatch::packed(&[vec![2, 7], vec![2, 8], vec![2, 9]]);
    // The weights are those of another task.
    assert!(of(Batch { text: three, ..two_pairs(&config) }).contains("the weights have no"));
}

#[test]
fn of_a_batch_longer_than_the_queue_its_end_is_kept() {
    let rows =
        |values: &[f32]| -> Tensor<2> { from_vec(values.to_vec(), [values.len(), 1], &cpu()) };
    let queue = |ptr| {
        let start = || vec![0.0; 3];
        Queues::new(start(), start(), vec![9; 3], ptr, 1, &cpu())
    };
    // (features pushed, place before, features and place after)
    let cases: [(&[f32], usize, [f32; 3], usize); 4] = [
        (&[1.0, 2.0], 2, [2.0, 0.0, 1.0], 1),
        (&[1.0, 2.0, 3.0], 1, [3.0, 1.0, 2.0], 1),
        (&[1.0, 2.0, 3.0, 4.0, 5.0], 0, [4.0, 5.0, 3.0], 2),
        (&[1.0, 2.0, 3.0, 4.0, 5.0], 2, [5.0, 3.0, 4.0], 1),
    ];
    for (pushed, ptr, want, end) in cases {
        let mut queues = queue(ptr);
        let ids: Vec<i64> = pushed.iter().map(|value| *value as i64).collect();
        queues.push(rows(pushed), rows(pushed) * 10.0, &ids);
        assert_eq!(queues.rows(), (want.to_vec(), want.map(|value| value * 10.0).to_vec()));
        let of = |value: &f32| if *value == 0.0 { 9 } else { *value as i64 };
        assert_eq!((queues.ids(), queues.ptr()), (&*want.iter().map(of).collect::<Vec<_>>(), end));
    }
    let none = Queues::none(1, &queue(0));
    assert!(none.is_empty() && none.image().is_none() && none.text().is_none());
}

#[test]
fn negatives_are_hard_from_their_step_on() {
    let at = |hard_negatives, hard_negatives_start| {
        let objective =
            PairsObjective { hard_negatives, hard_negatives_start, ..PairsObjective::default() };
        [0, 9, 10, 11].map(|step| objective.draws_hard(step))
    };
    assert_eq!(at(true, 10), [false, false, true, true]);
    assert_eq!(at(true, 0), [true; 4]);
    assert_eq!(at(false, 0), [false; 4]);
}
