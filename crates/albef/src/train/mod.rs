//! Training: schedule, optimiser, the step, the loop and its checkpoints.

pub mod checkpoint;
pub mod objective;
pub mod optimizer;
pub mod schedule;
mod start;
pub mod step;
pub mod trainer;
