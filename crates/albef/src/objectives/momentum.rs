//! The momentum model: an exponential moving average of the trained weights (paper sections 3.2 and
//! 3.3). It makes the features of the queues and the pseudo-targets, and gets no gradient.

use albef_kernels as kernels;
use albef_weights::momentum_name;
use burn::tensor::Tensor;

use crate::config::ModelConfig;
use crate::error::Result;
use crate::model::{Branch, Encoders};
use crate::ops::{self, Ops, Precision};
use crate::params::{Params, from_vec, take_vec, to_vec};

/// Moves each momentum copy towards its trained weight:
/// `average * momentum + value * (1 - momentum)`. A step does so before its forward pass, so that the
/// momentum model follows the weights that the step before left.
pub fn update_average(momentum: f64, averages: &mut Params, online: &mut Params) {
    let cpu = ops::is_cpu(averages.device());
    let device = averages.device().clone();
    for (name, value) in online.values_mut() {
        let Some(average) = momentum_name(name).and_then(|n| averages.value_mut(&n)) else {
            continue;
        };
        if cpu {
            let mut a = take_vec(average);
            let v = take_vec(value);
            kernels::ema(momentum, &mut a, &v);
            let n = a.len();
            *average = from_vec(a, [n], &device);
            *value = from_vec(v, [n], &device);
        } else {
            *average = moved(average.clone(), value.clone(), momentum);
        }
    }
}

/// The new average, where the kernel is not at hand.
fn moved(average: Tensor<1>, value: Tensor<1>, momentum: f64) -> Tensor<1> {
    average * momentum + value * (1.0 - momentum)
}

/// Momentum copies equal to the trained weights.
///
/// # Errors
/// Never for consistent parameters.
pub fn copy_for_momentum(online: &Params) -> Result<Params> {
    let mut momentum = Params::new(online.device());
    for p in online.entries() {
        if let Some(name) = momentum_name(&p.name) {
            momentum.insert(&name, &p.shape, to_vec(p.value.clone()))?;
        }
    }
    Ok(momentum)
}

/// The encoders of the momentum model on its averaged weights.
///
/// # Errors
/// If a weight is absent.
pub fn momentum_encoders(
    momentum: &Params,
    config: &ModelConfig,
    precision: Precision,
) -> Result<Encoders> {
    let ops = Ops::for_device(momentum.device()).with_precision(precision);
    Encoders::new(config, &momentum.frozen(ops), Branch::Momentum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::cpu;

    #[test]
    fn other_devices_move_the_average_as_the_kernel_does() {
        let (average, value) = (vec![1.0_f32, -2.0, 0.25], vec![-3.0_f32, 0.5, 8.0]);
        let mut expected = average.clone();
        kernels::ema(0.9, &mut expected, &value);
        let tensor = |values: Vec<f32>| from_vec(values, [3], &cpu());
        let found = to_vec(moved(tensor(average), tensor(value), 0.9));
        for (a, b) in found.iter().zip(&expected) {
            assert!((a - b).abs() < 1e-6, "{found:?} {expected:?}");
        }
        assert!((expected[0] - 0.6).abs() < 1e-6);
    }
}
