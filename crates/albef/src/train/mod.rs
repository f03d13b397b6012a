//! Training: schedule, optimizer, the step, the loop and its checkpoints.

pub mod checkpoint;
mod checksums;
pub mod folder;
pub mod identity;
mod kept;
pub mod lock;
pub mod optimizer;
mod report;
pub mod run;
pub mod schedule;
pub(crate) mod start;
pub mod step;
pub mod temperature;
pub mod trainer;

pub use start::corpus_vocabulary;
