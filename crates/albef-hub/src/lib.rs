//! Published checkpoints: a table of them, the caches of Hugging Face and of PyTorch in which they are kept,
//! and fetching them.
//!
//! [`Source`] is what a user names: a file of the table ([`PUBLISHED`]), an address, or a model of a hub.
//! [`Caches::find`] says where it is, if it was fetched by this or another program, and never uses the
//! network. [`pull`] fetches it, and is the only function of the whole program that does.
//!
//! ```
//! use albef_hub::{Caches, Source};
//!
//! let source: Source = "albef-coco".parse()?;
//! match Caches::from_env()?.find(&source) {
//!     Some(path) => println!("{}", path.display()),
//!     None => println!("get it with `albef pull albef-coco`"),
//! }
//! # Ok::<(), albef_hub::HubError>(())
//! ```

mod cache;
#[cfg(feature = "client")]
mod client;
#[cfg(feature = "client")]
mod download;
mod error;
#[cfg(feature = "client")]
mod lock;
mod published;
#[cfg(feature = "client")]
mod pull;
#[cfg(feature = "client")]
mod repository;
mod source;
#[cfg(feature = "client")]
mod watch;

pub use cache::Caches;
#[cfg(feature = "client")]
pub use client::Settings;
pub use error::{HubError, Result};
pub use published::{PUBLISHED, Published, table};
#[cfg(feature = "client")]
pub use pull::{Pulled, pull};
pub use source::{HubModel, Source};
#[cfg(feature = "client")]
pub use watch::{Progress, Watch};
