//! Typed configuration with the official names and defaults. Sections that tasks share are here; the
//! keys of a single task are in its file (`task/`).

mod infer;
mod model;
mod parse;
mod reference;
pub(crate) mod section;
mod sections;
#[cfg(test)]
mod tests;

pub use parse::{RENAMED, Source};
pub(crate) use parse::{current_names, merge, parse};
pub use reference::reference;
pub(crate) use sections::check_length;

pub use model::{ModelConfig, TextConfig, VisionConfig};
pub use sections::{
    AugmentConfig, AugmentForm, CheckpointConfig, DataConfig, DistillConfig, FileEntry, Files,
    ImageConfig, LossConfig, MixGen, MomentumConfig, OptimConfig, OptimizerConfig, PairsConfig,
    ScheduleConfig, StartConfig, TrainConfig,
};
