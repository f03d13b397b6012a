//! Archives that were written one after the other into one file, as `cat a.tar b.tar` does: what follows an end mark.

use std::fs::File;
use std::io::{BufReader, Read, Result, Seek, SeekFrom};

use super::{BLOCK, is_header};

/// A file from some byte on.
pub(super) struct Part {
    file: File,
    from: u64,
}

impl Part {
    /// # Errors
    /// If the system fails to go there.
    pub fn new(mut file: File, from: u64) -> Result<Self> {
        file.seek(SeekFrom::Start(from))?;
        Ok(Self { file, from })
    }

    /// What follows the place up to which it was read, which is behind the first block of an end mark.
    ///
    /// # Errors
    /// If the system fails to read it.
    pub fn rest(mut self, size: u64) -> Result<Rest> {
        let mut at = self.file.stream_position()?;
        let mut reader = BufReader::with_capacity(1 << 16, &self.file);
        let mut block = Vec::new();
        loop {
            block.clear();
            let read = (&mut reader).take(BLOCK).read_to_end(&mut block)? as u64;
            match () {
                () if read == 0 => return Ok(Rest::Nothing),
                () if block.iter().all(|b| *b == 0) => at += read,
                () if is_header(&block) => return Ok(Rest::Archive(Self::new(self.file, at)?)),
                () => return Ok(Rest::Other(size.saturating_sub(at))),
            }
        }
    }

    /// Its first byte.
    pub fn from(&self) -> u64 {
        self.from
    }
}

/// What follows the end mark of an archive.
pub(super) enum Rest {
    /// Nothing, or padding.
    Nothing,
    /// Another archive.
    Archive(Part),
    /// So many bytes of something else.
    Other(u64),
}

impl Read for Part {
    fn read(&mut self, into: &mut [u8]) -> Result<usize> {
        self.file.read(into)
    }
}

impl Seek for Part {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        let to = match to {
            SeekFrom::Start(at) => SeekFrom::Start(self.from.saturating_add(at)),
            other => other,
        };
        Ok(self.file.seek(to)?.saturating_sub(self.from))
    }
}
