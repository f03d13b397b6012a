//! The readers of untrusted files as functions of bytes. A fuzzer (`scripts/fuzz.sh`) calls them with what it
//! finds, the test of this crate with the corpus in `fuzz/corpus` and mutations of it. They return nothing: a
//! reader may give an error, and must neither panic nor take time or memory out of proportion.

mod mutate;
mod seeds;
mod targets;
#[path = "../../albef-weights/tests/common/mod.rs"]
mod torch;

pub use mutate::mutated;
pub use seeds::seeds;
pub use targets::{TARGETS, Target, named};
