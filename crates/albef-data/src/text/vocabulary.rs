//! A list of word pieces, one per line; the line is the id.

use std::collections::HashMap;
use std::path::Path;

use crate::error::{DataError, Result};
use crate::input::read_text;

/// Word pieces and the special ids among them.
#[derive(Clone, Debug)]
pub struct Vocabulary {
    ids: HashMap<String, u32>,
    pieces: Vec<String>,
    /// `[PAD]`.
    pub pad: u32,
    /// `[UNK]`.
    pub unk: u32,
    /// `[CLS]`.
    pub cls: u32,
    /// `[SEP]`.
    pub sep: u32,
    /// `[MASK]`.
    pub mask: u32,
}

impl Vocabulary {
    /// Reads a vocabulary file.
    ///
    /// # Errors
    /// If it cannot be read, repeats a piece or lacks a special one.
    pub fn from_file(path: &Path) -> Result<Self> {
        Ok(Self::read(path)?.0)
    }

    /// The same with the text of the file.
    ///
    /// # Errors
    /// As [`Vocabulary::from_file`].
    pub fn read(path: &Path) -> Result<(Self, String)> {
        let text = read_text(path)?;
        Ok((Self::parse(&text, path)?, text))
    }

    /// Takes the pieces from a text, one per line.
    ///
    /// # Errors
    /// If a piece is repeated or a special one is absent.
    pub fn from_text(text: &str) -> Result<Self> {
        Self::parse(text, Path::new("vocab.txt"))
    }

    fn parse(text: &str, path: &Path) -> Result<Self> {
        let fail = |detail: String| DataError::Vocabulary { path: path.to_owned(), detail };
        let pieces: Vec<String> =
            text.lines().map(|l| l.trim_end_matches('\r').to_owned()).collect();
        let mut ids = HashMap::with_capacity(pieces.len());
        for (i, piece) in pieces.iter().enumerate() {
            if let Some(first) = ids.insert(piece.clone(), i as u32) {
                return Err(fail(format!(
                    "line {}: `{piece}` stands already on line {}",
                    i + 1,
                    first + 1
                )));
            }
        }
        let special = |name: &str| {
            ids.get(name).copied().ok_or_else(|| fail(format!("there is no line `{name}`")))
        };
        Ok(Self {
            pad: special("[PAD]")?,
            unk: special("[UNK]")?,
            cls: special("[CLS]")?,
            sep: special("[SEP]")?,
            mask: special("[MASK]")?,
            ids,
            pieces,
        })
    }

    /// The id of a piece.
    #[must_use]
    pub fn id(&self, piece: &str) -> Option<u32> {
        self.ids.get(piece).copied()
    }

    /// The piece of an id.
    #[must_use]
    pub fn piece(&self, id: u32) -> Option<&str> {
        self.pieces.get(id as usize).map(String::as_str)
    }

    /// Number of pieces.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }
}
