//! Image-text retrieval (paper section 5).

use albef_weights::{Schema, StateDict};

use super::{Task, classes, has};
use crate::config::ModelConfig;

/// Contrast and matching with several positives.
pub(super) struct Retrieval;

/// The model of retrieval and of grounding.
pub(super) fn schema(config: &ModelConfig) -> Schema {
    let mut schema = Schema::new(config.sizes())
        .temp()
        .vision()
        .text_encoder("text_encoder")
        .projections()
        .head("itm_head", 2, config.text.hidden);
    schema.queues = true;
    schema
}

impl Task for Retrieval {
    fn name(&self) -> &'static str {
        "retrieval"
    }

    fn title(&self) -> &'static str {
        "retrieval or grounding"
    }

    fn about(&self) -> &'static str {
        "Image-text retrieval"
    }

    fn used_by(&self) -> &'static str {
        "`albef search`, `albef match`, `albef ground` and `albef evaluate retrieval`"
    }

    fn schema(&self, config: &ModelConfig) -> Schema {
        schema(config)
    }

    fn recognizes(&self, state: &StateDict) -> bool {
        let others = ["text_encoder.bert.", "text_decoder.", "ta_head."];
        classes(state).is_none() && !others.iter().any(|part| has(state, part))
    }
}
