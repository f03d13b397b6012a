//! Figures of labels: precision, recall, F1, area under the ROC curve, and the confusion matrix.

use serde_json::{Value, json};

/// The mean; 0 of nothing.
pub(super) fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, n) = values.fold((0.0, 0_usize), |(sum, n), v| (sum + v, n + 1));
    sum / n.max(1) as f64
}

/// A figure for people; `-` where there is none.
pub(super) fn percent(figure: Option<f64>) -> String {
    figure.map_or("-".to_owned(), |figure| format!("{figure:.2}"))
}

/// Figures of a label against all others, in per cent.
pub(super) struct LabelFigures {
    support: usize,
    precision: f64,
    recall: f64,
    pub f1: f64,
    /// `None` where all samples have the label, or none has it.
    pub auroc: Option<f64>,
}

impl LabelFigures {
    /// Of a label, from the rows of probabilities (empty ones are of unusable images), the labels that are
    /// `wanted` and those that are `given`.
    pub fn of(
        label: usize,
        rows: &[Vec<f32>],
        wanted: &[Vec<usize>],
        given: &[Vec<usize>],
    ) -> Self {
        let has = |labels: &Vec<usize>| labels.contains(&label);
        let support = wanted.iter().filter(|w| has(w)).count();
        let claimed = given.iter().filter(|g| has(g)).count();
        let hits = wanted.iter().zip(given).filter(|(w, g)| has(w) && has(g)).count();
        let share = |n: f64, of: usize| 100.0 * n / of.max(1) as f64;
        let usable = rows.iter().zip(wanted).filter(|(row, _)| !row.is_empty());
        let scored: Vec<(f32, bool)> = usable.map(|(row, w)| (row[label], has(w))).collect();
        Self {
            support,
            precision: share(hits as f64, claimed),
            recall: share(hits as f64, support),
            f1: share(2.0 * hits as f64, claimed + support),
            auroc: auroc(scored),
        }
    }

    pub fn to_json(&self, name: &str) -> Value {
        json!({"label": name, "support": self.support, "precision": self.precision,
               "recall": self.recall, "f1": self.f1, "auroc": self.auroc})
    }

    pub fn line(&self, name: &str) -> String {
        let auroc = percent(self.auroc);
        format!(
            "  {name:<24} {:>6} samples  precision {:>6.2}  recall {:>6.2}  F1 {:>6.2}  AUROC {auroc:>6}",
            self.support, self.precision, self.recall, self.f1
        )
    }
}

/// The area under the ROC curve in per cent: the share of pairs of a sample with the label and one
/// without whose scores are in that order, equal ones counting half.
pub(super) fn auroc(mut scored: Vec<(f32, bool)>) -> Option<f64> {
    scored.sort_by(|a, b| a.0.total_cmp(&b.0));
    let positives = scored.iter().filter(|(_, label)| *label).count() as f64;
    let negatives = scored.len() as f64 - positives;
    let (mut ordered, mut below) = (0.0, 0.0);
    for equal in scored.chunk_by(|a, b| a.0 == b.0) {
        let with = equal.iter().filter(|(_, label)| *label).count() as f64;
        let without = equal.len() as f64 - with;
        ordered += with * (below + without / 2.0);
        below += without;
    }
    (positives * negatives > 0.0).then(|| 100.0 * ordered / (positives * negatives))
}

/// Samples by label (row) and answer (column); unusable ones are in no column.
pub(super) fn confusion(
    wanted: &[Vec<usize>],
    given: &[Vec<usize>],
    rows: &[Vec<f32>],
    classes: usize,
) -> Vec<Vec<usize>> {
    let mut counts = vec![vec![0; classes]; classes];
    for ((w, g), _) in wanted.iter().zip(given).zip(rows).filter(|(_, row)| !row.is_empty()) {
        if let (Some(w), Some(g)) = (w.first(), g.first()) {
            counts[*w][*g] += 1;
        }
    }
    counts
}

pub(super) fn confusion_lines(counts: &[Vec<usize>], names: &[String]) -> Vec<String> {
    let mut lines = vec!["confusion: a row for each label, a column for each answer".to_owned()];
    lines.extend(counts.iter().zip(names).map(|(row, name)| {
        let cells: String = row.iter().map(|n| format!(" {n:>5}")).collect();
        format!("  {name:<24}{cells}")
    }));
    lines
}
