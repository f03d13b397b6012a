//! Work on many items by several threads, in order.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::control::Control;
use crate::error::{DataError, Result};

/// Items that are worked on at a time, so that progress can be told and order kept.
const PART: usize = 512;

/// Does `work` for the numbers from 0 to `count` on several threads, and gives the results in order to `take`.
/// Ends with the first error of `take`, or when `control` is cancelled.
pub(super) fn in_order<T: Send>(
    what: &str,
    count: usize,
    workers: usize,
    control: &Control,
    work: impl Fn(usize) -> T + Sync,
    mut take: impl FnMut(usize, T) -> Result<()>,
) -> Result<()> {
    let mut start = 0;
    while start < count {
        control.check()?;
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
        control.advance(what, end, count);
    }
    Ok(())
}
