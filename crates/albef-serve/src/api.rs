//! Requests and answers. What a client sees of the service is in this file and in the OpenAPI document that is
//! derived from it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::object::{image, maybe_object, objects};

mod search;

pub use search::*;

/// An image: its number in the index, or the file itself. In `multipart/form-data` a file stands in its place.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(untagged, expecting = "an image is `{\"id\": NUMBER}` or `{\"base64\": \"…\"}`")]
#[schema(example = json!({"id": 1}))]
pub enum ImageInput {
    /// By number.
    Id(ImageNumber),
    /// By file.
    File(ImageFile),
}

/// The number of an image in the index.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageNumber {
    /// The number.
    pub id: i64,
}

/// An image file.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageFile {
    /// Its bytes, base64-encoded (standard alphabet).
    #[schema(format = Byte)]
    pub base64: String,
}

/// Images, texts and pairs to embed.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EmbedRequest {
    /// The model; the first one if not given.
    pub model: Option<String>,
    /// Images.
    #[serde(deserialize_with = "objects")]
    pub images: Vec<ImageInput>,
    /// Texts.
    pub texts: Vec<String>,
    /// Images with a text each: the fused state of `[CLS]`, not of unit length.
    #[serde(deserialize_with = "objects")]
    pub pairs: Vec<PairInput>,
}

/// An image and a text.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PairInput {
    /// The image.
    #[serde(deserialize_with = "image")]
    pub image: ImageInput,
    /// The text.
    pub text: String,
}

/// Features, in the order of the request.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct EmbedResponse {
    /// The model.
    pub model: String,
    /// Unit-length features of the images.
    pub images: Vec<Vec<f32>>,
    /// Unit-length features of the texts.
    pub texts: Vec<Vec<f32>>,
    /// Fused states of the pairs.
    pub pairs: Vec<Vec<f32>>,
}

/// An image and a text to compare.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MatchRequest {
    /// The model; the first one if not given.
    #[serde(default)]
    pub model: Option<String>,
    /// The image.
    #[serde(deserialize_with = "image")]
    pub image: ImageInput,
    /// The text.
    pub text: String,
}

/// How well a text fits an image.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct MatchResponse {
    /// Cosine of the features, -1 to 1.
    pub cosine: f32,
    /// Probability of a match, 0 to 1.
    pub probability: f64,
}

/// Candidates to order by how well they fit a query: images for a text, or texts for an image or a text.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"query": "a dog", "texts": ["a puppy", "a car"]}))]
pub struct RerankRequest {
    /// The model; the first one if not given.
    #[serde(default)]
    pub model: Option<String>,
    /// The query: a text.
    #[serde(default)]
    pub query: Option<String>,
    /// The query: an image.
    #[serde(default, deserialize_with = "maybe_object")]
    pub query_image: Option<ImageInput>,
    /// Candidates that are texts.
    #[serde(default)]
    pub texts: Vec<String>,
    /// Candidates that are images.
    #[serde(default, deserialize_with = "objects")]
    pub images: Vec<ImageInput>,
    /// Logits of the matching head instead of probabilities.
    #[serde(default)]
    pub raw_scores: bool,
    /// Give the texts back.
    #[serde(default)]
    pub return_text: bool,
}

/// A candidate with its score; a list of them is ordered, best first.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Ranked {
    /// Its place in the request.
    pub index: usize,
    /// Probability of a match; for two texts, the cosine of their features.
    pub score: f64,
    /// The text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// An image to classify without training.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ClassifyRequest {
    /// The model; the first one if not given.
    #[serde(default)]
    pub model: Option<String>,
    /// The image.
    #[serde(deserialize_with = "image")]
    pub image: ImageInput,
    /// The classes, in words.
    pub labels: Vec<String>,
}

/// A class.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ClassResult {
    /// Its label.
    pub label: String,
    /// Its probability among the labels, 0 to 1.
    pub probability: f64,
    /// Probability that the label fits the image at all, 0 to 1.
    pub match_probability: f64,
}

/// Classes, the likeliest first.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ClassifyResponse {
    /// The classes.
    pub classes: Vec<ClassResult>,
}

/// A phrase to find in an image.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GroundRequest {
    /// The model; the first one if not given.
    #[serde(default)]
    pub model: Option<String>,
    /// The image.
    #[serde(deserialize_with = "image")]
    pub image: ImageInput,
    /// The phrase.
    pub phrase: String,
    /// Give a map for each word too.
    #[serde(default)]
    pub words: bool,
}

/// The map of a word.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct WordResult {
    /// The word.
    pub word: String,
    /// `grid * grid` values, row by row, 0 to 1.
    pub map: Vec<f32>,
    /// The image with the map laid over it, a PNG, base64-encoded.
    pub overlay: String,
}

/// Where a phrase is.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct GroundResponse {
    /// Cells of the map along a side.
    pub grid: usize,
    /// `grid * grid` values, row by row, 0 to 1.
    pub map: Vec<f32>,
    /// The box of the strongest region in pixels: left, top, width, height.
    pub region: Option<[f64; 4]>,
    /// The image with the map laid over it, a PNG, base64-encoded.
    pub overlay: String,
    /// The maps of the words.
    pub words: Vec<WordResult>,
}

/// A question about an image. Needs a model for questions.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AskRequest {
    /// The model; the first one for questions if not given.
    #[serde(default)]
    pub model: Option<String>,
    /// The image.
    #[serde(deserialize_with = "image")]
    pub image: ImageInput,
    /// The question.
    pub question: String,
    /// Candidate answers; if none are given, those of the service, or else of the model.
    #[serde(default)]
    pub answers: Vec<String>,
    /// Answers to give.
    #[serde(default = "usual_answers")]
    #[schema(minimum = 1, maximum = 200)]
    pub top_k: usize,
}

fn usual_answers() -> usize {
    5
}

/// A sentence about an image. Needs a model for visual entailment.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EntailRequest {
    /// The model; the first one for entailment if not given.
    #[serde(default)]
    pub model: Option<String>,
    /// The image.
    #[serde(deserialize_with = "image")]
    pub image: ImageInput,
    /// The sentence.
    pub sentence: String,
}

/// A statement about two images. Needs a model for NLVR2.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReasonRequest {
    /// The model; the first one for statements if not given.
    #[serde(default)]
    pub model: Option<String>,
    /// The left image.
    #[serde(deserialize_with = "image")]
    pub left: ImageInput,
    /// The right image.
    #[serde(deserialize_with = "image")]
    pub right: ImageInput,
    /// The statement.
    pub statement: String,
}

/// A possible answer.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Answer {
    /// The answer.
    pub answer: String,
    /// Its probability, 0 to 1.
    pub probability: f32,
}

/// Answers, the likeliest first.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AnswerResponse {
    /// The model.
    pub model: String,
    /// The answers.
    pub answers: Vec<Answer>,
}

/// What clients of other embedding services send to `/v1/embeddings`.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct EmbeddingsRequest {
    /// The model; the first one if it is not one of this service.
    #[serde(default)]
    pub model: Option<String>,
    /// A text, a list of texts, or of images.
    pub input: EmbeddingsInput,
    /// `float` or `base64` (little-endian f32).
    #[serde(default)]
    pub encoding_format: Encoding,
    /// Values of a feature; only those that the model has.
    #[serde(default)]
    pub dimensions: Option<usize>,
    /// Ignored.
    #[serde(default)]
    pub user: Option<String>,
}

/// What is embedded.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(
    untagged,
    expecting = "`input` is a text, a list of texts, or a list of images such as `{\"id\": NUMBER}`"
)]
pub enum EmbeddingsInput {
    /// A text.
    One(String),
    /// Texts.
    Texts(Vec<String>),
    /// Images.
    Images(#[serde(deserialize_with = "objects")] Vec<ImageInput>),
}

/// How a feature is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// A list of numbers.
    #[default]
    Float,
    /// Base64 of little-endian f32.
    Base64,
}

/// A feature.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Embedding {
    /// `embedding`.
    pub object: String,
    /// Its place in the request.
    pub index: usize,
    /// The feature.
    pub embedding: EmbeddingValue,
}

/// A feature: numbers, or base64 of little-endian f32.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum EmbeddingValue {
    /// Numbers.
    Float(Vec<f32>),
    /// Base64.
    Base64(String),
}

/// Word pieces that were read.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Usage {
    /// Word pieces of the texts.
    pub prompt_tokens: usize,
    /// The same.
    pub total_tokens: usize,
}

/// Features in the shape that clients of other embedding services read.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct EmbeddingsResponse {
    /// `list`.
    pub object: String,
    /// The features.
    pub data: Vec<Embedding>,
    /// The model.
    pub model: String,
    /// Word pieces that were read.
    pub usage: Usage,
}

/// A model of the service.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ModelInfo {
    /// Its name.
    pub id: String,
    /// `model`.
    pub object: String,
    /// What it is for: `pretrain`, `retrieval`, `vqa`, `ve`, `nlvr`, ….
    pub task: String,
    /// Pixels along a side of its images.
    pub image_res: usize,
    /// What it can do and what not, in a line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// Whether its match probability tells whether an image matches; false where it was measured and hardly does.
    pub match_reliable: bool,
}

/// The models of the service.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ModelsResponse {
    /// `list`.
    pub object: String,
    /// The models.
    pub data: Vec<ModelInfo>,
}

/// Whether the service is well.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct HealthResponse {
    /// `ok`.
    pub status: String,
    /// The version of the program.
    pub version: String,
}
