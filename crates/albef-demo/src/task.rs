//! What the demonstration learns, and in how many steps: as much as this machine can learn in the time.

use std::path::Path;
use std::time::Instant;

use albef::config::{Files, Source};
use albef::task::PretrainConfig;
use albef::train::{Event as TrainerEvent, RunOutcome, Trainer};
use albef::{Control, device};
use albef_data::scenes::{CorpusOptions, build, write_dataset};
use albef_files::folder;
use anyhow::Result;

use crate::options::{Event, Options};

/// The keys of the demonstration's pre-training. Images are trained smaller than they are: more steps in
/// the same minutes are worth more than more pixels. The contrast is within the batch, which learns several
/// times faster in so few steps than one with a momentum model that is behind.
const CONFIG: &str = "
preset: nano
image_res: 48
batch_size: 64
queue_size: 0
momentum_contrast: false
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
optimizer: {lr: 1e-3}
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

/// Of ten steps, those that train contrast alone; then all losses, and in the second half of these with hard negatives.
const ALONE: u64 = 7;
/// How many things can be learned in so many steps such that most searches are right.
const SIZES: [(u64, usize); 4] = [(4000, 160), (1500, 80), (400, 40), (0, 20)];

/// What is learned, and for how long. The same task with the same seed gives the same result everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Task {
    /// Things that are shown.
    pub concepts: usize,
    /// Optimizer steps.
    pub steps: u64,
}

impl Task {
    /// The largest one that `steps` are enough for.
    fn for_steps(steps: u64) -> Self {
        let fits = SIZES.iter().find(|(least, _)| steps >= *least);
        Self { concepts: fits.map_or(20, |(_, concepts)| *concepts), steps }
    }

    /// The corpus of this task.
    pub fn corpus(self, seed: u64) -> CorpusOptions {
        let train_scenes = self.concepts * 10;
        CorpusOptions { seed, concepts: self.concepts, train_scenes, ..CorpusOptions::default() }
    }

    /// The configuration of this task.
    pub fn config(self, seed: u64, data: &Path) -> Result<PretrainConfig> {
        let mut config = config(seed, data)?;
        config.mlm.itc_only_steps = (self.steps * ALONE / 10).max(1);
        config.pairs.hard_negatives_start = (self.steps + config.mlm.itc_only_steps) / 2;
        config.train.optim.max_steps = self.steps;
        Ok(config)
    }
}

/// The task that was asked for, else the one that fits into the minutes by short trials in `trials`; `None` if
/// interrupted.
pub(crate) fn choose(
    a: &Options,
    trials: &Path,
    control: &Control,
    observe: &mut dyn FnMut(&Event<'_>),
) -> Result<Option<Task>> {
    let sized = |steps| {
        let task = Task::for_steps(steps);
        Task { concepts: a.concepts.unwrap_or(task.concepts), ..task }
    };
    if let Some(steps) = a.steps {
        return Ok(Some(sized(steps)));
    }
    observe(&Event::Status(&format!("trying how many steps fit into {} minutes", a.minutes)));
    folder::discard(trials)?;
    let found = pace(a.seed, trials, control, observe);
    // Trials that failed are not kept either.
    folder::discard(trials)?;
    let Some((alone, fused)) = found? else { return Ok(None) };
    let ten = alone * ALONE as f64 + fused * (10 - ALONE) as f64;
    let steps = ((a.minutes * 600.0 / ten) as u64).max(20);
    // In tens, for a command that is easy to repeat.
    Ok(Some(sized(steps / 10 * 10)))
}

/// Seconds of a step with contrast alone and with all losses; `None` if interrupted.
fn pace(
    seed: u64,
    folder: &Path,
    control: &Control,
    observe: &mut dyn FnMut(&Event<'_>),
) -> Result<Option<(f64, f64)>> {
    let (first, all) = (2, 12);
    let data = folder.join("data");
    let task = Task::for_steps(all);
    write_dataset(&build(&task.corpus(seed))?, &data)?;
    let mut tried = 0;
    let mut measure = |itc_only_steps: u64, name: &str| -> Result<Option<f64>> {
        let mut config = config(seed, &data)?;
        config.mlm.itc_only_steps = itc_only_steps;
        let mut trial = Trainer::new(Box::new(config), &folder.join(name), &device::cpu())?;
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
        match run(first)? {
            Some(_) => Ok(run(all)?.map(|seconds| seconds / (all - first) as f64)),
            None => Ok(None),
        }
    };
    let Some(alone) = measure(u64::MAX, "alone")? else { return Ok(None) };
    Ok(measure(0, "fused")?.map(|fused| (alone, fused)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_steps_learn_fewer_things_and_every_task_has_all_stages() {
        for (steps, concepts) in [(20, 20), (399, 20), (400, 40), (1500, 80), (5000, 160)] {
            let task = Task::for_steps(steps);
            assert_eq!(task.concepts, concepts);
            let config = task.config(1, Path::new("data")).unwrap();
            let (alone, hard) = (config.mlm.itc_only_steps, config.pairs.hard_negatives_start);
            assert!(0 < alone && alone < hard && hard < config.train.optim.max_steps);
        }
    }
}
