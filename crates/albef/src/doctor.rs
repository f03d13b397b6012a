//! What this build and this machine can do, and whether a device computes correctly.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value, json};

use crate::device::{Device, Found, Kind, found, open};
use crate::error::Result;
use crate::golden::Replayed;
use crate::model_path::default_model;
use crate::ops::{Bf16Unit, bf16_unit, detected, features};
use crate::self_test::SelfTest;

/// Build, machine and self-test of a device. Its `Display` is the head of `albef doctor`.
#[derive(Clone, Debug)]
pub struct Diagnosis {
    /// The device, as [`open`] takes it.
    pub device: String,
    /// Result of its self-test.
    pub self_test: SelfTest,
    /// The devices that this build and this machine offer, by kind.
    pub devices: Vec<(Kind, Vec<Found>)>,
}

impl Diagnosis {
    /// Opens a device and tests it; returns it beside the diagnosis.
    ///
    /// # Errors
    /// If the device cannot be opened.
    pub fn of(name: &str) -> Result<(Self, Device)> {
        let device = open(name)?;
        let offered = |kind: Kind| if kind.compiled() { found(kind) } else { Vec::new() };
        let diagnosis = Self {
            device: name.to_owned(),
            self_test: SelfTest::run(&device),
            devices: Kind::ALL.into_iter().map(|kind| (kind, offered(kind))).collect(),
        };
        Ok((diagnosis, device))
    }

    /// All of it with replayed fixtures, as one object.
    #[must_use]
    pub fn to_json(&self, replayed: &[Replayed]) -> Value {
        let devices = self.devices.iter().map(|(kind, found)| {
            let found = found.iter().map(|d| json!({"name": d.name, "hardware": d.hardware}));
            json!({
                "kind": kind.name(), "compiled": kind.compiled(), "found": Vec::from_iter(found)
            })
        });
        json!({
            "version": env!("CARGO_PKG_VERSION"), "kernels": kernels(), "device": self.device,
            "instructions": BTreeMap::from_iter(features()),
            "model": default_model(),
            "bf16": bf16_unit().map(|unit| format!("{unit:?}")),
            "devices": Vec::from_iter(devices),
            "tolerance_factor": self.self_test.tolerance_factor,
            "threads": rayon::current_num_threads(), "self_test": self.self_test.passed(),
            "difference": self.self_test.difference,
            "fixtures": replayed.iter().map(Replayed::to_json).collect::<Vec<_>>(),
            "failed": replayed.iter().filter(|r| !r.passed()).count(),
        })
    }
}

/// The set of kernels that is in use.
fn kernels() -> String {
    format!("{:?}", detected())
}

fn names(list: &[(&str, bool)]) -> String {
    match list {
        [] => "none".to_owned(),
        _ => list.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "),
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "albef {}", env!("CARGO_PKG_VERSION"))?;
        writeln!(f, "kernels: {}, {} threads", kernels(), rayon::current_num_threads())?;
        let (there, missing): (Vec<_>, Vec<_>) = features().into_iter().partition(|(_, has)| *has);
        writeln!(f, "instructions: {}; missing: {}", names(&there), names(&missing))?;
        let bf16 = match bf16_unit() {
            Some(Bf16Unit::Amx) => "AMX tiles",
            Some(Bf16Unit::Avx512) => "AVX512-BF16",
            None => "no unit; `precision: bf16` computes in f32",
        };
        writeln!(f, "bf16: {bf16}")?;
        for (kind, devices) in &self.devices {
            let name = kind.name();
            if !kind.compiled() {
                writeln!(f, "{name}: not compiled in (build with `--features {name}`)")?;
            } else if devices.is_empty() {
                writeln!(f, "{name}: compiled in, but no driver finds a device")?;
            }
            for d in devices {
                writeln!(f, "{}: {}", d.name, d.hardware)?;
            }
        }
        match default_model() {
            Some(path) => writeln!(f, "model: {}", path.display())?,
            None => writeln!(f, "model: none found; commands need --model")?,
        }
        let test = &self.self_test;
        write!(
            f,
            "device: {}\nself-test: {}, it differs from plain operations on the cpu by {:.1e}, \
             {:.0e} allowed",
            self.device,
            if test.passed() { "ok" } else { "FAILED" },
            test.difference,
            test.allowed
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_named_and_passes() {
        let (diagnosis, _) = Diagnosis::of("cpu").unwrap();
        let text = diagnosis.to_string();
        assert!(text.contains("cpu: this processor\n") && text.contains("self-test: ok"), "{text}");
        let value = diagnosis.to_json(&[]);
        assert_eq!((&value["failed"], &value["self_test"]), (&json!(0), &json!(true)));
        assert!(Diagnosis::of("abacus").is_err());
    }
}
