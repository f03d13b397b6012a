//! ALBEF, "Align before Fuse" (NeurIPS 2021): vision and language representations learned with
//! momentum distillation.
//!
//! An image encoder and a text encoder are *aligned* by a contrastive loss before six further
//! layers *fuse* them by cross-attention. The modules follow the data: [`config`] gives sizes,
//! [`model`] encodes and fuses, [`objectives`] turns states into losses, [`train`] learns,
//! [`eval`] measures. To use a trained model start at [`pipeline::Pipeline`] ([`inference`] lists what
//! it does), to train one at [`train::trainer::Trainer`].

pub mod bench;
pub mod checkpoint;
pub mod config;
pub mod control;
pub mod device;
pub mod error;
pub mod eval;
mod fault;
pub mod golden;
pub mod gradcam;
pub mod images;
pub mod inference;
pub mod init;
pub mod inspect;
pub mod model;
pub mod model_path;
pub mod objectives;
pub mod ops;
pub mod params;
pub mod pipeline;
pub mod self_test;
pub mod task;
pub mod train;
pub mod write_folder;

pub use albef_data::dataset::{Sample, Skipped};
pub use albef_data::image::{
    Background, DecodeOptions, ImageReader, ResizeOrder, RgbImage as Image, open as open_image,
};
pub use albef_data::text::Truncation;
pub use burn::tensor::Device;

pub use control::{Control, Progress};
pub use error::{Error, Result};
pub use images::ImageSet;
pub use model_path::default_model;
pub use pipeline::Pipeline;
