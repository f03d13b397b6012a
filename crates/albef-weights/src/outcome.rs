//! What the replay of a fixture came to.

use std::fmt;

/// The outcome of one fixture.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Values compared.
    pub compared: usize,
    /// The value that takes up the largest share of what is allowed at its place; `None` if all are
    /// equal.
    pub worst: Option<Worst>,
    /// Values beyond their bound that the fixture lets off; `worst` is not one of them.
    pub outliers: Option<Outliers>,
    /// What else is wrong, where something is: the first that was found.
    pub problem: Option<String>,
}

/// A value, and what is allowed at its place.
#[derive(Clone, Debug)]
pub struct Worst {
    /// The error as a share of what is allowed.
    pub share: f64,
    /// The absolute error.
    pub error: f64,
    /// What is allowed.
    pub allowed: f64,
    /// Where.
    pub place: String,
}

/// Values beyond their bound, over the tensors that have some.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outliers {
    /// How many there are.
    pub found: usize,
    /// How many there may be.
    pub allowed: usize,
    /// The largest error of one.
    pub error: f64,
    /// How large it may be.
    pub limit: f64,
}

impl Outcome {
    /// Of values that must be equal.
    #[must_use]
    pub fn exact(compared: usize, problem: Option<String>) -> Self {
        Self { compared, problem, ..Self::default() }
    }

    /// Whether all is as it should be. A fixture in which nothing was compared has failed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.compared > 0
            && self.problem.is_none()
            && self.worst.as_ref().is_none_or(|w| w.share <= 1.0)
    }

    /// Records that something is wrong.
    pub fn fail(&mut self, problem: String) {
        self.problem.get_or_insert(problem);
    }

    /// Records the error of one value.
    pub fn note(&mut self, error: f64, allowed: f64, place: impl FnOnce() -> String) {
        let share = match error <= allowed {
            true if error == 0.0 => 0.0,
            true => error / allowed,
            // Beyond the bound by whatever little; nothing compares with NaN.
            false if error.is_nan() => f64::INFINITY,
            false => (error / allowed).max(1.000_001),
        };
        if share > self.worst.as_ref().map_or(0.0, |w| w.share) {
            self.worst = Some(Worst { share, error, allowed, place: place() });
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.compared;
        match (&self.problem, &self.worst) {
            (None, None) if n == 0 => return write!(f, "nothing was compared"),
            (None, None) => write!(f, "all {n} values equal")?,
            (None, Some(w)) => write!(f, "{w}, {n} values")?,
            (Some(p), Some(w)) if w.share > 1.0 => write!(f, "{p}; {w}, {n} values")?,
            (Some(p), _) => write!(f, "{p}, {n} values")?,
        }
        match &self.outliers {
            None => Ok(()),
            Some(o) => write!(
                f,
                ", {} outliers of {} allowed, the largest {:.2e} of {:.2e}",
                o.found, o.allowed, o.error, o.limit
            ),
        }
    }
}

impl fmt::Display for Worst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { error, allowed, place, .. } = self;
        write!(f, "worst error {error:.2e} of {allowed:.2e} allowed at {place}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_bound_and_place_are_of_one_value() {
        let mut o = Outcome { compared: 3, ..Outcome::default() };
        o.note(3.0, 100.0, || "large".into());
        o.note(0.5, 1.0, || "near its bound".into());
        o.note(0.0, 0.0, || "equal".into());
        assert!(o.passed());
        let said = o.to_string();
        assert_eq!(said, "worst error 5.00e-1 of 1.00e0 allowed at near its bound, 3 values");
        o.note(0.2, 0.1, || "beyond".into());
        assert!(!o.passed() && o.to_string().contains("at beyond"), "{o}");
        o.note(f64::NAN, 9.0, || "no number".into());
        assert!(!o.passed() && o.to_string().contains("at no number"), "{o}");
    }

    #[test]
    fn without_a_place_the_words_say_what_was_compared() {
        assert_eq!(Outcome::exact(7, None).to_string(), "all 7 values equal");
        assert!(!Outcome::exact(0, None).passed());
        let torn = Outcome::exact(7, Some("`x` is missing".into()));
        assert_eq!((torn.passed(), &*torn.to_string()), (false, "`x` is missing, 7 values"));
    }
}
