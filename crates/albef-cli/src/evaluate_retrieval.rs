//! `albef evaluate retrieval`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use albef::eval::metrics::RecallReport;
use albef::eval::protocol::{Measured, Protocol};
use albef::eval::retrieval::{self, Options, RetrievalReport, Score};
use albef::{ImageSet, Pipeline};
use anyhow::{Result, bail};
use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::ExitStatus;
use crate::corpus::{model_path, open_images, open_model_at};
use crate::outcomes::{self, Reporting};
use crate::output::say;
use crate::progress::bar;
use crate::warnings::{tell_empty_texts, tell_truncated, tell_unusable};

#[derive(clap::Args)]
pub struct Arguments {
    /// Model folder or weights file [default: `models/mini`].
    #[arg(long)]
    model: Option<PathBuf>,
    /// Retrieval list: a JSON list of images with their captions.
    #[arg(long)]
    annotations: PathBuf,
    /// Joined before its image paths.
    #[arg(long)]
    image_root: Option<PathBuf>,
    /// Pixels along the side of an image, a multiple of the patch size, if not those of the model or the
    /// protocol; the position table is interpolated.
    #[arg(long, value_name = "PIXELS")]
    image_res: Option<usize>,
    /// Candidates that are re-ranked; 0 for the cosine alone (`score` is null) [default: 128].
    #[arg(long, alias = "k")]
    rerank_k: Option<usize>,
    /// The score of re-ranking; the official one does not include the cosine.
    #[arg(long, default_value = "itm")]
    score: ScoreName,
    /// Measure by a named protocol, and report where the evaluation deviates from it.
    #[arg(long, value_name = "NAME", value_parser = protocols())]
    protocol: Option<Protocol>,
    /// Count a hit by `image_id` (concept) instead of by image.
    #[arg(long)]
    by_id: bool,
    #[command(flatten)]
    reporting: Reporting,
}

fn protocols() -> impl TypedValueParser<Value = Protocol> {
    PossibleValuesParser::new(Protocol::ALL.map(|p| p.name)).try_map(|name| Protocol::named(&name))
}

/// Scores of a pair in re-ranking.
#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
pub enum ScoreName {
    /// The matching logit, as the official code.
    Itm,
    /// The matching logit plus the cosine, as LAVIS.
    #[value(name = "itm+itc")]
    ItmItc,
    /// The probability of a match, as its log-odds.
    ItmProb,
    /// The log-odds of "match" plus the cosine over the learned temperature
    Posterior,
}

impl From<ScoreName> for Score {
    fn from(name: ScoreName) -> Self {
        match name {
            ScoreName::Itm => Self::Itm,
            ScoreName::ItmItc => Self::ItmItc,
            ScoreName::ItmProb => Self::ItmProb,
            ScoreName::Posterior => Self::Posterior,
        }
    }
}

pub fn run(a: &Arguments) -> Result<ExitStatus> {
    let device = a.reporting.device.open()?;
    let path = model_path(a.model.as_deref())?;
    let image_res = a.image_res.or(a.protocol.map(|p| p.image_res));
    let k = a.rerank_k.or(a.protocol.map(|p| p.k)).unwrap_or(128);
    let model = open_model_at(&path, image_res, &device)?;
    let options = Options { k, score: a.score.into(), ..Options::default() };
    if let Some(protocol) = a.protocol {
        let measured = Measured { k, score: options.score.name(), by_id: a.by_id };
        tell_protocol(&protocol, &path, &model, measured);
    }
    let images = open_images(&a.annotations.display().to_string(), a.image_root.as_deref())?;
    let ids: BTreeSet<u32> = images.image_ids().iter().copied().collect();
    if !a.by_id && ids.len() < images.len() {
        tracing::info!(
            "{} images share {} image ids; a hit is the very image, with --by-id any of its id",
            images.len(),
            ids.len()
        );
    }
    let found = measure_images(&model, &images, &options, a.by_id)?;
    tell_skipped(&found);
    let gallery = images.len();
    if found.skipped.len() == gallery {
        bail!("none of the {gallery} images can be used; is --image-root the right folder?");
    }
    // The figures first: they are not lost where saving fails.
    let printed = print(a, &found);
    let saved = outcomes::save_if(a.reporting.save_outcomes.as_deref(), || found.outcomes(&images));
    printed.and(saved)?;
    Ok(ExitStatus::Yes)
}

fn tell_protocol(protocol: &Protocol, path: &Path, model: &Pipeline, measured: Measured<'_>) {
    let (size, weights) = (model.image_res(), Protocol::weights_of(model));
    eprintln!("protocol {}: {}", protocol.name, protocol.about);
    eprintln!("measured: {}, {weights}; {size} px; k {}", path.display(), measured.k);
    for deviation in protocol.deviations(model, measured) {
        tracing::warn!("not {}: {deviation}", protocol.name);
    }
}

/// Evaluates a set, and counts texts that are truncated or empty.
pub fn measure_images(
    model: &Pipeline,
    images: &ImageSet,
    options: &Options,
    by_id: bool,
) -> Result<RetrievalReport> {
    let found = retrieval::measure(model, images, options, by_id, &bar())?;
    tell_truncated(found.truncated_texts, found.texts, Pipeline::TRUNCATION);
    tell_empty_texts(found.empty_texts, found.texts, found.images_without_text, found.images);
    Ok(found)
}

/// Names the first images that cannot be used, and counts the others.
pub fn tell_skipped(found: &RetrievalReport) {
    tell_unusable("not usable, counted as missed", &found.skipped);
}

/// Prints the recalls of both stages, or of the first alone where nothing is re-ranked.
fn print(a: &Arguments, found: &RetrievalReport) -> Result<()> {
    let (out, k, resamples) = (&found.evaluation, found.options.k, a.reporting.resamples);
    if a.reporting.json {
        return say!("{}", found.to_json(resamples, a.protocol.map(|p| p.name)));
    }
    let stages = match k {
        0 => "not re-ranked".to_owned(),
        _ => format!("re-ranked: the best {k}"),
    };
    say!("{} images, {} texts; {stages}", found.images, found.texts)?;
    let line = |name: &str, report: &RecallReport, ranks: &[Vec<usize>; 2]| -> Result<()> {
        let i = intervals(ranks, resamples);
        let bound = |key: &str, j: usize| i[key][j].as_f64().unwrap_or(f64::NAN);
        say!(
            "{name:<22} image to text R@1 {:.2} [{:.2}, {:.2}] R@5 {:.2} R@10 {:.2}   \
             text to image R@1 {:.2} [{:.2}, {:.2}] R@5 {:.2} R@10 {:.2}   mean {:.2}",
            report.txt_r1,
            bound("txt_r1", 0),
            bound("txt_r1", 1),
            report.txt_r5,
            report.txt_r10,
            report.img_r1,
            bound("img_r1", 0),
            bound("img_r1", 1),
            report.img_r5,
            report.img_r10,
            report.r_mean
        )
    };
    line("cosine (ITC)", &out.itc, &out.itc_ranks)?;
    if let Some(score) = found.score() {
        if k < 10 {
            tracing::info!(
                "with --rerank-k {k} only the best {k} are re-ranked; recalls beyond rank {k} cannot rise"
            );
        }
        line(&format!("re-ranked ({score})"), &out.itm, &out.itm_ranks)?;
    }
    Ok(())
}

pub use albef::eval::retrieval::{intervals, recall_json as named};

/// A report, as the callers that measure epochs take it.
pub struct Recalls(RetrievalReport);

impl std::ops::Deref for Recalls {
    type Target = RetrievalReport;

    fn deref(&self) -> &RetrievalReport {
        &self.0
    }
}

impl Recalls {
    pub fn tell(&self) {
        tell_skipped(self);
    }

    pub fn counts(
        &self,
        _: &crate::corpus::Pictures,
    ) -> serde_json::Map<String, serde_json::Value> {
        self.0.counts()
    }
}

pub fn measure(
    model: &Pipeline,
    pictures: &crate::corpus::Pictures,
    options: &Options,
    by_id: bool,
) -> Result<Recalls> {
    measure_images(model, &pictures.images, options, by_id).map(Recalls)
}
