//! Pickles of plain values: the form in which RefCOCO+ ships its expressions.

use std::borrow::Cow;
use std::path::Path;

use serde_json::{Map, Value as Json};

use crate::checkpoint::mapped;
use crate::error::{Result, WeightsError};
use crate::pickle::{self, Parts, Value};

/// Lists and dictionaries within each other.
const DEPTH: usize = 32;
/// Values that a byte of the file may stand for. Shared values are written out each time, so a small
/// hostile file could otherwise ask for all memory.
const PER_BYTE: usize = 16;

/// Reads a pickle of dictionaries, lists, texts and integers as JSON; nothing is executed. Numbers with
/// a fraction, `None` and objects become `null`.
///
/// # Errors
/// If the file cannot be read, is damaged, or grows out of proportion when written out.
pub fn read_plain_pickle(path: &Path) -> Result<Json> {
    let file = mapped(path)?;
    let mut bytes = Cow::Borrowed(&file[..]);
    // The text protocols escape carriage returns, so before each line feed they are a change of line ends.
    let changed = has_changed_line_ends(&bytes);
    if changed && bytes.first() != Some(&0x80) {
        let unchanged: Vec<u8> = bytes.split(|b| *b == b'\r').flatten().copied().collect();
        if pickle::load(&unchanged).is_ok() {
            bytes = Cow::Owned(unchanged);
        }
    }
    let damaged = |detail: String| {
        let hint = match changed {
            true => "; its line ends were changed to CRLF: unpack it again in binary mode",
            false => "",
        };
        WeightsError::damaged(path, detail + hint)
    };
    let value = pickle::load(&bytes).map_err(damaged)?.value;
    let mut budget = bytes.len().saturating_mul(PER_BYTE);
    plain(&value, DEPTH, &mut budget).map_err(|e| WeightsError::damaged(path, e))
}

/// Whether there are line feeds, each after a carriage return.
fn has_changed_line_ends(bytes: &[u8]) -> bool {
    let mut feeds = bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').peekable();
    feeds.peek().is_some() && feeds.all(|(i, _)| i > 0 && bytes[i - 1] == b'\r')
}

fn plain(value: &Value, depth: usize, budget: &mut usize) -> Result<Json, &'static str> {
    let size = match value {
        Value::Str(s) | Value::Lossy(s) => 1 + s.len(),
        _ => 1,
    };
    *budget = budget.checked_sub(size).ok_or("its shared values are too many to write out")?;
    let depth = depth.checked_sub(1).ok_or("its lists lie too deep within each other")?;
    let mut all = |items: &Parts| -> Result<Json, &'static str> {
        items.iter().map(|v| plain(v, depth, budget)).collect::<Result<_, _>>().map(Json::Array)
    };
    match value {
        Value::Int(i) => Ok(Json::from(*i)),
        Value::Str(s) | Value::Lossy(s) => Ok(Json::from(&**s)),
        Value::Tuple(items) => all(items),
        Value::List(items) => all(&items.borrow()),
        Value::Dict(items) => {
            let mut map = Map::new();
            for (key, value) in items.borrow().pairs() {
                let key = match key {
                    Value::Str(s) | Value::Lossy(s) => s.to_string(),
                    Value::Int(i) => i.to_string(),
                    _ => return Err("a dictionary has a key that is no text"),
                };
                map.insert(key, plain(value, depth, budget)?);
            }
            Ok(Json::Object(map))
        }
        Value::Opaque
        | Value::Global(..)
        | Value::Object(..)
        | Value::Storage(_)
        | Value::Tensor(_)
        | Value::Unread(..) => Ok(Json::Null),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    #[test]
    fn line_ends_that_were_changed_are_read_or_named() {
        let text = b"(lp0\n(dp1\nS'ref_id'\nI42\nsS'split'\nVtest\\u000d\nsa.";
        let crlf: Vec<u8> = text
            .split_inclusive(|b| *b == b'\n')
            .flat_map(|line| match line.split_last() {
                Some((b'\n', rest)) => [rest, b"\r\n"].concat(),
                _ => line.to_vec(),
            })
            .collect();
        let expected = json!([{"ref_id": 42, "split": "test\r"}]);
        assert_eq!(read(text).unwrap(), expected);
        assert_eq!(read(&crlf).unwrap(), expected);
        // A binary protocol holds a line feed as a length, which nothing tells from a changed one.
        let binary = b"\x80\x02U\x0d\x0aten letters";
        let said = read(binary).unwrap_err().to_string();
        assert!(said.contains("CRLF") && said.contains("binary mode"), "{said}");
    }

    fn read(bytes: &[u8]) -> Result<Json> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.p");
        fs::write(&path, bytes).unwrap();
        read_plain_pickle(&path)
    }

    #[test]
    fn texts_numbers_and_shared_values_of_both_protocols_are_read() {
        // {'a': [1, 'it\'s', u'caf\xe9'], 'b': 'testA'} by protocol 0 and by protocol 2.
        let old = b"(dp0\nS'a'\np1\n(lp2\nI1\naS\"it's\"\np3\naVcaf\\u00e9\np4\nasS'b'\np5\nS'testA'\np6\ns.";
        let new = b"\x80\x02}q\x00(U\x01aq\x01]q\x02(K\x01U\x04it'sq\x03X\x05\x00\x00\x00caf\xc3\xa9q\x04eU\x01bq\x05U\x05testAq\x06u.";
        let wanted = json!({"a": [1, "it's", "café"], "b": "testA"});
        assert_eq!(read(old).unwrap(), wanted);
        assert_eq!(read(new).unwrap(), wanted);
        assert_eq!(read(b"S'a\\\\b\\x41\\q'\n.").unwrap(), json!("a\\bA\\q"));
    }

    #[test]
    fn lists_that_hold_themselves_or_each_other_often_are_refused() {
        let itself = b"]q\x00h\x00a.";
        assert!(read(itself).unwrap_err().to_string().contains("deep"));
        // Each list holds the one before it ten times: 10^9 values from some hundred bytes.
        let mut doubling = b"]q\x00".to_vec();
        for i in 0..9_u8 {
            doubling.extend_from_slice(&[b']', b'q', i + 1, b'(']);
            (0..10).for_each(|_| doubling.extend_from_slice(&[b'h', i]));
            doubling.push(b'e');
        }
        doubling.push(b'.');
        assert!(read(&doubling).unwrap_err().to_string().contains("too many"));
    }

    #[test]
    fn a_call_is_not_made() {
        let call = b"cos\nsystem\n(S'true'\ntR.";
        assert_eq!(read(call).unwrap(), Json::Null);
    }
}
