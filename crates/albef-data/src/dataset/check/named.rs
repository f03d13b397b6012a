//! How samples are named in a report: different ones differently, each in one line.

use std::collections::{HashMap, HashSet};

use super::super::numbers::Hash128;
use super::super::sample::{Location, Sample};
use super::super::store::SampleSet;
use crate::error::Result;
use crate::names;

/// The names that several files or several archives have, by their hashes.
pub(super) struct Named(HashSet<u64>);

impl Named {
    /// # Errors
    /// If samples cannot be read back.
    pub fn of<S: SampleSet + ?Sized>(samples: &S) -> Result<Self> {
        let (mut places, mut shared) = (HashMap::new(), HashSet::new());
        for i in 0..samples.count() {
            let sample = samples.sample(i)?;
            let place = match &sample.location {
                Location::File(path) => path,
                Location::Member { archive, .. } => archive,
            };
            let (name, place) = (Hash128::of(&sample.name).short(), Hash128::of(place).short());
            if *places.entry(name).or_insert(place) != place {
                shared.insert(name);
            }
        }
        Ok(Self(shared))
    }

    /// The name of a sample, with its place where another place has one of that name.
    pub fn name(&self, sample: &Sample) -> String {
        self.view_name(sample, &sample.name)
    }

    /// The same for `name`, which is that of an image of the sample.
    pub fn view_name(&self, sample: &Sample, name: &str) -> String {
        let shared = self.0.contains(&Hash128::of(&sample.name).short());
        match &sample.location {
            Location::Member { archive, .. } if shared => {
                names::shown(&format!("{}: {name}", names::text_of_path(archive)))
            }
            Location::File(path) if shared && name == sample.name => {
                names::shown(&names::text_of_path(path))
            }
            _ => names::shown(name),
        }
    }
}
