//! Tolerances of a golden fixture and the comparison of tensors with them.

use serde_json::Value;

pub use albef_weights::golden::{Outcome, Outliers, Worst};
use regex_lite::Regex;

use crate::error::{Error, Result};

/// One rule: `abs + rel * |expected|`, by entry or by the largest entry of the tensor.
#[derive(Clone, Copy, Debug, Default)]
struct Rule {
    abs: f64,
    rel: f64,
    by_tensor: bool,
    outliers: Option<LetOff>,
}

/// Entries that may lie outside the bound.
#[derive(Clone, Copy, Debug)]
struct LetOff {
    /// Their share of a tensor.
    max_share: f64,
    /// As many are allowed in a tensor of any size.
    least: f64,
    /// How far off they may be.
    abs: f64,
}

/// The tolerance entry of a fixture.
#[derive(Clone, Debug)]
pub struct Tolerance {
    spec: Value,
    /// Regular expressions on names, with the entries that they belong to.
    overrides: Vec<(Regex, Value)>,
}

impl Tolerance {
    /// Reads the fixture's entry.
    ///
    /// # Errors
    /// If an override has no pattern, or one that is no regular expression.
    pub fn new(fixture: &Value) -> Result<Self> {
        let spec = fixture["tolerance"].clone();
        let compile = |over: &Value| {
            let pattern = over["match"].as_str().ok_or_else(|| "it has no `match`".to_owned());
            let regex = pattern.and_then(|p| Regex::new(p).map_err(|e| format!("`{p}`: {e}")));
            regex.map(|regex| (regex, over.clone())).map_err(|detail| Error::Format {
                path: "manifest.json".into(),
                detail: format!("{}, override of the tolerance: {detail}", fixture["name"]),
            })
        };
        let overrides = spec["overrides"].as_array().into_iter().flatten().map(compile);
        Ok(Self { overrides: overrides.collect::<Result<_>>()?, spec })
    }

    fn rule(&self, name: &str, row: Option<usize>) -> Rule {
        let spec = &self.spec;
        let listed = |key: &str| {
            spec[key].as_array().is_some_and(|l| l.iter().any(|n| n.as_str() == Some(name)))
        };
        if spec["mode"] == "exact" || listed("exact") {
            return Rule::default();
        }
        for (_, over) in self.overrides.iter().filter(|(regex, _)| regex.is_match(name)) {
            let rows = over["rows_of_qkv_bias"].as_array();
            if let (Some(rows), true) = (rows, name.ends_with("attn.qkv.bias")) {
                let bound = |i: usize| rows.get(i).and_then(Value::as_u64).unwrap_or(0) as usize;
                if !row.is_some_and(|r| (bound(0)..bound(1)).contains(&r)) {
                    continue;
                }
            }
            return Rule::read(over);
        }
        let part = if name.starts_with("loss") {
            "losses"
        } else if name.starts_with("grad") {
            "grads"
        } else if name.starts_with("checksum") {
            "checksums"
        } else {
            "default"
        };
        if spec[part].is_object() {
            return Rule::read(&spec[part]);
        }
        if spec["default"].is_object() {
            return Rule::read(&spec["default"]);
        }
        Rule::read(spec)
    }
}

impl Rule {
    fn read(spec: &Value) -> Self {
        let number = |v: &Value, key: &str| v[key].as_f64().unwrap_or(0.0);
        let given = &spec["outliers"];
        let outliers = given.is_object().then(|| LetOff {
            max_share: number(given, "max_share"),
            least: number(given, "least").max(1.0),
            abs: number(given, "abs"),
        });
        Self {
            abs: number(spec, "abs"),
            rel: number(spec, "rel"),
            by_tensor: spec["mode"] == "tensor_max",
            outliers,
        }
    }
}

/// Collects comparisons of one fixture.
#[derive(Debug)]
pub struct Comparison {
    tolerance: Tolerance,
    outcome: Outcome,
}

impl Comparison {
    /// An empty comparison with the tolerance of `fixture`.
    ///
    /// # Errors
    /// As [`Tolerance::new`].
    pub fn new(fixture: &Value) -> Result<Self> {
        Ok(Self { tolerance: Tolerance::new(fixture)?, outcome: Outcome::default() })
    }

    /// Compares the values of one tensor.
    pub fn tensor(&mut self, name: &str, got: &[f32], expected: &[f32]) {
        let wide = |v: &[f32]| v.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
        self.numbers(name, &wide(got), &wide(expected));
    }

    /// Compares numbers in double precision.
    pub fn numbers(&mut self, name: &str, got: &[f64], expected: &[f64]) {
        if got.len() != expected.len() {
            self.fail(format!("{name}: {} values, expected {}", got.len(), expected.len()));
            return;
        }
        let largest = expected.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
        let by_row = name.ends_with("attn.qkv.bias");
        let whole = self.tolerance.rule(name, None);
        let mut outliers = Outliers::default();
        for (i, (g, e)) in got.iter().zip(expected).enumerate() {
            let rule = if by_row { self.tolerance.rule(name, Some(i)) } else { whole };
            let scale = if rule.by_tensor { largest } else { e.abs() };
            let allowed = rule.abs + rule.rel * scale;
            let error = (g - e).abs();
            match rule.outliers {
                Some(o) if error > allowed && error <= o.abs => {
                    outliers.found += 1;
                    outliers.error = outliers.error.max(error);
                }
                _ => self.outcome.note(error, allowed, || format!("{name}[{i}]")),
            }
        }
        if let Some(o) = whole.outliers.filter(|_| outliers.found > 0) {
            outliers.allowed = (o.max_share * got.len() as f64).ceil().max(o.least) as usize;
            let (found, allowed) = (outliers.found, outliers.allowed);
            if found > allowed {
                self.fail(format!("{name}: {found} outliers, {allowed} allowed"));
            }
            let all = self.outcome.outliers.get_or_insert_default();
            all.found += found;
            all.allowed += allowed;
            all.error = all.error.max(outliers.error);
            all.limit = all.limit.max(o.abs);
        }
        self.outcome.compared += got.len();
    }

    /// Compares integers, which must be equal.
    pub fn integers(&mut self, name: &str, got: &[i64], expected: &[i64]) {
        if got.len() != expected.len() {
            self.fail(format!("{name}: {} values, expected {}", got.len(), expected.len()));
            return;
        }
        self.outcome.compared += got.len();
        if let Some(i) = (0..got.len()).find(|i| got[*i] != expected[*i]) {
            self.fail(format!("{name}[{i}]: {} instead of {}", got[i], expected[i]));
        }
    }

    /// Records that something is not as it should be.
    pub fn fail(&mut self, detail: String) {
        self.outcome.fail(detail);
    }

    /// The outcome; a fixture in which nothing was compared has failed.
    #[must_use]
    pub fn finish(self) -> Outcome {
        self.outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn compare(tolerance: Value, name: &str, got: &[f32], expected: &[f32]) -> Outcome {
        let mut c = Comparison::new(&json!({ "tolerance": tolerance })).unwrap();
        c.tensor(name, got, expected);
        c.finish()
    }

    #[test]
    fn a_value_outside_fails_and_one_inside_passes() {
        let t = json!({"mode": "elementwise", "abs": 0.1, "rel": 0.0});
        assert!(compare(t.clone(), "x", &[1.05], &[1.0]).passed());
        assert!(!compare(t.clone(), "x", &[1.2], &[1.0]).passed());
        assert!(!compare(t.clone(), "x", &[f32::NAN], &[1.0]).passed());
        assert!(!compare(t.clone(), "x", &[1.0, 1.0], &[1.0]).passed());
        assert!(!compare(t, "x", &[], &[]).passed());
    }

    #[test]
    fn a_few_outliers_pass_and_more_or_worse_ones_fail() {
        let t = |least: Value| {
            json!({"mode": "elementwise", "abs": 0.1, "rel": 0.0,
                "outliers": {"max_share": 0.1, "abs": 1.0, "least": least}})
        };
        let one = [0.5, 0.0, 0.0, 0.0];
        let two = [0.5, 0.5, 0.0, 0.0];
        assert!(compare(t(Value::Null), "x", &one, &[0.0; 4]).passed());
        assert!(!compare(t(Value::Null), "x", &two, &[0.0; 4]).passed());
        assert!(compare(t(json!(2.0)), "x", &two, &[0.0; 4]).passed());
        assert!(!compare(t(json!(2.0)), "x", &[1.5, 0.0, 0.0, 0.0], &[0.0; 4]).passed());
    }

    #[test]
    fn outliers_that_are_let_off_are_told_beside_the_worst_of_the_others() {
        let t = json!({"mode": "elementwise", "abs": 0.1, "rel": 0.0,
            "outliers": {"max_share": 0.5, "abs": 1.0}});
        let o = compare(t, "x", &[0.5, 0.025, 0.75, 0.0], &[0.0; 4]);
        assert!(o.passed());
        let said = o.to_string();
        for part in ["worst error 2.50e-2 of 1.00e-1 allowed at x[1]", "2 outliers of 2 allowed"] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }

    #[test]
    fn patterns_of_overrides_are_regular_expressions_and_others_an_error() {
        let t = |pattern: &str| {
            json!({"mode": "elementwise", "abs": 0.0, "rel": 0.0,
                "overrides": [{"match": pattern, "abs": 1.0, "rel": 0.0}]})
        };
        let passes = |pattern: &str, name: &str| compare(t(pattern), name, &[0.5], &[0.0]).passed();
        for pattern in [r"(\.key|attn\.qkv)\.bias$", r"\.(key|query)\.b[aeiou]as$|qkv\.bias"] {
            assert!(passes(pattern, "grad.layer.0.key.bias"), "{pattern}");
            assert!(passes(pattern, "blocks.0.attn.qkv.bias"), "{pattern}");
            assert!(!passes(pattern, "layer.0.value.bias"), "{pattern}");
            assert!(!passes(pattern, "layer.0.keyxbias"), "{pattern}");
        }
        let fixture = json!({"name": "odd", "tolerance": t("(open")});
        let error = Comparison::new(&fixture).unwrap_err().to_string();
        assert!(error.contains("odd") && error.contains("(open"), "{error}");
    }

    #[test]
    fn overrides_reach_only_the_rows_they_name() {
        let t = json!({"mode": "mixed", "default": {"mode": "elementwise", "abs": 0.0, "rel": 0.0},
            "overrides": [{"match": "(\\.key\\.bias|attn\\.qkv\\.bias)$", "rows_of_qkv_bias": [1, 2],
                "mode": "elementwise", "abs": 1.0, "rel": 0}]});
        assert!(compare(t.clone(), "a.attn.qkv.bias", &[0., 0.5, 0.], &[0.; 3]).passed());
        assert!(!compare(t.clone(), "a.attn.qkv.bias", &[0.5, 0., 0.], &[0.; 3]).passed());
        assert!(compare(t, "a.key.bias", &[0.5, 0.5, 0.5], &[0.; 3]).passed());
    }
}
