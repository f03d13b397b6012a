//! Fixtures of key names: what becomes of every key of a checkpoint that a task loads, and the
//! parameter groups of the optimizer, compared with the official code.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use albef_weights::{AVERAGED, Schema, from_torchmultimodal, with_modern_norms};
use serde_json::{Value, json};

use super::{GoldenSet, Outcome};
use crate::config::ModelConfig;
use crate::error::Result;
use crate::task::TaskRef;

/// Names with shapes.
type Keys = Vec<(String, Vec<usize>)>;

/// Every key of the task's state dictionary in the official code: trained tensors, ties and shared
/// ones under both names, buffers, momentum copies and queues.
fn state_keys(task: TaskRef, config: &ModelConfig, queue: usize) -> Keys {
    let mut all = Keys::new();
    let schema = task.schema(config);
    let averaged: &[&str] = if schema.momentum { &AVERAGED } else { &[] };
    for parameter in schema.parameters() {
        let (name, shape) = (&parameter.name, &parameter.shape);
        let mut names = vec![name.clone()];
        if let Some(p) = name.strip_suffix("embeddings.word_embeddings.weight") {
            names.push(format!("{p}embeddings.position_ids"));
            let head = p.strip_suffix(".bert.").map(|r| format!("{r}.cls.predictions.decoder"));
            if let Some(head) = head {
                names.extend([format!("{head}.weight"), format!("{head}.bias")]);
            }
        }
        names.extend(schema.upper_twin(name));
        for name in names {
            let shape = match shape[..] {
                [words, _] if name.ends_with("predictions.decoder.bias") => vec![words],
                _ => shape.clone(),
            };
            if let Some((root, rest)) = name.split_once('.')
                && averaged.contains(&root)
            {
                all.push((format!("{root}_m.{rest}"), shape.clone()));
            }
            all.push((name, shape.clone()));
        }
    }
    if schema.queues {
        for name in ["image_queue", "text_queue"] {
            all.push((name.into(), vec![config.embed_dim, queue]));
        }
        all.push(("queue_ptr".into(), vec![1]));
        if task != TaskRef::pretrain() {
            all.push(("idx_queue".into(), vec![1, queue]));
        }
    }
    all
}

/// The keys of a published BERT with its layer norms under old or new names.
fn bert_keys(schema: &Schema, old_norms: bool) -> Vec<String> {
    let mut all: Vec<String> = schema
        .parameters()
        .iter()
        .filter_map(|p| p.name.strip_prefix("text_encoder.").map(str::to_owned))
        .filter(|n| !n.contains("crossattention"))
        .collect();
    for name in ["bert.pooler.dense.weight", "bert.pooler.dense.bias"] {
        all.push(name.into());
    }
    all.push("cls.predictions.decoder.weight".into());
    for name in ["cls.seq_relationship.weight", "cls.seq_relationship.bias"] {
        all.push(name.into());
    }
    if old_norms {
        for name in &mut all {
            *name = name.replace("LayerNorm.weight", "LayerNorm.gamma");
            *name = name.replace("LayerNorm.bias", "LayerNorm.beta");
        }
    }
    all
}

#[derive(Default)]
struct Fate {
    unchanged: usize,
    renamed: BTreeMap<String, BTreeSet<String>>,
    unexpected: BTreeSet<String>,
    missing: BTreeSet<String>,
}

/// Sends `source` keys through `rule` to a model with `target` keys. `by_source` names what the
/// model does not know as the file does.
fn fate(
    source: &[String],
    target: &BTreeSet<String>,
    rule: impl Fn(&str) -> Vec<String>,
    by_source: bool,
) -> Fate {
    let mut out = Fate::default();
    let mut filled = BTreeSet::new();
    for name in source {
        let names = rule(name);
        let (known, unknown): (Vec<String>, Vec<String>) =
            names.into_iter().partition(|n| target.contains(n));
        filled.extend(known.iter().cloned());
        if by_source && !unknown.is_empty() {
            out.unexpected.insert(name.clone());
        } else {
            out.unexpected.extend(unknown);
        }
        if known.len() == 1 && &known[0] == name {
            out.unchanged += 1;
        } else if !known.is_empty() {
            out.renamed.insert(name.clone(), known.into_iter().collect());
        }
    }
    out.missing = target.difference(&filled).cloned().collect();
    out
}

/// Keys of a list; a key that was renamed on its way stands beside its source.
fn strings(v: &Value) -> BTreeSet<String> {
    let key = |v: &Value| v.as_str().or_else(|| v["key"].as_str()).map(str::to_owned);
    v.as_array().into_iter().flatten().filter_map(key).collect()
}

/// The first way in which `fate` is not what the map says.
fn problem(fate: &Fate, map: &Value) -> Option<String> {
    let differs = |what: &str, got: &BTreeSet<String>| {
        let want = strings(&map[what]);
        let odd = got.symmetric_difference(&want).next()?;
        Some(format!("{what}: `{odd}` ({} keys, expected {})", got.len(), want.len()))
    };
    let renamed: BTreeMap<String, BTreeSet<String>> = map["renamed"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(from, to)| (from.clone(), strings(to)))
        .collect();
    if let Some(odd) = fate.renamed.iter().find(|(k, v)| renamed.get(*k) != Some(v)) {
        return Some(format!("renamed: `{}` to {:?}", odd.0, odd.1));
    }
    if fate.renamed.len() != renamed.len() {
        return Some(format!("{} renamed, expected {}", fate.renamed.len(), renamed.len()));
    }
    if map["counts"]["unchanged"].as_u64() != Some(fate.unchanged as u64) {
        let want = &map["counts"]["unchanged"];
        return Some(format!("{} unchanged, expected {want}", fate.unchanged));
    }
    differs("unexpected", &fate.unexpected).or_else(|| differs("missing", &fate.missing))
}

/// A name with a layer's number, as what stands before and after the number.
fn split_layer(name: &str) -> Option<(&str, usize, &str)> {
    let (at, stem) = ["blocks.", "encoder.layer."]
        .iter()
        .find_map(|stem| name.find(stem).map(|at| (at, stem)))?;
    let (number, after) = name[at + stem.len()..].split_once('.')?;
    Some((&name[..at + stem.len()], number.parse().ok()?, after))
}

/// The keys of a source, which are listed with as many layers as the target has, with as many as the map
/// says that it has.
fn with_own_layers(
    source: Vec<String>,
    map: &Value,
    rule: impl Fn(&str) -> Vec<String>,
    by_source: bool,
) -> Vec<String> {
    let [unexpected, missing] = ["unexpected", "missing"].map(|key| strings(&map[key]));
    let mut stems: BTreeMap<String, usize> = BTreeMap::new();
    for (stem, layer, _) in source.iter().filter_map(|name| split_layer(name)) {
        let layers = stems.entry(stem.to_owned()).or_default();
        *layers = (*layers).max(layer + 1);
    }
    let mut out = source.clone();
    for (stem, layers) in stems {
        let after = |name: &String| {
            let (own, layer, after) = split_layer(name)?;
            (own == stem && layer + 1 == layers).then(|| after.to_owned())
        };
        let of_layer: Vec<String> = source.iter().filter_map(after).collect();
        let named = |layer: usize| {
            let stem = &stem;
            of_layer.iter().map(move |after| format!("{stem}{layer}.{after}"))
        };
        let is_there = |name: String| match by_source {
            true => unexpected.contains(&name) || map["renamed"].get(&name).is_some(),
            false => rule(&name).iter().any(|n| unexpected.contains(n)),
        };
        for layer in (layers..).take_while(|layer| named(*layer).any(is_there)) {
            out.extend(named(layer));
        }
        let is_missing = |name: &String| rule(name).iter().all(|n| missing.contains(n));
        for layer in (0..layers).rev().take_while(|l| named(*l).all(|name| is_missing(&name))) {
            out.retain(|name| {
                split_layer(name).is_none_or(|(own, l, _)| own != stem || l != layer)
            });
        }
    }
    out
}

fn at_resolution(config: &ModelConfig, res: Option<u64>) -> ModelConfig {
    let mut config = config.clone();
    if let Some(res) = res {
        config.vision.image_res = res as usize;
    }
    config
}

/// A description of sizes with what names and shapes do not depend on.
fn complete(sizes: &Value) -> Value {
    let mut sizes = sizes.clone();
    sizes["vision"]["layer_norm_eps"] = json!(1e-6);
    sizes["text"]["layer_norm_eps"] = json!(1e-12);
    sizes["text"]["special_ids"] = json!({"pad": 0, "cls": 101, "mask": 103});
    if sizes["text"]["type_vocab_size"].is_null() {
        sizes["text"]["type_vocab_size"] = json!(2);
    }
    sizes
}

/// The task of a name, where it is one of the official ones.
fn named(name: &str) -> Option<TaskRef> {
    TaskRef::named(name).ok()
}

fn one(map: &Value, sizes: &ModelConfig, queue: usize) -> Option<String> {
    let text = |key: &str| map[key].as_str().unwrap_or_default();
    let (checkpoint, target, rule) = (text("checkpoint"), text("task"), text("rule"));
    let names = |keys: Keys| keys.into_iter().map(|(n, _)| n).collect::<Vec<_>>();
    let below = |task: TaskRef, root: &str| -> BTreeSet<String> {
        let prefix = format!("{root}.");
        let all = names(state_keys(task, sizes, queue));
        all.iter().filter_map(|n| n.strip_prefix(&prefix).map(str::to_owned)).collect()
    };
    if checkpoint == "deit" {
        let target = below(TaskRef::pretrain(), "visual_encoder");
        let rule = |n: &str| vec![n.to_owned()];
        let mut source = with_own_layers(target.iter().cloned().collect(), map, rule, false);
        source.extend(["head.weight".to_owned(), "head.bias".to_owned()]);
        return problem(&fate(&source, &target, rule, false), map);
    }
    if rule == "hub" {
        let pretrain = target.ends_with("pretrain");
        let nlvr = || named("nlvr").unwrap_or(TaskRef::pretrain());
        let task = if pretrain { TaskRef::pretrain() } else { nlvr() };
        let target = below(task, "text_encoder");
        let target = target.into_iter().collect();
        let source = bert_keys(&TaskRef::pretrain().schema(sizes), checkpoint.contains("gamma"));
        let rename = |n: &str| {
            let name = with_modern_norms(n);
            vec![if pretrain { name } else { name.replacen("bert.", "", 1) }]
        };
        let source = with_own_layers(source, map, rename, true);
        return problem(&fate(&source, &target, rename, true), map);
    }
    let (Some(from), Some(task)) = (named(checkpoint), named(target)) else {
        return Some(format!("no rule for `{checkpoint}` to `{target}`"));
    };
    let own = at_resolution(sizes, map["image_res"].as_u64());
    let source = names(state_keys(from, sizes, queue));
    let target = names(state_keys(task, &own, queue)).into_iter().collect();
    let rename = |n: &str| match from == TaskRef::pretrain() {
        true => task.remap(n, sizes.text.fusion_layer),
        false => vec![n.into()],
    };
    let source = with_own_layers(source, map, rename, false);
    problem(&fate(&source, &target, rename, false), map).or_else(|| {
        // Tables are resized where a pre-trained model goes to another resolution.
        for entry in map["resized"].as_array().into_iter().flatten() {
            let width = sizes.vision.width as u64;
            let want = [1, own.vision.tokens() as u64, width].map(Value::from);
            if entry["target_shape"].as_array().is_none_or(|s| s[..] != want[..]) {
                return Some(format!("resized: {entry}"));
            }
        }
        None
    })
}

/// Replays the fixture: every map, the listing, and the names of the other family.
pub(super) fn checkpoint_keys(set: &GoldenSet, fixture: &Value) -> Result<Outcome> {
    let open = |suffix: &str| set.json(fixture, suffix);
    let all = open("key_map.json")?;
    let queue = all["sizes"]["queue_size"].as_u64().unwrap_or(0) as usize;
    let sizes = GoldenSet::sizes_of(complete(&all["sizes"]))?;
    let mut compared = 0;
    let fail = |compared, detail| Ok(Outcome::exact(compared, Some(detail)));
    let (listing, families) = (open("listing.json")?, open("other_families.json")?);
    for (file, part, empty) in [
        ("key_map.json", "maps", all["maps"].as_array().is_none_or(Vec::is_empty)),
        ("listing.json", "tensors", listing["tensors"].as_array().is_none_or(Vec::is_empty)),
        ("listing.json", "parameter_counts", !listing["parameter_counts"].is_object()),
        ("other_families.json", "pairs", families.as_object().is_none_or(|f| f.is_empty())),
    ] {
        if empty {
            return fail(1, format!("{file} has no `{part}`"));
        }
    }
    for map in all["maps"].as_array().into_iter().flatten() {
        if let Some(problem) = one(map, &sizes, queue) {
            return fail(1, format!("{} to {}: {problem}", map["checkpoint"], map["task"]));
        }
        compared += 1;
    }
    let mut own: BTreeMap<String, Vec<u64>> = state_keys(TaskRef::pretrain(), &sizes, queue)
        .into_iter()
        .map(|(n, s)| (n, s.into_iter().map(|v| v as u64).collect()))
        .collect();
    for entry in listing["tensors"].as_array().into_iter().flatten() {
        let key = entry["key"].as_str().unwrap_or_default();
        let shape: Vec<u64> =
            entry["shape"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
        let found = own.remove(key);
        // Buffers and ties carry their owner's shape in the list above.
        let exempt = key.ends_with("position_ids") || key.ends_with("predictions.decoder.bias");
        if found.is_none() || (!exempt && found.as_ref() != Some(&shape)) {
            return fail(1, format!("listing: `{key}` {shape:?}, here {found:?}"));
        }
        compared += 1;
    }
    if let Some(key) = own.keys().next() {
        return fail(1, format!("listing: `{key}` is too much"));
    }
    for (task, counts) in listing["parameter_counts"].as_object().into_iter().flatten() {
        let Some(kind) = named(task) else { continue };
        let res = if ["pretrain", "nlvr-ta"].contains(&kind.name()) { None } else { Some(384) };
        let sizes = at_resolution(&sizes, res);
        let trained: usize = kind
            .schema(&sizes)
            .parameters()
            .iter()
            .map(|p| p.shape.iter().product::<usize>())
            .sum();
        let keys = state_keys(kind, &sizes, queue).len();
        let want = |key: &str| counts[key].as_u64().unwrap_or(0) as usize;
        if keys != want("keys") || (res.is_none() && trained != want("trained")) {
            return fail(1, format!("{task}: {keys} keys, {trained} values, expected {counts}"));
        }
        compared += 1;
    }
    for (family, entry) in families.as_object().into_iter().flatten() {
        for pair in entry["pairs"].as_array().into_iter().flatten() {
            let name = |i: usize| pair[i].as_str().unwrap_or_default();
            let ours = from_torchmultimodal(name(0), sizes.text.fusion_layer);
            if !ours.iter().any(|n| n == name(1)) {
                return fail(1, format!("{family}: `{}` becomes {ours:?}", name(0)));
            }
            compared += 1;
        }
    }
    Ok(Outcome::exact(compared, None))
}

/// The parameter groups of every task.
pub(super) fn param_groups(set: &GoldenSet, fixture: &Value) -> Result<Outcome> {
    let config = set.model_config(None)?;
    let groups = set.json(fixture, ".json")?;
    let mut compared = 0;
    for (name, groups) in groups.as_object().into_iter().flatten() {
        let Some(task) = named(name) else {
            return Ok(Outcome::exact(1, Some(format!("unknown task `{name}`"))));
        };
        let (no_decay, decay) = task.schema(&config).parameter_groups();
        for (key, got) in [("no_decay", no_decay), ("decay", decay)] {
            let expected: Vec<&str> =
                groups[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let differs = |i: &usize| got.get(*i).map(String::as_str) != expected.get(*i).copied();
            if let Some(i) = (0..got.len().max(expected.len())).find(differs) {
                let problem =
                    format!("{name}.{key}[{i}]: {:?} instead of {:?}", got.get(i), expected.get(i));
                return Ok(Outcome::exact(1, Some(problem)));
            }
            compared += got.len();
        }
    }
    Ok(Outcome::exact(compared, None))
}
