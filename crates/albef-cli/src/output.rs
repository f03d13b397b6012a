//! Data on standard output.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write, stdout};

use albef_data::names::{harmless, harmless_json};
use anyhow::{Context, Result};

/// Prints a line of data. A disk that is full behind it is an error, which `println!` panics about.
macro_rules! say {
    ($($line:tt)*) => { $crate::output::line(format_args!($($line)*)) };
}
pub(crate) use say;

/// Writes a line.
pub fn line(line: Arguments<'_>) -> Result<()> {
    write(format_args!("{line}\n"))
}

/// Writes bytes as they are, for other programs: names of files. A reader that has seen enough is no error.
pub fn raw(bytes: &[u8]) -> Result<()> {
    match stdout().lock().write_all(bytes) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => {
            Err(e).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

/// Writes what has its line ends already. A reader that has seen enough is no error.
pub fn write(text: Arguments<'_>) -> Result<()> {
    let text = text.to_string();
    let safe = match text.starts_with('{') {
        true => harmless_json(&text),
        false => harmless(&text),
    };
    raw(safe.as_bytes())
}
