//! The rows with their claims, their files and what was measured.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use crate::check::missing;
use crate::plan::Plan;
use crate::recipe::{Recipe, all};
use crate::record::{Record, State};

/// The records in a folder of runs, or of one run, by row; a finished one comes before others.
fn records(folder: Option<&Path>) -> Result<BTreeMap<String, Record>> {
    let mut out: BTreeMap<String, Record> = BTreeMap::new();
    let Some(folder) = folder else { return Ok(out) };
    let inner = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path());
    for place in std::iter::once(folder.to_owned()).chain(inner.filter(|p| p.is_dir())) {
        let Some(record) = Record::read(&place)? else { continue };
        let better = out.get(&record.id).is_none_or(|old| old.state != State::Done);
        if better {
            out.insert(record.id.clone(), record);
        }
    }
    Ok(out)
}

/// A claim in a line; a star marks a figure that only one source gives.
fn claim_text(claim: &Value) -> String {
    let number = |v: &Value| v.as_f64().map_or("–".to_owned(), |v| format!("{v:.2}"));
    let (name, claimed) = (claim["name"].as_str().unwrap_or_default(), &claim["claimed"]);
    let mark = if claimed.is_f64() && claim["confirmed"] == "" { "*" } else { "" };
    let mut out = format!("{name} {}{mark}", number(claimed));
    if claim["measured"].is_f64() {
        out += &format!(" (measured {})", number(&claim["measured"]));
    }
    out
}

/// All rows, with what a folder of data has of their files and a folder of runs of their figures.
///
/// # Errors
/// If a record cannot be read.
pub fn rows(data: Option<&Path>, runs: Option<&Path>) -> Result<Vec<Value>> {
    let records = records(runs)?;
    all()?.iter().map(|recipe| row(recipe, data, records.get(&recipe.id))).collect()
}

/// Rows as text: name, table and what the row is, then its state and claims.
#[must_use]
pub fn text(rows: &[Value]) -> String {
    let mut text = String::new();
    for row in rows {
        let word = |key: &str| row[key].as_str().unwrap_or_default();
        text += &format!("{:<24} {:<8} {}\n", word("id"), word("table"), word("row"));
        let claims: Vec<String> =
            row["claims"].as_array().into_iter().flatten().map(claim_text).collect();
        if row["state"].is_string() {
            text += &format!("{:<33} {}\n", "", word("state"));
        }
        if !claims.is_empty() {
            text += &format!("{:<33} {}\n", "", claims.join(", "));
        }
    }
    text
}

fn row(recipe: &Recipe, data: Option<&Path>, record: Option<&Record>) -> Result<Value> {
    let absent = match data {
        Some(data) => {
            let plan = Plan::new(recipe.clone(), data, Path::new("."), &[], false, &[])?;
            Some(missing(&plan))
        }
        None => None,
    };
    let state: Option<String> = match (record, &absent) {
        (Some(r), _) if r.state == State::Done && r.small => Some("done, with --smoke".into()),
        (Some(r), _) if r.state == State::Done => Some("done".into()),
        (Some(_), _) => Some("begun, not finished".into()),
        (None, Some(absent)) if absent.is_empty() => Some("ready".into()),
        (None, Some(absent)) => Some(format!("missing {} files", absent.len())),
        (None, None) => None,
    };
    let claims: Vec<Value> = recipe
        .claims
        .iter()
        .map(|claim| {
            let found = record.and_then(|r| r.claims.iter().find(|c| c.name == claim.name));
            json!({"name": claim.name, "claimed": claim.value, "confirmed": claim.confirmed,
                   "server": claim.server, "measured": found.and_then(|c| c.measured),
                   "interval": found.and_then(|c| c.interval)})
        })
        .collect();
    Ok(json!({"id": recipe.id, "table": recipe.table, "row": recipe.row, "state": state,
              "source": recipe.source, "note": recipe.note, "claims": claims, "missing": absent}))
}
