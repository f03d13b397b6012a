//! ALBEF over HTTP: search in an index of images, embeddings, matching, questions and heat maps, with a page for
//! people and an OpenAPI document for programs.
//!
//! A request passes a check of its key and origin, is read within the limits of size and time, takes a permit (or is
//! told at once to come back later), has its images decoded, and then waits for the one thread that computes for its
//! model. That thread encodes what waits at the same time together.
//!
//! ```no_run
//! use std::sync::Arc;
//! use albef::{ImageReader, device};
//! use albef_serve::{Limits, Metrics, Model, Opening, Service, serve};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let metrics = Arc::new(Metrics::default());
//! let (reader, precision) = (ImageReader::default(), device::Precision::F32);
//! let how = Opening { reader, precision, device: device::open("cpu")? };
//! let model = Model::open("mini", "models/mini".as_ref(), &how, &metrics)?;
//! let service = Service::new(vec![model], None, Limits::default(), metrics);
//! serve(service, "127.0.0.1:8080".parse()?, |address| println!("http://{address}"))?;
//! # Ok(())
//! # }
//! ```

pub mod api;
mod auth;
mod engine;
mod error;
mod input;
mod metrics;
mod object;
mod operations;
mod page;
mod queue;
mod router;
mod server;

pub use auth::Keys;
pub use engine::{Index, Limits, Model, Opening, Service};
pub use error::{Code, Problem};
pub use metrics::{Gauge, Histogram, Metrics};
pub use router::{document, router};
pub use server::{ServeError, check_address, serve};
