//! Typed configuration with the official names and defaults.

mod finetune;
mod infer;
mod model;
mod pretrain;

pub(crate) use pretrain::merge;

pub use finetune::{FinetuneConfig, TeacherInit};
pub use model::{ModelConfig, TextConfig, VisionConfig};
pub use pretrain::{
    AugmentConfig, Files, Form, LossConfig, OptimizerConfig, PretrainConfig, ScheduleConfig,
};
