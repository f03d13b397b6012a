//! Golden fixtures about checkpoint files.

use std::path::Path;

use serde_json::Value;

use crate::checkpoint::read;
use crate::error::{Result, WeightsError};
use crate::pos_embed::interpolate_pos_embed;
use crate::tensor::StateDict;

pub use crate::outcome::{Outcome, Outliers, Worst};

type Replay = fn(&Path, &Value) -> Result<Outcome>;

/// The kinds that belong to this crate.
const KINDS: [(&str, Replay); 3] =
    [("checkpoint", checkpoint), ("odd_checkpoint", odd_checkpoint), ("pos_embed", pos_embed)];

/// Their names.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|(name, _)| *name)
}

/// Replays a fixture whose kind belongs to this crate; `None` for other kinds.
#[must_use]
pub fn replay(kind: &str, root: &Path, fixture: &Value) -> Option<Result<Outcome>> {
    let (_, replay) = KINDS.iter().find(|(name, _)| *name == kind)?;
    Some(replay(root, fixture))
}

pub(crate) fn files(fixture: &Value) -> Vec<&str> {
    let files = fixture["files"].as_array().into_iter().flatten();
    files.filter_map(|f| f["path"].as_str()).collect()
}

/// The first difference of two state dictionaries, order aside.
fn difference(got: &StateDict, expected: &StateDict) -> Option<String> {
    for (name, tensor) in expected.iter() {
        match got.get(name) {
            None => return Some(format!("no `{name}`")),
            Some(t) if t != tensor => return Some(format!("`{name}` differs")),
            Some(_) => {}
        }
    }
    got.names().find(|n| expected.get(n).is_none()).map(|n| format!("`{n}` is too much"))
}

fn checkpoint(root: &Path, fixture: &Value) -> Result<Outcome> {
    let files = files(fixture);
    let whole = files.iter().find(|f| f.ends_with("model.safetensors"));
    let Some(whole) = whole else { return Ok(Outcome::exact(0, None)) };
    let expected = read(&root.join(whole))?.tensors;
    let mut compared = 0;
    for file in files.iter().filter(|f| f.ends_with(".pth")) {
        let got = read(&root.join(file))?;
        if got.root.as_deref() != fixture["params"]["root_key"].as_str() {
            let problem = format!("{file}: found under {:?}", got.root);
            return Ok(Outcome::exact(1, Some(problem)));
        }
        if let Some(problem) = difference(&got.tensors, &expected) {
            return Ok(Outcome::exact(1, Some(format!("{file}: {problem}"))));
        }
        compared += expected.iter().map(|(_, t)| t.len()).sum::<usize>();
    }
    for tie in fixture["params"]["tied"].as_array().into_iter().flatten() {
        let name = |i: usize| tie[i].as_str().unwrap_or_default();
        if expected.get(name(0)) != expected.get(name(1)) {
            return Ok(Outcome::exact(1, Some(format!("`{}` is not tied", name(1)))));
        }
    }
    Ok(Outcome::exact(compared, None))
}

fn odd_checkpoint(root: &Path, fixture: &Value) -> Result<Outcome> {
    let files = files(fixture);
    let path = |name: &str| {
        files.iter().find(|f| f.rsplit('/').next() == Some(name)).map(|f| root.join(f))
    };
    let params = &fixture["params"];
    let Some(expected) = path("expected.safetensors") else {
        return Ok(Outcome::exact(0, Some("no expected.safetensors".into())));
    };
    let expected = read(&expected)?.tensors;
    let mut compared = 0;
    for (name, key) in params["files"].as_object().into_iter().flatten() {
        let Some(path) = path(name) else { continue };
        let got = read(&path)?;
        if got.root.as_deref().unwrap_or("") != key.as_str().unwrap_or("") {
            return Ok(Outcome::exact(1, Some(format!("{name}: root {:?}", got.root))));
        }
        if let Some(problem) = difference(&got.tensors, &expected) {
            return Ok(Outcome::exact(1, Some(format!("{name}: {problem}"))));
        }
        compared += expected.len();
    }
    for name in params["hostile"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let Some(path) = path(name) else { continue };
        if let Some(problem) = read(&path).ok().and_then(|got| called(&got.tensors)) {
            return Ok(Outcome::exact(1, Some(format!("{name}: {problem}"))));
        }
        compared += 1;
    }
    for name in params["broken"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let Some(path) = path(name) else { continue };
        if read(&path).is_ok() {
            return Ok(Outcome::exact(1, Some(format!("{name}: read without an error"))));
        }
        compared += 1;
    }
    Ok(Outcome::exact(compared, None))
}

/// The tensors of a hostile file that nothing has to be called for. Its other entry is a call, which
/// has to be left out if the file is not refused.
const INERT: [&str; 1] = ["w"];

/// The first entry of a hostile file that should not be there, or that is missing. Of a file with other
/// names nothing is known but that something has to be left.
fn called(got: &StateDict) -> Option<String> {
    let is_known = INERT.iter().any(|n| got.get(n).is_some());
    if !is_known && !got.is_empty() {
        return None;
    }
    let odd = got.names().find(|n| !INERT.contains(n));
    let gone = INERT.iter().find(|n| got.get(n).is_none());
    odd.map(|n| format!("`{n}` was made by a call"))
        .or_else(|| gone.map(|n| format!("`{n}` was lost with the call beside it")))
}

fn pos_embed(root: &Path, fixture: &Value) -> Result<Outcome> {
    let files = files(fixture);
    let open = |end: &str| match files.iter().find(|f| f.ends_with(end)) {
        Some(f) => read(&root.join(f)),
        None => Err(WeightsError::Keys(format!("pos_embed has no `{end}`"))),
    };
    let (inputs, expected) = (open("inputs.safetensors")?, open("expected.safetensors")?);
    let tolerance = |key: &str| fixture["tolerance"][key].as_f64().unwrap_or(0.0);
    let mut out = Outcome::default();
    for case in fixture["params"]["cases"].as_array().into_iter().flatten() {
        let number = |key: &str| case[key].as_u64().unwrap_or(0) as usize;
        let name = format!("table.{}", number("index"));
        let (Some(from), Some(to)) = (inputs.tensors.get(&name), expected.tensors.get(&name))
        else {
            return Ok(Outcome::exact(1, Some(format!("no `{name}`"))));
        };
        let width = from.shape.last().copied().unwrap_or(1);
        let (source, target) = (number("grid_from"), number("grid_to"));
        let (from, to) = (from.to_f32()?, to.to_f32()?);
        let values = |grid: usize| grid.checked_mul(grid)?.checked_add(1)?.checked_mul(width);
        if [source, target].map(values) != [Some(from.len()), Some(to.len())] {
            let found = format!("{name}: {} and {} values", from.len(), to.len());
            let problem = format!("{found} for grids of {source} and {target}");
            return Ok(Outcome::exact(1, Some(problem)));
        }
        let got = interpolate_pos_embed(&from, width, source, target);
        for (i, (g, e)) in got.iter().zip(&to).enumerate() {
            let error = f64::from((g - e).abs());
            let allowed = tolerance("abs") + tolerance("rel") * f64::from(e.abs());
            out.compared += 1;
            out.note(error, allowed, || format!("{name}[{i}]"));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::HostTensor;

    #[test]
    fn an_entry_made_by_a_call_fails_the_hostile_fixture() {
        let state = |names: &[&str]| -> StateDict {
            names.iter().map(|n| ((*n).to_owned(), HostTensor::from_f32(&[], &[1.0]))).collect()
        };
        assert_eq!(called(&state(&["w"])), None);
        assert!(called(&state(&["w", "x"])).unwrap().contains("`x`"));
        assert!(called(&state(&[])).unwrap().contains("`w`"));
        assert_eq!(called(&state(&["other"])), None);
    }
}
