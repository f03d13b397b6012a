//! What is searched in the index, and what is found.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ImageInput;
use crate::object::{image, object, objects};

/// Which images are searched; all if nothing is given.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FilterInput {
    /// Patterns of paths (`*.jpg`, `2024/**`), of which one must match.
    pub paths: Vec<String>,
    /// The first day, `YYYY-MM-DD`.
    #[schema(format = Date)]
    pub from: Option<String>,
    /// The day after the last, `YYYY-MM-DD`.
    #[schema(format = Date)]
    pub before: Option<String>,
    /// Columns at least.
    #[schema(format = Int64, minimum = 0, maximum = 4_294_967_295_u64)]
    pub min_width: Option<u32>,
    /// Rows at least.
    #[schema(format = Int64, minimum = 0, maximum = 4_294_967_295_u64)]
    pub min_height: Option<u32>,
    /// A part of the camera's name.
    pub camera: Option<String>,
}

/// A text with its weight; below zero it is taken away.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TermInput {
    /// The text.
    pub text: String,
    /// Its weight.
    pub weight: f32,
}

/// What to search for: a text, images, weighted texts, or all of them.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(example = json!({"query": "a dog on a beach", "top_k": 12}))]
pub struct SearchRequest {
    /// What the images should show. Alone, it orders the best images by the matching head.
    pub query: Option<String>,
    /// Images that they should be like.
    #[serde(deserialize_with = "objects")]
    pub like: Vec<ImageInput>,
    /// Texts that are added or taken away.
    #[serde(deserialize_with = "objects")]
    pub terms: Vec<TermInput>,
    /// Which images are searched.
    #[serde(deserialize_with = "object")]
    pub filter: FilterInput,
    /// Images of a page.
    #[schema(minimum = 1, maximum = 200)]
    pub top_k: usize,
    /// The page, from 1.
    #[schema(minimum = 1, maximum = 10000)]
    pub page: usize,
    /// Images that the matching head orders; 0 for the cosine alone.
    #[schema(minimum = 0, maximum = 256)]
    pub rerank_k: usize,
}

impl Default for SearchRequest {
    fn default() -> Self {
        let (query, like, terms) = (None, Vec::new(), Vec::new());
        Self {
            query,
            like,
            terms,
            filter: FilterInput::default(),
            top_k: 24,
            page: 1,
            rerank_k: 16,
        }
    }
}

/// An image that was found.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Hit {
    /// Its number in the index, under which `/v1/images/{id}` has it.
    pub id: i64,
    /// Its path below the folder of the index.
    pub name: String,
    /// Cosine of the features, -1 to 1.
    pub cosine: f32,
    /// Probability of a match, 0 to 1; absent where the matching head was not asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
    /// What results are ordered by.
    pub score: f32,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// When it was taken or modified: seconds since 1970.
    pub date: i64,
    /// The camera.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub camera: Option<String>,
    /// Other files of the same bytes.
    pub copies: usize,
}

/// A page of results, best first.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SearchResponse {
    /// The images.
    pub results: Vec<Hit>,
    /// Usable images of the index.
    pub gallery: u64,
    /// The page, from 1.
    pub page: usize,
    /// Whether there are more.
    pub more: bool,
    /// What results are ordered by.
    pub order: String,
    /// Whether no image matches: the best probability is below the threshold. Never set where the matching head
    /// was not asked.
    pub nothing_matches: bool,
    /// The threshold.
    pub threshold: f64,
    /// Whether the end of a text was not read.
    pub truncated: bool,
    /// Whether the model knows no word of the text: what is found then says nothing about it.
    pub unknown: bool,
}

/// An image of the index.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct IndexImage {
    /// Its number in the index, under which `/v1/images/{id}` has it.
    pub id: i64,
    /// Its path below the folder of the index.
    pub name: String,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// When it was taken or modified: seconds since 1970.
    pub date: i64,
    /// The camera.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub camera: Option<String>,
}

/// A page of images, latest first.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ImagesResponse {
    /// The images.
    pub results: Vec<IndexImage>,
    /// Usable images of the index.
    pub gallery: u64,
    /// The page, from 1.
    pub page: usize,
    /// Whether there are more.
    pub more: bool,
}

/// An image to find similar ones of.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SimilarRequest {
    /// The image.
    #[serde(deserialize_with = "image")]
    pub image: ImageInput,
    /// Which images are searched.
    #[serde(default, deserialize_with = "object")]
    pub filter: FilterInput,
    /// Images of a page.
    #[serde(default = "usual_top_k")]
    #[schema(minimum = 1, maximum = 200)]
    pub top_k: usize,
    /// The page, from 1.
    #[serde(default = "first_page")]
    #[schema(minimum = 1, maximum = 10000)]
    pub page: usize,
}

fn usual_top_k() -> usize {
    24
}

fn first_page() -> usize {
    1
}

/// What the index holds.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct IndexResponse {
    /// Usable images.
    pub images: u64,
    /// Images that cannot be used.
    pub broken: u64,
    /// Values of a vector.
    pub width: usize,
    /// Transactions so far: another number, another content.
    pub generation: u64,
    /// Bytes.
    pub bytes: u64,
}
