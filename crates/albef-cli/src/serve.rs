//! `albef serve`: the service over HTTP, with its page.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use albef::Control;
use albef::ModelDefaults;
use albef::index::{
    Encoder, IndexEncoder, IndexError, Place, Update, UpdateOptions, is_photo_folder, open_current,
    open_part, update,
};
use albef::model_or_default;
use albef::task::answer_list;
use albef_serve::{Index, Keys, Limits, Metrics, Model, Opening, Service, check_address, serve};
use anyhow::{Context, Result, bail};

use crate::ExitStatus;
use crate::arguments::{at_least_one, share};
use crate::device::{DeviceArg, PrecisionArg};
use crate::image_options::ImageOptions;
use crate::index::tell_update;
use crate::index_place::IndexPlace;
use crate::models::tell_default;
use crate::output::say;
use crate::progress::bar;

/// The variable with a key a line, where keys are not in a file.
const KEYS: &str = "ALBEF_API_KEYS";

#[derive(clap::Args)]
pub struct Arguments {
    /// Folders of images to search; they are indexed first, as by `albef index`. Without any, the service has no
    /// search but that of --index or --store.
    #[arg(value_name = "FOLDER")]
    folders: Vec<PathBuf>,
    #[command(flatten)]
    place: IndexPlace,
    /// Keep the index current while serving: check the folders for changes every SECONDS.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "10")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    watch: Option<u32>,
    /// A model, several times for several: model folder, weights file or run; requests call it NAME, or by its
    /// file name. The first one for images and texts searches [default: `models/mini`].
    #[arg(long, value_name = "[NAME=]MODEL")]
    model: Vec<String>,
    /// Address to listen to. Any but a loopback address needs keys.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    bind: SocketAddr,
    /// A name by which a reverse proxy on this machine is reached; may be given several times. Needs keys, as an
    /// address of its own does.
    #[arg(long, value_name = "NAME")]
    host: Vec<String>,
    /// A file with one key per line; requests must present one of them (`Authorization: Bearer KEY`); or the keys
    /// themselves in `ALBEF_API_KEYS`.
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
    /// Answer everybody at an address that is no loopback address.
    #[arg(long, conflicts_with = "keys")]
    no_keys: bool,
    /// Candidate answers of questions that bring none: a JSON list, or answers separated by commas [default: those of
    /// the model].
    #[arg(long, default_value = "", hide_default_value = true)]
    answers: String,
    /// Match probability below which the page says that nothing matches [default: that of the model, else 0.5].
    #[arg(long, value_name = "PROBABILITY", value_parser = share)]
    threshold: Option<f32>,
    /// Requests that are worked on or wait for it; others are told at once to come back later.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = at_least_one)]
    permits: usize,
    /// Bytes of a request in mebibytes.
    #[arg(long, value_name = "MIB", default_value_t = 32, value_parser = at_least_one)]
    max_body: usize,
    /// Images, texts or pairs of a request.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = at_least_one)]
    max_items: usize,
    /// Seconds that an answer may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = at_least_one)]
    timeout: usize,
    #[command(flatten)]
    images: ImageOptions,
    #[command(flatten)]
    precision: PrecisionArg,
    #[command(flatten)]
    device: DeviceArg,
}

pub fn run(a: &Arguments) -> Result<ExitStatus> {
    let keys = keys(a)?;
    let loopback = a.bind.ip().is_loopback();
    if (!loopback || !a.host.is_empty()) && keys.is_empty() && !a.no_keys {
        bail!(
            "whoever reaches {} could search these images; give --keys FILE or {KEYS}, or --no-keys to answer \
             everybody",
            a.host.first().cloned().unwrap_or_else(|| a.bind.to_string())
        );
    }
    // Nobody waits for models and an index to be told that the address is taken.
    check_address(a.bind)?;
    let named = named_models(a)?;
    let own = named.iter().map(|(_, path)| ModelDefaults::of_model(path));
    let own = own.collect::<Result<Vec<_>, _>>()?;
    let device = a.device.open()?;
    let precision = a.precision.on(&device);
    let metrics = Arc::new(Metrics::default());
    let mut models = Vec::new();
    own.first().inspect(|own| tell_default(!a.model.is_empty(), own));
    for ((name, path), own) in named.into_iter().zip(&own) {
        if models.iter().any(|m: &Model| m.name == name) {
            bail!("two models are called `{name}`; give them names with --model NAME=MODEL");
        }
        let how = Opening { reader: a.images.own(own), precision, device: device.clone() };
        let model = Model::open(name, &path, &how, &metrics);
        models.push(model.with_context(|| format!("cannot open the model {}", path.display()))?);
    }
    let index = open_index(a, &models)?;
    let limits = Limits {
        body: a.max_body << 20,
        items: a.max_items,
        permits: a.permits,
        time: Duration::from_secs(a.timeout as u64),
        ..Limits::default()
    };
    let mut service = Service::new(models, index, limits, metrics);
    service.keys = keys;
    service.loopback = loopback;
    service.hosts.clone_from(&a.host);
    if let Some(threshold) = a.threshold {
        service.threshold = threshold.into();
        service.trusts_match = true;
    }
    if !a.answers.is_empty() {
        service.answers = answer_list(&a.answers)?;
    }
    let access = match service.keys.is_empty() {
        true => "no key is needed",
        false => "a key is needed",
    };
    serve(service, a.bind, |address| {
        // Whoever reads it may have gone; the service has not.
        let _ = say!("http://{address}");
        if address.ip().is_unspecified() {
            let port = address.port();
            tracing::info!(
                "others open http://NAME:{port}, with the name or address of this machine"
            );
        }
        tracing::info!("{access}; interrupt to stop");
    })?;
    Ok(ExitStatus::Yes)
}

fn keys(a: &Arguments) -> Result<Keys> {
    let text = match &a.keys {
        Some(file) => std::fs::read_to_string(file)
            .with_context(|| format!("cannot read the keys in {}", file.display()))?,
        None => std::env::var(KEYS).unwrap_or_default(),
    };
    let keys = Keys::from_lines(&text);
    if let Some(file) = a.keys.as_ref().filter(|_| keys.is_empty()) {
        bail!("{} has no key", file.display());
    }
    Ok(keys)
}

/// Names and paths of the models.
fn named_models(a: &Arguments) -> Result<Vec<(String, PathBuf)>> {
    let name_of = |path: &Path| {
        let stem = if path.is_dir() { path.file_name() } else { path.file_stem() };
        stem.unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
    };
    if a.model.is_empty() {
        let path = model_or_default(None)?;
        return Ok(vec![(name_of(&path), path)]);
    }
    let named = a.model.iter().map(|given| match given.split_once('=') {
        Some((name, path)) if !Path::new(given).exists() => {
            Ok((name.to_owned(), model_or_default(Some(Path::new(path)))?))
        }
        _ => {
            let path = model_or_default(Some(Path::new(given)))?;
            Ok((name_of(&path), path))
        }
    });
    named.collect()
}

/// The index of the folders, brought up to date.
fn open_index(a: &Arguments, models: &[Model]) -> Result<Option<Index>> {
    let location = a.place.location()?;
    if a.folders.is_empty() && location.is_none() {
        if a.watch.is_some() {
            bail!("--watch needs the folders of an index, or --index");
        }
        return Ok(None);
    }
    if let Some(other) = a.folders.iter().find(|folder| !is_photo_folder(folder)) {
        bail!("{} is no folder of images", other.display());
    }
    let Some(encoder) = models.iter().find_map(Model::encoder) else {
        bail!("no model for images and texts is given, and an index needs one");
    };
    let fingerprint = encoder.identity().fingerprint;
    let place = Place::find(&a.folders, location.as_ref(), Some(&fingerprint))?;
    let opened = open_current(&place, encoder, &UpdateOptions::default(), &bar())?;
    if let Some(update) = &opened.update {
        tell_update(update);
    }
    if let Some(reason) = &opened.stale {
        tracing::info!("searching the index as it is: {reason}");
    }
    opened.check_not_empty(
        &a.folders.iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join(", "),
    )?;
    let all = opened.store.info()?.images;
    if let Some(seconds) = a.watch {
        keep_current(place.clone(), encoder, Duration::from_secs(seconds.into()));
    }
    // Others may write to it while the service reads. It may have other folders, which nobody was asked to show.
    drop(opened);
    let store = open_part(&place)?;
    let shown = store.info()?.images;
    match shown < all {
        true => eprintln!("serving {shown} of {all} images of the index"),
        false => tracing::info!("serving {all} images"),
    }
    Ok(Some(Index { store: store.into() }))
}

/// Looks for changes of the folders again and again, for as long as the program runs. It may end in the middle of it:
/// what was committed is kept.
fn keep_current(place: Place, encoder: &'static IndexEncoder<'static>, pause: Duration) {
    // One worker: who searches comes first.
    let within = place.folders.clone();
    let options = UpdateOptions { within, workers: 1, ..UpdateOptions::default() };
    let check = move || -> Result<String> {
        if !place.index.exists()? {
            bail!("it was removed; start the service anew");
        }
        let found = match place.open_to_write(encoder, false) {
            Ok(store) => update(&*store, encoder, &options, &Control::new())?,
            // Another process keeps it current.
            Err(albef::Error::Index(IndexError::Locked { .. })) => return Ok(String::new()),
            Err(e) => return Err(e.into()),
        };
        if found.is_change() {
            let Update { added, changed, moved, forgotten, .. } = found;
            tell_update(&found);
            tracing::info!(
                "index: {added} new, {changed} changed, {moved} moved, {forgotten} forgotten"
            );
            return Ok(String::new());
        }
        let missing = found.missing_roots.iter();
        let missing: Vec<String> =
            missing.map(|root| format!("{}: {}", root.name, root.error.detail)).collect();
        Ok(missing.join("; "))
    };
    let watch = move || {
        let mut told = String::new();
        loop {
            std::thread::sleep(pause);
            let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(&check));
            // What is wrong is told once.
            let wrong = match checked {
                Ok(Ok(wrong)) => wrong,
                Ok(Err(e)) => format!("{e:#}"),
                Err(_) => "looking for changes failed".to_owned(),
            };
            if !wrong.is_empty() && wrong != told {
                tracing::warn!("the index is not kept current: {wrong}");
            }
            told = wrong;
        }
    };
    std::thread::spawn(watch);
}
