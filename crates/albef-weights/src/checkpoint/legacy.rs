//! Files of PyTorch before 1.6: five pickles, then the storages.

use std::collections::HashMap;
use std::path::Path;

use super::Checkpoint;
use super::sets::collect;
use super::view::Budget;
use crate::error::{Result, WeightsError};
use crate::pickle::{self, Loaded, Value};
use crate::tensor::Bytes;

/// The magic number of such files as protocols 2 and later write it, without protocol and frame.
const MAGIC: [u8; 12] = [0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
/// The same of protocols 0 and 1.
const MAGIC_AS_TEXT: &[u8] = b"L119547037146038801333356L\n";
/// The first byte of a pickle of protocol 2 and later.
const PROTOCOL: u8 = 0x80;

/// Whether a file is a pickle, of PyTorch or not.
pub(super) fn begins(bytes: &[u8]) -> bool {
    matches!(bytes, [PROTOCOL, 2..=5, ..]) || bytes.starts_with(MAGIC_AS_TEXT)
}

fn has_magic(bytes: &[u8]) -> bool {
    // Protocols 4 and 5 put a frame of nine bytes before it.
    let after = bytes.get(2..).unwrap_or_default();
    let framed = after.strip_prefix(&[0x95]).and_then(|rest| rest.get(8..));
    framed.unwrap_or(after).starts_with(&MAGIC) || bytes.starts_with(MAGIC_AS_TEXT)
}

pub(super) fn read(path: &Path, bytes: &Bytes) -> Result<Checkpoint> {
    let fail = |detail: String| WeightsError::damaged(path, detail);
    if !has_magic(bytes) {
        return Err(fail(
            "this is a plain pickle, not a file of `torch.save`; save the weights with `torch.save`"
                .into(),
        ));
    }
    let mut at = 0;
    let mut next = || -> Result<Loaded> {
        let loaded =
            pickle::load(&bytes[at..]).map_err(|e| fail(format!("part at byte {at}: {e}")))?;
        at += loaded.used;
        Ok(loaded)
    };
    // Magic number, protocol, system, then the object and the order of its storages.
    next()?;
    next()?;
    refuse_big_endian(&next()?.value).map_err(fail)?;
    let (object, keys) = (next()?, next()?.value);
    let Value::List(keys) = keys else { return Err(fail("no list of storages".into())) };
    let sizes: HashMap<&str, usize> = object.storages.iter().map(|s| (&*s.key, s.size)).collect();
    let mut data = HashMap::new();
    for key in keys.borrow().iter() {
        let key = key.text().ok_or_else(|| fail("a storage without a name".into()))?;
        let size = sizes.get(key);
        let size = *size.ok_or_else(|| fail(format!("no tensor is in storage `{key}`")))?;
        if size == 0 {
            let detail =
                format!("storage `{key}` is of a type that is not known, so its end is not");
            return Err(fail(detail));
        }
        let part = storage(bytes, at, size).ok_or_else(|| {
            fail(format!(
                "the file ends inside storage `{key}`, at byte {at}: half of a file; download it again"
            ))
        })?;
        at += 8 + part.len();
        data.insert(key.to_owned(), part);
    }
    collect(path, &object.value, Budget::of(bytes), |storage| {
        let part: Option<&Bytes> = data.get(&*storage.key);
        part.cloned().ok_or_else(|| fail(format!("storage `{}` is not in the file", storage.key)))
    })
}

fn refuse_big_endian(system: &Value) -> Result<(), String> {
    let Value::Dict(system) = system else { return Ok(()) };
    let system = system.borrow();
    let big = |(key, value): (&Value, &Value)| {
        key.text() == Some("little_endian") && matches!(value, Value::Int(0))
    };
    if system.pairs().any(big) {
        return Err(super::zip_file::BIG_ENDIAN.into());
    }
    Ok(())
}

/// The storage at byte `at`: the number of its elements, then these, of `size` bytes each.
fn storage(bytes: &Bytes, at: usize, size: usize) -> Option<Bytes> {
    let (head, rest) = bytes.get(at..)?.split_first_chunk::<8>()?;
    let elements = usize::try_from(u64::from_le_bytes(*head)).ok()?;
    let length = elements.checked_mul(size).filter(|n| *n <= rest.len())?;
    bytes.slice(at + head.len()..at + head.len() + length)
}
