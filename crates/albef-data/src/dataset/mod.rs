//! Data sets: annotation files, folders and tar shards as one index of samples; shuffled, mixed and
//! decoded into batches.

mod annotation;
mod batch;
mod check;
mod contents;
mod copies;
mod downloads;
mod entries;
mod entry;
mod fingerprint;
mod folder;
mod in_order;
mod keys;
mod loader;
mod manifest;
mod mixgen;
mod near;
mod numbers;
mod order;
mod pack;
mod parquet;
mod quotes;
mod record;
mod roots;
mod sample;
mod set;
mod shard;
mod source;
mod stats;
mod store;
mod tasks;
mod unread;

pub use batch::{Answers, Batch};
pub use check::{
    CaptionCounts, CheckOptions, CheckReport, TaskFault, check, check_against, check_contents,
    gather,
};
pub use contents::{Contents, Gathered};
pub use copies::copied_members;
pub use entry::Place;
pub use loader::{
    LoaderOptions, MAX_WORKERS, SkipReport, TextRule, TrainLoader, batches_per_epoch, load_images,
    load_samples, load_views,
};
pub use manifest::{verify_manifest, write_manifest};
pub use mixgen::{Lambda, MixGen, MixMode, Mixed};
pub use near::{other_root, similar_file};
pub use order::{Draw, SourceShare, epoch_order};
pub use pack::{PackOptions, PackReport, pack};
pub use roots::ImageRoots;
pub use sample::{Location, Sample, Skipped, Target, TaskFields};
pub use set::{Dataset, image_numbers};
pub use source::{SourceSpec, open_source, read_into, read_source};
pub use stats::{DataStats, SourceStats, StatsOptions, Summary, stats};
pub use store::{Collect, SampleSet, Samples};
pub use tasks::{
    EntryContext, ReadEntry, entries_by_place, first_entry, number_field, read_entries, read_list,
    repeated_ids, text_field,
};
pub use unread::{Looks, is_named_as_image, looks, refusal, unread_formats};
