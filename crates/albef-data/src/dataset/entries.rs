//! Entries of annotation lists, one at a time: JSON lists, one object a line, tables, and the downloads of
//! data sets that are one object.

mod lines;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read};
use std::path::Path;

use serde_json::Value;

use super::downloads;
use super::entry::{Entry, Place, Take, Written, value};
use super::keys;
use super::parquet;
use super::quotes::Quotes;
use crate::error::{DataError, Result};
use crate::input::{Encoding, decode_text, is_utf16, stands_instead};
use crate::names::text_of as names_of;

/// The splits that the entries of a list name, and the one that is asked for.
pub(super) struct Splits<'a> {
    wanted: Option<&'a str>,
    found: BTreeSet<String>,
}

impl<'a> Splits<'a> {
    pub(super) fn new(wanted: Option<&'a str>) -> Self {
        Self { wanted, found: BTreeSet::new() }
    }

    /// Whether an entry is of the split that is asked for. Karpathy's `restval` is trained on.
    pub(super) fn takes(&mut self, entry: &Value) -> bool {
        self.takes_split(entry.get("split").and_then(Value::as_str))
    }

    /// The same for the split that an entry names.
    pub(super) fn takes_split(&mut self, own: Option<&str>) -> bool {
        let Some(own) = own else { return self.wanted.is_none() };
        if !self.found.contains(own) {
            self.found.insert(own.to_owned());
        }
        self.wanted.is_none_or(|w| w == own || w == "train" && own == "restval")
    }

    /// What to report once all entries were read; an error if none was of the split that is asked for.
    pub(super) fn end(self, path: &Path, empty: bool) -> Result<Option<String>> {
        let names = self.found.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        match self.wanted {
            Some(split) if empty => {
                let detail = match names.is_empty() {
                    true => format!("its entries have no `split`, so none is of `{split}`"),
                    false => format!("there is no entry of the split `{split}`; it has {names}"),
                };
                Err(DataError::annotation(path, String::new(), detail))
            }
            None if self.found.len() > 1 => Ok(Some(format!(
                "{path}: the entries of all splits are read ({names}); `{path}#SPLIT` reads one",
                path = path.display(),
            ))),
            _ => Ok(None),
        }
    }
}

/// Bytes of one entry of a list, which is read entry by entry whatever its length.
const LONGEST: usize = 1 << 26;
/// Bytes of a line, or of a file that is one object: the largest that data sets publish have a tenth of it.
const LONGEST_LINE: u64 = 1 << 30;

/// Gives the entries of a list in order. Only what leaves the rest of the file without meaning is an error.
pub(super) fn each_entry(path: &Path, take: Take<'_>) -> Result<()> {
    let fail = |detail: String| DataError::annotation(path, String::new(), detail);
    if path.extension().is_some_and(|e| e == "p" || e == "pkl") {
        return downloads::refs(path, take);
    }
    let mut reader = open(path)?;
    let first = reader.fill_buf().map_err(DataError::io(path))?;
    if first.starts_with(parquet::MAGIC) {
        return parquet::entries(path, take);
    }
    match form(path, first) {
        Form::Lines => return lines::each(path, &mut *reader, take),
        Form::Table if first.is_empty() => {
            let detail = "the file is empty; its first line must name its columns, such as `image` and `caption`";
            return Err(fail(detail.into()));
        }
        Form::Table => return rows(path, reader, take),
        Form::Json => {}
    }
    let blank = skip_blank(&mut *reader).map_err(DataError::io(path))?;
    match reader.fill_buf().map_err(DataError::io(path))?.first() {
        Some(b'[') => elements(path, &mut *reader, blank, take),
        Some(b'{') => objects(path, &mut *reader, blank, take),
        None => Err(fail("the file is empty; it must hold a JSON list of objects".into())),
        Some(_) => {
            let first = reader.fill_buf().map_err(DataError::io(path))?;
            let text = String::from_utf8_lossy(&first[..first.len().min(80)]);
            let line: String = text.lines().next().unwrap_or_default().chars().take(20).collect();
            Err(fail(format!(
                "not a JSON list of objects: it begins with `{line}`; a list is JSON, a table whose first line names \
                 its columns (`image`, `caption`), or lines of `IMAGE#NUMBER`, a tab and a caption, as of Flickr30k"
            )))
        }
    }
}

/// Opens a list as UTF-8 without a byte order mark.
fn open(path: &Path) -> Result<Box<dyn BufRead>> {
    let fail = |detail: String| DataError::annotation(path, String::new(), detail);
    let file = File::open(path).map_err(DataError::io(path))?;
    let mut reader: Box<dyn BufRead> = Box::new(BufReader::with_capacity(1 << 16, file));
    let first = reader.fill_buf().map_err(DataError::io(path))?;
    if first.starts_with(parquet::MAGIC) {
        return Ok(reader);
    }
    let blank = first.iter().take_while(|b| b.is_ascii_whitespace()).count();
    // What begins as JSON does is read, whatever else it looks like; of a text its beginning is told by `each_entry`.
    if !matches!(first.get(blank), Some(b'[' | b'{'))
        && let Some(detail) = stands_instead(first, u64::MAX, "a list of images with captions")
    {
        return Err(fail(detail));
    }
    let no_text = || fail("it is no text in UTF-8 or UTF-16; save it in UTF-8".into());
    if first.starts_with(b"\xff\xfe\0\0") || first.starts_with(b"\0\0\xfe\xff") {
        return Err(no_text());
    }
    if is_utf16(first) {
        let mut all = Vec::new();
        reader.read_to_end(&mut all).map_err(DataError::io(path))?;
        let (text, _) = decode_text(&all).ok_or_else(no_text)?;
        reader = Box::new(Cursor::new(text.into_owned().into_bytes()));
    } else if first.starts_with(b"\xef\xbb\xbf") {
        reader.consume(3);
    }
    let first = reader.fill_buf().map_err(DataError::io(path))?;
    match first.contains(&b'\r') && !first.contains(&b'\n') {
        true => Ok(Box::new(BufReader::with_capacity(1 << 16, LineFeeds(reader)))),
        false => Ok(reader),
    }
}

/// Lines that end with a carriage return, as on old Macs, with line feeds.
struct LineFeeds<R>(R);

impl<R: Read> Read for LineFeeds<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let read = self.0.read(out)?;
        out[..read].iter_mut().filter(|b| **b == b'\r').for_each(|b| *b = b'\n');
        Ok(read)
    }
}

/// How the entries of a list are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// A JSON list, one object a line, or one object.
    Json,
    /// Rows below the names of their columns.
    Table,
    /// Lines as those of Flickr's data sets.
    Lines,
}

/// The form of a list that begins so: by its name, and by its first line where the name does not tell.
fn form(path: &Path, first: &[u8]) -> Form {
    let ends = |ending: &str| path.extension().is_some_and(|e| e.eq_ignore_ascii_case(ending));
    if lines::are_in(first) {
        return Form::Lines;
    }
    let header = first.split(|b| *b == b'\n').next().unwrap_or_default();
    let named = || keys::are_of_captions(&columns(header, delimiter(header)));
    match ends("csv") || ends("tsv") || named() {
        true => Form::Table,
        false => Form::Json,
    }
}

/// The names in the first line of what may be a table.
fn columns(header: &[u8], delimiter: u8) -> Vec<String> {
    let name = |field: &[u8]| String::from_utf8_lossy(field).trim().trim_matches('"').to_owned();
    header.split(|b| *b == delimiter).map(name).collect()
}

/// Whether the entries of a list are rows or lines, one of each caption; those of one image belong together.
pub(super) fn has_rows(path: &Path) -> bool {
    // What is no file, such as a pipe, can be read once only.
    let first = path.is_file().then(|| open(path).ok()).flatten().and_then(|mut reader| {
        let first = reader.fill_buf().ok()?;
        Some(form(path, first))
    });
    first.unwrap_or_else(|| form(path, &[])) != Form::Json
}

/// Passes over white space and gives the line feeds in it.
fn skip_blank(reader: &mut dyn BufRead) -> std::io::Result<usize> {
    let mut lines = 0;
    loop {
        let buffer = reader.fill_buf()?;
        let blank = buffer.iter().take_while(|b| b.is_ascii_whitespace()).count();
        lines += buffer[..blank].iter().filter(|b| **b == b'\n').count();
        let done = buffer.is_empty() || blank < buffer.len();
        reader.consume(blank);
        if done {
            return Ok(lines);
        }
    }
}

/// The elements of a JSON list, told apart by brackets alone, so that one that is no JSON costs itself only.
fn elements(path: &Path, reader: &mut dyn BufRead, before: usize, take: Take<'_>) -> Result<()> {
    let mut scan = Scan { line: before + 1, ..Scan::default() };
    let mut number = 0;
    let mut entry = Vec::new();
    loop {
        let buffer = reader.fill_buf().map_err(DataError::io(path))?;
        if buffer.is_empty() {
            let (line, fault) = scan.open();
            let detail = format!(
                "not a JSON list of objects: the file ends in entry {number}; it is cut, or {fault} \
                 in this line is not closed"
            );
            return Err(DataError::annotation(path, format!(", line {line}"), detail));
        }
        let (used, ended) = scan.advance(buffer);
        let own = used - usize::from(ended.is_some());
        entry.extend_from_slice(&buffer[..own]);
        reader.consume(used);
        if entry.len() > LONGEST {
            let (line, _) = scan.open();
            let detail = format!("entry {number} is longer than {} MiB", LONGEST >> 20);
            return Err(DataError::annotation(path, format!(", line {line}"), detail));
        }
        let Some(end) = ended else { continue };
        let text = entry.strip_prefix(b"[").filter(|_| number == 0).unwrap_or(&entry);
        // A list without elements has none between its brackets.
        if end == End::Element || number > 0 || !text.trim_ascii().is_empty() {
            take(Entry::json(Place::Entry(number), text))?;
        }
        number += 1;
        entry.clear();
        if end == End::List {
            break;
        }
    }
    let blank = skip_blank(reader).map_err(DataError::io(path))?;
    match reader.fill_buf().map_err(DataError::io(path))?.is_empty() {
        true => Ok(()),
        false => {
            let place = format!(", line {}", scan.line + blank);
            Err(DataError::annotation(path, place, "there is more after the end of the list"))
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Element,
    List,
}

/// Where a scan over a JSON list is.
#[derive(Default)]
struct Scan {
    depth: usize,
    in_string: bool,
    escaped: bool,
    line: usize,
    /// Where the element begins; `None` before its first byte that is not blank.
    begin: Option<usize>,
    /// Where the last string begins.
    quote: usize,
    /// Where the first string of the element begins that has a line feed in it, as none in JSON has.
    broken: Option<usize>,
}

impl Scan {
    /// The line where what is still open begins, and what that is.
    fn open(&self) -> (usize, &'static str) {
        let quote = self.broken.or(self.in_string.then_some(self.quote));
        match quote {
            Some(line) => (line, "the quote"),
            None => (self.begin.unwrap_or(self.line), "a bracket that opens"),
        }
    }

    /// Goes on to the end of the element, or of `bytes`; the byte that ends it is counted.
    fn advance(&mut self, bytes: &[u8]) -> (usize, Option<End>) {
        for (i, byte) in bytes.iter().enumerate() {
            if *byte == b'\n' {
                self.line += 1;
            } else if self.begin.is_none() && !byte.is_ascii_whitespace() {
                self.begin = Some(self.line);
            }
            if self.in_string {
                match byte {
                    b'\n' => {
                        self.broken.get_or_insert(self.quote);
                        self.escaped = false;
                    }
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => (self.in_string, self.quote) = (true, self.line),
                b'[' | b'{' => self.depth += 1,
                b']' | b'}' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return (i + 1, Some(End::List));
                    }
                }
                b',' if self.depth == 1 => {
                    (self.begin, self.broken) = (None, None);
                    return (i + 1, Some(End::Element));
                }
                _ => {}
            }
        }
        (bytes.len(), None)
    }
}

/// One object a line, or a file that is one object.
fn objects(path: &Path, reader: &mut dyn BufRead, before: usize, take: Take<'_>) -> Result<()> {
    let mut line = Vec::new();
    let mut number = before as u64;
    let one_a_line = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("jsonl"));
    let read = |reader: &mut dyn BufRead, line: &mut Vec<u8>| {
        let read = reader.take(LONGEST_LINE).read_until(b'\n', line);
        read.map_err(DataError::io(path)).and_then(|n| match n as u64 {
            LONGEST_LINE => {
                let detail = format!("a line is longer than {} MiB", LONGEST_LINE >> 20);
                Err(DataError::annotation(path, String::new(), detail))
            }
            n => Ok(n),
        })
    };
    while read(reader, &mut line)? > 0 {
        number += 1;
        if number == before as u64 + 1 && !one_a_line {
            let (first, _) = value(&line);
            if first.as_ref().map_or(true, downloads::is_whole) {
                let rest = reader.fill_buf().map_err(DataError::io(path))?;
                let next: &[u8] = rest.split(|b| *b == b'\n').next().unwrap_or_default();
                // A faulty first line is one if the second is an object.
                if first.is_ok() || value(next).0.is_err() {
                    let rest = reader.take(LONGEST_LINE).read_to_end(&mut line);
                    rest.map_err(DataError::io(path))?;
                    return downloads::each_entry(path, &line, take);
                }
            }
        }
        if !line.trim_ascii().is_empty() {
            take(Entry::json(Place::Line(number), &line))?;
        }
        line.clear();
    }
    Ok(())
}

/// The columns of a table are apart by the one of these that its first line has most of.
const DELIMITERS: [u8; 4] = [b',', b';', b'\t', b'|'];

fn delimiter(header: &[u8]) -> u8 {
    let count = |d: u8| header.iter().filter(|b| **b == d).count();
    let most = DELIMITERS.into_iter().rev().max_by_key(|d| count(*d));
    most.filter(|d| count(*d) > 0).unwrap_or(b',')
}

/// The rows of a table as objects of texts by the names in its first line.
fn rows(path: &Path, mut reader: Box<dyn BufRead>, take: Take<'_>) -> Result<()> {
    let mut header = Vec::new();
    (&mut reader).take(1 << 20).read_until(b'\n', &mut header).map_err(DataError::io(path))?;
    let delimiter = delimiter(&header);
    let (quotes, faults) = Quotes::new(Cursor::new(header).chain(reader), delimiter);
    let mut table =
        csv::ReaderBuilder::new().delimiter(delimiter).flexible(true).from_reader(quotes);
    let fail = |e: csv::Error| {
        let (line, detail) = match faults.borrow().unclosed() {
            Some(line) => (
                line,
                "the quote that opens in this line is not closed; close it, and write a quote within a \
                 field twice"
                    .to_owned(),
            ),
            None => {
                (e.position().map_or(1, csv::Position::line), format!("not a row of a table: {e}"))
            }
        };
        DataError::annotation(path, format!(", line {line}"), detail)
    };
    let names = table.byte_headers().map_err(fail)?.clone();
    // Kaggle's Flickr30k has a blank behind each `|`, in the header as in the rows.
    let spaced = names.len() > 1 && names.iter().skip(1).all(|name| name.starts_with(b" "));
    let names: Vec<String> =
        names.iter().map(|n| String::from_utf8_lossy(n).trim().to_owned()).collect();
    if let Some(twice) = keys::named_twice(&names) {
        let detail = format!(
            "two columns are named `{twice}`; give each a name of its own, such as `caption_0`"
        );
        return Err(DataError::annotation(path, ", line 1".into(), detail));
    }
    let mut row = csv::ByteRecord::new();
    while table.read_byte_record(&mut row).map_err(fail)? {
        let place = Place::Line(row.position().map_or(0, csv::Position::line));
        let (mut mended, mut written) = (None, None);
        if spaced {
            row.trim();
        }
        if let Some(whole) = without_separator(&names, &row) {
            row = whole;
            let mark = char::from(delimiter).escape_default();
            mended = Some(format!(
                "a `{mark}` is missing between number and caption, and is read as if it stood there"
            ));
        }
        let value = match row.len() == names.len() {
            true => fields(&names, &row, &mut mended, &mut written),
            false => Err(format!(
                "the row has {} fields and the header {}; a field with a `{}` in it must be in quotes",
                row.len(),
                names.len(),
                char::from(delimiter).escape_default()
            )),
        };
        if faults.borrow_mut().take_before(table.position().line()) {
            mended = Some(
                "more follows the quote that closes a field, and is read as part of it".into(),
            );
        }
        take(Entry::mended(place, value, mended).with_written(written))?;
    }
    Ok(())
}

/// A row of a number and a caption in one field, as Kaggle's Flickr30k has one, with a field of each.
fn without_separator(names: &[String], row: &csv::ByteRecord) -> Option<csv::ByteRecord> {
    let at = keys::number_before_comment(names).filter(|at| row.len() == at + 1)?;
    let field = row.get(at)?.trim_ascii();
    let end = field.iter().position(|b| !b.is_ascii_digit()).filter(|end| *end > 0)?;
    let (number, caption) = (&field[..end], field[end..].trim_ascii_start());
    let apart = field[end].is_ascii_whitespace() && !caption.is_empty();
    apart.then(|| row.iter().take(at).chain([number, caption]).collect())
}

fn fields(
    names: &[String],
    row: &csv::ByteRecord,
    mended: &mut Option<String>,
    written: &mut Option<Written>,
) -> Result<Value, String> {
    let mut object = serde_json::Map::new();
    let mut others = false;
    for (name, field) in names.iter().zip(row) {
        let (text, encoding) =
            decode_text(field).ok_or_else(|| format!("`{name}` is no text in UTF-8"))?;
        if encoding == Encoding::Windows1252 {
            *mended = Some(format!("it is no UTF-8 and is read as {}", encoding.name()));
            match keys::is_of_image(name) {
                true => *written = Some(Written::of(name, names_of(field), true)),
                false => others = true,
            }
        }
        object.insert(name.clone(), Value::from(text));
    }
    written.iter_mut().for_each(|w| w.alone = !others);
    Ok(Value::Object(object))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Read = (String, Result<Value, String>, bool);

    fn read(name: &str, bytes: &[u8]) -> Result<Vec<Read>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let mut all = Vec::new();
        each_entry(&path, &mut |e| {
            let place = e.place.to_string();
            let (value, mended) = e.read();
            all.push((place, value, mended.is_some()));
            Ok(())
        })?;
        Ok(all)
    }

    fn images(name: &str, bytes: &[u8]) -> Vec<String> {
        let all = read(name, bytes).unwrap().into_iter();
        all.map(|(_, v, _)| v.map_or("?".into(), |v| v["image"].to_string())).collect()
    }

    #[test]
    fn one_faulty_entry_costs_itself_only() {
        let list = br#" [{"image": "a,]}"}, {"image": }, {"image": "b\"\\"} , 3 ]
"#;
        assert_eq!(images("x.json", list), [r#""a,]}""#, "?", r#""b\"\\""#, "null"]);
        let lines = b"{\"image\": \"a\"}\n\n{\"image\": \n{\"image\": NaN}\n";
        assert_eq!(images("x.jsonl", lines), [r#""a""#, "?", "null"]);
        assert_eq!(images("x.json", lines), [r#""a""#, "?", "null"]);
        let places: Vec<_> = read("x.json", lines).unwrap().into_iter().map(|e| e.0).collect();
        assert_eq!(places, [", line 1", ", line 3", ", line 4"]);
        assert!(images("x.json", b"[ ]").is_empty());
        assert!(images("x.jsonl", b"\xef\xbb\xbf[]").is_empty());
    }

    #[test]
    fn a_list_that_is_cut_or_none_is_refused_with_its_line() {
        for (bytes, part) in [
            (&b"[{\"image\": \"a\"},\n{\"image\": \"b"[..], "line 2: not a JSON list"),
            // What is open began before the end of the file.
            (b"[\n{\"caption\": \"a},\n{\"caption\": \"b\"}\n]\n", "line 2: not a JSON list"),
            (
                b"[\n{\"caption\": \"a\",\n\"image\": {\n},\n{}]",
                "or a bracket that opens in this line",
            ),
            (b"[{}]\n[]", "line 2: there is more"),
            (b"[{}] {}", "line 1: there is more"),
            (b"{\"images\": [],\n\"annotations\": []} x", "line 2: not a JSON list"),
            (b"{\"images\": [],\n\"annotations\": [", "line 2: not a JSON list"),
            (b"[]\n[]", "line 2: there is more"),
            (b"", "empty"),
            (b"\n <html>", "an HTML page"),
            (b"\x1f\x8b\x08", "gunzip"),
        ] {
            let said = read("x.json", bytes).unwrap_err().to_string();
            assert!(said.contains(part), "{said}");
        }
    }

    #[test]
    fn a_cut_last_line_costs_itself_only() {
        let found =
            read("x.jsonl", b"{\"image\": \"a\"}\n{\"image\": \"b\"} x\n{\"image\": \"c").unwrap();
        let faults: Vec<_> =
            found.iter().map(|(place, v, _)| (place.as_str(), v.is_err())).collect();
        assert_eq!(faults, [(", line 1", false), (", line 2", true), (", line 3", true)]);
    }

    #[test]
    fn a_quote_that_is_not_closed_is_an_error_with_the_line_where_it_opens() {
        for (name, table) in [
            ("x.csv", "image,caption\na,b\nc,\"d\ne,f\n"),
            ("x.csv", "image,caption\r\na,\"b \"\"c\"\"\r\nd\"\r\nc,\"d\r\ne,\"f\"\r\n"),
            ("x.tsv", "image\tcaption\na\tb\n\"c\td\ne\tf\n\ng\t\"h\"\n"),
        ] {
            let said = read(name, table.as_bytes()).unwrap_err().to_string();
            let line = 3 + usize::from(table.contains("\r\n"));
            assert!(said.contains(&format!("{name}, line {line}: the quote that opens")), "{said}");
        }
    }

    #[test]
    fn quotes_within_a_field_are_reported_where_they_are_not_doubled() {
        let table = "image,caption\n\na,\"b\n\n\"\"c\"\"\"\nd,5\" wide\n\ne,\"f\" g\nh,\"\"\n";
        let found = read("x.csv", table.as_bytes()).unwrap();
        let captions: Vec<_> =
            found.iter().map(|e| e.1.as_ref().unwrap()["caption"].clone()).collect();
        assert_eq!(captions, ["b\n\n\"c\"", "5\" wide", "f g", ""]);
        assert_eq!(found.iter().map(|e| e.2).collect::<Vec<_>>(), [false, false, true, false]);
    }

    #[test]
    fn tables_are_read_in_their_dialects_and_encodings() {
        for table in
            ["image,caption\na,\"x; y\"\n", "image;caption\r\na;x, y\r\n", "image\tcaption\na\tx"]
        {
            assert_eq!(images("x.csv", table.as_bytes()), [r#""a""#], "{table}");
        }
        let found = read("x.csv", b"\xef\xbb\xbfimage,caption\na,it\x92s\nb,x,y\nc,z\n").unwrap();
        assert_eq!(found[0].1.as_ref().unwrap()["caption"], "it\u{2019}s");
        assert_eq!(found.iter().map(|e| e.2).collect::<Vec<_>>(), [true, false, false]);
        assert!(found[1].1.as_ref().unwrap_err().contains("3 fields"));
        assert_eq!((found[2].0.as_str(), found.len()), (", line 4", 3));
        let wide: Vec<u8> =
            "\u{feff}image\tcaption\nä\tx\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(images("x.tsv", &wide), [r#""ä""#]);
    }
}
