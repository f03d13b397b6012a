//! Diagnostics on standard error: events of the library and of the program.

use std::fmt::{Debug, Write};

use albef_data::names::harmless;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Prints events, one a line: `note: …` for information, `warning: …` for warnings.
struct Stderr {
    /// Levels by the beginning of a target; the last that fits decides.
    levels: Vec<(String, LevelFilter)>,
}

/// Installs the printer. `verbosity`: 0 shows notes and warnings, each step more adds a level, each less
/// takes one; levels in `RUST_LOG` (`debug`, `albef=warn`, separated by commas) come before it.
pub fn install(verbosity: i8) {
    let own = match verbosity {
        ..=-2 => LevelFilter::ERROR,
        -1 => LevelFilter::WARN,
        0 => LevelFilter::INFO,
        1 => LevelFilter::DEBUG,
        2.. => LevelFilter::TRACE,
    };
    let mut levels = vec![("albef".to_owned(), own)];
    if let Ok(given) = std::env::var("RUST_LOG") {
        levels.extend(given.split(',').filter_map(directive));
    }
    // It can only fail where one is installed already.
    let _ = tracing::subscriber::set_global_default(Stderr { levels });
}

/// `LEVEL`, or `TARGET=LEVEL`; anything else is no directive.
fn directive(text: &str) -> Option<(String, LevelFilter)> {
    let (target, level) = text.trim().split_once('=').unwrap_or(("", text.trim()));
    Some((target.to_owned(), level.parse().ok()?))
}

impl Subscriber for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let fits = |(target, _): &&(String, LevelFilter)| metadata.target().starts_with(target);
        self.levels.iter().rev().find(fits).is_some_and(|(_, level)| metadata.level() <= level)
    }

    fn event(&self, event: &Event<'_>) {
        let name = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "note",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        let mut line = Line(String::new());
        event.record(&mut line);
        eprintln!("{name}: {}", harmless(&line.0));
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The message, and further fields behind it.
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a text cannot fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_given_for_all_or_for_a_target() {
        assert_eq!(directive("debug"), Some((String::new(), LevelFilter::DEBUG)));
        assert_eq!(directive(" albef=off"), Some(("albef".into(), LevelFilter::OFF)));
        assert_eq!(directive("albef=loud"), None);
    }
}
