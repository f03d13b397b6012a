//! TensorBoard event files: records of a length, its checksum, the message and its checksum. The
//! two messages that scalars need are encoded by hand.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use albef_files::write_atomic_through;

/// Writes scalars to a new event file.
#[derive(Debug)]
pub struct EventWriter {
    file: BufWriter<File>,
}

fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

/// The masked checksum of the record format.
fn masked(bytes: &[u8]) -> [u8; 4] {
    let crc = crc32c(bytes);
    (crc.rotate_right(15).wrapping_add(0xa282_ead8)).to_le_bytes()
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn bytes_field(field: u64, value: &[u8], out: &mut Vec<u8>) {
    varint(field << 3 | 2, out);
    varint(value.len() as u64, out);
    out.extend_from_slice(value);
}

/// How the names of event files begin.
const PREFIX: &str = "events.out.tfevents";

/// Removes the records of steps after `last` and a torn end; a file with nothing left goes.
fn keep_up_to(path: &Path, last: u64) -> io::Result<()> {
    let bytes = fs::read(path)?;
    let (mut kept, mut points, mut at) = (Vec::new(), 0, 0);
    while let Some(record) = record(&bytes[at..]) {
        let whole = &bytes[at..at + record.len() + 16];
        at += whole.len();
        let step = step_of(record);
        if step <= last {
            kept.extend_from_slice(whole);
            points += usize::from(step > 0);
        }
    }
    if kept.len() == bytes.len() {
        return Ok(());
    }
    if points == 0 {
        return fs::remove_file(path);
    }
    // Under a name that no reader takes for events.
    write_atomic_through(path, OsStr::new("kept"), |f| f.write_all(&kept)).map_err(|e| e.cause)
}

/// The message of the first record, if it is whole.
fn record(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    let data = rest.get(..usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let end = rest.get(data.len()..)?.first_chunk::<4>()?;
    (masked(length) == *sum && masked(data) == *end).then_some(data)
}

/// The field `step` of an event, 0 where it has none.
fn step_of(mut event: &[u8]) -> u64 {
    let number = |event: &mut &[u8]| -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = event.split_first()?;
            *event = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    };
    while let Some(tag) = number(&mut event) {
        let length = match tag & 7 {
            0 => {
                let Some(value) = number(&mut event) else { return 0 };
                if tag >> 3 == 2 {
                    return value;
                }
                continue;
            }
            1 => Some(8),
            2 => number(&mut event),
            5 => Some(4),
            _ => None,
        };
        let length = length.and_then(|n| usize::try_from(n).ok());
        let Some(rest) = length.and_then(|n| event.get(n..)) else { return 0 };
        event = rest;
    }
    0
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// `Event { wall_time = 1, step = 2, file_version = 3 | summary = 5 }`.
fn event(step: u64, rest: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = vec![0x09];
    out.extend_from_slice(&now().to_le_bytes());
    out.push(0x10);
    varint(step, &mut out);
    rest(&mut out);
    out
}

impl EventWriter {
    /// Starts a file in `folder` for the steps after `last`. Records of later steps, and torn ends, are
    /// removed from the files that are there: they belong to steps that will be made again.
    ///
    /// # Errors
    /// If a file cannot be read or written.
    pub fn create(folder: &Path, last: u64) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let mut old = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let own = entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes());
            if own && entry.file_type()?.is_file() {
                old.push(entry.path());
            }
        }
        old.iter().try_for_each(|path| keep_up_to(path, last))?;
        let seconds = now();
        let name = format!("{PREFIX}.{seconds:.6}.{}", std::process::id());
        let mut writer = Self { file: BufWriter::new(File::create(folder.join(name))?) };
        writer.record(&event(0, |out| bytes_field(3, b"brain.Event:2", out)))?;
        // `SessionLog { status = START }`, at which readers drop what they have of this and later steps.
        writer.record(&event(last + 1, |out| bytes_field(7, &[0x08, 0x01], out)))?;
        Ok(writer)
    }

    /// Adds a point of a curve.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn scalar(&mut self, step: u64, tag: &str, value: f64) -> io::Result<()> {
        let mut point = Vec::new();
        bytes_field(1, tag.as_bytes(), &mut point);
        point.push(0x15);
        point.extend_from_slice(&(value as f32).to_le_bytes());
        let mut summary = Vec::new();
        bytes_field(1, &point, &mut summary);
        self.record(&event(step, |out| bytes_field(5, &summary, out)))
    }

    /// Hands everything to the system.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }

    fn record(&mut self, data: &[u8]) -> io::Result<()> {
        let length = (data.len() as u64).to_le_bytes();
        self.file.write_all(&length)?;
        self.file.write_all(&masked(&length))?;
        self.file.write_all(data)?;
        self.file.write_all(&masked(data))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The messages of the files of a folder.
    fn records(folder: &Path) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let bytes = fs::read(entry.unwrap().path()).unwrap();
            let mut at = 0;
            while let Some(data) = record(&bytes[at..]) {
                all.push(data.to_vec());
                at += data.len() + 16;
            }
            assert_eq!(at, bytes.len(), "whole records only");
        }
        all
    }

    #[test]
    fn records_carry_their_length_and_checksums() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        let dir = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(dir.path(), 6).unwrap();
        writer.scalar(7, "train_loss_ita", 1.5).unwrap();
        writer.flush().unwrap();
        let records = records(dir.path());
        assert_eq!(records.len(), 3);
        assert!(records[0].ends_with(b"brain.Event:2"));
        assert!(records[1].ends_with(&[0x3a, 2, 8, 1]) && step_of(&records[1]) == 7);
        assert!(records[2].windows(14).any(|w| w == b"train_loss_ita"));
        assert!(records[2].ends_with(&1.5_f32.to_le_bytes()));
        assert_eq!(step_of(&records[2]), 7);
    }

    #[test]
    fn steps_that_are_made_again_are_in_no_file_twice() {
        let dir = tempfile::tempdir().unwrap();
        let write = |last: u64, end: u64| {
            let mut writer = EventWriter::create(dir.path(), last).unwrap();
            for step in last + 1..=end {
                writer.scalar(step, "loss", step as f64).unwrap();
            }
            writer.flush().unwrap();
        };
        let steps = || {
            let loss = |r: &Vec<u8>| r.windows(4).any(|w| w == b"loss");
            let records = records(dir.path());
            let mut steps: Vec<u64> =
                records.iter().filter(|r| loss(r)).map(|r| step_of(r)).collect();
            steps.sort_unstable();
            steps
        };
        write(0, 300);
        write(200, 400);
        assert_eq!(steps(), (1..=400).collect::<Vec<_>>());
        let files = || fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path());
        for file in files() {
            let bytes = fs::read(&file).unwrap();
            fs::write(&file, &bytes[..bytes.len() - 5]).unwrap();
        }
        fs::write(dir.path().join("mine.txt"), "kept").unwrap();
        write(150, 160);
        fs::remove_file(dir.path().join("mine.txt")).unwrap();
        assert_eq!(steps(), (1..=160).collect::<Vec<_>>());
        write(0, 20);
        assert_eq!(steps(), (1..=20).collect::<Vec<_>>());
        assert_eq!(files().count(), 1);
    }
}
