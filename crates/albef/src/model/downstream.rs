//! The models of the other tasks: answers, statements about two images, entailment, and the text
//! assignment that prepares for two images (paper section 5).

use burn::tensor::{Tensor, activation};

use super::albef::{Branch, normalize};
use super::text::{DropoutRng, ImageContext, Memory, MlmHead, OutputRows, TextEncoder};
use super::vision::{ImageStates, VisionEncoder};
use super::weights::{Linear, Scope, Weights};
use crate::config::{ModelConfig, TextConfig};
use crate::error::Result;
use albef_data::text::TokenBatch;

fn named(name: &str, branch: Branch) -> String {
    let suffix = if branch == Branch::Momentum { "_m" } else { "" };
    format!("{name}{suffix}")
}

fn encoders(
    config: &ModelConfig,
    text: &TextConfig,
    weights: &Weights,
    branch: Branch,
) -> Result<(VisionEncoder, TextEncoder)> {
    let at = |name: &str| weights.scope(&named(name, branch));
    let vision = VisionEncoder::new(&config.vision, &at("visual_encoder"))?;
    let text = TextEncoder::new(text, config.vision.width, &at("text_encoder"))?;
    Ok((vision, text))
}

/// Two layers with a ReLU between them, on the state of `[CLS]`.
#[derive(Clone, Debug)]
struct ClassHead {
    hidden: Linear,
    classes: Linear,
}

impl ClassHead {
    fn new(scope: &Scope<'_>, width: usize, classes: usize) -> Result<Self> {
        let hidden = Linear::new(&scope.at("0"), width, width)?;
        Ok(Self { hidden, classes: Linear::new(&scope.at("2"), width, classes)? })
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.classes.forward(activation::relu(self.hidden.forward(x)))
    }
}

/// Question answering: the fused question is what an answer decoder attends to.
#[derive(Clone, Debug)]
pub struct VqaModel {
    /// The image encoder.
    pub visual_encoder: VisionEncoder,
    /// Text and fusion layers, for the question.
    pub text_encoder: TextEncoder,
    /// The answer decoder.
    pub text_decoder: TextEncoder,
    /// Its vocabulary head.
    pub head: MlmHead,
}

impl VqaModel {
    /// Reads one of the two copies.
    ///
    /// # Errors
    /// If a weight is absent or of another size.
    pub fn new(config: &ModelConfig, weights: &Weights, branch: Branch) -> Result<Self> {
        let (visual_encoder, text_encoder) = encoders(config, &config.text, weights, branch)?;
        let decoder = config.text.decoder();
        let scope = weights.scope(&named("text_decoder", branch));
        let text_decoder = TextEncoder::new(&decoder, config.text.hidden, &scope.at("bert"))?;
        let word = text_decoder.word_embeddings();
        let head = MlmHead::new(&decoder, word, &scope.at("cls.predictions"))?;
        Ok(Self { visual_encoder, text_encoder, text_decoder, head })
    }

    /// States `[R, D]` of questions, each about the image `image_of[question]`.
    ///
    /// # Errors
    /// As [`TextEncoder::multi_modal`].
    pub fn question_states(
        &self,
        images: &ImageStates,
        image_of: &[usize],
        questions: &TokenBatch,
        dropout: &mut DropoutRng,
    ) -> Result<Tensor<2>> {
        let context = ImageContext { states: images, image_of, visible: None };
        self.text_encoder.multi_modal(questions, context, OutputRows::All, dropout, None)
    }

    /// Decoder states `[R, D]` of answers, each about the question `question_of[answer]`.
    ///
    /// # Errors
    /// As [`TextEncoder::all_layers`].
    pub fn decode(
        &self,
        answers: &TokenBatch,
        questions: &TokenBatch,
        states: Tensor<2>,
        question_of: &[usize],
        dropout: &mut DropoutRng,
    ) -> Result<Tensor<2>> {
        let range = |q: &usize| {
            let s = questions.sequences[*q];
            s.start..s.start + s.visible
        };
        let memory = [Memory { states, ranges: question_of.iter().map(range).collect() }];
        self.text_decoder.all_layers(answers, &memory, OutputRows::All, dropout, None)
    }
}

/// How many images a text is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImagesPerText {
    /// One.
    One,
    /// Two. The fusion layers come in pairs: one layer of a pair attends to the first image, the other
    /// to the second.
    Two,
}

/// Classes of a text about one image or two.
#[derive(Clone, Debug)]
pub struct ClassificationModel {
    visual_encoder: VisionEncoder,
    text_encoder: TextEncoder,
    cls_head: ClassHead,
    images: ImagesPerText,
}

impl ClassificationModel {
    /// Reads one of the two copies.
    ///
    /// # Errors
    /// If a weight is absent or of another size.
    pub fn new(
        config: &ModelConfig,
        weights: &Weights,
        branch: Branch,
        images: ImagesPerText,
        classes: usize,
    ) -> Result<Self> {
        let text = match images {
            ImagesPerText::One => config.text.clone(),
            ImagesPerText::Two => config.text.pairs(),
        };
        let (visual_encoder, text_encoder) = encoders(config, &text, weights, branch)?;
        let scope = weights.scope(&named("cls_head", branch));
        let cls_head = ClassHead::new(&scope, config.text.hidden, classes)?;
        Ok(Self { visual_encoder, text_encoder, cls_head, images })
    }

    /// Logits `[B, C]` of texts. `images` are `[B, 3, S, S]`, or `[2 B, 3, S, S]` with all first images
    /// before all second ones.
    ///
    /// # Errors
    /// As [`TextEncoder::multi_modal`].
    pub fn logits(
        &self,
        images: Tensor<4>,
        texts: &TokenBatch,
        dropout: &mut DropoutRng,
    ) -> Result<Tensor<2>> {
        let states = self.visual_encoder.forward(images)?;
        let n = texts.len();
        let first: Vec<usize> = (0..n).collect();
        let fused = match self.images {
            ImagesPerText::One => {
                let class = vec![vec![0]; n];
                let context = ImageContext { states: &states, image_of: &first, visible: None };
                let read = OutputRows::Rows(&class);
                self.text_encoder.multi_modal(texts, context, read, dropout, None)?
            }
            ImagesPerText::Two => {
                let second: Vec<usize> = (n..2 * n).collect();
                fuse_pairs(&self.text_encoder, &states, [&first, &second], texts, dropout)?
            }
        };
        Ok(self.cls_head.forward(fused))
    }
}

/// Visual entailment: three classes of a sentence about an image.
#[derive(Clone, Debug)]
pub struct VisualEntailmentModel(ClassificationModel);

impl VisualEntailmentModel {
    /// Contradiction, neutral, entailment.
    pub const CLASSES: [&'static str; 3] = ["contradiction", "neutral", "entailment"];

    /// Reads one of the two copies.
    ///
    /// # Errors
    /// If a weight is absent or of another size.
    pub fn new(config: &ModelConfig, weights: &Weights, branch: Branch) -> Result<Self> {
        let (images, classes) = (ImagesPerText::One, Self::CLASSES.len());
        Ok(Self(ClassificationModel::new(config, weights, branch, images, classes)?))
    }

    /// Logits `[B, 3]` of one sentence per image `[B, 3, S, S]`.
    ///
    /// # Errors
    /// As [`ClassificationModel::logits`].
    pub fn logits(
        &self,
        images: Tensor<4>,
        sentences: &TokenBatch,
        dropout: &mut DropoutRng,
    ) -> Result<Tensor<2>> {
        self.0.logits(images, sentences, dropout)
    }
}

/// Natural language for visual reasoning: statements about two images, false or true.
#[derive(Clone, Debug)]
pub struct Nlvr2Model(ClassificationModel);

impl Nlvr2Model {
    /// Number of classes: false, true.
    pub const CLASSES: usize = 2;

    /// Reads one of the two copies.
    ///
    /// # Errors
    /// If a weight is absent or of another size.
    pub fn new(config: &ModelConfig, weights: &Weights, branch: Branch) -> Result<Self> {
        let (images, classes) = (ImagesPerText::Two, Self::CLASSES);
        Ok(Self(ClassificationModel::new(config, weights, branch, images, classes)?))
    }

    /// Logits `[B, 2]` (false, true) of statements; `images` `[2 B, 3, S, S]` holds all first
    /// images, then all second ones.
    ///
    /// # Errors
    /// As [`ClassificationModel::logits`].
    pub fn logits(
        &self,
        images: Tensor<4>,
        statements: &TokenBatch,
        dropout: &mut DropoutRng,
    ) -> Result<Tensor<2>> {
        self.0.logits(images, statements, dropout)
    }
}

/// `[CLS]` states `[B, D]` of texts about two images each.
fn fuse_pairs(
    encoder: &TextEncoder,
    states: &ImageStates,
    image_of: [&[usize]; 2],
    texts: &TokenBatch,
    dropout: &mut DropoutRng,
) -> Result<Tensor<2>> {
    let memory = |image_of| ImageContext { states, image_of, visible: None }.memory(texts.len());
    let memories = [memory(image_of[0])?, memory(image_of[1])?];
    let class = vec![vec![0]; texts.len()];
    encoder.all_layers(texts, &memories, OutputRows::Rows(&class), dropout, None)
}

/// Text assignment: which of two images a text belongs to, or neither.
#[derive(Clone, Debug)]
pub struct AssignmentModel {
    visual_encoder: VisionEncoder,
    text_encoder: TextEncoder,
    vision_proj: Linear,
    ta_head: Linear,
}

impl AssignmentModel {
    /// Reads the model. It has no momentum copy.
    ///
    /// # Errors
    /// If a weight is absent or of another size.
    pub fn new(config: &ModelConfig, weights: &Weights) -> Result<Self> {
        let (visual_encoder, text_encoder) =
            encoders(config, &config.text.pairs(), weights, Branch::Online)?;
        let (w, e) = (config.vision.width, config.embed_dim);
        Ok(Self {
            visual_encoder,
            text_encoder,
            vision_proj: Linear::new(&weights.scope("vision_proj"), w, e)?,
            ta_head: Linear::new(&weights.scope("ta_head"), config.text.hidden, 3)?,
        })
    }

    /// States of the images and their unit-length features `[B, E]`.
    ///
    /// # Errors
    /// As [`VisionEncoder::forward`].
    pub fn encode_images(&self, images: Tensor<4>) -> Result<(ImageStates, Tensor<2>)> {
        let states = self.visual_encoder.forward(images)?;
        let feat = normalize(self.vision_proj.forward(states.class_tokens()));
        Ok((states, feat))
    }

    /// Logits `[B, 3]` (first, second, neither) of texts about the images `pairs[text]`.
    ///
    /// # Errors
    /// As [`TextEncoder::all_layers`].
    pub fn logits(
        &self,
        states: &ImageStates,
        pairs: &[[usize; 2]],
        texts: &TokenBatch,
        dropout: &mut DropoutRng,
    ) -> Result<Tensor<2>> {
        let side = |i: usize| pairs.iter().map(|p| p[i]).collect::<Vec<_>>();
        let image_of = [&side(0)[..], &side(1)[..]];
        Ok(self.ta_head.forward(fuse_pairs(&self.text_encoder, states, image_of, texts, dropout)?))
    }
}
