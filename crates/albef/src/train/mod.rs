//! Training: schedule, optimiser, the step, the loop, checkpoints and logs.

pub mod optimizer;
pub mod schedule;
pub mod step;
