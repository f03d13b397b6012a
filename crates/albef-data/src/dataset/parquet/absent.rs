//! What a program says of Parquet files that does not read them.

use std::path::Path;

use super::super::entry::Entry;
use crate::error::{DataError, Result};

pub(in super::super) fn refusal(path: &Path) -> DataError {
    let detail = "it is a Parquet file, and this program was built without a reader of them; hint: build it with \
                  `--features parquet`, or write the table as JSON lines";
    DataError::annotation(path, String::new(), detail)
}

pub(in super::super) fn entries(
    path: &Path,
    _take: &mut dyn FnMut(Entry<'_>) -> Result<()>,
) -> Result<()> {
    Err(refusal(path))
}
