//! Parquet files with images, as archives.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::super::contents::Contents;
use super::super::entry::Place;
use super::super::parquet;
use super::super::sample::Skipped;
use super::copy::{self, Failed};
use crate::error::{DataError, ImageErrorKind as Kind, Result};
use crate::names;

/// A Parquet file as an archive, and what a user should know: a column is read as a whole, so that no image can be
/// read alone.
///
/// # Errors
/// If it is damaged, holds no images, or the archive cannot be written.
pub(super) fn unpacked(path: &Path) -> Result<(PathBuf, Option<String>)> {
    if !parquet::holds_images(path)? {
        let detail =
            "it has no column of images; hint: name it itself, as a list of paths and captions";
        return Err(DataError::annotation(path, String::new(), detail));
    }
    copy::of(path, "is a table", "", |out| unpack(path, out))
}

fn unpack(path: &Path, out: &mut BufWriter<File>) -> Result<(), Failed> {
    let mut failed = None;
    let mut archive = tar::Builder::new(out);
    let read = parquet::each_image(path, &mut |number, bytes, columns| {
        write_row(&mut archive, number, bytes, columns).map_err(|cause| {
            failed = Some(cause);
            DataError::Argument(String::new())
        })
    });
    match (failed, read) {
        (Some(cause), _) => Err(Failed::Written(cause)),
        (None, Err(DataError::Annotation { place, detail, .. })) => {
            Err(Failed::Damaged(format!("{detail}{place}")))
        }
        (None, Err(error)) => Err(Failed::Damaged(error.to_string())),
        (None, Ok(())) => archive.into_inner().and_then(Write::flush).map_err(Failed::Written),
    }
}

fn write_row<W: Write>(
    archive: &mut tar::Builder<W>,
    number: usize,
    image: Option<&[u8]>,
    columns: Map<String, Value>,
) -> std::io::Result<()> {
    let json = Value::Object(columns).to_string();
    // Decoders tell formats apart by content.
    let parts = [("jpg", image), ("json", Some(json.as_bytes()))];
    for (ending, bytes) in parts.into_iter().filter_map(|(e, bytes)| Some((e, bytes?))) {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, format!("{number:09}.{ending}"), bytes)?;
    }
    Ok(())
}

/// Names what is left out of a table, or at fault, by its row, and not by the member of its copy.
pub(super) fn name_rows(table: &Path, copy: &Path, contents: &mut Contents) {
    let (table, copy) = (names::text_of_path(table), names::text_of_path(copy));
    let row = |name: &str| {
        let member = name.strip_prefix(&*copy)?.strip_prefix(": ")?;
        let (number, ending) = member.split_once('.')?;
        Some((number.parse().ok()?, ending == "json"))
    };
    for Skipped { name, error } in &mut contents.left_out {
        let Some((number, is_json)) = row(name) else { continue };
        *name = format!("{table}{}", Place::Row(number));
        // The only member of a row without an image.
        if is_json && error.kind == Kind::Entry {
            error.detail = format!(
                "it has no bytes of an image, and no file is where its path says, relative to the table; once it is \
                 there, remove {}",
                names::shown(&copy)
            );
        }
    }
    for fault in &mut contents.faults {
        if let Some((number, _)) = row(&fault.name) {
            fault.name = format!("{table}{}", Place::Row(number));
        }
    }
}
