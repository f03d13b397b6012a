//! Measuring: recall, retrieval with re-ranking, answers, boxes, mutual information, baselines.

pub mod answers;
pub mod grounding;
pub mod metrics;
pub mod mutual_information;
pub mod outcomes;
pub mod protocol;
pub mod refcoco;
pub mod retrieval;
pub mod text_baseline;
pub mod vqa_files;
pub mod vqa_score;
