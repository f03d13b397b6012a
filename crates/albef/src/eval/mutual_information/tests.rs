//! The mutual-information view against plain double precision on what the official code computed.

use std::path::Path;

use crate::config::ModelConfig;
use crate::eval::mutual_information::{MutualInformation, Parts, Report, other_images};
use crate::golden::GoldenSet;
use crate::model::{Albef, Encoders, TokenBatch};
use crate::objectives::masking::MaskDraw;
use crate::objectives::momentum::{momentum_encoders, update_average};
use crate::objectives::queue::Queues;
use crate::ops::{Ops, Precision};
use crate::params::cpu;
use crate::train::temperature::clamp_temperature;
use albef_data::dataset::Batch;
use albef_weights::StateDict;

/// A recorded step: the parts of the model before it, its batch, its draws, and its results.
struct Recorded {
    model: Albef,
    teacher: Encoders,
    queues: Queues,
    batch: Batch,
    masks: Vec<MaskDraw>,
    config: ModelConfig,
    set: GoldenSet,
    expected: StateDict,
}

fn root() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden")
}

fn recorded(name: &str) -> Recorded {
    let device = cpu();
    let set = GoldenSet::open(&root(), &device).unwrap();
    let fixture = set.fixtures().find(|f| f["name"] == name).unwrap().clone();
    let (config, state) = set.model(&fixture).unwrap();
    let t = set.tensors(&fixture, "inputs.safetensors").unwrap();
    let (ids, seen) = (t.integers("input_ids").unwrap(), t.integers("attention_mask").unwrap());
    let width = t.shape("input_ids").unwrap()[1];
    let rows: Vec<usize> = (0..ids.len()).filter(|i| seen[*i] == 1).collect();
    let texts: Vec<Vec<u32>> = (0..ids.len() / width)
        .map(|b| rows.iter().filter(|i| **i / width == b).map(|i| ids[*i] as u32).collect())
        .collect();
    let floats = |name: &str| t.floats(name).unwrap();
    let (mask, replace, random) = (floats("u_mask"), floats("u_replace"), floats("u_random"));
    let words = t.integers("random_words").unwrap();
    let draw = |i: &usize| MaskDraw {
        mask: mask[*i],
        replace: replace[*i],
        random: random[*i],
        word: words[*i] as u32,
    };
    // A step moves the momentum model before it looks at the batch.
    let (mut online, mut momentum) = (state.online.clone(), state.momentum.clone());
    clamp_temperature(&mut online);
    let rate = fixture["params"]["momentum"].as_f64().unwrap_or(set.momentum().unwrap());
    update_average(rate, &mut momentum, &mut online);
    Recorded {
        model: Albef::new(&config, &online.frozen(Ops::for_device(&device))).unwrap(),
        teacher: momentum_encoders(&momentum, &config, Precision::F32).unwrap(),
        queues: state.queues.unwrap(),
        batch: Batch {
            images: t.floats("image").unwrap(),
            text: TokenBatch::packed(&texts),
            image_ids: (0..texts.len() as i64).collect(),
            ..Batch::default()
        },
        masks: rows.iter().map(draw).collect(),
        expected: albef_weights::read(&set.file(&fixture, "expected.safetensors").unwrap())
            .unwrap()
            .tensors,
        config,
        set,
    }
}

impl Recorded {
    fn parts(&self) -> Parts<'_> {
        Parts {
            model: &self.model,
            teacher: Some(&self.teacher),
            queues: Some(&self.queues),
            special: self.set.special().unwrap(),
            mlm_probability: self.set.mlm_probability().unwrap(),
        }
    }

    fn measure(&self, parts: &Parts<'_>, batch: &Batch) -> Report {
        let other = other_images(&batch.image_ids, 0).unwrap();
        let mut mi = MutualInformation::default();
        mi.add(parts, batch, |row| self.masks[row], &other).unwrap();
        mi.report()
    }

    fn rows(&self, name: &str) -> Vec<Vec<f64>> {
        let host = self.expected.get(name).unwrap();
        let wide: Vec<f64> = host.to_f32().unwrap().iter().map(|v| f64::from(*v)).collect();
        wide.chunks(*host.shape.last().unwrap()).map(<[f64]>::to_vec).collect()
    }

    fn number(&self, name: &str) -> f64 {
        f64::from(self.expected.get(name).unwrap().to_f32().unwrap()[0])
    }

    fn words(&self) -> Vec<usize> {
        let labels = self.expected.get("mlm_labels").unwrap().to_i64().unwrap();
        labels.into_iter().filter(|l| *l >= 0).map(|l| l as usize).collect()
    }
}

/// By the definitions: mean loss, entropy of q, KL(q || p), mass of q on the label.
fn plain(p: &[Vec<f64>], q: &[Vec<f64>], label: impl Fn(usize) -> usize) -> [f64; 4] {
    let softmax = |row: &[f64]| -> Vec<f64> {
        let sum: f64 = row.iter().map(|v| v.exp()).sum();
        row.iter().map(|v| v.exp() / sum).collect()
    };
    let mut sums = [0.0; 4];
    for (b, (p, q)) in p.iter().zip(q).enumerate() {
        let (p, q) = (softmax(p), softmax(q));
        sums[0] -= p[label(b)].ln();
        sums[1] -= q.iter().map(|q| q * q.ln()).sum::<f64>();
        sums[2] += q.iter().zip(&p).map(|(q, p)| q * (q / p).ln()).sum::<f64>();
        sums[3] += q[label(b)];
    }
    sums.map(|s| s / p.len() as f64)
}

fn close(got: f64, wanted: f64, what: &str) {
    assert!((got - wanted).abs() < 2e-4 * wanted.abs().max(0.05), "{what}: {got} for {wanted}");
}

#[test]
fn the_official_similarities_and_word_logits_give_the_same_numbers() {
    for name in ["pretrain_step_alpha0", "pretrain_step_alpha04"] {
        let r = recorded(name);
        let report = r.measure(&r.parts(), &r.batch);
        assert_eq!((report.pairs, report.itc.candidates), (4, 28));
        let ceiling = 28.0_f64.ln();
        for (direction, p, q) in
            [(&report.itc.i2t, "sim_i2t", "sim_i2t_m"), (&report.itc.t2i, "sim_t2i", "sim_t2i_m")]
        {
            let [loss, entropy, kl, mass] = plain(&r.rows(p), &r.rows(q), |b| b);
            close(direction.bound.loss, loss, p);
            close(direction.bound.bound, ceiling - loss, p);
            close(direction.teacher.entropy, entropy, q);
            close(direction.teacher.effective_views, entropy.exp(), q);
            close(direction.teacher.kl, kl, q);
            close(direction.teacher.mass_on_label, mass, q);
            // With one positive a row both losses are one.
            close(direction.multi_positive_loss, loss, p);
        }
        assert_eq!((report.itc.positives, report.itc.multi_positive_floor), (1.0, 0.0));
        let mlm = report.mlm.unwrap();
        let words = r.words();
        assert_eq!(mlm.words, words.len());
        let (p, q) = (r.rows("mlm_logits"), r.rows("mlm_logits_m"));
        let [loss, entropy, kl, mass] = plain(&p, &q, |w| words[w]);
        close(mlm.own_image.loss, loss, "words");
        close(mlm.own_image.bound, (r.config.text.vocab_size as f64).ln() - loss, "words");
        close(mlm.teacher.entropy, entropy, "words");
        close(mlm.teacher.kl, kl, "words");
        close(mlm.teacher.mass_on_label, mass, "words");
        if name.ends_with("alpha0") {
            // Without pseudo-targets the recorded losses are the hard ones.
            close(report.itc.mean.loss, r.number("loss_ita"), "loss_ita");
            close(mlm.own_image.loss, r.number("loss_mlm"), "loss_mlm");
        }
    }
}

#[test]
fn another_image_is_that_image_in_the_place_of_the_own() {
    let r = recorded("pretrain_step_alpha0");
    let mlm = r.measure(&r.parts(), &r.batch).mlm.unwrap();
    let mut rolled = r.batch.images.clone();
    let image = rolled.len() / 4;
    rolled.rotate_left(image);
    let batch = Batch { images: rolled, ..r.batch.clone() };
    let swapped = r.measure(&r.parts(), &batch).mlm.unwrap();
    close(mlm.other_image.loss, swapped.own_image.loss, "other image");
    close(mlm.difference, swapped.own_image.loss - mlm.own_image.loss, "difference");
    assert!(mlm.difference.abs() > 1e-6, "the image plays a part");
}

#[test]
fn a_model_that_is_its_own_teacher_agrees_where_its_features_meet() {
    let r = recorded("pretrain_step_alpha0");
    let parts = Parts { teacher: None, queues: None, ..r.parts() };
    let mut batch = r.batch.clone();
    batch.image_ids = vec![5, 5, 7, 8];
    let report = r.measure(&parts, &batch);
    let itc = report.itc;
    assert_eq!((itc.candidates, itc.positives), (4, 1.5));
    close(itc.multi_positive_floor, 2.0_f64.ln() / 2.0, "floor");
    for d in [itc.i2t, itc.t2i] {
        assert!(d.teacher.kl.abs() < 1e-9, "{d:?}");
        assert!(d.bound.bound <= itc.ceiling && d.multi_positive_loss >= itc.multi_positive_floor);
    }
    assert!(report.mlm.unwrap().teacher.kl.abs() < 1e-9);
}

#[test]
fn batches_of_other_sizes_and_of_one_image_are_refused() {
    assert_eq!(other_images(&[1, 1, 2], 0).unwrap(), [2, 2, 0]);
    assert_eq!(other_images(&[1, 2, 3], 1).unwrap(), [2, 0, 1]);
    assert!(other_images(&[4, 4], 0).unwrap_err().to_string().contains("image id"));
    let r = recorded("pretrain_step_alpha0");
    let mut mi = MutualInformation::default();
    mi.add(&r.parts(), &r.batch, |row| r.masks[row], &[1, 2, 3, 0]).unwrap();
    let fewer = Parts { queues: None, ..r.parts() };
    let error = mi.add(&fewer, &r.batch, |row| r.masks[row], &[1, 2, 3, 0]).unwrap_err();
    assert!(error.to_string().contains("4 candidates after one with 28"), "{error}");
}
