//! `albef data check`.

use std::path::PathBuf;

use albef::DecodeOptions;
use albef::task::{TASKS, TaskRef, check_list};
use albef_data::dataset::{CheckOptions, SourceSpec, gather, write_manifest};
use anyhow::Result;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

use crate::ExitStatus;
use crate::arguments::{place, source};
use crate::output::say;
use crate::progress::bar;

/// A list of images with captions.
const CAPTIONS: &str = "captions";

#[derive(clap::Args)]
pub struct Arguments {
    /// Annotation list, folder, or tar shards (`train-{000..012}.tar`).
    #[arg(value_parser = source())]
    source: String,
    /// Joined before the image paths of a list.
    #[arg(long)]
    image_root: Option<PathBuf>,
    /// What the list is for.
    #[arg(long, default_value = CAPTIONS, value_parser = list_tasks())]
    task: ListTask,
    /// Only look whether the images are there; do not decode them.
    #[arg(long)]
    quick: bool,
    /// Pixels above which an image cannot be used, by its header.
    #[arg(long, value_name = "PIXELS", default_value_t = DecodeOptions::MAX_PIXELS)]
    max_image_pixels: u64,
    /// Images that must not be in the source, such as those of a test split: a list, folder or shards. What both
    /// have is a leak.
    #[arg(long, value_name = "SOURCE", value_parser = source(), conflicts_with = "quick")]
    against: Vec<String>,
    /// Joined before the image paths of the lists of `--against`; `--image-root` if not given.
    #[arg(long, value_name = "FOLDER", requires = "against")]
    against_root: Option<PathBuf>,
    /// Bits of 128 in which images that look alike may differ, by a difference hash.
    #[arg(long, value_name = "BITS", default_value_t = 6, value_parser = clap::value_parser!(u32).range(0..=32))]
    near: u32,
    /// Write sizes and SHA-256 of all files to this file, for `data_manifest` of a configuration to verify.
    #[arg(long, value_name = "FILE", value_parser = place())]
    manifest: Option<PathBuf>,
    /// Problems that are named; all are counted.
    #[arg(long, default_value_t = 20)]
    show: usize,
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
}

/// The task of a list; `None` for images with captions.
#[derive(Clone, Copy)]
struct ListTask(Option<TaskRef>);

/// The kinds of lists: images with captions, and those of tasks with a format of their own.
fn list_tasks() -> impl TypedValueParser<Value = ListTask> {
    let of_tasks = TASKS.iter().filter(|task| task.annotations().is_some()).map(|task| {
        PossibleValue::new(task.name()).help(task.about()).aliases(task.aliases().iter().copied())
    });
    let captions = PossibleValue::new(CAPTIONS).help("Images with captions");
    PossibleValuesParser::new(std::iter::once(captions).chain(of_tasks)).try_map(|name| {
        let task = (name != CAPTIONS).then(|| TaskRef::named(&name)).transpose();
        task.map(ListTask)
    })
}

pub fn run(a: &Arguments) -> Result<ExitStatus> {
    let show = bar();
    let options = CheckOptions {
        decode: !a.quick,
        max_problems: a.show,
        workers: rayon::current_num_threads(),
        options: DecodeOptions { max_pixels: a.max_image_pixels, ..DecodeOptions::default() },
        near_distance: a.near,
        ..CheckOptions::default()
    };
    let spec = SourceSpec::new(&a.source, a.image_root.as_deref());
    let root = a.against_root.as_ref().or(a.image_root.as_ref()).map(PathBuf::as_path);
    let others: Vec<SourceSpec> = a.against.iter().map(|s| SourceSpec::new(s, root)).collect();
    let other = (!others.is_empty()).then(|| gather(&others)).transpose()?.map(|g| g.samples);
    let (report, samples) = check_list(a.task.0, &spec, other.as_ref(), &options, &show)?;
    match a.json {
        true => say!("{}", report.json())?,
        false => report.to_string().lines().try_for_each(|line| say!("{line}"))?,
    }
    if let Some(path) = &a.manifest {
        let workers = options.workers;
        let (files, unreadable) = write_manifest(path, &[spec], &samples, workers, &show)?;
        eprintln!("{files} files in {}", path.display());
        if unreadable > 0 {
            eprintln!("{unreadable} files that cannot be read are not among them");
        }
    }
    Ok(if report.is_clean() { ExitStatus::Yes } else { ExitStatus::No })
}
