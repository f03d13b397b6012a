//! `albef doctor`.

use std::path::PathBuf;

use albef::device::{Kind, found};
use albef::golden::{self, Replayed};
use albef::ops::{AttentionSpec, Ops, Segment};
use albef::params::{cpu, tensor, values};
use anyhow::Result;
use burn::tensor::Device;
use serde_json::json;

use crate::Answer;
use crate::device::Where;

/// What the self-test allows on the CPU.
const SELF_TEST: f64 = 1e-4;

#[derive(clap::Args)]
pub struct Arguments {
    /// Replay a folder in the golden format.
    #[arg(long, value_name = "DIR")]
    golden: Option<PathBuf>,
    /// Replay only these kinds.
    #[arg(long, value_delimiter = ',', value_name = "KIND,…")]
    only: Option<Vec<String>>,
    #[command(flatten)]
    device: Where,
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
}

pub fn run(a: &Arguments) -> Result<Answer> {
    let device = a.device.open()?;
    let difference = self_test(&device);
    let slack = golden::slack(&device);
    let healthy = difference < SELF_TEST * slack;
    let isa = format!("{:?}", albef::ops::detected());
    let mut replayed = Vec::new();
    if !a.json {
        println!("albef {}", env!("CARGO_PKG_VERSION"));
        println!("kernels: {isa}, {} threads", rayon::current_num_threads());
        print_devices();
        println!("device: {}", a.device.device);
        let verdict = if healthy { "ok" } else { "FAILED" };
        println!(
            "self-test: {verdict}, it differs from plain operations on the cpu by \
             {difference:.1e}, {:.0e} allowed",
            SELF_TEST * slack
        );
        if slack > 1.0 && a.golden.is_some() {
            println!("tolerances: {slack} times those of the set, for `{}`", a.device.device);
        }
    }
    if let Some(root) = &a.golden {
        replayed = golden::replay(root, a.only.as_deref(), &device, |r| {
            if !a.json {
                println!("{}", line(r));
            }
        })?;
        if replayed.is_empty() {
            anyhow::bail!("no fixture of {} has one of these kinds", root.display());
        }
    }
    let failed = replayed.iter().filter(|r| !r.passed()).count();
    if a.json {
        let fixtures: Vec<_> = replayed.iter().map(as_json).collect();
        let report = json!({
            "version": env!("CARGO_PKG_VERSION"), "kernels": isa, "device": a.device.device,
            "devices": Kind::ALL.map(kind_json), "tolerance_factor": slack,
            "threads": rayon::current_num_threads(), "self_test": healthy,
            "difference": difference, "fixtures": fixtures, "failed": failed,
        });
        println!("{report}");
    } else if a.golden.is_some() {
        println!("{} fixtures, {failed} failed", replayed.len());
    }
    Ok(if healthy && failed == 0 { Answer::Yes } else { Answer::No })
}

/// What this build can compute on, and what of it this machine has.
fn print_devices() {
    for kind in Kind::ALL {
        let name = kind.name();
        if !kind.compiled() {
            println!("{name}: not compiled in (build with `--features {name}`)");
            continue;
        }
        let devices = found(kind);
        if devices.is_empty() {
            println!("{name}: compiled in, but no driver finds a device");
        }
        for d in devices {
            println!("{}: {}", d.name, d.hardware);
        }
    }
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

/// The largest difference of the operations on `device` from plain ones on the CPU, on a small
/// example.
fn self_test(device: &Device) -> f64 {
    let (rows, width) = (21, 48);
    let wave = |n: usize, s: f32| (0..n).map(|i| ((i as f32 + 1.0) * s).sin()).collect::<Vec<_>>();
    let segment = |start, len| Segment { q_start: start, q_len: len, k_start: start, k_len: len };
    let spec = std::sync::Arc::new(AttentionSpec {
        segments: vec![segment(0, 9), segment(9, 12)],
        heads: 4,
        head_dim: 12,
        causal: false,
        dropout: None,
    });
    let run = |ops: Ops, device: &Device| {
        let x = tensor(wave(rows * width, 0.37), [rows, width], device);
        let w = tensor(wave(3 * width * width, 0.11), [3 * width, width], device);
        let b = tensor(wave(3 * width, 0.7), [3 * width], device);
        values(ops.attention_packed(ops.linear(x, w, b, true), &spec))
    };
    run(Ops::for_device(device), device)
        .iter()
        .zip(run(Ops::Plain, &cpu()))
        .map(|(a, b)| f64::from((a - b).abs()))
        .fold(0.0, |worst, v| if v.is_nan() || v > worst { v } else { worst })
}
