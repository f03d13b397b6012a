//! `albef index`: the index of one's own images.

mod care;
mod dups;

use std::path::{Path, PathBuf};
use std::time::Duration;

use albef::Control;
use albef::index::{
    Encoder, IndexEncoder, IndexError, Place, Record, Root, StatePrecision, StatesMade, Store,
    Update, UpdateOptions, dry_run, join, update,
};
use albef_data::dataset::unread_formats;
use albef_data::names;
use anyhow::Result;

use crate::ExitStatus;
use crate::index_place::IndexPlace;
use crate::models::ModelOptions;
use crate::output::say;
use crate::progress::bar;
use crate::train::interruptible;
use crate::warnings::{tell_first, tell_notes, tell_unusable};

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    /// Folders of images; without any, those that the index has.
    #[arg(value_name = "FOLDER")]
    folders: Vec<PathBuf>,
    #[command(flatten)]
    place: IndexPlace,
    /// Threads that read and decode images; all cores if not given.
    #[arg(long, value_parser = crate::arguments::at_least_one)]
    workers: Option<usize>,
    /// Show what would be done, and write nothing.
    #[arg(long)]
    dry_run: bool,
    /// Encode all images again if the index has the vectors of another model or of other image options.
    #[arg(long, conflicts_with = "dry_run")]
    reencode: bool,
    /// Keep the states of images too, as 16-bit floats (`f16`) or in half the space (`int8`), so that searches re-rank
    /// without encoding images again; `none` forgets them. Later commands keep them too.
    #[arg(long, value_name = "PRECISION", value_parser = states, conflicts_with = "dry_run")]
    states: Option<States>,
    /// Keep the index current until interrupted: check for changes every SECONDS.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "10")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "dry_run")]
    watch: Option<u32>,
    #[command(flatten)]
    model: ModelOptions,
    /// One JSON object on standard output.
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

/// How exactly states are kept; nothing for not at all.
#[derive(Clone, Copy)]
struct States(Option<StatePrecision>);

fn states(text: &str) -> Result<States, String> {
    match text {
        "f16" => Ok(States(Some(StatePrecision::F16))),
        "int8" => Ok(States(Some(StatePrecision::Int8))),
        "none" => Ok(States(None)),
        _ => Err("possible are f16, int8 and none".into()),
    }
}

#[derive(clap::Subcommand)]
pub enum Command {
    /// Describe an index, and name the images that cannot be used.
    Status(PlaceArguments),
    /// Verify an index against its checksums; exit code 1 if it is damaged.
    Verify(PlaceArguments),
    /// Repair a damaged index from what is there.
    Repair(PlaceArguments),
    /// Free the space of forgotten images.
    Gc(PlaceArguments),
    /// List the indexes of this user.
    List(ListArguments),
    /// Delete an index; the images stay.
    Remove(PlaceArguments),
    /// Find copies and images that look alike; nothing is deleted.
    Dups(DupsArguments),
}

#[derive(clap::Args)]
pub struct PlaceArguments {
    /// Folders of the index; needed where there are several indexes.
    #[arg(value_name = "FOLDER")]
    pub folders: Vec<PathBuf>,
    #[command(flatten)]
    pub place: IndexPlace,
    /// One JSON object on standard output.
    #[arg(long)]
    pub json: bool,
}

#[derive(clap::Args)]
pub struct ListArguments {
    /// One JSON object on standard output.
    #[arg(long)]
    pub json: bool,
}

#[derive(clap::Args)]
pub struct DupsArguments {
    #[command(flatten)]
    pub place: PlaceArguments,
    /// Images whose features have at least this cosine count as duplicates too. All are compared with all.
    #[arg(long, value_name = "COSINE", value_parser = crate::arguments::share)]
    pub cosine: Option<f32>,
    /// Images whose perceptual hashes differ in at most this many of 64 bits count as duplicates too; about 4 for
    /// resized and recompressed images.
    #[arg(long, value_name = "BITS", value_parser = clap::value_parser!(u32).range(0..=64))]
    pub bits: Option<u32>,
    /// Print only the paths that are not to be kept, one a line.
    #[arg(long, conflicts_with = "json")]
    pub paths: bool,
    /// With --paths: end each path with a NUL byte instead of a line feed, as `xargs -0` reads it.
    #[arg(short = '0', long, requires = "paths")]
    pub null: bool,
}

pub fn run(a: &Arguments) -> Result<ExitStatus> {
    match &a.command {
        None => build(a),
        Some(Command::Status(a)) => care::status(a),
        Some(Command::Verify(a)) => care::verify(a),
        Some(Command::Repair(a)) => care::repair(a),
        Some(Command::Gc(a)) => care::gc(a),
        Some(Command::List(a)) => care::list(a),
        Some(Command::Remove(a)) => care::remove(a),
        Some(Command::Dups(a)) => dups::run(a),
    }
}

fn build(a: &Arguments) -> Result<ExitStatus> {
    let (device, reader) = a.model.prepare()?;
    let model = a.model.open(&reader, &device)?;
    let encoder = IndexEncoder::new(&model);
    let fingerprint = encoder.identity().fingerprint;
    let place = Place::find(&a.folders, a.place.location()?.as_ref(), Some(&fingerprint))?;
    if a.dry_run {
        let found = dry_run(&place, &encoder, &bar())?;
        tell_update(&found);
        print_update(&found, a.json, true)?;
        return Ok(ExitStatus::Yes);
    }
    let stop = interruptible().cancellation();
    let control = || bar().cancelled_by(stop.clone());
    let mut options = UpdateOptions::default();
    options.workers = a.workers.unwrap_or(options.workers);
    options.within.clone_from(&place.folders);
    let store = place.open_to_write(&encoder, a.reencode)?;
    if let Some(States(precision)) = a.states {
        place.keep_states(&encoder, precision)?;
        if let Some(kept) = encoder.kept_states() {
            let images = dry_run(&place, &encoder, &Control::new())?.found;
            let bytes = kept.bytes_of_image();
            eprintln!(
                "keeping states: {:.1} kB an image, {:.1} MB for {images} images",
                bytes as f64 / 1e3,
                mb(bytes * images)
            );
        }
    }
    let first = match update(&*store, &encoder, &options, &control()) {
        Err(IndexError::Cancelled) => return interrupted(&*store),
        first => first?,
    };
    tell_update(&first);
    tell_notes(&reader);
    if encoder.kept_states().is_some() && a.states.is_some() {
        match encoder.complete_states(&*store, &control()) {
            Err(albef::Error::Cancelled) => return interrupted(&*store),
            done => tell_states(done?),
        }
    }
    print_update(&first, a.json, false)?;
    let info = store.info()?;
    if !a.json {
        say!("{} images in the index {}", info.images, info.place)?;
    }
    let Some(seconds) = a.watch else { return Ok(ExitStatus::Yes) };
    eprintln!("watching; interrupt to stop");
    watch(&*store, &encoder, &options, &control, Duration::from_secs(seconds.into()), a.json)
}

/// Looks for changes again and again, until it is interrupted.
fn watch(
    store: &dyn Store,
    encoder: &IndexEncoder<'_>,
    options: &UpdateOptions,
    control: &dyn Fn() -> Control,
    pause: Duration,
    json: bool,
) -> Result<ExitStatus> {
    /// How soon an interrupt is noticed.
    const TICK: Duration = Duration::from_millis(100);
    loop {
        let mut waited = Duration::ZERO;
        while waited < pause {
            if control().check().is_err() {
                return Ok(ExitStatus::Yes);
            }
            std::thread::sleep(TICK);
            waited += TICK;
        }
        match update(store, encoder, options, &control()) {
            Err(IndexError::Cancelled) => return Ok(ExitStatus::Yes),
            Ok(found) if found.is_change() => {
                tell_update(&found);
                print_update(&found, json, false)?;
            }
            Ok(_) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

fn tell_states(done: StatesMade) {
    if done.made > 0 {
        eprintln!("states of {} images made, of {} kept before", done.made, done.kept);
    }
    if done.unreadable > 0 {
        tracing::warn!(
            "{} files cannot be read any more; their states are not kept",
            done.unreadable
        );
    }
}

fn interrupted(store: &dyn Store) -> Result<ExitStatus> {
    let images = store.info()?.images;
    eprintln!("interrupted; {images} images are in the index. Rerun the same command to resume.");
    Ok(ExitStatus::No)
}

/// Warns about what is not in the index.
pub fn tell_update(found: &Update) {
    tell_unusable("skipped", &found.broken_images);
    if let Some(line) = unread_formats(&found.unread_files) {
        tracing::warn!("{line}");
    }
    let unreadable = found.unreadable_places.iter();
    tell_first("cannot be read", unreadable.map(|s| format!("{}: {}", s.name, s.error)));
    for root in &found.missing_roots {
        tracing::warn!(
            "{}: {}; its images are kept in the index (`albef index remove` forgets them)",
            root.name,
            root.error.detail
        );
    }
    if found.vanished > 0 {
        tracing::warn!("{} files vanished while they were read", found.vanished);
    }
}

fn print_update(found: &Update, json: bool, dry: bool) -> Result<()> {
    if json {
        return say!("{}", serde_json::to_value(found)?);
    }
    let Update { added, changed, moved, forgotten, unchanged, broken, .. } = found;
    let would = if dry { "would be: " } else { "" };
    let of_them = match broken {
        0 => String::new(),
        n => format!(" ({n} of the new and changed ones cannot be used)"),
    };
    say!(
        "{would}{added} new, {changed} changed, {moved} moved, {forgotten} forgotten, {unchanged} unchanged{of_them}"
    )
}

fn place(a: &PlaceArguments) -> Result<Place> {
    Ok(Place::find(&a.folders, a.place.location()?.as_ref(), None)?)
}

fn shown(path: &Path) -> String {
    names::shown(&names::text_of_path(path))
}

/// The path of an image.
fn file(record: &Record, roots: &[Root]) -> PathBuf {
    let root = roots.iter().find(|root| root.id == record.image.root);
    join(root.map_or(b"", |root| &root.path), &record.image.path)
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
