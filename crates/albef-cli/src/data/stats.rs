//! `albef data stats`.

use std::path::PathBuf;

use albef::config::Source;
use albef::task::TaskRef;
use albef_data::dataset::{Dataset, SourceSpec, StatsOptions, stats};
use albef_data::input::text_of_file;
use albef_data::text::{Tokenizer, Vocabulary};
use anyhow::{Context, Result, bail};

use crate::ExitStatus;
use crate::arguments::{at_least_one, source};
use crate::output::say;
use crate::progress::bar;

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    albef data stats list.json --image-root images --batch-size 64\n  \
    albef data stats --config configs/base.yaml --set 'train_file=[list.json]'")]
pub struct Arguments {
    /// Annotation lists, folders or tar shards.
    #[arg(required_unless_present = "config", value_parser = source())]
    source: Vec<String>,
    /// Take data, batch size and limits of texts from the configuration of a run instead.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["source", "image_root", "batch_size", "max_tokens"])]
    config: Option<PathBuf>,
    /// The task of the configuration.
    #[arg(long, default_value = "pretrain", requires = "config", value_parser = |name: &str| TaskRef::named(name))]
    task: TaskRef,
    /// Change a value of the configuration; nested keys with a dot.
    #[arg(long, value_name = "KEY=VALUE", requires = "config")]
    set: Vec<String>,
    /// Joined before the image paths of lists.
    #[arg(long)]
    image_root: Option<PathBuf>,
    /// Pairs of a step.
    #[arg(long, value_name = "N", default_value = "64", value_parser = at_least_one)]
    batch_size: usize,
    /// Tokens of a caption that are kept.
    #[arg(long, value_name = "N", default_value = "25", value_parser = at_least_one)]
    max_tokens: usize,
    /// Word pieces, one a line; those of BERT if not given.
    #[arg(long, value_name = "FILE")]
    vocab: Option<PathBuf>,
    /// Images whose headers are read for sizes and formats, evenly spread over the data; 0 for none.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    images: usize,
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
}

pub fn run(a: &Arguments) -> Result<ExitStatus> {
    let defaults = StatsOptions {
        sources: a.source.clone(),
        batch_size: a.batch_size,
        max_words: 30,
        max_tokens: a.max_tokens,
        images: a.images,
        workers: rayon::current_num_threads(),
    };
    let (data, options) = match &a.config {
        None => {
            let root = a.image_root.as_deref();
            let specs: Vec<SourceSpec> =
                a.source.iter().map(|s| SourceSpec::new(s, root)).collect();
            (Dataset::open(&specs)?, defaults)
        }
        Some(path) => {
            let bytes = std::fs::read(path)
                .with_context(|| format!("cannot read the configuration {}", path.display()))?;
            let text = text_of_file(path, &bytes)?;
            let source = Source { text: &text, settings: &a.set, file: Some(path) };
            let config = a.task.configure(source)?;
            let train = config.train();
            let options = StatsOptions {
                sources: train.data.train_file.paths(),
                batch_size: train.optim.batch_size,
                max_words: train.data.max_words,
                max_tokens: train.data.max_tokens,
                ..defaults
            };
            (config.open_data()?, options)
        }
    };
    let vocabulary = match &a.vocab {
        Some(path) => Vocabulary::read(path)?.0,
        None => Vocabulary::from_text(albef::checkpoint::BERT_VOCABULARY)?,
    };
    if data.samples().is_empty() {
        bail!("there is no sample");
    }
    let tokenizer = Tokenizer::new(vocabulary);
    let found = stats(&data, &tokenizer, &options, &bar())?;
    match a.json {
        true => say!("{}", serde_json::to_string(&found)?)?,
        false => found.to_string().lines().try_for_each(|line| say!("{line}"))?,
    }
    Ok(ExitStatus::Yes)
}
