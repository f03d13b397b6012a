//! What a trained model is used for: features, search, matching, zero-shot classification, grounding.
//!
//! Each file adds methods to [`Pipeline`](crate::pipeline::Pipeline), with their options and results.

mod classify;
mod explain;
mod extract;
mod feature;
mod feature_file;
mod features;
mod ground;
mod journal;
mod matching;
mod overlay;
mod preview;
mod search;

pub use crate::gradcam::GroundingMode;
pub use classify::{ClassScore, Classification, ClassifyOptions};
pub use explain::{Explanation, Illustration, fit};
pub use feature::{ExtractOptions, FeatureName, FeatureRows, FeatureTokens};
pub use feature_file::{FeatureFormat, FeatureSink, write_features};
pub use features::ImageFeatures;
pub use ground::{GroundOptions, Grounding, WordMap};
pub use journal::FeatureJournal;
pub use matching::{ForImages, Match, match_probability};
pub use preview::Preview;
pub use search::{Hit, Place, SearchOptions, SearchResults, Verdict};
