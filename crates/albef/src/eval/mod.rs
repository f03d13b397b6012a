//! Measuring: recall, retrieval with re-ranking, answers, boxes, mutual information, baselines.

pub mod answers;
pub mod grounding;
pub(crate) mod metrics;
pub mod mutual_information;
pub mod outcomes;
pub(crate) mod protocol;
pub mod refcoco;
pub mod retrieval;
pub(crate) mod text_baseline;
pub mod vqa_files;
pub mod vqa_score;

pub use metrics::RecallReport;
