//! ALBEF, "Align before Fuse" (NeurIPS 2021): vision and language representations learned with
//! momentum distillation.
//!
//! An image encoder and a text encoder are *aligned* by a contrastive loss before six further
//! layers *fuse* them by cross-attention. The modules follow the data: [`config`] gives sizes,
//! [`model`] encodes and fuses, [`objectives`] turns states into losses, [`train`] learns,
//! [`eval`] measures. To use a trained model start at [`pipeline::Pipeline`], to train one at
//! [`train::trainer::Trainer`].

pub mod config;
pub mod device;
pub mod error;
pub mod eval;
mod fault;
pub mod golden;
pub mod gradcam;
pub mod init;
pub mod model;
pub mod objectives;
pub mod ops;
pub mod params;
pub mod pipeline;
pub mod task_weights;
pub mod train;
pub mod weights;

pub use error::{Error, Result};
