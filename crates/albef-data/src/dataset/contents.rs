//! What a source holds.

use std::collections::HashMap;

use super::sample::{Sample, Skipped};

/// What sources hold; `S` keeps the samples.
#[derive(Clone, Debug, Default)]
pub struct Gathered<S> {
    /// Its samples.
    pub samples: S,
    /// Members of its archives and entries of its lists that form no sample.
    pub left_out: Vec<Skipped>,
    /// Captions of its samples that cannot be used, or were not read as they are written.
    pub faults: Vec<Skipped>,
    /// What a user should know about the source.
    pub notes: Vec<String>,
}

/// What a source holds, its samples in a list.
pub type Contents = Gathered<Vec<Sample>>;

impl Contents {
    /// Adds what another source holds.
    pub fn extend(&mut self, other: Self) {
        self.samples.extend(other.samples);
        self.left_out.extend(other.left_out);
        self.faults.extend(other.faults);
        self.notes.extend(other.notes);
    }

    /// Samples of one image become one with the captions of all, in the place of the first, as an image
    /// with a list of captions has them. Its key is that of the first.
    #[must_use]
    pub fn joined(mut self) -> Self {
        let mut place = HashMap::new();
        let (mut kept, mut joined) = (Vec::<Sample>::with_capacity(self.samples.len()), 0);
        for sample in self.samples {
            let of = (sample.location.clone(), sample.task.second.clone(), sample.task.crops);
            let at = *place.entry(of).or_insert(kept.len());
            match kept.get_mut(at) {
                Some(first) => {
                    first.captions.extend(sample.captions);
                    joined += 1;
                }
                None => kept.push(sample),
            }
        }
        if joined > 0 {
            let (entries, images) = (kept.len() + joined, kept.len());
            self.notes.push(format!(
                "{entries} entries are of {images} images; the captions of each are joined"
            ));
        }
        Self { samples: kept, ..self }
    }
}

impl From<Vec<Sample>> for Contents {
    fn from(samples: Vec<Sample>) -> Self {
        Self { samples, ..Self::default() }
    }
}
