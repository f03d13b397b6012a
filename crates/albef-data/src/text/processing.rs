//! Whose code texts are processed as.

use serde::{Deserialize, Serialize};

/// How texts become ids: the code that a model was trained with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TextProcessing {
    /// As the official code: `[CLS]` and the pieces, most punctuation deleted.
    #[default]
    Official,
    /// As LAVIS: `[CLS]`, the pieces and `[SEP]`, with its own cleaning.
    Lavis,
}
