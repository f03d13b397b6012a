//! Parquet files: one with the bytes of images is a shard, one with their paths a list. Reading them is the cargo
//! feature `parquet`.

#[cfg(not(feature = "parquet"))]
mod absent;
#[cfg(feature = "parquet")]
mod rows;

#[cfg(not(feature = "parquet"))]
pub(super) use self::absent::{entries, refusal};
#[cfg(feature = "parquet")]
pub(super) use self::rows::{each_image, entries};

use std::path::Path;

use crate::error::{DataError, Result};
use crate::input::{head_of, stands_instead};

/// How a Parquet file begins and ends.
pub(super) const MAGIC: &[u8] = b"PAR1";

/// Whether a name ends as those of Parquet files do.
pub(super) fn is_parquet(name: &str) -> bool {
    name.to_lowercase().ends_with(".parquet")
}

/// Whether a file holds images, not their paths.
///
/// # Errors
/// If it is damaged, or something else stands in its place, which is named.
pub(super) fn holds_images(path: &Path) -> Result<bool> {
    let (head, length) = head_of(path)?;
    if head.is_empty() {
        let detail = "the file is empty, not a Parquet file; download it again";
        return Err(DataError::annotation(path, String::new(), detail));
    }
    if !head.starts_with(MAGIC)
        && let Some(detail) = stands_instead(&head, length, "a Parquet file")
    {
        return Err(DataError::annotation(path, String::new(), detail));
    }
    #[cfg(feature = "parquet")]
    return rows::holds_images(path);
    #[cfg(not(feature = "parquet"))]
    Err(refusal(path))
}
