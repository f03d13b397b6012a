//! Models and the index behind the service.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use albef::checkpoint::{Checkpoint, LoadedModel, Parts};
use albef::device::Precision;
use albef::index::{IndexEncoder, Store, join};
use albef::task::{Query, TaskRef};
use albef::{Control, Device, Image, ImageReader, ModelDefaults, Pipeline};
use albef_data::error::DataError;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::api::{ImageFile, ImageInput, ImageNumber};
use crate::auth::Keys;
use crate::error::{Code, Problem, Result};
use crate::metrics::Metrics;
use crate::queue::{Abandoned, Queue, Rows, Work};

/// What requests may ask for.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a body.
    pub body: usize,
    /// Images, texts or pairs of a request.
    pub items: usize,
    /// Requests that are worked on or wait for it.
    pub permits: usize,
    /// Time from the permit to the answer.
    pub time: Duration,
    /// Time in which a request must have arrived.
    pub upload: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 32 << 20,
            items: 64,
            permits: 64,
            time: Duration::from_secs(60),
            upload: Duration::from_secs(30),
        }
    }
}

/// A model and the thread that computes with it.
pub struct Model {
    /// Its name in requests.
    pub name: String,
    /// What it is for.
    pub task: TaskRef,
    /// Pixels along a side of its images.
    pub image_res: usize,
    /// What it can do and what not, in a line.
    pub about: Option<String>,
    /// Whether its match probability tells whether an image matches.
    pub match_reliable: bool,
    reader: ImageReader,
    pipeline: Option<&'static Pipeline>,
    encoder: Option<&'static IndexEncoder<'static>>,
    loaded: Option<Arc<LoadedModel>>,
    queue: Queue,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The bytes of a file in base64: also in lines, as the program `base64` writes it, or as a data URL.
fn bytes_of(text: &str) -> Result<Vec<u8>> {
    let text = match text.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,")) {
        Some((_, text)) => text,
        None => text,
    };
    let lines = text.contains(|c: char| c.is_ascii_whitespace());
    let joined = lines.then(|| text.split_ascii_whitespace().collect::<String>());
    STANDARD
        .decode(joined.as_deref().unwrap_or(text))
        .map_err(|e| Problem::new(Code::InvalidRequest, format!("`base64` is not base64: {e}")))
}

/// How a model is used.
#[derive(Debug)]
pub struct Opening {
    /// How it reads images.
    pub reader: ImageReader,
    /// What the factors of matrix products are rounded to.
    pub precision: Precision,
    /// Where it computes.
    pub device: Device,
}

impl Model {
    /// Opens a model of any task. A model stays in memory until the program ends.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(
        name: impl Into<String>,
        path: &Path,
        how: &Opening,
        metrics: &Arc<Metrics>,
    ) -> albef::Result<Self> {
        albef::note_inferred(path);
        let found = Checkpoint::open(path)?;
        let task = found.task;
        let loaded = found.load(&[task], &how.device, Parts::Inference)?;
        loaded.log_notes();
        let (reader, precision) = (how.reader.clone(), how.precision);
        let loaded = LoadedModel { reader: reader.clone(), precision, ..loaded };
        let image_res = loaded.config.vision.image_res;
        let of_pairs = [TaskRef::pretrain().name(), "retrieval"].contains(&task.name());
        let (pipeline, loaded) = match of_pairs {
            true => (Some(&*Box::leak(Box::new(Pipeline::from_loaded(&loaded)?))), None),
            false => (None, Some(Arc::new(loaded))),
        };
        let encoder = pipeline.map(|model| &*Box::leak(Box::new(IndexEncoder::new(model))));
        let queue = Queue::start(pipeline, Arc::clone(metrics));
        let name = name.into();
        let defaults = ModelDefaults::of_model(path)?;
        let (match_reliable, about) = (defaults.is_match_reliable(), defaults.about);
        Ok(Self {
            name,
            task,
            image_res,
            about,
            match_reliable,
            reader,
            pipeline,
            encoder,
            loaded,
            queue,
        })
    }

    /// The encoder of an index, if it is a model of images and texts.
    #[must_use]
    pub fn encoder(&self) -> Option<&'static IndexEncoder<'static>> {
        self.encoder
    }
}

/// The index that is searched.
pub struct Index {
    /// The catalogue with its vectors.
    pub store: Arc<dyn Store>,
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index").finish_non_exhaustive()
    }
}

/// The service.
#[derive(Debug)]
pub struct Service {
    /// The models; the first that has features is that of the index.
    pub models: Vec<Model>,
    /// The index, if there is one.
    pub index: Option<Index>,
    /// Candidate answers of questions.
    pub answers: Vec<String>,
    /// The probability below which nothing matches: that of the model of the index, or 0.5.
    pub threshold: f64,
    /// Whether match probabilities are shown though the model's hardly tell whether an image matches: somebody has set a
    /// threshold for them.
    pub trusts_match: bool,
    /// Who may ask.
    pub keys: Keys,
    /// What requests may ask for.
    pub limits: Limits,
    /// Whether it listens to a loopback address.
    pub loopback: bool,
    /// Names by which a proxy in front of a loopback address is reached.
    pub hosts: Vec<String>,
    /// What it counts.
    pub metrics: Arc<Metrics>,
    /// Set when models have answered once.
    pub ready: AtomicBool,
    permits: Arc<Semaphore>,
    decoded: AtomicU64,
}

impl Service {
    /// A service of these models.
    #[must_use]
    pub fn new(
        models: Vec<Model>,
        index: Option<Index>,
        limits: Limits,
        metrics: Arc<Metrics>,
    ) -> Self {
        let own = models.iter().find_map(|model| model.pipeline);
        let threshold = own.and_then(|model| model.defaults().match_threshold).unwrap_or(0.5);
        Self {
            models,
            index,
            answers: Vec::new(),
            threshold,
            trusts_match: false,
            keys: Keys::default(),
            limits,
            loopback: true,
            hosts: Vec::new(),
            metrics,
            ready: AtomicBool::new(false),
            permits: Arc::new(Semaphore::new(limits.permits)),
            decoded: AtomicU64::new(0),
        }
    }

    /// The right to work, or [`Code::Busy`] at once.
    ///
    /// # Errors
    /// [`Code::Busy`], or if a request has more items than the limit.
    pub fn permit(&self, items: usize) -> Result<OwnedSemaphorePermit> {
        if items > self.limits.items {
            let most = self.limits.items;
            let detail = format!("the request has {items} items, and {most} are the limit");
            return Err(Problem::new(Code::TooLarge, detail));
        }
        let permit = Arc::clone(&self.permits).try_acquire_owned();
        let taken = self.limits.permits - self.permits.available_permits();
        self.metrics.permits.set(taken as u64);
        permit.map_err(|_| Problem::busy(1))
    }

    /// The model of that name, or the first that fits, for operations on features.
    ///
    /// # Errors
    /// [`Code::UnknownModel`].
    pub fn model(&self, name: Option<&str>) -> Result<(&Model, &'static Pipeline)> {
        let fits = |m: &&Model| m.pipeline.is_some() && name.is_none_or(|name| m.name == name);
        let found = self.models.iter().find(fits).and_then(|m| Some((m, m.pipeline?)));
        found.ok_or_else(|| self.unknown(name, "images and texts"))
    }

    /// The model of that name, or the first, of a task.
    pub(crate) fn model_of(
        &self,
        task: &str,
        name: Option<&str>,
    ) -> Result<(&Model, Arc<LoadedModel>)> {
        let fits = |m: &&Model| m.task.name() == task && name.is_none_or(|name| m.name == name);
        let found = self.models.iter().find(fits);
        found.and_then(|m| Some((m, m.loaded.clone()?))).ok_or_else(|| self.unknown(name, task))
    }

    fn unknown(&self, name: Option<&str>, task: &str) -> Problem {
        let names: Vec<&str> = self.models.iter().map(|m| m.name.as_str()).collect();
        let of = name.map_or(String::new(), |name| format!(" called `{name}`"));
        let detail =
            format!("there is no model for {task}{of}; the models are {}", names.join(", "));
        Problem::new(Code::UnknownModel, detail)
    }

    /// The index.
    ///
    /// # Errors
    /// [`Code::UnknownImage`] if there is none.
    pub fn index(&self) -> Result<&Index> {
        self.index
            .as_ref()
            .ok_or_else(|| Problem::new(Code::UnknownImage, "this service has no index"))
    }

    /// The file of an image of the index.
    ///
    /// # Errors
    /// [`Code::UnknownImage`].
    pub fn file(&self, id: i64) -> Result<PathBuf> {
        let index = self.index()?;
        let found = index.store.get(&[id]).map_err(albef::Error::from)?;
        let unknown = || Problem::new(Code::UnknownImage, format!("there is no image {id}"));
        let record = found.into_iter().next().flatten().ok_or_else(unknown)?;
        // Asked for anew, since folders may be added while the service runs.
        let roots = index.store.roots().map_err(albef::Error::from)?;
        let root = roots.iter().find(|root| root.id == record.image.root);
        Ok(join(&root.ok_or_else(unknown)?.path, &record.image.path))
    }

    /// Decodes an image; on a thread that may block.
    ///
    /// # Errors
    /// [`Code::UnknownImage`], [`Code::InvalidImage`], [`Code::InvalidRequest`].
    fn decode(&self, reader: &ImageReader, input: &ImageInput) -> Result<Image> {
        let started = Instant::now();
        let image = match input {
            ImageInput::Id(ImageNumber { id }) => {
                let id = *id;
                let file = self.file(id)?;
                reader.open(&file).map_err(|error| {
                    tracing::warn!("{error}");
                    // The path is nobody's business.
                    let why = match error {
                        DataError::Image { error, .. } => format!(": {error}"),
                        _ => String::new(),
                    };
                    Problem::new(Code::InvalidImage, format!("image {id} cannot be read{why}"))
                })?
            }
            ImageInput::File(ImageFile { base64 }) => {
                let bytes = bytes_of(base64)?;
                let key = self.decoded.fetch_add(1, Ordering::Relaxed);
                reader.decode(key, &bytes).map_err(|error| {
                    Problem::new(
                        Code::InvalidImage,
                        format!("the image cannot be decoded: {error}"),
                    )
                })?
            }
        };
        self.metrics.decode.observe(started.elapsed());
        Ok(image)
    }

    /// Decodes images as a model reads them, without holding up other requests.
    ///
    /// # Errors
    /// Of the first that cannot be decoded.
    pub async fn images(
        self: &Arc<Self>,
        model: &Model,
        inputs: Vec<ImageInput>,
    ) -> Result<Vec<Image>> {
        if inputs.is_empty() {
            return Ok(Vec::new());
        }
        let (service, reader) = (Arc::clone(self), model.reader.clone());
        let decode = move || inputs.iter().map(|input| service.decode(&reader, input)).collect();
        tokio::task::spawn_blocking(decode).await.unwrap_or_else(|_| Err(failed()))
    }

    /// One image ([`Service::images`]).
    ///
    /// # Errors
    /// If it cannot be decoded.
    pub async fn image(self: &Arc<Self>, model: &Model, input: ImageInput) -> Result<Image> {
        let mut images = self.images(model, vec![input]).await?;
        images.pop().ok_or_else(failed)
    }

    /// Waits for an answer of a model's thread, for the time that is allowed.
    async fn wait<T>(&self, abandoned: Abandoned, answer: oneshot::Receiver<T>) -> Result<T> {
        // Whoever goes away, or has waited too long, leaves work that is not done any more.
        struct Leave(Abandoned);
        impl Drop for Leave {
            fn drop(&mut self) {
                self.0.0.store(true, Ordering::SeqCst);
            }
        }
        let _leave = Leave(abandoned);
        match tokio::time::timeout(self.limits.time, answer).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(_)) => Err(failed()),
            Err(_) => Err(Problem::new(Code::Timeout, "the answer took longer than the limit")),
        }
    }

    async fn rows(
        &self,
        model: &Model,
        work: impl FnOnce(oneshot::Sender<Rows>) -> Work,
    ) -> Result<Vec<Vec<f32>>> {
        let (sender, answer) = oneshot::channel();
        let abandoned = Abandoned::default();
        if !model.queue.add(work(sender), abandoned.clone()) {
            return Err(failed());
        }
        Ok(self.wait(abandoned, answer).await??)
    }

    /// Unit-length features of images, encoded together with those of other requests.
    ///
    /// # Errors
    /// If the time is over, or the model fails.
    pub async fn embed_images(&self, model: &Model, images: Vec<Image>) -> Result<Vec<Vec<f32>>> {
        if images.is_empty() {
            return Ok(Vec::new());
        }
        self.rows(model, |sender| Work::Images(images, sender)).await
    }

    /// Unit-length features of texts, encoded together with those of other requests.
    ///
    /// # Errors
    /// [`Code::EmptyText`], or as [`Service::embed_images`].
    pub async fn embed_texts(&self, model: &Model, texts: Vec<String>) -> Result<Vec<Vec<f32>>> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        if texts.iter().any(|text| text.trim().is_empty()) {
            return Err(albef::Error::EmptyText.into());
        }
        self.rows(model, |sender| Work::Texts(texts, sender)).await
    }

    /// Computes something on a model's thread.
    ///
    /// # Errors
    /// Of `run`, or if the time is over.
    pub async fn run<T: Send + 'static>(
        &self,
        model: &Model,
        run: impl FnOnce(&Control) -> albef::Result<T> + Send + 'static,
    ) -> Result<T> {
        let (sender, answer) = oneshot::channel();
        let abandoned = Abandoned::default();
        let control = Control::new().cancelled_by(Arc::clone(&abandoned.0));
        let work = Work::Run(Box::new(move || drop(sender.send(run(&control)))));
        if !model.queue.add(work, abandoned.clone()) {
            return Err(failed());
        }
        Ok(self.wait(abandoned, answer).await??)
    }

    /// What a model of a task answers.
    ///
    /// # Errors
    /// [`Code::UnknownModel`] if there is none, or as [`Service::run`].
    pub async fn predict(
        self: &Arc<Self>,
        task: &str,
        name: Option<&str>,
        images: Vec<ImageInput>,
        query: Query,
    ) -> Result<(String, Vec<(String, f32)>)> {
        let (model, loaded) = self.model_of(task, name)?;
        let task = model.task;
        // Decoded once here, so that a bad image is told as such, and once by the task.
        let images = self.images(model, images).await?;
        let found = self
            .run(model, move |_| {
                let folder = tempfile::tempdir().map_err(albef::Error::io("temporary folder"))?;
                let mut paths = Vec::new();
                for (i, image) in images.iter().enumerate() {
                    let path = folder.path().join(format!("{i}.png"));
                    let png = albef_data::scenes::png(image).map_err(albef::Error::from)?;
                    std::fs::write(&path, png).map_err(albef::Error::io(&path))?;
                    paths.push(path);
                }
                task.predict(&loaded, &Query { images: paths, ..query })
            })
            .await?;
        Ok((model.name.clone(), found.choices))
    }

    /// Answers once with each model, so that the first request does not wait for what is made at the first use.
    ///
    /// # Errors
    /// If a model fails.
    pub async fn warm_up(&self) -> Result<()> {
        for model in self.models.iter().filter(|m| m.pipeline.is_some()) {
            self.embed_texts(model, vec!["a".to_owned()]).await?;
            let image = Image::filled(8, 8, [128; 3]);
            self.embed_images(model, vec![image]).await?;
        }
        self.ready.store(true, Ordering::SeqCst);
        Ok(())
    }
}

/// A fault of the service itself.
fn failed() -> Problem {
    Problem::new(Code::Internal, "the service failed; its log says how")
}

#[cfg(test)]
mod tests {
    use super::bytes_of;

    #[test]
    fn base64_is_read_in_lines_and_as_a_data_url() {
        for text in ["aGVsbG8=", "aGVs\nbG8=\n", "data:image/png;base64,aGVsbG8="] {
            assert_eq!(bytes_of(text).unwrap(), b"hello", "{text:?}");
        }
        for text in ["aGVsbG8", "data:image/png,aGVsbG8=", "a*"] {
            assert!(bytes_of(text).is_err(), "{text:?}");
        }
    }
}
