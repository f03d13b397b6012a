//! Golden fixtures about pixels and words.

use std::path::Path;

pub use albef_weights::golden::Outcome;
use albef_weights::read;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::error::{DataError, Result};
use crate::image::{
    DecodeOptions, Normalization, Op, ReferenceQuirks, ResizeOrder, RgbImage, apply, crop,
    flip_horizontal, open, random_resized_crop_box, resize_bicubic, signed,
};
use crate::text::{Tokenizer, Vocabulary, pre_caption, pre_question};

type Replay = fn(&mut Check<'_>) -> Result<()>;

/// What resized images of a set were made with.
const RESIZE_ORDER: ResizeOrder = ResizeOrder::Pillow13;

/// The kinds that belong to this crate.
const KINDS: [(&str, Replay); 5] = [
    ("images", images),
    ("crop", crops),
    ("randaugment", randaugment),
    ("tokenizer", tokenizer),
    ("cleaning", cleaning),
];

/// Their names.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|(name, _)| *name)
}

/// Replays a fixture whose kind belongs to this crate; `None` for other kinds.
#[must_use]
pub fn replay(kind: &str, root: &Path, fixture: &Value) -> Option<Result<Outcome>> {
    let (_, replay) = KINDS.iter().find(|(name, _)| *name == kind)?;
    let mut check = Check { root, fixture, outcome: Outcome::default() };
    Some(replay(&mut check).map(|()| check.outcome))
}

/// Mean and deviation of images by a set's `config.json`; the usual ones where it has none.
///
/// # Errors
/// If they are no three numbers, or a deviation is not above 0.
pub fn normalization(config: &Value) -> std::result::Result<Normalization, String> {
    let usual = Normalization::default();
    let three = |key: &str, usual: [f32; 3]| {
        if config[key].is_null() {
            return Ok(usual);
        }
        let found: Vec<f32> = list(&config[key])
            .filter_map(Value::as_f64)
            .map(|v| v as f32)
            .filter(|v| v.is_finite())
            .collect();
        found.try_into().map_err(|_| format!("`{key}` is {}, not three numbers", config[key]))
    };
    let (mean, std) = (three("image_mean", usual.mean)?, three("image_std", usual.std)?);
    if std.iter().any(|v| *v <= 0.0) {
        return Err(format!("`image_std` is {std:?}; all three must be above 0"));
    }
    Ok(Normalization { mean, std })
}

struct Check<'a> {
    root: &'a Path,
    fixture: &'a Value,
    outcome: Outcome,
}

fn list(v: &Value) -> impl Iterator<Item = &Value> {
    v.as_array().into_iter().flatten()
}

fn size(v: &Value) -> usize {
    v.as_u64().unwrap_or(0) as usize
}

/// Side of an image to be made, which must not fill the memory.
fn side(v: &Value) -> Result<usize> {
    let side = size(v);
    if (1..=8192).contains(&side) {
        return Ok(side);
    }
    Err(DataError::Argument(format!("an image cannot be {v} pixels wide")))
}

fn text(v: &Value) -> &str {
    v.as_str().unwrap_or_default()
}

impl Check<'_> {
    /// The entries under a key, of which there must be some.
    fn entries<'v>(
        &mut self,
        of: &'v Value,
        key: &str,
    ) -> impl Iterator<Item = &'v Value> + use<'v> {
        if list(&of[key]).next().is_none() {
            self.outcome.fail(format!("there are no `{key}`"));
        }
        list(&of[key])
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
        self.outcome.compared += 1;
        if got != expected {
            let short = |v: &T| format!("{v:?}").chars().take(120).collect::<String>();
            self.outcome.fail(format!("{name}: {} instead of {}", short(got), short(expected)));
        }
    }

    fn close(&mut self, name: &str, got: &[f64], expected: &[f64], abs: f64, rel: f64) {
        self.same(name, &got.len(), &expected.len());
        for (i, (g, e)) in got.iter().zip(expected).enumerate() {
            self.outcome.compared += 1;
            self.outcome.note((g - e).abs(), abs + rel * e.abs(), || format!("{name}[{i}]"));
        }
    }

    fn image(&self, path: &str) -> Result<RgbImage> {
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
    let config = c.root.join("config.json");
    let normalization = normalization(&c.json("config.json")?)
        .map_err(|e| DataError::annotation(&config, String::new(), e))?;
    let mut unread: Vec<String> =
        tensors.iter().flat_map(|file| file.tensors.names()).map(str::to_owned).collect();
    let (abs, rel) = (number("abs"), number("rel"));
    for case in list(&cases) {
        let name = text(&case["file"]);
        let image = c.image(name)?;
        let stored = [size(&case["width"]), size(&case["height"])];
        c.same(name, &[image.width, image.height], &stored);
        if let Some(hash) = case["decoded_rgb_sha256"].as_str() {
            c.same(&format!("{name} decoded"), &sha256(&image.pixels), &hash.to_owned());
        }
        let lossy = &case["lossy_tolerance"];
        let tolerance = lossy["abs"].as_f64();
        for (i, resized) in c.entries(case, "resized").enumerate() {
            let side = side(&resized["size"])?;
            let got = resize_bicubic(&image, side, side, RESIZE_ORDER);
            let label = format!("{name} at {side}");
            match tolerance {
                None => {
                    c.same(&label, &sha256(&got.pixels), &text(&resized["sha256"]).to_owned());
                }
                Some(allowed) => {
                    if let Some(png) = resized["png"].as_str() {
                        let wide = |p: &[u8]| p.iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
                        let expected = c.image(png)?;
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
            if let Some(tensor) = tensor {
                unread.retain(|name| name != tensor);
                let file = tensors.as_ref().and_then(|file| file.tensors.get(tensor));
                let Some(expected) = file else {
                    c.outcome.fail(format!("{name}: no tensor `{tensor}` is in the set"));
                    continue;
                };
                let mut out = vec![0.0; 3 * side * side];
                normalization.to_chw(&got, &mut out);
                let wide = |v: Vec<f32>| v.into_iter().map(f64::from).collect::<Vec<_>>();
                let expected = expected.to_f32().map_err(|e| DataError::Internal(e.to_string()))?;
                // A lossy file differs by its own tolerance, in units of the deviation.
                let narrowest = normalization.std.iter().copied().fold(f32::INFINITY, f32::min);
                let slack = tolerance.map_or(0.0, |t| t / 255.0 / f64::from(narrowest));
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
    if let Some(name) = unread.first() {
        c.outcome.fail(format!("no case names `{name}` of the normalised tensors"));
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
    for case in c.entries(&cases, "crops") {
        let image = c.image(text(&case["file"]))?;
        let s = |key: &str| size(&case[key]);
        let cut = crop(&image, s("top"), s("left"), s("height"), s("width"));
        let side = side(&case["size"])?;
        let mut got = resize_bicubic(&cut, side, side, RESIZE_ORDER);
        if case["flip"].as_bool() == Some(true) {
            got = flip_horizontal(&got);
        }
        c.same(text(&case["png"]), &sha256(&got.pixels), &text(&case["sha256"]).to_owned());
    }
    for (i, case) in c.entries(&cases, "boxes").enumerate() {
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
    for case in c.entries(&cases, "cases") {
        let image = c.image(&format!("{folder}image{}.png", case["image"]))?;
        let strip = c.image(&format!("{folder}{}", text(&case["strip"])))?;
        let name = text(&case["op"]);
        let intended = case["variant"].as_str().is_some_and(|v| v.contains("intended"))
            || name.contains("intended");
        let quirks = if intended { ReferenceQuirks::default() } else { reference };
        let Some(op) = Op::named(name.trim_end_matches("_intended")) else {
            c.same(name, &"known", &"unknown operation");
            continue;
        };
        for (i, row) in c.entries(case, "rows").enumerate() {
            let negative = row["draw"].as_f64().is_some_and(|d| signed(op, d));
            let level = row["level"].as_f64().unwrap_or(0.0);
            let got = apply(op, &image, level, negative, quirks);
            let expected = crop(&strip, i * image.height, 0, image.height, image.width);
            let label = format!("{}, row {i}", text(&case["strip"]));
            c.same(&label, &(got.pixels == expected.pixels), &true);
        }
    }
    let level = cases["m"].as_f64().unwrap_or(7.0);
    for (i, case) in c.entries(&cases, "sequences").enumerate() {
        let mut image = c.image(&format!("{folder}image{}.png", case["image"]))?;
        let strip = c.image(&format!("{folder}sequence_{}.png", case["image"]))?;
        let mut draws = list(&case["draws"]).filter_map(Value::as_f64);
        for name in list(&case["ops"]) {
            let Some(op) = Op::named(text(name)) else {
                c.outcome.fail(format!("sequence {i}: `{}` is no known operation", text(name)));
                continue;
            };
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
