//! `albef data`.

use std::path::PathBuf;

use albef::DecodeOptions;
use albef::task::{ListFault, TASKS, TaskRef, read_annotations};
use albef_data::dataset::{
    CheckOptions, CheckReport, ImageRoots, Skipped, SourceSpec, check_contents, read_source,
};
use albef_data::error::ImageErrorKind;
use albef_data::names::path_of;
use albef_demo::{SceneOptions, write_scenes};
use anyhow::Result;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use serde_json::json;

use crate::ExitStatus;
use crate::arguments::source;
use crate::output::say;
use crate::warnings::tell_first;

#[derive(clap::Subcommand)]
pub enum Command {
    /// Make images with known content, with lists for every task.
    Scenes(ScenesArguments),
    /// Say what a data set holds and what is wrong with it, before a run finds out.
    Check(CheckArguments),
}

#[derive(clap::Args)]
pub struct ScenesArguments {
    /// Folder for images and lists.
    #[arg(long)]
    output: PathBuf,
    /// Scenes of each task to train on; the other splits have a fifth of it.
    #[arg(long, default_value_t = 1000)]
    scenes: usize,
    /// Side of the images in pixels.
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Seed of everything drawn.
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Cut-outs to compose, instead of the emoji art that is built in: `STYLE/NAME.png` with transparency, or
    /// `NAME.png` for a single style.
    #[arg(long, value_name = "FOLDER")]
    sprites: Option<PathBuf>,
    /// Style of the cut-outs that only `test` shows; the last one by name if not given.
    #[arg(long, requires = "sprites")]
    unseen: Option<String>,
    /// Concepts of `train`, `val` and `test`, drawn by the seed; as many others at most make the split `concept`. Nine
    /// tenths if not given.
    #[arg(long, value_name = "N")]
    concepts: Option<usize>,
}

/// A list of images with captions.
const CAPTIONS: &str = "captions";

#[derive(clap::Args)]
pub struct CheckArguments {
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

fn check_source(a: &CheckArguments) -> Result<ExitStatus> {
    let list = &*path_of(&a.source);
    let contents = match a.task.0 {
        None => read_source(&SourceSpec::new(&a.source, a.image_root.as_deref()))?,
        Some(task) => {
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
            contents
        }
    };
    let options = CheckOptions {
        decode: !a.quick,
        max_problems: a.show,
        workers: rayon::current_num_threads(),
        options: DecodeOptions { max_pixels: a.max_image_pixels, ..DecodeOptions::default() },
        texts_are_captions: a.task.0.is_none(),
    };
    let mut report = check_contents(&contents, &options);
    let mut faults = Vec::new();
    if let Some(task) = a.task.0 {
        // An image with several questions, or a question asked of several, is no repetition.
        report.repeated_captions = 0;
        faults = task.list_faults(list, &contents.samples, !a.quick)?;
    }
    let room = a.show.saturating_sub(report.problems.len());
    report.problems.extend(faults.iter().flat_map(|f| f.lines.iter().cloned()).take(room));
    let clean = report.is_clean() && faults.iter().all(|f| f.lines.is_empty());
    if a.json {
        let mut value = json!({
            "samples": report.samples, "captions": report.captions,
            "image_ids": report.distinct_images, "missing": report.missing,
            "unusable": report.unusable, "blank_captions": report.blank_captions,
            "without_captions": report.without_captions,
            "repeated_samples": report.repeated_samples,
            "repeated_captions": report.repeated_captions, "left_out": report.left_out,
            "unread_files": report.unread, "oriented": report.notes.oriented,
            "transparent": report.notes.transparent, "animated": report.notes.animated,
            "caption_faults": report.caption_faults, "sharing_a_caption": report.sharing_a_caption,
            "problems": report.problems, "hints": report.hints, "clean": clean
        });
        for fault in &faults {
            value[fault.key] = json!(fault.count);
        }
        say!("{value}")?;
    } else {
        print_report(&report, &faults)?;
    }
    Ok(if clean { ExitStatus::Yes } else { ExitStatus::No })
}

fn print_report(report: &CheckReport, faults: &[ListFault]) -> Result<()> {
    say!(
        "{} samples, {} texts, {} image ids",
        report.samples,
        report.captions,
        report.distinct_images
    )?;
    let counts = [
        (report.missing, "samples whose image is missing"),
        (report.unusable, "samples whose image cannot be used"),
        (report.without_captions, "samples without text"),
        (report.blank_captions, "blank texts"),
        (report.repeated_samples, "samples that repeat an earlier one"),
        (report.repeated_captions, "captions repeated within a sample"),
        (report.caption_faults, "captions that cannot be used, or not as they are written"),
        (report.sharing_a_caption, "images that share one caption"),
        (report.left_out, "entries or members of archives that form no sample"),
        (
            report.notes.oriented,
            "images carry an Exif orientation, which training applies on request only",
        ),
        (report.notes.transparent, "images are transparent, which training ignores by default"),
        (report.notes.animated, "images are animated; only their first frame is used"),
    ];
    let own = faults.iter().map(|f| (f.count, f.about));
    for (count, what) in counts.into_iter().chain(own).filter(|(count, _)| *count > 0) {
        say!("{count} {what}")?;
    }
    report.unread_formats.iter().try_for_each(|line| say!("{line}"))?;
    report.problems.iter().try_for_each(|problem| say!("  {problem}"))?;
    report.hints.iter().try_for_each(|hint| say!("hint: {hint}"))
}

fn scenes(a: &ScenesArguments) -> Result<ExitStatus> {
    let made = write_scenes(&SceneOptions {
        output: a.output.clone(),
        scenes: a.scenes,
        size: a.size,
        seed: a.seed,
        sprites: a.sprites.clone(),
        unseen: a.unseen.clone(),
        concepts: a.concepts,
    })?;
    tell_first("left out", made.skipped.into_iter());
    made.splits.iter().try_for_each(|split| say!("{split}"))?;
    Ok(ExitStatus::Yes)
}

pub fn run(command: &Command) -> Result<ExitStatus> {
    match command {
        Command::Scenes(a) => scenes(a),
        Command::Check(a) => check_source(a),
    }
}
