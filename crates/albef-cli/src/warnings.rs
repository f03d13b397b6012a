//! What was not used as given: named and counted on standard error.

use albef::{ImageReader, Pipeline, Skipped, Truncation};
use albef_data::dataset::unread_formats;
use albef_data::error::ImageErrorKind;

/// Unusable images that are named one by one.
pub const SHOWN: usize = 10;

/// Names the first `lines`, and counts the others.
pub fn tell_first(what: &str, lines: impl ExactSizeIterator<Item = String>) {
    let all = lines.len();
    lines.take(SHOWN).for_each(|line| tracing::warn!("{what}: {line}"));
    if all > SHOWN {
        tracing::warn!("and {} more", all - SHOWN);
    }
}

/// Names the first images that cannot be used, with what becomes of them, and counts the others.
pub fn tell_unusable(what: &str, skipped: &[Skipped]) {
    tell_first(what, lines(skipped));
}

/// Counts the files of formats that are not read and the members of archives that form no sample, and names the
/// first of these.
pub fn tell_left_out(source: &str, skipped: &[Skipped]) {
    if let Some(line) = unread_formats(skipped) {
        tracing::warn!("{source}: {line}");
    }
    let members = members(skipped);
    if !members.is_empty() {
        let entries = members.iter().any(|s| s.error.kind == ImageErrorKind::Entry);
        let (what, one) = match entries {
            true => ("entries or members form", "skipped"),
            false => ("members form", "skipped member"),
        };
        tracing::warn!("{source}: {} {what} no sample and are skipped", members.len());
        tell_first(one, lines(&members));
    }
}

/// The members of archives that form no sample, among what a source leaves out.
pub fn members(skipped: &[Skipped]) -> Vec<Skipped> {
    let is_member = |s: &&Skipped| !matches!(s.error.kind, ImageErrorKind::Unsupported(_));
    skipped.iter().filter(is_member).cloned().collect()
}

/// Counts images with an orientation, with transparency and with several frames.
pub fn tell_notes(reader: &ImageReader) {
    reader.lines().iter().for_each(|line| tracing::info!("{line}"));
}

fn lines(skipped: &[Skipped]) -> impl ExactSizeIterator<Item = String> {
    skipped.iter().map(|s| format!("{}: {}", s.name, s.error))
}

/// Warns about texts of which the model knows no word.
pub fn tell_unknown<'a>(model: &Pipeline, texts: impl IntoIterator<Item = &'a str>) {
    for text in texts.into_iter().filter(|text| model.is_unknown(text)) {
        tracing::warn!("the model knows no word of `{text}`: what it finds says nothing about it");
    }
}

/// Says so if the match probability of a model was measured and tells hardly anything.
pub fn tell_match_quality(model: &Pipeline) {
    let defaults = model.defaults();
    if let (false, Some(auc)) = (defaults.is_match_reliable(), defaults.match_auc) {
        tracing::info!(
            "the match probability of this model hardly tells whether an image matches (area under the ROC \
             curve {auc:.2})"
        );
    }
}

/// Counts the texts that are longer than the model reads.
pub fn tell_truncated(truncated: usize, texts: usize, limits: Truncation) {
    let Truncation { words, ids } = limits;
    // `[CLS]` is no piece of the text.
    let pieces = ids.saturating_sub(1);
    match (truncated, texts) {
        (0, _) => {}
        (1, 1) => tracing::info!(
            "the text is longer than {words} words or {pieces} word pieces and is truncated"
        ),
        _ => tracing::info!(
            "{truncated} of {texts} texts are longer than {words} words or {pieces} word pieces and are \
             truncated"
        ),
    }
}
