//! Where the weights of a model are in a checkpoint that has its names, and what becomes of every
//! other key.

use std::collections::{BTreeMap, HashSet};

use crate::error::{Result, WeightsError};
use crate::key_report::{Findings, compare};
use crate::schema::{Schema, momentum_name};
use crate::tensor::{DType, StateDict};
use crate::tied::untied;
use crate::words::some;

/// One weight of a model and the key of the checkpoint that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Its name in the model.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// The key of the checkpoint that holds it; `None` if it is newly initialized.
    pub key: Option<String>,
}

/// What became of the keys of a checkpoint that fits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyReport {
    /// What of the file is not as in a plain one, and what of it is not read.
    pub notes: Vec<String>,
    /// Keys whose values are used.
    pub used: usize,
    /// Keys of another task or implementation that were used under other names.
    pub renamed: usize,
    /// Patches along the side of an image, in the file and in the model, where position tables were
    /// resized.
    pub resized: Option<(usize, usize)>,
    /// Keys that the task ignores: each family with its number of keys.
    pub ignored: BTreeMap<&'static str, usize>,
    /// Weights that the checkpoint lacks and that are newly initialized.
    pub fresh: Vec<String>,
    /// Cross-attention keys and values that differ between the two layers of a pair, by the name of
    /// the lower layer. The upper layer's are used, as in the official code.
    pub unequal_twins: Vec<String>,
    /// Matrices of vocabulary heads that are not the word table, as they are in ALBEF: the head keeps its own.
    pub untied: Vec<String>,
}

impl KeyReport {
    /// The report in words, one line for each kind of fact; none if there is nothing to report.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = self.notes.clone();
        if !self.ignored.is_empty() {
            let families = self.ignored.iter().map(|(family, n)| format!("{n} of {family}"));
            lines.push(format!("ignored keys: {}", families.collect::<Vec<_>>().join(", ")));
        }
        if !self.fresh.is_empty() {
            let n = self.fresh.len();
            lines.push(format!("newly initialized weights: {n} ({})", some(&self.fresh)));
        }
        if !self.unequal_twins.is_empty() {
            let n = self.unequal_twins.len();
            lines.push(format!(
                "shared keys and values that differ between the layers of a pair: {n} ({}); those of \
                 the upper layer are used",
                some(&self.unequal_twins)
            ));
        }
        if !self.untied.is_empty() {
            lines.push(format!(
                "a vocabulary head with a matrix of its own, which is not the word table as in ALBEF: {}",
                some(&self.untied)
            ));
        }
        if let Some((from, to)) = self.resized {
            lines.push(format!(
                "position tables interpolated from {from} x {from} to {to} x {to} patches"
            ));
        }
        lines
    }
}

/// Where a model finds its weights.
#[derive(Clone, Debug, Default)]
pub struct LoadPlan {
    /// The trained weights, in module order.
    pub weights: Vec<Placement>,
    /// The momentum copies that the checkpoint has.
    pub momentum: Vec<Placement>,
    /// What became of every key.
    pub report: KeyReport,
}

/// A buffer that counts from 0, not a weight.
const POSITION_NUMBERS: &str = "embeddings.position_ids";

/// The family that retrieval uses, by another reader than this one.
const QUEUES: &str = "queues";

/// The family of a key that is known and not used. A part that the model has itself is none.
fn family(name: &str, own: &HashSet<&str>) -> Option<&'static str> {
    let (root, rest) = name.split_once('.').unwrap_or((name, ""));
    if let Some(root) = root.strip_suffix("_m") {
        let original = format!("{root}.{rest}");
        let known = own.contains(original.as_str()) || family(&original, own).is_some();
        return known.then_some("momentum copies");
    }
    if name.ends_with(POSITION_NUMBERS) {
        return Some("position numbers");
    }
    if ["image_queue", "text_queue", "idx_queue", "queue_ptr"].contains(&name) {
        return Some(QUEUES);
    }
    let part = if rest.starts_with("cls.") { format!("{root}.cls.") } else { format!("{root}.") };
    let tied = ["cls.predictions.decoder.weight", "cls.predictions.decoder.bias"];
    if own.iter().any(|n| n.starts_with(&part)) {
        return tied.contains(&rest).then_some("tied copies");
    }
    match part.as_str() {
        "text_encoder.cls." => Some("the vocabulary head"),
        "vision_proj." | "text_proj." | "itm_head." | "cls_head." | "ta_head." => {
            Some("heads of other tasks")
        }
        "temp." if rest.is_empty() && !own.contains("temp") => Some("heads of other tasks"),
        _ => None,
    }
}

fn is_bias(name: &str) -> bool {
    name.ends_with(".bias")
}

/// The layers of a part by the beginning of their names (`visual_encoder.blocks.`), and the number of one.
fn layer(name: &str) -> Option<(&str, usize)> {
    ["encoder.layer.", "blocks."].iter().find_map(|layers| {
        let end = name.find(layers)? + layers.len();
        let number = name[end..].split('.').next()?.parse().ok()?;
        Some((&name[..end], number))
    })
}

/// Whether one of `names` is of a layer of which `others`, which have layers of this part, have nothing.
fn has_a_layer_beyond<'a>(names: &[String], others: impl Iterator<Item = &'a str>) -> bool {
    let others: HashSet<(&str, usize)> = others.filter_map(layer).collect();
    let parts: HashSet<&str> = others.iter().map(|(part, _)| *part).collect();
    names.iter().filter_map(|n| layer(n)).any(|own| parts.contains(own.0) && !others.contains(&own))
}

/// What to do about a checkpoint that does not fit.
fn hint(found: &Findings, state: &StateDict, expected: &[(String, Vec<usize>)]) -> &'static str {
    let wanted = || expected.iter().map(|(name, _)| name.as_str());
    if found.mistyped > 0 {
        ". hint: save the weights as float32, float16 or bfloat16"
    } else if found.mismatched > 0 {
        ". hint: the sizes in `config.json` must be those of the weights: take both from one model"
    } else if has_a_layer_beyond(&found.unexpected, wanted()) {
        ". hint: if the model has more layers than `config.json` has, correct that; else remove these \
         keys from the file"
    } else if has_a_layer_beyond(&found.missing, state.names()) {
        ". hint: this is not a whole model for the task: use another checkpoint, or correct the number \
         of layers in `config.json`"
    } else if found.missing.is_empty() {
        ". hint: if the model does without these keys, remove them from the file"
    } else {
        ". hint: this is not a whole model for the task: use another checkpoint"
    }
}

/// Finds the keys of one weight: its own, and its upper twin where layers share it.
struct Finder<'a> {
    state: &'a StateDict,
    /// What the checkpoint has to have.
    expected: Vec<(String, Vec<usize>)>,
    unequal: Vec<String>,
}

impl Finder<'_> {
    fn find(&mut self, name: String, shape: Vec<usize>, twin: Option<String>) -> Placement {
        let (own, upper) = (self.state.get(&name), twin.as_ref().and_then(|t| self.state.get(t)));
        let key = match (own, twin) {
            (Some(lower), Some(twin)) if upper.is_some() => {
                self.expected.push((name.clone(), shape.clone()));
                if upper != Some(lower) {
                    self.unequal.push(name.clone());
                }
                twin
            }
            (None, Some(twin)) if upper.is_some() => twin,
            _ => name.clone(),
        };
        self.expected.push((key.clone(), shape.clone()));
        Placement { name, shape, key: Some(key) }
    }
}

/// Finds the weights of a model in a state dictionary that has its names, position tables already at
/// the model's resolution, and accounts for every key. `source` names the file in messages. Momentum
/// copies may be absent, part by part; of two layers that share a tensor, one may be listed. A vocabulary
/// head whose matrix is not the word table keeps it, as a weight beyond those of the schema.
///
/// # Errors
/// If a weight or momentum copy is missing or of another shape, or a key is neither of the model nor
/// of a family that is known to be ignored (heads of other tasks, momentum copies, queues, tied copies
/// and position numbers). The first such keys are named, with found and expected shape.
pub fn plan(source: &str, state: &StateDict, schema: &Schema) -> Result<LoadPlan> {
    let has_part = |part: &str| state.names().any(|n| n.starts_with(part));
    let fresh_head = schema.own_head.filter(|head| !has_part(head));
    let absent = schema.optional.filter(|part| !has_part(part));
    let averaged: HashSet<&str> = state
        .names()
        // A buffer that some programs leave alone of the momentum model.
        .filter(|n| !n.ends_with(POSITION_NUMBERS))
        .filter_map(|n| n.split_once('.').map(|(root, _)| root))
        .filter(|root| root.ends_with("_m"))
        .collect();
    let has_copies = |copy: &str| {
        let whole_part = copy.split_once('.').is_some_and(|(root, _)| averaged.contains(root));
        // A momentum copy may lack an optional part.
        let optional = schema.optional.and_then(momentum_name);
        whole_part && !optional.is_some_and(|part| copy.starts_with(&part) && !has_part(&part))
    };
    let parameters = schema.parameters();
    let own: HashSet<&str> = parameters.iter().map(|p| p.name.as_str()).collect();
    let mut out = LoadPlan::default();
    let mut finder = Finder { state, expected: Vec::new(), unequal: Vec::new() };
    for parameter in parameters {
        let (name, shape) = (parameter.name.clone(), parameter.shape.clone());
        if absent.is_some_and(|part| name.starts_with(part)) {
            continue;
        }
        let twin = schema.upper_twin(&name);
        let starts_anew = schema.fresh.contains(&name);
        if let Some(copy) = momentum_name(&name).filter(|copy| has_copies(copy) && !starts_anew) {
            let twin = twin.as_deref().and_then(momentum_name);
            out.momentum.push(finder.find(copy, shape.clone(), twin));
        }
        if starts_anew || fresh_head.is_some_and(|head| name.starts_with(head)) {
            out.report.fresh.push(name.clone());
            out.weights.push(Placement { name, shape, key: None });
        } else {
            out.weights.push(finder.find(name, shape, twin));
        }
    }
    for part in ["text_encoder.", "text_decoder."] {
        let head = own.iter().any(|n| n.starts_with(&format!("{part}cls.")));
        for (key, tied) in untied(state, part).into_iter().filter(|_| head) {
            // Only the matrix can have values of its own; the bias is listed under two names.
            let Some(table) = parameters.iter().find(|p| p.name == tied && !is_bias(&key)) else {
                return Err(WeightsError::Keys(format!(
                    "{source}: `{key}` differs from `{tied}`, which is the same tensor under another name"
                )));
            };
            if let Some(copy) = momentum_name(&key).filter(|copy| has_copies(copy)) {
                let shape = table.shape.clone();
                out.momentum.push(match state.get(&copy) {
                    Some(_) => finder.find(copy, shape, None),
                    // The momentum copy of the head is tied.
                    None => Placement { name: copy, shape, key: momentum_name(&tied) },
                });
            }
            out.weights.push(finder.find(key.clone(), table.shape.clone(), None));
            out.report.untied.push(key);
        }
    }
    out.report.used = finder.expected.len();
    out.report.unequal_twins = finder.unequal;
    let known = |name: &str| family(name, &own).is_some();
    let found = compare(state, &finder.expected, known);
    let hint = hint(&found, state, &finder.expected);
    for name in found.settle(source, hint)? {
        let used = |family: &str| family == QUEUES && schema.queues;
        if let Some(family) = family(&name, &own).filter(|f| !used(f)) {
            *out.report.ignored.entry(family).or_default() += 1;
        } else if let Some(DType::Unread(kind)) = state.get(&name).map(|t| t.dtype) {
            out.report.notes.push(format!("not read: `{name}`, of type {kind}"));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Sizes;
    use crate::tensor::HostTensor;

    fn schema() -> Schema {
        let sizes = Sizes {
            vision_width: 2,
            vision_depth: 2,
            vision_mlp: 2,
            patch: 1,
            tokens: 2,
            hidden: 2,
            layers: 2,
            intermediate: 2,
            fusion_layer: 1,
            decoder_layers: 1,
            vocab_size: 3,
            max_positions: 2,
            type_vocab: 2,
            embed_dim: 2,
        };
        Schema::new(sizes).vision().text_encoder("text_encoder").head("itm_head", 2, 2)
    }

    /// What is said of a model after some names are lost and gained.
    fn said(lost: &[&str], gained: &[&str]) -> String {
        let schema = schema();
        let tensor =
            |shape: &[usize]| HostTensor::from_f32(shape, &vec![0.0; shape.iter().product()]);
        let own = schema.parameters().iter().map(|p| (p.name.clone(), tensor(&p.shape)));
        let mut state: StateDict =
            own.filter(|(n, _)| !lost.iter().any(|part| n.starts_with(part))).collect();
        gained.iter().for_each(|n| state.insert((*n).to_owned(), tensor(&[1])));
        plan("`x`", &state, &schema).unwrap_err().to_string()
    }

    #[test]
    fn the_number_of_layers_is_spoken_of_where_whole_layers_differ_and_nowhere_else() {
        let lacks_layers = "correct the number of layers in `config.json`";
        let has_more = "if the model has more layers than `config.json` has";
        for lost in ["text_encoder.encoder.layer.1.", "visual_encoder.blocks.1."] {
            assert!(said(&[lost], &[]).contains(lacks_layers), "{}", said(&[lost], &[]));
        }
        for lost in ["itm_head.weight", "visual_encoder.blocks.1.norm1.bias", "text_encoder."] {
            let said = said(&[lost], &[]);
            assert!(
                said.ends_with("not a whole model for the task: use another checkpoint"),
                "{said}"
            );
        }
        for gained in ["text_encoder.encoder.layer.2.x", "visual_encoder.blocks.2.x"] {
            assert!(said(&[], &[gained]).contains(has_more));
        }
        for gained in ["visual_encoder.blocks.1.x", "visual_encoder.head.weight"] {
            let said = said(&[], &[gained]);
            assert!(said.ends_with("does without these keys, remove them from the file"), "{said}");
        }
    }

    #[test]
    fn keys_are_counted_in_words_that_agree() {
        let one = said(&["itm_head.weight"], &[]);
        assert!(one.contains("in all 1 key is missing, 0 unexpected"), "{one}");
        let two = said(&["itm_head."], &[]);
        assert!(two.contains("in all 2 keys are missing, 0 unexpected"), "{two}");
    }
}
