//! Tar shards in the webdataset manner: an image and a `.json` or `.txt` of the same stem.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::annotation::{captions, image_key};
use super::folder::{ENDINGS, lines};
use super::source::{Contents, Location, Sample, Skipped, place_key};
use super::tasks::TaskFields;
use crate::error::{DataError, ImageErrorKind as Kind, Result};
use crate::input::{Encoding, decode_text, has_lone_surrogate, packed, parse_json};
use crate::names;

/// Shards of a pattern with braces; more are a slip of the pen.
const MOST: usize = 1_000_000;

/// The files of a pattern: braces with a range (`{000..012}`) or a list (`{a,b}`), and `*` in the
/// last component.
pub(super) fn expand(pattern: &str) -> Result<Vec<PathBuf>> {
    expand_into(pattern, pattern, MOST)
}

/// The same of what is left of the pattern `given`, if its braces give no more than `room` names.
fn expand_into(given: &str, pattern: &str, room: usize) -> Result<Vec<PathBuf>> {
    let fail = |detail: String| DataError::annotation(Path::new(given), String::new(), detail);
    let too_many = || format!("its braces give more than {MOST} names; narrow a range");
    if let Some(open) = pattern.find('{') {
        let close = pattern[open..].find('}').ok_or_else(|| fail("`{` without `}`".into()))? + open;
        let (head, body, tail) =
            (&pattern[..open], &pattern[open + 1..close], &pattern[close + 1..]);
        let parts: Vec<String> = match body.split_once("..") {
            Some((from, to)) => {
                let number =
                    |s: &str| s.parse::<u64>().map_err(|_| fail(format!("`{s}` is no number")));
                let (first, last) = (number(from)?, number(to)?);
                if first > last {
                    return Err(fail(format!("`{{{body}}}` is no rising range")));
                }
                if last - first >= room as u64 {
                    return Err(fail(too_many()));
                }
                (first..=last).map(|i| format!("{i:0width$}", width = from.len())).collect()
            }
            None => body.split(',').map(str::to_owned).collect(),
        };
        let room = room / parts.len().max(1);
        if room == 0 {
            return Err(fail(too_many()));
        }
        let mut all = Vec::new();
        for part in parts {
            all.extend(expand_into(given, &format!("{head}{part}{tail}"), room)?);
        }
        return Ok(all);
    }
    let path = names::path_of(pattern);
    let name = path.file_name().map(names::text_of_os).unwrap_or_default();
    let Some((before, after)) = name.split_once('*') else { return Ok(vec![path]) };
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(DataError::io(folder))? {
        let entry = entry.map_err(DataError::io(folder))?;
        let name = names::text_of_os(&entry.file_name());
        let long = name.len() >= before.len() + after.len();
        if long && name.starts_with(before) && name.ends_with(after) {
            found.push(entry.path());
        }
    }
    found.sort();
    if found.is_empty() {
        return Err(fail("no file fits this pattern".into()));
    }
    Ok(found)
}

/// What a shard holds under one key.
#[derive(Default)]
struct Parts {
    picture: Option<Member>,
    /// `None` inside where it is no JSON.
    json: Option<Option<Value>>,
    text: Option<Vec<String>>,
    /// What is wrong with the members of captions, with the name of each.
    faults: Vec<(String, String)>,
    /// The first member that is neither image nor captions.
    other: Option<String>,
    /// The first member that only points to a file.
    link: Option<String>,
    /// The first member of all.
    first: String,
}

struct Member {
    name: String,
    offset: u64,
    len: u64,
}

/// Key and field of a member as webdataset cuts them: at the first dot of the file name.
fn cut(name: &str) -> (&str, &str) {
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    match name[file..].find('.') {
        Some(dot) => (&name[..file + dot], &name[file + dot + 1..]),
        None => (name, ""),
    }
}

/// The samples of several shards.
///
/// # Errors
/// If some cannot be read, which are all named.
pub(super) fn read_all(paths: &[PathBuf]) -> Result<Contents> {
    const SHOWN: usize = 20;
    let mut all = Contents::default();
    let (mut failed, mut lines) = (Vec::new(), Vec::new());
    for path in paths {
        match read(path) {
            Ok(contents) => {
                // Faults of a whole archive that can be read all the same.
                let name = names::text_of_path(path);
                let whole = contents.left_out.iter().filter(|s| s.name == name);
                lines.extend(whole.map(|s| format!("  {name}: {}", s.error)));
                all.extend(contents);
            }
            Err(error) => {
                lines.push(format!("  {error}"));
                failed.push(error);
            }
        }
    }
    match (failed.pop(), lines.len()) {
        (None, _) => Ok(all),
        (Some(error), 1) => Err(error),
        (Some(_), count) => {
            if count > SHOWN {
                lines.truncate(SHOWN);
                lines.push(format!("  and {} more", count - SHOWN));
            }
            Err(DataError::Files { count, of: paths.len(), list: lines.join("\n") })
        }
    }
}

/// The samples of one shard, in order of first appearance, and the members that form none. Headers
/// are read once; images stay where they are. The first member of a kind counts; captions of a
/// `.json` go before those of a `.txt`; fields of other kinds beside an image are passed over.
fn read(path: &Path) -> Result<Contents> {
    let mut file = File::open(path).map_err(DataError::io(path))?;
    let size = file.metadata().map_err(DataError::io(path))?.len();
    let mut first = Vec::new();
    (&mut file).take(512).read_to_end(&mut first).map_err(DataError::io(path))?;
    if first.is_empty() {
        let name = names::text_of_path(path);
        let empty = Skipped::new(name, Kind::Entry, "the archive is empty");
        return Ok(Contents { left_out: vec![empty], ..Contents::default() });
    }
    if let Some(detail) = packed(&first) {
        return Err(DataError::annotation(path, String::new(), detail));
    }
    file.seek(SeekFrom::Start(0)).map_err(DataError::io(path))?;
    let mut archive = tar::Archive::new(file);
    let mut shard = Shard { path, parts: HashMap::new(), order: Vec::new(), left_out: Vec::new() };
    let (mut at, mut end) = (0, 0);
    for entry in archive.entries_with_seek().map_err(|e| damaged(path, 0, &e))? {
        let mut entry = entry.map_err(|e| damaged(path, at, &e))?;
        let kind = entry.header().entry_type();
        let (offset, len) = (entry.raw_file_position(), entry.size());
        at = offset;
        let name = names::text_of(&entry.path_bytes());
        let link = kind.is_hard_link() || kind.is_symlink();
        if !kind.is_file() && !link {
            continue;
        }
        // Members are padded to whole blocks; seeking would not notice a cut in the padding.
        let bytes = if link { 0 } else { len };
        end = offset.saturating_add(bytes).div_ceil(512).saturating_mul(512);
        if end > size {
            return Err(damaged(path, offset, &format!("it ends inside `{name}`")));
        }
        if name.rsplit('/').next().is_some_and(|n| n.starts_with('.')) {
            continue;
        }
        let member = Member { name, offset, len };
        if link {
            shard.parts_of(&member.name).link.get_or_insert(member.name);
        } else {
            shard.take(member, &mut entry)?;
        }
    }
    if end >= size {
        let detail = "the archive has no end mark, so it is cut; get it again";
        shard.left_out.push(Skipped::new(names::text_of_path(path), Kind::Entry, detail));
    }
    Ok(shard.contents())
}

fn damaged(path: &Path, at: u64, e: &dyn std::fmt::Display) -> DataError {
    DataError::annotation(path, format!(", byte {at}"), format!("damaged archive: {e}"))
}

/// A shard while it is read.
struct Shard<'a> {
    path: &'a Path,
    parts: HashMap<String, Parts>,
    order: Vec<String>,
    left_out: Vec<Skipped>,
}

impl Shard<'_> {
    fn parts_of(&mut self, name: &str) -> &mut Parts {
        let key = cut(name).0;
        if !self.parts.contains_key(key) {
            self.order.push(key.to_owned());
        }
        let new = || Parts { first: name.to_owned(), ..Parts::default() };
        self.parts.entry(key.to_owned()).or_insert_with(new)
    }

    fn leave_out(&mut self, name: &str, kind: Kind, detail: String) {
        let name = format!("{}: {name}", names::text_of_path(self.path));
        self.left_out.push(Skipped::new(name, kind, detail));
    }

    fn take(&mut self, member: Member, bytes: &mut impl Read) -> Result<()> {
        let path = self.path;
        let field = cut(&member.name).1.to_lowercase();
        let parts = self.parts_of(&member.name);
        let taken = match field.as_str() {
            "json" => parts.json.is_some(),
            "txt" => parts.text.is_some(),
            ending if ENDINGS.contains(&ending) => parts.picture.is_some(),
            _ => {
                parts.other.get_or_insert(member.name);
                return Ok(());
            }
        };
        if taken {
            let detail = match &parts.picture {
                Some(first) if !matches!(field.as_str(), "json" | "txt") => {
                    format!("`{}` comes first in its sample and is the one used", first.name)
                }
                _ => format!("an earlier `.{field}` of its sample is the one used"),
            };
            self.leave_out(&member.name, Kind::Repeated, detail);
            return Ok(());
        }
        if !matches!(field.as_str(), "json" | "txt") {
            parts.picture = Some(member);
            return Ok(());
        }
        let mut content = Vec::new();
        let read = bytes.take(LONGEST + 1).read_to_end(&mut content);
        read.map_err(|e| damaged(path, member.offset, &e))?;
        let fault = match (field.as_str(), content.len() as u64 > LONGEST) {
            (_, true) => Some(format!("it is longer than {} MiB", LONGEST >> 20)),
            ("json", _) => {
                let (value, fault) = json(&content);
                parts.json = Some(value);
                fault
            }
            _ => {
                let (texts, fault) = lines(&content);
                parts.text = Some(texts);
                fault
            }
        };
        parts.faults.extend(fault.map(|fault| (member.name, fault)));
        Ok(())
    }

    fn contents(mut self) -> Contents {
        let (mut samples, mut faults) = (Vec::new(), Vec::new());
        let archive = names::text_of_path(self.path);
        for key in std::mem::take(&mut self.order) {
            let Some(mut parts) = self.parts.remove(&key) else { continue };
            let Some(picture) = parts.picture.take() else {
                self.without_picture(&key, &parts);
                continue;
            };
            let of = std::mem::take(&mut parts.faults);
            samples.push(sample(self.path, picture, parts, &mut |name, fault| {
                faults.push(Skipped::new(format!("{archive}: {name}"), Kind::Caption, fault));
            }));
            let named =
                |(name, fault)| Skipped::new(format!("{archive}: {name}"), Kind::Caption, fault);
            faults.extend(of.into_iter().map(named));
        }
        if samples.is_empty() && self.left_out.iter().all(|s| s.name == archive) {
            let detail = "the archive holds no sample";
            self.left_out.push(Skipped::new(archive, Kind::Entry, detail));
        }
        Contents { samples, left_out: self.left_out, faults, notes: Vec::new() }
    }

    fn without_picture(&mut self, key: &str, parts: &Parts) {
        let endings = ENDINGS.join(", ");
        match parts {
            Parts { link: Some(name), .. } => {
                let detail = "it is a link, which is not followed; pack the picture itself";
                self.leave_out(name, Kind::NotFound, detail.into());
            }
            Parts { other: Some(name), .. } => {
                let field = cut(name).1;
                let detail = format!(
                    "sample `{key}` has no picture: after the first dot of a name must stand one \
                     of {endings}; here stands `{field}`"
                );
                self.leave_out(name, Kind::UnknownFormat, detail);
            }
            Parts { first, .. } => {
                let detail = format!("no member `{key}.` with one of {endings} goes with it");
                self.leave_out(first, Kind::NotFound, detail);
            }
        }
    }
}

/// Bytes of a member of captions; more are no captions.
const LONGEST: u64 = 1 << 26;

fn json(bytes: &[u8]) -> (Option<Value>, Option<String>) {
    let Some((text, encoding)) = decode_text(bytes) else {
        return (None, Some("it is no text in UTF-8".into()));
    };
    match parse_json(&text) {
        Err(error) => (None, Some(format!("it is not JSON: {error}"))),
        Ok(value) if encoding == Encoding::Windows1252 => {
            (Some(value), Some(format!("it is no UTF-8 and is read as {}", encoding.name())))
        }
        Ok(value) if has_lone_surrogate(&text) => {
            (Some(value), Some("a lone surrogate is read as U+FFFD".into()))
        }
        Ok(value) => (Some(value), None),
    }
}

fn sample(
    path: &Path,
    picture: Member,
    parts: Parts,
    fault: &mut dyn FnMut(&str, String),
) -> Sample {
    let json = parts.json.flatten();
    let (mut captions, odd) = json.as_ref().map(captions).unwrap_or_default();
    let Member { name, offset, len } = picture;
    let beside = parts.text.filter(|texts| !texts.is_empty());
    match odd {
        // Where the object has none of its own, those of the text serve.
        Some(_) if captions.is_empty() && beside.is_some() => {}
        Some(odd) => fault(&name, odd),
        None => {}
    }
    if captions.is_empty() {
        captions = beside.unwrap_or_default();
    }
    let location = Location::Member { archive: path.to_owned(), offset, len };
    let key = json.as_ref().and_then(image_key).unwrap_or_else(|| place_key(&location, &name));
    Sample { location, name, captions, key, task: TaskFields::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_at_the_first_dot_of_the_file_name() {
        for (name, key, field) in [
            ("0.png", "0", "png"),
            ("a.b/0.seg.png", "a.b/0", "seg.png"),
            ("./x/0.jpg", "./x/0", "jpg"),
            ("a.b/README", "a.b/README", ""),
            ("", "", ""),
        ] {
            assert_eq!(cut(name), (key, field), "{name}");
        }
    }
}
