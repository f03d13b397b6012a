//! ALBEF's WordPiece: BERT uncased, but `[CLS]` in front and no `[SEP]` behind.

use unicode_general_category::GeneralCategory as Category;
use unicode_normalization::UnicodeNormalization;

use super::unicode::{category, is_later};
use super::{TextProcessing, Vocabulary};

const SPECIAL: [&str; 5] = ["[CLS]", "[SEP]", "[PAD]", "[MASK]", "[UNK]"];
const LONGEST_WORD: usize = 100;

/// Turns text into ids.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    vocabulary: Vocabulary,
    processing: TextProcessing,
}

impl Tokenizer {
    /// A tokenizer of this vocabulary.
    #[must_use]
    pub fn new(vocabulary: Vocabulary) -> Self {
        Self { vocabulary, processing: TextProcessing::Official }
    }

    /// The same for the texts of models that were trained with another code.
    #[must_use]
    pub fn processed(self, processing: TextProcessing) -> Self {
        Self { processing, ..self }
    }

    /// How texts are cleaned and ended.
    #[must_use]
    pub fn processing(&self) -> TextProcessing {
        self.processing
    }

    /// What follows the pieces of a text.
    pub(super) fn ending(&self) -> &[u32] {
        match self.processing {
            TextProcessing::Official => &[],
            TextProcessing::Lavis => std::slice::from_ref(&self.vocabulary.sep),
        }
    }

    /// The word pieces.
    #[must_use]
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// `[CLS]` and the pieces of `text`. Special tokens written in the text are kept whole.
    #[must_use]
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = vec![self.vocabulary.cls];
        let mut rest = text;
        while let Some((at, special)) =
            SPECIAL.iter().filter_map(|s| rest.find(s).map(|at| (at, *s))).min_by_key(|(at, _)| *at)
        {
            self.plain(&rest[..at], &mut ids);
            ids.extend(self.vocabulary.id(special));
            rest = &rest[at + special.len()..];
        }
        self.plain(rest, &mut ids);
        ids
    }

    /// A text as a model reads it: [`Tokenizer::encode`] and what follows the pieces of a text
    /// ([`TextProcessing`]), cut to `max_length` ids, `[CLS]` counted.
    #[must_use]
    pub fn encode_truncated(&self, text: &str, max_length: usize) -> Vec<u32> {
        let mut ids = self.encode(text);
        ids.truncate(max_length.max(1).saturating_sub(self.ending().len()));
        ids.extend(self.ending());
        ids
    }

    /// The pieces of ids as words, without special tokens.
    #[must_use]
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut out = String::new();
        for piece in ids.iter().filter_map(|id| self.vocabulary.piece(*id)) {
            if SPECIAL.contains(&piece) {
                continue;
            }
            match piece.strip_prefix("##") {
                Some(tail) => out.push_str(tail),
                None => {
                    if !out.is_empty() {
                        out.push(' ');
                    }
                    out.push_str(piece);
                }
            }
        }
        out
    }

    fn plain(&self, text: &str, ids: &mut Vec<u32>) {
        // A small letter that is older than its capital would stay.
        let known = text.chars().filter(|c| !is_later(*c));
        let lower: String = known.flat_map(char::to_lowercase).collect();
        let mut clean = String::with_capacity(lower.len());
        for c in lower.chars() {
            if c == '\0' || c == '\u{fffd}' || is_control(c) {
                continue;
            }
            if is_space(c) {
                clean.push(' ');
            } else if is_cjk(c) {
                clean.extend([' ', c, ' ']);
            } else {
                clean.push(c);
            }
        }
        for word in clean.split_whitespace() {
            let bare: String =
                word.nfd().filter(|c| category(*c) != Category::NonspacingMark).collect();
            let mut start = 0;
            for (at, c) in bare.char_indices() {
                if is_punctuation(c) {
                    self.word(&bare[start..at], ids);
                    self.word(&bare[at..at + c.len_utf8()], ids);
                    start = at + c.len_utf8();
                }
            }
            self.word(&bare[start..], ids);
        }
    }

    /// Greedy longest match first.
    fn word(&self, word: &str, ids: &mut Vec<u32>) {
        if word.is_empty() {
            return;
        }
        if word.chars().count() > LONGEST_WORD {
            ids.push(self.vocabulary.unk);
            return;
        }
        let before = ids.len();
        let mut start = 0;
        let mut piece = String::new();
        while start < word.len() {
            let ends = word[start..].char_indices().map(|(i, c)| start + i + c.len_utf8());
            let mut ends: Vec<usize> = ends.collect();
            let found = loop {
                let Some(end) = ends.pop() else { break None };
                piece.clear();
                if start > 0 {
                    piece.push_str("##");
                }
                piece.push_str(&word[start..end]);
                if let Some(id) = self.vocabulary.id(&piece) {
                    break Some((id, end));
                }
            };
            let Some((id, end)) = found else {
                ids.truncate(before);
                ids.push(self.vocabulary.unk);
                return;
            };
            ids.push(id);
            start = end;
        }
    }
}

fn is_control(c: char) -> bool {
    !matches!(c, '\t' | '\n' | '\r')
        && matches!(
            category(c),
            Category::Control
                | Category::Format
                | Category::Surrogate
                | Category::PrivateUse
                | Category::Unassigned
        )
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r') || category(c) == Category::SpaceSeparator
}

fn is_cjk(c: char) -> bool {
    matches!(u32::from(c),
        0x4e00..=0x9fff | 0x3400..=0x4dbf | 0x20000..=0x2a6df | 0x2a700..=0x2b73f
        | 0x2b740..=0x2b81f | 0x2b820..=0x2ceaf | 0xf900..=0xfaff | 0x2f800..=0x2fa1f)
}

fn is_punctuation(c: char) -> bool {
    c.is_ascii_punctuation()
        || matches!(
            category(c),
            Category::ConnectorPunctuation
                | Category::DashPunctuation
                | Category::OpenPunctuation
                | Category::ClosePunctuation
                | Category::InitialPunctuation
                | Category::FinalPunctuation
                | Category::OtherPunctuation
        )
}
