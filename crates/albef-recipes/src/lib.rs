//! Recipes of the paper's tables: which commands reproduce a row, on which files, and the record of a
//! run with claimed and measured figures side by side. Running the steps is up to the program.

pub mod check;
pub mod plan;
pub mod recipe;
pub mod record;
