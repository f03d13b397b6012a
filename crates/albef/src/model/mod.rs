//! The model, read top to bottom in the order of the data: image encoder, text and fusion layers,
//! heads. It is a function of named weights and holds no state of its own.

mod albef;
mod downstream;
mod text;
mod vision;
mod weights;

pub use albef::{Albef, Branch, Encoders};
pub use albef_data::text::{Sequence, TokenBatch};
pub use downstream::{
    AssignmentModel, ClassificationModel, ImagesPerText, Nlvr2Model, VisualEntailmentModel,
    VqaModel,
};
pub use text::{DropoutRng, ImageContext, Memory, MlmHead, OutputRows, TextTrace};
pub use vision::{ImageStates, VisionTrace};
pub use weights::{Leaf, Weights};
