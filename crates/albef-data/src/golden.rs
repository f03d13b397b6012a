//! Golden fixtures about pixels and words.

use std::path::Path;

use albef_weights::read;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::error::{DataError, Result};
use crate::image::{
    DecodeOptions, Normalization, Op, ReferenceQuirks, RgbImage, apply, crop, flip_horizontal,
    open, random_resized_crop_box, resize_bicubic, signed,
};
use crate::text::{Tokenizer, Vocabulary, pre_caption, pre_question};

/// The outcome of one fixture.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Largest absolute error.
    pub worst: f64,
    /// What is allowed there.
    pub tolerance: f64,
    /// Values compared.
    pub compared: usize,
    /// Where the worst error is.
    pub detail: String,
    /// Whether all is within tolerance.
    pub passed: bool,
}

/// Replays a fixture whose kind belongs to this crate; `None` for other kinds.
#[must_use]
pub fn replay(kind: &str, root: &Path, fixture: &Value) -> Option<Result<Outcome>> {
    let replay = match kind {
        "images" => images,
        "crop" => crops,
        "randaugment" => randaugment,
        "tokenizer" => tokenizer,
        "cleaning" => cleaning,
        _ => return None,
    };
    let mut check = Check { root, fixture, compared: 0, worst: 0.0, allowed: 0.0, problem: None };
    Some(replay(&mut check).map(|()| check.outcome()))
}

struct Check<'a> {
    root: &'a Path,
    fixture: &'a Value,
    compared: usize,
    worst: f64,
    allowed: f64,
    problem: Option<String>,
}

fn list(v: &Value) -> impl Iterator<Item = &Value> {
    v.as_array().into_iter().flatten()
}

fn size(v: &Value) -> usize {
    v.as_u64().unwrap_or(0) as usize
}

fn text(v: &Value) -> &str {
    v.as_str().unwrap_or_default()
}

impl Check<'_> {
    fn outcome(self) -> Outcome {
        let passed = self.problem.is_none() && self.compared > 0;
        Outcome {
            worst: if passed { self.worst } else { f64::INFINITY },
            tolerance: self.allowed,
            compared: self.compared,
            detail: self.problem.unwrap_or_else(|| "within tolerance".into()),
            passed,
        }
    }

    fn json(&self, end: &str) -> Result<Value> {
        let file =
            list(&self.fixture["files"]).map(|f| text(&f["path"])).find(|p| p.ends_with(end));
        let path = self.root.join(file.unwrap_or(end));
        let content = std::fs::read_to_string(&path).map_err(DataError::io(&path))?;
        serde_json::from_str(&content)
            .map_err(|e| DataError::annotation(&path, String::new(), e.to_string()))
    }

    fn same<T: PartialEq + std::fmt::Debug>(&mut self, name: &str, got: &T, expected: &T) {
        self.compared += 1;
        if got != expected && self.problem.is_none() {
            let short = |v: &T| format!("{v:?}").chars().take(120).collect::<String>();
            self.problem = Some(format!("{name}: {} instead of {}", short(got), short(expected)));
        }
    }

    fn close(&mut self, name: &str, got: &[f64], expected: &[f64], abs: f64, rel: f64) {
        self.same(name, &got.len(), &expected.len());
        for (i, (g, e)) in got.iter().zip(expected).enumerate() {
            let (error, allowed) = ((g - e).abs(), abs + rel * e.abs());
            self.compared += 1;
            if error > self.worst {
                (self.worst, self.allowed) = (error, allowed);
            }
            if error.is_nan() || error > allowed {
                self.problem.get_or_insert(format!("{name}[{i}]: {g} instead of {e}"));
            }
        }
    }

    fn picture(&self, path: &str) -> Result<RgbImage> {
        open(&self.root.join(path), &DecodeOptions::default())
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn images(c: &mut Check<'_>) -> Result<()> {
    let cases = c.json("cases.json")?;
    let tensors = {
        let files = list(&c.fixture["files"]).map(|f| text(&f["path"]));
        files.filter(|p| p.ends_with("normalised.safetensors")).map(|p| c.root.join(p)).next()
    };
    let tensors = match tensors {
        Some(path) => Some(
            read(&path).map_err(|e| DataError::annotation(&path, String::new(), e.to_string()))?,
        ),
        None => None,
    };
    let rule = &c.fixture["tolerance"]["normalised"];
    let number = |key: &str| rule[key].as_f64().unwrap_or(0.0);
    let (abs, rel) = (number("abs"), number("rel"));
    for case in list(&cases) {
        let name = text(&case["file"]);
        let image = c.picture(name)?;
        let stored = [size(&case["width"]), size(&case["height"])];
        c.same(name, &[image.width, image.height], &stored);
        if let Some(hash) = case["decoded_rgb_sha256"].as_str() {
            c.same(&format!("{name} decoded"), &sha256(&image.pixels), &hash.to_owned());
        }
        let lossy = &case["lossy_tolerance"];
        let tolerance = lossy["abs"].as_f64();
        for (i, resized) in list(&case["resized"]).enumerate() {
            let side = size(&resized["size"]);
            let got = resize_bicubic(&image, side, side);
            let label = format!("{name} at {side}");
            match tolerance {
                None => {
                    c.same(&label, &sha256(&got.pixels), &text(&resized["sha256"]).to_owned());
                }
                Some(allowed) => {
                    if let Some(png) = resized["png"].as_str() {
                        let wide = |p: &[u8]| p.iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
                        let expected = c.picture(png)?;
                        let (got, expected) = (wide(&got.pixels), wide(&expected.pixels));
                        c.close(&label, &got, &expected, allowed, 0.0);
                        let errors = got.iter().zip(&expected).map(|(g, e)| (g - e).abs());
                        let mean = errors.sum::<f64>() / got.len().max(1) as f64;
                        let allowed = lossy["mean_abs"].as_f64().unwrap_or(0.0);
                        c.close(&format!("{label}, mean error"), &[mean], &[0.0], allowed, 0.0);
                    }
                }
            }
            let tensor = case["normalised_tensor"].as_str().filter(|_| i == 0);
            if let (Some(tensor), Some(file)) = (tensor, &tensors)
                && let Some(expected) = file.tensors.get(tensor)
            {
                let mut out = vec![0.0; 3 * side * side];
                Normalization::default().to_chw(&got, &mut out);
                let wide = |v: Vec<f32>| v.into_iter().map(f64::from).collect::<Vec<_>>();
                let expected = expected.to_f32().map_err(|e| DataError::Internal(e.to_string()))?;
                // A lossy file differs by its own tolerance, in units of the deviation.
                let slack = tolerance.map_or(0.0, |t| t / 255.0 / 0.26);
                c.close(
                    &format!("{name} normalised"),
                    &wide(out),
                    &wide(expected),
                    abs + slack,
                    rel,
                );
            }
        }
    }
    Ok(())
}

struct Recorded<'a> {
    draws: Vec<&'a Value>,
    at: usize,
    wrong: Option<String>,
}

impl Recorded<'_> {
    fn next(&mut self, kind: &str) -> f64 {
        let draw = self.draws.get(self.at).copied().unwrap_or(&Value::Null);
        self.at += 1;
        if draw.get(kind).is_none() {
            self.wrong.get_or_insert(format!("draw {} is {draw}, wanted {kind}", self.at - 1));
        }
        draw["value"].as_f64().unwrap_or(0.0)
    }
}

impl crate::image::CropDraws for Recorded<'_> {
    fn uniform(&mut self, _: f64, _: f64) -> f64 {
        self.next("uniform")
    }
    fn integer(&mut self, _: usize) -> usize {
        self.next("randint") as usize
    }
}

fn crops(c: &mut Check<'_>) -> Result<()> {
    let cases = c.json("cases.json")?;
    for case in list(&cases["crops"]) {
        let image = c.picture(text(&case["file"]))?;
        let s = |key: &str| size(&case[key]);
        let cut = crop(&image, s("top"), s("left"), s("height"), s("width"));
        let mut got = resize_bicubic(&cut, s("size"), s("size"));
        if case["flip"].as_bool() == Some(true) {
            got = flip_horizontal(&got);
        }
        c.same(text(&case["png"]), &sha256(&got.pixels), &text(&case["sha256"]).to_owned());
    }
    for (i, case) in list(&cases["boxes"]).enumerate() {
        let pair = |key: &str| {
            (case[key][0].as_f64().unwrap_or(0.0), case[key][1].as_f64().unwrap_or(1.0))
        };
        let mut draws = Recorded { draws: list(&case["draws"]).collect(), at: 0, wrong: None };
        let (w, h) = (size(&case["width"]), size(&case["height"]));
        let got = random_resized_crop_box(w, h, pair("scale"), pair("ratio"), &mut draws);
        let expected: Vec<usize> = list(&case["expected"]).map(size).collect();
        c.same(&format!("box {i}"), &got.to_vec(), &expected);
        let all = draws.draws.len();
        c.same(&format!("draws of box {i}"), &(draws.at, draws.wrong), &(all, None));
    }
    Ok(())
}

fn randaugment(c: &mut Check<'_>) -> Result<()> {
    let cases = c.json("cases.json")?;
    let folder = list(&c.fixture["files"])
        .map(|f| text(&f["path"]))
        .find_map(|p| p.strip_suffix("cases.json"))
        .unwrap_or("randaugment/")
        .to_owned();
    let reference = ReferenceQuirks { autocontrast: true, sharpness: true };
    for case in list(&cases["cases"]) {
        let image = c.picture(&format!("{folder}image{}.png", case["image"]))?;
        let strip = c.picture(&format!("{folder}{}", text(&case["strip"])))?;
        let name = text(&case["op"]);
        let intended = case["variant"].as_str().is_some_and(|v| v.contains("intended"))
            || name.contains("intended");
        let quirks = if intended { ReferenceQuirks::default() } else { reference };
        let Some(op) = Op::named(name.trim_end_matches("_intended")) else {
            c.same(name, &"known", &"unknown operation");
            continue;
        };
        for (i, row) in list(&case["rows"]).enumerate() {
            let negative = row["draw"].as_f64().is_some_and(|d| signed(op, d));
            let level = row["level"].as_f64().unwrap_or(0.0);
            let got = apply(op, &image, level, negative, quirks);
            let expected = crop(&strip, i * image.height, 0, image.height, image.width);
            let label = format!("{}, row {i}", text(&case["strip"]));
            c.same(&label, &(got.pixels == expected.pixels), &true);
        }
    }
    let level = cases["m"].as_f64().unwrap_or(7.0);
    for (i, case) in list(&cases["sequences"]).enumerate() {
        let mut image = c.picture(&format!("{folder}image{}.png", case["image"]))?;
        let strip = c.picture(&format!("{folder}sequence_{}.png", case["image"]))?;
        let mut draws = list(&case["draws"]).filter_map(Value::as_f64);
        for name in list(&case["ops"]) {
            let Some(op) = Op::named(text(name)) else { continue };
            if draws.next().unwrap_or(0.0) > 0.5 {
                continue;
            }
            let negative = op.has_sign() && signed(op, draws.next().unwrap_or(0.0));
            image = apply(op, &image, level, negative, reference);
        }
        let top = size(&case["row"]) * image.height;
        let expected = crop(&strip, top, 0, image.height, image.width);
        c.same(&format!("sequence {i}"), &(image.pixels == expected.pixels), &true);
    }
    Ok(())
}

fn tokenizer(c: &mut Check<'_>) -> Result<()> {
    let params = &c.fixture["params"];
    let open = |key: &str| -> Result<Tokenizer> {
        Ok(Tokenizer::new(Vocabulary::from_file(&c.root.join(text(&params[key])))?))
    };
    let (full, tiny) = (open("vocab_full")?, open("vocab_tiny")?);
    let ids = |v: &Value| list(v).map(|i| size(i) as u32).collect::<Vec<_>>();
    for (i, case) in list(&c.json("cases.json")?).enumerate() {
        let t = text(&case["text"]);
        c.same(&format!("text {i}, full list"), &full.encode(t), &ids(&case["ids"]));
        c.same(&format!("text {i}, tiny list"), &tiny.encode(t), &ids(&case["ids_tiny"]));
    }
    for (i, case) in list(&c.json("batches.json")?).enumerate() {
        let options = &case["options"];
        let limit = size(&options["max_length"]);
        let truncate = options["truncation"].as_bool() == Some(true);
        let rows: Vec<Vec<u32>> = list(&case["texts"])
            .map(|t| match truncate {
                true => full.encode_truncated(text(t), limit),
                false => full.encode(text(t)),
            })
            .collect();
        let fixed = text(&options["padding"]) == "max_length";
        let width = if fixed { limit } else { rows.iter().map(Vec::len).max().unwrap_or(0) };
        for (j, row) in rows.into_iter().enumerate() {
            let length = row.len();
            let mut padded = row;
            padded.resize(width, full.vocabulary().pad);
            let mask: Vec<u32> = (0..width).map(|k| u32::from(k < length)).collect();
            let label = format!("batch {i}, row {j}");
            c.same(&label, &padded, &ids(&case["input_ids"][j]));
            c.same(&label, &mask, &ids(&case["attention_mask"][j]));
        }
    }
    Ok(())
}

fn cleaning(c: &mut Check<'_>) -> Result<()> {
    for (i, case) in list(&c.json("cases.json")?).enumerate() {
        for (key, expected) in case.as_object().into_iter().flatten() {
            let Some((kind, words)) = key.rsplit_once('_') else { continue };
            let Ok(words) = words.parse::<usize>() else { continue };
            let got = match kind {
                "caption" => pre_caption(text(&case["text"]), words),
                "question" => pre_question(text(&case["text"]), words),
                _ => continue,
            };
            c.same(&format!("text {i}, {key}"), &got, &text(expected).to_owned());
        }
    }
    Ok(())
}
