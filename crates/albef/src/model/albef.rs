//! The assembled model (paper figure 1).

use burn::tensor::Tensor;

use super::text::{DropoutRng, ImageContext, MlmHead, OutputRows, TextEncoder};
use super::vision::{ImageStates, VisionEncoder};
use super::weights::{Linear, Weights};
use crate::config::ModelConfig;
use crate::error::Result;
use albef_data::text::TokenBatch;

/// Which of the two copies of the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Branch {
    /// The trained weights.
    Online,
    /// Their moving average, under names with `_m`.
    Momentum,
}

/// Encoders and projections: what has a momentum copy.
#[derive(Clone, Debug)]
pub struct Encoders {
    /// The image encoder.
    pub visual_encoder: VisionEncoder,
    /// Text and fusion layers.
    pub text_encoder: TextEncoder,
    /// The vocabulary head, absent from checkpoints fine-tuned without one.
    pub mlm_head: Option<MlmHead>,
    vision_proj: Linear,
    text_proj: Linear,
}

/// The whole model: encoders, matching head and temperature.
#[derive(Clone, Debug)]
pub struct Albef {
    /// Encoders and projections.
    pub encoders: Encoders,
    itm_head: Linear,
    /// The temperature `[1]`.
    pub temp: Tensor<1>,
    /// Sizes.
    pub config: ModelConfig,
}

impl Encoders {
    /// Reads one of the two copies.
    ///
    /// # Errors
    /// If a weight is absent or of another size.
    pub fn new(config: &ModelConfig, weights: &Weights, branch: Branch) -> Result<Self> {
        let suffix = if branch == Branch::Momentum { "_m" } else { "" };
        let root = |name: &str| weights.scope(&format!("{name}{suffix}"));
        let text = root("text_encoder");
        let bert = if weights
            .leaf(&format!("text_encoder{suffix}.bert.embeddings.word_embeddings.weight"))
            .is_some()
        {
            text.at("bert")
        } else {
            text.clone()
        };
        let text_encoder = TextEncoder::new(&config.text, config.vision.width, &bert)?;
        let head = format!("text_encoder{suffix}.cls.predictions.bias");
        let mlm_head = weights
            .leaf(&head)
            .map(|_| {
                let word = text_encoder.word_embeddings();
                MlmHead::new(&config.text, word, &text.at("cls.predictions"))
            })
            .transpose()?;
        let e = config.embed_dim;
        Ok(Self {
            visual_encoder: VisionEncoder::new(&config.vision, &root("visual_encoder"))?,
            text_encoder,
            mlm_head,
            vision_proj: Linear::new(&root("vision_proj"), config.vision.width, e)?,
            text_proj: Linear::new(&root("text_proj"), config.text.hidden, e)?,
        })
    }

    /// Unit-length image features `[B, E]` from the class tokens.
    #[must_use]
    pub fn image_feat(&self, image: &ImageStates) -> Tensor<2> {
        self.project_image(image.class_tokens())
    }

    /// Unit-length features `[R, E]` of states `[R, W]` of image tokens.
    #[must_use]
    pub fn project_image(&self, states: Tensor<2>) -> Tensor<2> {
        normalize(self.vision_proj.forward(states))
    }

    /// Unit-length text features `[B, E]` from the states `[B, D]` of `[CLS]`.
    #[must_use]
    pub fn text_feat(&self, class_states: Tensor<2>) -> Tensor<2> {
        normalize(self.text_proj.forward(class_states))
    }

    /// Unit-length text features `[B, E]` of token sequences; the last layer computes `[CLS]` only.
    ///
    /// # Errors
    /// As [`TextEncoder::text`].
    pub fn embed_text(&self, tokens: &TokenBatch, dropout: &mut DropoutRng) -> Result<Tensor<2>> {
        let class = vec![vec![0]; tokens.len()];
        let states = self.text_encoder.text(tokens, OutputRows::Rows(&class), dropout, None)?;
        Ok(self.text_feat(states))
    }
}

impl Albef {
    /// Reads the trained weights.
    ///
    /// # Errors
    /// If a weight is absent or of another size.
    pub fn new(config: &ModelConfig, weights: &Weights) -> Result<Self> {
        Ok(Self {
            encoders: Encoders::new(config, weights, Branch::Online)?,
            itm_head: Linear::new(&weights.scope("itm_head"), config.text.hidden, 2)?,
            temp: weights.scope("temp").tensor("", [1])?,
            config: config.clone(),
        })
    }

    /// Matching logits `[rows, 2]` from fused `[CLS]` states `[rows, D]`; column 1 is "match".
    #[must_use]
    pub fn itm_logits(&self, states: Tensor<2>) -> Tensor<2> {
        self.itm_head.forward(states)
    }

    /// Matching logits `[texts, 2]` of texts, each with the image `image_of[text]`, from their
    /// unimodal states.
    ///
    /// # Errors
    /// If a text has no image.
    pub fn match_texts(
        &self,
        states: Tensor<2>,
        tokens: &TokenBatch,
        image: ImageContext<'_>,
    ) -> Result<Tensor<2>> {
        let class = vec![vec![0]; tokens.len()];
        let fused = self.encoders.text_encoder.fusion(
            states,
            &tokens.sequences,
            image,
            OutputRows::Rows(&class),
            &mut DropoutRng::none(),
            None,
        )?;
        Ok(self.itm_logits(fused))
    }
}

/// `x / max(|x|, 1e-12)` by row.
#[must_use]
pub fn normalize(x: Tensor<2>) -> Tensor<2> {
    let norm = x.clone().square().sum_dim(1).sqrt().clamp_min(1e-12);
    x / norm
}
