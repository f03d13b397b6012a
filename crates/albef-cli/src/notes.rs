//! What was not taken as it was given: named and counted on standard error.

use albef_data::dataset::Skipped;
use albef_data::text::Truncation;

/// Unusable pictures that are named one by one.
pub const SHOWN: usize = 10;

/// Names the first `lines`, and counts the others.
pub fn tell_first(what: &str, lines: impl ExactSizeIterator<Item = String>) {
    let all = lines.len();
    lines.take(SHOWN).for_each(|line| eprintln!("{what}: {line}"));
    if all > SHOWN {
        eprintln!("and {} more", all - SHOWN);
    }
}

/// Names the first pictures that could not be used, and counts the others.
pub fn tell_skipped(skipped: &[Skipped]) {
    tell_first("not usable, counted as wrong", lines(skipped));
}

/// A name without line ends and what else would break a table.
pub fn in_a_line(name: &str) -> String {
    let shown = |c: char| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    name.chars().map(shown).collect()
}

/// Counts what the data of a run left out, and names the first.
pub fn tell_left_out_of_training(without_captions: usize, left_out: &[Skipped]) {
    if without_captions > 0 {
        eprintln!("note: {without_captions} pictures without a caption are left out");
    }
    tell_left_out("the training data", left_out);
}

/// Counts the pictures that a run could not use, and names them all: they are to be mended.
pub fn tell_skipped_in_training(skipped: &[Skipped]) {
    if !skipped.is_empty() {
        eprintln!("{} pictures could not be used, others were taken for them", skipped.len());
        skipped.iter().for_each(|s| eprintln!("skipped {}: {}", s.name, s.error));
    }
}

/// Counts what a source left out, and names the first.
pub fn tell_left_out(source: &str, left_out: &[Skipped]) {
    if !left_out.is_empty() {
        eprintln!("{source}: {} members form no sample and are left out", left_out.len());
        tell_first("left out", lines(left_out));
    }
}

fn lines(skipped: &[Skipped]) -> impl ExactSizeIterator<Item = String> {
    skipped.iter().map(|s| format!("{}: {}", s.name, s.error))
}

/// Says how many of `texts` have no words, and how many of `pictures` no text.
pub fn tell_wordless(blank: usize, texts: usize, bare: usize, pictures: usize) {
    if blank > 0 {
        eprintln!("warning: {blank} of {texts} texts have no words; they are measured as they are");
    }
    if bare > 0 {
        eprintln!("warning: {bare} of {pictures} pictures have no text; they count as missed");
    }
}

/// Says how many of `texts` are longer than what is read of them.
pub fn tell_cut(cut: usize, texts: usize, limits: Truncation) {
    let Truncation { words, ids } = limits;
    // `[CLS]` is no piece of the text.
    let pieces = ids.saturating_sub(1);
    match (cut, texts) {
        (0, _) => {}
        (1, 1) => eprintln!(
            "note: the text is longer than {words} words or {pieces} word pieces; its end is not read"
        ),
        _ => eprintln!(
            "note: {cut} of {texts} texts are longer than {words} words or {pieces} word pieces; their \
             ends are not read"
        ),
    }
}
