//! What a run leaves for people: logs, TensorBoard events, curves, intervals, comparisons and an
//! HTML report.

mod compare;
mod comparison;
mod curves;
mod html;
mod jsonl;
mod outcomes;
mod results;
mod roc;
mod stats;
mod tensorboard;

pub use compare::{Difference, Draw, Named, Side, Test, compare};
pub use comparison::Comparison;
pub use curves::{Series, curve_panels, curves_svg};
pub use html::{Report, SearchExample, SearchResult, Table, Wanted, data_uri, escape};
pub use jsonl::JsonLines;
pub use outcomes::{Column, Kind, Outcome, OutcomeSet, Outcomes, OutcomesError};
pub use results::{ResultImage, ResultPage};
pub use roc::{Cut, roc_area};
pub use stats::{
    Sum, bootstrap_interval, cluster_interval, joint_interval, mcnemar, sign_flip,
    standard_deviation, statistic_interval,
};
pub use tensorboard::EventWriter;
