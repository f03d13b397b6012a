//! Training steps of retrieval, entailment, statements about two images, and text assignment.

use burn::tensor::{Tensor, activation};
use serde_json::Value;

use super::encoders::padded_batch;
use super::pretrain::{compare_checksums, compare_gradients, gradients, packed};
use super::{Comparison, GoldenSet, Outcome};
use crate::checkpoint::{LoadedModel, momentum_encoders};
use crate::config::ModelConfig;
use crate::error::Result;
use crate::model::{
    Albef, AssignmentModel, Branch, DropoutRng, Nlvr2Model, TokenBatch, VisualEntailmentModel,
    Weights,
};
use crate::objectives::assignment::{self, AssignmentDraw};
use crate::objectives::classify::distilled_cross_entropy;
use crate::objectives::distill::DistillAxis;
use crate::objectives::pretrain::{Batch, Settings, StepRng, forward};
use crate::objectives::queue::{NO_ID, Queues};
use crate::ops::{Ops, Precision};
use crate::params::to_vec;
use crate::params::transposed;
use crate::train::optimizer::update_average;

/// What all task steps share: settings of the fixture, and the momentum update.
pub(super) struct TaskRun {
    pub config: ModelConfig,
    pub weights: LoadedModel,
    pub alpha: f64,
    pub distill: bool,
    momentum: f64,
}

impl TaskRun {
    pub fn new(set: &GoldenSet, fixture: &Value) -> Result<Self> {
        let (config, weights) = set.task_model(fixture)?;
        let params = &fixture["params"];
        Ok(Self {
            config,
            weights,
            alpha: params["alpha"].as_f64().unwrap_or(0.0),
            distill: params["distill"].as_bool().unwrap_or(false),
            momentum: params["momentum"].as_f64().map_or_else(|| set.momentum(), Ok)?,
        })
    }

    pub fn update_momentum(&mut self) {
        update_average(self.momentum, &mut self.weights.momentum, &mut self.weights.online);
    }

    pub fn trainable(&self) -> Weights {
        self.weights.online.trainable(Ops::for_device(self.weights.online.device()))
    }

    pub fn frozen(&self) -> Weights {
        self.weights.online.frozen(Ops::for_device(self.weights.online.device()))
    }

    pub fn teacher(&self) -> Weights {
        self.weights.momentum.frozen(Ops::for_device(self.weights.momentum.device()))
    }
}

/// Runs a replay with padding carried along, then without.
fn both_ways(
    set: &GoldenSet,
    fixture: &Value,
    one: impl Fn(&TokenBatch, &mut Comparison) -> Result<()>,
) -> Result<Outcome> {
    let mut c = Comparison::new(fixture)?;
    let t = set.tensors(fixture, "inputs.safetensors")?;
    match padded_batch(&t, "input_ids", "attention_mask")? {
        None => c.fail("a mask with holes, where only visible prefixes are known".into()),
        Some(padded) => {
            one(&padded, &mut c)?;
            one(&packed(&padded), &mut c)?;
        }
    }
    c.finish()
}

pub(super) fn retrieval(set: &GoldenSet, fixture: &Value) -> Result<Outcome> {
    both_ways(set, fixture, |tokens, c| retrieval_step(set, fixture, tokens, c))
}

fn retrieval_step(
    set: &GoldenSet,
    fixture: &Value,
    tokens: &TokenBatch,
    c: &mut Comparison,
) -> Result<()> {
    let mut run = TaskRun::new(set, fixture)?;
    let t = set.tensors(fixture, "inputs.safetensors")?;
    let expected = set.tensors(fixture, "expected.safetensors")?;
    let n = tokens.len();
    let ids = t.integers("idx")?;
    if ids.len() != n {
        return Err(set.wrong(fixture, &format!("`idx` has {} values for {n} texts", ids.len())));
    }
    let draws = StepRng::Replay {
        negative_image: t.indices("negative_image", n, n)?,
        negative_text: t.indices("negative_text", n, n)?,
        masks: Vec::new(),
    };
    // The replacement of `idx_queue`, if the set has one, came with the weights.
    let mut queues =
        run.weights.queues.clone().ok_or_else(|| set.wrong(fixture, "no queues in the weights"))?;
    let settings = Settings {
        alpha: if run.distill { run.alpha } else { 0.0 },
        ita: true,
        itm: true,
        mlm: false,
        mlm_mod: true,
        mlm_distill_axis: DistillAxis::Vocabulary,
        hard_negatives: true,
        negative_temp: None,
        mlm_probability: 0.0,
        image_index: true,
        dropout: 0.0,
        momentum_dropout: 0.0,
        special: set.special()?,
        vocab_size: run.config.text.vocab_size,
    };
    crate::train::step::clamp_temperature(&mut run.weights.online);
    run.update_momentum();
    let batch = Batch {
        images: t.on("image", set.device())?,
        text: tokens.clone(),
        image_ids: ids.clone(),
        related: Vec::new(),
    };
    let weights = run.trainable();
    let model = Albef::new(&run.config, &weights)?;
    let teacher = momentum_encoders(&run.weights.momentum, &run.config, Precision::F32)?;
    let step = forward(&model, &teacher, &queues, &batch, &settings, draws)?;
    let stale = queues.ids().to_vec();
    let [_, _, image_m, text_m] = step.feats.clone();
    queues.push(image_m, text_m, &ids);
    let loss = step.loss_ita.clone() + step.loss_itm.clone();
    let grads = gradients(&run.weights.online, &weights, &loss);

    let negatives = |sims: &Tensor<2>| {
        let weights = activation::softmax(sims.clone().narrow(1, 0, n), 1);
        let mut weights = to_vec(weights);
        for (at, w) in weights.iter_mut().enumerate() {
            if ids[at / n] == ids[at % n] {
                *w = 0.0;
            }
        }
        weights
    };
    let side = |queues: &Queues, image: bool| {
        let (images, texts) = queues.rows();
        let rows = if image { images } else { texts };
        transposed(&rows, queues.len(), rows.len() / queues.len().max(1))
    };
    for name in expected.names() {
        let got = match name.as_str() {
            "grad_norms" => continue,
            "queue_ptr" | "idx_queue" => {
                let got = if name == "queue_ptr" {
                    vec![queues.ptr() as i64]
                } else {
                    queues.ids().to_vec()
                };
                c.integers(&name, &got, &expected.integers(&name)?);
                continue;
            }
            "loss_ita" => to_vec(step.loss_ita.clone()),
            "loss_itm" => to_vec(step.loss_itm.clone()),
            "image_feat" => to_vec(step.feats[0].clone()),
            "text_feat" => to_vec(step.feats[1].clone()),
            "image_feat_m" => to_vec(step.feats[2].clone()),
            "text_feat_m" => to_vec(step.feats[3].clone()),
            "sim_i2t" => to_vec(step.sims[0].clone()),
            "sim_t2i" => to_vec(step.sims[1].clone()),
            "sim_i2t_targets" => to_vec(step.targets[0].clone()),
            "sim_t2i_targets" => to_vec(step.targets[1].clone()),
            "sim_targets" => {
                crate::objectives::itc::positives(n, Some((&ids, &stale)), stale.len())
            }
            "vl_output" => to_vec(step.itm_logits.clone()),
            "weights_i2t" => negatives(&step.sims[0]),
            "weights_t2i" => negatives(&step.sims[1]),
            "image_queue" => side(&queues, true),
            "text_queue" => side(&queues, false),
            _ => {
                c.fail(format!("`{name}` is not computed here"));
                continue;
            }
        };
        c.tensor(&name, &got, &expected.floats(&name)?);
    }
    debug_assert!(stale.iter().all(|i| *i >= NO_ID));
    compare_gradients(set, fixture, &grads, c)?;
    compare_checksums(set, fixture, &run.weights.momentum, c)
}

/// The classifiers of one text state, as a replay runs them.
trait Classifier: Sized {
    fn read(config: &ModelConfig, weights: &Weights, branch: Branch) -> Result<Self>;
    fn classify(&self, images: Tensor<4>, texts: &TokenBatch) -> Result<Tensor<2>>;
}

impl Classifier for VisualEntailmentModel {
    fn read(config: &ModelConfig, weights: &Weights, branch: Branch) -> Result<Self> {
        Self::new(config, weights, branch)
    }
    fn classify(&self, images: Tensor<4>, texts: &TokenBatch) -> Result<Tensor<2>> {
        self.logits(images, texts, &mut DropoutRng::none())
    }
}

impl Classifier for Nlvr2Model {
    fn read(config: &ModelConfig, weights: &Weights, branch: Branch) -> Result<Self> {
        Self::new(config, weights, branch)
    }
    fn classify(&self, images: Tensor<4>, texts: &TokenBatch) -> Result<Tensor<2>> {
        self.logits(images, texts, &mut DropoutRng::none())
    }
}

pub(super) fn entailment(set: &GoldenSet, fixture: &Value) -> Result<Outcome> {
    both_ways(set, fixture, |t, c| classification::<VisualEntailmentModel>(set, fixture, t, c))
}

pub(super) fn pairs(set: &GoldenSet, fixture: &Value) -> Result<Outcome> {
    both_ways(set, fixture, |t, c| classification::<Nlvr2Model>(set, fixture, t, c))
}

fn classification<M: Classifier>(
    set: &GoldenSet,
    fixture: &Value,
    tokens: &TokenBatch,
    c: &mut Comparison,
) -> Result<()> {
    let mut run = TaskRun::new(set, fixture)?;
    let t = set.tensors(fixture, "inputs.safetensors")?;
    let expected = set.tensors(fixture, "expected.safetensors")?;
    let images: Tensor<4> = t.on("image", set.device())?;
    let before = M::read(&run.config, &run.frozen(), Branch::Online)?;
    let eval_logits = before.classify(images.clone(), tokens)?;
    let [rows, classes] = eval_logits.dims();
    let labels = t.indices("targets", rows, classes)?;

    let weights = run.trainable();
    let model = M::read(&run.config, &weights, Branch::Online)?;
    let prediction = model.classify(Tensor::from_inner(images.clone()), tokens)?;
    let mut prediction_m = None;
    if run.distill {
        run.update_momentum();
        let teacher = M::read(&run.config, &run.teacher(), Branch::Momentum)?;
        prediction_m = Some(teacher.classify(images, tokens)?);
    }
    let teacher = prediction_m.clone();
    let loss = distilled_cross_entropy(prediction.clone(), teacher, &labels, run.alpha).loss;
    let grads = gradients(&run.weights.online, &weights, &loss);
    for name in expected.names() {
        let got = match (name.as_str(), &prediction_m) {
            ("grad_norms", _) => continue,
            ("loss", _) => to_vec(loss.clone()),
            ("prediction", _) => to_vec(prediction.clone()),
            ("prediction_m", Some(p)) => to_vec(p.clone()),
            ("eval_logits", _) => to_vec(eval_logits.clone()),
            _ => {
                c.fail(format!("`{name}` is not computed here"));
                continue;
            }
        };
        c.tensor(&name, &got, &expected.floats(&name)?);
    }
    compare_gradients(set, fixture, &grads, c)?;
    compare_checksums(set, fixture, &run.weights.momentum, c)
}

pub(super) fn assignment(set: &GoldenSet, fixture: &Value) -> Result<Outcome> {
    both_ways(set, fixture, |t, c| assignment_step(set, fixture, t, c))
}

fn assignment_step(
    set: &GoldenSet,
    fixture: &Value,
    tokens: &TokenBatch,
    c: &mut Comparison,
) -> Result<()> {
    let run = TaskRun::new(set, fixture)?;
    let t = set.tensors(fixture, "inputs.safetensors")?;
    let expected = set.tensors(fixture, "expected.safetensors")?;
    let n = tokens.len();
    let index = t.integers("index")?;
    let held = |v: &i64| (-1..n as i64).contains(v);
    if index.len() != 2 * n || !index.iter().all(held) {
        let detail = format!("`index` must hold two images below {n} for each of {n} texts");
        return Err(set.wrong(fixture, &detail));
    }
    let (other, order) = (t.floats_of("u_other", n)?, t.floats_of("u_order", n)?);
    let draw = |row: usize| AssignmentDraw {
        other: f64::from(other[row]),
        order: f64::from(order[row]),
        index: [0.0; 2],
        given: Some([0, 1].map(|i| index[2 * row + i].max(0) as usize)),
    };
    let weights = run.trainable();
    let model = AssignmentModel::new(&run.config, &weights)?;
    let images: Tensor<4> = t.on("image", set.device())?;
    let step = assignment::forward(&model, &images, tokens, draw, &mut DropoutRng::none())?;
    let grads = gradients(&run.weights.online, &weights, &step.loss);
    let labels: Vec<i64> = step.labels.iter().map(|l| *l as i64).collect();
    c.integers("labels", &labels, &expected.integers("labels")?);
    c.tensor("loss", &to_vec(step.loss.clone()), &expected.floats("loss")?);
    c.tensor("pred", &to_vec(step.logits.clone()), &expected.floats("pred")?);
    c.tensor("weights", &step.weights, &expected.floats("weights")?);
    compare_gradients(set, fixture, &grads, c)
}
