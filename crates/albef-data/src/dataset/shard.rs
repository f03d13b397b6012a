//! Tar shards in the webdataset manner: an image and a `.json` or `.txt` of the same stem.

mod copy;
mod gzip;
mod index;
mod parts;
mod pattern;
mod runs;
#[cfg(feature = "parquet")]
mod table;
mod unread;

use std::collections::HashSet;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

pub(super) use self::gzip::is_gzip;
use self::parts::{Part, Rest};
pub(super) use self::pattern::expand;
use self::runs::{Resolved, is_image, resolve};
use self::unread::{Hidden, Unread, is_empty_by_kind, sparse};
use super::annotation::{caption_lines, captions, image_key};
use super::contents::{Contents, Gathered};
use super::parquet;
use super::sample::{Location, Sample, Skipped, TaskFields, place_key};
use super::store::Collect;
use super::unread::ENDINGS;
use crate::error::{DataError, ImageErrorKind as Kind, Result};
use crate::input::{
    Encoding, decode_text, has_lone_surrogate, no_text, parse_json, stands_instead,
};
use crate::names;

/// Under which a `.json` says how many of its captions are of each entry, where several entries are of the image.
pub(super) const ENTRIES: &str = "captions_of_entries";

/// Fields of members that seem to hold captions, which are not read.
const CAPTIONS: [&str; 4] = ["caption", "captions", "text", "cap"];

/// What a shard holds under one key, as far as it is of one sample.
#[derive(Default)]
struct Parts {
    key: String,
    image: Option<Member>,
    /// `None` inside where it is no JSON.
    json: Option<Option<Value>>,
    text: Option<Vec<String>>,
    /// What is wrong with the members of captions, with the name of each.
    faults: Vec<(String, String)>,
    /// Members that are neither image nor captions, but seem to be; and the first other one.
    others: Vec<String>,
    /// Members whose content is not read, and why.
    unread: Vec<(String, Unread)>,
    /// The first member of all.
    first: String,
    /// The last one.
    last: String,
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

/// Whether a name ends as those of archives do.
pub(super) fn is_archive(name: &str) -> bool {
    name.to_lowercase().ends_with(".tar") || is_gzip(name) || parquet::is_parquet(name)
}

/// The samples of several shards.
///
/// # Errors
/// If some cannot be read, which are all named.
pub(super) fn read_all<S: Collect>(paths: &[PathBuf], out: &mut Gathered<S>) -> Result<()> {
    const SHOWN: usize = 20;
    let (mut failed, mut lines) = (Vec::new(), Vec::new());
    let (mut without_index, mut unwritten) = (0, None);
    let mut hidden = Hidden::default();
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    for some in paths.chunks(workers) {
        for (path, found) in some.iter().zip(read_together(some)) {
            match found {
                Ok(Read { contents, hidden: own, index }) => {
                    let name = names::text_of_path(path);
                    hidden.add(own, &name);
                    // Faults of a whole archive that can be read all the same.
                    let whole = contents.left_out.iter().filter(|s| s.name == name);
                    lines.extend(whole.map(|s| format!("  {name}: {}", s.error)));
                    contents.samples.into_iter().for_each(|sample| out.samples.push(sample));
                    out.left_out.extend(contents.left_out);
                    out.faults.extend(contents.faults);
                    out.notes.extend(contents.notes);
                    if let Err(cause) = index {
                        without_index += 1;
                        unwritten.get_or_insert(cause);
                    }
                }
                Err(error) => {
                    lines.push(format!("  {error}"));
                    failed.push(error);
                }
            }
        }
    }
    if let Some(cause) = unwritten {
        out.notes.push(format!(
            "{without_index} of {} shards have no index, since none could be written beside them ({cause}); \
             they are gone through anew each time",
            paths.len()
        ));
    }
    out.notes.extend(hidden.note());
    match (failed.pop(), lines.len()) {
        (None, _) => Ok(()),
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

/// Several shards at a time, in order.
fn read_together(paths: &[PathBuf]) -> Vec<Result<Read>> {
    if let [one] = paths {
        return vec![read(one)];
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> = paths.iter().map(|path| scope.spawn(|| read(path))).collect();
        let failed = || Err(DataError::Internal("a thread that reads shards panicked".into()));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| failed())).collect()
    })
}

/// A shard that was read.
struct Read {
    contents: Contents,
    hidden: Hidden,
    /// Why it has no index.
    index: Result<(), String>,
}

/// An archive whose members can be read one by one, and what a user should know.
fn plain(given: &Path) -> Result<(PathBuf, Option<String>)> {
    let name = names::text_of_path(given);
    if is_gzip(&name) {
        return gzip::unpacked(given);
    }
    if parquet::is_parquet(&name) {
        #[cfg(feature = "parquet")]
        return table::unpacked(given);
        #[cfg(not(feature = "parquet"))]
        return Err(parquet::refusal(given));
    }
    Ok((given.to_owned(), None))
}

/// The samples of one shard: from the index beside it where that is of this very file, else by going through
/// it, upon which the index is written.
fn read(given: &Path) -> Result<Read> {
    let (path, note) = plain(given)?;
    let mut read = read_plain(&path)?;
    #[cfg(feature = "parquet")]
    if parquet::is_parquet(&names::text_of_path(given)) {
        table::name_rows(given, &path, &mut read.contents);
    }
    read.contents.notes.extend(note);
    Ok(read)
}

/// The same of an archive whose members can be read one by one.
fn read_plain(path: &Path) -> Result<Read> {
    let stamp = index::Stamp::of(path).map_err(DataError::io(path))?;
    if let Some((contents, hidden)) = index::load(path, stamp) {
        return Ok(Read { contents, hidden, index: Ok(()) });
    }
    let (contents, hidden) = scan(path)?;
    let index = index::store(path, stamp, &contents, &hidden);
    Ok(Read { contents, hidden, index })
}

/// The samples of one shard, in order of first appearance, and the members that form none. Headers
/// are read once; images stay where they are. Of a sample the first member of a kind counts; captions of a
/// `.json` go before those of a `.txt`; fields of other kinds beside an image are passed over.
fn scan(path: &Path) -> Result<(Contents, Hidden)> {
    let mut file = File::open(path).map_err(DataError::io(path))?;
    let size = file.metadata().map_err(DataError::io(path))?.len();
    let mut first = Vec::new();
    (&mut file).take(BLOCK).read_to_end(&mut first).map_err(DataError::io(path))?;
    if first.is_empty() {
        let name = names::text_of_path(path);
        let empty = Skipped::new(name, Kind::Entry, "the archive is empty");
        return Ok((Contents { left_out: vec![empty], ..Contents::default() }, Hidden::default()));
    }
    // An archive of zeros alone is one without members; one with a damaged header is named where that is met.
    let may_be_tar =
        is_header(&first) || first.iter().all(|b| *b == 0) || first.get(257..262) == Some(b"ustar");
    if !may_be_tar && let Some(detail) = stands_instead(&first, size, "a tar archive") {
        return Err(DataError::annotation(path, String::new(), detail));
    }
    let mut shard = Shard {
        path,
        runs: Vec::new(),
        contents: Contents::default(),
        names: HashSet::new(),
        left_out: Vec::new(),
        hidden: Hidden::default(),
    };
    let mut part = Part::new(file, 0).map_err(DataError::io(path))?;
    let end = loop {
        let (end, read) = shard.members(part, size)?;
        // What follows an end mark is another archive, whose keys may be the same.
        shard.close();
        match read.rest(size).map_err(DataError::io(path))? {
            Rest::Archive(next) => part = next,
            Rest::Nothing => break end,
            Rest::Other(bytes) => {
                let detail = format!(
                    "{bytes} bytes follow the end mark of the archive and are no archive; get it again"
                );
                shard.left_out.push(Skipped::new(names::text_of_path(path), Kind::Entry, detail));
                break end;
            }
        }
    };
    if end >= size {
        let detail = "the archive has no end mark, so it is cut; get it again";
        shard.left_out.push(Skipped::new(names::text_of_path(path), Kind::Entry, detail));
    }
    let hidden = std::mem::take(&mut shard.hidden);
    Ok((shard.contents(), hidden))
}

/// Whether a block is the header of a member, by its checksum.
fn is_header(block: &[u8]) -> bool {
    let Some(block) = block.get(..BLOCK as usize) else { return false };
    let sum = |bytes: &[u8]| bytes.iter().map(|b| u32::from(*b)).sum::<u32>();
    // The field of the checksum counts as blanks.
    let found = sum(&block[..148]) + 8 * u32::from(b' ') + sum(&block[156..]);
    let mut header = tar::Header::new_old();
    header.as_mut_bytes().copy_from_slice(block);
    header.cksum().is_ok_and(|said| said == found) && block[0] != 0
}

fn damaged(path: &Path, at: u64, e: &dyn std::fmt::Display) -> DataError {
    DataError::annotation(path, format!(", byte {at}"), format!("damaged archive: {e}"))
}

/// A shard while it is read.
struct Shard<'a> {
    path: &'a Path,
    /// Members of one key that follow each other, of the archive that is being read.
    runs: Vec<Parts>,
    /// The samples of the archives that were read.
    contents: Contents,
    /// The names of their images.
    names: HashSet<String>,
    left_out: Vec<Skipped>,
    hidden: Hidden,
}

impl Shard<'_> {
    /// Takes the members of an archive up to its end mark, and gives where the last one ends and what was read.
    fn members(&mut self, part: Part, size: u64) -> Result<(u64, Part)> {
        let (path, from) = (self.path, part.from());
        let mut archive = tar::Archive::new(part);
        let (mut at, mut end) = (from, 0);
        for entry in archive.entries_with_seek().map_err(|e| damaged(path, at, &e))? {
            let mut entry = entry.map_err(|e| damaged(path, at, &e))?;
            let kind = entry.header().entry_type();
            let (offset, len) = (from + entry.raw_file_position(), entry.size());
            at = offset;
            if is_empty_by_kind(kind) {
                continue;
            }
            let (is_sparse, own_name) = sparse(entry.pax_extensions().ok().flatten());
            let name = own_name.unwrap_or_else(|| names::text_of(&entry.path_bytes()));
            let unread = Unread::of(kind, is_sparse);
            // Members are padded to whole blocks; seeking would not notice a cut in the padding.
            let bytes = match unread {
                None => len,
                Some(Unread::Sparse) => entry.header().entry_size().unwrap_or(0),
                Some(_) => 0,
            };
            end = offset.saturating_add(bytes).div_ceil(BLOCK).saturating_mul(BLOCK);
            if end > size {
                return Err(damaged(path, offset, &format!("it ends inside `{name}`")));
            }
            if name.rsplit('/').next().is_some_and(|n| n.starts_with('.')) {
                self.hidden.take(&name);
                continue;
            }
            let member = Member { name, offset, len };
            match unread {
                Some(why) => self.run_of(&member.name).unread.push((member.name, why)),
                None => self.take(member, &mut entry)?,
            }
        }
        Ok((end, archive.into_inner()))
    }

    /// The run that a member belongs to. An image begins a new one where that of its key has all it needs, unless both are
    /// of one folder, whose names rise.
    fn run_of(&mut self, name: &str) -> &mut Parts {
        let key = cut(name).0;
        let begins = |run: &Parts| is_image(name) && run.is_complete() && name <= run.last.as_str();
        let goes_on = |run: &Parts| run.key == key && !begins(run);
        if !self.runs.last().is_some_and(goes_on) {
            let (key, first) = (key.to_owned(), name.to_owned());
            self.runs.push(Parts { key, first, ..Parts::default() });
        }
        let at = self.runs.len() - 1;
        let run = &mut self.runs[at];
        name.clone_into(&mut run.last);
        run
    }

    fn leave_out(&mut self, name: &str, kind: Kind, detail: String) {
        let name = format!("{}: {name}", names::text_of_path(self.path));
        self.left_out.push(Skipped::new(name, kind, detail));
    }

    fn take(&mut self, member: Member, bytes: &mut impl std::io::Read) -> Result<()> {
        let path = self.path;
        let field = cut(&member.name).1.to_lowercase();
        let parts = self.run_of(&member.name);
        let taken = match field.as_str() {
            "json" => parts.json.is_some(),
            "txt" => parts.text.is_some(),
            ending if ENDINGS.contains(&ending) => parts.image.is_some(),
            _ => {
                let may_be_image = ENDINGS.iter().any(|e| field.ends_with(&format!(".{e}")));
                if parts.others.is_empty() || may_be_image || CAPTIONS.contains(&&*field) {
                    parts.others.push(member.name);
                }
                return Ok(());
            }
        };
        if taken {
            let detail = match &parts.image {
                Some(first) if !matches!(field.as_str(), "json" | "txt") => {
                    format!("`{}` comes first in its sample and is the one used", first.name)
                }
                _ => format!("an earlier `.{field}` of its sample is the one used"),
            };
            self.leave_out(&member.name, Kind::Repeated, detail);
            return Ok(());
        }
        if !matches!(field.as_str(), "json" | "txt") {
            parts.image = Some(member);
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
                let (texts, fault) = caption_lines(&content);
                parts.text = Some(texts);
                fault
            }
        };
        parts.faults.extend(fault.map(|fault| (member.name, fault)));
        Ok(())
    }

    /// Makes samples of the archive that was read.
    fn close(&mut self) {
        let Resolved { samples, astray, repeated } = resolve(std::mem::take(&mut self.runs));
        for parts in samples {
            self.sample(parts);
        }
        for (parts, why) in astray {
            self.leave_out(&parts.first, Kind::Entry, why);
        }
        for name in repeated {
            let detail = "an earlier one of its sample is the one used".to_owned();
            self.leave_out(&name, Kind::Repeated, detail);
        }
    }

    fn sample(&mut self, mut parts: Parts) {
        let archive = names::text_of_path(self.path);
        let Some(image) = parts.image.take() else {
            self.without_image(&parts);
            return;
        };
        for (name, why) in std::mem::take(&mut parts.unread) {
            match cut(&name).1.to_lowercase().as_str() {
                "json" | "txt" => parts.faults.push((name, why.to_string())),
                ending if ENDINGS.contains(&ending) => {
                    self.leave_out(&name, Kind::Entry, why.to_string());
                }
                _ => {}
            }
        }
        let of = std::mem::take(&mut parts.faults);
        let named =
            |name: &str, fault| Skipped::new(format!("{archive}: {name}"), Kind::Caption, fault);
        let is_new = self.names.insert(image.name.clone());
        let faults = &mut self.contents.faults;
        let found = entries(self.path, image, is_new, parts, &mut |name, fault| {
            faults.push(named(name, fault));
        });
        self.contents.samples.extend(found);
        faults.extend(of.into_iter().map(|(name, fault)| named(&name, fault)));
    }

    fn contents(mut self) -> Contents {
        let archive = names::text_of_path(self.path);
        if self.contents.samples.is_empty() && self.left_out.iter().all(|s| s.name == archive) {
            let detail = "the archive holds no sample";
            self.left_out.push(Skipped::new(archive, Kind::Entry, detail));
        }
        Contents { left_out: self.left_out, ..self.contents }
    }

    fn without_image(&mut self, parts: &Parts) {
        let key = &parts.key;
        let endings = ENDINGS.join(", ");
        // Of its members that are not read the one that may be the image.
        let may_be_image = |name: &str| !matches!(cut(name).1, "json" | "txt");
        let unread = parts.unread.iter();
        match parts {
            _ if let Some((name, why)) = unread.max_by_key(|(name, _)| may_be_image(name)) => {
                self.leave_out(name, Kind::Entry, why.to_string());
            }
            Parts { others, .. } if !others.is_empty() => {
                for name in others {
                    let field = cut(name).1;
                    let detail = format!(
                        "sample `{key}` has no image: after the first dot of a name must stand one \
                         of {endings}; here stands `{field}`"
                    );
                    self.leave_out(name, Kind::UnknownFormat, detail);
                }
            }
            Parts { first, .. } => {
                let detail = format!("no member `{key}.` with one of {endings} goes with it");
                self.leave_out(first, Kind::Entry, detail);
            }
        }
    }
}

/// Bytes of a block of an archive.
const BLOCK: u64 = 512;
/// Bytes of a member of captions; more are no captions.
const LONGEST: u64 = 1 << 26;

fn json(bytes: &[u8]) -> (Option<Value>, Option<String>) {
    if let Some(detail) = no_text(bytes, "JSON") {
        return (None, Some(detail));
    }
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

/// The samples of an image: one, or as many as entries of a list were packed with it. `is_new`: whether no earlier
/// image of the file has its name.
fn entries(
    path: &Path,
    image: Member,
    is_new: bool,
    parts: Parts,
    fault: &mut dyn FnMut(&str, String),
) -> Vec<Sample> {
    let json = parts.json.flatten();
    let (mut captions, odd) = json.as_ref().map(captions).unwrap_or_default();
    let Member { name, offset, len } = image;
    let beside = parts.text.filter(|texts| !texts.is_empty());
    match odd {
        // Where the object has none of its own, those of the text serve.
        Some(_) if captions.is_empty() && beside.is_some() => {}
        Some(odd) => fault(&name, odd),
        None => {}
    }
    let of_entries = json.as_ref().and_then(|json| of_entries(json.get(ENTRIES)?, captions.len()));
    if captions.is_empty() {
        captions = beside.unwrap_or_default();
    }
    // Beside an image without captions of its own, a member that is named as if it held some.
    let named = |other: &&String| CAPTIONS.contains(&cut(other).1);
    if captions.is_empty()
        && let Some(other) = parts.others.iter().find(named)
    {
        let detail = format!("`{other}` is passed over: captions are in a `.txt` or `.json`");
        fault(&name, detail);
    }
    let location = Location::Member { archive: path.to_owned(), offset, len };
    let place = || match (place_key(&location, &name), is_new) {
        (place, true) => place,
        // Another image of the same name is not the same image.
        (place, false) => format!("{place}@{offset}"),
    };
    let key = json.as_ref().and_then(image_key).unwrap_or_else(place);
    let whole = Sample { location, name, captions, key, task: TaskFields::default() };
    let Some(of_entries) = of_entries else { return vec![whole] };
    let mut rest = whole.captions.iter();
    let own = of_entries.into_iter().map(|n| rest.by_ref().take(n).cloned().collect());
    own.map(|captions| Sample { captions, ..whole.clone() }).collect()
}

/// How many captions each entry has, if all have some and together all `captions`.
fn of_entries(given: &Value, captions: usize) -> Option<Vec<usize>> {
    let count = |n: &Value| n.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
    let counts: Vec<usize> = given.as_array()?.iter().map(count).collect::<Option<_>>()?;
    let sum = counts.iter().try_fold(0usize, |sum, n| sum.checked_add(*n));
    (!counts.is_empty() && sum == Some(captions)).then_some(counts)
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
