//! Bringing an index up to date with its folders.
//!
//! ```text
//! walk ─ what is new or changed ─ workers: read, hash, decode, prepare ─ encode in batches ─ one transaction
//! ```
//!
//! A file counts as unchanged by its size and time. What is not is read and hashed: known content is not encoded
//! again, and where the file that had it is gone, the image has moved. Every transaction is durable before it is
//! reported as progress, so that the work can be killed at any moment and continued.

mod read;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use albef_data::control::Control;
use albef_data::dataset::Skipped;
use albef_data::error::{ImageError, ImageErrorKind};
use albef_data::names::{text_of, text_of_path};
use half::f16;
use serde::Serialize;

use crate::encoder::Encoder;
use crate::error::{IndexError, Result};
use crate::metadata::content_hash;
use crate::record::{Change, ContentHash, Image, ImageId, Record, Root, RootId, join};
use crate::store::Store;
use crate::walk::{Found, Walk, walk_parts};
use read::{Job, Known, Outcome, read};

/// Changes of a transaction at most.
const TRANSACTION: usize = 256;
/// How long an acknowledgement is put off at most, while images keep coming.
const PATIENCE: Duration = Duration::from_secs(1);
/// Images of one kind that a report names.
const NAMED: usize = 100;

/// How to bring an index up to date.
#[derive(Clone, Debug)]
pub struct UpdateOptions {
    /// Threads that read and decode.
    pub workers: usize,
    /// Images that are encoded at a time.
    pub batch: usize,
    /// Whether nothing is written: the report says what would be done, as far as size and time of files tell.
    pub dry_run: bool,
    /// Absolute folders, as [`folders`] gives them: only what is below them is looked at, and the rest stays as it is;
    /// everything, without any.
    pub within: Vec<PathBuf>,
}

impl Default for UpdateOptions {
    fn default() -> Self {
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        Self { workers, batch: 32, dry_run: false, within: Vec::new() }
    }
}

/// What an update found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Update {
    /// Files that look like images.
    pub found: u64,
    /// Those that are as they were.
    pub unchanged: u64,
    /// Images that are new.
    pub added: u64,
    /// Images whose file has another content than before.
    pub changed: u64,
    /// Images whose file was moved or renamed; they were not encoded again.
    pub moved: u64,
    /// Images whose content was known from another file; they were not encoded again. Counted as added or changed too.
    pub known_content: u64,
    /// Images that went through the encoder.
    pub encoded: u64,
    /// Images that cannot be used, among the new and changed ones.
    pub broken: u64,
    /// Images that were forgotten because their file is gone.
    pub forgotten: u64,
    /// Files that went while they were to be read.
    pub vanished: u64,
    /// Files that look like images of formats that are not read.
    pub unread: u64,
    /// Folders and files that cannot be read; what was known below them is kept.
    pub unreadable: u64,
    /// The first broken images, with the reason.
    #[serde(skip)]
    pub broken_images: Vec<Skipped>,
    /// The files of formats that are not read.
    #[serde(skip)]
    pub unread_files: Vec<Skipped>,
    /// The first folders and files that cannot be read.
    #[serde(skip)]
    pub unreadable_places: Vec<Skipped>,
    /// Folders of the index that cannot be read at all, or that have become empty, such as those of a device that is not
    /// connected.
    #[serde(skip)]
    pub missing_roots: Vec<Skipped>,
}

impl Update {
    /// Whether the index changed, or would.
    #[must_use]
    pub fn is_change(&self) -> bool {
        self.added + self.changed + self.moved + self.forgotten > 0
    }
}

/// The absolute paths of folders, without those that are below another one of them.
///
/// # Errors
/// [`IndexError::Io`] if one cannot be read or is no folder.
pub fn folders<P: AsRef<Path>>(given: &[P]) -> Result<Vec<PathBuf>> {
    let mut all: Vec<PathBuf> = Vec::new();
    for path in given.iter().map(AsRef::as_ref) {
        let whole = std::fs::canonicalize(path).map_err(IndexError::io(path))?;
        std::fs::read_dir(&whole).map_err(IndexError::io(path))?;
        all.push(whole);
    }
    all.sort();
    all.dedup();
    let nested = |path: &PathBuf| all.iter().any(|other| other != path && path.starts_with(other));
    Ok(all.iter().filter(|path| !nested(path)).cloned().collect())
}

/// What the walk, held against the catalogue, gives to do.
#[derive(Default)]
struct Plan {
    jobs: Vec<Job>,
    /// Content of usable images.
    contents: HashSet<ContentHash>,
    /// Images whose files are gone, by content, for those that have moved.
    gone_content: HashMap<ContentHash, Vec<ImageId>>,
    /// Their sizes.
    gone_sizes: HashSet<u64>,
    /// All images whose files are gone.
    gone: HashSet<ImageId>,
}

/// Brings the index up to date with its folders.
///
/// # Errors
/// [`IndexError::OtherModel`] if the encoder is not that of the index, [`IndexError::Cancelled`], if the index cannot be
/// written, or if encoding fails. What was acknowledged is kept.
pub fn update(
    store: &dyn Store,
    encoder: &dyn Encoder,
    options: &UpdateOptions,
    control: &Control,
) -> Result<Update> {
    crate::embedded::check_identity(store, &encoder.identity())?;
    let mut report = Update::default();
    let roots = store.roots()?;
    let mut walks = Vec::new();
    for root in &roots {
        let top = join(&root.path, b"");
        let Some(parts) = parts_of(&top, &options.within) else { continue };
        let walk = walk_root(root, &roots, &parts, &mut report, control)?;
        walks.extend(walk.map(|walk| Walked { root, parts, walk }));
    }
    let is_whole = |walked: &Walked<'_>| walked.parts.is_empty() && !walked.walk.is_bare;
    let whole = walks.len() == roots.len() && walks.iter().all(is_whole);
    let plan = plan(store, &walks, whole, &mut report)?;
    drop(walks);
    if options.dry_run {
        report.added = plan.jobs.iter().filter(|job| job.known.is_none()).count() as u64;
        report.changed = plan.jobs.len() as u64 - report.added;
        report.moved = moves(&plan, control)?;
        report.added -= report.moved;
        report.forgotten = plan.gone.len() as u64 - report.moved;
        return Ok(report);
    }
    Run::new(store, encoder, options, control, plan, report).go()
}

/// How many new files are images that were elsewhere. Only files of the size of one that is gone are read.
fn moves(plan: &Plan, control: &Control) -> Result<u64> {
    let mut gone: HashMap<ContentHash, usize> =
        plan.gone_content.iter().map(|(content, ids)| (*content, ids.len())).collect();
    let mut moved = 0;
    for job in plan.jobs.iter().filter(|job| job.known.is_none() && !plan.gone_sizes.is_empty()) {
        control.check()?;
        let path = join(&job.root_path, &job.path);
        let size = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
        if !plan.gone_sizes.contains(&size) {
            continue;
        }
        // What cannot be read now is not told apart from what is new.
        let Ok(bytes) = std::fs::read(&path) else { continue };
        if let Some(left) = gone.get_mut(&content_hash(&bytes)).filter(|left| **left > 0) {
            *left -= 1;
            moved += 1;
        }
    }
    Ok(moved)
}

/// The parts of a folder that are looked at: empty for all of it, `None` for no part.
fn parts_of(top: &Path, within: &[PathBuf]) -> Option<Vec<PathBuf>> {
    if within.is_empty() || within.iter().any(|folder| top.starts_with(folder)) {
        return Some(Vec::new());
    }
    let parts: Vec<PathBuf> = within.iter().filter(|f| f.starts_with(top)).cloned().collect();
    (!parts.is_empty()).then_some(parts)
}

/// What was found below a root, or below parts of it.
struct Walked<'a> {
    root: &'a Root,
    parts: Vec<PathBuf>,
    walk: Walk,
}

impl Walked<'_> {
    /// Whether a file that is known, and was not found, is gone.
    fn is_gone(&self, path: &[u8]) -> bool {
        let whole = join(&self.root.path, path);
        let was_looked_for =
            self.parts.is_empty() || self.parts.iter().any(|part| whole.starts_with(part));
        was_looked_for && !self.walk.is_unknown(path)
    }
}

fn walk_root(
    root: &Root,
    roots: &[Root],
    parts: &[PathBuf],
    report: &mut Update,
    control: &Control,
) -> Result<Option<Walk>> {
    let top = join(&root.path, b"");
    let mut found = match walk_parts(&top, parts, control) {
        Ok(found) => found,
        Err(IndexError::Io { cause, .. }) => {
            let error = ImageError { kind: ImageErrorKind::Io, detail: cause.to_string() };
            report.missing_roots.push(Skipped { name: text_of_path(&top), error });
            return Ok(None);
        }
        Err(e) => return Err(e),
    };
    // What belongs to a folder of the index below this one is found there.
    let inner: Vec<PathBuf> = roots
        .iter()
        .map(|other| join(&other.path, b""))
        .filter(|other| *other != top && other.starts_with(&top))
        .collect();
    if !inner.is_empty() {
        found.images.retain(|image| {
            let whole = join(&root.path, &image.path);
            !inner.iter().any(|folder| whole.starts_with(folder))
        });
    }
    report.found += found.images.len() as u64;
    report.unread += found.unread.len() as u64;
    report.unreadable += found.unreadable.len() as u64;
    report.unread_files.append(&mut found.unread);
    let room = NAMED.saturating_sub(report.unreadable_places.len());
    report.unreadable_places.extend(found.unreadable.drain(..).take(room));
    Ok(Some(found))
}

/// Holds what was found against the catalogue. `whole`: all of the index was looked at, so that images without a folder,
/// whose catalogue was lost, are gone if they were not found.
fn plan(store: &dyn Store, walks: &[Walked<'_>], whole: bool, report: &mut Update) -> Result<Plan> {
    let mut plan = Plan::default();
    let mut known: HashMap<RootId, HashMap<Vec<u8>, Known>> = HashMap::new();
    let all_roots: HashSet<RootId> = store.roots()?.iter().map(|root| root.id).collect();
    let mut without_root: Vec<Known> = Vec::new();
    store.for_each(&mut |Record { id, image }| {
        let usable = image.status.is_ok();
        if usable {
            plan.contents.insert(image.hash);
        }
        let complete = usable && image.width > 0;
        let Image { root, path, size, modified, settled, hash, .. } = image;
        let known_image = Known { id, size, modified, settled, hash, complete };
        if all_roots.contains(&root) {
            known.entry(root).or_default().insert(path, known_image);
        } else {
            without_root.push(known_image);
        }
        Ok(())
    })?;
    for walked in walks {
        let Walked { root, walk: found, .. } = walked;
        let mut known = known.remove(&root.id).unwrap_or_default();
        if found.is_bare && !known.is_empty() {
            let detail = "the folder is empty, as that of a device that is not connected".into();
            let error = ImageError { kind: ImageErrorKind::Io, detail };
            let name = text_of_path(&join(&root.path, b""));
            report.missing_roots.push(Skipped { name, error });
            continue;
        }
        for Found { path, size, modified } in &found.images {
            let before = known.remove(path);
            let same = before.as_ref().is_some_and(|known| {
                known.settled && (known.size, known.modified) == (*size, *modified)
            });
            if same {
                report.unchanged += 1;
                continue;
            }
            let (root_path, path) = (root.path.clone(), path.clone());
            plan.jobs.push(Job { root: root.id, root_path, path, known: before });
        }
        for (path, known) in known {
            if walked.is_gone(&path) {
                plan.is_gone(&known);
            }
        }
    }
    without_root.iter().filter(|_| whole).for_each(|known| plan.is_gone(known));
    Ok(plan)
}

impl Plan {
    fn is_gone(&mut self, known: &Known) {
        self.gone.insert(known.id);
        if known.complete {
            self.gone_content.entry(known.hash).or_default().push(known.id);
            self.gone_sizes.insert(known.size);
        }
    }
}

/// An update in progress.
struct Run<'a> {
    store: &'a dyn Store,
    encoder: &'a dyn Encoder,
    options: &'a UpdateOptions,
    control: &'a Control,
    plan: Plan,
    report: Update,
    /// Images with what the encoder takes.
    prepared: Vec<(Image, Vec<f32>)>,
    /// What is to be committed.
    changes: Vec<Change>,
    committed: Instant,
}

impl<'a> Run<'a> {
    fn new(
        store: &'a dyn Store,
        encoder: &'a dyn Encoder,
        options: &'a UpdateOptions,
        control: &'a Control,
        plan: Plan,
        report: Update,
    ) -> Self {
        let (prepared, changes, committed) = (Vec::new(), Vec::new(), Instant::now());
        Self { store, encoder, options, control, plan, report, prepared, changes, committed }
    }

    fn go(mut self) -> Result<Update> {
        let jobs = std::mem::take(&mut self.plan.jobs);
        let contents = std::mem::take(&mut self.plan.contents);
        let next = AtomicUsize::new(0);
        let (store, encoder, control) = (self.store, self.encoder, self.control);
        let workers = self.options.workers.clamp(1, jobs.len().max(1));
        let done = std::thread::scope(|scope| {
            // As many wait as are encoded at a time, so that neither side does.
            let (sender, receiver) = sync_channel(self.options.batch.max(1));
            for _ in 0..workers {
                let sender: SyncSender<(usize, Outcome)> = sender.clone();
                let (jobs, contents, next) = (&jobs, &contents, &next);
                scope.spawn(move || {
                    loop {
                        let place = next.fetch_add(1, Ordering::Relaxed);
                        let Some(job) = jobs.get(place) else { return };
                        let outcome = read(job, store, encoder, Some(contents));
                        // The other end is gone when the work has failed or was cancelled.
                        if control.check().is_err() || sender.send((place, outcome)).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(sender);
            self.take_all(&jobs, receiver)
        });
        done?;
        self.control.check()?;
        self.forget()?;
        Ok(self.report)
    }

    fn take_all(&mut self, jobs: &[Job], receiver: Receiver<(usize, Outcome)>) -> Result<()> {
        let control = self.control;
        let report = |done: usize| control.advance("images", done, jobs.len());
        report(0);
        let mut taken = 0;
        for (place, outcome) in receiver {
            control.check()?;
            self.take(&jobs[place], outcome)?;
            taken += 1;
            if self.prepared.len() >= self.options.batch.max(1) {
                self.encode()?;
            }
            let late = self.committed.elapsed() > PATIENCE;
            if self.changes.len() >= TRANSACTION || (late && !self.changes.is_empty()) {
                self.commit()?;
                report(taken - self.prepared.len());
            }
        }
        control.check()?;
        self.encode()?;
        self.commit()?;
        report(taken);
        Ok(())
    }

    fn take(&mut self, job: &Job, outcome: Outcome) -> Result<()> {
        match outcome {
            Outcome::Vanished => {
                self.report.vanished += 1;
                if let Some(known) = &job.known {
                    self.plan.gone.insert(known.id);
                }
            }
            Outcome::Same { id, modified, settled } => {
                self.report.unchanged += 1;
                let (root, path) = (job.root, job.path.clone());
                self.changes.push(Change::Move { id, root, path, modified, settled });
            }
            Outcome::KnownContent(image) => self.take_known(job, image)?,
            Outcome::Prepared { image, prepared } => {
                self.count(job);
                self.prepared.push((image, prepared));
            }
            Outcome::Broken { image, error } => {
                self.count(job);
                self.report.broken += 1;
                if self.report.broken_images.len() < NAMED {
                    self.report.broken_images.push(Skipped { name: text_of(&job.path), error });
                }
                self.changes.push(Change::Upsert { image, vector: None });
            }
        }
        Ok(())
    }

    fn count(&mut self, job: &Job) {
        match job.known {
            Some(_) => self.report.changed += 1,
            None => self.report.added += 1,
        }
    }

    /// An image whose content some other image has, or had.
    fn take_known(&mut self, job: &Job, image: Image) -> Result<()> {
        let gone = self.plan.gone_content.get_mut(&image.hash).and_then(Vec::pop);
        if let Some(id) = gone.filter(|_| job.known.is_none()) {
            self.plan.gone.remove(&id);
            self.report.moved += 1;
            let Image { root, path, modified, settled, .. } = image;
            self.changes.push(Change::Move { id, root, path, modified, settled });
            return Ok(());
        }
        if let Some(id) = gone {
            self.plan.gone_content.entry(image.hash).or_default().push(id);
        }
        // Looked up again: what had this content may have changed since.
        if let Some(other) = self.store.find_content(&image.hash)?
            && let Some(vector) = self.store.vectors(&[other.id])?.pop().flatten()
        {
            self.count(job);
            self.report.known_content += 1;
            self.changes.push(Change::Upsert { image, vector: Some(vector) });
            return Ok(());
        }
        let outcome = read(job, self.store, self.encoder, None);
        self.take(job, outcome)
    }

    fn encode(&mut self) -> Result<()> {
        if self.prepared.is_empty() {
            return Ok(());
        }
        let (images, prepared): (Vec<Image>, Vec<Vec<f32>>) = self.prepared.drain(..).unzip();
        let width = self.encoder.identity().width;
        let contents: Vec<ContentHash> = images.iter().map(|image| image.hash).collect();
        let values = self.encoder.encode(&prepared, &contents).map_err(IndexError::Encoder)?;
        if values.len() != images.len() * width {
            let (found, expected) = (values.len() / images.len(), width);
            return Err(IndexError::Width { found, expected });
        }
        self.report.encoded += images.len() as u64;
        for (image, vector) in images.into_iter().zip(values.chunks(width)) {
            let vector = Some(vector.iter().map(|v| f16::from_f32(*v)).collect());
            self.changes.push(Change::Upsert { image, vector });
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<()> {
        if !self.changes.is_empty() {
            self.store.apply(&self.changes)?;
            self.changes.clear();
        }
        self.committed = Instant::now();
        Ok(())
    }

    fn forget(&mut self) -> Result<()> {
        let roots: HashSet<RootId> = self.store.roots()?.iter().map(|root| root.id).collect();
        let mut gone: Vec<ImageId> = self.plan.gone.iter().copied().collect();
        gone.sort_unstable();
        for part in gone.chunks(TRANSACTION) {
            // Only images with a path are counted: others are what a repair could not place.
            let records = self.store.get(part)?;
            let placed = records.iter().flatten().filter(|r| roots.contains(&r.image.root));
            self.report.forgotten += placed.count() as u64;
            let changes: Vec<Change> = part.iter().map(|id| Change::Forget(*id)).collect();
            self.store.apply(&changes)?;
        }
        Ok(())
    }
}
