//! `albef finetune`.

mod best;
mod lists;

use std::path::{Path, PathBuf};

use albef::config::FinetuneConfig;
use albef::train::lock::FolderLock;
use albef::train::objective::Objective;
use albef::train::trainer::{RunOutcome, Trainer};
use albef_weights::write_atomic;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use self::best::Best;
pub use self::lists::{CHOOSING, Lists};
use self::lists::{TESTING, Weights};
use crate::Answer;
use crate::device::Where;
use crate::output::say;
use crate::pretrain::{restore, run_training, train};

/// A task to fine-tune for.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Task {
    /// Image-text retrieval.
    Retrieval,
    /// Question answering.
    Vqa,
    /// Statements about two images.
    Nlvr,
    /// Text assignment, the preparation for `nlvr`.
    NlvrTa,
    /// Visual entailment.
    Ve,
    /// Weakly supervised grounding.
    Grounding,
}

impl Task {
    /// What the trainer calls it.
    pub fn objective(self) -> Objective {
        match self {
            Self::Retrieval => Objective::Retrieval,
            Self::Vqa => Objective::Vqa,
            Self::Nlvr => Objective::Nlvr,
            Self::NlvrTa => Objective::Assignment,
            Self::Ve => Objective::Entailment,
            Self::Grounding => Objective::Grounding,
        }
    }
}

#[derive(clap::Args)]
pub struct Arguments {
    /// What for.
    task: Task,
    /// Configuration (YAML) with the official keys, and `checkpoint`: the model to start from.
    config: PathBuf,
    /// Folder of the run.
    #[arg(long)]
    output: PathBuf,
    /// Continue from the newest checkpoint of the folder.
    #[arg(long)]
    resume: bool,
    /// Change a value of the configuration; nested keys with a dot.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    device: Where,
}

pub fn run(a: &Arguments) -> Result<Answer> {
    let text = std::fs::read_to_string(&a.config)
        .with_context(|| format!("cannot read the configuration {}", a.config.display()))?;
    let objective = a.task.objective();
    let config = FinetuneConfig::parse(&text, &a.set, objective)
        .with_context(|| format!("in {}", a.config.display()))?;
    let device = a.device.open()?;
    let _held = FolderLock::take(&a.output)?;
    if a.output.join("checkpoints").is_dir() && !a.resume {
        bail!(
            "{} already holds a run; continue it with --resume or choose another folder",
            a.output.display()
        );
    }
    if !config.unread.is_empty() {
        let keys: Vec<String> = config.unread.iter().map(|key| format!("`{key}`")).collect();
        eprintln!("note: this task does not read {}", keys.join(", "));
    }
    let validation = Lists::open(&config, objective, CHOOSING, &config.base.val_file.paths())?;
    let test = Lists::open(&config, objective, TESTING, &config.test_file.paths())?;
    let chosen = validation.is_some();
    let trainer = match a.resume {
        true => Trainer::finetune_resuming(&config, objective, &a.output, &device)?,
        false => Trainer::finetune(&config, objective, &a.output, &device)?,
    };
    for line in trainer.load_report() {
        eprintln!("note: {line}");
    }
    let (trainer, ended) = train_validated(trainer, &a.output, a.resume, &config, validation)?;
    if ended == RunOutcome::Interrupted {
        eprintln!("saved; continue with --resume");
        return Ok(Answer::No);
    }
    if let Some(lists) = test {
        say!("{}", tested(&lists, &trainer, &config, &a.output, chosen)?)?;
    }
    Ok(Answer::Yes)
}

/// Looks at the test list once, with the weights that were `chosen` by validation, else with the last
/// ones. Questions without known answers are answered in a file for the evaluation server.
fn tested(
    lists: &Lists,
    trainer: &Trainer,
    config: &FinetuneConfig,
    output: &Path,
    chosen: bool,
) -> Result<Value> {
    let best = output.join(best::FOLDER);
    let weights = Weights { trainer, folder: chosen.then_some(best.as_path()) };
    let epoch =
        if chosen { best::score(output)?["epoch"].clone() } else { json!(trainer.last_epoch()) };
    let found = lists.measure(&weights, config)?;
    let mut value = found.value;
    if lists.is_for_server() {
        let path = output.join("result").join(format!("vqa_result_epoch{epoch}.json"));
        write_answers(&path, found.answers)?;
        value["results"] = json!(path);
    }
    value["weights"] = json!(if chosen { "best" } else { "last" });
    value["epoch"] = epoch;
    Ok(value)
}

fn write_answers(path: &Path, answers: Vec<Value>) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    eprintln!("answers to {} questions: {}", answers.len(), path.display());
    let text = Value::Array(answers).to_string();
    write_atomic(path, |f| std::io::Write::write_all(f, text.as_bytes()))?;
    Ok(())
}

/// Trains, measuring after each epoch if there is something to measure on; the best weights so far
/// are kept in `output/best`, what was found with them item by item in `output/outcomes.json`, and
/// the figures of every epoch in `output/validation.jsonl`.
pub fn train_validated(
    mut trainer: Trainer,
    output: &Path,
    resume: bool,
    config: &FinetuneConfig,
    validation: Option<Lists>,
) -> Result<(Trainer, RunOutcome)> {
    let Some(lists) = validation else { return train(trainer, output, resume, None) };
    if resume {
        restore(&mut trainer, output)?;
    }
    let mut best = Best::open(output, &trainer)?;
    let mut after = |trainer: &Trainer| -> Result<()> {
        if best.has_measured(trainer) {
            return Ok(());
        }
        let found = lists.measure(&Weights { trainer, folder: None }, config)?;
        let mut score = found.value;
        score["epoch"] = json!(trainer.last_epoch());
        score["step"] = json!(trainer.state.place.step);
        eprintln!("validation {score}");
        best.take(trainer, &score, &found.outcomes)
    };
    run_training(trainer, output, Some(&mut after))
}
