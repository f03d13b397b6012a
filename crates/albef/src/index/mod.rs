//! One's own images in an index: which index, how a model makes its vectors, and how it is searched.
//!
//! The index itself, with walking, updating and exact search, is the crate `albef-index`, whose items are here too.

mod browse;
mod encoder;
mod place;
mod search;
mod states;

pub use albef_index::*;

pub use browse::{Browsed, IndexImage, browse, describe};
pub use encoder::IndexEncoder;
pub use place::{
    OpenIndex, Place, dry_run, is_photo_folder, open_current, open_part, open_to_read,
};
pub use search::{IndexHit, IndexQuery, IndexResults};
pub use states::StatesMade;
