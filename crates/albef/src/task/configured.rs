//! A task with its configuration: everything that a training run asks.

use std::fmt::Debug;
use std::path::Path;

use albef_data::dataset::{Dataset, Draw, SourceSpec, TextRule};
use burn::tensor::Device;
use serde_json::Value;

use super::{Evaluator, TaskRef};
use crate::config::section::SectionDoc;
use crate::config::{
    Files, ModelConfig, MomentumConfig, PairsConfig, Source, StartConfig, TrainConfig,
};
use crate::error::{Error, Result};
use crate::objectives::Objective;
use crate::train::start::{self, Start};

/// The lists of a configuration on which a run is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvalKey {
    /// `val_file`: measured after each epoch, to choose the best one.
    Val,
    /// `test_file`: measured once, at the end.
    Test,
}

impl EvalKey {
    /// The key of the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Val => "val_file",
            Self::Test => "test_file",
        }
    }
}

/// A task with its configuration.
pub trait TaskConfig: Send + Sync + Debug {
    /// The task.
    fn task(&self) -> TaskRef;

    /// The keys of every training run.
    fn train(&self) -> &TrainConfig;

    /// The same, to be changed.
    fn train_mut(&mut self) -> &mut TrainConfig;

    /// The whole configuration with all defaults.
    fn record(&self) -> Value;

    /// Keys that have no effect, and former names of keys.
    fn notes(&self) -> &[String];

    /// What a user should know of a run of so many steps before it begins.
    fn warnings(&self, _steps: u64) -> Vec<String> {
        Vec::new()
    }

    /// Checks values against each other.
    ///
    /// # Errors
    /// Names the keys that do not go together.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// What fine-tuning starts from; `None` for pre-training.
    fn start(&self) -> Option<&StartConfig> {
        None
    }

    /// The momentum model; `None` for tasks without one.
    fn momentum(&self) -> Option<&MomentumConfig> {
        None
    }

    /// Whether the momentum model takes part.
    fn uses_momentum(&self) -> bool {
        self.momentum().is_some()
    }

    /// Whether `alpha` rises over the first epoch.
    fn warm_up(&self) -> bool {
        true
    }

    /// Contrast and matching; `None` for tasks without them.
    fn pairs(&self) -> Option<&PairsConfig> {
        None
    }

    /// Whether the queues of a checkpoint are replaced by new ones.
    fn resets_queues(&self) -> bool {
        false
    }

    /// What the weights start from, as paths; none for random weights.
    fn origin(&self) -> Vec<String> {
        self.start().map(|s| s.checkpoint.clone()).into_iter().collect()
    }

    /// The name of the model that a run makes.
    fn model_name(&self) -> String {
        format!("ALBEF for {}", self.task().title())
    }

    /// What is minimized on the training data.
    fn objective(&self, data: &Dataset) -> Box<dyn Objective>;

    /// How texts are cleaned.
    fn text_rule(&self) -> TextRule {
        TextRule::Caption
    }

    /// The training data.
    ///
    /// # Errors
    /// If it cannot be read, or is of another task.
    fn open_data(&self) -> Result<Dataset> {
        image_text_pairs(self.train(), |_| 1.0)
    }

    /// Answers among which the trained model chooses where none are given; empty if it answers no questions.
    ///
    /// # Errors
    /// If a list of them cannot be read.
    fn answers(&self, _data: &Dataset) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// Sizes, word pieces and weights that the run starts from.
    ///
    /// # Errors
    /// If they cannot be read or do not fit.
    fn initialize(&self, data: &Dataset, device: &Device) -> Result<Start>;

    /// The word pieces of a resumed run which has `own` ones, and what there is to report about them.
    ///
    /// # Errors
    /// If those that the configuration names cannot be read.
    fn resumed_vocabulary(&self, _data: &Dataset, own: &str) -> Result<(String, Option<String>)> {
        Ok((own.to_owned(), None))
    }

    /// What the run is measured on; `None` if no list is named.
    ///
    /// # Errors
    /// If a list cannot be read, or is of another task.
    fn evaluator(&self, key: EvalKey) -> Result<Option<Box<dyn Evaluator>>>;

    /// The lists of a key.
    fn eval_files(&self, key: EvalKey) -> Vec<String> {
        match key {
            EvalKey::Val => self.train().data.val_file.paths(),
            EvalKey::Test => self.start().map(|s| &s.test_file).map_or(Vec::new(), Files::paths),
        }
    }

    /// The sizes of the task's model, from those of the checkpoint that it starts from.
    ///
    /// # Errors
    /// If they cannot be found out.
    fn adapted(&self, model: ModelConfig) -> Result<ModelConfig> {
        Ok(model)
    }

    /// Length of the queues.
    fn queue_size(&self) -> usize {
        self.pairs().map_or(0, |p| p.queue_size)
    }
}

/// Lists of images with captions, folders and shards; `weight`: of each in the mixture.
pub(super) fn image_text_pairs(
    config: &TrainConfig,
    weight: impl Fn(usize) -> f64,
) -> Result<Dataset> {
    let own = config.data.train_file.draws();
    let root = &config.data.image_root;
    let root = (!root.is_empty()).then(|| Path::new(root));
    let files = config.data.train_file.paths();
    if files.is_empty() {
        return Err(no_train_file());
    }
    let spec = |(i, path): (usize, &String)| SourceSpec {
        draw: match &own {
            Some(own) => own[i],
            None => Draw { weight: weight(i), ..Draw::default() },
        },
        ..SourceSpec::new(path, root)
    };
    let specs: Vec<SourceSpec> = files.iter().enumerate().map(spec).collect();
    Dataset::open(&specs).map_err(Error::of_key("train_file"))
}

pub(super) fn no_train_file() -> Error {
    Error::Config(
        "`train_file` is empty: name an annotation list, a folder or tar shards, for instance with \
         `--set train_file=[FILE]`"
            .into(),
    )
}

/// What fine-tuning starts from.
pub(super) fn finetuned(config: &dyn TaskConfig, device: &Device) -> Result<Start> {
    start::from_checkpoint(config, device, |_, _| Ok(Vec::new()))
}

/// How the configuration of a task is documented and read.
#[derive(Clone, Copy)]
pub struct Configuration {
    pub(super) sections: fn() -> Vec<SectionDoc>,
    pub(super) defaults: fn() -> Value,
    pub(super) read: fn(Source<'_>) -> Result<Box<dyn TaskConfig>>,
}

impl Configuration {
    /// That of a type which [`task_config!`] declares.
    pub(super) fn of<C: ReadConfig>() -> Self {
        Self {
            sections: C::sections,
            defaults: || C::default().record(),
            read: |source| C::read(source).map(|config| Box::new(config) as Box<dyn TaskConfig>),
        }
    }
}

/// A configuration that is made of sections.
pub(super) trait ReadConfig: TaskConfig + Default + 'static {
    /// Its sections.
    fn sections() -> Vec<SectionDoc>;

    /// Reads the text over the defaults, without checking values.
    fn parse(source: Source<'_>, task: TaskRef) -> Result<Self>;

    /// Checks each value by itself.
    fn check_sections(&self) -> Result<()>;

    /// Reads and checks. In fine-tuning the official name of the batch size is applied, and there must
    /// be a checkpoint to start from.
    fn read(source: Source<'_>) -> Result<Self> {
        let mut config = Self::parse(source, Self::default().task())?;
        if let Some(size) = config.start().and_then(|start| start.batch_size_train) {
            if size == 0 {
                return Err(Error::Config("`batch_size_train` is 0; it must be at least 1".into()));
            }
            config.train_mut().optim.batch_size = size;
        }
        if config.start().is_some_and(|start| start.checkpoint.is_empty()) {
            return Err(Error::Config(
                "`checkpoint` is empty: name a model folder to start from, for instance with \
                 `--set checkpoint=models/mini`"
                    .into(),
            ));
        }
        config.check_sections()?;
        config.check()?;
        Ok(config)
    }
}

/// Declares the configuration of a task from sections: the struct, its documentation and its parser.
macro_rules! task_config {
    (
        $(#[doc = $doc:literal])+
        $(#[derive($derived:ident)])?
        pub struct $name:ident {
            $($section:ident: $type:ty,)+
        }
    ) => {
        $(#[doc = $doc])+
        $(#[derive($derived)])?
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default)]
        pub struct $name {
            $(
                #[serde(flatten)]
                #[doc = concat!("Section `", stringify!($section), "`.")]
                pub $section: $type,
            )+
            #[serde(skip)]
            notes: Vec<String>,
        }

        impl $crate::task::configured::ReadConfig for $name {
            fn sections() -> Vec<$crate::config::section::SectionDoc> {
                let mut all = Vec::new();
                $(all.extend(<$type as $crate::task::Sections>::sections());)+
                all
            }

            fn check_sections(&self) -> $crate::error::Result<()> {
                $($crate::task::Sections::check(&self.$section)?;)+
                Ok(())
            }

            fn parse(
                source: $crate::config::Source<'_>,
                task: $crate::task::TaskRef,
            ) -> $crate::error::Result<Self> {
                let parsed = $crate::config::parse(source, task, &Self::default())?;
                let mut config: Self = parsed.config;
                config.notes = parsed.notes;
                Ok(config)
            }
        }
    };
}
pub(super) use task_config;

/// The items of a [`TaskConfig`] that are alike for all tasks.
macro_rules! accessors {
    ($task:expr) => {
        fn task(&self) -> $crate::task::TaskRef {
            $crate::task::TaskRef::of(&$task)
        }

        fn train(&self) -> &$crate::config::TrainConfig {
            &self.train
        }

        fn train_mut(&mut self) -> &mut $crate::config::TrainConfig {
            &mut self.train
        }

        fn record(&self) -> serde_json::Value {
            serde_json::to_value(self).unwrap_or_default()
        }

        fn notes(&self) -> &[String] {
            &self.notes
        }
    };
    ($task:expr, start) => {
        $crate::task::configured::accessors!($task);

        fn start(&self) -> Option<&$crate::config::StartConfig> {
            Some(&self.start)
        }
    };
    ($task:expr, distilled) => {
        $crate::task::configured::accessors!($task, start);

        fn momentum(&self) -> Option<&$crate::config::MomentumConfig> {
            Some(&self.momentum)
        }

        fn uses_momentum(&self) -> bool {
            self.distill.distill
        }

        fn warm_up(&self) -> bool {
            self.distill.warm_up
        }
    };
}
pub(super) use accessors;
