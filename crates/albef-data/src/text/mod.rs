//! Words: cleaning and tokenising as the official code does.

mod clean;
mod limits;
mod processing;
mod sequences;
mod unicode;
mod vocabulary;
mod wordpiece;

pub use clean::{pre_caption, pre_question};
pub use limits::{Encoded, Truncation};
pub use processing::TextProcessing;
pub use sequences::{Sequence, TokenBatch};
pub use unicode::is_decimal_digit;
pub use vocabulary::Vocabulary;
pub use wordpiece::Tokenizer;
