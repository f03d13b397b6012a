//! Checkpoint files of ALBEF, in and out, without any model.
//!
//! [`read`] tells by content whether a file is safetensors, a PyTorch zip archive or an old PyTorch
//! pickle, and gives named tensors; nothing in a file is ever executed. [`for_task`] renames keys
//! as the official scripts do, [`account`] and [`task_keys`] hold every key against what a model
//! expects, and [`write_safetensors`] writes whole files or none.

mod atomic;
mod error;
pub mod golden;
mod key_map;
mod key_report;
mod keys;
mod outcome;
mod pickle;
mod plain_pickle;
mod pos_embed;
mod queues;
mod remap;
mod safetensors_file;
mod starts;
mod task_keys;
mod tensor;
mod torch;
mod torchmultimodal;

pub use atomic::{replaceable, write_atomic};
pub use error::{Result, WeightsError};
pub use key_report::{Report, account};
pub use keys::{Sizes, Task, expected_keys, momentum_name, parameter_groups};
pub use plain_pickle::read_plain_pickle;
pub use pos_embed::{interpolate_pos_embed, resize_tables};
pub use queues::{QueueTensors, queue_tensors};
pub use remap::{Description, for_task, inspect, with_bert_level};
pub use safetensors_file::{KeepAs, write_safetensors};
pub use starts::{from_bert, from_deit};
pub use task_keys::{TaskKeys, TaskReport, TaskWeight, task_keys};
pub use tensor::{DType, HostTensor, StateDict};
pub use torch::{Checkpoint, read};
pub use torchmultimodal::{from_torchmultimodal, with_official_names};
