//! Data sets: annotation files, folders and tar shards as one index of samples; shuffled, mixed and
//! decoded into batches.

mod annotation;
mod batch;
mod check;
mod contents;
mod downloads;
mod entries;
mod folder;
mod loader;
mod mixgen;
mod near;
mod numbers;
mod order;
mod record;
mod sample;
mod set;
mod shard;
mod source;
mod store;
mod tasks;
mod unread;

pub use batch::{Answers, Batch};
pub use check::{CheckOptions, CheckReport, check, check_contents};
pub use contents::{Contents, Gathered};
pub use loader::{
    LoaderOptions, MAX_WORKERS, SkipReport, TextRule, TrainLoader, batches_per_epoch, load_images,
    load_samples, load_views,
};
pub use mixgen::{Lambda, MixGen, MixMode, Mixed};
pub use near::{other_root, similar_file};
pub use order::epoch_order;
pub use sample::{Location, Sample, Skipped};
pub use set::{Dataset, image_numbers};
pub use source::{SourceSpec, open_source, read_into, read_source};
pub use store::{Collect, SampleSet, Samples};
pub use tasks::{
    EntryContext, ImageRoots, ReadEntry, Target, TaskFields, first_entry, number_field,
    read_entries, read_list, repeated_ids, text_field,
};
pub use unread::unread_formats;
