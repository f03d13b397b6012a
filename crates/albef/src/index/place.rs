//! Which index belongs to some folders, and opening it as current as it can be.

use std::path::{Path, PathBuf};

use albef_data::dataset::{Skipped, is_named_as_image, unread_formats};
use albef_data::names;
use albef_index::{
    Control, Embedded, Encoder, IndexError, Location, Status, Store, Update, UpdateOptions, Within,
    bytes_of, check_identity, default_folder, folders, indexes, path_of, update,
};

use super::IndexEncoder;
use crate::error::{Error, Result};

/// An index and the folders that it is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where the index is.
    pub index: Location,
    /// The absolute folders to be searched; empty for all of the index.
    pub folders: Vec<PathBuf>,
}

/// An index that is open.
pub struct OpenIndex {
    /// The index.
    pub store: Box<dyn Store>,
    /// What bringing it up to date did; `None` where that could not be.
    pub update: Option<Update>,
    /// Why it could not be brought up to date.
    pub stale: Option<String>,
}

impl std::fmt::Debug for OpenIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenIndex").field("stale", &self.stale).finish_non_exhaustive()
    }
}

/// Whether a path is a folder of images, rather than one of nothing but archives.
#[must_use]
pub fn is_photo_folder(path: &Path) -> bool {
    path.is_dir()
        && !std::fs::read_dir(path).is_ok_and(|entries| {
            let names: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            let count = |is: fn(&PathBuf) -> bool| names.iter().filter(|name| is(name)).count();
            let archives = count(|name| name.extension().is_some_and(|ending| ending == "tar"));
            // One archive among photographs makes no folder of archives, nor one image among archives another one.
            archives > 0 && archives >= count(|name| is_named_as_image(name))
        })
}

/// The folders of an index, without opening more than its catalogue.
fn roots_of(index: &Path) -> Option<(String, Vec<PathBuf>)> {
    let store = Embedded::read(index).ok()?;
    let roots = store.roots().ok()?.iter().map(|root| path_of(&root.path)).collect();
    Some((store.info().ok()?.fingerprint, roots))
}

impl Place {
    /// The index at `index` where that is given; else the one of just these folders, the nearest that has all of them, or
    /// the place for a new one. Without folders, the only index of this user, or the nearest that has the working directory. `fingerprint`: an index whose vectors are of
    /// this comes before the one of just these folders, if that has others.
    ///
    /// # Errors
    /// If a folder cannot be read, or nothing says which index is meant.
    pub fn find<P: AsRef<Path>>(
        given: &[P],
        index: Option<&Location>,
        fingerprint: Option<&str>,
    ) -> Result<Self> {
        let folders = folders(given)?;
        if let Some(index) = index {
            return Ok(Self { index: index.clone(), folders });
        }
        if folders.is_empty() {
            return Ok(Self { index: Location::Folder(only_index()?), folders });
        }
        let own = default_folder(&folders).ok_or_else(|| {
            Error::Argument(
                "there is no place for an index: neither XDG_DATA_HOME nor HOME is set; hint: name a folder \
                 for it with --index"
                    .into(),
            )
        })?;
        // One that cannot be read is not passed over in silence.
        let has_vectors = |index: &Path| {
            roots_of(index).is_none_or(|(found, _)| fingerprint.is_none_or(|f| f == found))
        };
        if Embedded::exists(&own) && has_vectors(&own) {
            return Ok(Self { index: Location::Folder(own), folders });
        }
        let index = nearest(&folders, fingerprint).unwrap_or(own);
        Ok(Self { index: Location::Folder(index), folders })
    }

    /// # Errors
    /// [`Error::NoImages`] if no folder has a file that looks like an image.
    fn check_has_images(&self, control: &Control) -> Result<()> {
        let mut unread = Vec::new();
        for folder in &self.folders {
            let found = albef_index::walk(folder, control)?;
            if !found.images.is_empty() {
                return Ok(());
            }
            unread.extend(found.unread);
        }
        let names: Vec<String> = self.folders.iter().map(|folder| shown(folder)).collect();
        match names.is_empty() {
            true => Ok(()),
            false => Err(no_images(&names.join(", "), &unread)),
        }
    }

    /// Opens the index for writing, makes it where there is none, and adds the folders that it does not have.
    /// `reencode`: forgets the vectors of another model.
    ///
    /// # Errors
    /// As [`Location::write`], and if there is no index and no folder to make one of.
    pub fn open_to_write(
        &self,
        encoder: &IndexEncoder<'_>,
        reencode: bool,
    ) -> Result<Box<dyn Store>> {
        if self.folders.is_empty() && !self.index.exists()? {
            let hint = "name the folders of your images as well";
            return Err(Error::Argument(format!("there is no index at {}; {hint}", self.index)));
        }
        let store = self.index.write(&encoder.identity(), reencode)?;
        encoder.use_states(&self.index)?;
        if reencode && encoder.kept_states().is_none() {
            self.renew_states(encoder)?;
        }
        let roots: Vec<PathBuf> = store.roots()?.iter().map(|root| path_of(&root.path)).collect();
        for folder in &self.folders {
            if !roots.iter().any(|root| folder.starts_with(root)) {
                store.add_root(&bytes_of(folder))?;
            }
        }
        Ok(store)
    }
}

/// What is said of a source without images.
fn no_images(source: &str, unread: &[Skipped]) -> Error {
    let hint = unread_formats(unread);
    let hint = hint.map_or(String::new(), |line| format!(": {line}; convert them to JPEG or PNG"));
    Error::NoImages { source_path: source.to_owned(), hint }
}

/// Of the indexes that have all of the folders, the one whose own folders are nearest above them.
fn nearest(folders: &[PathBuf], fingerprint: Option<&str>) -> Option<PathBuf> {
    let nearness = |index: &PathBuf| -> Option<usize> {
        let (found, roots) = roots_of(index)?;
        let wanted = fingerprint.is_none_or(|wanted| wanted == found);
        let above = |folder: &PathBuf| {
            let above = roots.iter().filter(|root| folder.starts_with(root));
            above.map(|root| root.components().count()).max()
        };
        folders.iter().map(above).sum::<Option<usize>>().filter(|_| wanted)
    };
    let near = indexes().into_iter().filter_map(|index| Some((nearness(&index)?, index)));
    near.max_by(|a, b| a.0.cmp(&b.0).then_with(|| b.1.cmp(&a.1))).map(|(_, index)| index)
}

/// The only index of this user, or the nearest that has the working directory.
fn only_index() -> Result<PathBuf> {
    let mut all = indexes();
    let here = || std::env::current_dir().and_then(|here| here.canonicalize()).ok();
    if all.len() > 1
        && let Some(found) = here().and_then(|here| nearest(&[here], None))
    {
        return Ok(found);
    }
    match all.len() {
        1 => Ok(all.remove(0)),
        0 => Err(Error::Argument(
            "there is no index yet; hint: name the folders of your images".into(),
        )),
        n => {
            let line = |index: &PathBuf| {
                let roots = roots_of(index).map_or_else(Vec::new, |(_, roots)| roots);
                let roots: Vec<String> = roots.iter().map(|r| shown(r)).collect();
                format!("\n  {}: {}", shown(index), roots.join(", "))
            };
            let list: String = all.iter().map(line).collect();
            Err(Error::Argument(format!(
                "there are {n} indexes; name the folders, or an index with --index:{list}"
            )))
        }
    }
}

fn shown(path: &Path) -> String {
    names::shown(&names::text_of_path(path))
}

/// Opens an index and brings it up to date, as far as it is about the folders of `place`; where it cannot be written,
/// because another process does or the folder is for reading only, as it is.
///
/// # Errors
/// If there is no index and none can be made, or it is damaged, of another model, or without room to grow.
/// [`Error::NoImages`] if there is none and the folders have no images: then none is made.
pub fn open_current(
    place: &Place,
    encoder: &IndexEncoder<'_>,
    options: &UpdateOptions,
    control: &Control,
) -> Result<OpenIndex> {
    if !place.index.exists()? {
        place.check_has_images(control)?;
    }
    let refused = match place.open_to_write(encoder, false) {
        Ok(store) => {
            let options = UpdateOptions { within: place.folders.clone(), ..options.clone() };
            let done = update(&*store, encoder, &options, control)?;
            return Ok(OpenIndex { store, update: Some(done), stale: None });
        }
        Err(Error::Index(e @ (IndexError::Locked { .. } | IndexError::Io { .. }))) => e,
        Err(e) => return Err(e),
    };
    let store = match place.index.read() {
        Ok(store) => store,
        // What kept it from being made says more.
        Err(IndexError::Missing { .. }) => return Err(refused.into()),
        Err(e) => return Err(e.into()),
    };
    check_identity(&*store, &encoder.identity())?;
    encoder.use_states(&place.index)?;
    // What it does not have cannot be added now, and would be missing without a word.
    let roots: Vec<PathBuf> = store.roots()?.iter().map(|root| path_of(&root.path)).collect();
    if !place.folders.iter().all(|folder| roots.iter().any(|root| folder.starts_with(root))) {
        return Err(refused.into());
    }
    Ok(OpenIndex { store, update: None, stale: Some(refused.to_string()) })
}

/// Opens an index for reading, whatever its model.
///
/// # Errors
/// As [`Location::read`].
pub fn open_to_read(place: &Place) -> Result<Box<dyn Store>> {
    Ok(place.index.read()?)
}

/// Opens the part of an index for reading that is below the folders of `place`, or all of it without folders.
///
/// # Errors
/// As [`Location::read`].
pub fn open_part(place: &Place) -> Result<Box<dyn Store>> {
    let store = open_to_read(place)?;
    Ok(match place.folders.is_empty() {
        true => store,
        false => Box::new(Within::new(store, place.folders.clone())),
    })
}

/// What bringing an index up to date would do, as far as names, sizes and times of files tell. Nothing is written, not
/// even where there is no index yet.
///
/// # Errors
/// As [`update`].
pub fn dry_run(place: &Place, encoder: &IndexEncoder<'_>, control: &Control) -> Result<Update> {
    let (mut report, mut roots) = (Update::default(), Vec::new());
    if place.index.exists()? {
        let store = place.index.read()?;
        let within = place.folders.clone();
        let options = UpdateOptions { dry_run: true, within, ..UpdateOptions::default() };
        report = update(&*store, encoder, &options, control)?;
        roots = store.roots()?.iter().map(|root| path_of(&root.path)).collect();
    }
    for folder in &place.folders {
        if !roots.iter().any(|root| folder.starts_with(root)) {
            let found = albef_index::walk(folder, control)?;
            report.found += found.images.len() as u64;
            report.added += found.images.len() as u64;
            report.unread += found.unread.len() as u64;
            report.unread_files.extend(found.unread);
        }
    }
    Ok(report)
}

impl OpenIndex {
    /// # Errors
    /// If the index has no image, or none that can be used: then there is nothing to search.
    pub fn check_not_empty(&self, source: &str) -> Result<()> {
        let info = self.store.info()?;
        if info.images > 0 {
            return Ok(());
        }
        if let (0, Some(_)) = (info.broken, &self.stale) {
            return Err(Error::Argument(format!(
                "the index of {source} has no image yet: another process is making it; try again in a moment"
            )));
        }
        let source = if source.is_empty() { &format!("the index {}", info.place) } else { source };
        if info.broken == 0 {
            let unread = self.update.as_ref().map_or(&[][..], |u| &u.unread_files);
            return Err(no_images(source, unread));
        }
        let mut first = String::new();
        self.store.for_each(&mut |record| {
            if let (true, Status::Broken(reason)) = (first.is_empty(), &record.image.status) {
                let name = names::shown(&names::text_of(&record.image.path));
                first = format!("; the first is {name}: {reason}");
            }
            Ok(())
        })?;
        let images = usize::try_from(info.broken).unwrap_or(usize::MAX);
        Err(Error::NoUsableImages { images, place: format!(" in {source}"), hint: first })
    }
}
