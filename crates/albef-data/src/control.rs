//! Progress and cancellation of long computations.
//!
//! The libraries never print. A [`Control`] is passed to everything that takes longer than a moment: it
//! reports progress to a callback and stops at the next batch once it is cancelled.
//!
//! ```
//! use albef_data::control::Control;
//!
//! let control = Control::new().on_progress(|p| println!("{}: {} of {}", p.phase, p.done, p.total));
//! control.cancel();
//! assert!(control.check().is_err());
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How far a computation is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress<'a> {
    /// What is being done.
    pub phase: &'a str,
    /// Items done.
    pub done: u64,
    /// Items in all; 0 while that is not known.
    pub total: u64,
    /// Items a second since the phase began; 0 while nothing is done.
    pub rate: f64,
    /// How long the phase will still take; `None` while that cannot be told.
    pub eta: Option<Duration>,
}

/// The computation was cancelled. Each library's error has a variant for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cancelled")]
pub struct Cancelled;

/// A progress callback and a cancellation flag. Clones share both.
#[derive(Clone, Default)]
pub struct Control {
    observer: Option<Arc<Observer>>,
    cancelled: Arc<AtomicBool>,
}

struct Observer {
    callback: Box<dyn Fn(&Progress<'_>) + Send + Sync>,
    phase: Mutex<Option<Phase>>,
}

/// The phase that was reported last.
struct Phase {
    name: String,
    begin: Instant,
    /// Items done when it began.
    first: u64,
    /// Items done at the last report.
    last: u64,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("cancelled", &self.is_cancelled()).finish_non_exhaustive()
    }
}

impl Control {
    /// Without a callback, not cancelled.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Calls `callback` after each batch. It may be called from another thread.
    #[must_use]
    pub fn on_progress(mut self, callback: impl Fn(&Progress<'_>) + Send + Sync + 'static) -> Self {
        let observer = Observer { callback: Box::new(callback), phase: Mutex::new(None) };
        self.observer = Some(Arc::new(observer));
        self
    }

    /// Cancels when `flag` becomes true, for instance in a signal handler.
    #[must_use]
    pub fn cancelled_by(mut self, flag: Arc<AtomicBool>) -> Self {
        self.cancelled = flag;
        self
    }

    /// The cancellation flag, to be set from elsewhere.
    #[must_use]
    pub fn cancellation(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.cancelled)
    }

    /// Makes the computation stop with an error at the next batch.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
    }

    /// Whether [`Control::cancel`] was called.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    /// # Errors
    /// [`Cancelled`] after cancellation.
    pub fn check(&self) -> Result<(), Cancelled> {
        if self.is_cancelled() { Err(Cancelled) } else { Ok(()) }
    }

    /// Reports progress. A phase begins with its first report, or where fewer items are done than before.
    pub fn advance(&self, phase: &str, done: usize, total: usize) {
        let Some(observer) = &self.observer else { return };
        let (done, total) = (done as u64, total as u64);
        let rate = observer.rate(phase, done);
        let left = total.saturating_sub(done) as f64;
        let eta = (rate > 0.0 && total > 0)
            .then(|| Duration::try_from_secs_f64(left / rate).ok())
            .flatten();
        (observer.callback)(&Progress { phase, done, total, rate, eta });
    }
}

impl Observer {
    /// Items a second of the phase.
    fn rate(&self, name: &str, done: u64) -> f64 {
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        match phase.as_mut().filter(|phase| phase.name == name && phase.last <= done) {
            Some(phase) => {
                phase.last = done;
                let seconds = phase.begin.elapsed().as_secs_f64();
                if seconds > 0.0 { (done - phase.first) as f64 / seconds } else { 0.0 }
            }
            None => {
                let (name, begin) = (name.to_owned(), Instant::now());
                *phase = Some(Phase { name, begin, first: done, last: done });
                0.0
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Phase, items done, all items, and whether the rate is known.
    type Reports = Arc<Mutex<Vec<(String, u64, u64, bool)>>>;

    /// A control, and what it has reported.
    fn recorded() -> (Control, Reports) {
        let seen = Reports::default();
        let log = Arc::clone(&seen);
        let control = Control::new().on_progress(move |p| {
            let known = p.rate > 0.0 && p.eta.is_some();
            log.lock().unwrap().push((p.phase.to_owned(), p.done, p.total, known));
        });
        (control, seen)
    }

    #[test]
    fn clones_share_the_callback_and_the_flag() {
        let (control, seen) = recorded();
        let clone = control.clone();
        clone.advance("images", 3, 7);
        assert_eq!(*seen.lock().unwrap(), [("images".to_owned(), 3, 7, false)]);
        control.check().unwrap();
        clone.cancel();
        assert_eq!(control.check(), Err(Cancelled));
    }

    #[test]
    fn rate_and_time_left_are_those_of_the_phase() {
        let (control, seen) = recorded();
        let reports = [("images", 0), ("images", 4), ("texts", 4), ("texts", 5), ("texts", 1)];
        for (phase, done) in reports {
            control.advance(phase, done, 8);
            std::thread::sleep(Duration::from_millis(1));
        }
        let known: Vec<bool> = seen.lock().unwrap().iter().map(|report| report.3).collect();
        assert_eq!(known, [false, true, false, true, false]);
    }
}
