//! The page of all keys, `docs/src/reference/configuration.md`, from the sections.

use std::fmt::Write;

use serde_json::Value;

use super::parse::RENAMED;
use super::section::SectionDoc;
use crate::task::{TASKS, TaskRef};

const INTRO: &str = "\
# Configuration

Every key of a configuration file and of `--set KEY=VALUE` (nested keys with a dot), with its default. Most keys and
defaults are those of the official code; the files in `configs/` set what smaller models need. An unknown key is an error
that suggests the nearest known one; duplicate keys, values out of range and keys that only other tasks have are errors,
too. Keys of pre-training whose values come with the checkpoint are ignored in fine-tuning, and listed at the start of a
run. The resolved configuration of a run is saved as `config.json` in its directory.

This page is generated from the code.
";

const OLD_NAMES: &str = "
## Renamed keys

The old names keep working as aliases for one release. `scheduler` is another spelling of `schedular`, the name in the
official files.

| old | new |
| --- | --- |
";

/// A section with the tasks that have it.
struct Shared {
    doc: SectionDoc,
    tasks: Vec<TaskRef>,
}

/// All keys of all tasks as one page of Markdown.
#[must_use]
pub fn reference() -> String {
    let mut page = INTRO.to_owned();
    for section in sections() {
        page.push_str(&table(&section));
    }
    page.push_str(OLD_NAMES);
    for (former, name) in RENAMED.into_iter().filter(|(former, _)| *former != "scheduler") {
        let _ = writeln!(page, "| `{former}` | `{name}` |");
    }
    page
}

/// The sections of all tasks, each once, in the order in which tasks list them.
fn sections() -> Vec<Shared> {
    let mut all: Vec<Shared> = Vec::new();
    for task in TASKS {
        for doc in task.sections() {
            match all.iter_mut().find(|s| s.doc.title == doc.title) {
                Some(known) => known.tasks.push(task),
                None => all.push(Shared { doc, tasks: vec![task] }),
            }
        }
    }
    all
}

fn table(section: &Shared) -> String {
    let tasks = match section.tasks.len() {
        n if n == TASKS.len() => "All tasks.".to_owned(),
        _ => format!("{}.", names(&section.tasks)),
    };
    let mut text = format!(
        "\n## {}\n\n{tasks}\n\n| key | default | what it does |\n| --- | --- | --- |\n",
        section.doc.title
    );
    for key in &section.doc.keys {
        let (default, doc) = (default(&key.name, &section.tasks), key.doc.replace('|', "\\|"));
        let _ = writeln!(text, "| `{}` | {default} | {doc} |", key.name);
    }
    text
}

/// The default that most tasks have, the first one's if as many have another, and the others with their
/// tasks.
fn default(key: &str, tasks: &[TaskRef]) -> String {
    let mut groups: Vec<(Value, Vec<TaskRef>)> = Vec::new();
    for task in tasks {
        let all = task.default_config();
        let value = key.split('.').fold(&all, |value, part| &value[part]);
        match groups.iter_mut().find(|(known, _)| known == value) {
            Some((_, tasks)) => tasks.push(*task),
            None => groups.push((value.clone(), vec![*task])),
        }
    }
    // The sort is stable.
    groups.sort_by_key(|(_, tasks)| std::cmp::Reverse(tasks.len()));
    let text = |(i, (value, tasks)): (usize, &(Value, Vec<TaskRef>))| match i {
        0 => format!("`{value}`"),
        _ => format!("`{value}` for {}", names(tasks)),
    };
    groups.iter().enumerate().map(text).collect::<Vec<_>>().join("; ")
}

fn names(tasks: &[TaskRef]) -> String {
    tasks.iter().map(|task| format!("`{}`", task.name())).collect::<Vec<_>>().join(", ")
}
