//! The record of a run: `reproduce.json` and `reproduce.md`, claimed and measured side by side.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use albef_weights::write_atomic;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::check::FileState;
use crate::plan::Plan;
use crate::recipe::{Claim, Recipe, Run};

/// The name of the record in the output folder.
pub const FILE: &str = "reproduce.json";

/// State of a run or a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Begun.
    Running,
    /// Interrupted.
    Stopped,
    /// Finished.
    Done,
}

/// A step that was begun.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StepRecord {
    /// Its name.
    pub name: String,
    /// The ordinary command that does the same.
    pub command: Vec<String>,
    /// Its state.
    pub state: State,
    /// Duration of the last session.
    pub seconds: f64,
    /// The weights that it left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<PathBuf>,
    /// What it measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report: Option<Value>,
}

/// A claim and what was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Compared {
    /// What is measured.
    pub name: String,
    /// The published figure.
    pub claimed: Option<f64>,
    /// What confirms the claim besides its source; empty for figures that nothing confirms.
    pub confirmed: String,
    /// `STEP.KEY` of the report, or `server`.
    pub metric: String,
    /// The measured figure.
    pub measured: Option<f64>,
    /// 95 % bootstrap interval of the measured figure.
    pub interval: Option<[f64; 2]>,
    /// Measured minus claimed.
    pub difference: Option<f64>,
}

/// Everything about a run of a recipe.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Version of the file format.
    pub format: u32,
    /// Program and version.
    pub program: String,
    /// Name of the recipe.
    pub id: String,
    /// Table of the paper.
    pub table: String,
    /// Row of the table.
    pub row: String,
    /// Source of the claims.
    pub source: String,
    /// What to know before comparing.
    pub note: String,
    /// State of the run.
    pub state: State,
    /// The data root.
    pub data: PathBuf,
    /// Whether `--smoke` made it a trial of the machinery, which says nothing about the claims.
    pub small: bool,
    /// Changed settings as they were typed.
    pub changed: Vec<String>,
    /// Models that replace training steps.
    pub models: BTreeMap<String, PathBuf>,
    /// Figures of the evaluation server, by claim.
    pub server: BTreeMap<String, f64>,
    /// Claims and measured figures.
    pub claims: Vec<Compared>,
    /// Steps that were begun.
    pub steps: Vec<StepRecord>,
    /// Files that were checked.
    pub files: Vec<FileState>,
}

impl Record {
    /// A new record of a plan.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        let r = &plan.recipe;
        Self {
            format: 1,
            program: concat!("albef ", env!("CARGO_PKG_VERSION")).into(),
            id: r.id.clone(),
            table: r.table.clone(),
            row: r.row.clone(),
            source: r.source.clone(),
            note: r.note.clone(),
            state: State::Running,
            data: plan.data.clone(),
            small: plan.small,
            changed: plan.changed.clone(),
            models: plan.models.clone(),
            server: BTreeMap::new(),
            claims: Vec::new(),
            steps: Vec::new(),
            files: Vec::new(),
        }
    }

    /// The record of a run in `output`: a new one, or with `resume` the one that is there.
    ///
    /// # Errors
    /// If there is one that is damaged, of another plan, or not to be resumed.
    pub fn begin(plan: &Plan, output: &Path, resume: bool) -> Result<Self> {
        match Self::read(output)? {
            Some(mut record) if resume => {
                record.must_fit(plan)?;
                record.changed.clone_from(&plan.changed);
                Ok(record)
            }
            Some(_) => bail!(
                "{} already holds a run; continue it with --resume or choose another folder",
                output.display()
            ),
            None => Ok(Self::new(plan)),
        }
    }

    /// Takes a figure that the evaluation server gave, as `CLAIM=FIGURE`.
    ///
    /// # Errors
    /// If it has another form, or the plan has no such claim.
    pub fn add_server_figure(&mut self, plan: &Plan, figure: &str) -> Result<()> {
        let (name, value) = figure
            .split_once('=')
            .and_then(|(name, value)| Some((name, value.parse::<f64>().ok()?)))
            .with_context(|| format!("--server {figure} must have the form CLAIM=FIGURE"))?;
        let claims = plan.recipe.claims.iter().filter(|c| c.server);
        let names: Vec<&str> = claims.map(|c| c.name.as_str()).collect();
        if !names.contains(&name) {
            let row = &plan.recipe.id;
            bail!("`{row}` has no claim `{name}` for the server; it has [{}]", names.join(", "));
        }
        self.server.insert(name.to_owned(), value);
        Ok(())
    }

    /// The record in a folder, if there is one.
    ///
    /// # Errors
    /// If it is damaged.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
        };
        let record = serde_json::from_str(&text)
            .with_context(|| format!("{} is no record of `albef reproduce`", path.display()))?;
        Ok(Some(record))
    }

    /// Whether nothing that is done or begun depends on a setting `STEP:KEY=VALUE`. An evaluation that
    /// broke off is made again as a whole.
    fn is_open(&self, plan: &Plan, setting: &str) -> bool {
        let Some((name, _)) = setting.split_once(':') else { return false };
        let measures = |name: &str| {
            plan.steps().iter().any(|s| s.name == name && matches!(s.run, Run::Evaluate(_)))
        };
        self.step(name).is_none_or(|s| s.state != State::Done && measures(name))
    }

    /// Refuses to go on with another recipe or other choices than those of the record; what concerns only steps
    /// that are still to be made may change.
    ///
    /// # Errors
    /// Names the recipe, data or choices that differ.
    pub fn must_fit(&self, plan: &Plan) -> Result<()> {
        let of = |what: &str| format!("{} was begun with {what}", plan.output.display());
        let hint = "; go on with the same, or choose another folder";
        if self.id != plan.recipe.id {
            bail!("{}{hint}", of(&format!("the row `{}`", self.id)));
        }
        if self.data != plan.data {
            bail!("{}{hint}", of(&format!("--data {}", self.data.display())));
        }
        let differs = |ours: &[String], theirs: &[String]| {
            ours.iter().any(|c| !theirs.contains(c) && !self.is_open(plan, c))
        };
        let changed =
            differs(&self.changed, &plan.changed) || differs(&plan.changed, &self.changed);
        if self.small != plan.small || changed || self.models != plan.models {
            let begun = choices(&self.changed, &self.models, self.small);
            let now = choices(&plan.changed, &plan.models, plan.small);
            bail!("{}, not {now}{hint}", of(&begun));
        }
        Ok(())
    }

    /// The step of that name, if it was begun.
    #[must_use]
    pub fn step(&self, name: &str) -> Option<&StepRecord> {
        self.steps.iter().find(|s| s.name == name)
    }

    /// Puts a step in place of an earlier record of it.
    pub fn put(&mut self, step: StepRecord) {
        match self.steps.iter_mut().find(|s| s.name == step.name) {
            Some(old) => *old = step,
            None => self.steps.push(step),
        }
    }

    /// Holds the claims against what was measured so far.
    pub fn compare(&mut self, recipe: &Recipe) {
        self.claims = recipe.claims.iter().map(|claim| self.compared(claim)).collect();
    }

    fn compared(&self, claim: &Claim) -> Compared {
        let mut out = Compared {
            name: claim.name.clone(),
            claimed: claim.value,
            confirmed: claim.confirmed.clone(),
            metric: claim.metric.clone().unwrap_or_else(|| "server".into()),
            measured: self.server.get(&claim.name).copied().filter(|_| claim.server),
            interval: None,
            difference: None,
        };
        if let Some((step, key)) = claim.metric.as_deref().and_then(|m| m.split_once('.'))
            && let Some(report) = self.step(step).and_then(|s| s.report.as_ref())
        {
            out.measured = report[key].as_f64();
            out.interval = interval(report, key);
        }
        out.difference = out.measured.zip(out.claimed).map(|(m, c)| m - c);
        out
    }

    /// Writes `reproduce.json` and `reproduce.md`.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self)?;
        for (name, text) in [(FILE, json.as_str()), ("reproduce.md", &self.page())] {
            write_atomic(&folder.join(name), |f| f.write_all(text.as_bytes()))?;
        }
        Ok(())
    }

    /// The table as a page.
    #[must_use]
    pub fn page(&self) -> String {
        let mut out = format!("# {}: {}\n\n", self.table, self.row);
        let mut line = |text: String| {
            // Writing to a text cannot fail.
            let _ = writeln!(out, "{text}");
        };
        line(format!("Row `{}` by `{}`. Claims: {}.", self.id, self.program, self.source));
        if !self.note.is_empty() {
            line(format!("\n{}", self.note));
        }
        if self.small {
            line("\n**Run with `--smoke`: the figures say nothing about the claims.**".into());
        }
        if !self.changed.is_empty() {
            line(format!("\nChanged: `{}`.", self.changed.join("`, `")));
        }
        for (step, path) in &self.models {
            line(format!("\n`{step}` was not run: `{}` stands in for it.", path.display()));
        }
        if self.state != State::Done {
            line("\n**Not finished**; go on with `--resume`.".into());
        }
        line("\n| measure | claimed | measured | difference |\n| --- | --- | --- | --- |".into());
        let number = |v: Option<f64>| v.map_or("–".to_owned(), |v| format!("{v:.2}"));
        for c in &self.claims {
            let doubt = c.claimed.is_some() && c.confirmed.is_empty();
            let measured = match (c.measured, c.interval) {
                (Some(m), Some([low, high])) => format!("{m:.2} [{low:.2}, {high:.2}]"),
                (None, _) if c.metric == "server" => "by the evaluation server".into(),
                (m, _) => number(m),
            };
            let difference = c.difference.map_or("–".to_owned(), |d| format!("{d:+.2}"));
            let mark = if doubt { " *" } else { "" };
            line(format!(
                "| {} | {}{mark} | {measured} | {difference} |",
                c.name,
                number(c.claimed)
            ));
        }
        if self.claims.iter().any(|c| c.claimed.is_some() && c.confirmed.is_empty()) {
            line("\n\\* no second source confirms this figure.".into());
        }
        line("\nBrackets: 95 % bootstrap intervals.\n\n## Steps\n".into());
        for s in &self.steps {
            let state = match s.state {
                State::Done => "done",
                State::Stopped => "stopped",
                State::Running => "begun",
            };
            line(format!("- `{}`, {state}, {:.0} s in the last session:\n", s.name, s.seconds));
            line(format!("  ```sh\n  {}\n  ```", shell(&s.command)));
        }
        out
    }
}

/// The interval of a figure of a report.
fn interval(report: &Value, key: &str) -> Option<[f64; 2]> {
    let pair = |v: &Value| Some([v.get(0)?.as_f64()?, v.get(1)?.as_f64()?]);
    if key == "accuracy" {
        return pair(&report["interval"]);
    }
    let split = key.strip_suffix("_d").and_then(|s| pair(&report["splits"][s]["interval"]));
    split.or_else(|| pair(&report["interval"][key]))
}

/// A command as one types it.
#[must_use]
pub fn shell(words: &[String]) -> String {
    let plain = |w: &str| {
        !w.is_empty() && w.chars().all(|c| c.is_ascii_alphanumeric() || "-_./=:+".contains(c))
    };
    let quoted = words
        .iter()
        .map(|w| if plain(w) { w.clone() } else { format!("'{}'", w.replace('\'', "'\\''")) });
    quoted.collect::<Vec<_>>().join(" ")
}

/// The options of a reproduction, as they are given.
fn choices(changed: &[String], models: &BTreeMap<String, PathBuf>, small: bool) -> String {
    let changed = changed.iter().map(|c| format!("--set {c}"));
    let models = models.iter().map(|(step, path)| format!("--model {step}={}", path.display()));
    let small = small.then(|| "--smoke".to_owned());
    let given: Vec<String> = changed.chain(models).chain(small).collect();
    if given.is_empty() { "no changes".into() } else { format!("`{}`", given.join(" ")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn intervals_are_found_in_reports_of_every_task() {
        let retrieval = json!({"txt_r1": 5.0, "interval": {"txt_r1": [4.0, 6.0]}});
        assert_eq!(interval(&retrieval, "txt_r1"), Some([4.0, 6.0]));
        assert_eq!(interval(&retrieval, "txt_r10"), None);
        let classes = json!({"accuracy": 5.0, "interval": [4.0, 6.0]});
        assert_eq!(interval(&classes, "accuracy"), Some([4.0, 6.0]));
        let grounding = json!({"splits": {"testA": {"interval": [1.0, 2.0]}}, "interval": [0, 9]});
        assert_eq!(interval(&grounding, "testA_d"), Some([1.0, 2.0]));
    }

    #[test]
    fn commands_can_be_pasted() {
        let words = ["albef", "--set", "train_file=[\"a b\"]", "it's"].map(str::to_owned);
        assert_eq!(shell(&words), r#"albef --set 'train_file=["a b"]' 'it'\''s'"#);
    }
}
