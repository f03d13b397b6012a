//! What a file is that should be something else: a pointer, a page, half a download.

use std::fmt;

/// What was found where a checkpoint, an image or a list was expected, told by the first bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileKind {
    /// No byte.
    Empty,
    /// A pointer that Git LFS left in place of the file.
    GitLfsPointer {
        /// Bytes of the file that it stands for, if it tells them.
        bytes: Option<u64>,
    },
    /// A page for browsers.
    HtmlPage,
    /// Zeros alone, as unfinished downloads leave them.
    Zeros,
    /// An archive or compressed file that has to be unpacked first.
    Archive(&'static str),
    /// A file of another, known kind.
    Other(&'static str),
    /// Short text, such as the message of a server.
    Text {
        /// How it begins.
        begins: String,
    },
}

/// Bytes that [`FileKind::of`] looks at.
pub const HEAD: usize = 1024;
/// A longer text is a document, not a message.
const MESSAGE: u64 = 4096;
/// Characters of a message that are shown.
const SHOWN: usize = 60;

const ARCHIVES: [(&[u8], &str); 6] = [
    (b"\x1f\x8b", "a gzip file"),
    (b"\x28\xb5\x2f\xfd", "a zstd file"),
    (b"\xfd7zXZ\0", "an xz file"),
    (b"BZh", "a bzip2 file"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
];

const OTHERS: [(&[u8], &str); 9] = [
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"%PDF", "a PDF document"),
    (b"\x89HDF", "an HDF5 file, as Keras writes it"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"GGUF", "a GGUF model"),
    (b"PAR1", "a Parquet file"),
    (b"\x7fELF", "a program"),
];

impl FileKind {
    /// The kind of a file of `length` bytes that begins with `head`; `None` if nothing is known of it.
    /// [`HEAD`] bytes are enough. Kinds that the caller reads are for the caller to recognize first.
    #[must_use]
    pub fn of(head: &[u8], length: u64) -> Option<Self> {
        if length == 0 {
            return Some(Self::Empty);
        }
        let head = &head[..head.len().min(HEAD)];
        let starts =
            |(magic, name): &(&[u8], &'static str)| head.starts_with(magic).then_some(*name);
        if let Some(name) = ARCHIVES.iter().find_map(starts) {
            return Some(Self::Archive(name));
        }
        if head.get(257..262) == Some(b"ustar") {
            return Some(Self::Archive("a tar archive"));
        }
        if let Some(name) = OTHERS.iter().find_map(starts) {
            return Some(Self::Other(name));
        }
        if !head.is_empty() && head.iter().all(|b| *b == 0) {
            return Some(Self::Zeros);
        }
        Self::of_text(head, length)
    }

    fn of_text(head: &[u8], length: u64) -> Option<Self> {
        let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
        let text = match std::str::from_utf8(head) {
            Ok(text) => text,
            // A character may be cut by the end of the head.
            Err(e) if e.error_len().is_none() => {
                std::str::from_utf8(&head[..e.valid_up_to()]).ok()?
            }
            Err(_) => return None,
        };
        let text = text.trim_start();
        if text.starts_with("version https://git-lfs")
            || text.starts_with("version http://git-media")
        {
            let size = text.lines().find_map(|line| line.strip_prefix("size "));
            return Some(Self::GitLfsPointer { bytes: size.and_then(|n| n.trim().parse().ok()) });
        }
        let lower = text.get(..text.len().min(256)).unwrap_or(text).to_ascii_lowercase();
        if lower.starts_with('<') {
            let page = ["<!doctype html", "<html", "<head", "<body", "<script"];
            let page = page.iter().any(|tag| lower.contains(tag));
            return Some(if page { Self::HtmlPage } else { Self::Other("an XML document") });
        }
        let printable = |c: char| !c.is_control() || c.is_whitespace();
        if length > MESSAGE || text.is_empty() || !text.chars().all(printable) {
            return None;
        }
        let line = text.lines().next().unwrap_or_default();
        Some(Self::Text { begins: line.chars().take(SHOWN).collect() })
    }

    /// What it is and the way out, for a message; `wanted`: what was expected, as in `a checkpoint`.
    #[must_use]
    pub fn instead_of(&self, wanted: &str) -> String {
        let again = "download it again";
        match self {
            Self::Empty => format!("the file is empty, not {wanted}; {again}"),
            Self::GitLfsPointer { .. } => {
                format!("this is {self}, not the file; run `git lfs pull`")
            }
            Self::HtmlPage => format!(
                "this is {self}, not {wanted}: the server sent a page (a login, terms to accept or a \
                 wrong address); {again}"
            ),
            Self::Zeros => {
                format!("the file begins with zeros alone: an unfinished download; {again}")
            }
            Self::Archive(_) => format!("this is {self}, not {wanted}; unpack it first"),
            Self::Other(_) => format!("this is {self}, not {wanted}"),
            Self::Text { .. } => format!("this is {self}, not {wanted}; {again}"),
        }
    }
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("an empty file"),
            Self::GitLfsPointer { bytes: Some(n) } => {
                write!(f, "a Git LFS pointer to a file of {n} bytes")
            }
            Self::GitLfsPointer { bytes: None } => f.write_str("a Git LFS pointer"),
            Self::HtmlPage => f.write_str("an HTML page"),
            Self::Zeros => f.write_str("a file of zeros"),
            Self::Archive(name) | Self::Other(name) => f.write_str(name),
            Self::Text { begins } => write!(f, "a text that begins with {begins:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_downloaded_instead_of_a_file_is_named() {
        let kind = |bytes: &[u8]| FileKind::of(bytes, bytes.len() as u64);
        let pointer =
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3344862781\n";
        let said = kind(pointer).unwrap().instead_of("a checkpoint");
        assert_eq!(
            said,
            "this is a Git LFS pointer to a file of 3344862781 bytes, not the file; run `git lfs pull`"
        );
        for page in [
            &b"<!DOCTYPE html><html>"[..],
            b"\n <html lang=\"en\">",
            b"\xef\xbb\xbf<!doctype HTML>",
            b"<!-- x --><head>",
        ] {
            assert_eq!(kind(page), Some(FileKind::HtmlPage));
        }
        assert_eq!(kind(b""), Some(FileKind::Empty));
        assert_eq!(kind(&[0; 4000]), Some(FileKind::Zeros));
        assert_eq!(kind(b"\x1f\x8b\x08"), Some(FileKind::Archive("a gzip file")));
        assert_eq!(
            kind(b"<?xml version=\"1.0\"?><Error>"),
            Some(FileKind::Other("an XML document"))
        );
        assert!(kind(b"Entry not found").unwrap().to_string().contains("Entry not found"));
        assert_eq!(kind(b"\x80\x02}q\x00."), None);
        assert_eq!(kind(b"PK\x03\x04\x00\x00"), None);
    }
}
