//! `albef data check`.

use std::path::PathBuf;

use albef::DecodeOptions;
use albef::task::{ListFault, TASKS, TaskRef, read_annotations};
use albef_data::dataset::{
    CheckOptions, Contents, ImageRoots, Skipped, SourceSpec, TaskFault, check_against, gather,
    read_source, write_manifest,
};
use albef_data::error::ImageErrorKind;
use albef_data::names::path_of;
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
    #[arg(long, value_name = "FILE", value_parser = place)]
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
        texts_are_captions: a.task.0.is_none(),
        near_distance: a.near,
    };
    let spec = SourceSpec::new(&a.source, a.image_root.as_deref());
    let root = a.against_root.as_ref().or(a.image_root.as_ref()).map(PathBuf::as_path);
    let others: Vec<SourceSpec> = a.against.iter().map(|s| SourceSpec::new(s, root)).collect();
    let other = (!others.is_empty()).then(|| gather(&others)).transpose()?.map(|g| g.samples);
    let (report, samples) = match a.task.0 {
        None => {
            let found = gather(std::slice::from_ref(&spec))?;
            (check_against(&found, other.as_ref(), &options, &show)?, found.samples)
        }
        Some(task) => {
            let found = list_of_task(a, task)?;
            let mut report = check_against(&found, other.as_ref(), &options, &show)?;
            // An image with several questions, or a question asked of several, is no repetition.
            report.repeated_captions = 0;
            for fault in task.list_faults(&path_of(&a.source), &found.samples, !a.quick)? {
                let room = a.show.saturating_sub(report.problems.len());
                report.problems.extend(fault.lines.iter().take(room).cloned());
                let ListFault { key, about, count, lines } = fault;
                let is_problem = !lines.is_empty();
                report.of_task.push(TaskFault { key, about, count, is_problem });
            }
            (report, found.samples.into_iter().collect())
        }
    };
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

/// A list of a task, with the files of a folder that no list names.
fn list_of_task(a: &Arguments, task: TaskRef) -> Result<Contents> {
    let list = &*path_of(&a.source);
    let root = || a.image_root.clone().unwrap_or_default();
    let roots = ImageRoots { image_root: root(), vqa_root: root(), vg_root: root() };
    let mut contents = read_annotations(task, list, &roots)?;
    if list.is_dir() {
        // A folder of images for each label has no list that names them all.
        let folder = read_source(&SourceSpec::new(&a.source, None))?;
        let unread = |s: &Skipped| matches!(s.error.kind, ImageErrorKind::Unsupported(_));
        contents.left_out.retain(|s| !unread(s));
        contents.left_out.extend(folder.left_out.into_iter().filter(unread));
    }
    Ok(contents)
}
