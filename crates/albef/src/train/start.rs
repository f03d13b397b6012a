//! What a run starts from: its data and its first weights.

use std::path::Path;

use albef_data::dataset::{Dataset, SourceSpec, TaskForm, TaskRoots, read_task};
use burn::tensor::Device;

use super::checkpoint::{Place, TrainState};
use super::objective::Objective;
use super::optimizer::Optimizer;
use crate::config::{FinetuneConfig, ModelConfig, PretrainConfig};
use crate::error::{Error, Result};
use crate::init::{fresh_params, fresh_queues};
use crate::params::Params;
use crate::weights::{ModelState, copy_for_momentum};

/// The training list of a task.
pub(super) fn task_data(config: &FinetuneConfig, objective: Objective) -> Result<Dataset> {
    let files = config.base.train_file.paths();
    if files.is_empty() {
        return Err(Error::Config(
            "`train_file` is empty: name the task's list, for instance with \
             `--set train_file=[FILE]`"
                .into(),
        ));
    }
    let roots = TaskRoots {
        image_root: config.base.image_root.clone().into(),
        vqa_root: config.vqa_root.clone().into(),
        vg_root: config.vg_root.clone().into(),
    };
    let form = match objective {
        Objective::Vqa => TaskForm::Vqa,
        Objective::Nlvr => TaskForm::Nlvr,
        Objective::Entailment => TaskForm::Entailment,
        Objective::Grounding => TaskForm::Grounding,
        Objective::Pretrain | Objective::Retrieval | Objective::Assignment => {
            let root = (!config.base.image_root.is_empty()).then_some(roots.image_root);
            let spec = |p: &String| SourceSpec::new(p, root.as_deref());
            return Ok(Dataset::open(&files.iter().map(spec).collect::<Vec<_>>())?);
        }
    };
    let mut samples = Vec::new();
    for file in &files {
        samples.extend(read_task(Path::new(file), form, &roots)?);
    }
    Ok(Dataset::from_samples(samples))
}

/// Fresh weights, or those of the models that the configuration names.
pub(super) fn starting_state(
    config: &PretrainConfig,
    model: &ModelConfig,
    device: &Device,
) -> Result<TrainState> {
    let mut online = fresh_params(model, config.temp, config.seed, device)?;
    if !config.init_text.is_empty() {
        let path = Path::new(&config.init_text);
        let state = albef_weights::from_bert(albef_weights::read(path)?.tensors);
        take_over(&mut online, &state, path, "text_encoder.")?;
    }
    if !config.init_vision.is_empty() {
        let path = Path::new(&config.init_vision);
        let mut state = albef_weights::from_deit(albef_weights::read(path)?.tensors);
        albef_weights::resize_tables(&mut state, model.vision.grid())?;
        take_over(&mut online, &state, path, "visual_encoder.")?;
    }
    let mut momentum = None;
    if !config.init_albef.is_empty() {
        let given = Path::new(&config.init_albef);
        let folder = given.is_dir().then(|| given.join("model.safetensors"));
        let state = albef_weights::read(folder.as_deref().unwrap_or(given))?.tensors;
        let loaded = ModelState::from_state_dict(&state, model, device)?;
        online = loaded.online;
        momentum = loaded.momentum;
    }
    let momentum = momentum.map_or_else(|| copy_for_momentum(&online), Ok)?;
    let o = &config.optimizer;
    let optimizer = Optimizer::new(&online, o.weight_decay, o.opt_betas, o.opt_eps).scaled(
        &online,
        "text_encoder",
        config.text_lr_scale,
    );
    let queues = fresh_queues(config.queue_size, model.embed_dim, config.seed, device);
    Ok(TrainState { online, momentum, queues, optimizer, place: Place::default() })
}

/// Puts the weights of another model in the place of fresh ones. A start from which little could be
/// taken is an error, not a silent random start.
fn take_over(
    online: &mut Params,
    state: &albef_weights::StateDict,
    path: &Path,
    part: &str,
) -> Result<()> {
    let fail = |detail: String| Error::Format { path: path.to_owned(), detail };
    let mut taken = 0;
    for (name, host) in state.iter() {
        let Some(own) = online.get(name) else {
            return Err(fail(format!("`{name}` has no place in this model")));
        };
        let shape = own.shape.clone();
        if host.shape != shape {
            let detail = format!("`{name}` is {:?}, this model has {shape:?}", host.shape);
            return Err(fail(detail));
        }
        online.insert(name, &shape, host.to_f32()?)?;
        taken += 1;
    }
    let all = online.entries().iter().filter(|p| p.name.starts_with(part)).count();
    if taken * 3 < all {
        return Err(fail(format!("only {taken} of {all} weights below `{part}` are in this file")));
    }
    Ok(())
}
