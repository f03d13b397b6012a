//! Indexes in folders, with an encoder that costs nothing.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

mod common;
mod conformance;
mod duplicates;
mod embedded;
mod faults;
#[cfg(feature = "postgres")]
mod postgres;
mod round_trips;
mod update;
mod walk;
mod within;
