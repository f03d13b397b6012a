//! Names of files and archive members as text, without loss.
//!
//! A name is bytes, and not always UTF-8. In a text each byte that is no UTF-8 becomes one character of a
//! range for private use, so that different names stay different and the bytes can be had back.

use std::ffi::OsStr;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// The character of byte 0; that of byte `b` is `b` further.
const FIRST: u32 = 0x10_FF00;

/// The first byte of every character of the range in UTF-8. Names without it, as nearly all are, need no look at
/// each character.
const LEAD: u8 = 0xf4;

fn stands_for(c: char) -> Option<u8> {
    u8::try_from(u32::from(c).checked_sub(FIRST)?).ok()
}

/// The character that stands for a byte.
pub(crate) fn of_byte(byte: u8) -> char {
    char::from_u32(FIRST + u32::from(byte)).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The name as text; UTF-8 stays as it is.
#[must_use]
pub fn text_of(bytes: &[u8]) -> String {
    if let Ok(text) = std::str::from_utf8(bytes)
        && !bytes.contains(&LEAD)
    {
        return text.to_owned();
    }
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            // Characters of the range itself are kept apart from the bytes that it stands for.
            match stands_for(c) {
                Some(_) => out.extend(c.encode_utf8(&mut [0; 4]).bytes().map(of_byte)),
                None => out.push(c),
            }
        }
        out.extend(chunk.invalid().iter().copied().map(of_byte));
    }
    out
}

/// The text of a name of the system.
#[must_use]
pub fn text_of_os(name: &OsStr) -> String {
    text_of(name.as_encoded_bytes())
}

/// The text of a path.
#[must_use]
pub fn text_of_path(path: &Path) -> String {
    text_of_os(path.as_os_str())
}

/// The path that a text names.
#[must_use]
pub fn path_of(text: &str) -> PathBuf {
    odd_bytes(text).map_or_else(|| PathBuf::from(text), from_bytes)
}

/// The text of the bytes that a text names: bytes that are UTF-8 together become its characters.
#[must_use]
pub(crate) fn settled(name: &str) -> String {
    odd_bytes(name).map_or_else(|| name.to_owned(), |bytes| text_of(&bytes))
}

/// The bytes of a name.
fn bytes_of(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for c in text.chars() {
        match stands_for(c) {
            Some(byte) => out.push(byte),
            None => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out
}

#[cfg(unix)]
fn from_bytes(bytes: Vec<u8>) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    std::ffi::OsString::from_vec(bytes).into()
}

#[cfg(not(unix))]
fn from_bytes(bytes: Vec<u8>) -> PathBuf {
    String::from_utf8_lossy(&bytes).into_owned().into()
}

/// The name where it is UTF-8, else as it is shown.
#[must_use]
pub fn readable(name: &str) -> String {
    if odd_bytes(name).is_some() { shown(name) } else { name.to_owned() }
}

/// The bytes of a name that is no UTF-8.
#[must_use]
pub fn odd_bytes(name: &str) -> Option<Vec<u8>> {
    let odd = name.as_bytes().contains(&LEAD) && name.chars().any(|c| stands_for(c).is_some());
    odd.then(|| bytes_of(name))
}

/// A name in one line, different for different names: control characters, bytes that are no UTF-8 and
/// backslashes are escaped.
#[must_use]
pub fn shown(name: &str) -> String {
    escaped(name, |c| c == '\\' && !cfg!(windows))
}

/// A message in one line: control characters and bytes of names that are no UTF-8 are escaped, backslashes stay.
#[must_use]
pub fn in_one_line(message: &str) -> String {
    escaped(message, |_| false)
}

/// A message in which control characters but line feeds and tabs are escaped, and so are bytes of names
/// that are no UTF-8: a file's name or text must not steer a terminal.
#[must_use]
pub fn harmless(message: &str) -> String {
    let mut lines = message.split('\n').map(|line| {
        let parts: Vec<String> = line.split('\t').map(|part| escaped(part, |_| false)).collect();
        parts.join("\t")
    });
    let first = lines.next().unwrap_or_default();
    lines.fold(first, |all, line| all + "\n" + &line)
}

/// [`harmless`] of a line of JSON, which stays JSON.
#[must_use]
pub fn harmless_json(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    for c in line.chars() {
        // Writing to a text cannot fail.
        let _ = match stands_for(c) {
            Some(byte) => write!(out, "\\\\x{byte:02x}"),
            None if steers(c) && c != '\n' => write!(out, "\\u{:04x}", u32::from(c)),
            None => write!(out, "{c}"),
        };
    }
    out
}

fn escaped(text: &str, also: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        // Writing to a text cannot fail.
        let _ = match c {
            '\\' if also(c) => write!(out, "\\\\"),
            '\t' => write!(out, "\\t"),
            '\n' => write!(out, "\\n"),
            '\r' => write!(out, "\\r"),
            c if stands_for(c).is_some() => {
                write!(out, "\\x{:02x}", stands_for(c).unwrap_or_default())
            }
            c if steers(c) => write!(out, "{}", c.escape_unicode()),
            c => write!(out, "{c}"),
        };
    }
    out
}

/// Control characters, line ends of Unicode, and those that turn the direction of what follows.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}')
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_any_bytes_stay_apart_and_come_back() {
        let private = "\u{10ff92}".as_bytes();
        let names: [&[u8]; 7] =
            [b"it\x92s", b"it\x93s", "itâs".as_bytes(), b"", private, b"\x92", b"a\xed\xa0\x80"];
        let texts: Vec<String> = names.iter().map(|n| text_of(n)).collect();
        for (name, text) in names.iter().zip(&texts) {
            assert_eq!(bytes_of(text), *name);
            assert_eq!(texts.iter().filter(|t| *t == text).count(), 1);
        }
        assert_eq!(texts[2], "itâs");
        assert_eq!((odd_bytes(&texts[2]), odd_bytes(&texts[0]).as_deref()), (None, Some(names[0])));
        #[cfg(unix)]
        assert_eq!(path_of(&texts[0]).as_os_str().as_encoded_bytes(), names[0]);
    }

    #[test]
    #[cfg(not(windows))]
    fn names_are_shown_in_one_line_each_in_its_own() {
        let shown_as = [
            ("tab\t.jpg", "tab\\t.jpg"),
            ("tab\\t.jpg", "tab\\\\t.jpg"),
            ("a\nb", "a\\nb"),
            ("\u{1b}[31m", "\\u{1b}[31m"),
            ("\u{9b}1m", "\\u{9b}1m"),
            ("\u{202e}gpj", "\\u{202e}gpj"),
            ("Bär 犬.jpg", "Bär 犬.jpg"),
        ];
        for (name, line) in shown_as {
            assert_eq!(shown(name), line);
        }
        assert_eq!(shown(&text_of(b"it\x92s")), "it\\x92s");
        assert_eq!(shown("it\\x92s"), "it\\\\x92s");
    }

    #[test]
    fn a_message_keeps_its_lines_and_steers_no_terminal() {
        let message = format!("a\u{1b}]0;b\u{7}\n\tc\\d {}", text_of(b"\xff"));
        assert_eq!(harmless(&message), "a\\u{1b}]0;b\\u{7}\n\tc\\d \\xff");
    }
}
