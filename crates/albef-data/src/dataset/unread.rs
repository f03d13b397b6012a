//! Files that are images, or look like some, by content where the name does not tell.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::sample::Skipped;
use crate::error::{ImageError, ImageErrorKind as Kind};
use crate::image::{Content, Format, HEAD, content, not_supported, unread};

/// How the names of images end.
pub(super) const ENDINGS: &[&str] = &[
    "jpg",
    "jpeg",
    "png",
    "webp",
    "gif",
    "bmp",
    "jfif",
    "tif",
    "tiff",
    #[cfg(feature = "heic")]
    "heic",
    #[cfg(feature = "heic")]
    "heif",
    #[cfg(feature = "heic")]
    "hif",
    #[cfg(feature = "avif")]
    "avif",
    #[cfg(feature = "avif")]
    "avifs",
];

/// Endings of files that lie beside images and are none, so that they need not be opened.
const OTHERS: [&str; 22] = [
    "txt",
    "json",
    "jsonl",
    "csv",
    "tsv",
    "md",
    "tar",
    "index",
    "unpacked",
    "zip",
    "gz",
    "yaml",
    "yml",
    "xml",
    "html",
    "py",
    "log",
    "npy",
    "npz",
    "pt",
    "pth",
    "safetensors",
];

/// Whether a name ends as those of images do.
#[must_use]
pub fn is_named_as_image(path: &Path) -> bool {
    let ending = path.extension().and_then(|e| e.to_str());
    ending.is_some_and(|e| ENDINGS.contains(&e.to_lowercase().as_str()))
}

/// What a file is to a reader of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looks {
    /// An image of a format that is read.
    Image,
    /// An image of this format, which is not read.
    Unread(&'static str),
    /// No image.
    Other,
}

/// What a file is, by its name, and by its first bytes where the name does not tell.
#[must_use]
pub fn looks(path: &Path) -> Looks {
    if is_named_as_image(path) {
        return Looks::Image;
    }
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    if OTHERS.iter().any(|e| extension.eq_ignore_ascii_case(e)) {
        return Looks::Other;
    }
    match (head(path).map(|h| content(&h)), unread(extension)) {
        // Most raw formats are TIFF inside.
        (Some(Content::Image(Format::Tiff)), Some("RAW")) => Looks::Unread("RAW"),
        (Some(Content::Image(_)), _) => Looks::Image,
        (Some(Content::Unread(format)), _) | (_, Some(format)) => Looks::Unread(format),
        _ => Looks::Other,
    }
}

/// The first bytes of a plain file.
fn head(path: &Path) -> Option<Vec<u8>> {
    // Opening a pipe would wait for its writer.
    if !path.metadata().is_ok_and(|m| m.is_file()) {
        return None;
    }
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(HEAD as u64).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// The error about an image of a format that is not read.
#[must_use]
pub fn refusal(format: &'static str) -> ImageError {
    ImageError { kind: Kind::Unsupported(format), detail: not_supported(format) }
}

/// Counts by format the files of a folder that are images of a kind that is not read; `None` without any.
#[must_use]
pub fn unread_formats(skipped: &[Skipped]) -> Option<String> {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for skipped in skipped {
        let Kind::Unsupported(format) = skipped.error.kind else { continue };
        match counts.iter_mut().find(|(name, _)| *name == format) {
            Some((_, count)) => *count += 1,
            None => counts.push((format, 1)),
        }
    }
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let all: usize = counts.iter().map(|(_, count)| count).sum();
    let list: Vec<String> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
    let files = match all {
        0 => return None,
        1 => "1 file that looks like an image is".to_owned(),
        n => format!("{n} files that look like images are"),
    };
    let buildable =
        [("HEIC", "heic", cfg!(feature = "heic")), ("AVIF", "avif", cfg!(feature = "avif"))];
    let missing = buildable
        .iter()
        .filter(|(name, _, built)| !built && counts.iter().any(|(format, _)| format == name));
    let (formats, features): (Vec<&str>, Vec<&str>) =
        missing.map(|(name, feature, _)| (*name, *feature)).unzip();
    let hint = match formats.is_empty() {
        true => String::new(),
        false => format!(
            "; `cargo install … --features {}` makes a program that reads {}",
            features.join(","),
            formats.join(" and ")
        ),
    };
    Some(format!("{files} of a kind that is not read ({}){hint}", list.join(", ")))
}
