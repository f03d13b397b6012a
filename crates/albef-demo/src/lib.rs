//! The demonstration: the whole of ALBEF in minutes, on real emoji art, without any download. Corpus,
//! pre-training, evaluation and a report as one page.

mod measure;
mod options;
mod page;
mod scenes;
mod task;

pub use options::{Event, Options};
pub use scenes::{SceneOptions, Scenes, write_scenes};

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use albef::config::Source;
use albef::task::PretrainConfig;
use albef::train::{self as training, FolderLock, RunEvent, RunOptions, RunOutcome};
use albef::{Control, Pipeline, device};
use albef_data::scenes::{build, write_dataset};
use albef_weights::write_atomic;
use anyhow::{Context, Result, bail};

use crate::page::Session;
use crate::task::Task;

/// Candidates that the demonstration re-ranks.
pub const CANDIDATES: usize = 16;
/// Minutes of training below which the figures are those of chance.
const SHORT: f64 = 3.0;
/// The page, which is written last.
const REPORT: &str = "report.html";
/// Holds how many things are shown.
const CONCEPTS: &str = "concepts.txt";

/// What the demonstration made.
#[derive(Clone, Debug)]
pub struct Made {
    /// The report.
    pub report: PathBuf,
    /// A caption of the corpus to search for.
    pub caption: String,
    /// The options with which the same is made again by a machine with the same instructions, whatever its speed.
    pub repeat: String,
}

/// Trains, evaluates and writes the report; `None` if `control` was cancelled: the same call then resumes.
///
/// # Errors
/// If the folder holds another demonstration or cannot be written, or training fails.
pub fn run(
    a: &Options,
    control: &Control,
    observe: &mut dyn FnMut(&Event<'_>),
) -> Result<Option<Made>> {
    if !(a.minutes > 0.0 && a.minutes < 10_000.0) {
        bail!("--minutes {} must be above 0 and below 10000", a.minutes);
    }
    if a.steps.is_some_and(|steps| !(20..=1_000_000).contains(&steps)) {
        bail!("--steps must be from 20 to 1000000");
    }
    if a.concepts.is_some_and(|concepts| !(8..=160).contains(&concepts)) {
        bail!("--concepts must be from 8 to 160");
    }
    let _held = FolderLock::take(&a.output)?;
    if a.output.join(REPORT).exists() {
        bail!(
            "{} already holds a demonstration, with its report in {}; choose another --output",
            a.output.display(),
            a.output.join(REPORT).display()
        );
    }
    if a.steps.is_none() && a.minutes < SHORT {
        observe(&Event::Status(&format!(
            "note: the model learns almost nothing in less than {SHORT} minutes; expect figures near chance"
        )));
    }
    let shipped = a.shipped.as_ref().and_then(|path| match Pipeline::open(path, &device::cpu()) {
        Ok(model) => Some(model),
        // Known before the time is spent, and no reason to train nothing.
        Err(error) => {
            let path = path.display();
            observe(&Event::Status(&format!("note: {path} is not measured beside: {error}")));
            None
        }
    });
    let run = a.output.join("run");
    let begun = begun(&run, a)?;
    let resume = begun.is_some();
    let task = match begun {
        Some(task) => Some(task),
        None => task::choose(a, &a.output.join("trials"), control, observe)?,
    };
    let Some(task) = task else {
        observe(&Event::Status("interrupted: nothing was trained"));
        return Ok(None);
    };
    observe(&Event::Status(&format!(
        "building the corpus: emoji art of {} things in three styles, alone and in scenes",
        task.concepts
    )));
    let corpus = build(&task.corpus(a.seed))?;
    let data = a.output.join("data");
    std::fs::create_dir_all(&data).with_context(|| format!("cannot create {}", data.display()))?;
    write_atomic(&a.output.join(CONCEPTS), |f| writeln!(f, "{}", task.concepts))?;
    write_dataset(&corpus, &data)?;
    let config = task.config(a.seed, &data)?;
    let Some(session) = train(a, &run, &config, corpus.train.len(), resume, control, observe)?
    else {
        return Ok(None);
    };
    let model = Pipeline::open(&run.join("model"), &device::cpu())?;
    let (table, searches) =
        measure::measured(&model, shipped.as_ref(), &corpus, &data, a.seed, observe)?;
    let page =
        page::report(a, task, &model, &config, &session, corpus.train.len(), table, searches)?;
    let report = a.output.join(REPORT);
    write_atomic(&report, |f| f.write_all(page.as_bytes()))?;
    let first = corpus.val_scenes.first().and_then(|p| p.captions.first());
    Ok(Some(Made {
        report,
        caption: first.cloned().unwrap_or_default(),
        repeat: format!("--concepts {} --steps {} --seed {}", task.concepts, task.steps, a.seed),
    }))
}

/// The task of a run that was begun and not finished; `None` if there is none.
fn begun(run: &Path, a: &Options) -> Result<Option<Task>> {
    let path = run.join("config.json");
    let text = match std::fs::read_to_string(&path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        text => text.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let config = PretrainConfig::read(Source { text: &text, ..Source::default() })
        .with_context(|| format!("{} is no run of a demonstration", run.display()))?;
    let concepts = a.output.join(CONCEPTS);
    let concepts = std::fs::read_to_string(&concepts)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .with_context(|| {
            format!(
                "{} does not say how many things are shown; choose another --output",
                concepts.display()
            )
        })?;
    let (seed, steps) = (config.train.data.seed, config.train.optim.max_steps);
    let other = |given: Option<u64>, own: u64| given.is_some_and(|given| given != own);
    if seed != a.seed || other(a.steps, steps) || other(a.concepts.map(|c| c as u64), concepts) {
        bail!(
            "{} holds a demonstration with --seed {seed} --steps {steps} --concepts {concepts}; go on with that, \
             or choose another --output",
            run.display(),
        );
    }
    Ok(Some(Task { concepts: concepts as usize, steps }))
}

/// The pre-training run, or what is left of it; `None` if it was interrupted.
fn train(
    a: &Options,
    run: &Path,
    config: &PretrainConfig,
    images: usize,
    resume: bool,
    control: &Control,
    observe: &mut dyn FnMut(&Event<'_>),
) -> Result<Option<Session>> {
    observe(&Event::Status(&format!(
        "{} on {images} images for {} steps of {} pairs{}",
        if resume { "going on with pre-training" } else { "pre-training" },
        config.train.optim.max_steps,
        config.train.optim.batch_size,
        if resume || a.steps.is_some() {
            String::new()
        } else {
            format!(", about {} minutes", a.minutes)
        }
    )));
    let (started, mut done) = (Instant::now(), 0);
    let options = RunOptions::new(run).resume(resume).control(control.clone());
    let trained =
        training::run(Box::new(config.clone()), &options, &device::cpu(), &mut |event| {
            if let RunEvent::Started(summary) = event {
                done = summary.step;
            }
            observe(&Event::Run(event));
        })?;
    if trained.outcome != RunOutcome::Done {
        observe(&Event::Status("interrupted: saved, the same command goes on"));
        return Ok(None);
    }
    Ok(Some(Session { seconds: started.elapsed().as_secs_f64(), done }))
}
