//! Archives that are compressed as a whole.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use albef_weights::write_atomic;
use flate2::bufread::MultiGzDecoder;

use crate::error::{DataError, Result};
use crate::names;

/// Bytes that one byte of an archive of images may unpack to, and that any may.
const MOST_RATIO: u64 = 100;
const ALWAYS: u64 = 1 << 30;

/// Whether a name ends as those of compressed archives do.
pub(in super::super) fn is_gzip(name: &str) -> bool {
    let name = name.to_lowercase();
    name.ends_with(".tar.gz") || name.ends_with(".tgz")
}

/// The archive without its compression, and what a user should know. No image in a compressed archive can be read
/// without all before it, so it is unpacked once, to `NAME.unpacked` beside it, which gets its time of change
/// and is used as long as the two agree.
///
/// # Errors
/// If it is damaged or cut, or the unpacked archive cannot be written.
pub(super) fn unpacked(path: &Path) -> Result<(PathBuf, Option<String>)> {
    let changed = path.metadata().and_then(|m| m.modified()).map_err(DataError::io(path))?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".unpacked");
    let unpacked = path.with_file_name(name);
    if unpacked.metadata().and_then(|m| m.modified()).is_ok_and(|at| at == changed) {
        return Ok((unpacked, None));
    }
    let file = File::open(path).map_err(DataError::io(path))?;
    let size = file.metadata().map_err(DataError::io(path))?.len();
    let mut damage = None;
    let written = write_atomic(&unpacked, |out| {
        let copied = unpack(file, size, out);
        if let Err(Failed::Damaged(detail)) = &copied {
            damage = Some(detail.clone());
        }
        copied?;
        out.flush()?;
        out.get_ref().set_modified(changed)
    });
    if let Some(detail) = damage {
        return Err(DataError::annotation(path, String::new(), detail));
    }
    if let Err(error) = written {
        let given = names::text_of_path(path);
        let detail = format!(
            "its images cannot be read one by one, since it is compressed as a whole, and it cannot be unpacked \
             beside it ({error}); hint: `albef data pack` a copy in a folder that can be written to, or \
             `gunzip {}`",
            names::shown(&given)
        );
        return Err(DataError::annotation(path, String::new(), detail));
    }
    let bytes = unpacked.metadata().map_or(0, |m| m.len());
    let note = format!(
        "{} is compressed as a whole and was unpacked to {} ({} MB); `albef data pack` makes shards that need \
         no second copy",
        path.display(),
        unpacked.display(),
        bytes.div_ceil(1_000_000)
    );
    Ok((unpacked, Some(note)))
}

enum Failed {
    Damaged(String),
    Written(io::Error),
}

impl From<Failed> for io::Error {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Damaged(detail) => Self::other(detail),
            Failed::Written(cause) => cause,
        }
    }
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
