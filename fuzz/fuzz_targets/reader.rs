//! One reader, which `ALBEF_FUZZ_TARGET` names; see `crates/albef-fuzz/src/targets.rs`.

#![no_main]

use std::sync::OnceLock;

use albef_fuzz::{TARGETS, Target, named};

fn chosen() -> Target {
    static TARGET: OnceLock<Target> = OnceLock::new();
    *TARGET.get_or_init(|| {
        let name = std::env::var("ALBEF_FUZZ_TARGET").unwrap_or_default();
        // libFuzzer's binding ends the program at any panic, but those of image decoders are caught and are errors. One that
        // is not caught still ends it.
        if name == "image" {
            std::panic::set_hook(Box::new(|_| {}));
        }
        named(&name).unwrap_or_else(|| {
            let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            eprintln!("ALBEF_FUZZ_TARGET must be one of {}", names.join(", "));
            std::process::exit(2)
        })
    })
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| (chosen().run)(data));
