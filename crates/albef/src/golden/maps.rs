//! Grad-CAM and boxes.

use serde_json::Value;

use super::encoders::padded_batch;
use super::{Comparison, GoldenSet, Outcome};
use crate::error::Result;
use crate::eval::grounding::{best_box, box_score, iou, resize_map};
use crate::gradcam::{contrastive_maps, matching_maps};

pub(super) fn gradcam(set: &GoldenSet, fixture: &Value) -> Result<Outcome> {
    let mut c = Comparison::new(fixture)?;
    let (config, weights) = set.task_model(fixture)?;
    let t = set.tensors(fixture, "inputs.safetensors")?;
    let expected = set.tensors(fixture, "expected.safetensors")?;
    let Some(tokens) = padded_batch(&t, "input_ids", "attention_mask")? else {
        c.fail("a mask with holes, where only visible prefixes are known".into());
        return Ok(c.finish());
    };
    let images = t.on::<4>("image", set.device())?;
    let layer = fixture["params"]["layer"].as_u64().unwrap_or(0) as usize;
    let matching = fixture["params"]["mode"] == "itm";
    let maps = if matching {
        matching_maps(&config, &weights.online, images, &tokens, layer)?
    } else {
        contrastive_maps(&config, &weights.online, images, &tokens, layer)?
    };
    let [_, width] = t.axes("input_ids")?;
    let length = if matching { width } else { 1 };
    let pairs = 0..tokens.len();
    for name in expected.names() {
        let got = match name.as_str() {
            "attention" => maps.attention.clone(),
            "attention_gradient" => maps.gradient.clone(),
            "itm_logits" | "sim" => maps.scores.clone(),
            "map" => pairs.clone().flat_map(|b| maps.sentence(b, length)).collect(),
            "map_per_token" => {
                let token = |b: usize| (0..length).flat_map(move |i| [(b, i)]);
                pairs.clone().flat_map(token).flat_map(|(b, i)| maps.token(b, i)).collect()
            }
            _ => {
                c.fail(format!("`{name}` is not computed here"));
                continue;
            }
        };
        c.tensor(&name, &got, &expected.floats(&name)?);
    }
    Ok(c.finish())
}

pub(super) fn boxes(set: &GoldenSet, fixture: &Value) -> Result<Outcome> {
    let mut c = Comparison::new(fixture)?;
    let t = set.tensors(fixture, "inputs.safetensors")?;
    let cases = set.json(fixture, "cases.json")?;
    let [count, rows, columns] = t.axes("maps")?;
    let maps = t.floats("maps")?;
    let refs = cases["refs"].as_array().cloned().unwrap_or_default();
    if refs.len() != count {
        c.fail(format!("{} `refs` for {count} maps", refs.len()));
        return Ok(c.finish());
    }
    if cases["iou_cases"].as_array().is_none_or(Vec::is_empty) {
        c.fail("there are no `iou_cases`".into());
    }
    let number = |v: &Value| v.as_f64().unwrap_or(f64::NAN);
    let region = |v: &Value| std::array::from_fn(|i| number(&v[i]));
    let alpha = number(&cases["alpha"]);
    let mut tally: std::collections::BTreeMap<String, [usize; 2]> =
        std::collections::BTreeMap::new();
    for (i, case) in refs.iter().enumerate() {
        let size = (number(&case["height"]) as usize, number(&case["width"]) as usize);
        if !(1..=8192).contains(&size.0) || !(1..=8192).contains(&size.1) {
            c.fail(format!("ref {i} is {} x {} pixels", size.0, size.1));
            break;
        }
        let cells = rows * columns;
        let map = resize_map(&maps[i * cells..(i + 1) * cells], (rows, columns), size);
        let boxes: Vec<[f64; 4]> =
            case["det_boxes"].as_array().into_iter().flatten().map(region).collect();
        let scores: Vec<f64> = boxes.iter().map(|b| box_score(&map, size, *b, alpha)).collect();
        let want = &case["expected"];
        let wanted: Vec<f64> =
            want["scores"].as_array().into_iter().flatten().map(number).collect();
        c.numbers("scores", &scores, &wanted);
        let chosen = best_box(&scores);
        let chosen_index = chosen.map_or(-1, |i| i as i64);
        c.integers("chosen", &[chosen_index], &[want["chosen"].as_i64().unwrap_or(-1)]);
        let overlap = chosen.map_or(0.0, |i| iou(boxes[i], region(&case["gt_box"])));
        c.numbers("iou", &[overlap], &[number(&want["iou"])]);
        let correct = overlap >= 0.5;
        let expected = want["correct"].as_bool().unwrap_or(false);
        c.integers("correct", &[i64::from(correct)], &[i64::from(expected)]);
        let entry = tally.entry(case["split"].as_str().unwrap_or_default().to_owned()).or_default();
        entry[0] += usize::from(correct);
        entry[1] += 1;
    }
    for (key, want) in cases["accuracy"].as_object().into_iter().flatten() {
        let [hits, all] = tally.get(key.trim_end_matches("_d")).copied().unwrap_or_default();
        c.numbers("accuracy", &[hits as f64 / all.max(1) as f64], &[number(want)]);
    }
    for case in cases["iou_cases"].as_array().into_iter().flatten() {
        let got = iou(region(&case["a"]), region(&case["b"]));
        c.numbers("iou", &[got], &[number(&case["expected"])]);
    }
    Ok(c.finish())
}
