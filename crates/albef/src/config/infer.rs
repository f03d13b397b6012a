//! Sizes of a model read off the shapes of its weights, for checkpoint files that come alone.

use albef_data::text::TextProcessing;
use albef_weights::StateDict;

use super::model::ModelConfig;
use crate::error::{Error, Result};
use crate::task::TaskRef;

/// Width of an attention head in every published ViT and BERT. Shapes do not tell it.
const HEAD: usize = 64;

impl ModelConfig {
    /// The sizes that the shapes of a checkpoint tell. What they do not tell is taken to be as in the
    /// paper: heads 64 wide, the epsilons of layer norms, dropout. `source` names the file in errors.
    ///
    /// # Errors
    /// If a table that tells a size is missing or of an odd shape.
    pub fn infer(state: &StateDict, source: &str) -> Result<Self> {
        let shape = |name: &str| -> Result<Vec<usize>> {
            let with_level = name.replacen("text_encoder.", "text_encoder.bert.", 1);
            state.get(name).or_else(|| state.get(&with_level)).map(|t| t.shape.clone()).ok_or_else(
                || {
                    let first: Vec<String> =
                        state.names().take(3).map(|name| format!("`{name}`")).collect();
                    Error::Config(format!(
                        "{source} has no `{name}`, which tells sizes of the model, but {} tensors such as \
                         {}; is it an ALBEF checkpoint? If so, put a `config.json` beside it",
                        state.names().count(),
                        first.join(", ")
                    ))
                },
            )
        };
        let odd = |name: &str, found: &[usize]| {
            Error::Config(format!(
                "{source}: `{name}` has the shape {found:?}, which tells no sizes; put a `config.json` \
                 beside it"
            ))
        };
        let patches = shape("visual_encoder.patch_embed.proj.weight")?;
        let [width, _, patch, _] = patches[..] else {
            return Err(odd("visual_encoder.patch_embed.proj.weight", &patches));
        };
        let table = shape("visual_encoder.pos_embed")?;
        let tokens = table.get(1).copied().unwrap_or(0);
        let grid = tokens.saturating_sub(1).isqrt();
        if grid == 0 || grid * grid + 1 != tokens {
            return Err(odd("visual_encoder.pos_embed", &table));
        }
        let first = |name: &str| Ok::<_, Error>(shape(name)?.first().copied().unwrap_or(0));
        let words = shape("text_encoder.embeddings.word_embeddings.weight")?;
        let [vocab_size, hidden] = words[..] else {
            return Err(odd("text_encoder.embeddings.word_embeddings.weight", &words));
        };
        for (name, width) in [("image encoder", width), ("text encoder", hidden)] {
            if width == 0 || !width.is_multiple_of(HEAD) {
                return Err(Error::Config(format!(
                    "{source}: the {name} is {width} wide, so its heads cannot be {HEAD} wide; put a \
                     `config.json` beside it"
                )));
            }
        }
        let (fusion_layer, layers) = text_layers(state, source)?;
        let mut config = Self::base();
        config.vision.width = width;
        config.vision.heads = width / HEAD;
        config.vision.depth = count(state, "visual_encoder.blocks.");
        config.vision.mlp_width = first("visual_encoder.blocks.0.mlp.fc1.weight")?;
        config.vision.patch = patch;
        config.vision.image_res = grid * patch;
        config.text.hidden = hidden;
        config.text.heads = hidden / HEAD;
        config.text.layers = layers;
        config.text.fusion_layer = fusion_layer;
        config.text.intermediate = first("text_encoder.encoder.layer.0.intermediate.dense.weight")?;
        config.text.vocab_size = vocab_size;
        config.text.max_positions = first("text_encoder.embeddings.position_embeddings.weight")?;
        match first("text_encoder.embeddings.token_type_embeddings.weight") {
            Ok(rows) => config.text.type_vocab = rows,
            // Of the programs that train this model LAVIS alone has none.
            Err(_) => {
                config.text.type_vocab = 0;
                config.text.processing = TextProcessing::Lavis;
            }
        }
        if let Some(projection) = state.get("vision_proj.weight") {
            config.embed_dim = projection.shape.first().copied().unwrap_or(0);
        }
        config.check()?;
        Ok(config)
    }
}

/// One more than the largest number that follows a prefix.
fn count(state: &StateDict, prefix: &str) -> usize {
    numbers(state, prefix, "").max().map_or(0, |n| n + 1)
}

/// The numbers that follow a prefix in names that hold `part`.
fn numbers<'a>(
    state: &'a StateDict,
    prefix: &'a str,
    part: &'a str,
) -> impl Iterator<Item = usize> + 'a {
    state
        .names()
        .filter(move |n| n.contains(part))
        .filter_map(move |name| name.strip_prefix(prefix)?.split('.').next()?.parse().ok())
}

/// The first fusion layer and the number of layers of the pre-trained model. In the two-image
/// encoder every fusion layer stands twice.
fn text_layers(state: &StateDict, source: &str) -> Result<(usize, usize)> {
    let bert = state.names().any(|n| n.starts_with("text_encoder.bert."));
    let prefix =
        if bert { "text_encoder.bert.encoder.layer." } else { "text_encoder.encoder.layer." };
    let all = count(state, prefix);
    let Some(fusion) = numbers(state, prefix, ".crossattention.").min() else {
        return Err(Error::Config(format!(
            "{source} has no layer with cross-attention under `{prefix}`: it is a text encoder, not \
             an ALBEF checkpoint"
        )));
    };
    let doubled = TaskRef::of_checkpoint(state, None).has_paired_layers();
    Ok((fusion, if doubled { (all + fusion) / 2 } else { all }))
}

#[cfg(test)]
mod tests {
    use albef_weights::HostTensor;

    use super::*;
    use crate::task::TASKS;

    fn state(task: TaskRef, config: &ModelConfig) -> StateDict {
        let zeros = |shape: &[usize]| {
            HostTensor::from_f32(shape, &vec![0.0; shape.iter().product::<usize>()])
        };
        let schema = task.schema(config);
        schema.parameters().iter().map(|p| (p.name.clone(), zeros(&p.shape))).collect()
    }

    #[test]
    fn sizes_come_back_from_the_shapes_of_every_task() {
        let mut config = ModelConfig::nano();
        (config.vision.heads, config.text.heads) = (2, 2);
        (config.vision.layer_norm_eps, config.text.dropout) = (1e-6, 0.1);
        config.text.vocab_size = 50;
        config.text.max_positions = 16;
        for task in TASKS {
            let mut want = config.clone();
            let state = state(task, &config);
            if state.get("vision_proj.weight").is_none() {
                want.embed_dim = ModelConfig::base().embed_dim;
            }
            assert_eq!(ModelConfig::infer(&state, "`x.pth`").unwrap(), want, "{task:?}");
        }
    }

    #[test]
    fn a_model_without_token_types_is_one_of_lavis() {
        let mut config = ModelConfig::nano();
        (config.vision.heads, config.text.heads) = (2, 2);
        config.text.type_vocab = 0;
        config.text.processing = TextProcessing::Lavis;
        let state = state(TaskRef::pretrain(), &config);
        assert!(state.names().all(|n| !n.contains("token_type")));
        let found = ModelConfig::infer(&state, "`x.pth`").unwrap();
        assert_eq!((found.text.type_vocab, found.text.processing), (0, TextProcessing::Lavis));
        assert!(found.check().is_ok());
    }

    #[test]
    fn what_tells_no_sizes_is_refused_by_name() {
        let error = ModelConfig::infer(&StateDict::default(), "`x.pth`").unwrap_err().to_string();
        assert!(error.contains("x.pth") && error.contains("patch_embed"), "{error}");
    }
}
