//! Which members of an archive form a sample.
//!
//! Members of one key that follow each other do, as in webdataset. Where images and captions of a key stand apart, as in
//! archives with all images before all captions, they go together if nothing else can be meant: captions never go to
//! an image that may not be theirs.

use std::collections::HashMap;

use super::{ENDINGS, Parts, captions, cut};

/// What was found of an archive, by its place.
#[derive(Default)]
pub(super) struct Resolved {
    pub samples: Vec<Parts>,
    /// Captions whose image cannot be told, and why.
    pub astray: Vec<(Parts, String)>,
    /// Names of captions that repeat earlier ones of their sample.
    pub repeated: Vec<String>,
}

impl Parts {
    /// Whether it has captions; a JSON may hold something else.
    pub fn has_captions(&self) -> bool {
        let unread = |name: &str| matches!(&*field(name), "json" | "txt");
        let in_json = self.json.iter().flatten().any(|json| !captions(json).0.is_empty());
        in_json || self.text.is_some() || self.unread.iter().any(|(n, _)| unread(n))
    }

    /// Whether it has an image, be it one that is not read.
    pub fn has_image(&self) -> bool {
        self.image.is_some() || self.unread.iter().any(|(name, _)| is_image(name))
    }

    /// Whether nothing that stands elsewhere is missing.
    pub fn is_complete(&self) -> bool {
        self.has_image() && self.has_captions()
    }

    /// Adds members that stand elsewhere; of each kind the first counts.
    fn join(&mut self, later: Self, repeated: &mut Vec<String>) {
        let twice = [
            ("json", self.json.is_some() && later.json.is_some()),
            ("txt", self.text.is_some() && later.text.is_some()),
        ];
        let twice = twice.into_iter().filter(|(_, is)| *is);
        repeated.extend(twice.map(|(ending, _)| format!("{}.{ending}", self.key)));
        self.image = self.image.take().or(later.image);
        self.json = self.json.take().or(later.json);
        self.text = self.text.take().or(later.text);
        self.faults.extend(later.faults);
        self.others.extend(later.others);
        self.unread.extend(later.unread);
    }
}

fn field(name: &str) -> String {
    cut(name).1.to_lowercase()
}

/// Whether a member is named as an image.
pub(super) fn is_image(name: &str) -> bool {
    ENDINGS.contains(&&*field(name))
}

/// The samples of the runs of an archive: members of one key that follow each other. They are in order of appearance.
pub(super) fn resolve(runs: Vec<Parts>) -> Resolved {
    let mut of_key: HashMap<String, Vec<usize>> = HashMap::new();
    for (i, run) in runs.iter().enumerate() {
        match of_key.get_mut(&run.key) {
            Some(places) => places.push(i),
            None => drop(of_key.insert(run.key.clone(), vec![i])),
        }
    }
    let mut runs: Vec<Option<Parts>> = runs.into_iter().map(Some).collect();
    let mut out = Resolved::default();
    for i in 0..runs.len() {
        let Some(run) = &runs[i] else { continue };
        let places = &of_key[&run.key];
        if places[0] == i && places.len() > 1 {
            join_runs(&mut runs, places, &mut out);
        }
    }
    out.samples = runs.into_iter().flatten().collect();
    out
}

/// Joins the runs at these places, which are of one key. What is joined stays at the first place of it.
fn join_runs(runs: &mut [Option<Parts>], places: &[usize], out: &mut Resolved) {
    let is_complete = |i: &usize| is_at(runs, *i, Parts::is_complete);
    let some_complete = places.iter().any(is_complete);
    let between: Vec<Vec<usize>> = places.split(is_complete).map(<[_]>::to_vec).collect();
    for places in between {
        let images = places.iter().filter(|i| is_at(runs, **i, Parts::has_image)).count();
        match images {
            0 if some_complete => {
                let why = "it stands apart from the image and captions of its key and may be of another image";
                astray(runs, &places, why, out);
            }
            0 | 1 => join_at(runs, &places, out),
            _ => match by_image(runs, &places) {
                Some(samples) => samples.iter().for_each(|s| join_at(runs, s, out)),
                None => {
                    let why = "several images have its key, and of which one it is cannot be told";
                    astray(runs, &places, why, out);
                }
            },
        }
    }
}

fn is_at(runs: &[Option<Parts>], i: usize, what: fn(&Parts) -> bool) -> bool {
    runs[i].as_ref().is_some_and(what)
}

fn join_at(runs: &mut [Option<Parts>], places: &[usize], out: &mut Resolved) {
    let Some((first, later)) = places.split_first() else { return };
    for i in later {
        let later = runs[*i].take();
        if let (Some(whole), Some(later)) = (&mut runs[*first], later) {
            whole.join(later, &mut out.repeated);
        }
    }
}

/// Takes away what has captions but no image.
fn astray(runs: &mut [Option<Parts>], places: &[usize], why: &str, out: &mut Resolved) {
    for i in places {
        if !is_at(runs, *i, Parts::has_image) {
            out.astray.extend(runs[*i].take().map(|parts| (parts, why.to_owned())));
        }
    }
}

/// The runs of each image, where every image is followed, or every one preceded, by captions of the same kinds.
fn by_image(runs: &[Option<Parts>], places: &[usize]) -> Option<Vec<Vec<usize>>> {
    let has_image = |i: usize| is_at(runs, i, Parts::has_image);
    let mut ordered = places.to_vec();
    let backward = !has_image(*places.first()?);
    if backward {
        ordered.reverse();
    }
    if !has_image(*ordered.first()?) {
        return None;
    }
    let samples: Vec<Vec<usize>> =
        ordered.chunk_by(|_, next| !has_image(*next)).map(<[_]>::to_vec).collect();
    let kinds = |sample: &[usize]| {
        let of =
            |what: fn(&Parts) -> bool| sample.iter().filter(|i| is_at(runs, **i, what)).count();
        (of(|p| p.json.is_some()), of(|p| p.text.is_some()))
    };
    let first = kinds(&samples[0]);
    let alike = first.0 <= 1 && first.1 <= 1 && samples.iter().all(|s| kinds(s) == first);
    let forward = |mut sample: Vec<usize>| {
        sample.sort_unstable();
        sample
    };
    alike.then(|| samples.into_iter().map(forward).collect())
}
