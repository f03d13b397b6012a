//! Typed configuration with the official names and defaults.

mod model;
mod pretrain;

pub use model::{ModelConfig, TextConfig, VisionConfig};
pub use pretrain::{Files, OptimizerConfig, PretrainConfig, ScheduleConfig};
