//! The data of a training run.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet, btree_map};
use std::iter::repeat_n;
use std::path::Path;

use super::contents::{Contents, Gathered};
use super::numbers::{Hash128, Numbers};
use super::order::{Draw, SourceShare};
use super::sample::{Sample, Skipped};
use super::source::{SourceSpec, read_into};
use super::store::{Collect, SampleSet, Samples, too_many};
use super::tasks::first_entry;
use super::unread::unread_formats;
use crate::error::{DataError, Result};
use crate::names;

/// The data of a training run: samples of several sources and the numbers of their images. Millions take
/// little memory, as [`Samples`] do.
#[derive(Debug)]
pub struct Dataset {
    samples: Samples,
    image_ids: Vec<u32>,
    sources: Vec<SourceShare>,
    wordless: Samples,
    left_out: Vec<Skipped>,
    /// What could not be used of each source.
    counts: Vec<SourceCounts>,
    notes: Vec<String>,
}

/// What could not be used of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SourceCounts {
    /// Images without a caption.
    pub wordless: usize,
    /// Entries and members that form no sample.
    pub left_out: usize,
    /// Captions that cannot be used, or not as they are written.
    pub faults: usize,
}

/// The samples of sources while they are read.
#[derive(Default)]
struct Captioned {
    samples: Samples,
    numbers: Numbers,
    image_ids: Vec<u32>,
    /// Images without a caption.
    wordless: Samples,
    /// Whether blank captions, and images with no others, are left out.
    drops_blank: bool,
}

impl Collect for Captioned {
    fn push(&mut self, mut sample: Sample) {
        if self.drops_blank {
            if sample.captions.iter().all(|c| c.trim().is_empty()) {
                self.wordless.push(sample);
                return;
            }
            sample.captions.retain(|c| !c.trim().is_empty());
        }
        self.image_ids.push(self.numbers.of(&sample.key));
        self.samples.push(sample);
    }

    fn given(&self) -> usize {
        self.samples.len() + self.wordless.len()
    }
}

/// Numbers of images by their keys: equal keys have one, in order of first appearance.
pub fn image_numbers<'a>(keys: impl IntoIterator<Item = &'a str>) -> Vec<u32> {
    let mut numbers = Numbers::default();
    keys.into_iter().map(|key| numbers.of(key)).collect()
}

impl Dataset {
    /// Opens sources for training and numbers their images: equal keys of one source get one number, in
    /// order of first appearance; those of several only where they are of one image. Blank captions, and
    /// images with no others, are left out.
    ///
    /// # Errors
    /// If a source cannot be read, or no image with a caption is in any.
    pub fn open(specs: &[SourceSpec]) -> Result<Self> {
        let (mut sources, mut counts) = (Vec::new(), Vec::new());
        let samples = Captioned { drops_blank: true, ..Captioned::default() };
        let mut all = Gathered { samples, left_out: vec![], faults: vec![], notes: vec![] };
        let (mut left_out, mut notes) = (Vec::new(), Vec::new());
        for spec in specs {
            let weight = spec.draw.weight;
            if !(weight.is_finite() && weight > 0.0) {
                let detail = format!("weight {weight} must be above 0");
                return Err(DataError::annotation(Path::new(&spec.path), String::new(), detail));
            }
            let (before, wordless) = (all.samples.samples.len(), all.samples.wordless.len());
            read_into(spec, &mut all).map_err(|error| of_task(spec).unwrap_or(error))?;
            let count = SourceCounts {
                wordless: all.samples.wordless.len() - wordless,
                left_out: all.left_out.len(),
                faults: all.faults.len(),
            };
            let share =
                SourceShare { samples: all.samples.samples.len() - before, draw: spec.draw };
            whole(&spec.path, share, count)?;
            counts.push(count);
            sources.push(share);
            // Those of one source stay together.
            left_out.append(&mut all.left_out);
            left_out.append(&mut all.faults);
            notes.append(&mut all.notes);
        }
        let Captioned { samples, numbers, image_ids, wordless, .. } = all.samples;
        if samples.is_empty() {
            return Err(nothing(specs, wordless.len(), &left_out));
        }
        if u32::try_from(samples.len()).is_err() {
            return Err(too_many());
        }
        let count = numbers.len();
        // The table of keys is by far the largest part, and is not needed any more.
        drop(numbers);
        notes.extend(samples.note());
        let mut all = Self { samples, image_ids, sources, wordless, left_out, counts, notes };
        let paths: Vec<&str> = specs.iter().map(|s| s.path.as_str()).collect();
        let lines = all.tell_apart(&paths, count)?;
        all.notes.extend(lines);
        Ok(all)
    }

    /// Gives images of their own numbers to keys that another source has for other images; a line for each
    /// pair of sources. `count`: numbers that were given.
    fn tell_apart(&mut self, paths: &[&str], count: usize) -> Result<Vec<String>> {
        let appearances = self.shared_numbers(count)?;
        // The source whose number another one takes over, since they have an image in common.
        let mut leaders: HashMap<(u32, u32), u32> = HashMap::new();
        // Sources that need a number of their own, and the first source that has theirs.
        let mut fresh: Vec<(u32, u32, u32)> = Vec::new();
        for of_number in appearances.chunk_by(|a, b| a.number == b.number) {
            let mut known: Vec<(u32, HashSet<Hash128>)> = Vec::new();
            for of_source in of_number.chunk_by(|a, b| a.source == b.source) {
                let Appearance { number, source, .. } = of_source[0];
                let places = of_source.iter().map(|a| a.place);
                let same = known
                    .iter_mut()
                    .find(|(_, seen)| places.clone().any(|place| seen.contains(&place)));
                if let Some((leader, seen)) = same {
                    leaders.insert((number, source), *leader);
                    seen.extend(places);
                    continue;
                }
                if let Some((first, _)) = known.first() {
                    fresh.push((source, number, *first));
                }
                known.push((source, places.collect()));
            }
        }
        fresh.sort_unstable();
        let mut notes: BTreeMap<(u32, u32), (String, usize)> = BTreeMap::new();
        let mut own: HashMap<(u32, u32), u32> = HashMap::new();
        for (next, (source, number, first)) in fresh.into_iter().enumerate() {
            own.insert((number, source), (count + next) as u32);
            let at = appearances.partition_point(|a| (a.number, a.source) < (number, source));
            let note = match notes.entry((first, source)) {
                btree_map::Entry::Occupied(known) => known.into_mut(),
                btree_map::Entry::Vacant(new) => {
                    let sample = self.samples.sample(appearances[at].sample as usize)?;
                    new.insert((sample.key.clone(), 0))
                }
            };
            note.1 += 1;
        }
        for Appearance { number, source, sample, .. } in appearances {
            let leader = leaders.get(&(number, source)).copied().unwrap_or(source);
            if let Some(own) = own.get(&(number, leader)) {
                self.image_ids[sample as usize] = *own;
            }
        }
        let line = |((a, b), (key, n)): ((u32, u32), (String, usize))| {
            format!(
                "{} and {} both have `image_id` {key} for different images: {n} ids are told apart",
                paths[a as usize], paths[b as usize]
            )
        };
        Ok(notes.into_iter().map(line).collect())
    }

    /// The samples whose number several sources have, by number and source. Few numbers are; places are
    /// compared for those only.
    fn shared_numbers(&self, count: usize) -> Result<Vec<Appearance>> {
        const NONE: u32 = u32::MAX;
        let mut first_source = vec![NONE; count];
        let mut shared = vec![false; count];
        let source_of = || {
            let repeated =
                |(source, share): (usize, &SourceShare)| repeat_n(source as u32, share.samples);
            self.sources.iter().enumerate().flat_map(repeated)
        };
        for (number, source) in self.image_ids.iter().zip(source_of()) {
            let first = &mut first_source[*number as usize];
            match *first {
                NONE => *first = source,
                other => shared[*number as usize] |= other != source,
            }
        }
        let mut found = Vec::new();
        if !shared.contains(&true) {
            return Ok(found);
        }
        drop(first_source);
        for ((i, sample), source) in self.samples.iter().enumerate().zip(source_of()) {
            let number = self.image_ids[i];
            if shared[number as usize] {
                let place = Hash128::of(&sample?.location);
                found.push(Appearance { number, source, sample: i as u32, place });
            }
        }
        found.sort_unstable_by_key(|a| (a.number, a.source, a.sample));
        Ok(found)
    }

    /// A data set of what was read already.
    #[must_use]
    pub fn from_contents(contents: Contents) -> Self {
        let Contents { samples, mut left_out, faults, mut notes } = contents;
        let (lost, faulty) = (left_out.len(), faults.len());
        left_out.extend(faults);
        let all = Self::from_samples(samples);
        notes.extend(all.samples.note());
        let counts = vec![SourceCounts { wordless: 0, left_out: lost, faults: faulty }];
        Self { left_out, counts, notes, ..all }
    }

    /// A data set of several sources that were read already, by their paths. With `draws` each is a source of its own,
    /// whose samples are drawn as they say.
    ///
    /// # Errors
    /// If neighbors are to be drawn together of a source that lacks some.
    pub fn mixed(parts: Vec<(&str, Contents)>, draws: Option<&[Draw]>) -> Result<Self> {
        let (mut sources, mut counts) = (Vec::new(), Vec::new());
        let mut all = Contents::default();
        for (i, (path, part)) in parts.into_iter().enumerate() {
            let (left_out, faults) = (part.left_out.len(), part.faults.len());
            let count = SourceCounts { wordless: 0, left_out, faults };
            let draw = draws.and_then(|draws| draws.get(i).copied()).unwrap_or_default();
            let share = SourceShare { samples: part.samples.len(), draw };
            whole(path, share, count)?;
            counts.push(count);
            sources.push(share);
            all.extend(part);
        }
        let all = Self::from_contents(all);
        Ok(if draws.is_some() { Self { sources, counts, ..all } } else { all })
    }

    /// A data set of samples at hand.
    #[must_use]
    pub fn from_samples(samples: Vec<Sample>) -> Self {
        let mut all = Captioned::default();
        samples.into_iter().for_each(|sample| all.push(sample));
        let Captioned { samples, image_ids, wordless, .. } = all;
        let sources = vec![SourceShare { samples: samples.len(), ..SourceShare::default() }];
        let counts = vec![SourceCounts::default()];
        let (left_out, notes) = (Vec::new(), Vec::new());
        Self { samples, image_ids, sources, wordless, left_out, counts, notes }
    }

    /// The samples.
    #[must_use]
    pub fn samples(&self) -> &Samples {
        &self.samples
    }

    /// The image number of each sample.
    #[must_use]
    pub fn image_ids(&self) -> &[u32] {
        &self.image_ids
    }

    /// Number of samples of each source, and how they are drawn.
    #[must_use]
    pub fn sources(&self) -> &[SourceShare] {
        &self.sources
    }

    /// What could not be used of each source.
    pub(super) fn counts(&self) -> &[SourceCounts] {
        &self.counts
    }

    /// Images that [`Dataset::open`] left out because they have no caption.
    #[must_use]
    pub fn without_captions(&self) -> usize {
        self.wordless.len()
    }

    /// These images, each with the blank captions that it has.
    #[must_use]
    pub fn wordless(&self) -> &Samples {
        &self.wordless
    }

    /// What [`Dataset::open`] could not use: members of archives and entries of lists that form no sample,
    /// and faulty captions.
    #[must_use]
    pub fn left_out(&self) -> &[Skipped] {
        &self.left_out
    }

    /// What a user should know about the sources.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Number of samples.
    #[must_use]
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }
}

impl SampleSet for Dataset {
    fn count(&self) -> usize {
        self.len()
    }

    fn sample(&self, index: usize) -> Result<Cow<'_, Sample>> {
        self.samples.sample(index)
    }
}

/// A sample whose image number several sources have.
struct Appearance {
    number: u32,
    source: u32,
    sample: u32,
    /// Of the place of its image.
    place: Hash128,
}

/// Neighbors can only be told where every entry of a source is a sample.
fn whole(path: &str, share: SourceShare, counts: SourceCounts) -> Result<()> {
    let together = share.draw.together.get();
    let lost = counts.wordless + counts.left_out;
    let detail = if together == 1 {
        return Ok(());
    } else if lost > 0 {
        format!("entries of this one form no sample: {lost} (`albef data check` names them)")
    } else if !share.samples.is_multiple_of(together) {
        format!("its {} samples are no multiple of that", share.samples)
    } else {
        return Ok(());
    };
    let detail = format!(
        "`together: {together}` needs a source of whole groups of neighbors, and {detail}; complete it, or leave \
         `together` out"
    );
    Err(DataError::annotation(&names::path_of(path), String::new(), detail))
}

/// The error about the list of a task, known by a key of its first entry, in the place of images with captions.
fn of_task(spec: &SourceSpec) -> Option<DataError> {
    let path = names::path_of(&spec.path);
    let entry = path.is_file().then(|| first_entry(&path))??;
    let has = |key: &&str| entry.get(key).is_some();
    if ["caption", "text"].iter().any(has) {
        return None;
    }
    let key = ["question", "sentence", "sentence2", "images", "label"].into_iter().find(has)?;
    let detail = format!(
        "its entries have `{key}` and no captions, so it is the list of a task; only images with captions are \
         packed into shards and pre-trained on. A task reads its list itself, with the image files \
         (`albef data check LIST --task TASK`)"
    );
    Some(DataError::annotation(&path, String::new(), detail))
}

/// The error about sources without an image that has a caption.
fn nothing(specs: &[SourceSpec], wordless: usize, left_out: &[Skipped]) -> DataError {
    let path = specs.first().map_or("(no source)", |s| s.path.as_str());
    if let Some(error) = specs.iter().find_map(of_task) {
        return error;
    }
    let detail = match (wordless, left_out.first()) {
        (0, None) => "no image was found: a data set needs images with captions".to_owned(),
        (0, Some(_)) if unread_formats(left_out).is_some() => format!(
            "no image was found: {}; convert them to JPEG or PNG",
            unread_formats(left_out).unwrap_or_default()
        ),
        (0, Some(first)) => format!(
            "no image was found: {} members were left out, first {}: {}",
            left_out.len(),
            first.name,
            first.error
        ),
        (n, Some(first)) => {
            format!(
                "none of its {n} images has a caption; the first: {}: {}",
                first.name, first.error
            )
        }
        (n, None) => format!(
            "none of its {n} images has a caption; hint: put `captions.jsonl`, `captions.csv` or a \
             `.txt` beside each image"
        ),
    };
    DataError::annotation(Path::new(path), String::new(), detail)
}
