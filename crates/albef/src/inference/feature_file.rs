//! Files of features, row by row as they are computed: JSON lines, NumPy arrays, safetensors.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use albef_files::write_atomic;
use albef_weights::{HostTensor, KeepAs, StateDict, write_safetensors};
use serde_json::Value;

use super::feature::{FeatureName, FeatureRows};
use crate::error::{Error, Result};

/// The kind of a file of features, by the ending of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeatureFormat {
    /// `.jsonl`: an object for each item ([`FeatureName::to_json`]).
    JsonLines,
    /// `.npy`: an array `[items, width]`, or `[items, tokens, width]`, of f32; the names of the items are in a
    /// second file, `FILE.names.txt`, a line each.
    Npy,
    /// `.safetensors`: `features [rows, width]`, `offsets [items + 1]` (item `i` has the rows from `offsets[i]` up
    /// to `offsets[i + 1]`), and `names`, a JSON list of lines, in the metadata. Kept in memory until the end.
    Safetensors,
}

impl FeatureFormat {
    /// By the ending of a file's name; `.npy` where it has none of the others.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        match ending.to_ascii_lowercase().as_str() {
            "jsonl" | "ndjson" | "json" => Self::JsonLines,
            "safetensors" => Self::Safetensors,
            _ => Self::Npy,
        }
    }
}

/// Takes features in order.
#[derive(Debug)]
pub struct FeatureSink<'a> {
    format: FeatureFormat,
    all_tokens: bool,
    path: &'a Path,
    /// The file, but that of safetensors, whose header comes first and names everything.
    out: Option<&'a mut BufWriter<File>>,
    names: Vec<String>,
    /// Rows before each item, and before its end.
    offsets: Vec<i64>,
    width: usize,
    /// Of safetensors.
    values: Vec<f32>,
}

/// Bytes of the header of an array, enough for any shape.
const NPY_HEADER: usize = 192;

impl<'a> FeatureSink<'a> {
    fn new(path: &'a Path, all_tokens: bool, out: Option<&'a mut BufWriter<File>>) -> Self {
        let (format, width) = (FeatureFormat::of(path), 0);
        let (names, offsets, values) = (Vec::new(), vec![0], Vec::new());
        Self { format, all_tokens, path, out, names, offsets, width, values }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.out.as_mut().map_or(Ok(()), |out| out.write_all(bytes));
        written.map_err(Error::io(self.path))
    }

    /// Adds an item.
    ///
    /// # Errors
    /// If it cannot be written, its width is not that of the others, or it has another number of rows than the
    /// others and the file is an array.
    pub fn push(&mut self, name: &FeatureName, rows: &FeatureRows) -> Result<()> {
        let line = name.line();
        if self.names.is_empty() {
            self.width = rows.width;
        }
        if rows.width != self.width {
            return Err(Error::Argument(format!(
                "{line}: its feature has {} values, the others have {}: images and texts without projection are \
                 not of one width; write them to two files",
                rows.width, self.width
            )));
        }
        let first = self.offsets.get(1).map_or(rows.len() as i64, |end| *end);
        if self.format == FeatureFormat::Npy && rows.len() as i64 != first {
            return Err(Error::Argument(format!(
                "{line}: it has {} tokens, the first item has {first}, and an array has rows of one length; name a \
                 file that ends with .safetensors or .jsonl",
                rows.len()
            )));
        }
        let before = self.offsets.last().copied().unwrap_or_default();
        self.offsets.push(before + rows.len() as i64);
        self.names.push(line);
        match self.format {
            FeatureFormat::Safetensors => self.values.extend_from_slice(&rows.values),
            FeatureFormat::Npy => {
                let bytes: Vec<u8> = rows.values.iter().flat_map(|v| v.to_le_bytes()).collect();
                self.write(&bytes)?;
            }
            FeatureFormat::JsonLines => {
                let line = format!("{}\n", name.to_json(rows, self.all_tokens));
                self.write(line.as_bytes())?;
            }
        }
        Ok(())
    }

    /// Completes an array: its header, and the names beside it, in full before the array has its name.
    fn finish_array(&mut self) -> Result<()> {
        let header = self.header();
        if let Some(out) = self.out.as_mut() {
            let written = out
                .seek(SeekFrom::Start(0))
                .and_then(|_| out.write_all(&header))
                .and_then(|()| out.flush())
                .and_then(|()| out.get_ref().sync_all());
            written.map_err(Error::io(self.path))?;
        }
        let mut beside = self.path.as_os_str().to_owned();
        beside.push(".names.txt");
        let lines =
            |f: &mut BufWriter<File>| self.names.iter().try_for_each(|name| writeln!(f, "{name}"));
        Ok(write_atomic(Path::new(&beside), lines)?)
    }

    /// Writes safetensors.
    fn finish_tensors(self) -> Result<()> {
        let rows = self.offsets.last().map_or(0, |end| *end as usize);
        let mut tensors = StateDict::default();
        tensors.insert("features".into(), HostTensor::from_f32(&[rows, self.width], &self.values));
        let offsets = HostTensor::from_i64(&[self.offsets.len()], &self.offsets);
        tensors.insert("offsets".into(), offsets);
        let metadata = HashMap::from([("names".to_owned(), Value::from(self.names).to_string())]);
        Ok(write_safetensors(self.path, &tensors, &metadata, KeepAs::Same)?)
    }

    /// Magic number, version, length, and a dictionary padded with spaces to a multiple of 64.
    fn header(&self) -> Vec<u8> {
        let items = self.names.len();
        let each = self.offsets.get(1).copied().unwrap_or(1);
        let shape = match self.all_tokens {
            true => format!("({items}, {each}, {})", self.width),
            false => format!("({items}, {})", self.width),
        };
        let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
        let prefix = 10;
        let mut out = b"\x93NUMPY\x01\x00".to_vec();
        out.extend(((NPY_HEADER - prefix) as u16).to_le_bytes());
        out.extend(text.bytes());
        out.resize(NPY_HEADER - 1, b' ');
        out.push(b'\n');
        out
    }
}

/// Writes what `produce` pushes to `path`, in the format of its ending, and gives the number of items. The file, and
/// the names beside an array, appear when all is written; they are replaced one after the other.
///
/// # Errors
/// Of `produce`, or if a file cannot be written; what was there before stays.
pub fn write_features(
    path: &Path,
    all_tokens: bool,
    produce: impl FnOnce(&mut FeatureSink<'_>) -> Result<()>,
) -> Result<usize> {
    if FeatureFormat::of(path) == FeatureFormat::Safetensors {
        let mut sink = FeatureSink::new(path, all_tokens, None);
        produce(&mut sink)?;
        let items = sink.names.len();
        return sink.finish_tensors().map(|()| items);
    }
    let (mut items, mut failed) = (0, None);
    let written = write_atomic(path, |out| {
        let mut sink = FeatureSink::new(path, all_tokens, Some(out));
        let is_array = sink.format == FeatureFormat::Npy;
        let result = (|| {
            if is_array {
                // Its place; the shape is known at the end.
                sink.write(&[b' '; NPY_HEADER])?;
            }
            produce(&mut sink)?;
            items = sink.names.len();
            if is_array { sink.finish_array() } else { Ok(()) }
        })();
        result.map_err(|error| match error {
            Error::Io { path: of, cause } if of == path => cause,
            other => {
                failed = Some(other);
                io::ErrorKind::Other.into()
            }
        })
    });
    match failed {
        Some(error) => Err(error),
        None => Ok(written.map(|()| items)?),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn name(image: &str) -> FeatureName {
        FeatureName { image: Some(image.to_owned()), text: None }
    }

    fn rows(values: &[f32]) -> FeatureRows {
        FeatureRows { width: 3, values: values.to_vec() }
    }

    fn two(path: &Path, all_tokens: bool) -> Result<usize> {
        write_features(path, all_tokens, |sink| {
            sink.push(&name("a\nb"), &rows(&[1.0, 0.5, -1.0]))?;
            sink.push(&name("c"), &rows(&[2.0, 0.5, -1.0]))
        })
    }

    #[test]
    fn an_array_has_the_layout_of_numpy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.npy");
        for (all, shape) in [(false, "(2, 3)"), (true, "(2, 1, 3)")] {
            assert_eq!(two(&path, all).unwrap(), 2);
            let bytes = std::fs::read(&path).unwrap();
            let length = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
            assert_eq!((10 + length) % 64, 0);
            let header = std::str::from_utf8(&bytes[10..10 + length]).unwrap();
            assert!(header.contains(shape) && header.ends_with('\n'), "{header}");
            let values: Vec<f32> = bytes[10 + length..]
                .as_chunks::<4>()
                .0
                .iter()
                .map(|b| f32::from_le_bytes(*b))
                .collect();
            assert_eq!(values, [1.0, 0.5, -1.0, 2.0, 0.5, -1.0]);
        }
        let names = std::fs::read_to_string(dir.path().join("x.npy.names.txt")).unwrap();
        assert_eq!(names, "a\\nb\nc\n");
    }

    #[test]
    fn one_file_holds_names_and_rows_of_any_length() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let found = write_features(&path, true, |sink| {
            sink.push(&name("a"), &rows(&[1.0; 6]))?;
            sink.push(&name("b"), &rows(&[2.0; 3]))
        });
        assert_eq!(found.unwrap(), 2);
        let read = albef_weights::read(&path).unwrap();
        assert_eq!(read.metadata["names"], r#"["a","b"]"#);
        assert_eq!(read.tensors.get("features").unwrap().shape, [3, 3]);
        assert_eq!(read.tensors.get("offsets").unwrap().to_i64().unwrap(), [0, 2, 3]);
        let lines = dir.path().join("x.jsonl");
        two(&lines, false).unwrap();
        let text = std::fs::read_to_string(&lines).unwrap();
        let first: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(first, json!({"image": "a\nb", "feature": [1.0, 0.5, -1.0]}));
    }

    #[test]
    fn rows_that_do_not_fit_are_refused_and_what_was_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.npy");
        two(&path, false).unwrap();
        let before = std::fs::read(&path).unwrap();
        let error = write_features(&path, true, |sink| {
            sink.push(&name("a"), &rows(&[1.0; 6]))?;
            sink.push(&name("b"), &rows(&[2.0; 3]))
        });
        assert!(error.unwrap_err().to_string().contains(".safetensors"));
        let error = write_features(&path, true, |sink| {
            sink.push(&name("a"), &rows(&[1.0; 3]))?;
            sink.push(&name("b"), &FeatureRows { width: 2, values: vec![0.0; 2] })
        });
        assert!(error.unwrap_err().to_string().contains("two files"));
        // The names cannot be written.
        let names = dir.path().join("x.npy.names.txt");
        std::fs::remove_file(&names).unwrap();
        std::fs::create_dir(&names).unwrap();
        two(&path, true).unwrap_err();
        assert_eq!(std::fs::read(&path).unwrap(), before);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
