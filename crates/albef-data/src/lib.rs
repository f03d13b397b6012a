//! Images, captions and image-text data sets, up to batches of pixels and token ids.
//!
//! [`image`] decodes, augments and resizes exactly as the official pipeline does; [`text`] cleans
//! and tokenises; [`dataset`] reads annotation files, folders and tar shards and feeds batches.

pub mod control;
pub mod dataset;
pub mod error;
pub mod golden;
pub mod image;
pub mod input;
pub mod names;
pub mod random;
pub mod scenes;
pub mod text;
