//! Cleaning of captions and questions.

const DELETED: &str = ",.'!?\"()*#:;~";

fn strip(text: &str) -> String {
    let lower = text.to_lowercase();
    lower
        .chars()
        .filter(|c| !DELETED.contains(*c))
        .map(|c| if matches!(c, '-' | '/') { ' ' } else { c })
        .collect()
}

/// The first words, parted by single spaces.
pub(super) fn first_words(text: &str, max_words: usize) -> String {
    let mut words = text.split(' ');
    let kept: Vec<&str> = words.by_ref().take(max_words).collect();
    kept.join(" ")
}

/// Whitespace in Python's sense.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Cleans a caption: lower case, punctuation away, at most `max_words` words.
#[must_use]
pub fn pre_caption(text: &str, max_words: usize) -> String {
    let text = single_spaces(&strip(text).replace("<person>", "person"));
    first_words(text.trim_end_matches('\n').trim_matches(' '), max_words)
}

/// Runs of two and more spaces become one; a single tab or newline stays.
fn single_spaces(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut run: Vec<char> = Vec::new();
    for c in text.chars().chain(std::iter::once('\0')) {
        if is_space(c) {
            run.push(c);
            continue;
        }
        match run.as_slice() {
            [] => {}
            [one] => out.push(*one),
            _ => out.push(' '),
        }
        run.clear();
        out.push(c);
    }
    out.pop();
    out
}

/// Characters that LAVIS takes out.
const LAVIS_DELETED: &str = ".!\"()*#:;~";

/// Cleans a caption as LAVIS does: punctuation but the comma and the apostrophe becomes a space, hyphens
/// stay.
#[must_use]
pub(super) fn lavis_caption(text: &str, max_words: usize) -> String {
    let lower = text.to_lowercase();
    let spaced: String =
        lower.chars().map(|c| if LAVIS_DELETED.contains(c) { ' ' } else { c }).collect();
    let single = single_spaces(&spaced);
    first_words(single.trim_end_matches('\n').trim_matches(' '), max_words)
}

/// Cleans a question as LAVIS does.
#[must_use]
pub(super) fn lavis_question(text: &str, max_words: usize) -> String {
    let lower = text.to_lowercase();
    let kept: String = lower.chars().filter(|c| !LAVIS_DELETED.contains(*c)).collect();
    first_words(kept.trim_end_matches(' '), max_words)
}

/// Cleans a question; runs of spaces stay and count as empty words.
#[must_use]
pub fn pre_question(text: &str, max_words: usize) -> String {
    let text = strip(text);
    first_words(text.trim_end_matches(' '), max_words)
}
