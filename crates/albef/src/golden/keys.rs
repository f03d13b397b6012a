//! Fixtures of key names: what becomes of every key of a checkpoint that a task loads, and the
//! parameter groups of the optimizer, compared with the official code.

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
        let mut source: Vec<String> = target.iter().cloned().collect();
        source.extend(["head.weight".to_owned(), "head.bias".to_owned()]);
        return problem(&fate(&source, &target, |n| vec![n.to_owned()], false), map);
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use albef_weights::{
        DType, HostTensor, LoadPlan, Placement, StateDict, momentum_name, plan, queue_tensors, read,
    };

    use super::*;
    use crate::params::cpu;
    use crate::task::TASKS;

    fn root() -> std::path::PathBuf {
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden")
    }

    fn golden_config() -> ModelConfig {
        GoldenSet::open(&root(), &cpu()).unwrap().model_config(None).unwrap()
    }

    fn task(name: &str) -> TaskRef {
        TaskRef::named(name).unwrap()
    }

    /// A checkpoint of `from` under the names of `to`.
    fn converted(from: &str, to: &str) -> (StateDict, TaskRef) {
        let (from, to) = (task(from), task(to));
        (to.converted(checkpoint(from), from, golden_config().text.fusion_layer), to)
    }

    /// A tensor that has a shape, and bytes only to tell it from others.
    fn shaped(shape: &[usize], bytes: &[u8]) -> HostTensor {
        HostTensor { dtype: DType::F32, shape: shape.to_vec(), bytes: bytes.to_vec().into() }
    }

    fn checkpoint(task: TaskRef) -> StateDict {
        let keys = state_keys(task, &golden_config(), 24);
        keys.into_iter().map(|(n, shape)| (n, shaped(&shape, b""))).collect()
    }

    fn taken(state: &StateDict, task: TaskRef) -> albef_weights::Result<LoadPlan> {
        plan("`x`", state, &task.schema(&golden_config()))
    }

    fn failure(state: &StateDict, task: TaskRef) -> String {
        taken(state, task).unwrap_err().to_string()
    }

    #[test]
    fn every_key_of_every_official_start_is_accounted_for() {
        let own = TASKS.map(|task| (checkpoint(task), task));
        let pretrained = TASKS.map(|task| converted("pretrain", task.name()));
        let others = ["nlvr", "nlvr-ta"].map(|name| converted("retrieval", name));
        let rest = [(checkpoint(task("nlvr-ta")), task("nlvr")), converted("retrieval", "ve")];
        for (state, task) in own.into_iter().chain(pretrained).chain(others).chain(rest) {
            let found = taken(&state, task).unwrap();
            let loaded = found.weights.iter().chain(&found.momentum);
            let names = |w: &Placement| [w.key.clone(), Some(w.name.clone())];
            let used: HashSet<String> = loaded.flat_map(names).flatten().collect();
            let left_aside: usize = found.report.ignored.values().sum();
            let used = used.iter().filter(|n| state.get(n).is_some()).count();
            let queues = state.names().filter(|n| n.contains("queue")).count();
            let queues = if task.schema(&golden_config()).queues { queues } else { 0 };
            assert_eq!(used + queues + left_aside, state.len(), "{task:?}: {:?}", found.report);
            assert!(found.report.unequal_twins.is_empty());
        }
    }

    #[test]
    fn the_report_of_a_pre_trained_start_names_families_and_the_fresh_head() {
        let (state, ve) = converted("pretrain", "ve");
        let report = taken(&state, ve).unwrap().report;
        let families = [
            ("heads of other tasks", 7),
            ("momentum copies", 12),
            ("position numbers", 1),
            ("queues", 3),
            ("the vocabulary head", 7),
        ];
        assert_eq!(report.ignored, BTreeMap::from(families));
        assert_eq!(report.fresh.len(), 4);
        let lines = report.lines();
        assert!(lines[0].starts_with("ignored keys: 7 of heads of other tasks, 12 of momentum"));
        assert!(
            lines[1].starts_with("newly initialized weights: 4 (`cls_head.0.weight`"),
            "{lines:?}"
        );
        assert_eq!(taken(&checkpoint(task("ve")), task("ve")).unwrap().report.fresh.len(), 0);
    }

    #[test]
    fn a_transposed_weight_is_named_with_both_shapes() {
        let key = "text_encoder.encoder.layer.0.intermediate.dense.weight";
        for key in [key.to_owned(), momentum_name(key).unwrap()] {
            let mut state = checkpoint(task("ve"));
            state.insert(key.clone(), shaped(&[48, 96], b""));
            let error = failure(&state, task("ve"));
            assert!(error.contains(&format!("`{key}` is [48, 96] instead of [96, 48]")), "{error}");
            assert!(error.contains("hint: the sizes in `config.json`"), "{error}");
        }
    }

    #[test]
    fn a_shared_weight_of_another_shape_is_found_under_both_names() {
        for layer in [2, 3] {
            let key = format!("text_encoder.encoder.layer.{layer}.crossattention.self.key.weight");
            let mut state = checkpoint(task("nlvr"));
            state.insert(key.clone(), shaped(&[48 * 48], b""));
            assert!(failure(&state, task("nlvr")).contains(&format!("`{key}` is [2304]")));
        }
    }

    #[test]
    fn a_model_with_more_layers_than_the_configuration_is_refused() {
        for part in
            ["text_encoder.encoder.layer.4", "visual_encoder.blocks.4", "visual_encoder_m.blocks.4"]
        {
            let key = format!("{part}.attn.proj.bias");
            let mut state = checkpoint(task("ve"));
            state.insert(key.clone(), shaped(&[48], b""));
            let error = failure(&state, task("ve"));
            assert!(error.contains(&format!("unexpected `{key}`")), "{error}");
            assert!(error.contains("more layers than `config.json` has"), "{error}");
        }
    }

    #[test]
    fn a_key_of_no_known_family_is_refused_and_so_is_half_a_part() {
        let mut state = checkpoint(task("vqa"));
        state.insert("adapter.weight".into(), shaped(&[1], b""));
        assert!(failure(&state, task("vqa")).contains("unexpected `adapter.weight`"));
        let mut third_layer = checkpoint(task("ve"));
        third_layer.insert("cls_head.4.weight".into(), shaped(&[3, 3], b""));
        assert!(failure(&third_layer, task("ve")).contains("unexpected `cls_head.4.weight`"));
        for gone in ["cls_head.0.weight", "visual_encoder_m.norm.weight"] {
            let state = checkpoint(task("ve")).into_iter().filter(|(n, _)| n != gone).collect();
            assert!(failure(&state, task("ve")).contains(&format!("missing `{gone}`")));
        }
    }

    #[test]
    fn the_upper_layer_of_a_pair_counts_and_a_difference_is_reported() {
        let lower = "text_encoder.encoder.layer.2.crossattention.self.value.bias";
        let upper = "text_encoder.encoder.layer.3.crossattention.self.value.bias";
        let key = |found: &LoadPlan| {
            found.weights.iter().find(|w| w.name == lower).and_then(|w| w.key.clone())
        };
        let mut state = checkpoint(task("nlvr"));
        state.insert(upper.into(), shaped(&[48], b"other"));
        let found = taken(&state, task("nlvr")).unwrap();
        assert_eq!(key(&found).as_deref(), Some(upper));
        assert_eq!(found.report.unequal_twins, [lower]);
        assert!(found.report.lines().last().unwrap().contains("those of the upper layer are used"));
        let alone = state.into_iter().filter(|(n, _)| n != upper).collect();
        assert_eq!(key(&taken(&alone, task("nlvr")).unwrap()).as_deref(), Some(lower));
    }

    #[test]
    fn layers_of_a_retrieval_checkpoint_become_pairs_in_both_copies() {
        let mut state = checkpoint(task("retrieval"));
        for root in ["text_encoder", "text_encoder_m"] {
            let key = format!("{root}.encoder.layer.3.output.dense.bias");
            state.insert(key, shaped(&[48], b"last"));
        }
        let fusion_layer = golden_config().text.fusion_layer;
        let state = task("nlvr").converted(state, task("retrieval"), fusion_layer);
        for root in ["text_encoder", "text_encoder_m"] {
            let last = (0..6).filter(|i| {
                let key = format!("{root}.encoder.layer.{i}.output.dense.bias");
                state.get(&key).is_some_and(|t| *t.bytes == *b"last")
            });
            assert_eq!(last.collect::<Vec<_>>(), [4, 5], "{root}");
        }
    }

    #[test]
    fn the_golden_model_becomes_the_model_of_every_task_with_every_key_accounted_for() {
        let config = golden_config();
        let heads = read(&root().join("model/heads.safetensors")).unwrap().tensors;
        let model = read(&root().join("model/model.safetensors")).unwrap().tensors;
        assert!(queue_tensors(&model, config.embed_dim).unwrap().is_some());
        for name in ["pretrain", "retrieval", "vqa", "nlvr", "ta", "ve"] {
            let task = task(name);
            let mut whole =
                task.converted(model.clone(), TaskRef::pretrain(), config.text.fusion_layer);
            let bare = taken(&whole, task).unwrap();
            let fresh = matches!(name, "nlvr" | "ta" | "ve");
            assert_eq!(!bare.report.fresh.is_empty(), fresh, "{name}");
            for (key, tensor) in heads.iter() {
                if let Some(key) = key.strip_prefix(&format!("{name}.")) {
                    whole.insert(key.to_owned(), tensor.clone());
                }
            }
            let found = taken(&whole, task).unwrap();
            let twins = found.report.unequal_twins.is_empty();
            assert!(found.report.fresh.is_empty() && twins, "{name}");
        }
    }
}
