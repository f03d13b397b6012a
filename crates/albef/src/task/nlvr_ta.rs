//! Text assignment, the pre-training for statements about two images (paper section 5).

use albef_data::dataset::Dataset;
use albef_weights::{Schema, StateDict};
use burn::tensor::Device;

use super::configured::{accessors, finetuned, task_config};
use super::{
    Configuration, EvalKey, Evaluator, PRETRAIN, Task, TaskConfig, classes, has, paired,
    remap_to_pairs,
};
use crate::config::{ModelConfig, StartConfig, TrainConfig};
use crate::error::{Error, Result};
use crate::objectives::{Objective, TextAssignmentObjective};
use crate::train::start::Start;

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
        // Its head may have been left out for fine-tuning.
        has(state, "ta_head.")
            || (classes(state).is_none() && !has(state, "text_decoder.") && paired(state))
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

    fn configuration(&self) -> Configuration {
        Configuration::of::<TextAssignmentConfig>()
    }

    fn unread(&self) -> &'static [&'static str] {
        &["batch_size_test", "test_file", "val_file"]
    }
}

task_config! {
    /// The configuration of text assignment.
    #[derive(Default)]
    pub struct TextAssignmentConfig {
        train: TrainConfig,
        start: StartConfig,
    }
}

impl TaskConfig for TextAssignmentConfig {
    accessors!(TextAssignment, start);

    fn check(&self) -> Result<()> {
        match self.train.optim.batch_size {
            n @ 0..3 => Err(Error::Config(format!(
                "`batch_size` is {n}: text assignment chooses among the images of a batch and needs 3 or more"
            ))),
            _ => Ok(()),
        }
    }

    fn objective(&self, _data: &Dataset) -> Box<dyn Objective> {
        Box::new(TextAssignmentObjective { dropout: self.train.optim.dropout as f32 })
    }

    fn initialize(&self, _data: &Dataset, device: &Device) -> Result<Start> {
        finetuned(self, device)
    }

    /// It has no measure by lists.
    fn evaluator(&self, key: EvalKey) -> Result<Option<Box<dyn Evaluator>>> {
        if !self.eval_files(key).is_empty() {
            tracing::warn!("text assignment has no measure by lists: `{}` is not read", key.name());
        }
        Ok(None)
    }
}
