//! What becomes of every key of a checkpoint that a task loads, held against the official code.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use crate::error::Result;
use crate::golden::{Outcome, files, json};
use crate::keys::{Keys, Sizes, Task, expected_keys};
use crate::remap::targets;
use crate::starts::with_modern_norms;
use crate::task_keys::upper_twin;
use crate::torchmultimodal::from_torchmultimodal;

/// Every key of the task's state dictionary in the official code: trained tensors, ties and shared
/// ones under both names, buffers, momentum copies and queues.
pub(crate) fn state_keys(task: Task, sizes: &Sizes, queue: usize) -> Keys {
    let mut all = Keys::new();
    let averaged: &[&str] = match task {
        Task::Pretrain | Task::Retrieval => {
            &["visual_encoder", "text_encoder", "vision_proj", "text_proj"]
        }
        Task::Vqa => &["visual_encoder", "text_encoder", "text_decoder"],
        Task::Nlvr | Task::Ve => &["visual_encoder", "text_encoder", "cls_head"],
        Task::Ta => &[],
    };
    for (name, shape) in expected_keys(task, sizes) {
        let mut names = vec![name.clone()];
        if let Some(p) = name.strip_suffix("embeddings.word_embeddings.weight") {
            names.push(format!("{p}embeddings.position_ids"));
            let head = p.strip_suffix(".bert.").map(|r| format!("{r}.cls.predictions.decoder"));
            if let Some(head) = head {
                names.extend([format!("{head}.weight"), format!("{head}.bias")]);
            }
        }
        names.extend(upper_twin(&name, task, sizes.fusion_layer));
        for name in names {
            if let Some((root, rest)) = name.split_once('.')
                && averaged.contains(&root)
            {
                all.push((format!("{root}_m.{rest}"), shape.clone()));
            }
            all.push((name, shape.clone()));
        }
    }
    if matches!(task, Task::Pretrain | Task::Retrieval) {
        for name in ["image_queue", "text_queue"] {
            all.push((name.into(), vec![sizes.embed_dim, queue]));
        }
        all.push(("queue_ptr".into(), vec![1]));
    }
    if task == Task::Retrieval {
        all.push(("idx_queue".into(), vec![1, queue]));
    }
    all
}

/// The keys of a published BERT with its layer norms under old or new names.
fn bert_keys(sizes: &Sizes, old_norms: bool) -> Vec<String> {
    let mut all: Vec<String> = expected_keys(Task::Pretrain, sizes)
        .into_iter()
        .filter_map(|(n, _)| n.strip_prefix("text_encoder.").map(str::to_owned))
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

pub(crate) fn at_resolution(sizes: &Sizes, res: Option<u64>) -> Sizes {
    let mut sizes = sizes.clone();
    if let Some(res) = res {
        let grid = res as usize / sizes.patch.max(1);
        sizes.tokens = grid * grid + 1;
    }
    sizes
}

fn one(map: &Value, sizes: &Sizes, queue: usize) -> Option<String> {
    let text = |key: &str| map[key].as_str().unwrap_or_default();
    let (checkpoint, target, rule) = (text("checkpoint"), text("task"), text("rule"));
    let names = |keys: Keys| keys.into_iter().map(|(n, _)| n).collect::<Vec<_>>();
    let below = |task: Task, root: &str| -> BTreeSet<String> {
        let prefix = format!("{root}.");
        let all = names(state_keys(task, sizes, queue));
        all.iter().filter_map(|n| n.strip_prefix(&prefix).map(str::to_owned)).collect()
    };
    if checkpoint == "deit" {
        let target = below(Task::Pretrain, "visual_encoder");
        let mut source: Vec<String> = target.iter().cloned().collect();
        source.extend(["head.weight".to_owned(), "head.bias".to_owned()]);
        return problem(&fate(&source, &target, |n| vec![n.to_owned()], false), map);
    }
    if rule == "hub" {
        let pretrain = target.ends_with("pretrain");
        let task = if pretrain { Task::Pretrain } else { Task::Nlvr };
        let target = below(task, "text_encoder");
        let target = target.into_iter().collect();
        let source = bert_keys(sizes, checkpoint.contains("gamma"));
        let rename = |n: &str| {
            let name = with_modern_norms(n);
            vec![if pretrain { name } else { name.replacen("bert.", "", 1) }]
        };
        return problem(&fate(&source, &target, rename, true), map);
    }
    let (Some(from), Some(task)) = (Task::named(checkpoint), Task::named(target)) else {
        return Some(format!("no rule for `{checkpoint}` to `{target}`"));
    };
    let own = at_resolution(sizes, map["image_res"].as_u64());
    let source = names(state_keys(from, sizes, queue));
    let target = names(state_keys(task, &own, queue)).into_iter().collect();
    let rename = |n: &str| {
        if from == Task::Pretrain { targets(n, task, sizes.fusion_layer) } else { vec![n.into()] }
    };
    problem(&fate(&source, &target, rename, false), map).or_else(|| {
        // Tables are resized where a pre-trained model goes to another resolution.
        for entry in map["resized"].as_array().into_iter().flatten() {
            let width = sizes.vision_width as u64;
            let want = [1, own.tokens as u64, width].map(Value::from);
            if entry["target_shape"].as_array().is_none_or(|s| s[..] != want[..]) {
                return Some(format!("resized: {entry}"));
            }
        }
        None
    })
}

/// Replays the fixture: every map, the listing, and the names of the other family.
pub(crate) fn replay(root: &Path, fixture: &Value) -> Result<Outcome> {
    let open = |suffix: &str| {
        let file = files(fixture).into_iter().find(|f| f.ends_with(suffix)).unwrap_or(suffix);
        json(&root.join(file))
    };
    let all = open("key_map.json")?;
    let queue = all["sizes"]["queue_size"].as_u64().unwrap_or(0) as usize;
    let Some(sizes) = Sizes::from_golden_config(&all["sizes"]) else {
        return Ok(Outcome::exact(0, Some("sizes are missing".into())));
    };
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
    let mut own: BTreeMap<String, Vec<u64>> = state_keys(Task::Pretrain, &sizes, queue)
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
        let Some(kind) = Task::named(task) else { continue };
        let res = if matches!(kind, Task::Pretrain | Task::Ta) { None } else { Some(384) };
        let sizes = at_resolution(&sizes, res);
        let trained: usize = expected_keys(kind, &sizes)
            .iter()
            .map(|(_, shape)| shape.iter().product::<usize>())
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
            let ours = from_torchmultimodal(name(0), sizes.fusion_layer);
            if !ours.iter().any(|n| n == name(1)) {
                return fail(1, format!("{family}: `{}` becomes {ours:?}", name(0)));
            }
            compared += 1;
        }
    }
    Ok(Outcome::exact(compared, None))
}
