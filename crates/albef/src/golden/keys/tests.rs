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

/// The map of a start from the golden set, without what a model of 8 layers does not miss.
fn map_for_eight_layers(all: &Value, checkpoint: &str, task: &str) -> Value {
    let is_it = |m: &&Value| m["checkpoint"] == checkpoint && m["task"] == task;
    let mut map = all["maps"].as_array().unwrap().iter().find(is_it).unwrap().clone();
    let beyond = |name: &str| split_layer(name).is_some_and(|(_, layer, _)| layer >= 8);
    let missing = strings(&map["missing"]).into_iter().filter(|name| !beyond(name));
    map["missing"] = missing.collect();
    map
}

#[test]
fn a_start_with_more_layers_than_the_model_leaves_them_unexpected() {
    let text = std::fs::read_to_string(root().join("checkpoint_keys/key_map.json")).unwrap();
    let all: Value = serde_json::from_str(&text).unwrap();
    let mut sizes = complete(&all["sizes"]);
    (sizes["vision"]["depth"], sizes["text"]["layers"]) = (json!(8), json!(8));
    let sizes = GoldenSet::sizes_of(sizes).unwrap();
    let add = |map: &mut Value, stem: &str, of_layer: &[String]| {
        let names = (8..12).flat_map(|l| of_layer.iter().map(move |n| format!("{stem}{l}.{n}")));
        let names: Vec<String> = names.collect();
        map["counts"]["unchanged"] =
            json!(map["counts"]["unchanged"].as_u64().unwrap() - names.len() as u64);
        map["unexpected"].as_array_mut().unwrap().extend(names.into_iter().map(Value::from));
    };
    let both = |names: &[&str]| -> Vec<String> {
        names.iter().flat_map(|n| [format!("{n}.weight"), format!("{n}.bias")]).collect()
    };
    let mut deit = map_for_eight_layers(&all, "deit", "visual_encoder of pretrain");
    assert!(one(&deit, &sizes, 64).is_some());
    let block = ["norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"];
    add(&mut deit, "blocks.", &both(&block));
    assert_eq!(one(&deit, &sizes, 64), None);
    let bert = "bert-base-uncased (weight_bias)";
    let mut bert = map_for_eight_layers(&all, bert, "text_encoder of pretrain");
    assert!(one(&bert, &sizes, 64).is_some());
    let layer = [
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "attention.output.LayerNorm",
        "intermediate.dense",
        "output.dense",
        "output.LayerNorm",
    ];
    add(&mut bert, "bert.encoder.layer.", &both(&layer));
    assert_eq!(one(&bert, &sizes, 64), None);
    // One key too few is seen.
    bert["unexpected"].as_array_mut().unwrap().pop();
    assert!(one(&bert, &sizes, 64).is_some());
}

#[test]
fn a_start_with_fewer_layers_than_the_model_leaves_them_missing() {
    let text = std::fs::read_to_string(root().join("checkpoint_keys/key_map.json")).unwrap();
    let all: Value = serde_json::from_str(&text).unwrap();
    let mut sizes = complete(&all["sizes"]);
    sizes["vision"]["depth"] = json!(13);
    let sizes = GoldenSet::sizes_of(sizes).unwrap();
    let mut deit = map_for_eight_layers(&all, "deit", "visual_encoder of pretrain");
    assert!(one(&deit, &sizes, 64).is_some());
    let block = ["norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"];
    let names = block.iter().flat_map(|n| ["weight", "bias"].map(|e| format!("blocks.12.{n}.{e}")));
    deit["missing"].as_array_mut().unwrap().extend(names.map(Value::from));
    assert_eq!(one(&deit, &sizes, 64), None);
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
    assert!(lines[1].starts_with("newly initialized weights: 4 (`cls_head.0.weight`"), "{lines:?}");
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
