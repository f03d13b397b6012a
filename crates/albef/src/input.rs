//! Text files as people have them.

use std::fs;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// Reads a text file without the byte order mark that some editors put first.
///
/// # Errors
/// If it cannot be read or is not UTF-8.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let text = fs::read_to_string(path).map_err(Error::io(path))?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// Reads a JSON file, with or without a byte order mark; `wanted` begins the message about one that does
/// not fit.
///
/// # Errors
/// If it cannot be read, or is not JSON of the type.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path, wanted: &str) -> Result<T> {
    serde_json::from_str(&read_text(path)?)
        .map_err(|e| Error::Format { path: path.to_owned(), detail: format!("{wanted}: {e}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_order_mark_is_not_a_part_of_the_text() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        fs::write(&path, "\u{feff}[1, 2]").unwrap();
        assert_eq!(read_json::<Vec<u8>>(&path, "a list").unwrap(), [1, 2]);
        fs::write(&path, "\u{feff}[1, ").unwrap();
        let said = read_json::<Vec<u8>>(&path, "a list").unwrap_err().to_string();
        assert!(said.contains("x.json: a list: "), "{said}");
    }
}
