//! The model, read top to bottom in the order of the data: image encoder, text and fusion layers,
//! heads. It is a function of named weights and holds no state of its own.

mod albef;
mod downstream;
mod sequences;
mod text;
mod vision;
mod weights;

pub use albef::{Albef, Copy, Encoders, normalize};
pub use downstream::{AnswerModel, AssignmentModel, EntailmentModel, PairModel};
pub use sequences::{Sequence, TokenBatch};
pub use text::{DropoutDraws, ImageContext, Memory, MlmHead, Read, TextEncoder, TextTrace};
pub use vision::{ImageStates, VisionEncoder, VisionTrace};
pub use weights::{LayerNorm, Leaf, Linear, Scope, Weights};
