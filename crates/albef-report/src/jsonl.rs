//! A log of one JSON object a line.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

use albef_files::write_atomic;
use serde::Serialize;
use serde_json::Value;

/// A log that a resumed run continues as if it had never stopped.
#[derive(Debug)]
pub struct JsonLines {
    file: File,
}

impl JsonLines {
    /// Opens the log at `path`. Lines whose number under `key` is above `last`, and a torn last
    /// line, are dropped: they belong to steps that will be made again. The log on disk is the old
    /// one or the new one, never a part of it.
    ///
    /// # Errors
    /// If the file cannot be read or written. Only a file that is not there counts as an empty log.
    pub fn open(path: &Path, key: &str, last: u64) -> io::Result<Self> {
        let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
        let kept = match File::open(path) {
            Ok(file) => lines_up_to(file, key, last).map_err(named)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(named(e)),
        };
        write_atomic(path, |f| f.write_all(&kept)).map_err(|e| named(e.cause))?;
        Ok(Self { file: OpenOptions::new().append(true).open(path).map_err(named)? })
    }

    /// Appends a record.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&mut self, record: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        self.file.write_all(&line)
    }
}

/// The lines before the first that is torn or above `last`.
fn lines_up_to(file: File, key: &str, last: u64) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    for line in BufReader::new(file).split(b'\n') {
        let line = line?;
        let Ok(value) = serde_json::from_slice::<Value>(&line) else { break };
        if value[key].as_u64().is_none_or(|n| n > last) {
            break;
        }
        kept.extend_from_slice(&line);
        kept.push(b'\n');
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_resumed_log_equals_an_unbroken_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        let mut log = JsonLines::open(&path, "step", 0).unwrap();
        for step in 1..=5 {
            log.write(&json!({ "step": step })).unwrap();
        }
        log.file.write_all(b"{\"step\": 6, \"lo").unwrap();
        let mut log = JsonLines::open(&path, "step", 3).unwrap();
        for step in 4..=6 {
            log.write(&json!({ "step": step })).unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let steps: Vec<u64> = text
            .lines()
            .map(|l| serde_json::from_str::<Value>(l).unwrap()["step"].as_u64().unwrap())
            .collect();
        assert_eq!(steps, [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    #[cfg(unix)]
    fn a_log_that_cannot_be_opened_is_no_empty_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        std::os::unix::fs::symlink(&path, &path).unwrap();
        let error = JsonLines::open(&path, "step", 0).unwrap_err();
        assert_ne!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("log.jsonl"), "{error}");
        assert!(path.is_symlink(), "what stood there stays");
        assert!(JsonLines::open(dir.path(), "step", 0).is_err());
        assert!(JsonLines::open(&dir.path().join("none/log.jsonl"), "step", 0).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no other file is left");
    }

    #[test]
    fn files_of_the_user_are_not_taken_for_temporary_ones() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        let own = [
            dir.path().join("log.jsonl.tmp"),
            dir.path().join(format!("log.jsonl.{}-0.tmp", std::process::id())),
        ];
        own.iter().for_each(|file| std::fs::write(file, "mine").unwrap());
        let mut log = JsonLines::open(&path, "step", 0).unwrap();
        log.write(&json!({ "step": 1 })).unwrap();
        drop(JsonLines::open(&path, "step", 1).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"step\":1}\n");
        assert!(own.iter().all(|file| std::fs::read(file).unwrap() == b"mine"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
    }
}
