//! The results of the last search of this user, by number: `@3` is the third.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use albef_data::names::{path_of, shown, text_of_path};
use albef_files::write_atomic;
use serde::{Deserialize, Serialize};

use crate::place::user_folder;

/// The name of the file.
const FILE: &str = "last-search.json";
/// Version of the file.
const FORMAT: u32 = 1;

/// Why a result of the last search is not at hand.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LastSearchError {
    /// The user has no data folder.
    #[error("there is no place for the last search: neither XDG_DATA_HOME nor HOME is set")]
    NoFolder,
    /// Nothing was searched yet.
    #[error("there is no last search in {path}; hint: `albef search` makes one")]
    None {
        /// The file that is not there.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("{path}: {detail}; hint: the next `albef search` replaces it")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The file cannot be written.
    #[error(transparent)]
    File(#[from] albef_files::FileError),
    /// There is no result of this number.
    #[error("there is no result @{number}: the last search (`{query}`) has {results}")]
    NoSuch {
        /// The number asked for.
        number: usize,
        /// How many there are.
        results: usize,
        /// What was looked for.
        query: String,
    },
    /// The result is a member of an archive.
    #[error("result @{number} of the last search (`{query}`) is in an archive, and no file")]
    Member {
        /// The number asked for.
        number: usize,
        /// What was looked for.
        query: String,
    },
    /// The image is not there any more.
    #[error(
        "result @{number} of the last search (`{query}`) was {path}, which is gone; hint: search again"
    )]
    Gone {
        /// The number asked for.
        number: usize,
        /// Where it was.
        path: String,
        /// What was looked for.
        query: String,
    },
}

/// What the last search of this user found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastSearch {
    format: u32,
    /// What was looked for.
    pub query: String,
    /// When: seconds since 1970.
    pub time: u64,
    /// Absolute paths in a form that keeps every byte; `None` for members of archives.
    results: Vec<Option<String>>,
}

/// The number of a result written as `@3`; `None` for all else, and where there is a file of that name.
///
/// ```
/// use albef_index::result_number;
///
/// assert_eq!(result_number("@3".as_ref()), Some(3));
/// assert_eq!(result_number("photo.jpg".as_ref()), None);
/// ```
#[must_use]
pub fn result_number(path: &Path) -> Option<usize> {
    let digits = path.to_str()?.strip_prefix('@')?;
    let all_digits = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    (all_digits && path.symlink_metadata().is_err()).then(|| digits.parse().ok()).flatten()
}

impl LastSearch {
    /// The results of a search, best first; `None` for those that are no files.
    pub fn new<P: AsRef<Path>>(
        query: impl Into<String>,
        results: impl IntoIterator<Item = Option<P>>,
    ) -> Self {
        let absolute = |path: P| {
            let path = path.as_ref();
            text_of_path(&std::path::absolute(path).unwrap_or_else(|_| path.to_owned()))
        };
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let results = results.into_iter().map(|path| path.map(absolute)).collect();
        Self { format: FORMAT, query: query.into(), time, results }
    }

    /// Where the last search is kept: `$XDG_DATA_HOME/albef/last-search.json`, or below `~/.local/share`.
    ///
    /// # Errors
    /// [`LastSearchError::NoFolder`].
    pub fn place() -> Result<PathBuf, LastSearchError> {
        user_folder().map(|folder| folder.join(FILE)).ok_or(LastSearchError::NoFolder)
    }

    /// Replaces the last search, whole or not at all.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self) -> Result<(), LastSearchError> {
        self.write_to(&Self::place()?)
    }

    fn write_to(&self, path: &Path) -> Result<(), LastSearchError> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)
                .map_err(|cause| albef_files::FileError { path: folder.to_owned(), cause })?;
        }
        let damaged = |detail: serde_json::Error| LastSearchError::Damaged {
            path: path.to_owned(),
            detail: detail.to_string(),
        };
        let text = serde_json::to_string(self).map_err(damaged)?;
        Ok(write_atomic(path, |f| f.write_all(text.as_bytes()))?)
    }

    /// The last search.
    ///
    /// # Errors
    /// [`LastSearchError::None`] if there is none, [`LastSearchError::Damaged`].
    pub fn read() -> Result<Self, LastSearchError> {
        Self::read_from(&Self::place()?)
    }

    fn read_from(path: &Path) -> Result<Self, LastSearchError> {
        let damaged = |detail: String| LastSearchError::Damaged { path: path.to_owned(), detail };
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(LastSearchError::None { path: path.to_owned() });
            }
            Err(e) => return Err(damaged(e.to_string())),
        };
        let found: Self = serde_json::from_slice(&text).map_err(|e| damaged(e.to_string()))?;
        match found.format {
            FORMAT => Ok(found),
            other => Err(damaged(format!("it has the format {other}, and {FORMAT} is known"))),
        }
    }

    /// The file of a result, from 1.
    ///
    /// # Errors
    /// If there is no such result, or its file is gone.
    pub fn file(&self, number: usize) -> Result<PathBuf, LastSearchError> {
        let query = || shown(&self.query);
        let entry = number.checked_sub(1).and_then(|at| self.results.get(at));
        let name = match entry {
            Some(Some(name)) => name,
            Some(None) => return Err(LastSearchError::Member { number, query: query() }),
            None => {
                let results = self.results.len();
                return Err(LastSearchError::NoSuch { number, results, query: query() });
            }
        };
        let path = path_of(name);
        match path.is_file() {
            true => Ok(path),
            false => Err(LastSearchError::Gone { number, path: shown(name), query: query() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_found_again_by_number() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("albef/last-search.json");
        assert!(matches!(LastSearch::read_from(&at), Err(LastSearchError::None { .. })));
        let image = dir.path().join("a\nb.png");
        std::fs::write(&image, "x").unwrap();
        let last = LastSearch::new("a dog", [Some(image.clone()), None, Some("gone.png".into())]);
        last.write_to(&at).unwrap();
        let read = LastSearch::read_from(&at).unwrap();
        assert_eq!(read, last);
        assert_eq!(read.file(1).unwrap(), image);
        assert!(matches!(read.file(2), Err(LastSearchError::Member { .. })));
        let gone = read.file(3).unwrap_err().to_string();
        assert!(gone.contains("gone.png, which is gone") && gone.contains("`a dog`"), "{gone}");
        for number in [0, 4] {
            let none = read.file(number).unwrap_err().to_string();
            assert!(none.contains("has 3"), "{none}");
        }
        for wrong in ["", "{}", r#"{"format": 2, "query": "", "time": 0, "results": []}"#] {
            std::fs::write(&at, wrong).unwrap();
            let error = LastSearch::read_from(&at).unwrap_err();
            assert!(matches!(error, LastSearchError::Damaged { .. }), "{wrong}: {error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn names_that_are_not_unicode_are_kept() {
        use std::os::unix::ffi::OsStrExt;
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join(std::ffi::OsStr::from_bytes(b"\xff\xfe.png"));
        std::fs::write(&image, "x").unwrap();
        let at = dir.path().join("last.json");
        LastSearch::new("", [Some(&image)]).write_to(&at).unwrap();
        assert_eq!(LastSearch::read_from(&at).unwrap().file(1).unwrap(), image);
    }

    #[test]
    fn only_numbers_that_are_no_files_are_results() {
        for (name, number) in [
            ("@12", Some(12)),
            ("@", None),
            ("@1x", None),
            ("3", None),
            ("@-1", None),
            ("@+1", None),
        ] {
            assert_eq!(result_number(name.as_ref()), number, "{name}");
        }
    }
}
