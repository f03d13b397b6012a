//! Typed configuration with the official names and defaults.

mod model;

pub use model::{ModelConfig, TextConfig, VisionConfig};
