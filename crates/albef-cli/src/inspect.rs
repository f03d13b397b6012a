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
    if a.json {
        say!("{}", serde_json::to_value(&found)?)?;
    } else {
        print(&found)?;
    }
    if let Some(folder) = &a.export {
        let options = ConvertOptions::new(ModelFormat::Safetensors)
            .dtype(a.dtype.keep_as())
            .momentum(!a.no_momentum);
        return write(&files, folder, &options);
    }
    Ok(ExitStatus::Yes)
}

fn print(found: &CheckpointSummary) -> Result<()> {
    let (vision, text) = (&found.config.vision, &found.config.text);
    let has = |b: bool| if b { "yes" } else { "no" };
    say!("model for      {}", found.task)?;
    say!("tensors        {}, {:.1} million values", found.tensors, found.values as f64 / 1e6)?;
    say!(
        "image encoder  {} wide, {} blocks, {} heads, {} px in patches of {}",
        vision.width,
        vision.depth,
        vision.heads,
        vision.image_res,
        vision.patch
    )?;
    say!(
        "text encoder   {} wide, {} layers, {} heads, fusion from layer {}",
        text.hidden,
        text.layers,
        text.heads,
        text.fusion_layer
    )?;
    say!("word pieces    {} of {}", found.word_pieces, text.vocab_size)?;
    say!("joint space    {}", found.config.embed_dim)?;
    for (name, value) in serde_json::to_value(&found.defaults)?.as_object().into_iter().flatten() {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        say!("default        {name}: {value}")?;
    }
    say!("momentum       {}", has(found.momentum))?;
    say!("queues         {}", has(found.queues))
}
