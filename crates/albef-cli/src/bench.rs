//! `albef bench`: the same work as a plain PyTorch ALBEF does in its yardstick, timed by round.

use albef::bench::{self, Bench, Round};
use anyhow::Result;
use serde_json::json;

use crate::ExitStatus;
use crate::arguments::at_least_one;
use crate::device::{DeviceArg, PrecisionArg};
use crate::output::say;

#[derive(Clone, Copy, clap::ValueEnum)]
enum Work {
    /// The image encoder, forward.
    Vit,
    /// The text encoder, forward.
    Text,
    /// Re-ranking: one image against the candidates.
    Rerank,
    /// A whole pre-training step.
    Step,
}

#[derive(clap::Args)]
pub struct Arguments {
    /// What to time.
    work: Work,
    /// Sizes: base, mini or nano.
    #[arg(long, default_value = "base")]
    preset: String,
    /// Pixels along the side of an image; 0 for the preset's.
    #[arg(long, alias = "res", default_value_t = 256)]
    image_res: usize,
    /// Images or pairs.
    #[arg(long, default_value_t = 8, value_parser = at_least_one)]
    batch: usize,
    /// Candidates when re-ranking.
    #[arg(long, alias = "k", default_value_t = 128, value_parser = at_least_one)]
    rerank_k: usize,
    /// Timed rounds, after one that is not.
    #[arg(long, default_value_t = 3, value_parser = at_least_one)]
    rounds: usize,
    #[command(flatten)]
    device: DeviceArg,
    #[command(flatten)]
    precision: PrecisionArg,
    /// One JSON line per round on standard output.
    #[arg(long)]
    json: bool,
}

pub fn run(a: &Arguments) -> Result<ExitStatus> {
    let device = a.device.open()?;
    let options = bench::Options {
        preset: a.preset.clone(),
        image_res: (a.image_res > 0).then_some(a.image_res),
        batch: a.batch,
        rerank_k: a.rerank_k,
        precision: a.precision.on(&device),
    };
    let work = match a.work {
        Work::Vit => bench::Work::Vit,
        Work::Text => bench::Work::Text,
        Work::Rerank => bench::Work::Rerank,
        Work::Step => bench::Work::Step,
    };
    let mut bench = Bench::new(work, &options, &device)?;
    bench.round()?;
    for _ in 0..a.rounds {
        let Round { seconds, pairs, peak_mib } = bench.round()?;
        if a.json {
            say!("{}", json!({"seconds": seconds, "pairs": pairs, "peak_mib": peak_mib}))?;
        } else {
            let rate = pairs as f64 / seconds;
            say!("{seconds:.4} s, {pairs} pairs, {rate:.1} a second, peak {peak_mib} MiB")?;
        }
    }
    Ok(ExitStatus::Yes)
}
