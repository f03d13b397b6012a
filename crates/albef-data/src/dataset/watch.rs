//! Progress of long work, and an end from outside.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::{DataError, Result};

/// Follows long work: called with what is being done, how many items are done, and of how many.
type Progress<'a> = &'a (dyn Fn(&str, usize, usize) + Sync);

/// Follows long work and can end it.
#[derive(Clone, Copy)]
pub struct Watch<'a> {
    progress: Progress<'a>,
    is_cancelled: &'a (dyn Fn() -> bool + Sync),
}

impl Watch<'static> {
    /// Nobody looks on.
    pub const NONE: Self = Self { progress: &|_, _, _| (), is_cancelled: &|| false };
}

impl<'a> Watch<'a> {
    /// Calls `progress` with what is being done, the items done and all of them; ends the work soon after
    /// `is_cancelled` gives true.
    #[must_use]
    pub fn new(progress: Progress<'a>, is_cancelled: &'a (dyn Fn() -> bool + Sync)) -> Self {
        Self { progress, is_cancelled }
    }

    /// Reports progress.
    pub(super) fn tell(&self, what: &str, done: usize, all: usize) {
        (self.progress)(what, done, all);
    }

    /// An error once the work is to end.
    pub(super) fn go_on(&self) -> Result<()> {
        if (self.is_cancelled)() { Err(DataError::Interrupted) } else { Ok(()) }
    }
}

/// Items that are worked on at a time, so that progress can be told and order kept.
const PART: usize = 512;

/// Does `work` for the numbers from 0 to `count` on several threads, and gives the results in order to `take`.
/// Ends with the first error of `take`, or when the watch ends it.
pub(super) fn in_order<T: Send>(
    what: &str,
    count: usize,
    workers: usize,
    watch: Watch<'_>,
    work: impl Fn(usize) -> T + Sync,
    mut take: impl FnMut(usize, T) -> Result<()>,
) -> Result<()> {
    let mut start = 0;
    while start < count {
        watch.go_on()?;
        let end = count.min(start + PART);
        let next = AtomicUsize::new(start);
        let slots: Vec<Mutex<Option<T>>> = (start..end).map(|_| Mutex::new(None)).collect();
        std::thread::scope(|scope| {
            for _ in 0..workers.clamp(1, end - start) {
                scope.spawn(|| {
                    loop {
                        let i = next.fetch_add(1, Ordering::Relaxed);
                        if i >= end {
                            return;
                        }
                        let done = work(i);
                        *slots[i - start].lock().unwrap_or_else(PoisonError::into_inner) =
                            Some(done);
                    }
                });
            }
        });
        for (i, slot) in (start..end).zip(slots) {
            let done = slot.into_inner().unwrap_or_else(PoisonError::into_inner);
            take(i, done.ok_or_else(|| DataError::Internal(format!("item {i} was not done")))?)?;
        }
        start = end;
        watch.tell(what, end, count);
    }
    Ok(())
}
