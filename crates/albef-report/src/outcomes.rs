//! What an evaluation found item by item, as a file.
//!
//! ```json
//! {"format": 1, "task": "retrieval", "sets": [{
//!   "name": "txt", "columns": [{"name": "itc", "kind": "rank"}, {"name": "itm", "kind": "rank"}],
//!   "items": [{"key": "0.png", "image": "0.png", "values": [3, 0]}]}]}
//! ```

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, Serializer};

/// The version of the file.
const FORMAT: u32 = 1;

/// What can go wrong with files of outcomes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutcomesError {
    /// The file cannot be read.
    #[error("{path}: {cause}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said. Not a `source()`: it stands in the message already.
        cause: std::io::Error,
    },
    /// The file does not hold outcomes.
    #[error("{path}: {detail}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// Two files were not measured on the same.
    #[error("{a} and {b} cannot be compared: {detail}")]
    Differ {
        /// One file.
        a: String,
        /// The other.
        b: String,
        /// The first difference.
        detail: String,
    },
}

/// What the values of a column are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// 100 for right, 0 for wrong.
    Hit,
    /// From 0 to 100.
    Score,
    /// Place of the first right candidate, 0 for the best; none where no candidate is right.
    Rank,
}

/// A column of values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// What its values are.
    pub kind: Kind,
}

/// One item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// What tells the item from the others of its set.
    pub key: String,
    /// The image that it is about: items of one image depend on each other. Formerly `picture`.
    #[serde(alias = "picture")]
    pub image: String,
    /// A value for each column.
    #[serde(serialize_with = "numbers")]
    pub values: Vec<Option<f64>>,
}

/// Items of one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutcomeSet {
    /// Its name; in retrieval `txt` for images that look for texts and `img` for the reverse.
    pub name: String,
    /// What was measured.
    pub columns: Vec<Column>,
    /// On what.
    pub items: Vec<Outcome>,
}

/// All that one evaluation found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcomes {
    format: u32,
    /// What the model had to do, the rules of counting included.
    pub task: String,
    /// The items.
    pub sets: Vec<OutcomeSet>,
}

/// Whole numbers without a fraction.
fn numbers<S: Serializer>(values: &[Option<f64>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(values.iter().map(|v| match v {
        Some(v) if v.fract() == 0.0 => serde_json::json!(*v as i64),
        v => serde_json::json!(v),
    }))
}

impl OutcomeSet {
    /// An empty set.
    #[must_use]
    pub fn new(name: &str, columns: &[(&str, Kind)]) -> Self {
        let column = |(name, kind): &(&str, Kind)| Column { name: (*name).into(), kind: *kind };
        let columns = columns.iter().map(column).collect();
        Self { name: name.to_owned(), columns, items: Vec::new() }
    }

    /// Adds items `(key, image, values)`; a key that was there before gets a number.
    pub fn extend(&mut self, items: impl IntoIterator<Item = (String, String, Vec<Option<f64>>)>) {
        let mut used: HashSet<String> = self.items.iter().map(|i| i.key.clone()).collect();
        let mut next = std::collections::HashMap::<String, usize>::new();
        for (key, image, values) in items {
            let mut unique = key.clone();
            while used.contains(&unique) {
                let n = next.entry(key.clone()).or_insert(1);
                *n += 1;
                unique = format!("{key} #{n}");
            }
            used.insert(unique.clone());
            self.items.push(Outcome { key: unique, image, values });
        }
    }

    fn check(&self) -> Result<(), String> {
        let mut names = HashSet::new();
        if let Some(twice) = self.columns.iter().find(|c| !names.insert(&c.name)) {
            return Err(format!("set `{}` has column `{}` twice", self.name, twice.name));
        }
        let mut keys = HashSet::new();
        for item in &self.items {
            let place = || format!("set `{}`, item `{}`", self.name, item.key);
            if !keys.insert(&item.key) {
                return Err(format!("{}: there are two of it", place()));
            }
            if item.values.len() != self.columns.len() {
                let (found, wanted) = (item.values.len(), self.columns.len());
                return Err(format!("{}: {found} values for {wanted} columns", place()));
            }
            for (column, value) in self.columns.iter().zip(&item.values) {
                let fits = match (column.kind, value) {
                    (Kind::Rank, None) => true,
                    (Kind::Rank, Some(v)) => *v >= 0.0 && v.fract() == 0.0,
                    (Kind::Hit, Some(v)) => *v == 0.0 || *v == 100.0,
                    (Kind::Score, Some(v)) => (0.0..=100.0).contains(v),
                    (Kind::Hit | Kind::Score, None) => false,
                };
                if !fits {
                    let wanted = match column.kind {
                        Kind::Hit => "0 or 100",
                        Kind::Score => "a number from 0 to 100",
                        Kind::Rank => "a whole number from 0, or null",
                    };
                    let found = value.map_or("null".to_owned(), |v| v.to_string());
                    return Err(format!(
                        "{}: `{}` is {found}; it must be {wanted}",
                        place(),
                        column.name
                    ));
                }
            }
        }
        Ok(())
    }
}

impl Outcomes {
    /// The outcomes of an evaluation.
    #[must_use]
    pub fn new(task: &str, sets: Vec<OutcomeSet>) -> Self {
        Self { format: FORMAT, task: task.to_owned(), sets }
    }

    /// Reads a file of outcomes.
    ///
    /// # Errors
    /// If it cannot be read, or holds something else or values that cannot be.
    pub fn read(path: &Path) -> Result<Self, OutcomesError> {
        let text = std::fs::read_to_string(path)
            .map_err(|cause| OutcomesError::Io { path: path.to_owned(), cause })?;
        let fail = |detail| OutcomesError::Format { path: path.to_owned(), detail };
        let out: Self = serde_json::from_str(text.trim_start_matches('\u{feff}')).map_err(|e| {
            fail(format!(
                "not a file of outcomes, as `albef evaluate … --save-outcomes` writes it: {e}"
            ))
        })?;
        if out.format != FORMAT {
            return Err(fail(format!(
                "outcomes in format {}; this version reads format {FORMAT}",
                out.format
            )));
        }
        if out.sets.iter().all(|s| s.items.is_empty()) {
            return Err(fail("there are no items in it".to_owned()));
        }
        out.sets.iter().try_for_each(OutcomeSet::check).map_err(fail)?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Outcomes, OutcomesError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("outcomes.json");
        std::fs::write(&path, text).unwrap();
        Outcomes::read(&path)
    }

    #[test]
    fn what_is_written_is_read_and_repeated_keys_are_told_apart() {
        let mut set = OutcomeSet::new("img", &[("itm", Kind::Rank), ("score", Kind::Score)]);
        let item = |v: Option<f64>| ("a".to_owned(), "p".to_owned(), vec![v, Some(33.5)]);
        set.extend([item(Some(3.0)), item(None)]);
        set.extend([item(Some(0.0))]);
        let keys: Vec<&str> = set.items.iter().map(|i| i.key.as_str()).collect();
        assert_eq!(keys, ["a", "a #2", "a #3"]);
        let out = Outcomes::new("retrieval", vec![set]);
        let text = serde_json::to_string(&out).unwrap();
        assert!(text.contains("[3,33.5]") && text.contains("[null,33.5]"), "{text}");
        assert_eq!(read(&text).unwrap(), out);
    }

    #[test]
    fn impossible_values_are_named_with_their_place() {
        let file = |kind: &str, values: &str| {
            format!(
                r#"{{"format": 1, "task": "ve", "sets": [{{"name": "ve", "columns":
                [{{"name": "accuracy", "kind": "{kind}"}}],
                "items": [{{"key": "k", "image": "p", "values": {values}}}]}}]}}"#
            )
        };
        let found = read(&file("hit", "[100]")).unwrap();
        let former = file("hit", "[100]").replace("\"image\"", "\"picture\"");
        assert_eq!(read(&former).unwrap(), found);
        for (kind, values, word) in [
            ("hit", "[50]", "0 or 100"),
            ("score", "[null]", "from 0 to 100"),
            ("rank", "[-1]", "whole number"),
            ("rank", "[1, 2]", "2 values"),
        ] {
            let error = read(&file(kind, values)).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("item `k`"), "{error}");
        }
        let error = read("[1]").unwrap_err().to_string();
        assert!(error.contains("--save"), "{error}");
    }
}
