//! The model card that lies beside exported weights.

use crate::config::ModelConfig;
use crate::train::trainer::Trainer;

/// The model card; `seconds` of the last session, once it is over.
pub(super) fn card(trainer: &Trainer, seconds: Option<f64>) -> String {
    let config = trainer.config();
    let (optim, seed) = (&config.train().optim, config.train().data.seed);
    let time = seconds.map_or(String::new(), |s| format!(", {s:.0} s in the last session"));
    format!(
        "---\nlicense: bsd-3-clause\ntags: [albef, image-text-retrieval]\n---\n\n# {}\n\n{}\n\n\
         Trained ({}) for {} steps of {} pairs, seed {seed}{time}. {} The configuration lies beside the \
         run as `config.json`.\n\nFiles: `config.json` (sizes), `model.safetensors` (official weight \
         names), `vocab.txt` (word pieces).\n",
        config.model_name(),
        sizes(trainer.model_config()),
        config.task().name(),
        trainer.state.place.step,
        optim.batch_size * optim.grad_accum_steps,
        origin(&config.origin()),
    )
}

fn sizes(model: &ModelConfig) -> String {
    let (v, t) = (&model.vision, &model.text);
    format!(
        "Image encoder: {} blocks, {} wide, {} px in patches of {}. Text and fusion: {} layers, {} \
         wide, fusion from layer {} on, {} word pieces. Joint space: {} wide.",
        v.depth,
        v.width,
        v.image_res,
        v.patch,
        t.layers,
        t.hidden,
        t.fusion_layer,
        t.vocab_size,
        model.embed_dim
    )
}

/// What the weights started from.
fn origin(from: &[String]) -> String {
    let from: Vec<String> = from.iter().map(|path| format!("`{path}`")).collect();
    match &from[..] {
        [] => "Started from random weights.".into(),
        from => format!("Started from {}.", from.join(" and ")),
    }
}
