//! Every reader, on its seeds and corpus, and on mutations of both for a bounded time.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::panic::catch_unwind;
use std::time::{Duration, Instant};

use albef_fuzz::{TARGETS, Target, mutated, seeds};

/// Processor time that a reader may take for one input of at most a few dozen kilobytes.
const SLOW: Duration = Duration::from_secs(2);

/// Seconds of mutations for each target; `ALBEF_FUZZ_SECONDS` sets another number.
fn seconds() -> f64 {
    std::env::var("ALBEF_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(2.0)
}

/// Runs the target, and keeps an input that it does not bear where the message says.
fn bear(target: Target, input: &[u8]) {
    let started = Instant::now();
    let panicked = catch_unwind(|| (target.run)(input)).is_err();
    let slow = started.elapsed() > SLOW;
    if panicked || slow {
        let place =
            std::env::temp_dir().join(format!("albef-{}-{}", target.name, std::process::id()));
        std::fs::write(&place, input).unwrap();
        let what = if panicked { "a panic" } else { "too slow" };
        panic!("{}: {what}; the input is in {}", target.name, place.display());
    }
}

#[test]
fn no_reader_panics_or_hangs() {
    // By time, but from the same numbers on: a failure is found again with more seconds.
    for target in TARGETS {
        let seeds = seeds(target.name);
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        seeds.iter().for_each(|seed| bear(*target, seed));
        let (started, mut runs) = (Instant::now(), 0_u64);
        while started.elapsed().as_secs_f64() < seconds() {
            let at = |n: u64| &seeds[usize::try_from(n).unwrap() % seeds.len()];
            let input = mutated(at(runs), at(runs / 7 + 1), runs);
            bear(*target, &input);
            runs += 1;
        }
        println!("{}: {} seeds, {runs} mutations", target.name, seeds.len());
        assert!(runs > 10, "{}: {runs} mutations in {} s", target.name, seconds());
    }
}
