//! Natural language for visual reasoning, NLVR2 (paper section 5): is a statement about two images true?

use albef_weights::{Schema, StateDict};

use super::{PRETRAIN, Task, classes, remap_to_pairs};
use crate::config::ModelConfig;

/// Statements about two images.
pub(super) struct Nlvr2;

/// False, true.
const CLASSES: usize = 2;

impl Task for Nlvr2 {
    fn name(&self) -> &'static str {
        "nlvr"
    }

    fn title(&self) -> &'static str {
        "statements about two images (nlvr)"
    }

    fn about(&self) -> &'static str {
        "Statements about two images"
    }

    fn used_by(&self) -> &'static str {
        "`albef reason` and `albef evaluate nlvr`"
    }

    fn schema(&self, config: &ModelConfig) -> Schema {
        let schema = Schema::new(config.sizes()).vision().paired_text_encoder("text_encoder");
        schema.cls_head(CLASSES)
    }

    fn recognizes(&self, state: &StateDict) -> bool {
        classes(state) == Some(CLASSES)
    }

    fn starts_from(&self) -> &'static [&'static str] {
        &[PRETRAIN, "nlvr-ta", "retrieval"]
    }

    fn remap(&self, name: &str, fusion_layer: usize) -> Vec<String> {
        remap_to_pairs(name, fusion_layer)
    }

    fn has_paired_layers(&self) -> bool {
        true
    }
}
