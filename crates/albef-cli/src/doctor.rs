//! `albef doctor`.

use std::path::PathBuf;

use albef::golden::{self, Replayed};
use albef::ops::{AttentionSpec, Ops, Segment};
use albef::params::{tensor, values};
use anyhow::Result;
use serde_json::json;

use crate::{Answer, device};

#[derive(clap::Args)]
pub struct Arguments {
    /// Replay a folder in the golden format.
    #[arg(long, value_name = "DIR")]
    golden: Option<PathBuf>,
    /// Replay only these kinds.
    #[arg(long, value_delimiter = ',', value_name = "KIND,…")]
    only: Option<Vec<String>>,
    /// Where to compute; this version knows the cpu.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
}

pub fn run(a: &Arguments) -> Result<Answer> {
    let device = device::open(&a.device)?;
    let difference = self_test(&device);
    let healthy = difference < 1e-4;
    let isa = format!("{:?}", albef::ops::detected());
    let mut replayed = Vec::new();
    if !a.json {
        println!("albef {}", env!("CARGO_PKG_VERSION"));
        println!("kernels: {isa}, {} threads", rayon::current_num_threads());
        println!("device: {}", a.device);
        let verdict = if healthy { "ok" } else { "FAILED" };
        println!("self-test: {verdict}, fused and plain operations differ by {difference:.1e}");
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
            "version": env!("CARGO_PKG_VERSION"), "kernels": isa, "device": a.device,
            "threads": rayon::current_num_threads(), "self_test": healthy,
            "difference": difference, "fixtures": fixtures, "failed": failed,
        });
        println!("{report}");
    } else if a.golden.is_some() {
        println!("{} fixtures, {failed} failed", replayed.len());
    }
    Ok(if healthy && failed == 0 { Answer::Yes } else { Answer::No })
}

fn line(r: &Replayed) -> String {
    match &r.outcome {
        None => format!("UNKNOWN  {:<32} kind `{}`", r.name, r.kind),
        Some(Err(e)) => format!("ERROR    {:<32} {e}", r.name),
        Some(Ok(o)) => format!(
            "{}  {:<32} worst error {:.2e} of {:.2e} allowed at {}, {} values",
            if o.passed { "ok     " } else { "FAILED " },
            r.name,
            o.error,
            o.tolerance,
            o.detail,
            o.compared
        ),
    }
}

fn as_json(r: &Replayed) -> serde_json::Value {
    let base = json!({ "name": r.name, "kind": r.kind, "passed": r.passed() });
    let mut value = base;
    match &r.outcome {
        None => value["error"] = json!("unknown kind"),
        Some(Err(e)) => value["error"] = json!(e.to_string()),
        Some(Ok(o)) => {
            value["worst"] = json!(o.error);
            value["tolerance"] = json!(o.tolerance);
            value["where"] = json!(o.detail);
            value["compared"] = json!(o.compared);
        }
    }
    value
}

/// The largest difference between the fused and the plain operations on a small example.
fn self_test(device: &burn::tensor::Device) -> f64 {
    let (rows, width) = (21, 48);
    let wave = |n: usize, s: f32| (0..n).map(|i| ((i as f32 + 1.0) * s).sin()).collect::<Vec<_>>();
    let x = || tensor(wave(rows * width, 0.37), [rows, width], device);
    let w = || tensor(wave(3 * width * width, 0.11), [3 * width, width], device);
    let b = || tensor(wave(3 * width, 0.7), [3 * width], device);
    let segment = |start, len| Segment { q_start: start, q_len: len, k_start: start, k_len: len };
    let spec = std::sync::Arc::new(AttentionSpec {
        segments: vec![segment(0, 9), segment(9, 12)],
        heads: 4,
        head_dim: 12,
        causal: false,
        dropout: None,
    });
    let run = |ops: Ops| values(ops.attention_packed(ops.linear(x(), w(), b(), true), &spec));
    run(Ops::for_device(device))
        .iter()
        .zip(run(Ops::Plain))
        .map(|(a, b)| f64::from((a - b).abs()))
        .fold(0.0, f64::max)
}
