//! The state of a model as other implementations list it.

use crate::error::Result;
use crate::schema::{Schema, momentum_name};
use crate::tensor::{DType, HostTensor, StateDict};
use crate::tied::original;

const POSITIONS: &str = "embeddings.position_embeddings.weight";
const TYPES: &str = "embeddings.token_type_embeddings.weight";
const NUMBERS: &str = "embeddings.position_ids";
/// Rows of the table of token types in the official model.
const TYPE_ROWS: usize = 2;

/// Whether a key is of the momentum model or its queues, which training alone needs.
#[must_use]
pub fn is_of_momentum(name: &str) -> bool {
    let root = name.split('.').next().unwrap_or_default();
    root.ends_with("_m") || ["image_queue", "text_queue", "idx_queue", "queue_ptr"].contains(&root)
}

/// The tensors of `state` with everything that the official classes list beside the weights themselves:
/// both names of tied and shared tensors, position numbers, and, if `momentum`, momentum copies, which are
/// the weights themselves where the state has none. All of these share the bytes of what they repeat.
/// Gives the number of momentum copies that were added, too.
#[must_use]
pub fn with_official_keys(
    mut state: StateDict,
    schema: &Schema,
    momentum: bool,
) -> (StateDict, usize) {
    let mut added = 0;
    for parameter in schema.parameters() {
        let name = &parameter.name;
        let twin = schema.upper_twin(name);
        if let Some(twin) = &twin {
            share(&mut state, name, twin);
        }
        let Some(copy) = momentum_name(name).filter(|_| momentum && schema.momentum) else {
            continue;
        };
        added += usize::from(state.get(&copy).is_none() && state.get(name).is_some());
        repeat(&mut state, name, &copy);
        if let Some(twin) = twin.as_deref().and_then(momentum_name) {
            share(&mut state, &copy, &twin);
        }
    }
    let names: Vec<String> = state.names().map(str::to_owned).collect();
    for name in names {
        if let Some(part) = name.strip_suffix("cls.predictions.bias") {
            for end in ["weight", "bias"] {
                let alias = format!("{part}cls.predictions.decoder.{end}");
                if let Some(tied) = original(&alias) {
                    repeat(&mut state, &tied, &alias);
                }
            }
        } else if let Some(part) = name.strip_suffix(POSITIONS)
            && let Some(rows) = state.get(&name).and_then(|t| t.shape.first().copied())
            && state.get(&format!("{part}{NUMBERS}")).is_none()
        {
            let numbers: Vec<i64> = (0_i64..).take(rows).collect();
            let tensor = HostTensor::from_i64(&[1, rows], &numbers);
            state.insert(format!("{part}{NUMBERS}"), tensor);
        }
    }
    (state, added)
}

/// Lists the tensor of one name under another that is absent.
fn repeat(state: &mut StateDict, from: &str, to: &str) {
    if state.get(to).is_none()
        && let Some(tensor) = state.get(from).cloned()
    {
        state.insert(to.to_owned(), tensor);
    }
}

/// Lists a tensor that two names share under both.
fn share(state: &mut StateDict, one: &str, other: &str) {
    repeat(state, one, other);
    repeat(state, other, one);
}

/// The state of a model without token types, as LAVIS builds it. Every token is of type 0, and the sum
/// of the embeddings has the row of this type at each position: it is added to the table of positions,
/// which changes outputs by rounding alone. Gives the number of tables that were folded, too.
///
/// # Errors
/// If one of these tables is not of floats.
pub fn without_token_types(state: StateDict) -> Result<(StateDict, usize)> {
    let mut out = StateDict::default();
    let mut folded = 0;
    for (name, tensor) in state.iter().filter(|(name, _)| !name.ends_with(TYPES)) {
        let types = name.strip_suffix(POSITIONS).and_then(|part| {
            let table = state.get(&format!("{part}{TYPES}"))?;
            (table.shape.first() > Some(&0) && table.shape.get(1) == tensor.shape.get(1))
                .then_some(table)
        });
        let tensor = match types {
            None => tensor.clone(),
            Some(types) => {
                folded += 1;
                let (mut values, types) = (tensor.to_f32()?, types.to_f32()?);
                let width = tensor.shape[1].max(1);
                for row in values.chunks_mut(width) {
                    row.iter_mut().zip(&types).for_each(|(value, own)| *value += own);
                }
                HostTensor::from_f32(&tensor.shape, &values)
            }
        };
        out.insert(name.to_owned(), tensor);
    }
    Ok((out, folded))
}

/// The state of a model with token types, of zeros where it has none: as the official classes build it,
/// and without any effect.
#[must_use]
pub fn with_token_types(mut state: StateDict) -> StateDict {
    let tables: Vec<(String, usize, DType)> = state
        .iter()
        .filter_map(|(name, tensor)| {
            let types = format!("{}{TYPES}", name.strip_suffix(POSITIONS)?);
            Some((types, *tensor.shape.get(1)?, tensor.dtype))
        })
        .filter(|(types, ..)| state.get(types).is_none())
        .collect();
    for (types, width, dtype) in tables {
        let bytes = vec![0; TYPE_ROWS * width * dtype.size()].into();
        state.insert(types, HostTensor { dtype, shape: vec![TYPE_ROWS, width], bytes });
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Sizes;

    fn sizes() -> Sizes {
        Sizes {
            vision_width: 4,
            vision_depth: 1,
            vision_mlp: 8,
            patch: 2,
            tokens: 5,
            hidden: 4,
            layers: 3,
            intermediate: 8,
            fusion_layer: 1,
            decoder_layers: 2,
            vocab_size: 6,
            max_positions: 3,
            type_vocab: 2,
            embed_dim: 2,
        }
    }

    fn state(schema: &Schema) -> StateDict {
        let tensor = |(i, p): (usize, &crate::schema::Parameter)| {
            let values: Vec<f32> =
                (0..p.shape.iter().product()).map(|n: usize| (i * 100 + n) as f32).collect();
            (p.name.clone(), HostTensor::from_f32(&p.shape, &values))
        };
        schema.parameters().iter().enumerate().map(tensor).collect()
    }

    #[test]
    fn the_official_classes_find_each_name_that_they_list() {
        let schema = Schema::new(sizes()).vision().text_encoder("text_encoder.bert");
        let schema = schema.lm_head("text_encoder").projections();
        let before = state(&schema);
        let (after, added) = with_official_keys(before.clone(), &schema, true);
        assert_eq!(added, before.len());
        let same = |alias: &str, name: &str| {
            let (alias, tensor) = (after.get(alias).unwrap(), before.get(name).unwrap());
            assert_eq!(alias.bytes.as_ptr(), tensor.bytes.as_ptr(), "{name} is copied");
        };
        let words = "text_encoder.bert.embeddings.word_embeddings.weight";
        same("text_encoder.cls.predictions.decoder.weight", words);
        same("text_encoder.cls.predictions.decoder.bias", "text_encoder.cls.predictions.bias");
        same("text_encoder_m.cls.predictions.decoder.weight", words);
        same("vision_proj_m.bias", "vision_proj.bias");
        let numbers = after.get("text_encoder_m.bert.embeddings.position_ids").unwrap();
        assert_eq!((&numbers.shape[..], numbers.to_i64().unwrap()), (&[1, 3][..], vec![0, 1, 2]));
        let (without, _) = with_official_keys(before, &schema, false);
        assert!(without.names().all(|n| !is_of_momentum(n)));
    }

    #[test]
    fn layers_that_share_a_tensor_list_it_both() {
        let schema = Schema::new(sizes()).paired_text_encoder("text_encoder");
        let name = |layer: usize| {
            format!("text_encoder.encoder.layer.{layer}.crossattention.self.key.weight")
        };
        let lower = state(&schema);
        assert!(lower.get(&name(1)).is_some() && lower.get(&name(2)).is_none());
        let both = with_official_keys(lower.clone(), &schema, false).0;
        assert_eq!(both.get(&name(2)), lower.get(&name(1)));
        let upper: StateDict =
            lower.into_iter().map(|(n, t)| (if n == name(1) { name(2) } else { n }, t)).collect();
        assert_eq!(with_official_keys(upper, &schema, false).0.get(&name(1)), both.get(&name(1)));
    }

    #[test]
    fn token_types_are_folded_into_positions_and_come_back_as_zeros() {
        let part = "text_encoder_m.bert.";
        let of = |name: &str| format!("{part}{name}");
        let mut before = StateDict::default();
        before.insert(of(TYPES), HostTensor::from_f32(&[2, 2], &[10.0, 20.0, -1.0, -2.0]));
        before.insert(of(POSITIONS), HostTensor::from_f32(&[2, 2], &[1.0, 2.0, 3.0, 4.0]));
        let (after, folded) = without_token_types(before).unwrap();
        let positions = after.get(&of(POSITIONS)).unwrap().to_f32().unwrap();
        assert_eq!((folded, after.len(), positions), (1, 1, vec![11.0, 22.0, 13.0, 24.0]));
        let back = with_token_types(after);
        assert_eq!(back.get(&of(TYPES)).unwrap().to_f32().unwrap(), [0.0; 4]);
    }
}
