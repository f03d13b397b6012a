//! The file of vectors, and beside it the file of keys, which says whose vector is in each row.
//!
//! Rows are only ever appended; a row is durable before the catalogue names it. `vectors-E.f16` is a page of
//! header and then `[rows, width]` values in f16; `keys-E.bin` is a header and then 40 bytes a row: the content hash
//! of the image, the CRC-32 of the vector, and the CRC-32 of these and the number of the row. By the keys the
//! vectors can be had back when the catalogue is lost. Numbers are little-endian. `E`, the epoch, grows when the
//! files are compacted; the catalogue says which one counts.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::f16;
use memmap2::{Mmap, MmapOptions};

use crate::checksum::{vector_bytes, vector_crc};
use crate::error::{IndexError, Result};
use crate::record::ContentHash;

const MAGIC: &[u8; 8] = b"albefvec";
const KEY_MAGIC: &[u8; 8] = b"albefkey";
/// Version of both files.
const VERSION: u32 = 1;
/// Bytes before the first vector.
const HEADER: u64 = 4096;
/// Bytes before the first key.
const KEY_HEADER: u64 = 64;
/// Bytes of a key.
const KEY: usize = 40;

/// The two files of an epoch, open for writing.
pub(super) struct VectorFiles {
    path: PathBuf,
    keys_path: PathBuf,
    vectors: File,
    keys: File,
    width: usize,
}

/// A row to be written.
pub(super) struct Row<'a> {
    pub hash: &'a ContentHash,
    pub vector: &'a [f16],
}

/// Whose vector is in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub hash: ContentHash,
    pub vector_crc: u32,
}

pub(super) fn vectors_path(folder: &Path, epoch: u64) -> PathBuf {
    folder.join(format!("vectors-{epoch}.f16"))
}

pub(super) fn keys_path(folder: &Path, epoch: u64) -> PathBuf {
    folder.join(format!("keys-{epoch}.bin"))
}

/// Bytes of a vector.
pub(super) fn stride(width: usize) -> usize {
    width * size_of::<f16>()
}

/// Bytes that a row takes in both files.
pub(super) fn row_bytes(width: usize) -> u64 {
    (stride(width) + KEY) as u64
}

fn header(magic: &[u8; 8], width: usize, bytes: u64) -> Vec<u8> {
    let mut out = magic.to_vec();
    out.extend(VERSION.to_le_bytes());
    out.extend((width as u32).to_le_bytes());
    out.extend(crc32fast::hash(&out).to_le_bytes());
    out.resize(bytes as usize, 0);
    out
}

fn key(slot: u64, row: &Row<'_>) -> [u8; KEY] {
    let mut out = [0; KEY];
    out[..32].copy_from_slice(row.hash);
    out[32..36].copy_from_slice(&vector_crc(row.vector).to_le_bytes());
    let crc = key_crc(slot, &out);
    out[36..].copy_from_slice(&crc.to_le_bytes());
    out
}

fn key_crc(slot: u64, key: &[u8; KEY]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&slot.to_le_bytes());
    hasher.update(&key[..36]);
    hasher.finalize()
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

impl VectorFiles {
    /// Opens the files of an epoch for writing, and makes them where they are absent.
    pub fn open(folder: &Path, epoch: u64, width: usize) -> Result<Self> {
        let (path, keys_path) = (vectors_path(folder, epoch), keys_path(folder, epoch));
        let mut made = false;
        let mut open = |path: &Path, magic: &[u8; 8], bytes: u64| -> Result<File> {
            let error = IndexError::io(path);
            let result = (|| {
                let file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .open(path)?;
                // A process that was killed here leaves a header that is not whole, and no row.
                if file.metadata()?.len() <= bytes {
                    write_at(&file, &header(magic, width, bytes), 0)?;
                    file.sync_all()?;
                    made = true;
                }
                Ok(file)
            })();
            result.map_err(error)
        };
        let vectors = open(&path, MAGIC, HEADER)?;
        let keys = open(&keys_path, KEY_MAGIC, KEY_HEADER)?;
        if made {
            sync_folder(folder)?;
        }
        Ok(Self { path, keys_path, vectors, keys, width })
    }

    /// Writes rows from `slot` on and waits until they are on the disk.
    pub fn write(&self, slot: u64, rows: &[Row<'_>]) -> Result<()> {
        let mut vectors = Vec::with_capacity(rows.len() * stride(self.width));
        let mut keys = Vec::with_capacity(rows.len() * KEY);
        for (i, row) in rows.iter().enumerate() {
            vectors.extend_from_slice(vector_bytes(row.vector));
            keys.extend_from_slice(&key(slot + i as u64, row));
        }
        let at = HEADER + slot * stride(self.width) as u64;
        write_at(&self.vectors, &vectors, at).map_err(IndexError::io(&self.path))?;
        let at = KEY_HEADER + slot * KEY as u64;
        write_at(&self.keys, &keys, at).map_err(IndexError::io(&self.keys_path))?;
        Ok(())
    }

    /// Waits until what was written is on the disk.
    pub fn sync(&self) -> Result<()> {
        self.vectors.sync_data().map_err(IndexError::io(&self.path))?;
        self.keys.sync_data().map_err(IndexError::io(&self.keys_path))
    }

    /// Writes the headers anew.
    pub fn mend_headers(&self) -> Result<()> {
        write_at(&self.vectors, &header(MAGIC, self.width, HEADER), 0)
            .map_err(IndexError::io(&self.path))?;
        write_at(&self.keys, &header(KEY_MAGIC, self.width, KEY_HEADER), 0)
            .map_err(IndexError::io(&self.keys_path))?;
        self.sync()
    }
}

#[cfg(unix)]
fn write_at(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, at)
}

#[cfg(not(unix))]
fn write_at(mut file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    use std::io::{Seek, SeekFrom, Write};
    file.seek(SeekFrom::Start(at))?;
    file.write_all(bytes)
}

/// Makes names in a folder durable.
pub(super) fn sync_folder(folder: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(folder).and_then(|f| f.sync_all()).map_err(IndexError::io(folder))?;
    }
    Ok(())
}

/// Removes files of vectors and keys of other epochs.
pub(super) fn remove_other_epochs(folder: &Path, epoch: Option<u64>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|e| e.path()) {
        if epoch_of(&path).is_some_and(|found| Some(found) != epoch) {
            // What cannot be removed does no harm.
            let _ = fs::remove_file(path);
        }
    }
}

/// The epoch that a file of vectors or keys is named after.
fn epoch_of(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    let number = |begin: &str, end: &str| name.strip_prefix(begin)?.strip_suffix(end)?.parse().ok();
    number("vectors-", ".f16").or_else(|| number("keys-", ".bin"))
}

/// The newest epoch that has a file of vectors.
pub(super) fn newest_epoch(folder: &Path) -> Option<u64> {
    fs::read_dir(folder).ok()?.flatten().filter_map(|e| epoch_of(&e.path())).max()
}

/// Vectors as they are in the file. A clone shares the mapping.
#[derive(Clone)]
pub(super) struct Mapped {
    map: Option<Arc<Mmap>>,
    rows: usize,
    width: usize,
}

impl Mapped {
    /// Maps `rows` rows of an epoch.
    ///
    /// # Errors
    /// [`IndexError::Damaged`] if the header is not that of such vectors, or the file is shorter.
    pub fn open(folder: &Path, epoch: u64, width: usize, rows: usize) -> Result<Self> {
        if rows == 0 {
            return Ok(Self { map: None, rows, width });
        }
        let path = vectors_path(folder, epoch);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(IndexError::damaged(path.display(), "the file of vectors is missing"));
            }
            Err(e) => return Err(IndexError::io(path)(e)),
        };
        let bytes = file.metadata().map_err(IndexError::io(&path))?.len();
        let wanted = HEADER + (rows * stride(width)) as u64;
        if bytes < wanted {
            let detail = format!("the file has {bytes} bytes, and the catalogue needs {wanted}");
            return Err(IndexError::damaged(path.display(), detail));
        }
        // SAFETY: the files of an epoch are only appended to, by this program, which holds a lock meanwhile; another
        // program that changed them would change what is searched. They are never cut short.
        let map = unsafe { MmapOptions::new().len(wanted as usize).map(&file) }
            .map_err(IndexError::io(&path))?;
        if map[..20] != header(MAGIC, width, HEADER)[..20] {
            let detail = format!("the header is not one of vectors of {width} values");
            return Err(IndexError::damaged(path.display(), detail));
        }
        Ok(Self { map: Some(Arc::new(map)), rows, width })
    }

    /// All vectors, `[rows, width]`.
    pub fn values(&self) -> &[f16] {
        let Some(map) = &self.map else { return &[] };
        let n = self.rows * self.width;
        let bytes = &map[HEADER as usize..];
        assert!(bytes.len() >= n * size_of::<f16>(), "`open` mapped the rows");
        // SAFETY: the mapping begins at a page and the header is one, so that the values are aligned; there are
        // enough of them, and every two bytes are a valid `f16`.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), n) }
    }

    /// A vector.
    pub fn row(&self, slot: usize) -> Option<&[f16]> {
        // A damaged catalogue may name any row.
        let start = slot.checked_mul(self.width)?;
        self.values().get(start..start.checked_add(self.width)?)
    }
}

/// Whole rows in the file of an epoch; none if there is no such file.
pub(super) fn rows_of(folder: &Path, epoch: u64, width: usize) -> u64 {
    let bytes = fs::metadata(vectors_path(folder, epoch)).map_or(0, |found| found.len());
    bytes.saturating_sub(HEADER).checked_div(stride(width) as u64).unwrap_or(0)
}

/// The keys of an epoch: for each row whose key is sound, whose vector it is.
pub(super) fn read_keys(folder: &Path, epoch: u64) -> Result<Vec<Option<Key>>> {
    let path = keys_path(folder, epoch);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(IndexError::io(path)(e)),
    };
    let keys = bytes.get(KEY_HEADER as usize..).unwrap_or_default();
    let sound = |(slot, key): (usize, &[u8; KEY])| {
        let hash = key[..32].try_into().ok()?;
        (key_crc(slot as u64, key) == word(key, 36))
            .then(|| Key { hash, vector_crc: word(key, 32) })
    };
    Ok(keys.as_chunks::<KEY>().0.iter().enumerate().map(sound).collect())
}

/// The rows that the file of vectors of an epoch has.
pub(super) fn rows_in_file(folder: &Path, epoch: u64, width: usize) -> Result<usize> {
    let path = vectors_path(folder, epoch);
    match fs::metadata(&path) {
        Ok(found) => {
            let bytes = found.len().saturating_sub(HEADER);
            Ok(usize::try_from(bytes).unwrap_or(usize::MAX) / stride(width).max(1))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(e) => Err(IndexError::io(path)(e)),
    }
}
