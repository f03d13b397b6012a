//! Progress and cancellation of long computations.
//!
//! The library never prints. A [`Control`] is passed to everything that takes longer than a moment: it
//! reports progress to a callback and stops at the next batch once it is cancelled.
//!
//! ```
//! use albef::Control;
//!
//! let control = Control::new().on_progress(|p| println!("{}: {} of {}", p.phase, p.done, p.total));
//! control.cancel();
//! assert!(control.check().is_err());
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// How far a computation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// What is being done.
    pub phase: &'a str,
    /// Items done.
    pub done: u64,
    /// Items in all.
    pub total: u64,
}

type Callback = Arc<dyn Fn(&Progress<'_>) + Send + Sync>;

/// A progress callback and a cancellation flag. Clones share both.
#[derive(Clone, Default)]
pub struct Control {
    progress: Option<Callback>,
    cancelled: Arc<AtomicBool>,
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
        self.progress = Some(Arc::new(callback));
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

    /// Makes the computation stop with [`Error::Cancelled`] at the next batch.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
    }

    /// Whether [`Control::cancel`] was called.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    /// # Errors
    /// [`Error::Cancelled`] after cancellation.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// Reports progress.
    pub fn advance(&self, phase: &str, done: usize, total: usize) {
        if let Some(callback) = &self.progress {
            callback(&Progress { phase, done: done as u64, total: total as u64 });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn clones_share_the_callback_and_the_flag() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let control = Control::new().on_progress(move |p| {
            log.lock().unwrap().push((p.phase.to_owned(), p.done, p.total));
        });
        let clone = control.clone();
        clone.advance("images", 3, 7);
        assert_eq!(*seen.lock().unwrap(), [("images".to_owned(), 3, 7)]);
        control.check().unwrap();
        clone.cancel();
        assert!(matches!(control.check(), Err(Error::Cancelled)));
    }
}
