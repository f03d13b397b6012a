//! Being told how far a transfer is, and ending it.

use std::ops::ControlFlow;

/// How far a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// What is being done.
    pub phase: &'static str,
    /// The name of the file.
    pub file: &'a str,
    /// Bytes done.
    pub done: u64,
    /// Bytes in all, if that is known.
    pub total: Option<u64>,
}

/// What is called now and then, and may end the work, which can be continued later.
pub type Watch<'a> = dyn FnMut(&Progress<'_>) -> ControlFlow<()> + 'a;
