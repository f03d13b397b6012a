//! Fixtures of retrieval evaluation.

use albef_data::image::{DecodeOptions, ResizeOrder, open, resize_bicubic};
use albef_data::text::{Tokenizer, Vocabulary, pre_caption};
use serde_json::{Value, json};

use super::{Comparison, GoldenSet, Outcome};
use crate::error::Result;
use crate::eval::metrics::{RecallReport, recalls};
use crate::eval::retrieval::{Gallery, Options, evaluate};
use crate::params::from_vec;

fn list(v: &Value) -> Vec<Value> {
    v.as_array().cloned().unwrap_or_default()
}

fn floats(v: &Value) -> Vec<f32> {
    list(v).iter().filter_map(Value::as_f64).map(|x| x as f32).collect()
}

/// Compares the figures that are listed. Beyond rank `k` they depend on how ties are sorted, and may be
/// left out.
fn compare_report(c: &mut Comparison, name: &str, k: usize, report: &RecallReport, want: &Value) {
    for (key, got) in report.named() {
        let name = format!("{name}.{key}");
        match want[key].as_f64() {
            Some(want) => c.numbers(&name, &[got], &[want]),
            None if k >= 10 || key.ends_with("r1") => c.fail(format!("no `{name}` is listed")),
            None => {}
        }
    }
}

/// The cases of recalls from given scores, each of as many scores as it has pairs.
pub(super) fn itm_eval(set: &GoldenSet, fixture: &Value) -> Result<Outcome> {
    let mut c = Comparison::new(fixture)?;
    for (i, case) in list(&set.json(fixture, "cases.json")?).iter().enumerate() {
        let size = |key: &str| case[key].as_u64().map_or(0, |v| v as usize);
        let (images, texts) = (size("n_image"), size("n_text"));
        let txt2img: Vec<usize> =
            list(&case["txt2img"]).iter().filter_map(Value::as_u64).map(|v| v as usize).collect();
        let relevant = |image: usize, text: usize| txt2img[text] == image;
        let (i2t, t2i) = (floats(&case["scores_i2t"]), floats(&case["scores_t2i"]));
        let pairs = images.checked_mul(texts);
        if txt2img.len() != texts || txt2img.iter().any(|image| *image >= images) {
            c.fail(format!(
                "case {i}: `txt2img` must name one of {images} images for {texts} texts"
            ));
        } else if [Some(i2t.len()), Some(t2i.len())] != [pairs; 2] {
            let (a, b) = (i2t.len(), t2i.len());
            c.fail(format!("case {i}: {a} and {b} scores of {images} images with {texts} texts"));
        } else {
            let report = recalls(images, texts, &i2t, &t2i, relevant);
            compare_report(&mut c, &format!("case{i}"), usize::MAX, &report, &case["expected"]);
        }
    }
    Ok(c.finish())
}

/// Compares which caption is of which image.
fn compare_images(c: &mut Comparison, txt2img: &[usize], images: usize, want: &Value) {
    let of = |image: usize| {
        let texts = txt2img.iter().enumerate().filter(|(_, i)| **i == image);
        texts.map(|(text, _)| text).collect::<Vec<_>>()
    };
    let img2txt: Vec<_> = (0..images).map(of).collect();
    for (key, got) in [("txt2img", json!(txt2img)), ("img2txt", json!(img2txt))] {
        if got != want[key] {
            c.fail(format!("`{key}` of expected.json is not that of the gallery"));
        }
    }
}

pub(super) fn evaluation(set: &GoldenSet, fixture: &Value) -> Result<Outcome> {
    let mut c = Comparison::new(fixture)?;
    let (config, state) = set.model(fixture)?;
    let model = state.albef()?;
    let gallery_path = set.file(fixture, "gallery.json")?;
    let gallery = set.json(fixture, "gallery.json")?;
    let folder = gallery_path.parent().unwrap_or(set.root()).to_owned();
    let expected = set.tensors(fixture, "expected.safetensors")?;
    let json = set.json(fixture, "expected.json")?;
    let params = &fixture["params"];
    let limit = |key: &str| params[key].as_u64().unwrap_or(30) as usize;

    let vocabulary = Vocabulary::from_file(&set.vocabulary())?;
    let tokenizer = Tokenizer::new(vocabulary);
    let mut texts = Vec::new();
    let mut txt2img = Vec::new();
    for (i, entry) in list(&gallery).iter().enumerate() {
        for caption in list(&entry["caption"]).iter().filter_map(Value::as_str) {
            texts.push(pre_caption(caption, limit("max_words")));
            txt2img.push(i);
        }
    }
    let tokens: Vec<Vec<u32>> =
        texts.iter().map(|t| tokenizer.encode_truncated(t, limit("max_length"))).collect();
    let want_texts: Vec<&str> =
        json["texts"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if want_texts != texts {
        c.fail("the cleaned captions differ".into());
    }
    compare_images(&mut c, &txt2img, list(&gallery).len(), &json);
    let [_, width] = expected.axes("input_ids")?;
    let mut ids = Vec::new();
    let mut mask = Vec::new();
    for t in &tokens {
        let pad = i64::from(config.text.pad_id);
        ids.extend((0..width).map(|i| t.get(i).map_or(pad, |id| i64::from(*id))));
        mask.extend((0..width).map(|i| i64::from(i < t.len())));
    }
    c.integers("input_ids", &ids, &expected.integers("input_ids")?);
    c.integers("attention_mask", &mask, &expected.integers("attention_mask")?);

    let res = config.vision.image_res;
    let normalization = set.normalization()?;
    let names: Vec<String> =
        list(&gallery).iter().map(|e| e["image"].as_str().unwrap_or_default().to_owned()).collect();
    let load = |which: &[usize]| -> Result<burn::tensor::Tensor<4>> {
        let mut pixels = vec![0.0; which.len() * 3 * res * res];
        for (i, out) in which.iter().zip(pixels.chunks_mut(3 * res * res)) {
            let image = open(&folder.join(&names[*i]), &DecodeOptions::default())?;
            let image = resize_bicubic(&image, res, res, ResizeOrder::default());
            normalization.to_chw(&image, out);
        }
        Ok(from_vec(pixels, [which.len(), 3, res, res], set.device()))
    };
    let fill = params["fill"].as_f64().unwrap_or(-100.0) as f32;
    for k in list(&params["k_test"]).iter().filter_map(Value::as_u64) {
        let gallery = Gallery { images: names.len(), texts: &tokens, txt2img: &txt2img, ids: None };
        let options = Options { k: k as usize, ..Options::default() };
        let out = evaluate(&model, &gallery, &options, &load, &crate::Control::new())?;
        c.tensor("image_embeds", &out.image_feats, &expected.floats("image_embeds")?);
        c.tensor("text_embeds", &out.text_feats, &expected.floats("text_embeds")?);
        c.tensor("sims", &out.sims(), &expected.floats("sims")?);
        let side = |lists: &[Vec<(usize, f32)>], columns: usize| {
            let mut scores = vec![fill; lists.len() * columns];
            for (row, list) in lists.iter().enumerate() {
                list.iter().for_each(|(j, s)| scores[row * columns + j] = *s);
            }
            scores
        };
        let order = |lists: &[Vec<(usize, f32)>]| -> Vec<i64> {
            lists.iter().flatten().map(|(j, _)| *j as i64).collect()
        };
        for (name, lists, columns) in
            [("i2t", &out.i2t, texts.len()), ("t2i", &out.t2i, names.len())]
        {
            let (score, top) = (format!("k{k}.score_{name}"), format!("k{k}.topk_{name}"));
            c.tensor(&score, &side(lists, columns), &expected.floats(&score)?);
            c.integers(&top, &order(lists), &expected.integers(&top)?);
        }
        let want = &json[format!("metrics_k{k}")];
        compare_report(&mut c, &format!("k{k}"), k as usize, &out.itm, want);
    }
    Ok(c.finish())
}
