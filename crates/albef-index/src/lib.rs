//! An index of one's own images: what is in some folders, with one vector each, kept current and searched exactly.
//!
//! The crate knows no model: an [`Encoder`] makes the vectors. In the order of use:
//!
//! | to | see |
//! | --- | --- |
//! | open an index on this machine | [`Embedded`], one implementation of [`Store`] |
//! | or in a database for several machines | `Postgres` (feature `postgres`), the other one |
//! | bring it up to date with its folders | [`update`] |
//! | search it | [`Store::top_k`] with a [`Filter`] |
//! | check and mend it | [`Store::verify`], [`Store::compact`], [`repair`] |
//! | find copies | [`duplicates`] |
//! | look around | [`Store::newest`] |
//!
//! ```
//! use albef_data::image::{ImageReader, RgbImage};
//! use albef_index::{ContentHash, Control, Embedded, Encoder, Filter, Identity, Store, UpdateOptions, update};
//!
//! /// The mean color as a vector.
//! struct MeanColor(ImageReader);
//!
//! impl Encoder for MeanColor {
//!     fn identity(&self) -> Identity {
//!         Identity { fingerprint: "mean-color-1".into(), model: "mean color".into(), width: 3 }
//!     }
//!     fn reader(&self) -> &ImageReader {
//!         &self.0
//!     }
//!     fn prepare(&self, image: &RgbImage) -> Vec<f32> {
//!         let sum = |c| image.pixels.iter().skip(c).step_by(3).map(|v| f32::from(*v)).sum();
//!         let mean: Vec<f32> = (0..3).map(sum).collect();
//!         let length = mean.iter().map(|v| v * v).sum::<f32>().sqrt().max(1.0);
//!         mean.iter().map(|v| v / length).collect()
//!     }
//!     fn encode(&self, prepared: &[Vec<f32>], _: &[ContentHash]) -> Result<Vec<f32>, String> {
//!         Ok(prepared.concat())
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (photos, folder) = (tempfile::tempdir()?, tempfile::tempdir()?);
//! # for (name, color) in [("red", [200, 0, 0]), ("green", [0, 200, 0])] {
//! #     let png = albef_data::scenes::png(&RgbImage::filled(8, 8, color))?;
//! #     std::fs::write(photos.path().join(name).with_extension("png"), png)?;
//! # }
//! let encoder = MeanColor(ImageReader::default());
//! let store = Embedded::write(folder.path(), &encoder.identity())?;
//! store.add_root(photos.path().canonicalize()?.as_os_str().as_encoded_bytes())?;
//! let done = update(&store, &encoder, &UpdateOptions::default(), &Control::new())?;
//! assert_eq!(done.added, 2);
//!
//! let best = store.top_k(&[1.0, 0.0, 0.0], 1, &Filter::default())?[0];
//! let image = store.get(&[best.id])?.remove(0).ok_or("gone")?.image;
//! assert_eq!(image.path, b"red.png");
//! # Ok(())
//! # }
//! ```

mod checksum;
#[cfg(feature = "postgres")]
mod database;
mod duplicates;
mod embedded;
mod encoder;
#[cfg(feature = "postgres")]
mod encryption;
mod error;
mod last;
mod location;
mod metadata;
mod place;
#[cfg(feature = "postgres")]
mod postgres;
mod record;
pub mod scan;
mod states;
mod store;
mod update;
mod walk;
mod within;

#[cfg(feature = "postgres")]
pub use crate::postgres::Postgres;
pub use albef_data::control::{Control, Progress};
#[cfg(feature = "postgres")]
pub use database::Database;
pub use duplicates::{DuplicateGroup, DuplicateOptions, duplicates};
pub use embedded::{Embedded, Identity, Repair, check_identity, repair};
pub use encoder::Encoder;
pub use error::{IndexError, Result};
pub use last::{LastSearch, LastSearchError, result_number};
pub use location::Location;
pub use metadata::{Taken, content_hash, days_since_1970, perceptual_hash};
pub use place::{default_folder, indexes, user_folder};
pub use record::{
    Change, ContentHash, Filter, Image, ImageId, PathPattern, Record, Root, RootId, Status,
    bytes_of, join, path_of,
};
pub use states::{KeptStates, StatePrecision};
pub use store::{Scored, Store, StoreInfo, Verification};
pub use update::{Update, UpdateOptions, folders, update};
pub use walk::{Found, IGNORE_FILE, Walk, walk};
pub use within::Within;
