//! What files a data set has: sizes and SHA-256, written once and verified before training.
//!
//! JSON lines: a first one with the number of files, then one a file, in order of first use. Paths
//! below the folder of the manifest are relative to it.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use albef_weights::write_atomic;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::folder::list_in;
use super::in_order::in_order;
use super::numbers::Hash128;
use super::sample::Location;
use super::source::SourceSpec;
use super::store::Samples;
use crate::control::Control;
use crate::error::{DataError, Result};
use crate::names;

/// The version of the format.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Head {
    albef_manifest: u32,
    files: usize,
}

/// A file of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileRecord {
    /// Its path, relative to the folder of the manifest where it is below it.
    pub path: String,
    pub bytes: u64,
    /// In hexadecimal digits.
    pub sha256: String,
    /// Of a shard, its pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pairs: Option<usize>,
}

impl FileRecord {
    /// Reads a file through.
    pub fn of(path: &Path) -> std::io::Result<Self> {
        let mut file = File::open(path)?;
        let mut hash = Sha256::new();
        let (mut buffer, mut bytes) = (vec![0; 1 << 17], 0);
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                n => {
                    hash.update(&buffer[..n]);
                    bytes += n as u64;
                }
            }
        }
        let (path, sha256) = (names::text_of_path(path), hex(&hash.finalize()));
        Ok(Self { path, bytes, sha256, pairs: None })
    }
}

/// Bytes in hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The folder that paths of a manifest are relative to.
fn folder_of(manifest: &Path) -> &Path {
    manifest.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Files of a data set, each once, in order of first use: lists first, then images and archives.
fn each_file(
    specs: &[SourceSpec],
    samples: &Samples,
    take: &mut dyn FnMut(&Path) -> Result<()>,
) -> Result<()> {
    let mut seen = HashSet::new();
    let mut once = |path: &Path| if seen.insert(Hash128::of(path)) { take(path) } else { Ok(()) };
    for spec in specs {
        let given = names::path_of(&spec.path);
        let (list, _) = spec.path.rsplit_once('#').unwrap_or((&spec.path, ""));
        let of_folder = list_in(&given);
        let lists = [Some(given), Some(names::path_of(list)), of_folder];
        if let Some(path) = lists.iter().flatten().find(|p| p.is_file()) {
            once(path)?;
        }
    }
    for sample in samples.iter() {
        let sample = sample?;
        for view in 0..sample.views() {
            match sample.at(view) {
                Location::File(path) | Location::Member { archive: path, .. } => once(path)?,
            }
        }
    }
    Ok(())
}

/// Writes the manifest of a data set to `path`. Files that cannot be read are left out, and their number is given
/// with that of those written.
///
/// # Errors
/// If the manifest cannot be written, or `control` is cancelled.
pub fn write_manifest(
    path: &Path,
    specs: &[SourceSpec],
    samples: &Samples,
    workers: usize,
    control: &Control,
) -> Result<(usize, usize)> {
    let base = folder_of(path).canonicalize().map_err(DataError::io(folder_of(path)))?;
    let mut files: Vec<PathBuf> = Vec::new();
    each_file(specs, samples, &mut |file| {
        files.push(file.to_owned());
        Ok(())
    })?;
    let mut records = Vec::with_capacity(files.len());
    let work = |i: usize| FileRecord::of(&files[i]);
    in_order("hashing", files.len(), workers, control, work, |i, record| {
        // The folder alone is made absolute: a link to an image stays one.
        let (file, folder) = (&files[i], files[i].parent().map(here));
        let real = folder.and_then(|f| f.canonicalize().ok()).zip(file.file_name());
        let real = real.map(|(folder, name)| folder.join(name)).unwrap_or(file.clone());
        let relative = names::text_of_path(real.strip_prefix(&base).unwrap_or(&real));
        records.extend(record.ok().map(|r| FileRecord { path: relative, ..r }));
        Ok(())
    })?;
    write_records(path, &records)?;
    Ok((records.len(), files.len() - records.len()))
}

/// Writes a manifest of these files.
pub(super) fn write_records(path: &Path, records: &[FileRecord]) -> Result<()> {
    let line = |value: serde_json::Result<String>| value.map_err(std::io::Error::other);
    let written = write_atomic(path, |out| {
        let head = Head { albef_manifest: VERSION, files: records.len() };
        writeln!(out, "{}", line(serde_json::to_string(&head))?)?;
        for record in records {
            writeln!(out, "{}", line(serde_json::to_string(record))?)?;
        }
        Ok(())
    });
    written.map_err(|e| DataError::Argument(e.to_string()))
}

fn here(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

/// Compares the files of a manifest with those that are there: first their sizes, which is quick, then their
/// contents. Gives the number of files.
///
/// # Errors
/// Names the first file that differs, or what is wrong with the manifest.
pub fn verify_manifest(path: &Path, workers: usize, control: &Control) -> Result<usize> {
    let records = read_records(path)?;
    let base = folder_of(path);
    let fail = |record: &FileRecord, detail: String| DataError::Differs {
        path: base.join(names::path_of(&record.path)),
        manifest: path.to_owned(),
        detail,
    };
    for record in &records {
        match base.join(names::path_of(&record.path)).metadata() {
            Ok(found) if found.len() == record.bytes => {}
            Ok(found) => {
                let detail = format!("it has {} bytes, not {}", found.len(), record.bytes);
                return Err(fail(record, detail));
            }
            Err(cause) => return Err(fail(record, cause.to_string())),
        }
    }
    let work = |i: usize| FileRecord::of(&base.join(names::path_of(&records[i].path)));
    in_order("verifying", records.len(), workers, control, work, |i, found| match found {
        Ok(found) if found.sha256 == records[i].sha256 => Ok(()),
        Ok(_) => Err(fail(&records[i], "its bytes are others (SHA-256)".into())),
        Err(cause) => Err(fail(&records[i], cause.to_string())),
    })?;
    Ok(records.len())
}

/// The files that a manifest lists.
pub(super) fn read_records(path: &Path) -> Result<Vec<FileRecord>> {
    let file = File::open(path).map_err(DataError::io(path))?;
    let fail =
        |line: usize, detail: String| DataError::annotation(path, format!(", line {line}"), detail);
    let mut lines = BufReader::new(file).lines().enumerate();
    let mut next = || lines.next().map(|(i, line)| line.map(|l| (i + 1, l)));
    let head = next().transpose().map_err(DataError::io(path))?.unwrap_or_default().1;
    let head: Head = serde_json::from_str(&head).map_err(|_| {
        fail(1, "this is no manifest; `albef data check --manifest` writes one".into())
    })?;
    if head.albef_manifest != VERSION {
        let detail = format!("its version is {}, and {VERSION} is read", head.albef_manifest);
        return Err(fail(1, detail));
    }
    let mut records = Vec::new();
    while let Some((number, line)) = next().transpose().map_err(DataError::io(path))? {
        let record = serde_json::from_str(&line).map_err(|e| fail(number, e.to_string()))?;
        records.push(record);
    }
    if records.len() != head.files {
        let (found, said) = (records.len(), head.files);
        return Err(fail(found + 1, format!("it is cut: it lists {found} of {said} files")));
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_first_file_that_differs_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("images")).unwrap();
        for (name, text) in [("images/a", "one"), ("images/b", "two"), ("c", "three")] {
            fs::write(at(name), text).unwrap();
        }
        let record =
            |name: &str| FileRecord { path: name.into(), ..FileRecord::of(&at(name)).unwrap() };
        let records = ["images/a", "images/b", "c"].map(record);
        write_records(&at("m"), &records).unwrap();
        assert_eq!(verify_manifest(&at("m"), 2, &Control::new()).unwrap(), 3);
        let said = || verify_manifest(&at("m"), 2, &Control::new()).unwrap_err().to_string();
        fs::write(at("c"), "thre_").unwrap();
        assert!(said().contains("c: it differs") && said().contains("SHA-256"), "{}", said());
        fs::write(at("images/b"), "twice").unwrap();
        assert!(said().contains("images/b") && said().contains("5 bytes, not 3"), "{}", said());
        fs::remove_file(at("images/a")).unwrap();
        assert!(said().contains("images/a"), "{}", said());
        let text = fs::read_to_string(at("m")).unwrap();
        fs::write(at("m"), text.rsplit_once("{").unwrap().0).unwrap();
        assert!(said().contains("cut"), "{}", said());
        fs::write(at("m"), "{}").unwrap();
        assert!(said().contains("no manifest"), "{}", said());
    }
}
