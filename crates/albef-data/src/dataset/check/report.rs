//! The report of a check, as text and JSON.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value, json};

use crate::image::NoteCounts;

/// Captions in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CaptionCounts {
    /// Different ones.
    pub distinct: usize,
    /// Characters of the longest.
    pub longest: usize,
    /// The sample that has it.
    pub longest_of: String,
    /// Those that are no UTF-8, read or not.
    pub not_utf8: usize,
}

/// What a task finds in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskFault {
    /// Its name in JSON.
    pub key: &'static str,
    /// In words, after a number.
    pub about: &'static str,
    /// How many.
    pub count: usize,
    /// Whether the list is to be mended.
    pub is_problem: bool,
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
    /// Of these, images that end early.
    pub truncated: usize,
    /// Of these, images of more pixels than allowed.
    pub oversized: usize,
    /// Images that are missing or cannot be used, by class.
    pub unusable_by_kind: BTreeMap<&'static str, usize>,
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
    /// More of the captions.
    pub caption_counts: CaptionCounts,
    /// Images with the same bytes as an earlier one that lies elsewhere.
    pub duplicates: usize,
    /// Images that look like an earlier one, but have other bytes.
    pub near_duplicates: usize,
    /// Images with the same bytes as one of the other set.
    pub leaks: usize,
    /// Images that look like one of the other set, but have other bytes.
    pub near_leaks: usize,
    /// The first duplicates, images that look alike, and leaks.
    pub alike: Vec<String>,
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
    /// What the task of the list finds in it.
    pub of_task: Vec<TaskFault>,
}

impl CheckReport {
    /// Whether there are samples, every one can be trained on, nothing was left out, and none is in the other set.
    /// Duplicates are no fault: data sets have them.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.samples > 0
            && self.missing + self.unusable + self.blank_captions + self.without_captions == 0
            && self.repeated_samples + self.repeated_captions + self.left_out + self.unread == 0
            && self.caption_faults + self.sharing_a_caption + self.leaks + self.near_leaks == 0
            && self.of_task.iter().all(|fault| !fault.is_problem)
    }
}

impl CheckReport {
    /// The report as one object.
    #[must_use]
    pub fn json(&self) -> Value {
        let mut value = json!({
            "samples": self.samples, "captions": self.captions,
            "image_ids": self.distinct_images, "missing": self.missing,
            "unusable": self.unusable, "truncated": self.truncated, "oversized": self.oversized,
            "unusable_by_kind": self.unusable_by_kind, "blank_captions": self.blank_captions,
            "without_captions": self.without_captions,
            "repeated_samples": self.repeated_samples,
            "repeated_captions": self.repeated_captions, "left_out": self.left_out,
            "unread_files": self.unread, "oriented": self.notes.oriented,
            "transparent": self.notes.transparent, "animated": self.notes.animated,
            "caption_faults": self.caption_faults, "sharing_a_caption": self.sharing_a_caption,
            "distinct_captions": self.caption_counts.distinct,
            "longest_caption": self.caption_counts.longest,
            "longest_caption_of": self.caption_counts.longest_of,
            "captions_not_utf8": self.caption_counts.not_utf8,
            "duplicates": self.duplicates, "near_duplicates": self.near_duplicates,
            "leaks": self.leaks, "near_leaks": self.near_leaks, "alike": self.alike,
            "problems": self.problems, "hints": self.hints, "clean": self.is_clean()
        });
        for fault in &self.of_task {
            value[fault.key] = json!(fault.count);
        }
        value
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} samples, {} texts, {} image ids",
            self.samples, self.captions, self.distinct_images
        )?;
        let counts = [
            (self.missing, "samples whose image is missing"),
            (self.unusable, "samples whose image cannot be used"),
            (self.truncated, "of these images are truncated"),
            (self.oversized, "of these images are too large"),
            (self.without_captions, "samples without text"),
            (self.blank_captions, "blank texts"),
            (self.repeated_samples, "samples that repeat an earlier one"),
            (self.repeated_captions, "captions repeated within a sample"),
            (self.caption_faults, "captions that cannot be used, or not as they are written"),
            (self.sharing_a_caption, "images that share one caption"),
            (self.left_out, "entries or members of archives that form no sample"),
            (self.leaks, "images that are in the other set as well"),
            (self.near_leaks, "images that look like one of the other set"),
            (self.duplicates, "images with the same bytes as an earlier one"),
            (self.near_duplicates, "images that look like an earlier one"),
            (
                self.notes.oriented,
                "images carry an Exif orientation, which training applies on request only",
            ),
            (self.notes.transparent, "images are transparent, which training ignores by default"),
            (self.notes.animated, "images are animated; only their first frame is used"),
        ];
        let own = self.of_task.iter().map(|fault| (fault.count, fault.about));
        for (count, what) in counts.into_iter().chain(own).filter(|(count, _)| *count > 0) {
            writeln!(f, "{count} {what}")?;
        }
        let CaptionCounts { distinct, longest, longest_of, .. } = &self.caption_counts;
        if self.captions > 0 {
            writeln!(
                f,
                "{distinct} different texts; the longest has {longest} characters ({longest_of})"
            )?;
        }
        self.unread_formats.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        self.problems.iter().try_for_each(|problem| writeln!(f, "  {problem}"))?;
        self.alike.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        self.hints.iter().try_for_each(|hint| writeln!(f, "hint: {hint}"))
    }
}
