//! Fixtures of the encoders and heads.

use burn::tensor::Tensor;
use serde_json::Value;

use super::{Comparison, GoldenSet, Outcome};
use crate::checkpoint::LoadedModel;
use crate::config::ModelConfig;
use crate::error::Result;
use crate::golden::set::{Tensors, parameter};
use crate::model::{
    DropoutRng, Encoders, ImageContext, ImageStates, OutputRows, Sequence, TextTrace, TokenBatch,
    VisionTrace,
};
use crate::objectives::momentum::momentum_encoders;
use crate::ops::{Precision, index};
use crate::params::{Params, from_vec, to_vec};

/// Lengths of the visible prefix of each row of a mask `[rows, width]`.
///
/// Packing knows visible prefixes only; a mask with holes gives `None`.
pub(super) fn prefix_lengths(mask: &[usize], width: usize) -> Option<Vec<usize>> {
    mask.chunks(width.max(1))
        .map(|row| {
            let visible = row.iter().take_while(|m| **m != 0).count();
            row[visible..].iter().all(|m| *m == 0).then_some(visible)
        })
        .collect()
}

/// The encoders that the `prefix` of a fixture names: those of the momentum model, if it begins with
/// `visual_encoder_m.` or `text_encoder_m.`.
fn encoders(config: &ModelConfig, state: &LoadedModel, fixture: &Value) -> Result<Encoders> {
    let prefix = fixture["params"]["prefix"].as_str().unwrap_or_default();
    if prefix.split('.').next().is_some_and(|root| root.ends_with("_m")) {
        return momentum_encoders(&state.momentum, config, Precision::F32);
    }
    Ok(state.albef()?.encoders)
}

/// Token ids; those outside of a model's vocabulary are its to refuse.
pub(super) fn token_ids(t: &Tensors, name: &str, n: usize) -> Result<Vec<u32>> {
    let ids = t.indices(name, n, u32::MAX as usize)?;
    Ok(ids.into_iter().map(|id| id as u32).collect())
}

/// The padded batch of `input_ids` and `attention_mask`, as the official code runs it.
pub(super) fn padded_batch(t: &Tensors, ids: &str, mask: &str) -> Result<Option<TokenBatch>> {
    let [rows, width] = t.axes(ids)?;
    let tokens = token_ids(t, ids, rows * width)?;
    let visible = t.indices(mask, rows * width, 2)?;
    let lengths = prefix_lengths(&visible, width);
    Ok(lengths.map(|l| TokenBatch::padded(&tokens, width, &l)))
}

const HOLES: &str = "a mask with holes, where only visible prefixes are known";

pub(super) fn vit(set: &GoldenSet, fixture: &Value) -> Result<Outcome> {
    let (config, state) = set.model(fixture)?;
    let inputs = set.tensors(fixture, "inputs.safetensors")?;
    let expected = set.tensors(fixture, "expected.safetensors")?;
    let encoder = encoders(&config, &state, fixture)?.visual_encoder;
    let block = fixture["params"]["attention_block"].as_u64().map(|b| b as usize);
    let mut trace = VisionTrace { attention_block: block, ..VisionTrace::default() };
    let image = inputs.on::<4>("image", set.device())?;
    let out = encoder.forward_traced(image, &mut trace)?;
    let mut c = Comparison::new(fixture)?;
    for name in expected.names() {
        let want = expected.floats(&name)?;
        let got = match name.split_once('.') {
            Some(("block", i)) => {
                i.parse::<usize>().ok().and_then(|i| trace.blocks.get(i)).cloned().map(to_vec)
            }
            Some(("attention", _)) => trace.attention.clone().map(to_vec),
            _ if name == "embedding" => trace.embedding.clone().map(to_vec),
            _ if name == "last_hidden" => Some(to_vec(out.tokens.clone())),
            _ => parameter_named(&state.online, &name),
        };
        compare(&mut c, &name, got, &want);
    }
    Ok(c.finish())
}

fn parameter_named(params: &Params, name: &str) -> Option<Vec<f32>> {
    parameter(params, name).or_else(|| parameter(params, &format!("visual_encoder.{name}")))
}

fn compare(c: &mut Comparison, name: &str, got: Option<Vec<f32>>, want: &[f32]) {
    match got {
        Some(got) => c.tensor(name, &got, want),
        None => c.fail(format!("`{name}` is not computed here")),
    }
}

pub(super) fn bert(set: &GoldenSet, fixture: &Value) -> Result<Outcome> {
    let (config, state) = set.model(fixture)?;
    let t = set.tensors(fixture, "inputs.safetensors")?;
    let expected = set.tensors(fixture, "expected.safetensors")?;
    let encoder = encoders(&config, &state, fixture)?.text_encoder;
    let params = &fixture["params"];
    let layer = params["attention_layer"].as_u64().map(|l| l as usize);
    let mut trace = TextTrace { attention_layer: layer, ..TextTrace::default() };
    let mut c = Comparison::new(fixture)?;

    let [batch, width] = t.axes("attention_mask")?;
    let mask = t.indices("attention_mask", batch * width, 2)?;
    let Some(lengths) = prefix_lengths(&mask, width) else {
        c.fail(HOLES.into());
        return Ok(c.finish());
    };
    let mut none = DropoutRng::none();
    let image = image_states(set, &t, batch, config.vision.width)?;
    let image_of: Vec<usize> = (0..batch).collect();
    let context = image.as_ref().map(|image| ImageContext {
        states: &image.states,
        image_of: &image_of,
        visible: image.visible.as_deref(),
    });
    let ids = || -> Result<TokenBatch> {
        Ok(TokenBatch::padded(&token_ids(&t, "input_ids", batch * width)?, width, &lengths))
    };
    let out = match (params["mode"].as_str(), context) {
        (Some("text"), _) => encoder.text(&ids()?, OutputRows::All, &mut none, Some(&mut trace))?,
        (Some("fusion"), Some(context)) => {
            let values = t.floats_of("encoder_embeds", batch * width * config.text.hidden)?;
            let states = from_vec(values, [batch * width, config.text.hidden], set.device());
            let sequences: Vec<Sequence> = TokenBatch::padded(&[], width, &lengths).sequences;
            encoder.fusion(
                states,
                &sequences,
                context,
                OutputRows::All,
                &mut none,
                Some(&mut trace),
            )?
        }
        (Some("multi_modal"), Some(context)) => {
            encoder.multi_modal(&ids()?, context, OutputRows::All, &mut none, Some(&mut trace))?
        }
        (mode, _) => {
            c.fail(format!("mode {mode:?} with these inputs is not known"));
            return Ok(c.finish());
        }
    };
    for name in expected.names() {
        let want = expected.floats(&name)?;
        let got = match name.split_once('.') {
            Some(("hidden", i)) => {
                i.parse::<usize>().ok().and_then(|i| trace.hidden.get(i)).cloned().map(to_vec)
            }
            Some(("attention", _)) => {
                let wide = trace.attention.clone();
                wide.map(|p| widened(p, width))
            }
            Some(("cross_attention", _)) => {
                let image = image.as_ref();
                trace.cross_attention.clone().zip(image).map(|(p, image)| image.in_order(p))
            }
            _ if name == "last_hidden" => Some(to_vec(out.clone())),
            _ => None,
        };
        compare(&mut c, &name, got, &want);
    }
    Ok(c.finish())
}

/// Probabilities with zero columns for the keys that no segment saw.
pub(super) fn widened(p: Tensor<4>, keys: usize) -> Vec<f32> {
    let [.., k] = p.dims();
    to_vec(p)
        .chunks(k)
        .flat_map(|row| {
            let mut row = row.to_vec();
            row.resize(keys, 0.0);
            row
        })
        .collect()
}

/// Image states of a fixture. Attention does not see order, so the visible tokens of a masked
/// image are moved to the front; only the columns of the probabilities notice.
struct GivenImages {
    states: ImageStates,
    /// How many tokens of each image are visible, where some are not.
    visible: Option<Vec<usize>>,
    /// The place that each token had, image by image, where some were moved.
    places: Vec<usize>,
}

impl GivenImages {
    /// Probabilities `[batch, head, query, key]` with their columns where the tokens were.
    fn in_order(&self, p: Tensor<4>) -> Vec<f32> {
        let [_, heads, queries, _] = p.dims();
        let length = self.states.length;
        let moved = widened(p, length);
        if self.places.is_empty() {
            return moved;
        }
        let mut out = vec![0.0; moved.len()];
        for (row, values) in moved.chunks(length.max(1)).enumerate() {
            let image = row / (heads * queries);
            for (at, value) in values.iter().enumerate() {
                out[row * length + self.places[image * length + at]] = *value;
            }
        }
        out
    }
}

fn image_states(
    set: &GoldenSet,
    t: &Tensors,
    batch: usize,
    width: usize,
) -> Result<Option<GivenImages>> {
    if !t.has("image_embeds") {
        return Ok(None);
    }
    let [_, length, _] = t.axes("image_embeds")?;
    let values = t.floats_of("image_embeds", batch * length * width)?;
    let tokens = from_vec(values, [batch * length, width], set.device());
    let states = ImageStates { tokens, batch, length };
    let whole = GivenImages { states, visible: None, places: Vec::new() };
    if !t.has("image_mask") {
        return Ok(Some(whole));
    }
    let mask = t.indices("image_mask", batch * length, 2)?;
    if mask.iter().all(|m| *m != 0) {
        return Ok(Some(whole));
    }
    let mut order = Vec::with_capacity(batch * length);
    let mut visible = Vec::with_capacity(batch);
    for b in 0..batch {
        let row = b * length..(b + 1) * length;
        let shown: Vec<usize> = row.clone().filter(|i| mask[*i] != 0).collect();
        visible.push(shown.len());
        order.extend(shown);
        order.extend(row.filter(|i| mask[*i] == 0));
    }
    let tokens = whole.states.tokens.select(0, index(&order, set.device()));
    let states = ImageStates { tokens, batch, length };
    let places = order.into_iter().map(|i| i % length).collect();
    Ok(Some(GivenImages { states, visible: Some(visible), places }))
}

pub(super) fn projections(set: &GoldenSet, fixture: &Value) -> Result<Outcome> {
    let (_, state) = set.model(fixture)?;
    let model = state.albef()?;
    let t = set.tensors(fixture, "inputs.safetensors")?;
    let expected = set.tensors(fixture, "expected.safetensors")?;
    let mut c = Comparison::new(fixture)?;
    let (Some(tokens), Some(masked)) = (
        padded_batch(&t, "input_ids", "attention_mask")?,
        padded_batch(&t, "masked_input_ids", "attention_mask")?,
    ) else {
        c.fail(HOLES.into());
        return Ok(c.finish());
    };
    let none = DropoutRng::none;
    let e = &model.encoders;
    let image = e.visual_encoder.forward(t.on::<4>("image", set.device())?)?;
    let image_feat = e.image_feat(&image);
    let text_feat = e.embed_text(&tokens, &mut none())?;
    let sim = image_feat.clone().matmul(text_feat.clone().transpose());
    let over_temp = sim.clone() / model.temp.clone().unsqueeze();

    let states = e.text_encoder.text(&tokens, OutputRows::All, &mut none(), None)?;
    let pairs_given = t.count("pair_image")?;
    let pair_image = t.indices("pair_image", pairs_given, image.batch)?;
    let pair_text = t.indices("pair_text", pairs_given, tokens.len())?;
    let mut rows = Vec::new();
    let mut pairs = TokenBatch::default();
    for text in &pair_text {
        let s = tokens.sequences[*text];
        pairs.sequences.push(Sequence { start: rows.len(), ..s });
        rows.extend(s.range());
    }
    let states = states.select(0, index(&rows, set.device()));
    let context = ImageContext { states: &image, image_of: &pair_image, visible: None };
    let itm = model.match_texts(states, &pairs, context)?;

    let own: Vec<usize> = (0..masked.len()).collect();
    let context = ImageContext { states: &image, image_of: &own, visible: None };
    let fused = e.text_encoder.multi_modal(&masked, context, OutputRows::All, &mut none(), None)?;
    let [_, width] = t.axes("masked_input_ids")?;
    let places = t.count("mlm_row")?;
    let rows: Vec<usize> = t
        .indices("mlm_row", places, masked.len())?
        .iter()
        .zip(t.indices("mlm_position", places, width)?)
        .map(|(row, at)| masked.sequences[*row].start + at)
        .collect();
    let fused = fused.select(0, index(&rows, set.device()));
    let mlm = e.mlm_head.as_ref().map(|h| to_vec(h.forward(fused)));

    for (name, got) in [
        ("image_feat", Some(to_vec(image_feat))),
        ("text_feat", Some(to_vec(text_feat))),
        ("sim", Some(to_vec(sim))),
        ("sim_over_temp", Some(to_vec(over_temp))),
        ("itm_logits", Some(to_vec(itm))),
        ("mlm_logits", mlm),
    ] {
        compare(&mut c, name, got, &expected.floats(name)?);
    }
    Ok(c.finish())
}
