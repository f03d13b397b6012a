//! Progress of the library's work, as a bar on standard error.

use std::sync::Mutex;

use albef::Control;
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

/// The line of a bar of bytes.
pub const BYTES: &str = "{prefix} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";

/// Shows each phase as a bar with rate and time left, which disappears at its end.
pub fn bar() -> Control {
    shown_on(Control::new(), "{prefix} {wide_bar} {pos}/{len} {msg}")
}

/// Shows each phase, counted in bytes, as a bar with the rate and the time left.
pub fn bytes_bar(control: Control) -> Control {
    shown_on(control, BYTES)
}

fn shown_on(control: Control, template: &'static str) -> Control {
    let shown: Mutex<Option<ProgressBar>> = Mutex::new(None);
    control.on_progress(move |p| {
        let Ok(mut shown) = shown.lock() else { return };
        let bar = shown.get_or_insert_with(|| {
            let bar = ProgressBar::new(p.total);
            match ProgressStyle::with_template(template) {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            }
        });
        bar.set_length(p.total);
        bar.set_prefix(p.phase.to_owned());
        let left = p.eta.map_or(String::new(), |eta| format!(", {} left", HumanDuration(eta)));
        bar.set_message(format!("{:.1}/s{left}", p.rate));
        bar.set_position(p.done);
        if p.done >= p.total {
            bar.finish_and_clear();
            *shown = None;
        }
    })
}
