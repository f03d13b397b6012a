//! Data sets: annotation files, folders and tar shards as one index of samples; shuffled, mixed and
//! decoded into batches.

mod annotation;
mod check;
mod folder;
mod loader;
mod order;
mod shard;
mod source;
mod tasks;

pub use check::{CheckOptions, CheckReport, check};
pub use loader::{
    Batch, LoaderOptions, SkipReport, Skipped, TextRule, TrainLoader, batches_per_epoch,
    load_images, load_views,
};
pub use order::epoch_order;
pub use source::{Dataset, Location, Sample, SourceSpec, open_source};
pub use tasks::{Target, TaskForm, TaskPart, TaskRoots, VG_WEIGHT, read_task};
