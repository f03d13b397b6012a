//! Visual entailment (paper section 5): does an image entail a sentence, contradict it, or neither?

use albef_weights::{Schema, StateDict};

use super::{PRETRAIN, Task, classes};
use crate::config::ModelConfig;

/// Three classes of a sentence about an image.
pub(super) struct VisualEntailment;

/// The classes in the order of the logits.
pub(super) const CLASSES: [&str; 3] = ["contradiction", "neutral", "entailment"];

impl Task for VisualEntailment {
    fn name(&self) -> &'static str {
        "ve"
    }

    fn aliases(&self) -> &'static [&'static str] {
        &["entailment"]
    }

    fn title(&self) -> &'static str {
        "visual entailment (ve)"
    }

    fn about(&self) -> &'static str {
        "Visual entailment"
    }

    fn used_by(&self) -> &'static str {
        "`albef entail` and `albef evaluate ve`"
    }

    fn schema(&self, config: &ModelConfig) -> Schema {
        let schema = Schema::new(config.sizes()).vision().text_encoder("text_encoder");
        schema.cls_head(CLASSES.len())
    }

    fn recognizes(&self, state: &StateDict) -> bool {
        classes(state) == Some(CLASSES.len())
    }

    fn starts_from(&self) -> &'static [&'static str] {
        &[PRETRAIN, "retrieval"]
    }
}
