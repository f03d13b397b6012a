//! Tolerances of a golden fixture and the comparison of tensors with them.

use serde_json::Value;

use crate::error::Result;

/// The outcome of one fixture.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Largest error, as a share of what is allowed at that place.
    pub worst: f64,
    /// The largest absolute error.
    pub error: f64,
    /// What was allowed where `worst` stands, as an absolute value.
    pub tolerance: f64,
    /// Values compared.
    pub compared: usize,
    /// Where the worst error is.
    pub detail: String,
    /// Whether all values lie within tolerance.
    pub passed: bool,
}

/// One rule: `abs + rel * |expected|`, by entry or by the largest entry of the tensor.
#[derive(Clone, Copy, Debug, Default)]
struct Rule {
    abs: f64,
    rel: f64,
    by_tensor: bool,
    outliers: Option<Outliers>,
}

/// Entries that may lie outside the bound.
#[derive(Clone, Copy, Debug)]
struct Outliers {
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
}

impl Tolerance {
    /// Reads the fixture's entry.
    #[must_use]
    pub fn new(fixture: &Value) -> Self {
        Self { spec: fixture["tolerance"].clone() }
    }

    fn rule(&self, name: &str, row: Option<usize>) -> Rule {
        let spec = &self.spec;
        let listed = |key: &str| {
            spec[key].as_array().is_some_and(|l| l.iter().any(|n| n.as_str() == Some(name)))
        };
        if spec["mode"] == "exact" || listed("exact") {
            return Rule::default();
        }
        for over in spec["overrides"].as_array().into_iter().flatten() {
            let Some(pattern) = over["match"].as_str() else { continue };
            if !matches_pattern(pattern, name) {
                continue;
            }
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
        let outliers = given.is_object().then(|| Outliers {
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

/// The few regular expressions that fixtures use: alternatives in one group, `^`, `$`, and `\.`.
fn matches_pattern(pattern: &str, name: &str) -> bool {
    let plain = pattern.replace('\\', "");
    let start = plain.starts_with('^');
    let end = plain.ends_with('$');
    let body = plain.trim_start_matches('^').trim_end_matches('$');
    let body = body.strip_prefix('(').and_then(|b| b.strip_suffix(')')).unwrap_or(body);
    body.split('|').any(|part| match (start, end) {
        (true, true) => name == part,
        (true, false) => name.starts_with(part),
        (false, true) => name.ends_with(part),
        (false, false) => name.contains(part),
    })
}

/// Collects comparisons of one fixture.
#[derive(Debug)]
pub struct Comparison {
    tolerance: Tolerance,
    outcome: Outcome,
}

impl Comparison {
    /// An empty comparison with the tolerance of `fixture`.
    #[must_use]
    pub fn new(fixture: &Value) -> Self {
        let outcome = Outcome { passed: true, ..Outcome::default() };
        Self { tolerance: Tolerance::new(fixture), outcome }
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
        let mut outliers = 0_usize;
        for (i, (g, e)) in got.iter().zip(expected).enumerate() {
            let rule = if by_row { self.tolerance.rule(name, Some(i)) } else { whole };
            let scale = if rule.by_tensor { largest } else { e.abs() };
            let allowed = rule.abs + rule.rel * scale;
            let error = (g - e).abs();
            let within = error <= allowed;
            if !within
                && let Some(o) = rule.outliers
                && error <= o.abs
            {
                outliers += 1;
                continue;
            }
            self.note(name, i, error, allowed, within);
        }
        if let Some(o) = whole.outliers
            && outliers > 0
        {
            let limit = (o.max_share * got.len() as f64).ceil().max(o.least);
            if outliers as f64 > limit {
                self.fail(format!("{name}: {outliers} outliers, {limit} allowed"));
            }
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
        self.outcome.passed = false;
        self.outcome.worst = f64::INFINITY;
        self.outcome.detail = detail;
    }

    fn note(&mut self, name: &str, i: usize, error: f64, allowed: f64, within: bool) {
        let share = if error == 0.0 { 0.0 } else { error / allowed };
        let share = if within { share } else { share.max(1.000_001) };
        let o = &mut self.outcome;
        o.error = o.error.max(error);
        if !within {
            o.passed = false;
        }
        if share > o.worst || share.is_nan() || o.detail.is_empty() {
            o.worst = if share.is_nan() { f64::INFINITY } else { share };
            o.tolerance = allowed;
            o.detail = format!("{name}[{i}]");
        }
    }

    /// The outcome; a fixture in which nothing was compared has failed.
    ///
    /// # Errors
    /// Never; the signature lets replays end with it.
    pub fn finish(mut self) -> Result<Outcome> {
        if self.outcome.compared == 0 {
            self.fail("nothing was compared".into());
        }
        Ok(self.outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn compare(tolerance: Value, name: &str, got: &[f32], expected: &[f32]) -> Outcome {
        let mut c = Comparison::new(&json!({ "tolerance": tolerance }));
        c.tensor(name, got, expected);
        c.finish().unwrap()
    }

    #[test]
    fn a_value_outside_fails_and_one_inside_passes() {
        let t = json!({"mode": "elementwise", "abs": 0.1, "rel": 0.0});
        assert!(compare(t.clone(), "x", &[1.05], &[1.0]).passed);
        assert!(!compare(t.clone(), "x", &[1.2], &[1.0]).passed);
        assert!(!compare(t.clone(), "x", &[f32::NAN], &[1.0]).passed);
        assert!(!compare(t.clone(), "x", &[1.0, 1.0], &[1.0]).passed);
        assert!(!compare(t, "x", &[], &[]).passed);
    }

    #[test]
    fn a_few_outliers_pass_and_more_or_worse_ones_fail() {
        let t = |least: Value| {
            json!({"mode": "elementwise", "abs": 0.1, "rel": 0.0,
                "outliers": {"max_share": 0.1, "abs": 1.0, "least": least}})
        };
        let one = [0.5, 0.0, 0.0, 0.0];
        let two = [0.5, 0.5, 0.0, 0.0];
        assert!(compare(t(Value::Null), "x", &one, &[0.0; 4]).passed);
        assert!(!compare(t(Value::Null), "x", &two, &[0.0; 4]).passed);
        assert!(compare(t(json!(2.0)), "x", &two, &[0.0; 4]).passed);
        assert!(!compare(t(json!(2.0)), "x", &[1.5, 0.0, 0.0, 0.0], &[0.0; 4]).passed);
    }

    #[test]
    fn overrides_reach_only_the_rows_they_name() {
        let t = json!({"mode": "mixed", "default": {"mode": "elementwise", "abs": 0.0, "rel": 0.0},
            "overrides": [{"match": "(\\.key\\.bias|attn\\.qkv\\.bias)$", "rows_of_qkv_bias": [1, 2],
                "mode": "elementwise", "abs": 1.0, "rel": 0}]});
        assert!(compare(t.clone(), "a.attn.qkv.bias", &[0., 0.5, 0.], &[0.; 3]).passed);
        assert!(!compare(t.clone(), "a.attn.qkv.bias", &[0.5, 0., 0.], &[0.; 3]).passed);
        assert!(compare(t, "a.key.bias", &[0.5, 0.5, 0.5], &[0.; 3]).passed);
    }
}
