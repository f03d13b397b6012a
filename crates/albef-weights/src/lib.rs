//! Checkpoint files of ALBEF, in and out, without any model.
//!
//! [`read`] tells by content whether a file is safetensors, a PyTorch zip archive or an old PyTorch
//! pickle, and gives named tensors that share the mapped file; nothing in a file is ever executed.
//! [`Schema`] states the parameters of a model once, [`plan`] finds each of them in a checkpoint and
//! accounts for every other key; [`write_safetensors`] and [`write_torch`] write whole files or none.

mod checkpoint;
mod error;
mod file_kind;
pub mod golden;
mod key_report;
mod layouts;
mod model_kind;
mod outcome;
mod pickle;
mod plain_pickle;
mod plan;
mod pos_embed;
mod prefix;
mod queues;
mod safetensors_file;
mod schema;
mod starts;
mod stored;
mod tensor;
mod tied;
mod torch_file;
mod torchmultimodal;
mod words;
mod wrappers;

pub use albef_files::{FileError, publish, remove_leftovers_of, replaceable, write_atomic};
pub use checkpoint::{Checkpoint, read, read_model, weights_file};
pub use error::{Result, WeightsError};
pub use file_kind::{FileKind, HEAD};
pub use layouts::{is_of_momentum, with_official_keys, with_token_types, without_token_types};
pub use model_kind::ModelKind;
pub use plain_pickle::read_plain_pickle;
pub use plan::{KeyReport, LoadPlan, Placement, plan};
pub use pos_embed::{interpolate_pos_embed, resize_tables};
pub use queues::{QueueTensors, queue_tensors};
pub use safetensors_file::{write_safetensors, write_shards};
pub use schema::{AVERAGED, Bert, Init, Parameter, Schema, Sizes, layer_of, momentum_name};
pub use starts::{from_bert, from_deit, with_modern_norms};
pub use stored::{KeepAs, OnBytes};
pub use tensor::{Bytes, DType, HostTensor, StateDict};
pub use torch_file::write_torch;
pub use torchmultimodal::{from_torchmultimodal, with_official_names};
