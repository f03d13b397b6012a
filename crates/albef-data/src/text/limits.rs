//! Up to where a text is read, and whether that is its end.

use super::{Tokenizer, clean};

/// Up to where a text is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncation {
    /// Words that are kept after cleaning.
    pub words: usize,
    /// Ids that are kept, `[CLS]` counted.
    pub ids: usize,
}

/// A text as a model reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// `[CLS]` and the pieces.
    pub ids: Vec<u32>,
    /// Whether the text is longer than the limits, so that its end is not among them.
    pub truncated: bool,
}

impl Tokenizer {
    /// A caption, cleaned ([`super::pre_caption`]) and cut.
    #[must_use]
    pub fn caption(&self, text: &str, limits: Truncation) -> Encoded {
        self.cut(&clean::pre_caption(text, usize::MAX), limits)
    }

    /// A question, cleaned ([`super::pre_question`]) and cut.
    #[must_use]
    pub fn question(&self, text: &str, limits: Truncation) -> Encoded {
        self.cut(&clean::pre_question(text, usize::MAX), limits)
    }

    fn cut(&self, clean: &str, limits: Truncation) -> Encoded {
        let kept = clean::first_words(clean, limits.words);
        let mut ids = self.encode(&kept);
        let cut = kept.len() < clean.len() || ids.len() > limits.ids;
        ids.truncate(limits.ids.max(1));
        Encoded { ids, truncated: cut }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Vocabulary, pre_caption, pre_question};
    use super::*;

    #[test]
    fn a_text_is_read_up_to_its_limits_and_told() {
        let words = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\n##b\n";
        let tokenizer = Tokenizer::new(Vocabulary::from_text(words).unwrap());
        for (text, words, ids, cut) in [
            ("A b, a!", 3, 4, false),
            ("A b, a!", 2, 4, true),
            ("A b, a!", 3, 3, true),
            ("abb", 1, 4, false),
            ("abb", 1, 3, true),
            ("a  b ", 2, 9, false),
            ("", 1, 1, false),
            ("a", 1, 0, true),
        ] {
            let found = tokenizer.caption(text, Truncation { words, ids });
            let truncated = tokenizer.encode_truncated(&pre_caption(text, words), ids);
            assert_eq!(found, Encoded { ids: truncated, truncated: cut }, "{text}");
        }
        // Runs of spaces in a question count as words.
        let limits = Truncation { words: 2, ids: 9 };
        let found = tokenizer.question("a  b?", limits);
        let truncated = tokenizer.encode_truncated(&pre_question("a  b?", 2), 9);
        assert_eq!(found, Encoded { ids: truncated, truncated: true });
    }
}
