//! Text files as people have them.

use std::fs;
use std::path::Path;

use albef_weights::{FileKind, HEAD};
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// Reads a text file without the byte order mark that some editors put first.
///
/// # Errors
/// If it cannot be read, is not UTF-8, or is what a download or checkout left in place of a text file.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let bytes = fs::read(path).map_err(Error::io(path))?;
    check_kind(path, &bytes)?;
    let wrong = |_| Error::Format { path: path.to_owned(), detail: "the text is not UTF-8".into() };
    let text = String::from_utf8(bytes).map_err(wrong)?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// An error for bytes that are a pointer, a page, zeros or an archive.
fn check_kind(path: &Path, bytes: &[u8]) -> Result<()> {
    let left = |kind: &FileKind| !matches!(kind, FileKind::Text { .. } | FileKind::Other(_));
    let head = &bytes[..bytes.len().min(HEAD)];
    match FileKind::of(head, bytes.len() as u64).filter(left) {
        Some(kind) => {
            let detail = kind.instead_of("the text that is expected");
            Err(Error::Format { path: path.to_owned(), detail })
        }
        None => Ok(()),
    }
}

/// Reads a JSON file, with or without a byte order mark; `wanted` begins the message about one that does
/// not fit.
///
/// # Errors
/// As [`read_text`], or if it is not JSON of the type.
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
        fs::write(&path, "version https://git-lfs.github.com/spec/v1\nsize 7\n").unwrap();
        let said = read_json::<Vec<u8>>(&path, "a list").unwrap_err().to_string();
        assert!(said.contains("a Git LFS pointer to a file of 7 bytes"), "{said}");
        fs::write(&path, "\u{feff}[1, ").unwrap();
        let said = read_json::<Vec<u8>>(&path, "a list").unwrap_err().to_string();
        assert!(said.contains("x.json: a list: "), "{said}");
    }
}
