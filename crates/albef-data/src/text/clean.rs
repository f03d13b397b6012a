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
    let text = strip(text).replace("<person>", "person");
    // Runs of two and more spaces become one; a single tab or newline stays.
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
    let out = out.trim_end_matches('\n').trim_matches(' ');
    first_words(out, max_words)
}

/// Cleans a question; runs of spaces stay and count as empty words.
#[must_use]
pub fn pre_question(text: &str, max_words: usize) -> String {
    let text = strip(text);
    first_words(text.trim_end_matches(' '), max_words)
}
