//! Pre-training (paper section 3).

use albef_weights::{Schema, StateDict};

use super::{PRETRAIN, Task, has};
use crate::config::ModelConfig;

/// Image-text contrast, image-text matching and masked language modeling.
pub(super) struct Pretrain;

impl Task for Pretrain {
    fn name(&self) -> &'static str {
        PRETRAIN
    }

    fn title(&self) -> &'static str {
        "pre-training"
    }

    fn about(&self) -> &'static str {
        "Image-text contrast, matching and masked language modeling"
    }

    fn used_by(&self) -> &'static str {
        "`albef search`, `albef match` and `albef finetune`"
    }

    fn schema(&self, config: &ModelConfig) -> Schema {
        let mut schema = Schema::new(config.sizes())
            .temp()
            .vision()
            .text_encoder("text_encoder.bert")
            .lm_head("text_encoder")
            .projections()
            .head("itm_head", 2, config.text.hidden);
        schema.optional = Some("text_encoder.cls.");
        schema.queues = true;
        schema
    }

    fn recognizes(&self, state: &StateDict) -> bool {
        has(state, "text_encoder.bert.") && !has(state, "text_decoder.")
    }

    fn starts_from(&self) -> &'static [&'static str] {
        &[]
    }

    fn remap(&self, name: &str, _fusion_layer: usize) -> Vec<String> {
        vec![name.to_owned()]
    }
}
