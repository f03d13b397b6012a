//! The logs of a run: JSON lines of steps and epochs, TensorBoard events, and curves.

use std::io::Write;
use std::path::{Path, PathBuf};

use albef_report::{EventWriter, JsonLines, Series, curves_svg};
use albef_weights::write_atomic;
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::train::report::{Event, StepReport};
use crate::train::trainer::Trainer;

/// The log of steps.
const STEPS: &str = "log.jsonl";

/// The open files of a run's logs.
pub(super) struct Logs {
    steps: JsonLines,
    epochs: JsonLines,
    events: EventWriter,
    curves: Vec<Series>,
    output: PathBuf,
}

impl Logs {
    /// Opens the logs where the trainer stands; lines of steps that will be made again are removed.
    pub fn open(output: &Path, trainer: &Trainer) -> Result<Self> {
        let place = &trainer.state.place;
        let path = output.join(STEPS);
        let steps = JsonLines::open(&path, "step", place.step).map_err(Error::io(&path))?;
        let epochs = epochs_before(&output.join("log.txt"), place.epoch)?;
        let mut curves: Vec<Series> = trainer
            .losses()
            .iter()
            .map(|name| Series { name: (*name).into(), points: vec![] })
            .collect();
        for line in std::fs::read_to_string(&path).map_err(Error::io(&path))?.lines() {
            let Ok(value) = serde_json::from_str::<Value>(line) else { continue };
            for curve in &mut curves {
                let point = (value["step"].as_f64(), value[&curve.name].as_f64());
                if let (Some(x), Some(y)) = point {
                    curve.points.push((x, y));
                }
            }
        }
        let folder = output.join("tensorboard");
        let events = EventWriter::create(&folder, place.step).map_err(Error::io(&folder))?;
        Ok(Self { steps, epochs, events, curves, output: output.to_owned() })
    }

    /// Writes what happened.
    pub fn take(&mut self, event: &Event<'_>) -> std::io::Result<()> {
        // On some systems the open files of a folder that was removed can still be written.
        if !self.output.join(STEPS).is_file() {
            let detail = "the folder of the run was removed or emptied while it ran";
            return Err(std::io::Error::new(std::io::ErrorKind::NotFound, detail));
        }
        match event {
            Event::Step { report, .. } => {
                self.steps.write(report)?;
                self.scalars(report)
            }
            Event::Epoch { epoch, means } => {
                let mut line = serde_json::to_value(means)?;
                line["epoch"] = json!(epoch);
                self.epochs.write(&line)
            }
            Event::Saved(_) => {
                self.events.flush()?;
                self.draw_curves()
            }
        }
    }

    fn scalars(&mut self, report: &StepReport) -> std::io::Result<()> {
        let step = report.step;
        for curve in &mut self.curves {
            if let Some(loss) = report.losses.get(curve.name.as_str()) {
                curve.points.push((step as f64, *loss));
                self.events.scalar(step, &curve.name, *loss)?;
            }
        }
        for (name, value) in &report.metrics {
            self.events.scalar(step, name, *value)?;
        }
        self.events.scalar(step, "train_lr", report.train_lr)?;
        self.events.scalar(step, "alpha", report.alpha)?;
        report.temp.map_or(Ok(()), |temp| self.events.scalar(step, "temp", temp))
    }

    fn draw_curves(&self) -> std::io::Result<()> {
        let svg = curves_svg(&self.curves);
        write_atomic(&self.output.join("curves.svg"), |f| f.write_all(svg.as_bytes()))
            .map_err(std::io::Error::other)
    }

    /// Flushes everything.
    pub fn finish(&mut self) -> Result<()> {
        let flushed = self.events.flush().and_then(|()| self.draw_curves());
        flushed.map_err(Error::io(&self.output))
    }
}

/// The log of epochs with the lines of those before `epoch`.
fn epochs_before(path: &Path, epoch: u64) -> Result<JsonLines> {
    let last = match epoch.checked_sub(1) {
        Some(last) => last,
        // Not even the line of epoch 0 may stay.
        None => {
            if path.exists() {
                std::fs::remove_file(path).map_err(Error::io(path))?;
            }
            0
        }
    };
    JsonLines::open(path, "epoch", last).map_err(Error::io(path))
}
