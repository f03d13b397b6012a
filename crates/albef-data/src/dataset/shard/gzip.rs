//! Archives that are compressed as a whole.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use super::copy::{self, Failed};
use super::is_header;
use crate::error::{DataError, Result};
use crate::input::{head_of, stands_instead};
use crate::names;

/// Bytes that one byte of an archive of images may unpack to, and that any may.
const MOST_RATIO: u64 = 100;
const ALWAYS: u64 = 1 << 30;

/// Whether a name ends as those of compressed archives do.
pub(in super::super) fn is_gzip(name: &str) -> bool {
    let name = name.to_lowercase();
    name.ends_with(".tar.gz") || name.ends_with(".tgz")
}

/// The archive without its compression, and what a user should know: no image in a compressed archive can be read
/// without all before it.
///
/// # Errors
/// If it is damaged or cut, or the unpacked archive cannot be written.
pub(super) fn unpacked(path: &Path) -> Result<(PathBuf, Option<String>)> {
    let file = File::open(path).map_err(DataError::io(path))?;
    let size = file.metadata().map_err(DataError::io(path))?.len();
    let shown = names::text_of_path(path);
    let (head, length) = head_of(path)?;
    if !head.starts_with(b"\x1f\x8b") {
        let detail = match stands_instead(&head, length, "a tar archive compressed with gzip") {
            _ if head.is_empty() => {
                "the file is empty, not a compressed archive; get it again".to_owned()
            }
            _ if is_header(&head) => {
                "it is a tar archive that is not compressed; let its name end in `.tar`".to_owned()
            }
            Some(detail) => detail,
            None => {
                "it does not begin as a file compressed with gzip does; get it again".to_owned()
            }
        };
        return Err(DataError::annotation(path, String::new(), detail));
    }
    let instead = format!(", or `gunzip {}`", names::shown(&shown));
    copy::of(path, "is compressed as a whole", &instead, |out| unpack(file, size, out))
}

fn unpack(file: File, size: u64, out: &mut BufWriter<File>) -> Result<(), Failed> {
    let mut from = MultiGzDecoder::new(BufReader::with_capacity(1 << 18, file));
    let most = size.saturating_mul(MOST_RATIO).max(ALWAYS);
    let mut buffer = vec![0; 1 << 18];
    let mut all = 0;
    loop {
        let read = from.read(&mut buffer).map_err(|e| {
            Failed::Damaged(format!(
                "damaged archive: it is compressed with gzip and cannot be unpacked beyond byte {all} ({e}); \
                 get it again, or unpack it first, with `gunzip`"
            ))
        })?;
        if read == 0 {
            return Ok(());
        }
        all += read as u64;
        if all > most {
            let detail =
                format!("it unpacks to more than {MOST_RATIO} times its size, as no images do");
            return Err(Failed::Damaged(detail));
        }
        out.write_all(&buffer[..read]).map_err(Failed::Written)?;
    }
}
