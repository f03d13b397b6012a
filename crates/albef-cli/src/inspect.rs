//! `albef inspect`: what a checkpoint is, and the same as a model folder.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use albef::checkpoint::Checkpoint;
use albef_weights::{KeepAs, StateDict, write_atomic, write_safetensors};
use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::Answer;
use crate::corpus::note_inferred;
use crate::output::say;
use crate::whole_folder::write_folder;

#[derive(clap::Args)]
pub struct Arguments {
    /// Model folder or checkpoint file (`.pth`, `.safetensors`).
    model: PathBuf,
    /// Write it as a model folder: `config.json`, `model.safetensors`, `vocab.txt`, a model card.
    #[arg(long, value_name = "FOLDER")]
    export: Option<PathBuf>,
    /// How the numbers are kept in the export.
    #[arg(long = "as", default_value = "same", requires = "export")]
    keep: Keep,
    /// Leave momentum copies and queues out of the export.
    #[arg(long, requires = "export")]
    online: bool,
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
}

/// Number formats of an export.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Keep {
    /// As they are.
    Same,
    /// 16-bit floats.
    F16,
    /// Brain floats.
    Bf16,
}

pub fn run(a: &Arguments) -> Result<Answer> {
    note_inferred(&a.model);
    let files = Checkpoint::open(&a.model)
        .with_context(|| format!("cannot open the model {}", a.model.display()))?;
    let (vision, text) = (&files.config.vision, &files.config.text);
    let weights: usize = files.tensors.iter().map(|(_, t)| t.len()).sum();
    if a.json {
        say!(
            "{}",
            json!({"task": files.task.title(), "tensors": files.tensors.len(), "values": weights,
                   "momentum": files.has_momentum(), "queues": files.has_queues(),
                   "word_pieces": files.vocabulary.lines().count(), "config": files.config})
        )?;
    } else {
        let has = |b: bool| if b { "yes" } else { "no" };
        say!("model for      {}", files.task.title())?;
        say!("tensors        {}, {:.1} million values", files.tensors.len(), weights as f64 / 1e6)?;
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
        say!("word pieces    {} of {}", files.vocabulary.lines().count(), text.vocab_size)?;
        say!("joint space    {}", files.config.embed_dim)?;
        say!("momentum       {}", has(files.has_momentum()))?;
        say!("queues         {}", has(files.has_queues()))?;
    }
    if let Some(folder) = &a.export {
        export(a, &files, folder)?;
    }
    Ok(Answer::Yes)
}

/// The file that makes a folder a model.
const WEIGHTS: &str = "model.safetensors";

fn export(a: &Arguments, files: &Checkpoint, folder: &Path) -> Result<()> {
    if folder.join(WEIGHTS).exists() {
        bail!("{} already holds a model; choose another folder", folder.display());
    }
    let keep = match a.keep {
        Keep::Same => KeepAs::Same,
        Keep::F16 => KeepAs::F16,
        Keep::Bf16 => KeepAs::BF16,
    };
    let extra = |name: &str| {
        name.split('.').next().is_some_and(|root| root.ends_with("_m") || root.contains("queue"))
    };
    let tensors: StateDict = files
        .tensors
        .iter()
        .filter(|(name, _)| !(a.online && extra(name)))
        .map(|(name, tensor)| (name.to_owned(), tensor.clone()))
        .collect();
    let card = format!(
        "# ALBEF, {}\n\nExported from {} by `albef inspect --export`, {} tensors.\n",
        files.task.title(),
        files.source,
        tensors.len()
    );
    let config = serde_json::to_string_pretty(&files.config)?;
    // The weights last: a folder that has them is whole.
    write_folder(folder, WEIGHTS, |folder| {
        for (name, text) in
            [("config.json", &config), ("vocab.txt", &files.vocabulary), ("README.md", &card)]
        {
            write_atomic(&folder.join(name), |f| std::io::Write::write_all(f, text.as_bytes()))?;
        }
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        Ok(write_safetensors(&folder.join(WEIGHTS), &tensors, &metadata, keep)?)
    })
    .with_context(|| format!("cannot export to {}", folder.display()))?;
    eprintln!("wrote {}", folder.display());
    Ok(())
}
