//! `albef convert`: a checkpoint for this program, for the official code, or for LAVIS.

use std::path::{Path, PathBuf};

use albef::checkpoint::Checkpoint;
use albef::convert::{self, ConvertOptions, KeepAs, ModelFormat};
use albef::{Error, note_inferred};
use anyhow::{Context, Result};

use crate::ExitStatus;
use crate::arguments::bytes;
use crate::progress::bytes_bar;
use crate::train::interruptible;

#[derive(clap::Args)]
pub struct Arguments {
    /// Model folder, run folder or checkpoint file (`.pth`, `.safetensors`).
    model: PathBuf,
    /// Format to write.
    #[arg(long)]
    to: Format,
    /// Folder to write, with `config.json` and `vocab.txt`; or a file `.pth` or `.pt`, except for
    /// safetensors.
    #[arg(long)]
    output: PathBuf,
    /// Number format of the weights. f16 is refused where a value does not fit.
    #[arg(long, default_value = "same")]
    dtype: Dtype,
    /// Size from which on safetensors are written in parts with an index, such as 2GB or 500MiB.
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = bytes)]
    shard_size: u64,
    /// Do not write momentum copies and queues, which only training needs.
    #[arg(long)]
    no_momentum: bool,
}

/// Formats of a model.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Format {
    /// Model folder with safetensors.
    Safetensors,
    /// Keys of the official code, as `torch.save` writes them.
    Official,
    /// Keys of LAVIS, without token types, as `torch.save` writes them.
    Lavis,
}

/// Number formats of weights.
#[derive(Clone, Copy, clap::ValueEnum)]
pub enum Dtype {
    /// As they are.
    Same,
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// Brain floats.
    Bf16,
}

impl Dtype {
    pub fn keep_as(self) -> KeepAs {
        match self {
            Self::Same => KeepAs::Same,
            Self::F32 => KeepAs::F32,
            Self::F16 => KeepAs::F16,
            Self::Bf16 => KeepAs::BF16,
        }
    }
}

pub fn run(a: &Arguments) -> Result<ExitStatus> {
    note_inferred(&a.model);
    let model = Checkpoint::open(&a.model)
        .with_context(|| format!("cannot open the model {}", a.model.display()))?;
    let format = match a.to {
        Format::Safetensors => ModelFormat::Safetensors,
        Format::Official => ModelFormat::Official,
        Format::Lavis => ModelFormat::Lavis,
    };
    let options = ConvertOptions::new(format)
        .dtype(a.dtype.keep_as())
        .shard_size(a.shard_size)
        .momentum(!a.no_momentum);
    model.notes.iter().for_each(|note| tracing::info!("{note}"));
    write(&model, &a.output, &options)
}

/// Writes a model, and says what a user should know about what was written.
pub fn write(model: &Checkpoint, output: &Path, options: &ConvertOptions) -> Result<ExitStatus> {
    let control = bytes_bar(interruptible());
    let written = match convert::convert(model, output, options, &control) {
        Err(Error::Cancelled) => {
            eprintln!("interrupted; nothing was written");
            return Ok(ExitStatus::No);
        }
        other => other.with_context(|| format!("cannot write {}", output.display()))?,
    };
    written.notes.iter().for_each(|note| tracing::info!("{note}"));
    eprintln!("wrote {}, {} tensors", written.path.display(), written.tensors);
    Ok(ExitStatus::Yes)
}
