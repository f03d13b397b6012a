//! Parquet files: one with the bytes of images is a shard, one with their paths a list. Reading them is the cargo
//! feature `parquet`.

#[cfg(not(feature = "parquet"))]
mod absent;
#[cfg(feature = "parquet")]
mod rows;

#[cfg(not(feature = "parquet"))]
pub(super) use self::absent::{entries, holds_images, refusal};
#[cfg(feature = "parquet")]
pub(super) use self::rows::{each_image, entries, holds_images};

/// How a Parquet file begins and ends.
pub(super) const MAGIC: &[u8] = b"PAR1";

/// Whether a name ends as those of Parquet files do.
pub(super) fn is_parquet(name: &str) -> bool {
    name.to_lowercase().ends_with(".parquet")
}
