//! Whether the files of a recipe exist and can be read.

use std::fs;
use std::path::{Path, PathBuf};

use albef::checkpoint::Checkpoint;
use albef::eval::refcoco::{INSTANCES, REFS, RefCoco};
use albef::task::{TaskRef, answer_list, read_annotations};
use albef_data::dataset::{ImageRoots, Sample, SourceSpec, open_source};
use albef_data::image::DecodeOptions;
use serde::{Deserialize, Serialize};

use crate::plan::Plan;
use crate::recipe::{FileEntry, Form};

/// Images of a list that are opened.
const IMAGES: usize = 3;

/// The state of a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FileState {
    /// Its name in the recipes.
    pub name: String,
    /// Its path.
    pub path: PathBuf,
    /// What it is, in words.
    pub about: String,
    /// Paths that do not exist.
    pub missing: Vec<PathBuf>,
    /// Entries, of lists that could be read.
    pub entries: Option<usize>,
    /// What prevents its use.
    pub problems: Vec<String>,
    /// What is unusual.
    pub remarks: Vec<String>,
}

impl FileState {
    /// Whether a run can use it.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.missing.is_empty() && self.problems.is_empty()
    }

    /// A line of a report.
    #[must_use]
    pub fn line(&self) -> String {
        let about = format!("{} ({})", self.path.display(), self.about);
        let mut parts = Vec::new();
        if !self.missing.is_empty() {
            let places: Vec<String> =
                self.missing.iter().map(|p| p.display().to_string()).collect();
            parts.push(format!("missing {}", places.join(" and ")));
        }
        if let Some(n) = self.entries {
            parts.push(format!("{n} entries"));
        }
        parts.extend(self.problems.iter().cloned());
        parts.extend(self.remarks.iter().cloned());
        if parts.is_empty() {
            parts.push("found".into());
        }
        let mark = if self.is_good() { "ok     " } else { "problem" };
        format!("{mark} {about}: {}", parts.join("; "))
    }
}

/// The paths that must exist.
fn places(entry: &FileEntry, at: &Path) -> Vec<PathBuf> {
    match entry.form {
        Form::Refcoco => [REFS, INSTANCES].iter().map(|n| at.join("refcoco+").join(n)).collect(),
        Form::Model if at.is_file() => vec![at.to_owned()],
        Form::Model => {
            ["model.safetensors", "config.json", "vocab.txt"].iter().map(|n| at.join(n)).collect()
        }
        _ => vec![at.to_owned()],
    }
}

/// The paths of a plan's files that do not exist.
#[must_use]
pub fn missing(plan: &Plan) -> Vec<PathBuf> {
    let of = |(_, entry): &(&str, &FileEntry)| places(entry, &plan.place(entry));
    plan.needed().iter().flat_map(of).filter(|p| !p.exists()).collect()
}

/// Reads the files of a plan and opens the first images of each list.
#[must_use]
pub fn check(plan: &Plan) -> Vec<FileState> {
    plan.needed().into_iter().map(|(name, entry)| check_one(plan, name, entry)).collect()
}

fn check_one(plan: &Plan, name: &str, entry: &FileEntry) -> FileState {
    let path = plan.place(entry);
    let mut state = FileState {
        name: name.to_owned(),
        missing: places(entry, &path).into_iter().filter(|p| !p.exists()).collect(),
        path,
        about: entry.about.clone(),
        entries: None,
        problems: Vec::new(),
        remarks: Vec::new(),
    };
    if state.missing.is_empty()
        && let Err(problem) = read(plan, entry, &mut state)
    {
        state.problems.push(problem);
    }
    if let (Some(found), Some(usual)) = (state.entries, entry.entries)
        && found != usual
    {
        state.remarks.push(format!("usually {usual}"));
    }
    state
}

fn read(plan: &Plan, entry: &FileEntry, state: &mut FileState) -> Result<(), String> {
    let path = state.path.clone();
    let root = |i: usize| entry.images.get(i).map_or(plan.data.clone(), |r| plan.data.join(r));
    let roots = || ImageRoots {
        image_root: root(0),
        vqa_root: root(0),
        vg_root: root(1.min(entry.images.len().saturating_sub(1))),
    };
    let mut left_out = None;
    let mut task = |name: &str| {
        let read = TaskRef::named(name).and_then(|task| read_annotations(task, &path, &roots()));
        let found = read.map_err(|e| e.to_string())?;
        left_out = found.left_out.first().map(|first| {
            format!("{} entries are left out, the first {}", found.left_out.len(), first.error)
        });
        Ok::<_, String>(found.samples)
    };
    let samples = match entry.form {
        Form::Captions => {
            let spec = SourceSpec::of(&path, Some(&root(0)));
            open_source(&spec).map_err(|e| e.to_string())?
        }
        Form::Vqa => task("vqa")?,
        Form::Nlvr => task("nlvr")?,
        Form::Ve => task("ve")?,
        Form::Grounding => task("grounding")?,
        Form::Answers => {
            let answers = answer_list(&path.display().to_string());
            state.entries = Some(answers.map_err(|e| e.to_string())?.len());
            return Ok(());
        }
        Form::Folder => {
            let mut entries = fs::read_dir(&path).map_err(|e| e.to_string())?;
            return match entries.next() {
                Some(_) => Ok(()),
                None => Err("the folder is empty".into()),
            };
        }
        Form::Detections => {
            let needed = plan.needed();
            let folder = needed.iter().find(|(_, e)| e.form == Form::Refcoco);
            let folder = folder.map(|(_, e)| plan.place(e));
            // Nothing to read it with, as long as the other files are missing.
            if let Some(folder) = folder.filter(|f| f.join("refcoco+").join(REFS).is_file()) {
                let data = RefCoco::open(&folder, &path).map_err(|e| e.to_string())?;
                state.entries = Some(data.images_with_proposals());
            }
            return Ok(());
        }
        Form::Refcoco => return Ok(()),
        Form::Model => {
            let files = Checkpoint::open(&path).map_err(|e| e.to_string())?;
            let (size, task) = (files.config.vision.image_res, files.task.title());
            state.remarks.push(format!("weights for {task} at {size} pixels"));
            return Ok(());
        }
        Form::Weights => {
            albef_weights::read(&path).map_err(|e| e.to_string())?;
            return Ok(());
        }
    };
    state.entries = Some(samples.len());
    state.remarks.extend(left_out);
    if samples.is_empty() {
        return Err("it holds nothing".into());
    }
    samples.iter().take(IMAGES).try_for_each(open)
}

fn open(sample: &Sample) -> Result<(), String> {
    for view in 0..sample.views() {
        sample
            .decode_view(view, &DecodeOptions::default())
            .map_err(|e| format!("image {}: {e}", sample.name))?;
    }
    Ok(())
}
