//! Annotation lists of tasks.

use std::path::Path;

use albef_data::dataset::{Contents, EntryContext, ImageRoots, first_entry};
use albef_data::error::DataError;

use super::{TASKS, TaskRef};
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
