//! A copy of an archive from which images can be read one by one, where the archive itself does not allow it.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use albef_weights::write_atomic;

use crate::error::{DataError, Result};
use crate::names;

/// Why no copy was made.
pub(super) enum Failed {
    /// The archive is damaged.
    Damaged(String),
    /// The copy cannot be written.
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

/// The copy of an archive, and what a user should know. It is made by `make` once, as `NAME.unpacked` beside the
/// archive, gets its time of change, and is used as long as the two agree. `is`: what the archive is, that needs a copy;
/// `instead`: what else a user may do.
///
/// # Errors
/// If the archive is damaged or cut, or the copy cannot be written.
pub(super) fn of(
    path: &Path,
    is: &str,
    instead: &str,
    make: impl FnOnce(&mut BufWriter<File>) -> Result<(), Failed>,
) -> Result<(PathBuf, Option<String>)> {
    let changed = path.metadata().and_then(|m| m.modified()).map_err(DataError::io(path))?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".unpacked");
    let unpacked = path.with_file_name(name);
    if unpacked.metadata().and_then(|m| m.modified()).is_ok_and(|at| at == changed) {
        return Ok((unpacked, None));
    }
    let mut damage = None;
    let written = write_atomic(&unpacked, |out| {
        let made = make(out);
        if let Err(Failed::Damaged(detail)) = &made {
            damage = Some(detail.clone());
        }
        made?;
        out.flush()?;
        out.get_ref().set_modified(changed)
    });
    if let Some(detail) = damage {
        return Err(DataError::annotation(path, String::new(), detail));
    }
    if let Err(error) = written {
        let detail = format!(
            "its images cannot be read one by one, since it {is}, and it cannot be unpacked beside it ({error}); hint: \
             `albef data pack` a copy in a folder that can be written to{instead}"
        );
        return Err(DataError::annotation(path, String::new(), detail));
    }
    let bytes = unpacked.metadata().map_or(0, |m| m.len());
    let note = format!(
        "{} {is} and was unpacked to {} ({} MB); `albef data pack` makes shards that need no second copy",
        names::shown(&names::text_of_path(path)),
        names::shown(&names::text_of_path(&unpacked)),
        bytes.div_ceil(1_000_000)
    );
    Ok((unpacked, Some(note)))
}
