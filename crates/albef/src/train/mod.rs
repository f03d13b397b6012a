//! Training: schedule, optimizer, the step, the loop and its checkpoints.
//!
//! [`run()`] trains by a configuration in a folder with logs; [`Trainer`] is the loop alone.

pub(crate) mod checkpoint;
mod checksums;
mod identity;
mod kept;
mod lock;
pub(crate) mod optimizer;
#[cfg(test)]
mod plain_tests;
mod report;
pub(crate) mod run;
pub(crate) mod schedule;
mod sizes;
pub(crate) mod start;
pub(crate) mod step;
pub(crate) mod temperature;
pub(crate) mod trainer;

pub use lock::FolderLock;
pub use report::{Event, RunOutcome, StepReport};
pub use run::{RunEvent, RunOptions, RunReport, Summary, run};
pub use start::corpus_vocabulary;
pub use trainer::Trainer;
