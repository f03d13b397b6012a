//! Places in everything that writes at which a test can end the program, or let the system fail.
//!
//! `ALBEF_FAILPOINT` names a place, how often it is passed before, and what happens then:
//!
//! | value | at the place |
//! | --- | --- |
//! | `file.synced` | the program ends at once, as by SIGKILL: nothing is cleaned up |
//! | `file.synced@3` | the same at the third passage |
//! | `*@7` | the same at the seventh passage of any place |
//! | `file.synced=enospc`, `*@7=eio` | the place gives this error, once |
//!
//! | place | when |
//! | --- | --- |
//! | `file.created` | the temporary file is there, and empty |
//! | `file.written` | it has its content |
//! | `file.synced` | its content is on the disk |
//! | `file.renamed` | it has its name, which may not be on the disk |
//! | `folder.written` | the folder is complete under another name |
//! | `folder.moving` | a file of it is about to move into a folder that was there |
//! | `folder.aside` | the old folder has lost its name, and the new one has none (where the two cannot be exchanged) |
//! | `folder.renamed` | the new folder has its name |
//! | `folder.removing` | a folder has lost its name and is about to be removed |
//! | `journal.appending` | a part of features is about to be added to the journal of an extraction |
//! | `journal.appended` | it is in the journal, but not on the disk |
//!
//! Without the variable a passage costs a load of one word.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The variable that sets the place.
pub const VARIABLE: &str = "ALBEF_FAILPOINT";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Kill,
    Fail(i32),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Plan {
    place: String,
    passage: u64,
    action: Action,
}

const ENOSPC: i32 = 28;
const EIO: i32 = 5;

fn parse(text: &str) -> Result<Plan, String> {
    let (place, action) = match text.split_once('=') {
        None => (text, Action::Kill),
        Some((place, "enospc")) => (place, Action::Fail(ENOSPC)),
        Some((place, "eio")) => (place, Action::Fail(EIO)),
        Some((_, other)) => return Err(format!("`{other}` is no action; take `enospc` or `eio`")),
    };
    let (place, passage) = match place.split_once('@') {
        None => (place, Ok(1)),
        Some((place, passage)) => (place, passage.parse()),
    };
    let passage = passage.map_err(|_| "the passage is no number".to_owned())?;
    Ok(Plan { place: place.to_owned(), passage, action })
}

/// Passes a place.
///
/// # Errors
/// The one that `ALBEF_FAILPOINT` asks for here, or if it is not understood.
#[inline]
pub fn pass(place: &str) -> io::Result<()> {
    static PLAN: OnceLock<Option<Result<Plan, String>>> = OnceLock::new();
    match PLAN.get_or_init(|| std::env::var(VARIABLE).ok().map(|text| parse(&text))) {
        None => Ok(()),
        Some(Err(detail)) => {
            Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{VARIABLE}: {detail}")))
        }
        Some(Ok(plan)) => act(plan, place),
    }
}

#[cold]
fn act(plan: &Plan, place: &str) -> io::Result<()> {
    static PASSED: AtomicU64 = AtomicU64::new(0);
    if plan.place != "*" && plan.place != place {
        return Ok(());
    }
    if PASSED.fetch_add(1, Ordering::SeqCst) + 1 != plan.passage {
        return Ok(());
    }
    match plan.action {
        Action::Kill => end(place),
        Action::Fail(code) => Err(io::Error::from_raw_os_error(code)),
    }
}

/// Ends the program as SIGKILL does.
fn end(place: &str) -> ! {
    eprintln!("{VARIABLE}: killed at {place}");
    #[cfg(target_os = "linux")]
    // SAFETY: a signal to this process, which takes no memory.
    unsafe {
        libc::kill(libc::getpid(), libc::SIGKILL);
    }
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_are_read() {
        let plan = |place: &str, passage, action| Plan { place: place.to_owned(), passage, action };
        assert_eq!(parse("file.synced"), Ok(plan("file.synced", 1, Action::Kill)));
        assert_eq!(parse("*@7=eio"), Ok(plan("*", 7, Action::Fail(EIO))));
        assert_eq!(parse("a@2=enospc"), Ok(plan("a", 2, Action::Fail(ENOSPC))));
        assert!(parse("a@x").unwrap_err().contains("number"));
        assert!(parse("a=later").unwrap_err().contains("`later`"));
    }
}
