//! Annotation lists of tasks.

use std::path::Path;

use albef_data::dataset::{
    CheckOptions, CheckReport, Contents, EntryContext, ImageRoots, Samples, Skipped, SourceSpec,
    TaskFault, check_against, first_entry, gather, read_source,
};
use albef_data::error::{DataError, ImageErrorKind};
use albef_data::names::path_of;

use super::{ListFault, TASKS, TaskRef};
use crate::Control;
use crate::error::{Error, Result};

/// Reads a list of a task.
///
/// # Errors
/// Names the file, the entry and what is wrong with it; a list of another task is named as such, with
/// the command that it is for.
pub fn read_annotations(task: TaskRef, path: &Path, roots: &ImageRoots) -> Result<Contents> {
    task.read_list(path, roots).map_err(|error| match error {
        Error::Data(error) => of_another_task(task, path, roots, error),
        other => other,
    })
}

/// Checks a list of a task, or of images with captions, before a run finds out what is wrong with it. `other`:
/// images that must not be in it. Gives the samples, too.
///
/// # Errors
/// If the list cannot be read, or `control` is cancelled.
pub fn check_list(
    task: Option<TaskRef>,
    spec: &SourceSpec,
    other: Option<&Samples>,
    options: &CheckOptions,
    control: &Control,
) -> Result<(CheckReport, Samples)> {
    let Some(task) = task else {
        let found = gather(&[spec.clone().with_unnamed()])?;
        let mut report = check_against(&found, other, options, control)?;
        report
            .hints
            .extend((report.captions == 0).then(|| other_task(&path_of(&spec.path))).flatten());
        return Ok((report, found.samples));
    };
    let list = &*path_of(&spec.path);
    let root = || spec.image_root.clone().unwrap_or_default();
    let roots = ImageRoots { image_root: root(), vqa_root: root(), vg_root: root() };
    let mut found = read_annotations(task, list, &roots)?;
    if list.is_dir() {
        // A folder of images for each label has no list that names them all.
        let folder = read_source(&SourceSpec::new(&spec.path, None))?;
        let unread = |s: &Skipped| matches!(s.error.kind, ImageErrorKind::Unsupported(_));
        found.left_out.retain(|s| !unread(s));
        found.left_out.extend(folder.left_out.into_iter().filter(unread));
    }
    let options = CheckOptions {
        texts_are_captions: false,
        texts_are_needed: task.needs_text(),
        ..options.clone()
    };
    let mut report = check_against(&found, other, &options, control)?;
    // An image with several questions, or a question asked of several, is no repetition.
    report.repeated_captions = 0;
    for fault in task.list_faults(list, &found.samples, options.decode)? {
        let room = options.max_problems.saturating_sub(report.problems.len());
        report.problems.extend(fault.lines.iter().take(room).cloned());
        let ListFault { key, about, count, lines } = fault;
        let is_problem = !lines.is_empty();
        report.of_task.push(TaskFault { key, about, count, is_problem });
    }
    Ok((report, found.samples.into_iter().collect()))
}

/// That a list without captions is one of a task.
fn other_task(list: &Path) -> Option<String> {
    let first = first_entry(list)?;
    let roots = ImageRoots::default();
    let context = EntryContext { roots: &roots, list };
    let fits =
        |task: &TaskRef| task.annotations().is_some_and(|read| read(&first, context).is_ok());
    let task = TASKS.into_iter().find(fits)?;
    Some(format!(
        "this looks like a list for {}; check it with `--task {}`",
        task.title(),
        task.name()
    ))
}

/// The error, with the task of the list if the first entry is of another one.
fn of_another_task(task: TaskRef, path: &Path, roots: &ImageRoots, error: DataError) -> Error {
    let Some(first) = first_entry(path) else { return error.into() };
    let context = EntryContext { roots, list: path };
    let fits =
        |other: &TaskRef| other.annotations().is_some_and(|read| read(&first, context).is_ok());
    if fits(&task) {
        return error.into();
    }
    let Some(other) = TASKS.into_iter().find(fits) else { return error.into() };
    Error::WrongList { problem: error.to_string(), found: other.name(), wanted: task.name() }
}
