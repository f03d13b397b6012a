//! Progress and cancelling of long work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::{IndexError, Result};

/// How far the work is. What is done is acknowledged: it is kept whatever happens afterwards.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// What is being done.
    pub phase: &'static str,
    /// Items done.
    pub done: u64,
    /// Items in all; 0 while that is not known.
    pub total: u64,
    /// Items a second since the phase began.
    pub rate: f64,
    /// How long the phase will take yet; `None` while that cannot be told.
    pub eta: Option<Duration>,
}

type Callback = Arc<dyn Fn(&Progress) + Send + Sync>;

/// A progress callback and a cancellation flag. Clones share both.
#[derive(Clone, Default)]
pub struct Control {
    callback: Option<Callback>,
    cancelled: Arc<AtomicBool>,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("cancelled", &self.cancelled).finish_non_exhaustive()
    }
}

impl Control {
    /// Without a callback, not cancelled.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Calls `callback` as the work goes on.
    #[must_use]
    pub fn on_progress(mut self, callback: impl Fn(&Progress) + Send + Sync + 'static) -> Self {
        self.callback = Some(Arc::new(callback));
        self
    }

    /// Cancels when `flag` becomes true, for instance in a signal handler.
    #[must_use]
    pub fn cancelled_by(mut self, flag: Arc<AtomicBool>) -> Self {
        self.cancelled = flag;
        self
    }

    /// The cancellation flag.
    #[must_use]
    pub fn cancellation(&self) -> &Arc<AtomicBool> {
        &self.cancelled
    }

    /// # Errors
    /// [`IndexError::Cancelled`] after cancellation.
    pub fn check(&self) -> Result<()> {
        if self.cancelled.load(Ordering::SeqCst) { Err(IndexError::Cancelled) } else { Ok(()) }
    }

    pub(crate) fn phase(&self, phase: &'static str, total: u64) -> Phase<'_> {
        let out = Phase { control: self, phase, total, begin: Instant::now() };
        out.advance(0);
        out
    }
}

/// A part of the work, with the time at which it began.
pub(crate) struct Phase<'a> {
    control: &'a Control,
    phase: &'static str,
    total: u64,
    begin: Instant,
}

impl Phase<'_> {
    pub fn advance(&self, done: u64) {
        let Some(callback) = &self.control.callback else { return };
        let elapsed = self.begin.elapsed().as_secs_f64();
        let rate = if elapsed > 0.0 { done as f64 / elapsed } else { 0.0 };
        let left = self.total.saturating_sub(done) as f64;
        let eta = (rate > 0.0 && self.total > 0)
            .then(|| Duration::try_from_secs_f64(left / rate).ok())
            .flatten();
        callback(&Progress { phase: self.phase, done, total: self.total, rate, eta });
    }
}
