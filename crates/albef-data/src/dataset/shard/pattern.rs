//! Patterns that name several files.

use std::path::{Path, PathBuf};

use crate::error::{DataError, Result};
use crate::names;

/// Shards of a pattern with braces; more are a slip of the pen.
const MOST: usize = 1_000_000;

/// The files of a pattern: braces with a range (`{000..012}`) or a list (`{a,b}`), and `*` in the
/// last component.
pub(in super::super) fn expand(pattern: &str) -> Result<Vec<PathBuf>> {
    expand_into(pattern, pattern, MOST)
}

/// The same of what is left of the pattern `given`, if its braces give no more than `room` names.
fn expand_into(given: &str, pattern: &str, room: usize) -> Result<Vec<PathBuf>> {
    let fail = |detail: String| DataError::annotation(Path::new(given), String::new(), detail);
    let too_many = || format!("its braces give more than {MOST} names; narrow a range");
    if let Some(open) = pattern.find('{') {
        let close = pattern[open..].find('}').ok_or_else(|| fail("`{` without `}`".into()))? + open;
        let (head, body, tail) =
            (&pattern[..open], &pattern[open + 1..close], &pattern[close + 1..]);
        let parts: Vec<String> = match body.split_once("..") {
            Some((from, to)) => {
                let number =
                    |s: &str| s.parse::<u64>().map_err(|_| fail(format!("`{s}` is no number")));
                let (first, last) = (number(from)?, number(to)?);
                if first > last {
                    return Err(fail(format!("`{{{body}}}` is no rising range")));
                }
                if last - first >= room as u64 {
                    return Err(fail(too_many()));
                }
                (first..=last).map(|i| format!("{i:0width$}", width = from.len())).collect()
            }
            None => body.split(',').map(str::to_owned).collect(),
        };
        let room = room / parts.len().max(1);
        if room == 0 {
            return Err(fail(too_many()));
        }
        let mut all = Vec::new();
        for part in parts {
            all.extend(expand_into(given, &format!("{head}{part}{tail}"), room)?);
        }
        return Ok(all);
    }
    let path = names::path_of(pattern);
    let name = path.file_name().map(names::text_of_os).unwrap_or_default();
    let Some((before, after)) = name.split_once('*') else { return Ok(vec![path]) };
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(DataError::io(folder))? {
        let entry = entry.map_err(DataError::io(folder))?;
        let name = names::text_of_os(&entry.file_name());
        let long = name.len() >= before.len() + after.len();
        if long && name.starts_with(before) && name.ends_with(after) {
            found.push(entry.path());
        }
    }
    found.sort();
    if found.is_empty() {
        return Err(fail("no file fits this pattern".into()));
    }
    Ok(found)
}
