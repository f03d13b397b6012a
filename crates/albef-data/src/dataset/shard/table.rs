//! Parquet files with images, as archives.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::super::parquet;
use super::copy::{self, Failed};
use crate::error::{DataError, Result};

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
