//! Text assignment, the pre-training for statements about two images (paper section 5).

use albef_weights::{Schema, StateDict};

use super::{PRETRAIN, Task, has, remap_to_pairs};
use crate::config::ModelConfig;

/// To which of two images a text belongs, or to neither.
pub(super) struct TextAssignment;

impl Task for TextAssignment {
    fn name(&self) -> &'static str {
        "nlvr-ta"
    }

    fn aliases(&self) -> &'static [&'static str] {
        &["ta", "assignment"]
    }

    fn title(&self) -> &'static str {
        "text assignment (nlvr-ta)"
    }

    fn about(&self) -> &'static str {
        "Text assignment, the preparation for `nlvr`"
    }

    fn used_by(&self) -> &'static str {
        "`albef finetune nlvr`"
    }

    fn schema(&self, config: &ModelConfig) -> Schema {
        let mut schema = Schema::new(config.sizes())
            .temp()
            .vision()
            .paired_text_encoder("text_encoder")
            .projections()
            .head("ta_head", 3, config.text.hidden);
        schema.own_head = Some("ta_head.");
        schema.momentum = false;
        schema
    }

    fn recognizes(&self, state: &StateDict) -> bool {
        has(state, "ta_head.")
    }

    fn starts_from(&self) -> &'static [&'static str] {
        &[PRETRAIN, "retrieval"]
    }

    fn remap(&self, name: &str, fusion_layer: usize) -> Vec<String> {
        remap_to_pairs(name, fusion_layer)
    }

    fn has_paired_layers(&self) -> bool {
        true
    }
}
