//! Weakly supervised visual grounding (paper section 6).

use albef_weights::{Schema, StateDict};

use super::{Task, retrieval};
use crate::config::ModelConfig;

/// Trains as retrieval does, on uncropped images; measured by the boxes that Grad-CAM chooses.
pub(super) struct Grounding;

impl Task for Grounding {
    fn name(&self) -> &'static str {
        "grounding"
    }

    fn title(&self) -> &'static str {
        "retrieval or grounding"
    }

    fn about(&self) -> &'static str {
        "Weakly supervised visual grounding"
    }

    fn used_by(&self) -> &'static str {
        "`albef ground` and `albef evaluate grounding`"
    }

    fn model(&self) -> &'static str {
        "retrieval"
    }

    fn schema(&self, config: &ModelConfig) -> Schema {
        retrieval::schema(config)
    }

    fn recognizes(&self, _state: &StateDict) -> bool {
        // Its keys are those of retrieval.
        false
    }
}
