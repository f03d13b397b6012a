//! The evaluations of recipes, as `albef evaluate` makes them.

use std::path::{Path, PathBuf};

use albef::eval::outcomes;
use albef::task::TaskRef;
use albef::{Control, Device};
use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

/// Whether all options are known to the task and hold what it can read.
pub fn accepts(task: &str, options: &Map<String, Value>) -> Result<()> {
    let task = TaskRef::named(task)?;
    let Some(known) = task.evaluation_options() else {
        bail!("there is no evaluation of {}", task.title());
    };
    Ok((known.check)(task, Value::Object(without_model(options)))?)
}

fn without_model(options: &Map<String, Value>) -> Map<String, Value> {
    options.iter().filter(|(key, _)| *key != "model").map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// Where what a step found item by item is kept, for `albef compare`.
fn saved(output: &Path, step: &str) -> PathBuf {
    output.join(format!("{step}.{}", outcomes::FILE))
}

/// Measures by the options of a step; files that it makes go to `output`.
pub fn run(
    task: &str,
    step: &str,
    options: &Map<String, Value>,
    output: &Path,
    device: &Device,
) -> Result<Value> {
    let task = TaskRef::named(task)?;
    let path = options.get("model").and_then(Value::as_str).context("`model` must be a path")?;
    let options_of_task = Value::Object(without_model(options));
    let image_res = task.evaluation_res(&options_of_task);
    let evaluator = task.evaluation(options_of_task)?;
    let model = task
        .open_model(Path::new(path), image_res, device)
        .with_context(|| format!("cannot open the model {path}"))?;
    let found = evaluator.evaluate(&model, &Control::default())?;
    found.tell();
    let mut report = found.report.clone();
    if let Some(file) = options.get("results").and_then(Value::as_str) {
        let path = output.join(file);
        found.write_answers(&path)?;
        report["results"] = json!(path);
        report["answers"] = json!(found.answers.len());
    }
    if let Some(found) = found.outcomes {
        outcomes::save(&saved(output, step), &found)?;
    }
    Ok(report)
}

/// The ordinary command that measures the same.
pub fn command(task: &str, step: &str, options: &Map<String, Value>, output: &Path) -> Vec<String> {
    let mut out: Vec<String> = ["albef", "evaluate", task, "--json"].map(str::to_owned).to_vec();
    for (key, value) in options {
        out.push(format!("--{}", key.replace('_', "-")));
        match value {
            Value::String(s) if key == "results" => out.push(output.join(s).display().to_string()),
            Value::String(s) => out.push(s.clone()),
            Value::Array(list) => {
                out.extend(list.iter().filter_map(Value::as_str).map(str::to_owned));
            }
            other => out.push(other.to_string()),
        }
    }
    out.extend(["--save-outcomes".to_owned(), saved(output, step).display().to_string()]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_step_cannot_read_is_refused_before_anything_is_trained() {
        let checked = |task: &str, options: &Value| {
            accepts(task, options.as_object().unwrap_or(&Map::new())).map_err(|e| e.to_string())
        };
        assert_eq!(checked("vqa", &json!({"rank": "chain"})), Ok(()));
        for (task, options, key) in [
            ("retrieval", json!({"k": "abc"}), "`rerank_k`"),
            ("grounding", json!({"mode": "foo"}), "`mode`"),
            ("grounding", json!({"mode": "itm", "layer": -1}), "`layer`"),
            ("vqa", json!({"rank": "length"}), "`answer_scoring`"),
            ("nlvr", json!({"rank": "chain"}), "no option"),
            ("pretrain", json!({}), "no evaluation"),
        ] {
            let error = checked(task, &options).unwrap_err();
            assert!(error.contains(key), "{task}: {error}");
        }
    }
}
