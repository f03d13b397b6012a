//! A log of one JSON object a line.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

/// A log that a resumed run continues as if it had never stopped.
#[derive(Debug)]
pub struct JsonLines {
    file: File,
}

impl JsonLines {
    /// Opens the log at `path`. Lines whose number under `key` is above `last`, and a torn last
    /// line, are dropped: they belong to steps that will be made again.
    ///
    /// # Errors
    /// If the file cannot be read or written.
    pub fn open(path: &Path, key: &str, last: u64) -> io::Result<Self> {
        let mut kept = Vec::new();
        if let Ok(file) = File::open(path) {
            for line in BufReader::new(file).split(b'\n') {
                let line = line?;
                let Ok(value) = serde_json::from_slice::<Value>(&line) else { break };
                if value[key].as_u64().is_none_or(|n| n > last) {
                    break;
                }
                kept.extend_from_slice(&line);
                kept.push(b'\n');
            }
        }
        let mut temporary = PathBuf::from(path);
        temporary.as_mut_os_string().push(".tmp");
        std::fs::write(&temporary, &kept)?;
        std::fs::rename(&temporary, path)?;
        Ok(Self { file: OpenOptions::new().append(true).open(path)? })
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
}
