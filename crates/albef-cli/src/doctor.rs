//! `albef doctor`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use albef::device::{Kind, found};
use albef::golden::{self, Replayed};
use albef::ops::{Bf16Unit, bf16_unit, features};
use albef::self_test::SelfTest;
use anyhow::Result;
use serde_json::json;

use crate::ExitStatus;
use crate::device::DeviceArg;
use crate::output::say;

#[derive(clap::Args)]
pub struct Arguments {
    /// Replay a folder in the golden format.
    #[arg(long, value_name = "DIR")]
    golden: Option<PathBuf>,
    /// Replay only these kinds.
    #[arg(long, value_delimiter = ',', value_name = "KIND,…")]
    only: Option<Vec<String>>,
    #[command(flatten)]
    device: DeviceArg,
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
}

pub fn run(a: &Arguments) -> Result<ExitStatus> {
    let device = a.device.open()?;
    let test = SelfTest::run(&device);
    let (healthy, slack) = (test.passed(), test.tolerance_factor);
    let isa = format!("{:?}", albef::ops::detected());
    let mut replayed = Vec::new();
    if !a.json {
        say!("albef {}", env!("CARGO_PKG_VERSION"))?;
        say!("kernels: {isa}, {} threads", rayon::current_num_threads())?;
        say!("instructions: {}", instructions())?;
        say!("bf16: {}", bf16())?;
        print_devices()?;
        say!("device: {}", a.device.device)?;
        let verdict = if healthy { "ok" } else { "FAILED" };
        say!(
            "self-test: {verdict}, it differs from plain operations on the cpu by \
             {:.1e}, {:.0e} allowed",
            test.difference,
            test.allowed
        )?;
        if slack > 1.0 && a.golden.is_some() {
            say!("tolerances: {slack} times those of the set, for `{}`", a.device.device)?;
        }
    }
    if let Some(root) = &a.golden {
        let mut said = Ok(());
        replayed = golden::replay(root, a.only.as_deref(), &device, |r| {
            if !a.json && said.is_ok() {
                said = say!("{}", line(r));
            }
        })?;
        said?;
        if replayed.is_empty() {
            anyhow::bail!("no fixture of {} has one of these kinds", root.display());
        }
    }
    let failed = replayed.iter().filter(|r| !r.passed()).count();
    if a.json {
        let fixtures: Vec<_> = replayed.iter().map(as_json).collect();
        let report = json!({
            "version": env!("CARGO_PKG_VERSION"), "kernels": isa, "device": a.device.device,
            "instructions": BTreeMap::from_iter(features()),
            "bf16": bf16_unit().map(|unit| format!("{unit:?}")),
            "devices": Kind::ALL.map(kind_json), "tolerance_factor": slack,
            "threads": rayon::current_num_threads(), "self_test": healthy,
            "difference": test.difference, "fixtures": fixtures, "failed": failed,
        });
        say!("{report}")?;
    } else if a.golden.is_some() {
        say!("{} fixtures, {failed} failed", replayed.len())?;
    }
    Ok(if healthy && failed == 0 { ExitStatus::Yes } else { ExitStatus::No })
}

/// The instructions for which there are kernels, as far as this processor has them.
fn instructions() -> String {
    let (there, missing): (Vec<_>, Vec<_>) = features().into_iter().partition(|(_, has)| *has);
    let names = |list: Vec<(&str, bool)>| match list.is_empty() {
        true => "none".to_owned(),
        false => list.into_iter().map(|(name, _)| name).collect::<Vec<_>>().join(", "),
    };
    format!("{}; missing: {}", names(there), names(missing))
}

fn bf16() -> &'static str {
    match bf16_unit() {
        Some(Bf16Unit::Amx) => "AMX tiles",
        Some(Bf16Unit::Avx512) => "AVX512-BF16",
        None => "no unit; `precision: bf16` computes in f32",
    }
}

/// What this build can compute on, and what of it this machine has.
fn print_devices() -> Result<()> {
    for kind in Kind::ALL {
        let name = kind.name();
        if !kind.compiled() {
            say!("{name}: not compiled in (build with `--features {name}`)")?;
            continue;
        }
        let devices = found(kind);
        if devices.is_empty() {
            say!("{name}: compiled in, but no driver finds a device")?;
        }
        for d in devices {
            say!("{}: {}", d.name, d.hardware)?;
        }
    }
    Ok(())
}

fn kind_json(kind: Kind) -> serde_json::Value {
    let devices = if kind.compiled() { found(kind) } else { Vec::new() };
    let devices: Vec<_> =
        devices.iter().map(|d| json!({"name": d.name, "hardware": d.hardware})).collect();
    json!({"kind": kind.name(), "compiled": kind.compiled(), "found": devices})
}

fn line(r: &Replayed) -> String {
    match &r.outcome {
        None => format!("UNKNOWN  {:<32} kind `{}`", r.name, r.kind),
        Some(Err(e)) => format!("ERROR    {:<32} {e}", r.name),
        Some(Ok(o)) => {
            format!("{}  {:<32} {o}", if o.passed() { "ok     " } else { "FAILED " }, r.name)
        }
    }
}

fn as_json(r: &Replayed) -> serde_json::Value {
    let base = json!({ "name": r.name, "kind": r.kind, "passed": r.passed() });
    let mut value = base;
    match &r.outcome {
        None => value["error"] = json!("unknown kind"),
        Some(Err(e)) => value["error"] = json!(e.to_string()),
        Some(Ok(o)) => {
            let worst = o.worst.as_ref();
            value["worst"] = json!(worst.map_or(0.0, |w| w.error));
            value["tolerance"] = json!(worst.map(|w| w.allowed));
            value["where"] = json!(worst.map(|w| &w.place));
            value["problem"] = json!(o.problem);
            value["outliers"] = json!(o.outliers.map(|x| {
                json!({ "found": x.found, "allowed": x.allowed, "worst": x.error, "limit": x.limit })
            }));
            value["compared"] = json!(o.compared);
        }
    }
    value
}
