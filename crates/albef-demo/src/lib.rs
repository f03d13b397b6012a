//! The demonstration: the whole of ALBEF in minutes, on real emoji art, without any download. Corpus,
//! pre-training, evaluation and a report as one page.

mod scenes;

pub use scenes::{SceneOptions, Scenes, write_scenes};

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use albef::config::{Files, Source};
use albef::eval::retrieval::{self, Evaluation, Score, intervals, measure, top_k};
use albef::task::PretrainConfig;
use albef::train::{
    self as training, Event as TrainerEvent, FolderLock, RunEvent, RunOptions, RunOutcome, Trainer,
};
use albef::{Control, ImageSet, Pipeline, device};
use albef_data::scenes::{Corpus, CorpusOptions, Pair, build, pixel_baseline, png, write_dataset};
use albef_files::folder;
use albef_report::{Report, SearchExample, SearchResult, Series, Table, curve_panels};
use albef_weights::write_atomic;
use anyhow::{Context, Result, bail};

/// Candidates that the demonstration re-ranks.
pub const CANDIDATES: usize = 16;
/// Minutes of training below which the figures are those of chance.
const SHORT: f64 = 3.0;
/// The page, which is written last.
const REPORT: &str = "report.html";

/// How long, where and from what seed.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Minutes of training.
    pub minutes: f64,
    /// Folder for data, run, model and report.
    pub output: PathBuf,
    /// Seed of corpus and training.
    pub seed: u64,
}

/// What the demonstration tells while it goes on.
#[derive(Debug)]
pub enum Event<'a> {
    /// What it does next, or what it found.
    Status(&'a str),
    /// A short trial of training is a step further, of so many.
    Trial(u64, u64),
    /// The pre-training run.
    Run(&'a RunEvent<'a>),
}

/// What the demonstration made.
#[derive(Clone, Debug)]
pub struct Made {
    /// The report.
    pub report: PathBuf,
    /// A caption of the corpus to search for.
    pub caption: String,
}

/// The keys of the demonstration's pre-training. Images are trained smaller than they are: more steps in
/// the same minutes are worth more than more pixels.
const CONFIG: &str = "
preset: nano
image_res: 48
batch_size: 64
queue_size: 256
image_index: true
crop_scale: [0.7, 1.0]
flip_with_side_words: false
rand_augment: [0, 0]
vocab: corpus
alpha: 0
dropout: 0
momentum: 0.98
momentum_dropout: 0
negative_temp: 0.07
precision: bf16
optimizer: {lr: 6e-4}
schedular: {sched: per_step, epochs: 100000, min_lr: 1e-5, warmup_lr: 1e-5, warmup_steps: 50}
checkpoint_every: 500
keep_last_n: 1
";

fn config(seed: u64, data: &Path) -> Result<PretrainConfig> {
    let settings = [format!("seed={seed}")];
    let source = Source { text: CONFIG, settings: &settings, file: None };
    let mut config = PretrainConfig::read(source)?;
    let keys = &mut config.train.data;
    keys.train_file = Files::One(data.join("train.json").display().to_string());
    keys.image_root = data.display().to_string();
    Ok(config)
}

/// Sets steps that fit into the given minutes, by short trials in `folder`: half of the time for
/// contrast alone, half for all losses, and of these half with hard negatives. False if interrupted.
fn fit_into(
    minutes: f64,
    config: &mut PretrainConfig,
    folder: &Path,
    control: &Control,
    observe: &mut dyn FnMut(&Event<'_>),
) -> Result<bool> {
    let (first, all) = (2, 12);
    let mut tried = 0;
    let mut pace = |itc_only_steps: u64| -> Result<Option<f64>> {
        let mut trial = config.clone();
        trial.mlm.itc_only_steps = itc_only_steps;
        let mut trial = Trainer::new(Box::new(trial), folder, &device::cpu())?;
        let mut run = |steps| -> Result<Option<f64>> {
            let start = Instant::now();
            trial.set_max_steps(steps);
            let ended = trial.run(control, &mut |event| {
                tried += u64::from(matches!(event, TrainerEvent::Step { .. }));
                observe(&Event::Trial(tried, 2 * all));
                Ok(())
            })?;
            Ok((ended == RunOutcome::Done).then(|| start.elapsed().as_secs_f64()))
        };
        let pace = match run(first)? {
            Some(_) => run(all)?.map(|seconds| seconds / (all - first) as f64),
            None => None,
        };
        folder::discard(folder)?;
        Ok(pace)
    };
    let half = minutes * 30.0;
    let (Some(alone), Some(fused)) = (pace(u64::MAX)?, pace(0)?) else { return Ok(false) };
    let align = ((half / alone) as u64).max(10);
    let all = ((half / fused) as u64).max(10);
    config.mlm.itc_only_steps = align;
    config.pairs.hard_negatives_start = align + all / 2;
    config.train.optim.max_steps = align + all;
    Ok(true)
}

/// The configuration of a run that was begun and not finished; `None` if there is none.
fn begun(run: &Path, seed: u64) -> Result<Option<PretrainConfig>> {
    let path = run.join("config.json");
    let text = match std::fs::read_to_string(&path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        text => text.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let config = PretrainConfig::read(Source { text: &text, ..Source::default() })
        .with_context(|| format!("{} is no run of a demonstration", run.display()))?;
    if config.train.data.seed != seed {
        bail!(
            "{} holds a demonstration with --seed {}; go on with that, or choose another --output",
            run.display(),
            config.train.data.seed
        );
    }
    Ok(Some(config))
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
    let _held = FolderLock::take(&a.output)?;
    if a.output.join(REPORT).exists() {
        bail!(
            "{} already holds a demonstration, with its report in {}; choose another --output",
            a.output.display(),
            a.output.join(REPORT).display()
        );
    }
    if a.minutes < SHORT {
        observe(&Event::Status(&format!(
            "note: less than {SHORT} minutes teach almost nothing; expect figures near chance"
        )));
    }
    observe(&Event::Status("building the corpus: emoji art in three styles, alone and in scenes"));
    let corpus = build(&CorpusOptions { seed: a.seed, ..CorpusOptions::default() })?;
    let data = a.output.join("data");
    std::fs::create_dir_all(&data).with_context(|| format!("cannot create {}", data.display()))?;
    write_dataset(&corpus, &data)?;
    let Some((config, session)) = train(a, &corpus, &data, control, observe)? else {
        return Ok(None);
    };
    let model = Pipeline::open(&a.output.join("run").join("model"), &device::cpu())?;
    let (table, searches) = measured(&model, &corpus, &data, a.seed, observe)?;
    let page = report(a, &model, &config, &session, corpus.train.len(), table, searches)?;
    let report = a.output.join(REPORT);
    write_atomic(&report, |f| f.write_all(page.as_bytes()))?;
    let first = corpus.val_scenes.first().and_then(|p| p.captions.first());
    Ok(Some(Made { report, caption: first.cloned().unwrap_or_default() }))
}

/// The pre-training run, or what is left of it; `None` if it was interrupted.
fn train(
    a: &Options,
    corpus: &Corpus,
    data: &Path,
    control: &Control,
    observe: &mut dyn FnMut(&Event<'_>),
) -> Result<Option<(PretrainConfig, Session)>> {
    let run = a.output.join("run");
    let stopped = begun(&run, a.seed)?;
    let resume = stopped.is_some();
    let config = match stopped {
        Some(config) => config,
        None => {
            let mut config = config(a.seed, data)?;
            let minutes = a.minutes;
            observe(&Event::Status(&format!("trying how many steps fit into {minutes} minutes")));
            let trials = a.output.join("trials");
            folder::discard(&trials)?;
            let fitted = fit_into(minutes, &mut config, &trials, control, observe);
            // Trials that failed are not kept either.
            folder::discard(&trials)?;
            if !fitted? {
                observe(&Event::Status("interrupted: nothing was trained"));
                return Ok(None);
            }
            config
        }
    };
    observe(&Event::Status(&format!(
        "{} on {} images for {} steps of {} pairs{}",
        if resume { "going on with pre-training" } else { "pre-training" },
        corpus.train.len(),
        config.train.optim.max_steps,
        config.train.optim.batch_size,
        if resume { String::new() } else { format!(", about {} minutes", a.minutes) }
    )));
    let (started, mut done) = (Instant::now(), 0);
    let options = RunOptions::new(&run).resume(resume).control(control.clone());
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
    Ok(Some((config, Session { seconds: started.elapsed().as_secs_f64(), done })))
}

/// Recalls on the three sets, and some searches.
fn measured(
    model: &Pipeline,
    corpus: &Corpus,
    data: &Path,
    seed: u64,
    observe: &mut dyn FnMut(&Event<'_>),
) -> Result<(Table, Vec<SearchExample>)> {
    let splits = [
        ("scenes, pairs that never met", "val_scenes", &corpus.val_scenes),
        ("emoji, held-out renderings", "val_emoji", &corpus.val_emoji),
        ("emoji, unseen style", "val_style", &corpus.val_style),
    ];
    let mut table = Table {
        caption: format!(
            "Recall in percent with 95 % bootstrap intervals over queries; each image and its captions \
             are looked for among all of the same set, and the best {CANDIDATES} are re-ranked"
        ),
        head: [
            "set",
            "images",
            "stage",
            "image→text R@1",
            "text→image R@1",
            "text→image R@10",
            "chance R@1",
            "pixels",
        ]
        .map(String::from)
        .to_vec(),
        rows: Vec::new(),
    };
    let mut searches = Vec::new();
    for (title, name, pairs) in splits {
        let list = data.join(format!("{name}.json")).display().to_string();
        let images = ImageSet::open(&list, Some(data))?;
        let by = |score| {
            let options = retrieval::Options { k: CANDIDATES, score, ..Default::default() };
            measure(model, &images, &options, false, &Control::default())
        };
        let (found, both) = (by(Score::Itm)?, by(Score::Posterior)?.evaluation);
        let (out, texts) = (found.evaluation, found.texts);
        let per_image = texts as f64 / pairs.len() as f64;
        let chance = 100.0 * per_image / texts as f64;
        let pixels = match name {
            "val_scenes" => "—".to_owned(),
            _ => format!("{:.1}", 100.0 * pixel_baseline(&corpus.train, pairs)),
        };
        for (stage, report, ranks) in [
            ("cosine", &out.itc, &out.itc_ranks),
            ("re-ranked by matching", &out.itm, &out.itm_ranks),
            ("by both, as search does", &both.itm, &both.itm_ranks),
        ] {
            let i = intervals(ranks, 1000);
            let cell = |value: f64, key: &str| {
                let bound = |j: usize| i[key][j].as_f64().unwrap_or(f64::NAN);
                format!("{value:.1} [{:.1}, {:.1}]", bound(0), bound(1))
            };
            table.rows.push(vec![
                title.into(),
                pairs.len().to_string(),
                stage.into(),
                cell(report.txt_r1, "txt_r1"),
                cell(report.img_r1, "img_r1"),
                cell(report.img_r10, "img_r10"),
                format!("{chance:.1}"),
                pixels.clone(),
            ]);
            observe(&Event::Status(&format!(
                "{name} {stage}: image to text R@1 {}, text to image R@1 {}, chance {chance:.1}",
                cell(report.txt_r1, "txt_r1"),
                cell(report.img_r1, "img_r1")
            )));
        }
        examples(&both, pairs, seed, &mut searches)?;
    }
    Ok((table, searches))
}

/// Adds three searches of a split that are not there yet, right and wrong ones alike: drawn by the seed, not
/// chosen by result.
fn examples(
    out: &Evaluation,
    pairs: &[Pair],
    seed: u64,
    searches: &mut Vec<SearchExample>,
) -> Result<()> {
    let captions: Vec<(usize, &String)> = pairs
        .iter()
        .enumerate()
        .flat_map(|(i, p)| p.captions.iter().map(move |c| (i, c)))
        .collect();
    let mut stream =
        albef_data::random::Stream::new(seed, "example searches", &[pairs.len() as u64]);
    let wanted = searches.len() + 3;
    // As many draws as captions: where fewer than three differ, there are fewer examples.
    for _ in 0..captions.len() {
        let t = stream.below(captions.len());
        let (owner, query) = captions[t];
        if searches.len() == wanted || searches.iter().any(|s| s.query == *query) {
            continue;
        }
        let scores: Vec<f32> = out.t2i[t].iter().map(|(_, s)| *s).collect();
        let best = scores.iter().copied().fold(f32::MIN, f32::max);
        let share = |score: f32| f64::from(score - best).exp();
        let all: f64 = scores.iter().map(|s| share(*s)).sum();
        let results = top_k(&scores, 5)
            .into_iter()
            .map(|slot| {
                let (image, score) = out.t2i[t][slot];
                Ok(SearchResult {
                    png: png(&pairs[image].image)?,
                    score: share(score) / all,
                    correct: image == owner,
                    caption: pairs[image].captions[0].clone(),
                })
            })
            .collect::<Result<Vec<_>>>()?;
        searches.push(SearchExample { query: query.clone(), results });
    }
    Ok(())
}

/// The training of this start of the program.
struct Session {
    seconds: f64,
    /// Steps that were done before it.
    done: u64,
}

fn report(
    a: &Options,
    model: &Pipeline,
    config: &PretrainConfig,
    session: &Session,
    images: usize,
    table: Table,
    searches: Vec<SearchExample>,
) -> Result<String> {
    let mut curves: Vec<Series> = ["train_loss_ita", "train_loss_itm", "train_loss_mlm"]
        .map(|n| Series { name: n.into(), points: Vec::new() })
        .to_vec();
    for line in std::fs::read_to_string(a.output.join("run/log.jsonl"))?.lines() {
        let value: serde_json::Value = serde_json::from_str(line)?;
        for curve in &mut curves {
            if let (Some(x), Some(y)) = (value["step"].as_f64(), value[&curve.name].as_f64()) {
                curve.points.push((x, y));
            }
        }
    }
    let (batch, steps) = (config.train.optim.batch_size, config.train.optim.max_steps);
    let seen = ((steps - session.done) * batch as u64) as f64;
    let since = match session.done {
        0 => String::new(),
        done => format!(", from step {done} on"),
    };
    let fact = |name: &str, value: String| (name.to_owned(), value);
    let report = Report {
        title: "What ALBEF learned from scratch".into(),
        subtitle: "Aligned by contrast, fused by cross-attention, on emoji art in three styles"
            .into(),
        facts: vec![
            fact("Training images", images.to_string()),
            fact("Steps", format!("{steps} of {batch} pairs")),
            fact("Training time", format!("{:.1} minutes{since}", session.seconds / 60.0)),
            fact("Pairs a second", format!("{:.0}", seen / session.seconds)),
            fact("Parameters", format!("{:.1} M", model.params().count() as f64 / 1e6)),
            fact("Word pieces", model.config().text.vocab_size.to_string()),
            fact("Queue", config.pairs.queue_size.to_string()),
            fact("Seed", config.train.data.seed.to_string()),
        ],
        curves: curve_panels(&curves),
        tables: vec![table],
        searches,
        notes: vec![
            "“pixels” is the share of images whose nearest training image, compared pixel by \
             pixel, shows the same thing: what looking alike alone achieves. For scenes it is not \
             defined, since no training image shows the same pair."
                .into(),
            "Contrast (train_loss_ita) is trained alone at first; matching (train_loss_itm) and masked words \
             (train_loss_mlm) join later, and their curves begin there. Matching that always guesses the \
             same loses 0.637."
                .into(),
            "The searches were drawn at random, not chosen; the number is the probability among sixteen \
             candidates. Art: Twemoji (CC BY 4.0), Noto Emoji \
             (Apache 2.0), Fluent Emoji (MIT), FxEmoji (Apache 2.0)."
                .into(),
        ],
    };
    Ok(report.to_html())
}
