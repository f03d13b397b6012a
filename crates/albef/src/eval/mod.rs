//! Measuring: recall, retrieval with re-ranking, intervals.

pub mod metrics;
pub mod retrieval;
