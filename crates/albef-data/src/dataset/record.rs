//! Samples as bytes: for keeping many at little cost, and for the index of a shard.
//!
//! Numbers are LEB128, texts have their length before them. What many samples have in common (the folder of
//! their images, their archive) is a number in a table of texts.

use std::collections::HashMap;
use std::path::Path;

use super::entry::Place;
use super::sample::{Location, Sample, Target, TaskFields, place_key};
use crate::names;

/// What a record has, one bit each.
mod has {
    /// The image is a member of an archive.
    pub const MEMBER: u8 = 1;
    /// The path of the file ends with the sample's name, which follows a text of the table.
    pub const NAMED: u8 = 2;
    /// The key is its own, and not the place of the image.
    pub const KEY: u8 = 4;
    /// Fields of a task.
    pub const TASK: u8 = 8;
}

/// Texts that records share, by number.
#[derive(Clone, Debug, Default)]
pub(super) struct Texts {
    all: Vec<Box<str>>,
    numbers: HashMap<Box<str>, u64>,
    last: u64,
}

impl Texts {
    pub fn number(&mut self, text: &str) -> u64 {
        // Neighbours share theirs.
        if self.all.get(self.last as usize).is_some_and(|last| **last == *text) {
            return self.last;
        }
        self.last = self.look_up(text);
        self.last
    }

    fn look_up(&mut self, text: &str) -> u64 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = self.all.len() as u64;
        self.all.push(text.into());
        self.numbers.insert(text.into(), number);
        number
    }

    fn get(&self, number: u64) -> Option<&str> {
        self.all.get(usize::try_from(number).ok()?).map(|text| &**text)
    }
}

/// Appends a number.
pub(super) fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Appends a text.
pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    put_number(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// What is left to read of bytes; every reading gives `None` where they end or are no record.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a>(pub &'a [u8]);

impl<'a> Cursor<'a> {
    pub fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    pub fn size(&mut self) -> Option<usize> {
        usize::try_from(self.number()?).ok()
    }

    pub fn text(&mut self) -> Option<&'a str> {
        let length = self.size()?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }

    /// A list whose length comes first; each element takes a byte at least.
    fn list<T>(&mut self, mut element: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let length = self.size().filter(|n| *n <= self.0.len())?;
        (0..length).map(|_| element(self)).collect()
    }
}

/// Appends a sample.
pub(super) fn put_sample(out: &mut Vec<u8>, sample: &Sample, texts: &mut Texts) {
    let Sample { location, name, captions, key, task } = sample;
    let own_key = !is_place(key, location, name);
    let mut flags = if own_key { has::KEY } else { 0 };
    if *task != TaskFields::default() {
        flags |= has::TASK;
    }
    let flags_at = out.len();
    out.push(0);
    put_text(out, name);
    flags |= put_location(out, location, name, texts);
    out[flags_at] = flags;
    if own_key {
        put_text(out, key);
    }
    put_number(out, captions.len() as u64);
    captions.iter().for_each(|caption| put_text(out, caption));
    if flags & has::TASK != 0 {
        put_task(out, task, texts);
    }
}

/// Whether a key is the place of the image, as [`place_key`] gives it.
fn is_place(key: &str, location: &Location, name: &str) -> bool {
    let own = match location {
        Location::File(path) => path.to_str().map(|path| key == path),
        Location::Member { archive, .. } => archive.to_str().map(|archive| {
            let rest = key.strip_prefix(archive).and_then(|rest| rest.strip_prefix(':'));
            rest == Some(name)
        }),
    };
    // A name that is no UTF-8 has another text.
    own == Some(true) || *key == *place_key(location, name)
}

/// Reads a sample.
pub(super) fn sample(from: &mut Cursor<'_>, texts: &Texts) -> Option<Sample> {
    let flags = from.byte()?;
    let name = from.text()?.to_owned();
    let location = location(from, flags, &name, texts)?;
    let key = match flags & has::KEY {
        0 => place_key(&location, &name),
        _ => from.text()?.to_owned(),
    };
    let captions = from.list(|f| f.text().map(str::to_owned))?;
    let task = match flags & has::TASK {
        0 => TaskFields::default(),
        _ => task(from, texts)?,
    };
    Some(Sample { location, name, captions, key, task })
}

/// Appends a location and gives its flags.
fn put_location(out: &mut Vec<u8>, location: &Location, name: &str, texts: &mut Texts) -> u8 {
    match location {
        Location::File(path) => {
            let path = names::text_of_path(path);
            if let Some(before) = path.strip_suffix(name) {
                put_number(out, texts.number(before));
                return has::NAMED;
            }
            let split = path.rfind('/').map_or(0, |slash| slash + 1);
            put_number(out, texts.number(&path[..split]));
            put_text(out, &path[split..]);
            0
        }
        Location::Member { archive, offset, len } => {
            put_number(out, texts.number(&names::text_of_path(archive)));
            put_number(out, *offset);
            put_number(out, *len);
            has::MEMBER
        }
    }
}

fn location(from: &mut Cursor<'_>, flags: u8, name: &str, texts: &Texts) -> Option<Location> {
    let shared = from.number()?;
    let shared = texts.get(shared)?;
    if flags & has::MEMBER != 0 {
        let archive = names::path_of(shared);
        return Some(Location::Member { archive, offset: from.number()?, len: from.number()? });
    }
    let rest = if flags & has::NAMED == 0 { from.text()? } else { name };
    Some(Location::File(names::path_of(&format!("{shared}{rest}"))))
}

/// The kinds of targets, by number.
mod target {
    pub const NONE: u8 = 0;
    pub const ANSWERS: u8 = 1;
    pub const LABEL: u8 = 2;
    pub const LABELS: u8 = 3;
}

fn put_task(out: &mut Vec<u8>, task: &TaskFields, texts: &mut Texts) {
    let TaskFields { second, crops, target, id, place } = task;
    out.push(u8::from(second.is_some()));
    if let Some(second) = second {
        let at = out.len();
        out.push(0);
        out[at] = put_location(out, second, "/", texts);
    }
    out.push(u8::from(crops.is_some()));
    let edges = crops.as_ref().map_or(&[][..], |c| c.as_flattened());
    edges.iter().for_each(|edge| put_number(out, *edge as u64));
    match target {
        Target::None => out.push(target::NONE),
        Target::Answers(answers) => {
            out.push(target::ANSWERS);
            put_number(out, answers.len() as u64);
            for (answer, weight) in answers {
                put_text(out, answer);
                out.extend_from_slice(&weight.to_le_bytes());
            }
        }
        Target::Label(label) => {
            out.push(target::LABEL);
            put_number(out, *label as u64);
        }
        Target::Labels(labels) => {
            out.push(target::LABELS);
            put_number(out, labels.len() as u64);
            labels.iter().for_each(|label| put_number(out, *label as u64));
        }
    }
    out.push(u8::from(id.is_some()));
    if let Some(id) = id {
        out.extend_from_slice(&id.to_le_bytes());
    }
    put_place(out, *place);
}

/// Appends a place: the number of its kind, or 0, and its own.
fn put_place(out: &mut Vec<u8>, place: Option<Place>) {
    let (kind, number) = match place {
        None => return out.push(0),
        Some(Place::Entry(n)) => (1, n as u64),
        Some(Place::Line(n)) => (2, n),
        Some(Place::Row(n)) => (3, n as u64),
        Some(Place::Image(n)) => (4, n as u64),
        Some(Place::Question(n)) => (5, n as u64),
        Some(Place::Annotation(n)) => (6, n as u64),
    };
    out.push(kind);
    put_number(out, number);
}

fn place(from: &mut Cursor<'_>) -> Option<Option<Place>> {
    Some(Some(match from.byte()? {
        0 => return Some(None),
        1 => Place::Entry(from.size()?),
        2 => Place::Line(from.number()?),
        3 => Place::Row(from.size()?),
        4 => Place::Image(from.size()?),
        5 => Place::Question(from.size()?),
        6 => Place::Annotation(from.size()?),
        _ => return None,
    }))
}

fn task(from: &mut Cursor<'_>, texts: &Texts) -> Option<TaskFields> {
    let mut task = TaskFields::default();
    if from.byte()? == 1 {
        let flags = from.byte()?;
        task.second = Some(location(from, flags, "/", texts)?);
    }
    if from.byte()? == 1 {
        let mut crops = [[0; 4]; 2];
        for edge in crops.as_flattened_mut() {
            *edge = from.size()?;
        }
        task.crops = Some(crops);
    }
    task.target = match from.byte()? {
        target::ANSWERS => Target::Answers(from.list(|f| {
            let answer = f.text()?.to_owned();
            Some((answer, f32::from_le_bytes(fixed(f)?)))
        })?),
        target::LABEL => Target::Label(from.size()?),
        target::LABELS => Target::Labels(from.list(Cursor::size)?),
        target::NONE => Target::None,
        _ => return None,
    };
    if from.byte()? == 1 {
        task.id = Some(i64::from_le_bytes(fixed(from)?));
    }
    task.place = place(from)?;
    Some(task)
}

fn fixed<const N: usize>(from: &mut Cursor<'_>) -> Option<[u8; N]> {
    let (bytes, rest) = from.0.split_first_chunk()?;
    from.0 = rest;
    Some(*bytes)
}

/// A table of the one archive whose samples an index holds.
pub(super) fn of_archive(archive: &Path) -> Texts {
    let mut texts = Texts::default();
    texts.number(&names::text_of_path(archive));
    texts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Sample> {
        let file = |path: &str, name: &str| Sample {
            location: Location::File(path.into()),
            name: name.into(),
            captions: vec!["a dog".into(), String::new()],
            key: path.into(),
            task: TaskFields::default(),
        };
        let member = Sample {
            location: Location::Member { archive: "a/0.tar".into(), offset: 1 << 40, len: 300 },
            key: "a/0.tar:0.png".into(),
            ..file("", "0.png")
        };
        let odd = names::text_of(b"d/it\x92s.jpg");
        let bytes = Sample {
            location: Location::File(names::path_of(&odd)),
            key: odd.clone(),
            ..file("", &odd)
        };
        let tasks = [
            Target::Answers(vec![("red".into(), 0.3), ("blue".into(), 0.7)]),
            Target::Label(2),
            Target::Labels(vec![0, 500]),
            Target::None,
        ];
        let of_task = |target| Sample {
            key: "7".into(),
            task: TaskFields {
                second: Some(Location::File("x/b.jpg".into())),
                crops: Some([[0, 1, 2, 300], [4, 5, 6, 7]]),
                target,
                id: Some(-9),
                place: Some(Place::Line(700)),
            },
            ..file("x/a.jpg", "a.jpg")
        };
        let mut all = vec![file("root/a.jpg", "a.jpg"), file("b.jpg", "other name"), member, bytes];
        all.extend(tasks.map(of_task));
        all
    }

    #[test]
    fn samples_come_back_as_they_were() {
        let (mut texts, mut bytes) = (Texts::default(), Vec::new());
        for sample in samples() {
            put_sample(&mut bytes, &sample, &mut texts);
        }
        let mut cursor = Cursor(&bytes);
        for expected in samples() {
            let found = sample(&mut cursor, &texts).unwrap();
            assert_eq!(format!("{found:?}"), format!("{expected:?}"));
        }
        assert!(cursor.0.is_empty());
    }

    #[test]
    fn bytes_that_are_no_record_give_none() {
        let (mut texts, mut bytes) = (Texts::default(), Vec::new());
        let all = samples();
        put_sample(&mut bytes, &all[4], &mut texts);
        for end in 0..bytes.len() {
            assert!(sample(&mut Cursor(&bytes[..end]), &texts).is_none(), "{end}");
        }
        let mut stream = crate::random::Stream::new(1, "records", &[]);
        for _ in 0..20_000 {
            let mut broken = bytes.clone();
            let at = stream.below(broken.len());
            broken[at] = stream.below(256) as u8;
            // It must end, whatever it gives.
            let _ = sample(&mut Cursor(&broken), &texts);
        }
        assert_eq!(Cursor(&[0xff; 11]).number(), None);
    }
}
