//! Counters and histograms in the text format of Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Upper bounds of the buckets in seconds.
const BOUNDS: [f64; 12] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// How often something took how long.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS.len()],
    count: AtomicU64,
    micros: AtomicU64,
}

impl Histogram {
    /// Counts a duration.
    pub fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        for (bucket, bound) in self.buckets.iter().zip(BOUNDS) {
            if seconds <= bound {
                bucket.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    fn write(&self, name: &str, help: &str, out: &mut String) {
        let count = self.count.load(Ordering::Relaxed);
        let sum = self.micros.load(Ordering::Relaxed) as f64 / 1e6;
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
        for (bucket, bound) in self.buckets.iter().zip(BOUNDS) {
            let below = bucket.load(Ordering::Relaxed);
            let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {below}");
        }
        let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {count}");
        let _ = writeln!(out, "{name}_sum {sum}\n{name}_count {count}");
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Sets it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// What the service counts.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Answers by operation and status.
    answers: Mutex<BTreeMap<(String, u16), u64>>,
    /// From the request to its answer.
    pub request: Histogram,
    /// Decoding of images.
    pub decode: Histogram,
    /// From the permit to the beginning of computation.
    pub wait: Histogram,
    /// Computation.
    pub compute: Histogram,
    /// Requests of the last batch.
    pub batch: Gauge,
    /// Permits that are taken.
    pub permits: Gauge,
}

impl Metrics {
    /// Counts an answer.
    pub fn answered(&self, operation: &str, status: u16, took: Duration) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        *answers.entry((operation.to_owned(), status)).or_default() += 1;
        drop(answers);
        self.request.observe(took);
    }

    /// All of them as text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        let name = "albef_requests_total";
        let _ =
            writeln!(out, "# HELP {name} Answers by operation and status.\n# TYPE {name} counter");
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        for ((operation, status), count) in answers.iter() {
            let _ =
                writeln!(out, "{name}{{operation=\"{operation}\",status=\"{status}\"}} {count}");
        }
        drop(answers);
        for (histogram, name, help) in [
            (&self.request, "albef_request_seconds", "From the request to its answer."),
            (&self.decode, "albef_decode_seconds", "Decoding of the images of a request."),
            (&self.wait, "albef_wait_seconds", "From the permit to the beginning of computation."),
            (&self.compute, "albef_compute_seconds", "Computation of a batch."),
        ] {
            histogram.write(name, help, &mut out);
        }
        for (gauge, name, help) in [
            (&self.batch, "albef_batch_requests", "Requests of the last batch."),
            (&self.permits, "albef_permits_taken", "Permits that are taken."),
        ] {
            let value = gauge.0.load(Ordering::Relaxed);
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative() {
        let metrics = Metrics::default();
        for millis in [1, 30, 30, 20_000] {
            metrics.answered("/v1/match", 200, Duration::from_millis(millis));
        }
        let text = metrics.text();
        for line in [
            "albef_requests_total{operation=\"/v1/match\",status=\"200\"} 4",
            "albef_request_seconds_bucket{le=\"0.001\"} 1",
            "albef_request_seconds_bucket{le=\"0.05\"} 3",
            "albef_request_seconds_bucket{le=\"10\"} 3",
            "albef_request_seconds_bucket{le=\"+Inf\"} 4",
            "albef_request_seconds_count 4",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}: {text}");
        }
    }
}
