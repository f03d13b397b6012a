//! `albef evaluate retrieval`.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use albef::eval::metrics::{MISSED, RecallReport};
use albef::eval::retrieval::{Evaluation, Gallery, Options, Score, evaluate};
use albef::pipeline::Pipeline;
use albef_report::joint_interval;
use anyhow::{Result, bail};
use serde_json::{Map, Value, json};

use crate::Answer;
use crate::corpus::{Pictures, model_path, open_model_at};
use crate::notes::{SHOWN, tell_cut, tell_first, tell_wordless};
use crate::outcomes::{self, Reporting};
use crate::output::say;
use crate::protocol::{self, Protocol};

#[derive(clap::Args)]
pub struct Arguments {
    /// Model folder or weights file; `models/mini`, here or above the program, if not given.
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
    /// Candidates that are re-ranked; 0 leaves it at the cosine, and `score` null; 128 if not given.
    #[arg(long)]
    k: Option<usize>,
    /// What re-ranking goes by; the official way leaves the cosine aside.
    #[arg(long, default_value = "itm")]
    score: ScoreName,
    /// Measure as a named protocol does, and say where it is not that.
    #[arg(long, value_name = "NAME", value_parser = protocol::parser())]
    protocol: Option<&'static Protocol>,
    /// Count a hit by `image_id` (concept) instead of by picture.
    #[arg(long)]
    by_id: bool,
    #[command(flatten)]
    reporting: Reporting,
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

impl ScoreName {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Itm => "itm",
            Self::ItmItc => "itm+itc",
            Self::ItmProb => "itm-prob",
            Self::Posterior => "posterior",
        }
    }
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

pub fn run(a: &Arguments) -> Result<Answer> {
    let device = a.reporting.device.open()?;
    let path = model_path(a.model.as_deref())?;
    let image_res = a.image_res.or(a.protocol.map(|p| p.image_res));
    let k = a.k.or(a.protocol.map(|p| p.k)).unwrap_or(128);
    let ready = open_model_at(&path, image_res, &device)?;
    if let Some(protocol) = a.protocol {
        protocol.tell(&path, &ready, k, a.score.name(), a.by_id);
    }
    let size = ready.model.config.vision.image_res;
    let list = a.annotations.display().to_string();
    let pictures = Pictures::open(&list, a.image_root.as_deref(), size, &device)?;
    let ids: BTreeSet<u32> = pictures.data.image_ids().iter().copied().collect();
    if !a.by_id && ids.len() < pictures.data.len() {
        eprintln!(
            "note: {} pictures share {} image ids; a hit is the very picture, with --by-id any of its id",
            pictures.data.len(),
            ids.len()
        );
    }
    let options = Options { k, score: a.score.into(), ..Options::default() };
    let found = measure(&ready, &pictures, &options, a.by_id)?;
    found.tell();
    let (gallery, out) = (pictures.data.len(), &found.evaluation);
    if found.skipped.len() == gallery {
        bail!("none of the {gallery} pictures can be used; is --image-root the right folder?");
    }
    // The figures first: they are not lost where saving fails.
    let printed = print(a, &found, &pictures, k, size);
    let saved = outcomes::save_if(a.reporting.save.as_deref(), || {
        outcomes::retrieval(pictures.data.samples(), out, (k > 0).then(|| a.score.name()), a.by_id)
    });
    printed.and(saved)?;
    Ok(Answer::Yes)
}

/// Prints the figures of both stages, or of the first alone where nothing is re-ranked.
fn print(a: &Arguments, found: &Recalls, pictures: &Pictures, k: usize, size: usize) -> Result<()> {
    let (gallery, texts, out) = (pictures.data.len(), found.texts, &found.evaluation);
    if a.reporting.json {
        let mut report = named(&out.itm);
        report.insert("queries".into(), json!({"txt": gallery, "img": texts}));
        report.insert("gallery".into(), json!({"images": gallery, "texts": texts}));
        report.insert("k".into(), json!(k));
        // Without re-ranking the figures are those of the cosine.
        report.insert("score".into(), json!((k > 0).then(|| a.score.name())));
        report.insert("image_res".into(), json!(size));
        report.insert("protocol".into(), json!(a.protocol.map(|p| p.name)));
        report.insert("itc".into(), Value::Object(named(&out.itc)));
        report.insert("interval".into(), intervals(&out.itm_ranks, a.reporting.resamples));
        report.extend(found.counts(pictures));
        return say!("{}", Value::Object(report));
    }
    let stages = match k {
        0 => "not re-ranked".to_owned(),
        _ => format!("re-ranked: the best {k}"),
    };
    say!("{gallery} pictures, {texts} texts; {stages}")?;
    let line = |name: &str, report: &RecallReport, ranks: &[Vec<usize>; 2]| -> Result<()> {
        let i = intervals(ranks, a.reporting.resamples);
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
    if k > 0 {
        if k < 10 {
            eprintln!(
                "note: with --k {k} nothing is re-ranked beyond place {k}; recalls beyond it cannot rise"
            );
        }
        let name = format!("re-ranked ({})", a.score.name());
        line(&name, &out.itm, &out.itm_ranks)?;
    }
    Ok(())
}

/// Recalls under the official names.
pub fn named(report: &RecallReport) -> Map<String, Value> {
    report.named().into_iter().map(|(k, v)| (k.to_owned(), json!(v))).collect()
}

/// 95 % bootstrap intervals over queries, in percent, of each recall and of their means.
pub fn intervals(ranks: &[Vec<usize>; 2], resamples: usize) -> Value {
    const KS: [usize; 3] = [1, 5, 10];
    let interval = |queries: &[&[f64]]| {
        let (low, high) = joint_interval(queries, resamples, 42);
        json!([low, high])
    };
    let hit = |rank: usize, k: usize| if rank < k { 100.0 } else { 0.0 };
    let mut out = Map::new();
    let means: Vec<Vec<f64>> = ranks
        .iter()
        .map(|ranks| {
            ranks.iter().map(|r| KS.map(|k| hit(*r, k)).iter().sum::<f64>() / 3.0).collect()
        })
        .collect();
    for ((side, ranks), mean) in ["txt", "img"].into_iter().zip(ranks).zip(&means) {
        for k in KS {
            let hits: Vec<f64> = ranks.iter().map(|r| hit(*r, k)).collect();
            out.insert(format!("{side}_r{k}"), interval(&[&hits]));
        }
        out.insert(format!("{side}_r_mean"), interval(&[mean]));
    }
    out.insert("r_mean".into(), interval(&[&means[0], &means[1]]));
    Value::Object(out)
}

/// What came of pictures with their captions.
pub struct Recalls {
    pub evaluation: Evaluation,
    /// Pictures that cannot be used, with the reason; they count as missed.
    pub skipped: Vec<String>,
    /// Captions.
    pub texts: usize,
    /// Captions of which the end is not read.
    cut: usize,
    /// Captions without words.
    blank: usize,
}

impl Recalls {
    /// Names the first pictures that could not be used, and counts the others.
    pub fn tell(&self) {
        tell_first("not usable, counted as missed", self.skipped.iter().cloned());
    }

    /// What was not taken as it was given, by name in reports.
    pub fn counts(&self, pictures: &Pictures) -> Map<String, Value> {
        let left_out = &pictures.left_out;
        let first: Vec<&str> = left_out.iter().take(SHOWN).map(|s| s.name.as_str()).collect();
        Map::from_iter([
            ("skipped".to_owned(), json!(self.skipped.len())),
            ("cut_texts".to_owned(), json!(self.cut)),
            ("wordless_texts".to_owned(), json!(self.blank)),
            ("left_out".to_owned(), json!(left_out.len())),
            ("left_out_first".to_owned(), json!(first)),
        ])
    }
}

/// Evaluates pictures with their captions.
pub fn measure(
    ready: &Pipeline,
    pictures: &Pictures,
    options: &Options,
    by_id: bool,
) -> Result<Recalls> {
    let (mut cut, mut blank, mut bare) = (0, 0, 0);
    let mut texts = Vec::new();
    let mut txt2img = Vec::new();
    for (i, sample) in pictures.data.samples().iter().enumerate() {
        bare += usize::from(sample.captions.is_empty());
        for caption in &sample.captions {
            let caption = ready.caption(caption);
            cut += usize::from(caption.cut);
            // Nothing but `[CLS]`.
            blank += usize::from(caption.ids.len() <= 1);
            texts.push(caption.ids);
            txt2img.push(i);
        }
    }
    if texts.is_empty() {
        bail!("the list has no captions, so there is nothing to measure");
    }
    tell_cut(cut, texts.len(), Pipeline::TRUNCATION);
    tell_wordless(blank, texts.len(), bare, pictures.data.len());
    let gallery = Gallery {
        images: pictures.data.len(),
        texts: &texts,
        txt2img: &txt2img,
        ids: by_id.then_some(pictures.data.image_ids()),
    };
    let skipped = RefCell::new(BTreeMap::new());
    let load = |which: &[usize]| -> albef::Result<_> {
        let (images, failed) = pictures.load(which);
        for (i, s) in failed {
            skipped.borrow_mut().insert(i, format!("{}: {}", s.name, s.error));
        }
        Ok(images)
    };
    let bar = indicatif::ProgressBar::new(0);
    let mut out = evaluate(&ready.model, &gallery, options, &load, &mut |p| {
        bar.set_length(p.total as u64);
        bar.set_position(p.done as u64);
        bar.set_message(p.phase);
    })?;
    bar.finish_and_clear();
    let skipped = skipped.into_inner();
    // A picture that cannot be used is a miss in both directions, never a lucky hit.
    for i in skipped.keys() {
        for ranks in [&mut out.itc_ranks, &mut out.itm_ranks] {
            ranks[0][*i] = MISSED;
            for (t, image) in txt2img.iter().enumerate() {
                if image == i {
                    ranks[1][t] = MISSED;
                }
            }
        }
    }
    out.itc = RecallReport::from_ranks(&out.itc_ranks[0], &out.itc_ranks[1]);
    out.itm = RecallReport::from_ranks(&out.itm_ranks[0], &out.itm_ranks[1]);
    let skipped = skipped.into_values().collect();
    Ok(Recalls { evaluation: out, skipped, texts: texts.len(), cut, blank })
}
