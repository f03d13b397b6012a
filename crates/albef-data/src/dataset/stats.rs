//! What a run would see of its data.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;

use serde::Serialize;

use super::in_order::in_order;
use super::order::SourceShare;
use super::sample::Sample;
use super::set::Dataset;
use super::store::SampleSet;
use super::unread::unread_formats;
use crate::control::Control;
use crate::error::{ImageError, Result};
use crate::image::{Content, HEAD, content, image_size};
use crate::text::Tokenizer;

/// How data are counted.
#[derive(Clone, Debug)]
pub struct StatsOptions {
    /// The sources, as they were given; as many as the data set has, or none.
    pub sources: Vec<String>,
    /// Pairs of a step.
    pub batch_size: usize,
    /// Words of a caption that are kept.
    pub max_words: usize,
    /// Tokens of a caption that are kept, `[CLS]` counted.
    pub max_tokens: usize,
    /// Images whose headers are read, evenly spread over the data.
    pub images: usize,
    /// Threads.
    pub workers: usize,
}

/// The distribution of a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// The smallest.
    pub min: u64,
    /// Half are not larger.
    pub median: u64,
    /// 95 % are not larger.
    pub p95: u64,
    /// The largest.
    pub max: u64,
    /// The mean.
    pub mean: f64,
}

impl Summary {
    /// Of numbers with their counts.
    fn of(counts: &BTreeMap<u64, usize>) -> Self {
        let all: usize = counts.values().sum();
        let at = |share: f64| {
            let rank = ((all as f64 * share).ceil() as usize).max(1);
            let mut before = 0;
            let found = counts.iter().find(|(_, n)| {
                before += **n;
                before >= rank
            });
            found.map_or(0, |(number, _)| *number)
        };
        let sum: f64 = counts.iter().map(|(number, n)| *number as f64 * *n as f64).sum();
        let mean = if all == 0 { 0.0 } else { sum / all as f64 };
        Self { min: at(0.0), median: at(0.5), p95: at(0.95), max: at(1.0), mean }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { min, median, p95, max, mean } = self;
        write!(f, "{min} to {max}, mean {mean:.1}, median {median}, 95 % up to {p95}")
    }
}

/// A source in numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SourceStats {
    /// As it was given.
    pub source: String,
    /// Its weight in the mixture.
    pub weight: f64,
    /// Neighbors that are drawn at once.
    pub together: NonZeroUsize,
    /// Its share of an epoch.
    pub share: f64,
    /// Samples that a run draws from.
    pub samples: usize,
    /// Images that are left out since they have no caption.
    pub without_captions: usize,
    /// Entries and members that form no sample.
    pub left_out: usize,
    /// Captions that cannot be used, or not as they are written.
    pub caption_faults: usize,
}

/// What a run would see.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DataStats {
    /// Samples: an image with its captions each.
    pub samples: usize,
    /// Different images by their numbers.
    pub images: usize,
    /// Captions.
    pub captions: usize,
    /// Captions of a sample.
    pub captions_per_sample: Summary,
    /// Word pieces of a caption, `[CLS]` counted.
    pub pieces: Summary,
    /// Share of the captions whose end is not read.
    pub truncated: f64,
    /// Share of the captions with an unknown piece.
    pub unknown: f64,
    /// Pairs of a step.
    pub batch_size: usize,
    /// Steps of an epoch; the last incomplete batch is left out.
    pub steps_per_epoch: usize,
    /// The sources.
    pub sources: Vec<SourceStats>,
    /// Images whose headers were read.
    pub measured_images: usize,
    /// Widths of these.
    pub width: Summary,
    /// Heights of these.
    pub height: Summary,
    /// Formats of these.
    pub formats: BTreeMap<&'static str, usize>,
    /// Those of them that cannot be used, by class.
    pub unusable: BTreeMap<&'static str, usize>,
    /// What is left out of all sources, by class.
    pub left_out: BTreeMap<&'static str, usize>,
    /// Files of formats that are not read.
    pub unread_formats: Option<String>,
    /// What a user should know about the sources.
    pub notes: Vec<String>,
}

/// Counts what a run would see of a data set.
///
/// # Errors
/// If samples cannot be read back, or `control` is cancelled.
pub fn stats(
    data: &Dataset,
    tokenizer: &Tokenizer,
    options: &StatsOptions,
    control: &Control,
) -> Result<DataStats> {
    let mut out = DataStats {
        samples: data.len(),
        images: data.image_ids().iter().max().map_or(0, |most| *most as usize + 1),
        captions: 0,
        captions_per_sample: Summary::default(),
        pieces: Summary::default(),
        truncated: 0.0,
        unknown: 0.0,
        batch_size: options.batch_size,
        steps_per_epoch: data.len() / options.batch_size.max(1),
        sources: sources(data, options),
        measured_images: 0,
        width: Summary::default(),
        height: Summary::default(),
        formats: BTreeMap::new(),
        unusable: BTreeMap::new(),
        left_out: BTreeMap::new(),
        unread_formats: unread_formats(data.left_out()),
        notes: data.notes().to_vec(),
    };
    for skipped in data.left_out() {
        *out.left_out.entry(skipped.error.kind.name()).or_default() += 1;
    }
    texts(data, tokenizer, options, control, &mut out)?;
    images(data, options, control, &mut out)?;
    Ok(out)
}

fn sources(data: &Dataset, options: &StatsOptions) -> Vec<SourceStats> {
    let all: f64 = data.sources().iter().map(|s| s.samples as f64 * s.draw.weight).sum();
    let of = |(i, share): (usize, &SourceShare)| {
        let counts = data.counts().get(i).copied().unwrap_or_default();
        SourceStats {
            source: options.sources.get(i).cloned().unwrap_or_default(),
            weight: share.draw.weight,
            together: share.draw.together,
            share: share.samples as f64 * share.draw.weight / all.max(f64::MIN_POSITIVE),
            samples: share.samples,
            without_captions: counts.wordless,
            left_out: counts.left_out,
            caption_faults: counts.faults,
        }
    };
    data.sources().iter().enumerate().map(of).collect()
}

/// Numbers with their counts, and how many captions are truncated or have unknown pieces.
#[derive(Default)]
struct Counts {
    captions: BTreeMap<u64, usize>,
    pieces: BTreeMap<u64, usize>,
    truncated: usize,
    unknown: usize,
}

fn texts(
    data: &Dataset,
    tokenizer: &Tokenizer,
    options: &StatsOptions,
    control: &Control,
    out: &mut DataStats,
) -> Result<()> {
    /// Samples that are counted at a time.
    const PART: usize = 4096;
    let unknown = tokenizer.vocabulary().unk;
    let work = |part: usize| -> Result<Counts> {
        let mut counts = Counts::default();
        for i in part * PART..data.len().min((part + 1) * PART) {
            let sample = data.sample(i)?;
            *counts.captions.entry(sample.captions.len() as u64).or_default() += 1;
            for caption in &sample.captions {
                let whole = tokenizer.clean_caption(caption, usize::MAX);
                let kept = tokenizer.clean_caption(caption, options.max_words);
                let ids = tokenizer.encode(&whole);
                let cut = kept.len() < whole.len() || ids.len() > options.max_tokens;
                counts.truncated += usize::from(cut);
                counts.unknown += usize::from(ids.contains(&unknown));
                *counts.pieces.entry(ids.len() as u64).or_default() += 1;
            }
        }
        Ok(counts)
    };
    let mut all = Counts::default();
    let parts = data.len().div_ceil(PART);
    in_order("captions", parts, options.workers, control, work, |_, counts| {
        let counts = counts?;
        for (sum, part) in [(&mut all.captions, counts.captions), (&mut all.pieces, counts.pieces)]
        {
            part.into_iter().for_each(|(number, n)| *sum.entry(number).or_default() += n);
        }
        all.truncated += counts.truncated;
        all.unknown += counts.unknown;
        Ok(())
    })?;
    out.captions = all.pieces.values().sum();
    out.captions_per_sample = Summary::of(&all.captions);
    out.pieces = Summary::of(&all.pieces);
    let share = |n: usize| n as f64 / out.captions.max(1) as f64;
    (out.truncated, out.unknown) = (share(all.truncated), share(all.unknown));
    Ok(())
}

fn images(
    data: &Dataset,
    options: &StatsOptions,
    control: &Control,
    out: &mut DataStats,
) -> Result<()> {
    let count = options.images.min(data.len());
    let (mut widths, mut heights) = (BTreeMap::new(), BTreeMap::new());
    let work = |i: usize| {
        let at = (i as u128 * data.len() as u128 / count as u128) as usize;
        Ok(measure(&*data.sample(at)?))
    };
    in_order("images", count, options.workers, control, work, |_, found: Result<_>| {
        match found? {
            Ok((format, height, width)) => {
                *widths.entry(width as u64).or_default() += 1;
                *heights.entry(height as u64).or_default() += 1;
                *out.formats.entry(format).or_default() += 1;
            }
            Err(error) => *out.unusable.entry(error.kind.name()).or_default() += 1,
        }
        Ok(())
    })?;
    out.measured_images = count;
    (out.width, out.height) = (Summary::of(&widths), Summary::of(&heights));
    Ok(())
}

/// Format, height and width of the first image of a sample.
fn measure(sample: &Sample) -> Result<(&'static str, usize, usize), ImageError> {
    let bytes = sample.bytes()?;
    let (height, width) = image_size(&bytes)?;
    let format = match content(&bytes[..bytes.len().min(HEAD)]) {
        Content::Image(format) => format.name(),
        Content::Unread(name) => name,
        Content::Other => "other",
    };
    Ok((format, height, width))
}

impl fmt::Display for DataStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} samples of {} images, {} captions",
            self.samples, self.images, self.captions
        )?;
        writeln!(f, "captions of a sample: {}", self.captions_per_sample)?;
        writeln!(f, "word pieces of a caption: {}", self.pieces)?;
        writeln!(
            f,
            "{:.2} % of the captions are truncated, {:.2} % have unknown pieces",
            100.0 * self.truncated,
            100.0 * self.unknown
        )?;
        writeln!(f, "{} steps an epoch of {} pairs", self.steps_per_epoch, self.batch_size)?;
        for s in &self.sources {
            if !s.source.is_empty() {
                write!(f, "{}: ", s.source)?;
            }
            write!(
                f,
                "{} samples, weight {}, {:.1} % of an epoch",
                s.samples,
                s.weight,
                100.0 * s.share
            )?;
            if s.together.get() > 1 {
                write!(f, ", {} at once", s.together)?;
            }
            for (count, what) in [
                (s.without_captions, "images without captions"),
                (s.left_out, "entries or members that form no sample"),
                (s.caption_faults, "captions not used as they are written"),
            ] {
                if count > 0 {
                    write!(f, "; {count} {what}")?;
                }
            }
            writeln!(f)?;
        }
        if self.measured_images > 0 {
            let formats: Vec<String> =
                self.formats.iter().map(|(name, n)| format!("{name} {n}")).collect();
            writeln!(f, "{} images looked at: {}", self.measured_images, formats.join(", "))?;
            writeln!(f, "widths: {}", self.width)?;
            writeln!(f, "heights: {}", self.height)?;
        }
        for (kind, n) in &self.unusable {
            writeln!(f, "{n} of these cannot be used: {kind}")?;
        }
        self.unread_formats.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        self.notes.iter().try_for_each(|note| writeln!(f, "{note}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_has_the_ranks_of_its_numbers() {
        let counts = BTreeMap::from([(1, 50), (2, 44), (7, 5), (90, 1)]);
        let found = Summary::of(&counts);
        assert_eq!((found.min, found.median, found.p95, found.max), (1, 1, 7, 90));
        assert!((found.mean - 2.63).abs() < 1e-9);
        assert_eq!(Summary::of(&BTreeMap::new()), Summary::default());
    }
}
