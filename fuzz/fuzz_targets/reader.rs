//! One reader, which `ALBEF_FUZZ_TARGET` names; see `crates/albef-fuzz/src/targets.rs`.

#![no_main]

use std::sync::OnceLock;

use albef_fuzz::{TARGETS, Target, named};

fn chosen() -> Target {
    static TARGET: OnceLock<Target> = OnceLock::new();
    *TARGET.get_or_init(|| {
        let name = std::env::var("ALBEF_FUZZ_TARGET").unwrap_or_default();
        named(&name).unwrap_or_else(|| {
            let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            eprintln!("ALBEF_FUZZ_TARGET must be one of {}", names.join(", "));
            std::process::exit(2)
        })
    })
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| (chosen().run)(data));
