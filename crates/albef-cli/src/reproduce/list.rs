//! `albef reproduce --list`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::check::missing;
use super::plan::Plan;
use super::recipe::{Recipe, all};
use super::record::{Record, State};
use crate::Answer;

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

fn claim_text(name: &str, claimed: Option<f64>, measured: Option<f64>) -> String {
    let number = |v: Option<f64>| v.map_or("–".to_owned(), |v| format!("{v:.2}"));
    match measured {
        Some(_) => format!("{name} {} (measured {})", number(claimed), number(measured)),
        None => format!("{name} {}", number(claimed)),
    }
}

pub fn run(data: Option<&Path>, output: Option<&Path>, as_json: bool) -> Result<Answer> {
    let records = records(output)?;
    let mut rows = Vec::new();
    for recipe in all()? {
        rows.push(row(&recipe, data, records.get(&recipe.id))?);
    }
    if as_json {
        println!("{}", Value::Array(rows));
        return Ok(Answer::Yes);
    }
    for row in rows {
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        println!("{:<24} {:<8} {}", text("id"), text("table"), text("row"));
        println!("{:<24} {:<8} {}", "", "", text("state"));
        let claims: Vec<String> = row["claims"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|c| {
                let name = c["name"].as_str().unwrap_or_default();
                claim_text(name, c["claimed"].as_f64(), c["measured"].as_f64())
            })
            .collect();
        if !claims.is_empty() {
            println!("{:<24} {:<8} {}", "", "", claims.join(", "));
        }
    }
    if data.is_none() {
        eprintln!("give --data ROOT to see which rows have their files");
    }
    Ok(Answer::Yes)
}

fn row(recipe: &Recipe, data: Option<&Path>, record: Option<&Record>) -> Result<Value> {
    let absent = match data {
        Some(data) => {
            let plan = Plan::new(recipe.clone(), data, Path::new("."), &[], false, &[])?;
            Some(missing(&plan))
        }
        None => None,
    };
    let state = match (record, &absent) {
        (Some(r), _) if r.state == State::Done && r.small => "done, with --small".into(),
        (Some(r), _) if r.state == State::Done => "done".into(),
        (Some(_), _) => "begun, not finished".into(),
        (None, Some(absent)) if absent.is_empty() => "ready".into(),
        (None, Some(absent)) => format!("missing {} files", absent.len()),
        (None, None) => "not looked at".to_owned(),
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
