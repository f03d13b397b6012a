//! One thread computes for a model. It takes work in order, and encodes images, or texts, that wait at the same time
//! together, up to a budget.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use albef::{Error, Image, Pipeline, Result};
use tokio::sync::oneshot;

use crate::metrics::Metrics;

/// Images that are encoded at a time.
const IMAGES: usize = 32;
/// Word pieces that are encoded at a time.
const TOKENS: usize = 1024;

/// Rows, one for each item.
pub type Rows = Result<Vec<Vec<f32>>>;

/// Set when nobody waits for the result any more.
#[derive(Clone, Debug, Default)]
pub struct Abandoned(pub Arc<AtomicBool>);

impl Abandoned {
    fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Something to compute.
pub enum Work {
    /// Features of images.
    Images(Vec<Image>, oneshot::Sender<Rows>),
    /// Features of texts.
    Texts(Vec<String>, oneshot::Sender<Rows>),
    /// Anything else.
    Run(Box<dyn FnOnce() + Send>),
}

struct Item {
    work: Work,
    abandoned: Abandoned,
    since: Instant,
}

/// The entrance to the thread of a model.
#[derive(Debug)]
pub struct Queue {
    sender: Option<Sender<Item>>,
    thread: Option<JoinHandle<()>>,
}

impl Queue {
    /// Starts the thread.
    #[must_use]
    pub fn start(pipeline: Option<&'static Pipeline>, metrics: Arc<Metrics>) -> Self {
        let (sender, receiver) = channel();
        let thread = std::thread::Builder::new().name("compute".into());
        let thread = thread.spawn(move || compute(pipeline, &receiver, &metrics)).ok();
        Self { sender: Some(sender), thread }
    }

    /// Adds work; `false` if the thread is gone.
    #[must_use]
    pub fn add(&self, work: Work, abandoned: Abandoned) -> bool {
        let item = Item { work, abandoned, since: Instant::now() };
        self.sender.as_ref().is_some_and(|sender| sender.send(item).is_ok())
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        drop(self.sender.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn compute(pipeline: Option<&Pipeline>, receiver: &Receiver<Item>, metrics: &Metrics) {
    let mut waiting: VecDeque<Item> = VecDeque::new();
    loop {
        if waiting.is_empty() {
            let Ok(next) = receiver.recv() else { return };
            waiting.push_back(next);
        }
        waiting.extend(receiver.try_iter());
        let Some(first) = waiting.pop_front() else { continue };
        if first.abandoned.is_set() {
            continue;
        }
        metrics.wait.observe(first.since.elapsed());
        let started = Instant::now();
        match (first.work, pipeline) {
            (Work::Run(run), _) => run(),
            (Work::Images(images, answer), Some(pipeline)) => {
                let mut jobs = vec![(images, answer)];
                take(&mut waiting, IMAGES, &mut jobs, metrics);
                together(jobs, |images| pipeline.embed_images(&images));
            }
            (Work::Texts(texts, answer), Some(pipeline)) => {
                let mut jobs = vec![(texts, answer)];
                take(&mut waiting, TOKENS, &mut jobs, metrics);
                together(jobs, |texts| {
                    let found = pipeline.extract_texts(&texts, Default::default())?;
                    Ok(found.into_iter().map(|rows| rows.values).collect())
                });
            }
            // A model of another task has no features.
            (Work::Images(_, answer), None) | (Work::Texts(_, answer), None) => {
                let _ = answer.send(Err(Error::NoProjections));
            }
        }
        metrics.compute.observe(started.elapsed());
    }
}

/// What can be encoded together.
trait Batched: Sized {
    fn of(work: Work) -> Result<(Vec<Self>, oneshot::Sender<Rows>), Work>;
    fn back(items: Vec<Self>, answer: oneshot::Sender<Rows>) -> Work;
    fn cost(items: &[Self]) -> usize;
}

impl Batched for Image {
    fn of(work: Work) -> Result<(Vec<Self>, oneshot::Sender<Rows>), Work> {
        match work {
            Work::Images(images, answer) => Ok((images, answer)),
            other => Err(other),
        }
    }

    fn back(items: Vec<Self>, answer: oneshot::Sender<Rows>) -> Work {
        Work::Images(items, answer)
    }

    fn cost(items: &[Self]) -> usize {
        items.len()
    }
}

impl Batched for String {
    fn of(work: Work) -> Result<(Vec<Self>, oneshot::Sender<Rows>), Work> {
        match work {
            Work::Texts(texts, answer) => Ok((texts, answer)),
            other => Err(other),
        }
    }

    fn back(items: Vec<Self>, answer: oneshot::Sender<Rows>) -> Work {
        Work::Texts(items, answer)
    }

    /// Word pieces, about: a word has one or two.
    fn cost(items: &[Self]) -> usize {
        items.iter().map(|text| 2 + text.len() / 4).sum()
    }
}

/// Moves what fits beside the first job within the budget; the rest keeps its order.
fn take<T: Batched>(
    waiting: &mut VecDeque<Item>,
    budget: usize,
    jobs: &mut Vec<(Vec<T>, oneshot::Sender<Rows>)>,
    metrics: &Metrics,
) {
    let mut cost: usize = jobs.iter().map(|(items, _)| T::cost(items)).sum();
    let mut rest = VecDeque::with_capacity(waiting.len());
    for item in waiting.drain(..) {
        let Item { work, abandoned, since } = item;
        match T::of(work) {
            Ok(_) if abandoned.is_set() => {}
            Ok((items, answer)) if cost + T::cost(&items) <= budget => {
                cost += T::cost(&items);
                metrics.wait.observe(since.elapsed());
                jobs.push((items, answer));
            }
            Ok((items, answer)) => {
                rest.push_back(Item { work: T::back(items, answer), abandoned, since });
            }
            Err(work) => rest.push_back(Item { work, abandoned, since }),
        }
    }
    *waiting = rest;
    metrics.batch.set(jobs.len() as u64);
}

/// Computes the items of all jobs at once, and hands each job its rows.
fn together<T>(jobs: Vec<(Vec<T>, oneshot::Sender<Rows>)>, run: impl FnOnce(Vec<T>) -> Rows) {
    let counts: Vec<usize> = jobs.iter().map(|(items, _)| items.len()).collect();
    let (mut all, mut answers) = (Vec::new(), Vec::new());
    for (items, answer) in jobs {
        all.extend(items);
        answers.push(answer);
    }
    let mut rows = match run(all) {
        Ok(rows) => rows.into_iter(),
        Err(error) => {
            // What is wrong with one text is found before it is queued, so this is a fault of the service.
            let detail = error.to_string();
            for answer in answers {
                let _ = answer.send(Err(Error::Argument(detail.clone())));
            }
            return;
        }
    };
    for (count, answer) in counts.into_iter().zip(answers) {
        let _ = answer.send(Ok(rows.by_ref().take(count).collect()));
    }
}
