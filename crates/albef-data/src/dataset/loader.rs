//! Batches, decoded and augmented by worker threads.
//!
//! What a batch holds is a function of seed, epoch and its number alone: workers only fill slots.
//! An image that cannot be used is replaced by the next usable one of a fixed substitute order,
//! and is counted and named.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use super::batch::{Answers, Batch};
use super::mixgen::{MixGen, MixMode};
use super::near::other_root;
use super::order::epoch_order;
use super::sample::{Sample, Skipped, Target};
use super::set::Dataset;
use super::store::SampleSet;
use crate::error::{DataError, ImageError, ImageErrorKind, Result};
use crate::image::{ImageReader, Normalization, RgbImage, TrainTransform, resize_bicubic};
use crate::random::Stream;
use crate::text::{TokenBatch, Tokenizer};

/// The most worker threads of a loader.
pub const MAX_WORKERS: usize = 256;

/// How texts are cleaned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TextRule {
    /// As captions.
    #[default]
    Caption,
    /// As questions.
    Question,
}

impl TextRule {
    fn clean(self, tokenizer: &Tokenizer, text: &str, max_words: usize) -> String {
        match self {
            Self::Caption => tokenizer.clean_caption(text, max_words),
            Self::Question => tokenizer.clean_question(text, max_words),
        }
    }
}

/// How batches are made.
#[derive(Clone, Debug)]
pub struct LoaderOptions {
    /// Samples per batch; the last incomplete batch of an epoch is left out.
    pub batch_size: usize,
    /// Seed of order, captions and augmentation.
    pub seed: u64,
    /// Epoch, from 0.
    pub epoch: u64,
    /// First batch to give, from 0.
    pub start_batch: usize,
    /// Worker threads.
    pub workers: usize,
    /// How texts are cleaned.
    pub text: TextRule,
    /// Words of a caption that are kept.
    pub max_words: usize,
    /// Tokens of a caption that are kept, unless pairs are mixed.
    pub max_tokens: usize,
    /// New pairs by mixing two; its `max_tokens` takes the place of the other then.
    pub mixgen: MixGen,
    /// Whether image ids decide which pairs are positives, for mixed ones.
    pub image_index: bool,
    /// The transform of images.
    pub transform: TrainTransform,
    /// Whether images are mirrored although a caption says left or right, as in the official code.
    pub flip_sided: bool,
    /// Mean and deviation.
    pub normalization: Normalization,
    /// How images are read.
    pub reader: ImageReader,
    /// Different images that may be skipped before the run stops; `None`: 1 % of the samples, at
    /// least 10.
    pub max_skipped: Option<usize>,
}

/// Images that could not be used, each named once. Shared by the epochs of a run.
#[derive(Clone, Debug, Default)]
pub struct SkipReport {
    skipped: Arc<Mutex<BTreeMap<usize, Skipped>>>,
    left_out: Arc<Mutex<Vec<Skipped>>>,
    pixels: Arc<Mutex<DecodedImages>>,
    cached: Arc<AtomicUsize>,
}

/// Images by sample and view.
type DecodedImages = HashMap<(usize, usize), Arc<RgbImage>>;

/// Decoded images are kept in memory up to this many bytes.
const CACHE: usize = 1 << 30;

impl SkipReport {
    /// The skipped images, in order of the data set; one that several samples use is named once.
    /// Then what was left out when the data set was opened.
    #[must_use]
    pub fn list(&self) -> Vec<Skipped> {
        let mut all = self.unusable();
        all.extend_from_slice(&self.left_out.lock().unwrap_or_else(PoisonError::into_inner));
        all
    }

    fn leave_out(&self, left_out: &[Skipped]) {
        *self.left_out.lock().unwrap_or_else(PoisonError::into_inner) = left_out.to_vec();
    }

    /// Those of them that were met in training, which count against the limit.
    #[must_use]
    pub fn unusable(&self) -> Vec<Skipped> {
        let skipped = self.lock();
        let mut seen = HashSet::new();
        skipped.values().filter(|s| seen.insert(s.name.as_str())).cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<usize, Skipped>> {
        self.skipped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn decoded(
        &self,
        sample: &Sample,
        index: usize,
        view: usize,
        reader: &ImageReader,
    ) -> Result<Arc<RgbImage>, ImageError> {
        let lock = || self.pixels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(image) = lock().get(&(index, view)) {
            return Ok(image.clone());
        }
        let image = Arc::new(sample.read_view(view, reader)?);
        let size = image.pixels.len();
        if self.cached.fetch_add(size, Ordering::Relaxed) + size <= CACHE {
            lock().insert((index, view), image.clone());
        } else {
            self.cached.fetch_sub(size, Ordering::Relaxed);
        }
        Ok(image)
    }
}

struct Work {
    data: Arc<Dataset>,
    tokenizer: Arc<Tokenizer>,
    options: LoaderOptions,
    order: Vec<u32>,
    report: SkipReport,
    limit: usize,
    next: AtomicUsize,
    batches: usize,
    /// Images of a sample.
    views: usize,
    stop: AtomicBool,
    /// Batches handed out; those far ahead wait for it, else one slow image would let the other
    /// workers fill the memory.
    taken: Mutex<usize>,
    moved: Condvar,
    ahead: usize,
}

/// A sample of a batch, besides its pixels.
struct Loaded {
    index: usize,
    tokens: Vec<u32>,
    target: Target,
}

impl Work {
    /// Enough samples to see what most images that are not found have in common.
    fn first_samples(&self) -> Vec<Sample> {
        const ENOUGH: usize = 10_000;
        self.data.samples().iter().take(ENOUGH).flatten().collect()
    }

    fn sample(&self, position: usize, images: &mut [&mut [f32]]) -> Result<Loaded> {
        let o = &self.options;
        let mut index = self.order[position] as usize;
        let mut substitutes = Stream::new(o.seed, "substitute", &[o.epoch, position as u64]);
        for _ in 0..=self.limit.saturating_mul(4).saturating_add(100) {
            let sample = self.data.sample(index)?.into_owned();
            let mut augment = Stream::new(o.seed, "augment", &[o.epoch, position as u64]);
            let known_bad = self.report.lock().contains_key(&index);
            let decoded = if known_bad {
                None
            } else {
                let view = |v| self.report.decoded(&sample, index, v, &o.reader);
                Some(sample.all_views(images.len(), view))
            };
            match decoded {
                Some(Ok(decoded)) => {
                    for (image, out) in decoded.iter().zip(images) {
                        let flip =
                            o.transform.flip && (o.flip_sided || !says_side(&sample.captions));
                        let transform = TrainTransform { flip, ..o.transform };
                        let image = transform.apply(image, &mut augment);
                        o.normalization.to_chw(&image, out);
                    }
                    let mut pick = Stream::new(o.seed, "caption", &[o.epoch, position as u64]);
                    let caption = sample.captions.get(pick.below(sample.captions.len()));
                    let text = caption.map_or("", String::as_str);
                    let words = o.text.clean(&self.tokenizer, text, o.max_words);
                    let max_tokens = match o.mixgen.mode {
                        MixMode::Off => o.max_tokens,
                        MixMode::Fixed | MixMode::Batch => o.mixgen.max_tokens,
                    };
                    let tokens = self.tokenizer.encode_truncated(&words, max_tokens);
                    return Ok(Loaded { index, tokens, target: sample.task.target });
                }
                Some(Err(skipped)) => drop(self.report.lock().insert(index, skipped)),
                None => {}
            }
            let unusable = self.report.lock().len();
            if unusable > self.limit.min(self.data.len() - 1) {
                let list = self.report.unusable();
                let count = list.len();
                if count <= self.limit && unusable < self.data.len() {
                    index = substitutes.below(self.data.len());
                    continue;
                }
                let lines: Vec<String> =
                    list.iter().map(|s| format!("  {}: {}", s.name, s.error)).collect();
                let mut list = lines.join("\n");
                if let Some(hint) = other_root(&self.first_samples()) {
                    list.push_str(&format!("\n  {hint}"));
                }
                return Err(DataError::TooManySkipped { count, limit: self.limit, list });
            }
            index = substitutes.below(self.data.len());
        }
        Err(DataError::Internal("no usable substitute was found".into()))
    }

    /// Collates batch `number` of the epoch.
    fn batch(&self, number: usize) -> Result<Batch> {
        let (size, side) = (self.options.batch_size, self.options.transform.size);
        let plane = 3 * side * side;
        let mut images = vec![0.0; self.views * size * plane];
        let mut slots: Vec<Vec<&mut [f32]>> = (0..size).map(|_| Vec::new()).collect();
        for (at, slot) in images.chunks_mut(plane).enumerate() {
            slots[at % size].push(slot);
        }
        let mut batch = Batch::default();
        let mut texts = Vec::with_capacity(size);
        for (i, mut image) in slots.into_iter().enumerate() {
            if self.stop.load(Ordering::Relaxed) {
                return Err(DataError::Internal("the loader was closed".into()));
            }
            let Loaded { index, tokens, target } = self.sample(number * size + i, &mut image)?;
            texts.push(tokens);
            batch.image_ids.push(i64::from(self.data.image_ids()[index]));
            batch.targets.push(target);
            batch.samples.push(index);
        }
        batch.images = images;
        let o = &self.options;
        let place = o.epoch * self.batches as u64 + number as u64;
        let mut stream = Stream::new(o.seed, "mixgen", &[o.epoch, number as u64]);
        o.mixgen.apply(&mut batch, &mut texts, &mut stream, place, o.image_index);
        batch.text = TokenBatch::packed(&texts);
        batch.answers = Answers::collate(&batch.targets, &self.tokenizer);
        Ok(batch)
    }
}

/// Whether a caption tells left from right, which a mirrored image would belie.
fn says_side(captions: &[String]) -> bool {
    let side = |w: &str| w.eq_ignore_ascii_case("left") || w.eq_ignore_ascii_case("right");
    captions.iter().any(|c| c.split(|c: char| !c.is_alphabetic()).any(side))
}

type Message = (usize, Result<Batch>);

/// The batches of one epoch, in order, from a given one on.
pub struct TrainLoader {
    work: Arc<Work>,
    receiver: Option<Receiver<Message>>,
    waiting: HashMap<usize, Result<Batch>>,
    at: usize,
    threads: Vec<JoinHandle<()>>,
}

impl TrainLoader {
    /// Starts the workers.
    ///
    /// # Errors
    /// If the data set has fewer samples than a batch, images are to have no pixels, or there are to be
    /// more workers than the system or [`MAX_WORKERS`] allows.
    pub fn new(
        data: Arc<Dataset>,
        tokenizer: Arc<Tokenizer>,
        options: LoaderOptions,
        report: SkipReport,
    ) -> Result<Self> {
        let batches = batches_per_epoch(data.len(), options.batch_size)?;
        if options.transform.size == 0 {
            let detail = "images of 0 pixels cannot be trained on; set `transform.size`";
            return Err(DataError::Argument(detail.into()));
        }
        if options.workers > MAX_WORKERS {
            let detail =
                format!("`workers` is {}; it can be at most {MAX_WORKERS}", options.workers);
            return Err(DataError::Argument(detail));
        }
        report.leave_out(data.left_out());
        let limit = options.max_skipped.unwrap_or_else(|| (data.len() / 100).max(10));
        let order = epoch_order(data.sources(), options.seed, options.epoch);
        let at = options.start_batch.min(batches);
        let workers = options.workers.max(1);
        let ahead = 2 * workers + 1;
        let views = match data.samples().views() {
            Ok(views) => views,
            Err(odd) => {
                let name = &data.sample(odd)?.name;
                let detail = format!("`{name}` has another number of images than those before it");
                return Err(DataError::Internal(detail));
            }
        };
        if views > 1 && options.mixgen.mode != MixMode::Off {
            let detail = "MixGen mixes pairs of one image and one text, not texts about two images";
            return Err(DataError::Argument(detail.into()));
        }
        let work = Arc::new(Work {
            views,
            data,
            tokenizer,
            options,
            order,
            report,
            limit,
            next: AtomicUsize::new(at),
            batches,
            stop: AtomicBool::new(false),
            taken: Mutex::new(at),
            moved: Condvar::new(),
            ahead,
        });
        let (sender, receiver) = sync_channel(ahead);
        let mut loader =
            Self { work, receiver: Some(receiver), waiting: HashMap::new(), at, threads: vec![] };
        for i in 0..workers {
            let (work, sender) = (loader.work.clone(), sender.clone());
            let started = Builder::new().spawn(move || run(&work, &sender));
            loader.threads.push(started.map_err(|e| {
                let detail = format!("worker {i} of {workers} cannot be started ({e})");
                DataError::Argument(format!("{detail}; hint: set `workers` lower"))
            })?);
        }
        Ok(loader)
    }

    /// Batches in the epoch.
    #[must_use]
    pub fn batches(&self) -> usize {
        self.work.batches
    }

    /// The next batch, or `None` after the last.
    ///
    /// # Errors
    /// If too many images cannot be used, or a worker failed.
    pub fn next_batch(&mut self) -> Result<Option<Batch>> {
        if self.at >= self.work.batches {
            return Ok(None);
        }
        loop {
            if let Some(batch) = self.waiting.remove(&self.at) {
                self.at += 1;
                *self.work.taken.lock().unwrap_or_else(PoisonError::into_inner) = self.at;
                self.work.moved.notify_all();
                return batch.map(Some);
            }
            match self.receiver.as_ref().and_then(|r| r.recv().ok()) {
                Some((number, batch)) => drop(self.waiting.insert(number, batch)),
                None => return Err(DataError::Internal("a loader thread ended early".into())),
            }
        }
    }
}

impl Drop for TrainLoader {
    fn drop(&mut self) {
        {
            // Set under the lock, so that no worker begins to wait unnoticed.
            let _taken = self.work.taken.lock().unwrap_or_else(PoisonError::into_inner);
            self.work.stop.store(true, Ordering::Relaxed);
        }
        self.work.moved.notify_all();
        // Workers that wait to send see the closed channel and end.
        self.receiver = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn run(work: &Work, sender: &SyncSender<Message>) {
    while !work.stop.load(Ordering::Relaxed) {
        let number = work.next.fetch_add(1, Ordering::Relaxed);
        if number >= work.batches {
            return;
        }
        let taken = work.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let early =
            |taken: &mut usize| number >= *taken + work.ahead && !work.stop.load(Ordering::Relaxed);
        drop(work.moved.wait_while(taken, early));
        let batch = catch_unwind(AssertUnwindSafe(|| work.batch(number)))
            .unwrap_or_else(|_| Err(DataError::Internal(format!("batch {number} panicked"))));
        if sender.send((number, batch)).is_err() {
            return;
        }
    }
}

/// Whole batches in an epoch.
///
/// # Errors
/// If there is none.
pub fn batches_per_epoch(samples: usize, batch: usize) -> Result<usize> {
    if batch == 0 || samples < batch {
        return Err(DataError::SmallerThanBatch { samples, batch, key: "batch_size" });
    }
    Ok(samples / batch)
}

/// Decodes samples for evaluation in parallel: normalised pixels `[n, 3, size, size]`. An image
/// that cannot be used gives grey pixels and is named, once for each sample. Without pixels, that is
/// with `size` 0, no image is looked at.
#[must_use]
pub fn load_images(
    data: &(impl SampleSet + ?Sized),
    which: &[usize],
    size: usize,
    normalization: Normalization,
    reader: &ImageReader,
    workers: usize,
) -> (Vec<f32>, Vec<(usize, Skipped)>) {
    load_views(data, which, 0, size, normalization, reader, workers)
}

/// The same of the first (0) or second (1) image of each sample.
#[must_use]
pub fn load_views(
    data: &(impl SampleSet + ?Sized),
    which: &[usize],
    view: usize,
    size: usize,
    normalization: Normalization,
    reader: &ImageReader,
    workers: usize,
) -> (Vec<f32>, Vec<(usize, Skipped)>) {
    load_range(data, which, view..view + 1, size, normalization, reader, workers)
}

/// The same of the first `views` images of each sample: all first ones, then all second ones. A
/// sample is named once, whichever of its images cannot be used.
#[must_use]
pub fn load_samples(
    data: &(impl SampleSet + ?Sized),
    which: &[usize],
    views: usize,
    size: usize,
    normalization: Normalization,
    reader: &ImageReader,
    workers: usize,
) -> (Vec<f32>, Vec<(usize, Skipped)>) {
    load_range(data, which, 0..views, size, normalization, reader, workers)
}

fn load_range(
    data: &(impl SampleSet + ?Sized),
    which: &[usize],
    views: Range<usize>,
    size: usize,
    normalization: Normalization,
    reader: &ImageReader,
    workers: usize,
) -> (Vec<f32>, Vec<(usize, Skipped)>) {
    let plane = 3 * size * size;
    let places: Vec<(usize, usize)> =
        views.flat_map(|view| which.iter().map(move |index| (view, *index))).collect();
    let mut pixels = vec![0.0; places.len() * plane];
    let failed = Mutex::new(BTreeMap::<(usize, usize), Skipped>::new());
    let part = places.len().div_ceil(workers.max(1)).max(1);
    std::thread::scope(|scope| {
        // With no pixels there are no chunks, whatever their length.
        for (places, pixels) in places.chunks(part).zip(pixels.chunks_mut((part * plane).max(1))) {
            let failed = &failed;
            scope.spawn(move || {
                for ((view, index), out) in places.iter().zip(pixels.chunks_mut(plane)) {
                    let sample = match data.sample(*index) {
                        Ok(sample) => sample,
                        Err(error) => {
                            let name = format!("sample {index}");
                            let skipped = Skipped::new(name, ImageErrorKind::Io, error.to_string());
                            let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                            failed.insert((*index, *view), skipped);
                            continue;
                        }
                    };
                    match sample.read_view(*view, reader) {
                        Ok(image) => {
                            let image =
                                resize_bicubic(&image, size, size, reader.options.resize_order);
                            normalization.to_chw(&image, out);
                        }
                        Err(error) => {
                            let skipped = Skipped { name: sample.view_name(*view), error };
                            let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                            failed.insert((*index, *view), skipped);
                        }
                    }
                }
            });
        }
    });
    (pixels, by_sample(failed.into_inner().unwrap_or_else(PoisonError::into_inner)))
}

/// One entry for each sample, in order.
fn by_sample(failed: BTreeMap<(usize, usize), Skipped>) -> Vec<(usize, Skipped)> {
    let mut samples = BTreeMap::<usize, Vec<Skipped>>::new();
    for ((index, _), skipped) in failed {
        samples.entry(index).or_default().push(skipped);
    }
    let together = |(index, failures)| Some((index, Skipped::together(failures)?));
    samples.into_iter().filter_map(together).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_is_told_by_whole_words_only() {
        let says = |caption: &str| says_side(&[caption.to_owned()]);
        assert!(says("a cat left of a dog") && says("Right, a dog"));
        assert!(!says("leftovers in bright light"));
    }
}
