//! Measuring: recall, retrieval with re-ranking, answers, boxes.

pub mod answers;
pub mod grounding;
pub mod metrics;
pub mod refcoco;
pub mod retrieval;
pub mod vqa_files;
pub mod vqa_score;
