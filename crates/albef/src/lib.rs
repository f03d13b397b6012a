//! ALBEF, "Align before Fuse" (NeurIPS 2021): vision and language representations learned with
//! momentum distillation.
//!
//! An image encoder and a text encoder are *aligned* by a contrastive loss before six further
//! layers *fuse* them by cross-attention.
//!
//! | to | start at |
//! | --- | --- |
//! | embed, search, match, classify, ground | [`Pipeline`], options and results in [`inference`] |
//! | search one's own images through an index | `index` (feature `index`) |
//! | ask, entail, reason about two images, label | [`task::TaskRef`] and [`task::Query`] |
//! | train | [`train::run()`] |
//! | calibrate | [`calibration`], whose values become [`ModelDefaults`] |
//! | evaluate | [`task::TaskRef`], figures in [`eval`] |
//! | read, inspect and convert weights | [`checkpoint::Checkpoint`], [`inspect`], [`convert`] |
//! | check that a build computes what the official code computes | [`golden`], [`doctor`] |

pub mod bench;
pub mod calibration;
pub mod checkpoint;
pub mod config;
pub mod convert;
mod defaults;
pub mod device;
pub mod doctor;
mod error;
pub mod eval;
mod fault;
mod fingerprint;
pub mod golden;
mod gradcam;
mod images;
#[cfg(feature = "index")]
pub mod index;
pub mod inference;
mod init;
pub mod inspect;
mod model;
mod model_path;
mod objectives;
mod ops;
mod params;
mod pipeline;
#[cfg(test)]
mod quirk_tests;
mod self_test;
pub mod task;
pub mod train;

pub use albef_data::dataset::{Sample, Skipped};
pub use albef_data::image::{
    Background, DecodeOptions, ImageReader, ResizeOrder, RgbImage as Image, TruncatedImages,
    open as open_image,
};
pub use albef_data::text::{Encoded, Truncation};

pub use albef_data::control::{Cancelled, Control, Progress};
pub use defaults::{GroundDefaults, ModelDefaults};
pub use device::Device;
pub use error::{Error, Result};
pub use images::ImageSet;
pub use model_path::{default_model, find_model, model_or_default, note_inferred, question_model};
pub use pipeline::Pipeline;

/// The example of the README is compiled with those of the documentation.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
