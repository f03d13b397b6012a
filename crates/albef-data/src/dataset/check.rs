//! What is wrong with a source, before a run finds out.

mod named;
mod report;

use std::collections::HashSet;
use std::sync::Arc;

use self::named::Named;
pub use self::report::{CaptionCounts, CheckReport, TaskFault};
use super::contents::{Contents, Gathered};
use super::fingerprint::{Fingerprint, alike, look};
use super::in_order::in_order;
use super::near::{other_root, similar_file};
use super::numbers::Hash128;
use super::sample::{Location, Sample, Skipped, TaskFields};
use super::source::{SourceSpec, read_into};
use super::store::{SampleSet, Samples};
use super::unread::unread_formats;
use crate::control::Control;
use crate::error::{ImageErrorKind, Result};
use crate::image::{DecodeOptions, ImageReader, Look};
use crate::names::{in_one_line, shown};

/// How a source is checked.
#[derive(Clone, Debug)]
pub struct CheckOptions {
    /// Decode every image; otherwise only look whether it is there.
    pub decode: bool,
    /// Decoder settings.
    pub options: DecodeOptions,
    /// Problems that are named; all are counted.
    pub max_problems: usize,
    /// Threads.
    pub workers: usize,
    /// Whether texts are captions, which should tell images apart, and not questions or labels.
    pub texts_are_captions: bool,
    /// Whether a sample without a text is at fault.
    pub texts_are_needed: bool,
    /// Bits of 128 in which the difference hashes of images that look alike may differ.
    pub near_distance: u32,
}

impl Default for CheckOptions {
    fn default() -> Self {
        Self {
            decode: true,
            options: DecodeOptions::default(),
            max_problems: 20,
            workers: 1,
            texts_are_captions: true,
            texts_are_needed: true,
            near_distance: 6,
        }
    }
}

/// Counts what a source holds and names what is wrong.
///
/// # Errors
/// If the source cannot be read at all, or an annotation in it is malformed.
pub fn check(spec: &SourceSpec, options: &CheckOptions) -> Result<CheckReport> {
    check_against(&gather(std::slice::from_ref(spec))?, None::<&Samples>, options, &Control::new())
}

/// What several sources hold, kept at little cost.
///
/// # Errors
/// If one cannot be read.
pub fn gather(specs: &[SourceSpec]) -> Result<Gathered<Samples>> {
    let mut all =
        Gathered { samples: Samples::default(), left_out: vec![], faults: vec![], notes: vec![] };
    specs.iter().try_for_each(|spec| read_into(spec, &mut all))?;
    all.notes.extend(all.samples.note());
    Ok(all)
}

/// [`check`] of what was read already, of any task.
///
/// # Panics
/// Never: samples at hand can be read.
#[must_use]
pub fn check_contents(contents: &Contents, options: &CheckOptions) -> CheckReport {
    check_against(contents, None::<&Samples>, options, &Control::new()).unwrap_or_default()
}

/// [`check`] of what was read already; images that are also in `other`, whether as the same bytes or looking
/// alike, are counted as leaks.
///
/// # Errors
/// If samples cannot be read back, or `control` is cancelled.
pub fn check_against<S: SampleSet>(
    contents: &Gathered<S>,
    other: Option<&(impl SampleSet + ?Sized)>,
    options: &CheckOptions,
    control: &Control,
) -> Result<CheckReport> {
    let Gathered { samples, left_out, faults: captions, notes } = contents;
    let is_unread = |s: &&Skipped| matches!(s.error.kind, ImageErrorKind::Unsupported(_));
    let unread = left_out.iter().filter(is_unread).count();
    let not_utf8 = |s: &&Skipped| s.error.detail.contains("UTF-8");
    let mut report = CheckReport {
        samples: samples.count(),
        left_out: left_out.len() - unread,
        unread,
        unread_formats: unread_formats(left_out),
        caption_faults: captions.len(),
        caption_counts: CaptionCounts {
            not_utf8: captions.iter().filter(not_utf8).count(),
            ..CaptionCounts::default()
        },
        ..CheckReport::default()
    };
    if report.samples == 0 {
        report.problems.push("it holds no sample".into());
    }
    let mut prints = Vec::new();
    let names = Named::of(samples)?;
    check_images(samples, &names, options, control, &mut report, &mut prints)?;
    let room = options.max_problems.saturating_sub(report.problems.len());
    let named = captions.iter().chain(left_out).map(|s| line(&shown(&s.name), &s.error));
    report.problems.extend(named.take(room));
    check_texts(samples, &names, options, &mut report)?;
    report.hints = notes.clone();
    if report.missing > 0 {
        let first: Vec<Sample> = (0..report.samples.min(10_000))
            .filter_map(|i| samples.sample(i).ok().map(|s| s.into_owned()))
            .collect();
        let root = other_root(&first);
        if root.is_none() && report.missing == report.samples {
            let hint = "none of the images is there; relative paths are joined to the image root";
            report.hints.push(hint.into());
        }
        report.hints.extend(root);
    }
    let name = |i: u32| samples.sample(i as usize).map(|s| names.name(&s));
    let found = alike(&prints, options.near_distance);
    report.duplicates = found.same.len();
    report.near_duplicates = found.near.len();
    for (pairs, what) in [(&found.same, "has the same bytes as"), (&found.near, "looks like")] {
        for (first, later) in pairs.iter().take(options.max_problems) {
            report.alike.push(format!("{} {what} {}", name(*later)?, name(*first)?));
        }
    }
    let most = options.max_problems;
    let full = report.problems.len() >= most || found.same.len().max(found.near.len()) > most;
    if most > 0 && full {
        report.hints.push(format!("of each kind at most {most} are named; `--show N` names more"));
    }
    if let Some(other) = other {
        leaks(samples, &names, &prints, other, options, control, &mut report)?;
    }
    Ok(report)
}

/// A line about something that has a name, which is shown already.
fn line(name: &str, detail: &impl std::fmt::Display) -> String {
    format!("{name}: {}", in_one_line(&detail.to_string()))
}

/// Looks at every image.
fn check_images<S: SampleSet + ?Sized>(
    samples: &S,
    names: &Named,
    options: &CheckOptions,
    control: &Control,
    report: &mut CheckReport,
    prints: &mut Vec<(u32, Fingerprint)>,
) -> Result<()> {
    let reader = ImageReader::new(options.options);
    let work = |i: usize| {
        let sample = samples.sample(i)?;
        let found = sample.all_views(sample.views(), |view| match options.decode {
            true => fingerprint(&sample, view, &reader).map(Some),
            false => sample.present_view(view).map(|()| None),
        });
        Ok(found)
    };
    let take = |i: usize, found: Result<Result<Vec<Option<Fingerprint>>, Skipped>>| {
        let Skipped { name, error } = match found? {
            Ok(found) => {
                prints.extend(found.into_iter().flatten().map(|print| (i as u32, print)));
                return Ok(());
            }
            Err(fault) => fault,
        };
        match error.kind {
            ImageErrorKind::NotFound => report.missing += 1,
            _ => report.unusable += 1,
        }
        report.truncated += usize::from(error.kind == ImageErrorKind::Truncated);
        report.oversized += usize::from(error.kind == ImageErrorKind::TooLarge);
        *report.unusable_by_kind.entry(error.kind.name()).or_default() += 1;
        if options.max_problems > report.problems.len() {
            let sample = samples.sample(i)?;
            let near: String =
                similar_files(&sample).iter().map(|near| format!("; {near}")).collect();
            let name = names.view_name(&sample, &name);
            report.problems.push(line(&name, &format!("{error}{near}")));
        }
        Ok(())
    };
    in_order("images", samples.count(), options.workers, control, work, take)?;
    report.notes = reader.counts();
    Ok(())
}

/// What is there under the names of those images of a sample that are missing.
fn similar_files(sample: &Sample) -> Vec<String> {
    let is_missing = |view: &usize| {
        sample.present_view(*view).is_err_and(|e| e.kind == ImageErrorKind::NotFound)
    };
    let hint = |view| match sample.at(view) {
        Location::File(path) => similar_file(path),
        Location::Member { .. } => None,
    };
    (0..sample.views()).filter(is_missing).filter_map(hint).collect()
}

fn fingerprint(
    sample: &Sample,
    view: usize,
    reader: &ImageReader,
) -> Result<Fingerprint, crate::error::ImageError> {
    let bytes = sample.view_bytes(view)?;
    let image = sample.decode_bytes(view, &bytes, reader)?;
    // A part of an image is another image.
    let place = Hash128::of(&(sample.at(view), sample.task.crops));
    let bytes = Hash128::of(&(&bytes[..], sample.task.crops));
    let colors = Arc::new(Look::of(&image));
    Ok(Fingerprint { place, bytes, look: look(&image), colors })
}

/// Counts captions, and samples that repeat earlier ones. These are named last: a folder without captions would
/// otherwise hide its broken images.
fn check_texts<S: SampleSet + ?Sized>(
    samples: &S,
    names: &Named,
    options: &CheckOptions,
    report: &mut CheckReport,
) -> Result<()> {
    let short = |value: Hash128| value.short();
    let (mut keys, mut seen) = (HashSet::new(), HashSet::new());
    let mut texts: Vec<(u64, u64)> = Vec::new();
    let room = options.max_problems.saturating_sub(report.problems.len());
    let mut named = Vec::new();
    for i in 0..samples.count() {
        let sample = samples.sample(i)?;
        let mut problems = Vec::new();
        let key = short(Hash128::of(&sample.key));
        keys.insert(key);
        let words = || sample.captions.iter().filter(|c| !c.trim().is_empty());
        let blank = sample.captions.len() - words().count();
        report.captions += sample.captions.len() - blank;
        report.blank_captions += blank;
        if blank == sample.captions.len() && !options.texts_are_needed {
            report.blank_captions -= blank;
        } else if blank == sample.captions.len() {
            report.without_captions += 1;
            problems.push(format!("{}: no caption", names.name(&sample)));
        } else if blank > 0 {
            problems.push(format!("{}: {blank} blank captions", names.name(&sample)));
        }
        let repeated = sample.captions.len() - blank - words().collect::<HashSet<_>>().len();
        if repeated > 0 {
            report.repeated_captions += repeated;
            problems.push(format!("{}: {repeated} captions repeated", names.name(&sample)));
        }
        for caption in words() {
            texts.push((short(Hash128::of(caption.trim())), key));
            let longest = caption.chars().count();
            if longest > report.caption_counts.longest {
                report.caption_counts.longest = longest;
                report.caption_counts.longest_of = names.name(&sample);
            }
        }
        let TaskFields { second, crops, target, .. } = &sample.task;
        let target = format!("{target:?}");
        let whole = (&sample.location, &sample.captions, second, crops, target);
        if !seen.insert(short(Hash128::of(&whole))) {
            report.repeated_samples += 1;
            problems.push(format!("{}: repeats an earlier sample", names.name(&sample)));
        }
        let left = room.saturating_sub(named.len());
        named.extend(problems.into_iter().take(left));
    }
    report.problems.extend(named);
    report.distinct_images = keys.len();
    drop((keys, seen));
    texts.sort_unstable();
    report.caption_counts.distinct = texts.chunk_by(|a, b| a.0 == b.0).count();
    if options.texts_are_captions {
        texts.dedup();
        share_of_one_caption(samples, &texts, report, options)?;
    }
    Ok(())
}

/// Counts the images with the most frequent caption where it says nothing about them: all have it, or at
/// least ten and a fifth of all. `texts`: caption and image, each pair once, in order.
fn share_of_one_caption<S: SampleSet + ?Sized>(
    samples: &S,
    texts: &[(u64, u64)],
    report: &mut CheckReport,
    options: &CheckOptions,
) -> Result<()> {
    let chunks = || texts.chunk_by(|a, b| a.0 == b.0);
    let n = chunks().map(<[_]>::len).max().unwrap_or(0);
    let images = report.distinct_images;
    if n < 2 || !(n == images || n >= 10 && n * 5 >= images) {
        return Ok(());
    }
    report.sharing_a_caption = n;
    if report.problems.len() >= options.max_problems {
        return Ok(());
    }
    let most: HashSet<u64> =
        chunks().filter(|same| same.len() == n).map(|same| same[0].0).collect();
    let mut caption = String::new();
    for i in 0..samples.count() {
        for found in &samples.sample(i)?.captions {
            let found = found.trim();
            if *found > *caption && most.contains(&Hash128::of(found).short()) {
                caption = found.to_owned();
            }
        }
    }
    let caption = in_one_line(&caption.chars().take(60).collect::<String>());
    report.problems.push(format!(
        "{n} of {images} images share the caption `{caption}`, by which nothing tells them apart"
    ));
    Ok(())
}

/// Counts the images that are in another set as well.
fn leaks<S: SampleSet + ?Sized>(
    samples: &S,
    names: &Named,
    prints: &[(u32, Fingerprint)],
    other: &(impl SampleSet + ?Sized),
    options: &CheckOptions,
    control: &Control,
    report: &mut CheckReport,
) -> Result<()> {
    let mut of_other = Vec::new();
    let options = CheckOptions { max_problems: 0, ..options.clone() };
    let mut ignored = CheckReport::default();
    let other_names = Named::of(other)?;
    check_images(other, &other_names, &options, control, &mut ignored, &mut of_other)?;
    // Those of the other set come first, so that an image of this one that is alike comes after it.
    let count = other.count() as u32;
    let distinct = |print: Fingerprint, set: u64| Fingerprint {
        place: Hash128::of(&(print.place, set)),
        ..print
    };
    let mut all: Vec<(u32, Fingerprint)> =
        of_other.into_iter().map(|(i, print)| (i, distinct(print, 0))).collect();
    all.extend(prints.iter().map(|(i, print)| (count + i, distinct(print.clone(), 1))));
    let found = alike(&all, options.near_distance);
    let leaked = |pairs: Vec<(u32, u32)>| -> Vec<(u32, u32)> {
        let across = pairs.into_iter().filter(|(a, b)| *a < count && *b >= count);
        across.map(|(a, b)| (a, b - count)).collect()
    };
    let (same, near) = (leaked(found.same), leaked(found.near));
    (report.leaks, report.near_leaks) = (same.len(), near.len());
    for (pairs, what) in [(same, "has the same bytes as"), (near, "looks like")] {
        for (a, b) in pairs.into_iter().take(20) {
            let (own, of_other) = (samples.sample(b as usize)?, other.sample(a as usize)?);
            let (own, of_other) = (names.name(&own), other_names.name(&of_other));
            report.alike.push(format!("leak: {own} {what} {of_other}"));
        }
    }
    Ok(())
}
