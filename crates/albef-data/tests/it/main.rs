//! The readers, the loader and the golden images from outside.
//!
//! One binary, since linking the crate once per file costs more than most of the tests do.

#[cfg(feature = "avif")]
mod avif;
mod broken;
mod dataset_promises;
mod datasets;
mod downloads;
#[cfg(not(any(feature = "avif", feature = "heic")))]
mod formats;
mod forms;
mod golden;
#[cfg(feature = "heic")]
mod heic;
mod members;
mod odd_lists;
mod odd_samples;
mod packing;
mod parquet;
mod properties;
mod round_trips;
mod shards;
mod truncated;
