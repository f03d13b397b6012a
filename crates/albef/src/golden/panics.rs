//! A replay that panics becomes an error of its fixture: the inputs are files, which may be damaged in
//! more ways than each replay checks.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::{Mutex, PoisonError};

/// One at a time, since the hook is the process's.
static HOOK: Mutex<()> = Mutex::new(());

/// Runs `replay`, without the usual report of a panic.
///
/// # Errors
/// What a panic said. `replay` changes nothing that outlives it, so nothing is left half done.
pub(super) fn caught<T>(replay: impl FnOnce() -> T) -> Result<T, String> {
    let _one = HOOK.lock().unwrap_or_else(PoisonError::into_inner);
    let former = take_hook();
    set_hook(Box::new(|_| ()));
    let result = catch_unwind(AssertUnwindSafe(replay));
    set_hook(former);
    result.map_err(|payload| said(payload.as_ref()))
}

fn said(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|t| (*t).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "it did not say why".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_panic_says_becomes_an_error_on_any_thread() {
        assert_eq!(caught(|| 3), Ok(3));
        let empty: [u8; 0] = [];
        let error = caught(|| empty[std::hint::black_box(1)]).unwrap_err();
        assert!(error.contains("index out of bounds"), "{error}");
        let far = caught(|| rayon::join(|| panic!("on purpose"), || ()));
        assert_eq!(far.unwrap_err(), "on purpose");
    }
}
