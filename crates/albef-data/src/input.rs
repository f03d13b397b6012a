//! Text and JSON from files as people have them: with a byte order mark, in another encoding, or written by
//! Python.

use std::borrow::Cow;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use albef_weights::{FileKind, HEAD};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{DataError, Result, in_words};
use crate::names;

/// How a unit of UTF-16 is read.
type Unit = fn([u8; 2]) -> u16;

/// How the units of a text in UTF-16 that begins so are read, and the length of its mark; `None` for other bytes.
fn units(first: &[u8]) -> Option<(Unit, usize)> {
    match *first {
        // UTF-32 begins as UTF-16 does.
        [0xff, 0xfe, 0, 0, ..] => None,
        [0xff, 0xfe, ..] => Some((u16::from_le_bytes, 2)),
        [0xfe, 0xff, ..] => Some((u16::from_be_bytes, 2)),
        // Without a mark: no text in UTF-8 has zeros at every other place.
        [a, 0, b, 0, ..] if a != 0 && b != 0 => Some((u16::from_le_bytes, 0)),
        [0, a, 0, b, ..] if a != 0 && b != 0 => Some((u16::from_be_bytes, 0)),
        _ => None,
    }
}

/// Whether bytes are the beginning of a text in UTF-16.
#[must_use]
pub(crate) fn is_utf16(first: &[u8]) -> bool {
    units(first).is_some()
}

/// How bytes were read as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// UTF-8, with or without a byte order mark.
    Utf8,
    /// UTF-16, with or without a byte order mark.
    Utf16,
    /// Windows-1252, since the bytes are no UTF-8.
    Windows1252,
}

impl Encoding {
    /// The name in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Utf8 => "UTF-8",
            Self::Utf16 => "UTF-16",
            Self::Windows1252 => "Windows-1252",
        }
    }
}

/// Characters of the bytes 0x80 to 0x9f; 0 where Windows-1252 has none.
const WINDOWS_1252: [u16; 32] = [
    0x20ac, 0, 0x201a, 0x0192, 0x201e, 0x2026, 0x2020, 0x2021, 0x02c6, 0x2030, 0x0160, 0x2039,
    0x0152, 0, 0x017d, 0, 0, 0x2018, 0x2019, 0x201c, 0x201d, 0x2022, 0x2013, 0x2014, 0x02dc,
    0x2122, 0x0161, 0x203a, 0x0153, 0, 0x017e, 0x0178,
];

/// The text without the byte order mark that some editors put first.
#[must_use]
pub fn without_bom(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// The text of bytes in UTF-8, or in UTF-16; `None` if they are neither.
fn unicode(bytes: &[u8]) -> Option<(Cow<'_, str>, Encoding)> {
    let Some((unit, mark)) = units(bytes) else {
        let text = std::str::from_utf8(bytes).ok()?;
        return Some((Cow::Borrowed(without_bom(text)), Encoding::Utf8));
    };
    let (pairs, rest) = bytes[mark..].as_chunks::<2>();
    let units: Vec<u16> = pairs.iter().map(|pair| unit(*pair)).collect();
    let text = String::from_utf16(&units).ok().filter(|_| rest.is_empty())?;
    Some((Cow::Owned(text), Encoding::Utf16))
}

/// The text of bytes in UTF-8, else in UTF-16, else in Windows-1252; `None` if they
/// are no text in any of these.
#[must_use]
pub fn decode_text(bytes: &[u8]) -> Option<(Cow<'_, str>, Encoding)> {
    if let Some(found) = unicode(bytes) {
        return Some(found);
    }
    let character = |byte: u8| match byte {
        0x80..=0x9f => char::from_u32(WINDOWS_1252[usize::from(byte - 0x80)].into()),
        _ => Some(char::from(byte)),
    };
    let printed = |c: &char| !c.is_control() || matches!(c, '\t' | '\n' | '\r' | '\u{c}');
    let text: Option<String> = bytes.iter().map(|b| character(*b).filter(printed)).collect();
    Some((Cow::Owned(text?), Encoding::Windows1252))
}

/// Reads a text file in UTF-8 or UTF-16.
///
/// # Errors
/// If it cannot be read, or is in another encoding, with the line of the first wrong byte; a compressed
/// file is named as such.
pub fn read_text(path: &Path) -> Result<String> {
    text_of_file(path, &std::fs::read(path).map_err(DataError::io(path))?)
}

/// The text of a file whose bytes are at hand, as by [`read_text`].
///
/// # Errors
/// As [`read_text`].
pub fn text_of_file(path: &Path, bytes: &[u8]) -> Result<String> {
    if let Some(detail) = no_text(bytes, "the text that is expected") {
        return Err(DataError::annotation(path, String::new(), detail));
    }
    match unicode(bytes) {
        Some((text, _)) => Ok(text.into_owned()),
        None => Err(not_text(path, bytes)),
    }
}

fn not_text(path: &Path, bytes: &[u8]) -> DataError {
    if let Some(detail) = packed(bytes) {
        return DataError::annotation(path, String::new(), detail);
    }
    let end = std::str::from_utf8(bytes).err().map_or(0, |e| e.valid_up_to());
    let line = 1 + bytes[..end].iter().filter(|b| **b == b'\n').count();
    let byte = bytes.get(end).copied().unwrap_or_default();
    let detail = format!("the byte 0x{byte:02x} is no UTF-8; save the file in UTF-8");
    DataError::annotation(path, format!(", line {line}"), detail)
}

/// What bytes are that could be read as text and are none: a pointer, a page, zeros. Compressed files are for
/// [`packed`], which names the tool that unpacks them.
#[must_use]
pub(crate) fn no_text(bytes: &[u8], wanted: &str) -> Option<String> {
    let left = |kind: &FileKind| {
        matches!(kind, FileKind::GitLfsPointer { .. } | FileKind::HtmlPage | FileKind::Zeros)
    };
    let head = &bytes[..bytes.len().min(HEAD)];
    FileKind::of(head, bytes.len() as u64).filter(left).map(|kind| kind.instead_of(wanted))
}

/// What a file of `length` bytes is that should be a list or an archive, and the way out, by its first bytes; `None` if
/// nothing is known of it. Files without a byte are for the caller, who knows what they lack.
#[must_use]
pub(crate) fn stands_instead(first: &[u8], length: u64, wanted: &str) -> Option<String> {
    let left = |kind: &FileKind| *kind != FileKind::Empty;
    let head = &first[..first.len().min(HEAD)];
    packed(head)
        .or_else(|| FileKind::of(head, length).filter(left).map(|kind| kind.instead_of(wanted)))
}

/// The first bytes of a file, enough for [`stands_instead`], and its length.
///
/// # Errors
/// If it cannot be read.
pub(crate) fn head_of(path: &Path) -> Result<(Vec<u8>, u64)> {
    let mut head = Vec::new();
    let file = File::open(path).map_err(DataError::io(path))?;
    let length = file.metadata().map_err(DataError::io(path))?.len();
    file.take(HEAD as u64).read_to_end(&mut head).map_err(DataError::io(path))?;
    Ok((head, length))
}

/// What to do with a file that is compressed, by its first bytes.
#[must_use]
pub(crate) fn packed(first: &[u8]) -> Option<String> {
    let kinds: [(&[u8], &str, &str); 5] = [
        (b"\x1f\x8b", "gzip", "gunzip"),
        (b"\x28\xb5\x2f\xfd", "Zstandard", "unzstd"),
        (b"\xfd7zXZ\0", "xz", "unxz"),
        (b"BZh", "bzip2", "bunzip2"),
        (b"PK\x03\x04", "zip", "unzip"),
    ];
    let (_, name, tool) = kinds.iter().find(|(magic, _, _)| first.starts_with(magic))?;
    Some(format!("it is compressed with {name}; unpack it first, with `{tool}`"))
}

/// Parses JSON as Python does: with `NaN` and `Infinity` (read as null) and escapes of lone surrogates
/// (read as U+FFFD).
///
/// # Errors
/// As [`serde_json::from_str`].
pub fn parse_json<T: DeserializeOwned>(text: &str) -> Result<T, serde_json::Error> {
    let text = without_bom(text);
    serde_json::from_str(text).or_else(|error| match as_strict(text, Lone::Replaced) {
        Some(strict) => serde_json::from_str(&strict).map_err(|_| error),
        None => Err(error),
    })
}

/// Reads a JSON file by [`parse_json`].
///
/// # Errors
/// As [`read_text`], or if it is not JSON or not what `wanted` names, with the line.
pub fn read_json<T: DeserializeOwned>(path: &Path, wanted: &str) -> Result<T> {
    parse_json(&read_text(path)?).map_err(|e| {
        let detail = format!("{wanted} is needed: {}", in_words(&e.to_string()));
        DataError::annotation(path, format!(", line {}", e.line()), detail)
    })
}

/// Parses JSON as [`parse_json`] does, but for the escapes `\udc80` to `\udcff`: in the names of files that Python
/// lists each stands for a byte that is no UTF-8, and becomes the character of this byte by [`crate::names`].
/// `None` if it is not JSON or holds none of them.
pub(crate) fn parse_names<T: DeserializeOwned>(text: &str) -> Option<T> {
    let strict = as_strict(without_bom(text), Lone::Bytes)?;
    serde_json::from_str(&strict).ok()
}

/// Whether JSON holds an escape of a lone surrogate.
pub(crate) fn has_lone_surrogate(text: &str) -> bool {
    holds_replaced(text, Lone::Replaced)
}

/// Whether it holds one that is no byte of a name either.
pub(crate) fn has_lost_surrogate(text: &str) -> bool {
    holds_replaced(text, Lone::Bytes)
}

fn holds_replaced(text: &str, lone: Lone) -> bool {
    text.contains("\\u") && as_strict(text, lone).is_some_and(|strict| strict.contains("\\ufffd"))
}

/// What becomes of escapes of lone surrogates.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lone {
    /// U+FFFD.
    Replaced,
    /// The characters of the bytes that they stand for, where they do, else U+FFFD.
    Bytes,
}

/// What Python's JSON has beyond the standard, in the standard's terms; `None` if there is nothing of it.
fn as_strict(text: &str, lone: Lone) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let (mut at, mut from, mut in_string) = (0, 0, false);
    let put = |out: &mut String, from: &mut usize, at: usize, end: usize, new: &str| {
        out.push_str(&text[*from..at]);
        out.push_str(new);
        *from = end;
    };
    while at < bytes.len() {
        match (in_string, bytes[at]) {
            (_, b'"') => in_string = !in_string,
            (true, b'\\') => {
                if let Some(unit) = escaped_unit(&bytes[at..]) {
                    let low = escaped_unit(bytes.get(at + 6..).unwrap_or_default());
                    let pair = matches!(unit, 0xd800..=0xdbff)
                        && low.is_some_and(|u| matches!(u, 0xdc00..=0xdfff));
                    if pair {
                        at += 12;
                        continue;
                    }
                    match unit {
                        0xdc80..=0xdcff if lone == Lone::Bytes => {
                            let character = names::of_byte(unit as u8).to_string();
                            put(&mut out, &mut from, at, at + 6, &character);
                        }
                        0xd800..=0xdfff => put(&mut out, &mut from, at, at + 6, "\\ufffd"),
                        _ => {}
                    }
                    at += 6;
                    continue;
                }
                at += 1;
            }
            (false, b'N' | b'I' | b'-') => {
                let words = ["NaN", "-Infinity", "Infinity"];
                if let Some(word) = words.iter().find(|w| bytes[at..].starts_with(w.as_bytes())) {
                    put(&mut out, &mut from, at, at + word.len(), "null");
                    at += word.len();
                    continue;
                }
                at = number(text, at, &mut |at, end| put(&mut out, &mut from, at, end, "null"));
                continue;
            }
            (false, b'0'..=b'9') => {
                at = number(text, at, &mut |at, end| put(&mut out, &mut from, at, end, "null"));
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    if from == 0 {
        return None;
    }
    out.push_str(&text[from..]);
    Some(out)
}

/// Goes behind what a number may be made of, and gives numbers beyond all bounds, which Python reads as infinite, to
/// `infinite`.
fn number(text: &str, at: usize, infinite: &mut dyn FnMut(usize, usize)) -> usize {
    let of_number = |b: &u8| matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
    // What begins with a letter is no number, and passed over.
    let end = at + text.as_bytes()[at..].iter().take_while(|b| of_number(b)).count().max(1);
    if text.get(at..end).and_then(|n| n.parse::<f64>().ok()).is_some_and(f64::is_infinite) {
        infinite(at, end);
    }
    end
}

/// The unit of an escape, `\u` and four hexadecimal digits, at the beginning.
fn escaped_unit(bytes: &[u8]) -> Option<u16> {
    let digits = bytes.strip_prefix(b"\\u")?.get(..4)?;
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// An identity in a list: 7, "7" and 7.0 are one. `None` for null.
#[must_use]
pub fn id_text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(s) => Some(s.clone()),
        Value::Number(n) => match n.as_f64() {
            // Beyond 2^53 a fraction has no whole neighbours of its own.
            Some(v) if n.is_f64() && v.fract() == 0.0 && v.abs() < 9e15 => {
                Some((v as i64).to_string())
            }
            // Whole numbers of more than 64 bits have lost digits, and different ones would be the same.
            Some(v) if n.is_f64() && v.abs() > u64::MAX as f64 => None,
            _ => Some(n.to_string()),
        },
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn value(text: &str) -> Option<Value> {
        parse_json(text).ok()
    }

    #[test]
    fn json_is_read_as_python_reads_it() {
        assert_eq!(
            value(r#"{"a": NaN, "b": [Infinity, -Infinity, -1]}"#),
            Some(json!({"a": null, "b": [null, null, -1]}))
        );
        assert_eq!(value(r#"["\ud83d\ude00", "NaN"]"#), Some(json!(["\u{1f600}", "NaN"])));
        assert_eq!(value(r#"["x\ud83d y", "\ude00", "\\ud83d"]"#).unwrap()[0], "x\u{fffd} y");
        assert_eq!(value(r#"["a\"NaN", NaN]"#), Some(json!(["a\"NaN", null])));
        assert_eq!(value("\u{feff}[1]"), Some(json!([1])));
        assert_eq!(
            value("[1e999, -2.5E+400, 1, 3e2, \"1e999\"]"),
            value("[null, null, 1, 3e2, \"1e999\"]")
        );
        assert_eq!(value(&format!("[-{}]", "9".repeat(400))), Some(json!([null])));
        for wrong in ["[nan]", "[Na]", r#"["\ud8"]"#, "[-]", "{", r#"["\ud83d"#] {
            assert_eq!(value(wrong), None, "{wrong}");
        }
        let names: Value = parse_names(r#"["it\udc92s \ud83d \ud83d\ude00", 1e999]"#).unwrap();
        let odd = crate::names::text_of(b"it\x92s ") + "\u{fffd} \u{1f600}";
        assert_eq!(names, json!([odd, null]));
        assert!(has_lone_surrogate(r#"["\udc92"]"#) && !has_lost_surrogate(r#"["\udc92"]"#));
        assert!(has_lone_surrogate(r#"["\udc00"]"#) && !has_lone_surrogate(r#"["\ud83d\ude00"]"#));
    }

    #[test]
    fn texts_are_read_in_the_encodings_that_editors_write() {
        let of = |bytes: &[u8]| decode_text(bytes).map(|(t, e)| (t.into_owned(), e));
        let text = |t: &str, e| Some((t.to_owned(), e));
        assert_eq!(of("\u{feff}Bär".as_bytes()), text("Bär", Encoding::Utf8));
        assert_eq!(of(b"it\x92s \xe9"), text("it\u{2019}s é", Encoding::Windows1252));
        assert_eq!(of(b"\xff\xfeB\0\xe4\0"), text("Bä", Encoding::Utf16));
        assert_eq!(of(b"\xfe\xff\0B\0\xe4"), text("Bä", Encoding::Utf16));
        for wrong in [&b"\x81\xe9"[..], b"\xe9\0", b"\xff\xfeB"] {
            assert!(of(wrong).is_none_or(|(_, e)| e == Encoding::Windows1252), "{wrong:?}");
        }
        assert_eq!(of(b"\x81\xe9"), None);
        assert_eq!(of(b"\xe9\0\xe9\0").map(|t| t.1), Some(Encoding::Utf16));
        assert_eq!(of(b"B\0\xe4\0"), text("Bä", Encoding::Utf16));
        assert_eq!(of(b"\0B\0\xe4"), text("Bä", Encoding::Utf16));
        assert_eq!(of(b"\xff\xfe\0\0B\0\0\0"), None);
        assert_eq!(of(b"\xe9\0\xe9"), None);
    }

    #[test]
    fn a_file_in_another_encoding_is_named_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.txt");
        std::fs::write(&path, b"a\nb\x92\n").unwrap();
        let said = read_text(&path).unwrap_err().to_string();
        assert!(said.contains("x.txt, line 2") && said.contains("0x92"), "{said}");
        std::fs::write(&path, b"\x1f\x8b\x08\xff").unwrap();
        assert!(read_text(&path).unwrap_err().to_string().contains("`gunzip`"));
    }

    #[test]
    fn one_id_has_one_text_whatever_its_type() {
        let ids = [json!(7), json!("7"), json!(7.0), json!(7e0)];
        assert!(ids.iter().all(|id| id_text(id).as_deref() == Some("7")));
        assert_eq!(id_text(&json!(-0.0)).as_deref(), Some("0"));
        assert_eq!(id_text(&json!(7.5)).as_deref(), Some("7.5"));
        assert_eq!(id_text(&Value::Null), None);
    }
}
