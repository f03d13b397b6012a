//! `albef doctor`.

use std::path::PathBuf;

use albef::doctor::Diagnosis;
use albef::golden;
use anyhow::Result;

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
    let (diagnosis, device) = Diagnosis::of(&a.device.device)?;
    let test = diagnosis.self_test;
    if !a.json {
        say!("{diagnosis}")?;
        if test.tolerance_factor > 1.0 && a.golden.is_some() {
            let factor = test.tolerance_factor;
            say!("tolerances: {factor} times those of the set, for `{}`", diagnosis.device)?;
        }
    }
    let mut replayed = Vec::new();
    if let Some(root) = &a.golden {
        let mut said = Ok(());
        replayed = golden::replay(root, a.only.as_deref(), &device, |fixture| {
            if !a.json && said.is_ok() {
                said = say!("{fixture}");
            }
        })?;
        said?;
        if replayed.is_empty() {
            anyhow::bail!("no fixture of {} has one of these kinds", root.display());
        }
    }
    let failed = replayed.iter().filter(|r| !r.passed()).count();
    if a.json {
        say!("{}", diagnosis.to_json(&replayed))?;
    } else if a.golden.is_some() {
        say!("{} fixtures, {failed} failed", replayed.len())?;
    }
    Ok(if test.passed() && failed == 0 { ExitStatus::Yes } else { ExitStatus::No })
}
