//! `albef finetune`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use albef::config::FinetuneConfig;
use albef::eval::answers::RankRule;
use albef::eval::vqa_score::ScoreRule;
use albef::train::objective::Objective;
use albef::train::trainer::{Ended, Trainer};
use albef_data::dataset::{Sample, TaskForm, TaskRoots, read_task};
use albef_report::Outcomes;
use albef_weights::{KeepAs, write_atomic};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::Answer;
use crate::ask::Mode;
use crate::corpus::{Pictures, Ready};
use crate::device::Where;
use crate::evaluate::measure;
use crate::evaluate_grounding;
use crate::grounding_cases::Cases;
use crate::outcomes;
use crate::pretrain::{card, train};
use crate::tasks::{TaskModel, answer_list};

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
    if a.output.join("checkpoints").is_dir() && !a.resume {
        bail!(
            "{} already holds a run; continue it with --resume or choose another folder",
            a.output.display()
        );
    }
    let mut validation = Lists::open(&config, objective, &config.base.val_file.paths())?;
    if let Some(Lists::Grounding(cases)) = &mut validation {
        cases.for_choosing()?;
    }
    let test = Lists::open(&config, objective, &config.test_file.paths())?;
    let trainer = Trainer::finetune(&config, objective, &a.output, &device)?;
    let (trainer, ended) = train_validated(trainer, &a.output, a.resume, &config, validation)?;
    if ended == Ended::Interrupted {
        eprintln!("saved; continue with --resume");
        return Ok(Answer::No);
    }
    if let Some(lists) = test {
        // The test list is looked at once, with the weights at the end of the run; those of the
        // best epoch are measured with `albef evaluate`.
        println!("{}", lists.measure(&trainer, &config)?.0);
    }
    Ok(Answer::Yes)
}

/// Trains, measuring after each epoch if there is something to measure on; the best weights so far
/// are kept in `output/best`, what was found with them item by item in `output/outcomes.json`.
pub fn train_validated(
    trainer: Trainer,
    output: &Path,
    resume: bool,
    config: &FinetuneConfig,
    validation: Option<Lists>,
) -> Result<(Trainer, Ended)> {
    let Some(lists) = validation else { return train(trainer, output, resume, None) };
    let best = output.join("best");
    let record = best.join("score.json");
    let mut after = |trainer: &Trainer| -> Result<()> {
        let (mut score, found) = lists.measure(trainer, config)?;
        score["epoch"] = json!(trainer.state.place.epoch);
        eprintln!("validation {score}");
        let score_of = |v: &Value| v["score"].as_f64();
        let before: Option<Value> =
            std::fs::read_to_string(&record).ok().and_then(|text| serde_json::from_str(&text).ok());
        let before = before.as_ref().and_then(score_of);
        // Strictly better, as in the official code.
        if before.is_none_or(|b| score_of(&score).is_some_and(|s| s > b)) {
            trainer.export(&best, &card(trainer, 0.0), KeepAs::Same)?;
            outcomes::save(&output.join(outcomes::IN_A_RUN), &found)?;
            let text = score.to_string();
            write_atomic(&record, |f| std::io::Write::write_all(f, text.as_bytes()))?;
        }
        Ok(())
    };
    train(trainer, output, resume, Some(&mut after))
}

/// Expressions to measure on: with `refcoco_data` and `det_file` those of RefCOCO+, else a list with
/// boxes.
fn cases(config: &FinetuneConfig, files: &[String]) -> Result<Cases> {
    let lists: Vec<PathBuf> = files.iter().map(PathBuf::from).collect();
    let root = Path::new(&config.base.image_root);
    let (data, boxes) = (&config.refcoco_data, &config.det_file);
    match (data.is_empty(), boxes.is_empty()) {
        (true, true) => Cases::of_lists(&lists, root),
        (false, false) => Cases::of_refcoco(&lists, root, Path::new(data), Path::new(boxes)),
        _ => bail!("`refcoco_data` and `det_file` belong together; one of them is empty"),
    }
}

/// Lists to measure on.
pub enum Lists {
    Samples(Vec<Sample>),
    Retrieval(String, Option<PathBuf>),
    Grounding(Cases),
}

impl Lists {
    pub fn open(
        config: &FinetuneConfig,
        objective: Objective,
        files: &[String],
    ) -> Result<Option<Self>> {
        let Some(first) = files.first() else { return Ok(None) };
        let root = &config.base.image_root;
        let roots = TaskRoots {
            image_root: root.into(),
            vqa_root: config.vqa_root.clone().into(),
            vg_root: config.vg_root.clone().into(),
        };
        let form = match objective {
            Objective::Vqa => TaskForm::Vqa,
            Objective::Nlvr => TaskForm::Nlvr,
            Objective::Entailment => TaskForm::Entailment,
            Objective::Retrieval | Objective::Pretrain => {
                let root = (!root.is_empty()).then(|| PathBuf::from(root));
                return Ok(Some(Self::Retrieval(first.clone(), root)));
            }
            Objective::Grounding => return Ok(Some(Self::Grounding(cases(config, files)?))),
            Objective::Assignment => {
                eprintln!("text assignment has no measure by lists; they are not read");
                return Ok(None);
            }
        };
        let mut samples = Vec::new();
        for file in files {
            samples.extend(read_task(Path::new(file), form, &roots)?);
        }
        if samples.is_empty() {
            bail!("{} holds nothing to measure", files.join(", "));
        }
        Ok(Some(Self::Samples(samples)))
    }

    fn measure(&self, trainer: &Trainer, config: &FinetuneConfig) -> Result<(Value, Outcomes)> {
        let device = trainer.state.online.device().clone();
        match self {
            Self::Retrieval(list, root) => {
                let model = trainer.model()?;
                let size = model.config.vision.image_res;
                let ready = Ready::of(model, trainer.state.online.clone(), trainer.vocabulary())?;
                let pictures = Pictures::open(list, root.as_deref(), size, &device)?;
                let k = config.base.k_test;
                let (out, skipped, _) = measure(&ready, &pictures, k, false)?;
                let mut value: BTreeMap<&str, Value> =
                    out.itm.named().into_iter().map(|(k, v)| (k, json!(v))).collect();
                value.insert("score", json!(out.itm.r_mean));
                value.insert("skipped", json!(skipped.len()));
                let found = outcomes::retrieval(pictures.data.samples(), &out, k, false);
                Ok((json!(value), found))
            }
            Self::Grounding(cases) => {
                let model = trainer.model()?;
                let ready = Ready::of(model, trainer.state.online.clone(), trainer.vocabulary())?;
                let out = evaluate_grounding::measure(&ready, cases, Mode::Itm, None)?;
                let mut value = out.json(1000);
                // The official choice of the best epoch looks at the split `val` only.
                value["score"] = value.get("val_d").unwrap_or(&value["accuracy"]).clone();
                Ok((value, out.outcomes(cases)))
            }
            Self::Samples(samples) => {
                let model = TaskModel::of(
                    &trainer.state.online,
                    trainer.model_config().clone(),
                    trainer.vocabulary(),
                    &device,
                )?;
                let out = if trainer.objective() == Objective::Vqa {
                    let answers = answer_list(&config.answer_list)?;
                    let (rule, score) = (RankRule::Official, ScoreRule::Official);
                    model.answer_accuracy(samples, &answers, config.base.k_test, rule, score)?
                } else {
                    model.accuracy(samples, trainer.objective().task())?
                };
                let mut value = out.json(1000);
                value["score"] = json!(out.mean());
                let task = trainer.objective().task();
                let found = outcomes::measured(task, ScoreRule::Official, samples, &out);
                Ok((value, found))
            }
        }
    }
}
