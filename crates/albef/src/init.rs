//! Fresh weights and queues, as the official modules initialize them.

use std::f64::consts::TAU;

use albef_data::random::Stream;
use albef_weights::{Init, Schema};
use burn::tensor::Device;

use crate::error::Result;
use crate::objectives::queue::{NO_ID, Queues};
use crate::params::Params;

/// Deviation of the normal draws of both encoders.
const DEVIATION: f64 = 0.02;

/// Normal draws by Box and Muller.
fn normal(stream: &mut Stream, n: usize, std: f64) -> Vec<f32> {
    (0..n)
        .map(|_| {
            let radius = (-2.0 * (1.0 - stream.uniform()).ln()).sqrt();
            (std * radius * (TAU * stream.uniform()).cos()) as f32
        })
        .collect()
}

fn uniform(stream: &mut Stream, n: usize, bound: f64) -> Vec<f32> {
    (0..n).map(|_| stream.range(-bound, bound) as f32).collect()
}

/// Fresh weights of a model, each drawn by `seed` and its place in the schema.
///
/// # Errors
/// Never for consistent sizes.
pub fn fresh_params(schema: &Schema, temp: f64, seed: u64, device: &Device) -> Result<Params> {
    let mut params = Params::new(device);
    for (i, parameter) in schema.parameters().iter().enumerate() {
        let n: usize = parameter.shape.iter().product();
        let mut stream = Stream::new(seed, "init", &[i as u64]);
        let values = match parameter.init {
            Init::Temperature => vec![temp as f32; n],
            Init::Uniform { fan_in } => uniform(&mut stream, n, 1.0 / (fan_in as f64).sqrt()),
            Init::Ones => vec![1.0; n],
            Init::Zeros => vec![0.0; n],
            Init::Normal => normal(&mut stream, n, DEVIATION),
        };
        params.insert(&parameter.name, &parameter.shape, values)?;
    }
    Ok(params)
}

/// Queues of random unit vectors, as the official buffers start.
#[must_use]
pub fn fresh_queues(size: usize, width: usize, seed: u64, device: &Device) -> Queues {
    let side = |salt: u64| {
        let mut rows = normal(&mut Stream::new(seed, "queue", &[salt]), size * width, 1.0);
        for row in rows.chunks_mut(width.max(1)) {
            let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-12);
            row.iter_mut().for_each(|v| *v /= norm);
        }
        rows
    };
    Queues::new(side(0), side(1), vec![NO_ID; size], 0, width, device)
}
