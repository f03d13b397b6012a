//! What is wrong with a source, before a run finds out.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::contents::Contents;
use super::near::{other_root, similar_file};
use super::sample::{Location, Sample, Skipped};
use super::source::{SourceSpec, read_source};
use super::tasks::TaskFields;
use super::unread::unread_formats;
use crate::error::{ImageErrorKind, Result};
use crate::image::{DecodeOptions, ImageReader, NoteCounts};

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
}

impl Default for CheckOptions {
    fn default() -> Self {
        Self {
            decode: true,
            options: DecodeOptions::default(),
            max_problems: 20,
            workers: 1,
            texts_are_captions: true,
        }
    }
}

/// What a source holds and what is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Samples.
    pub samples: usize,
    /// Captions that are not blank.
    pub captions: usize,
    /// Different images by their key.
    pub distinct_images: usize,
    /// Images that are not there.
    pub missing: usize,
    /// Images that are there but cannot be used.
    pub unusable: usize,
    /// Captions without text.
    pub blank_captions: usize,
    /// Samples without any caption that is not blank.
    pub without_captions: usize,
    /// Samples that repeat both image and captions of an earlier one.
    pub repeated_samples: usize,
    /// Captions that a sample lists twice.
    pub repeated_captions: usize,
    /// Captions that cannot be used, or are not read as they are written.
    pub caption_faults: usize,
    /// Images with the caption that most images have, if that says nothing about them: more than one, and
    /// at least a tenth of all.
    pub sharing_a_caption: usize,
    /// Members of archives and entries of lists that form no sample.
    pub left_out: usize,
    /// Files of a folder that are images of formats that are not read.
    pub unread: usize,
    /// These by format, in a sentence.
    pub unread_formats: Option<String>,
    /// What is to be noted of the images that were decoded.
    pub notes: NoteCounts,
    /// The first problems, each kind in order of the source: images that cannot be used, what forms no sample
    /// and captions that cannot be used, then samples without captions and repetitions.
    pub problems: Vec<String>,
    /// What may help, and what a user should know about the source.
    pub hints: Vec<String>,
}

impl CheckReport {
    /// Whether there are samples, every one can be trained on, and nothing was left out.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.samples > 0
            && self.missing + self.unusable + self.blank_captions + self.without_captions == 0
            && self.repeated_samples + self.repeated_captions + self.left_out + self.unread == 0
            && self.caption_faults + self.sharing_a_caption == 0
    }
}

/// Counts what a source holds and names what is wrong.
///
/// # Errors
/// If the source cannot be read at all, or an annotation in it is malformed.
pub fn check(spec: &SourceSpec, options: &CheckOptions) -> Result<CheckReport> {
    Ok(check_contents(&read_source(spec)?, options))
}

/// The same for what was read already, of any task.
#[must_use]
pub fn check_contents(contents: &Contents, options: &CheckOptions) -> CheckReport {
    let Contents { samples, left_out, faults: captions, notes } = contents;
    let reader = ImageReader::new(options.options);
    let faults = picture_faults(samples, options, &reader);
    let is_unread = |s: &&Skipped| matches!(s.error.kind, ImageErrorKind::Unsupported(_));
    let unread = left_out.iter().filter(is_unread).count();
    let mut report = CheckReport {
        samples: samples.len(),
        left_out: left_out.len() - unread,
        unread,
        unread_formats: unread_formats(left_out),
        notes: reader.counts(),
        caption_faults: captions.len(),
        ..CheckReport::default()
    };
    if samples.is_empty() {
        report.problems.push("it holds no sample".into());
    }
    let mut keys = HashSet::new();
    let mut seen = HashSet::new();
    // Named last: a folder without captions would otherwise hide its broken images.
    let mut of_texts = Vec::new();
    for (sample, fault) in samples.iter().zip(faults) {
        let mut problems = Vec::new();
        keys.insert(sample.key.as_str());
        if let Some(Skipped { name, error }) = fault {
            match error.kind {
                ImageErrorKind::NotFound => report.missing += 1,
                _ => report.unusable += 1,
            }
            let room = options.max_problems > report.problems.len();
            let near = match &sample.location {
                Location::File(path) if room && error.kind == ImageErrorKind::NotFound => {
                    similar_file(path)
                }
                _ => None,
            };
            let near = near.map_or(String::new(), |near| format!("; {near}"));
            if room {
                report.problems.push(format!("{name}: {error}{near}"));
            }
        }
        let blank = sample.captions.iter().filter(|c| c.trim().is_empty()).count();
        report.captions += sample.captions.len() - blank;
        report.blank_captions += blank;
        if blank == sample.captions.len() {
            report.without_captions += 1;
            problems.push(format!("{}: no caption", sample.name));
        } else if blank > 0 {
            problems.push(format!("{}: {blank} blank captions", sample.name));
        }
        let words = sample.captions.iter().filter(|c| !c.trim().is_empty());
        let repeated = sample.captions.len() - blank - words.collect::<HashSet<_>>().len();
        if repeated > 0 {
            report.repeated_captions += repeated;
            problems.push(format!("{}: {repeated} captions repeated", sample.name));
        }
        let TaskFields { second, crops, target, .. } = &sample.task;
        let target = format!("{target:?}");
        if !seen.insert((&sample.location, &sample.captions, second, crops, target)) {
            report.repeated_samples += 1;
            problems.push(format!("{}: repeats an earlier sample", sample.name));
        }
        let room = options.max_problems.saturating_sub(of_texts.len());
        of_texts.extend(problems.into_iter().take(room));
    }
    let room = options.max_problems.saturating_sub(report.problems.len());
    let named = captions.iter().chain(left_out).map(|s| format!("{}: {}", s.name, s.error));
    report.problems.extend(named.take(room));
    let room = options.max_problems.saturating_sub(report.problems.len());
    report.problems.extend(of_texts.into_iter().take(room));
    report.distinct_images = keys.len();
    if options.texts_are_captions {
        share_of_one_caption(samples, &mut report, options);
    }
    report.hints = notes.clone();
    if report.missing > 0 {
        report.hints.extend(other_root(samples));
    }
    report
}

/// Counts the images with the most frequent caption where it says nothing about them: all have it, or at
/// least ten and a fifth of all.
fn share_of_one_caption(samples: &[Sample], report: &mut CheckReport, options: &CheckOptions) {
    let mut pairs: Vec<(&str, &str)> = samples
        .iter()
        .flat_map(|s| s.captions.iter().map(|c| (c.trim(), s.key.as_str())))
        .filter(|(caption, _)| !caption.is_empty())
        .collect();
    pairs.sort_unstable();
    pairs.dedup();
    let most = pairs.chunk_by(|a, b| a.0 == b.0).max_by_key(|same| same.len());
    let Some(same) = most else { return };
    let (n, images) = (same.len(), report.distinct_images);
    if n > 1 && (n == images || n >= 10 && n * 5 >= images) {
        report.sharing_a_caption = n;
        if report.problems.len() < options.max_problems {
            let caption: String = same[0].0.chars().take(60).collect();
            report.problems.push(format!(
                "{n} of {images} images share the caption `{caption}`, by which nothing tells them apart"
            ));
        }
    }
}

/// Of each sample the images that cannot be used, as one entry.
fn picture_faults(
    samples: &[Sample],
    options: &CheckOptions,
    reader: &ImageReader,
) -> Vec<Option<Skipped>> {
    let next = AtomicUsize::new(0);
    let faults = Mutex::new(vec![None; samples.len()]);
    std::thread::scope(|scope| {
        for _ in 0..options.workers.max(1) {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(sample) = samples.get(i) else { return };
                    let fault = sample.all_views(sample.views(), |view| match options.decode {
                        true => sample.read_view(view, reader).map(drop),
                        false => sample.present_view(view),
                    });
                    if let Err(fault) = fault {
                        faults.lock().unwrap_or_else(PoisonError::into_inner)[i] = Some(fault);
                    }
                }
            });
        }
    });
    faults.into_inner().unwrap_or_else(PoisonError::into_inner)
}
