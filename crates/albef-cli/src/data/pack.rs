//! `albef data pack`.

use std::path::PathBuf;

use albef::DecodeOptions;
use albef_data::dataset::{Dataset, PackOptions, SourceSpec, pack};
use albef_data::image::ImageReader;
use anyhow::{Result, bail};

use crate::ExitStatus;
use crate::arguments::{at_least_one, bytes, source};
use crate::output::say;
use crate::progress::bar;
use crate::warnings::tell_first;

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    albef data pack list.json --image-root images --output shards\n  \
    albef data pack 'old-{000..012}.tar.gz' --output shards --shard-size 500MB\n  \
    albef data pack photos --output shards --image-size 384\n\n\
    The same command continues a packing that was stopped. The bytes of images are copied unchanged unless --image-size is given; images that \
    cannot be decoded are left out, counted, and named in left_out.jsonl.")]
pub struct Arguments {
    /// Annotation lists, folders or tar shards, whose pairs are packed one after the other.
    #[arg(required = true, value_parser = source())]
    source: Vec<String>,
    /// Folder of the shards.
    #[arg(long)]
    output: PathBuf,
    /// Joined before the image paths of lists.
    #[arg(long)]
    image_root: Option<PathBuf>,
    /// Bytes after which a shard ends.
    #[arg(long, value_name = "BYTES", default_value = "1GB", value_parser = bytes)]
    shard_size: u64,
    /// Pairs after which a shard ends.
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pairs_per_shard: Option<usize>,
    /// Only look at the headers of images; do not decode them.
    #[arg(long)]
    quick: bool,
    /// Store images whose shorter side has more pixels with so many along it, as JPEG of quality 95. Training that crops
    /// 256 px at a scale of at least 0.5 needs about 360.
    #[arg(long, value_name = "PIXELS", value_parser = at_least_one, conflicts_with = "quick")]
    image_size: Option<usize>,
    /// Pixels above which an image cannot be used, by its header.
    #[arg(long, value_name = "PIXELS", default_value_t = DecodeOptions::MAX_PIXELS)]
    max_image_pixels: u64,
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
}

pub fn run(a: &Arguments) -> Result<ExitStatus> {
    let specs: Vec<SourceSpec> =
        a.source.iter().map(|s| SourceSpec::new(s, a.image_root.as_deref())).collect();
    let data = Dataset::open(&specs)?;
    data.notes().iter().for_each(|note| tracing::info!("{note}"));
    let decoding = DecodeOptions { max_pixels: a.max_image_pixels, ..DecodeOptions::default() };
    let options = PackOptions {
        output: a.output.clone(),
        shard_bytes: a.shard_size,
        pairs_per_shard: a.pairs_per_shard.unwrap_or(usize::MAX),
        decode: !a.quick,
        image_size: a.image_size,
        reader: ImageReader::new(decoding),
        workers: rayon::current_num_threads(),
    };
    let report = pack(&data, &options, &bar())?;
    match a.json {
        true => say!("{}", serde_json::to_string(&report)?)?,
        false => report.to_string().lines().try_for_each(|line| say!("{line}"))?,
    }
    let nothing = report.images == 0;
    let left_out = a.output.join("left_out.jsonl");
    let named = std::fs::read_to_string(&left_out)?;
    let line = |line: &str| {
        let value: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        format!("{}: {}", text("name"), text("error"))
    };
    tell_first("left out", named.lines().map(line).collect::<Vec<_>>().into_iter());
    if nothing {
        let hint = match named.contains("image not found") {
            true => "; relative paths are joined to --image-root: is it the right folder?",
            false => "",
        };
        bail!("nothing was packed: no image with a caption can be used{hint}");
    }
    Ok(ExitStatus::Yes)
}
