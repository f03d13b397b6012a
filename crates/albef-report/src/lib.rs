//! What a run leaves for people: logs, TensorBoard events, curves, intervals and an HTML report.

mod curves;
mod html;
mod jsonl;
mod stats;
mod tensorboard;

pub use curves::{Series, curves_svg};
pub use html::{Report, SearchExample, SearchResult, Table, data_uri, escape};
pub use jsonl::JsonLines;
pub use stats::bootstrap_interval;
pub use tensorboard::EventWriter;
