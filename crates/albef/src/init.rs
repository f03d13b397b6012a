//! Fresh weights (spec `model`, initialisation).

use std::f64::consts::TAU;

use albef_data::random::Stream;
use albef_weights::{Task, expected_keys};
use burn::tensor::Device;

use crate::config::ModelConfig;
use crate::error::Result;
use crate::objectives::queue::{NO_ID, Queues};
use crate::params::Params;
use crate::weights::sizes;

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

/// Weights as the official modules start: normal with deviation 0.02 in both encoders, the
/// framework's uniform default in patch projection and heads, ones and zeros in layer norms.
///
/// # Errors
/// Never for consistent sizes.
pub fn fresh_params(config: &ModelConfig, temp: f64, seed: u64, device: &Device) -> Result<Params> {
    fresh_task_params(Task::Pretrain, config, temp, seed, device)
}

/// The same of another task's model.
///
/// # Errors
/// Never for consistent sizes.
pub fn fresh_task_params(
    task: Task,
    config: &ModelConfig,
    temp: f64,
    seed: u64,
    device: &Device,
) -> Result<Params> {
    let mut params = Params::new(device);
    for (i, (name, shape)) in expected_keys(task, &sizes(config)).iter().enumerate() {
        let n: usize = shape.iter().product();
        let mut stream = Stream::new(seed, "init", &[i as u64]);
        let fan_in = |name: &str| {
            if name.contains("patch_embed") {
                3 * config.vision.patch * config.vision.patch
            } else if name.starts_with("vision_proj") {
                config.vision.width
            } else {
                config.text.hidden
            }
        };
        let default = name.contains("patch_embed.proj")
            || ["vision_proj.", "text_proj.", "itm_head.", "ta_head.", "cls_head."]
                .iter()
                .any(|p| name.starts_with(p));
        let norm = name.contains("norm") || name.contains("LayerNorm");
        let values = if name == "temp" {
            vec![temp as f32]
        } else if default {
            uniform(&mut stream, n, 1.0 / (fan_in(name) as f64).sqrt())
        } else if norm {
            vec![if name.ends_with(".weight") { 1.0 } else { 0.0 }; n]
        } else if name.ends_with("bias") {
            vec![0.0; n]
        } else {
            normal(&mut stream, n, 0.02)
        };
        params.insert(name, shape, values)?;
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
