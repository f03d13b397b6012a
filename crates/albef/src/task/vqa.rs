//! Visual question answering (paper section 5): the fused question is what an answer decoder attends to.

use albef_weights::{Bert, Schema, StateDict, layer_of};

use super::{Task, has};
use crate::config::ModelConfig;

/// Answers by generation, ranked among candidates.
pub(super) struct Vqa;

impl Task for Vqa {
    fn name(&self) -> &'static str {
        "vqa"
    }

    fn title(&self) -> &'static str {
        "visual question answering (vqa)"
    }

    fn about(&self) -> &'static str {
        "Visual question answering"
    }

    fn used_by(&self) -> &'static str {
        "`albef ask` and `albef evaluate vqa`"
    }

    fn schema(&self, config: &ModelConfig) -> Schema {
        let sizes = config.sizes();
        let decoder = Bert {
            layers: sizes.layers - sizes.fusion_layer,
            fusion_layer: 0,
            encoder_width: sizes.hidden,
            paired: false,
        };
        Schema::new(sizes)
            .vision()
            .text_encoder("text_encoder")
            .bert("text_decoder.bert", decoder)
            .lm_head("text_decoder")
    }

    fn recognizes(&self, state: &StateDict) -> bool {
        has(state, "text_decoder.")
    }

    /// The encoder drops the level `bert.`; the fusion layers, the embeddings and the vocabulary head
    /// become the decoder's too.
    fn remap(&self, name: &str, fusion_layer: usize) -> Vec<String> {
        if !name.contains("text_encoder") {
            return vec![name.to_owned()];
        }
        let encoder = name.contains("bert.").then(|| name.replace("bert.", ""));
        let decoder = name.replace("text_encoder", "text_decoder");
        let decoder = match layer_of(&decoder) {
            Some((_, layer, _)) if layer < fusion_layer => None,
            Some((before, layer, after)) => {
                Some(format!("{before}encoder.layer.{}.{after}", layer - fusion_layer))
            }
            None => Some(decoder),
        };
        encoder.into_iter().chain(decoder).collect()
    }
}
