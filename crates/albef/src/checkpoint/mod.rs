//! The one way in for checkpoints: a model folder, a weights file of any known layout, a run or one
//! of its checkpoints, to the model of a wanted task.
//!
//! [`Checkpoint::open`] finds out what a path holds: format, task, sizes, word pieces and tensors,
//! which share the mapped file. [`Checkpoint::load`] makes the model of its task,
//! [`Checkpoint::start`] that of a task which starts from it; both report what became of every key.

mod load;
mod open;
mod save;
mod sizes;

pub(crate) use load::finite;
pub use load::{LoadedModel, Parts};
pub use open::{BERT_VOCABULARY, Checkpoint};
pub(crate) use save::save_answering;
pub use save::{save_model_folder, state_dict};
pub(crate) use sizes::read_sizes;
