//! The boxes of ISO media files: a length, four letters, and what is in them.

use crate::error::{ImageError, ImageErrorKind as Kind};

/// Bytes that are read from the front.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bytes<'a>(pub &'a [u8]);

/// A box and its content.
pub(super) type Boxed<'a> = ([u8; 4], Bytes<'a>);

impl<'a> Bytes<'a> {
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], ImageError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or_else(|| {
            ImageError::new(Kind::Corrupt, format!("a box has {} of {count} bytes", self.0.len()))
        })?;
        self.0 = rest;
        Ok(taken)
    }

    /// A number of up to 8 bytes, the first of which is the highest.
    pub fn number(&mut self, width: usize) -> Result<u64, ImageError> {
        Ok(self.take(width)?.iter().fold(0, |all, byte| all << 8 | u64::from(*byte)))
    }

    pub fn u8(&mut self) -> Result<u8, ImageError> {
        self.number(1).map(|v| v as u8)
    }

    pub fn u16(&mut self) -> Result<u16, ImageError> {
        self.number(2).map(|v| v as u16)
    }

    pub fn u32(&mut self) -> Result<u32, ImageError> {
        self.number(4).map(|v| v as u32)
    }

    pub fn letters(&mut self) -> Result<[u8; 4], ImageError> {
        self.u32().map(u32::to_be_bytes)
    }

    /// Version and flags of a box that has them.
    pub fn version(&mut self) -> Result<(u8, u32), ImageError> {
        self.u32().map(|v| ((v >> 24) as u8, v & 0xff_ffff))
    }

    /// The number of an item, of 16 bits or of 32.
    pub fn id(&mut self, wide: bool) -> Result<u32, ImageError> {
        self.number(if wide { 4 } else { 2 }).map(|v| v as u32)
    }

    /// The next box; `None` at the end. An error of the kind `Truncated` if the box goes on after the last byte.
    pub fn next(&mut self) -> Result<Option<Boxed<'a>>, ImageError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let (whole, mut rest) = (self.0.len() as u64, *self);
        let cut = |_| ImageError::new(Kind::Truncated, "it ends in the head of a box");
        let mut length = rest.u32().map_err(cut)?.into();
        let kind = rest.letters().map_err(cut)?;
        match length {
            0 => length = whole,
            1 => length = rest.number(8).map_err(cut)?,
            _ => {}
        }
        let head = whole - rest.0.len() as u64;
        let name = kind.escape_ascii();
        if length < head {
            return Err(ImageError::new(
                Kind::Corrupt,
                format!("a box `{name}` of {length} bytes"),
            ));
        }
        if length > whole {
            let detail = format!("the box `{name}` has {whole} of {length} bytes");
            return Err(ImageError::new(Kind::Truncated, detail));
        }
        let content = rest.take((length - head) as usize)?;
        self.0 = rest.0;
        Ok(Some((kind, Self(content))))
    }

    /// The boxes inside a box, which end with it.
    pub fn boxes(mut self) -> Result<Vec<Boxed<'a>>, ImageError> {
        let mut all = Vec::new();
        loop {
            match self.next() {
                Ok(Some(next)) => all.push(next),
                Ok(None) => return Ok(all),
                Err(e) => return Err(ImageError { kind: Kind::Corrupt, ..e }),
            }
        }
    }

    /// The first box of a kind inside a box.
    pub fn find(self, kind: &[u8; 4]) -> Result<Option<Bytes<'a>>, ImageError> {
        Ok(self.boxes()?.into_iter().find(|(k, _)| k == kind).map(|(_, content)| content))
    }
}
