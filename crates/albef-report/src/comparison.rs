//! The comparison of two models as a table and as JSON.

use std::fmt;

use serde_json::{Map, Value, json};

use crate::compare::{Difference, Draw, Named, Side, Test, compare};
use crate::outcomes::OutcomesError;

/// Runs of two models and how their metrics differ. Its `Display` is a table.
///
/// ```
/// use albef_report::{Comparison, Draw};
///
/// let none = Comparison::of(Vec::new(), Vec::new(), Draw { resamples: 100, seed: 42 })?;
/// assert!(none.metrics.is_empty());
/// # Ok::<(), albef_report::OutcomesError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Comparison {
    /// Runs of the first model.
    pub a: Vec<Named>,
    /// Runs of the second.
    pub b: Vec<Named>,
    /// The metrics.
    pub metrics: Vec<Difference>,
}

impl Comparison {
    /// Compares runs of A with runs of B ([`compare`]).
    ///
    /// # Errors
    /// If the files are not about the same task, measures and items.
    pub fn of(a: Vec<Named>, b: Vec<Named>, draw: Draw) -> Result<Self, OutcomesError> {
        let metrics = compare(&a, &b, draw)?;
        Ok(Self { a, b, metrics })
    }

    /// The task, the names of the runs, and each metric under its name.
    ///
    /// # Errors
    /// If a figure cannot be written as JSON.
    pub fn to_json(&self) -> Result<Value, serde_json::Error> {
        let names = |side: &[Named]| side.iter().map(|n| n.name.clone()).collect::<Vec<_>>();
        let mut metrics = Map::new();
        for d in &self.metrics {
            let mut value = serde_json::to_value(d)?;
            if let Some(fields) = value.as_object_mut() {
                fields.shift_remove("metric");
            }
            metrics.insert(d.metric.clone(), value);
        }
        let task = self.a.first().map(|n| n.outcomes.task.as_str());
        Ok(json!({"task": task, "a": names(&self.a), "b": names(&self.b), "metrics": metrics}))
    }
}

impl fmt::Display for Side {
    /// The mean, with the deviation between runs where there are several.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&match self.deviation {
            Some(deviation) => format!("{:.2} ± {deviation:.2}", self.mean),
            None => format!("{:.2}", self.mean),
        })
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Mcnemar => "McNemar",
            Self::SignFlip => "sign flips",
            Self::SignFlipByImage => "sign flips of images",
        })
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (letter, side) in [("A", &self.a), ("B", &self.b)] {
            for run in side {
                writeln!(f, "{letter}  {}", run.name)?;
            }
        }
        write!(
            f,
            "{:<16}{:>7}{:>16}{:>16}{:>9}  {:<20}{:>15}  p",
            "", "items", "A", "B", "B - A", "95 % interval", "better: A, B"
        )?;
        for d in &self.metrics {
            let by_image = match (d.p_by_image, d.test) {
                (Some(p), Test::Mcnemar | Test::SignFlip) => format!("; by images {p:.4}"),
                _ => String::new(),
            };
            write!(
                f,
                "\n{:<16}{:>7}{:>16}{:>16}{:>+9.2}  {:<20}{:>15}  {:.4} ({}{by_image})",
                d.metric,
                d.items,
                d.a,
                d.b,
                d.difference,
                format!("[{:+.2}, {:+.2}]", d.interval[0], d.interval[1]),
                format!("{}, {}", d.better[0], d.better[1]),
                d.p,
                d.test,
            )?;
        }
        if self.a.len() + self.b.len() > 2 {
            write!(
                f,
                "\nA and B are means over runs, ± the deviation between runs; interval and p are about \
                 other items, not about other seeds"
            )?;
        }
        Ok(())
    }
}
