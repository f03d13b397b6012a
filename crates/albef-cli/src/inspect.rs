//! `albef inspect`: what a checkpoint is, and the same as a model folder.

use std::path::PathBuf;

use albef::checkpoint::Checkpoint;
use albef::convert::{ConvertOptions, ModelFormat};
use albef::inspect::CheckpointSummary;
use albef::note_inferred;
use anyhow::{Context, Result};

use crate::ExitStatus;
use crate::convert::{Dtype, write};
use crate::output::say;

#[derive(clap::Args)]
pub struct Arguments {
    /// Model folder or checkpoint file (`.pth`, `.safetensors`).
    model: PathBuf,
    /// Write it as a model folder, as `albef convert --to safetensors` does.
    #[arg(long, value_name = "FOLDER")]
    export: Option<PathBuf>,
    /// Number format of the exported weights.
    #[arg(long, alias = "as", default_value = "same", requires = "export")]
    dtype: Dtype,
    /// Do not export momentum copies and queues.
    #[arg(long, alias = "online", requires = "export")]
    no_momentum: bool,
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
}

pub fn run(a: &Arguments) -> Result<ExitStatus> {
    note_inferred(&a.model);
    let files = Checkpoint::open(&a.model)
        .with_context(|| format!("cannot open the model {}", a.model.display()))?;
    let found = CheckpointSummary::new(&files)
        .with_context(|| format!("{} is not a whole model", a.model.display()))?;
    for note in &found.notes {
        tracing::info!("{note}");
    }
    match a.json {
        true => say!("{}", serde_json::to_value(&found)?)?,
        false => say!("{found}")?,
    }
    if let Some(folder) = &a.export {
        let options = ConvertOptions::new(ModelFormat::Safetensors)
            .dtype(a.dtype.keep_as())
            .momentum(!a.no_momentum);
        return write(&files, folder, &options);
    }
    Ok(ExitStatus::Yes)
}
