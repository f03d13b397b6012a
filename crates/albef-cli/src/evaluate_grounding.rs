//! `albef evaluate grounding`: boxes chosen by attention maps; the model was never trained on boxes.

use std::path::PathBuf;

use albef::Pipeline;
use albef::eval::grounding::{self, Cases, GroundingReport};
use anyhow::{Result, bail};
use serde_json::Value;

use crate::ExitStatus;
use crate::corpus::{model_path, open_model_at};
use crate::ground::Mode;
use crate::outcomes::{self, Reporting};
use crate::output::say;
use crate::progress::bar;
use crate::warnings::{tell_first, tell_skipped, tell_truncated};

#[derive(clap::Args)]
pub struct Arguments {
    /// Model folder or weights file, pre-trained or fine-tuned for grounding or retrieval [default:
    /// `models/mini`].
    #[arg(long)]
    model: Option<PathBuf>,
    /// JSON list of `image`, `text`, `box` (what is meant) and `boxes` (to choose from), boxes as
    /// `[left, top, width, height]` in pixels; or, with --refcoco-data, the official lists of `image`,
    /// `text` and `ref_id`. Several lists count as one.
    #[arg(long, required = true, num_args = 1..)]
    annotations: Vec<PathBuf>,
    /// Joined before its image paths.
    #[arg(long, default_value = ".")]
    image_root: PathBuf,
    /// Pixels along the side of an image, a multiple of the patch size, if not those of the model; its
    /// position table is interpolated.
    #[arg(long, value_name = "PIXELS")]
    image_res: Option<usize>,
    /// Folder with `refcoco+/refs(unc).p` and `refcoco+/instances.json`; gives accuracy by split.
    #[arg(long, requires = "det_file")]
    refcoco_data: Option<PathBuf>,
    /// Proposals for RefCOCO+: a JSON object, boxes by image number.
    #[arg(long, requires = "refcoco_data")]
    det_file: Option<PathBuf>,
    /// Which score the map explains.
    #[arg(long, default_value = "itm")]
    mode: Mode,
    /// Layer whose map is used: a fusion layer (the third, if there is one), or for `itc` an image
    /// block (the last).
    #[arg(long)]
    layer: Option<usize>,
    #[command(flatten)]
    reporting: Reporting,
}

pub fn run(a: &Arguments) -> Result<ExitStatus> {
    let cases = match (&a.refcoco_data, &a.det_file) {
        (Some(data), Some(boxes)) => Cases::of_refcoco(&a.annotations, &a.image_root, data, boxes)?,
        (None, None) => Cases::of_lists(&a.annotations, &a.image_root)?,
        _ => bail!("--refcoco-data and --det-file belong together"),
    };
    let path = model_path(a.model.as_deref())?;
    let model = open_model_at(&path, a.image_res, &a.reporting.device.open()?)?;
    let out = measure_cases(&model, &cases, a.mode, a.layer)?;
    tell(&out);
    // The figures first: they are not lost where saving fails.
    let printed = print(&out, &a.reporting);
    let saved = outcomes::save_if(a.reporting.save_outcomes.as_deref(), || out.outcomes(&cases));
    printed.and(saved)?;
    Ok(ExitStatus::Yes)
}

/// Evaluates expressions, and counts those that are truncated.
pub fn measure_cases(
    model: &Pipeline,
    cases: &Cases,
    mode: Mode,
    layer: Option<usize>,
) -> Result<GroundingReport> {
    let out = grounding::measure(model, cases, mode.into(), layer, &bar())?;
    tell_truncated(out.truncated_texts, cases.samples.len(), model.phrase_limits());
    Ok(out)
}

/// Names what could not be measured as it should.
pub fn tell(out: &GroundingReport) {
    tell_skipped(&out.skipped);
    let outside = out.gt_outside_image.iter().cloned();
    tell_first("its `box` is outside the image, counted as wrong", outside);
    if out.proposals_outside > 0 {
        let n = out.proposals_outside;
        eprintln!("{n} proposals are outside their images and are never chosen");
    }
}

fn print(out: &GroundingReport, reporting: &Reporting) -> Result<()> {
    let value = out.to_json(reporting.resamples);
    if reporting.json {
        return say!("{value}");
    }
    let line = |name: &str, v: &Value| -> Result<()> {
        let number = |v: &Value| v.as_f64().unwrap_or(f64::NAN);
        say!(
            "{name}accuracy {:.2} [{:.2}, {:.2}] on {} expressions (layer {}); a random box {:.2}, \
             the box nearest to the center {:.2}",
            number(&v["accuracy"]),
            number(&v["interval"][0]),
            number(&v["interval"][1]),
            v["expressions"],
            out.layer,
            number(&v["random_box"]),
            number(&v["centre_box"])
        )
    };
    match value["splits"].as_object() {
        Some(splits) => splits.iter().try_for_each(|(name, v)| line(&format!("{name}: "), v))?,
        None => line("", &value)?,
    }
    if out.no_box_scored > 0 {
        say!("no box scored, counted as wrong: {}", out.no_box_scored)?;
    }
    Ok(())
}

/// A report, as the callers that measure epochs take it.
pub struct Outcome(GroundingReport);

impl Outcome {
    pub fn tell(&self) {
        tell(&self.0);
    }

    pub fn json(&self, resamples: usize) -> Value {
        self.0.to_json(resamples)
    }

    pub fn outcomes(&self, cases: &Cases) -> albef_report::Outcomes {
        self.0.outcomes(cases)
    }
}

pub fn measure(
    model: &Pipeline,
    cases: &Cases,
    mode: Mode,
    layer: Option<usize>,
) -> Result<Outcome> {
    measure_cases(model, cases, mode, layer).map(Outcome)
}
