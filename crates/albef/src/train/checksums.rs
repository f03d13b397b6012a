//! Checksums of the files of a checkpoint, in the form that `sha256sum -c` reads.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use albef_weights::write_atomic;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// The file of checksums.
pub(super) const SUMS: &str = "SHA256SUMS";

fn sum_of(path: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    let mut file = File::open(path).map_err(Error::io(path))?;
    let mut part = vec![0; 1 << 20];
    loop {
        match file.read(&mut part).map_err(Error::io(path))? {
            0 => break,
            n => hash.update(&part[..n]),
        }
    }
    Ok(hash.finalize().iter().fold(String::new(), |mut text, byte| {
        // Writing to a text does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

/// Writes the checksums of these files of a folder beside them.
///
/// # Errors
/// If a file cannot be read or that of the checksums not be written.
pub(super) fn write(folder: &Path, files: &[&str]) -> Result<()> {
    let mut text = String::new();
    for file in files {
        text.push_str(&format!("{}  {file}\n", sum_of(&folder.join(file))?));
    }
    Ok(write_atomic(&folder.join(SUMS), |f| f.write_all(text.as_bytes()))?)
}

/// Checks a file of a folder against its checksum. Checkpoints of older versions have none.
///
/// # Errors
/// If it is not the file that was written, with the way out.
pub(super) fn check(folder: &Path, file: &str) -> Result<()> {
    let sums = folder.join(SUMS);
    let text = match fs::read_to_string(&sums) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io(&sums)(e)),
    };
    let own = text.lines().find_map(|line| {
        let (sum, name) = line.split_once("  ")?;
        (name == file).then_some(sum)
    });
    let path = folder.join(file);
    if own == Some(&*sum_of(&path)?) {
        return Ok(());
    }
    let detail = format!(
        "this is not the file that the run wrote into its checkpoint (its checksum in `{SUMS}` is \
         another); hint: remove the folder of this checkpoint to take the one before it"
    );
    Err(Error::Format { path, detail })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_changed_bit_is_found_and_a_folder_without_sums_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, b"abc").unwrap();
        assert!(check(dir.path(), "a").is_ok());
        write(dir.path(), &["a"]).unwrap();
        assert!(check(dir.path(), "a").is_ok());
        let sums = fs::read_to_string(dir.path().join(SUMS)).unwrap();
        assert_eq!(sums, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  a\n");
        fs::write(&path, b"abb").unwrap();
        let said = check(dir.path(), "a").unwrap_err().to_string();
        assert!(said.contains("not the file") && said.contains("the one before it"), "{said}");
        fs::write(dir.path().join("b"), b"").unwrap();
        assert!(check(dir.path(), "b").is_err());
    }
}
