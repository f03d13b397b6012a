//! Training: schedule, optimiser, the step, the loop and its checkpoints.

pub mod checkpoint;
pub mod folder;
pub mod identity;
mod kept;
pub mod lock;
pub mod objective;
pub mod optimizer;
mod report;
pub mod schedule;
mod start;
pub mod step;
pub mod temperature;
pub mod trainer;

pub use start::corpus_vocabulary;
