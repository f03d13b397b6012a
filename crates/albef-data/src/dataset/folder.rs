//! A folder of images with captions beside them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::annotation::{self, Root};
use super::contents::Gathered;
use super::entries::has_rows;
use super::sample::{Location, Sample, Skipped, TaskFields, place_key};
use super::shard;
use super::store::Collect;
use super::tasks::first_entry;
use super::unread::{Looks, looks, refusal};
use crate::error::{DataError, ImageError, ImageErrorKind, Result};
use crate::names;

/// The list of a folder's images, if it has one: this program's, or that of an image folder of Hugging Face, which has
/// a `file_name` in each entry.
pub(super) fn list_in(folder: &Path) -> Option<PathBuf> {
    let own = ["captions.jsonl", "captions.csv", "captions.tsv"];
    let own = own.into_iter().map(|list| folder.join(list)).find(|list| list.is_file());
    let others = ["metadata.jsonl", "metadata.csv"].into_iter().map(|list| folder.join(list));
    let has_names = |list: &PathBuf| {
        list.is_file() && first_entry(list).is_some_and(|entry| entry["file_name"].is_string())
    };
    own.or_else(|| others.into_iter().find(has_names))
}

/// Reads the list of the folder ([`list_in`]), or the `.txt` beside each image; an image without
/// captions is kept, for searching; so is one that the list does not name, if `with_unnamed`. A folder of nothing but
/// archives gives their samples.
pub(super) fn read<S: Collect>(
    folder: &Path,
    with_unnamed: bool,
    out: &mut Gathered<S>,
) -> Result<()> {
    if let Some(list) = list_in(folder) {
        if !with_unnamed {
            return annotation::read(&list, None, Root::Folder(folder), out);
        }
        let named = read_list(&list, folder, out)?;
        return read_unnamed(&list, named, folder, out);
    }
    out.notes.extend(lists_not_read(folder));
    let (mut files, mut left_out) = images_below(folder)?;
    files.sort();
    left_out.sort_by(|a, b| a.name.cmp(&b.name));
    let is_unread = |s: &Skipped| matches!(s.error.kind, ImageErrorKind::Unsupported(_));
    if files.is_empty() && left_out.iter().all(is_unread) {
        shard::read_all(&archives(folder)?, out)?;
    } else {
        if let archives @ [first, ..] = &archives(folder)?[..] {
            out.notes.push(format!(
                "{} archives in the folder are not read, since images lie beside them; the first is {}",
                archives.len(),
                names::shown(&names::text_of_path(first))
            ));
        }
        contents_of(files, folder, out);
    }
    out.left_out.extend(left_out);
    Ok(())
}

/// Samples on their way to where they are collected, of which the paths are kept.
struct Named<'a, S> {
    samples: &'a mut S,
    paths: HashSet<PathBuf>,
}

impl<S: Collect> Collect for Named<'_, S> {
    fn push(&mut self, sample: Sample) {
        if let Location::File(path) = &sample.location {
            self.paths.insert(path.clone());
        }
        self.samples.push(sample);
    }

    fn given(&self) -> usize {
        self.samples.given()
    }
}

/// Reads a list of images of a folder, and returns their paths.
fn read_list<S: Collect>(
    list: &Path,
    folder: &Path,
    out: &mut Gathered<S>,
) -> Result<HashSet<PathBuf>> {
    let samples = Named { samples: &mut out.samples, paths: HashSet::new() };
    let (left_out, faults, notes) = (Vec::new(), Vec::new(), Vec::new());
    let mut found = Gathered { samples, left_out, faults, notes };
    annotation::read(list, None, Root::Folder(folder), &mut found)?;
    let Gathered { samples: Named { paths, .. }, left_out, faults, notes } = found;
    out.left_out.extend(left_out);
    out.faults.extend(faults);
    out.notes.extend(notes);
    Ok(paths)
}

/// Files by where they are, however their paths are written.
#[derive(Default)]
struct Places {
    folders: HashMap<PathBuf, PathBuf>,
}

impl Places {
    fn of(&mut self, file: &Path) -> PathBuf {
        let (Some(folder), Some(name)) = (file.parent(), file.file_name()) else {
            return file.to_owned();
        };
        if let Some(found) = self.folders.get(folder) {
            return found.join(name);
        }
        let place = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
        let found = place.join(name);
        self.folders.insert(folder.to_owned(), place);
        found
    }
}

/// Adds the images of a folder that its list does not name, which have no captions.
fn read_unnamed<S: Collect>(
    list: &Path,
    named: HashSet<PathBuf>,
    folder: &Path,
    out: &mut Gathered<S>,
) -> Result<()> {
    let mut places = Places::default();
    let named: HashSet<PathBuf> = named.iter().map(|file| places.of(file)).collect();
    let (mut files, left_out) = images_below(folder)?;
    files.retain(|file| !named.contains(&places.of(file)));
    files.sort();
    if let [first, ..] = &files[..] {
        let shown = |path: &Path| names::shown(&names::text_of_path(path));
        let images = match files.len() {
            1 => "1 image".to_owned(),
            n => format!("{n} images"),
        };
        let (list, first) = (shown(list), shown(first));
        out.notes
            .push(format!("{list} does not name {images} of its folder; the first is {first}"));
    }
    files.into_iter().for_each(|file| out.samples.push(sample(file, folder, Vec::new())));
    out.left_out.extend(left_out);
    Ok(())
}

/// Images below `folder`, each with the captions of the `.txt` beside it. A caption file that cannot be
/// used costs its image the captions only.
pub(super) fn contents_of<S: Collect>(images: Vec<PathBuf>, folder: &Path, out: &mut Gathered<S>) {
    for path in images {
        let texts = ["txt", "TXT"].map(|ending| path.with_extension(ending));
        let text = texts.iter().find(|text| text.is_file()).unwrap_or(&texts[0]);
        let mut captions = Vec::new();
        if text.is_file() {
            let fault = match fs::read(text) {
                Ok(bytes) => {
                    let (found, fault) = annotation::caption_lines(&bytes);
                    captions = found;
                    fault
                }
                Err(cause) => Some(cause.to_string()),
            };
            let name = || names::text_of_path(text.strip_prefix(folder).unwrap_or(text));
            out.faults.extend(fault.map(|f| Skipped::new(name(), ImageErrorKind::Caption, f)));
        }
        out.samples.push(sample(path, folder, captions));
    }
}

fn sample(path: PathBuf, folder: &Path, captions: Vec<String>) -> Sample {
    let name = names::text_of_path(path.strip_prefix(folder).unwrap_or(&path));
    let location = Location::File(path);
    let (key, task) = (place_key(&location, &name), TaskFields::default());
    Sample { key, location, name, captions, task }
}

/// What to say of lists that seem to be of the images of a folder, but are not read with it.
fn lists_not_read(folder: &Path) -> Option<String> {
    const OF_HUGGING_FACE: [&str; 2] = ["metadata.jsonl", "metadata.csv"];
    const DOWNLOADS: [&str; 5] = [
        "captions.txt",
        "results.csv",
        "results.token",
        "results_20130124.token",
        "Flickr8k.token.txt",
    ];
    let shown = |path: &Path| names::shown(&names::text_of_path(path));
    let there = |names: &[&str]| names.iter().map(|n| folder.join(n)).find(|list| list.is_file());
    if let Some(list) = there(&OF_HUGGING_FACE) {
        return Some(format!(
            "{} is not read, since its entries have no `file_name`, the path of an image",
            shown(&list)
        ));
    }
    if let Some(list) = there(&DOWNLOADS).filter(|list| has_rows(list)) {
        let list = shown(&list);
        return Some(format!(
            "{list} is not read with the folder; name the list itself, with the folder of its images as image root"
        ));
    }
    let entries = fs::read_dir(folder).ok()?.filter_map(Result::ok);
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut below: Vec<PathBuf> = folders.map(|entry| entry.path()).collect();
    below.sort();
    let of_part = below.iter().find_map(|part| list_in(part))?;
    Some(format!("{} is not read with the folder above it; name its own folder", shown(&of_part)))
}

fn archives(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut archives = Vec::new();
    for entry in fs::read_dir(folder).map_err(DataError::io(folder))? {
        let path = entry.map_err(DataError::io(folder))?.path();
        if shard::is_archive(&names::text_of_path(&path)) {
            archives.push(path);
        }
    }
    archives.sort();
    Ok(archives)
}

/// The images below a folder, and what below it cannot be read: folders, and images of other formats. Folders that links lead to are
/// walked after all others, and none twice: a link may lead back up.
fn images_below(top: &Path) -> Result<(Vec<PathBuf>, Vec<Skipped>)> {
    let (mut files, mut left_out, mut walked) = (Vec::new(), Vec::new(), HashSet::new());
    let mut open = vec![top.to_owned()];
    let mut links = BTreeSet::new();
    while let Some(folder) = open.pop().or_else(|| links.pop_first()) {
        let opened = fs::canonicalize(&folder).and_then(|at| Ok((at, fs::read_dir(&folder)?)));
        let entries = match opened {
            Ok((at, _)) if walked.contains(&at) => continue,
            Ok((at, entries)) => {
                walked.insert(at);
                entries
            }
            Err(cause) if folder == top => return Err(DataError::io(top)(cause)),
            Err(cause) => {
                let detail = format!("the folder cannot be read: {cause}");
                let error = ImageError { kind: ImageErrorKind::Io, detail };
                left_out.push(Skipped { name: folder.display().to_string(), error });
                continue;
            }
        };
        for entry in entries {
            let entry = entry.map_err(DataError::io(&folder))?;
            let path = entry.path();
            // Some systems leave `._name.jpg` beside each file, which is no image.
            if path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b".")) {
                continue;
            }
            let kind = entry.file_type().map_err(DataError::io(&path))?;
            if kind.is_dir() {
                open.push(path);
            } else if path.is_dir() {
                links.insert(path);
            } else {
                match looks(&path) {
                    Looks::Image => files.push(path),
                    Looks::Unread(format) => {
                        let name = path.strip_prefix(top).unwrap_or(&path).display().to_string();
                        left_out.push(Skipped { name, error: refusal(format) });
                    }
                    Looks::Other => {}
                }
            }
        }
    }
    Ok((files, left_out))
}
