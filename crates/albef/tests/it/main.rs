//! The library from outside, and its documents.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

mod architecture;
mod golden;
mod imports;
