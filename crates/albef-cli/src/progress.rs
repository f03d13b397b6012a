//! Progress of the library's work, as a bar on standard error.

use std::sync::Mutex;

use albef::Control;
use albef::index::Control as IndexControl;
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

/// Shows each phase as a bar that disappears at its end.
pub fn bar() -> Control {
    shown_on(Control::new(), "{msg} {wide_bar} {pos}/{len}")
}

/// Shows each phase, counted in bytes, as a bar with the rate and the time left.
pub fn bytes_bar(control: Control) -> Control {
    shown_on(control, BYTES)
}

/// The line of a bar of bytes.
pub const BYTES: &str = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";

fn shown_on(control: Control, template: &'static str) -> Control {
    let shown: Mutex<Option<ProgressBar>> = Mutex::new(None);
    control.on_progress(move |p| {
        let Ok(mut shown) = shown.lock() else { return };
        let bar = shown.get_or_insert_with(|| {
            let style = ProgressStyle::with_template(template);
            let bar = ProgressBar::new(p.total);
            match style {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            }
        });
        bar.set_length(p.total);
        bar.set_message(p.phase.to_owned());
        bar.set_position(p.done);
        if p.done >= p.total {
            bar.finish_and_clear();
            *shown = None;
        }
    })
}

/// Shows how an index is brought up to date: a bar with rate and time left, on a terminal only.
pub fn index_bar() -> IndexControl {
    let shown: Mutex<Option<ProgressBar>> = Mutex::new(None);
    IndexControl::new().on_progress(move |p| {
        let Ok(mut shown) = shown.lock() else { return };
        let bar = shown.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {msg}");
            let bar = ProgressBar::new(p.total);
            match style {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            }
        });
        let left = p.eta.map_or(String::new(), |eta| format!(", {} left", HumanDuration(eta)));
        bar.set_prefix(p.phase);
        bar.set_length(p.total);
        bar.set_message(format!("{:.1}/s{left}", p.rate));
        bar.set_position(p.done);
        if p.done >= p.total {
            bar.finish_and_clear();
            *shown = None;
        }
    })
}
