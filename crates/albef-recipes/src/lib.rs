//! Recipes of the paper's tables: which commands reproduce a row, on which files, and the record of a
//! run with claimed and measured figures side by side.

pub mod check;
pub mod list;
mod measure;
pub mod plan;
pub mod recipe;
pub mod record;
mod run;

pub use run::{Device, Event, run, validate};
