//! `albef embed`: the unit-length features of pictures and texts, for other programs.

use std::io::Write;
use std::path::{Path, PathBuf};

use albef::pipeline::Pipeline;
use albef_weights::write_atomic;
use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::Answer;
use crate::arguments::{place, words};
use crate::corpus::{Pictures, open_model};
use crate::device::Where;
use crate::notes::tell_cut;
use crate::output::say;

#[derive(clap::Args)]
pub struct Arguments {
    /// Folder, tar shards or annotation list of pictures.
    images: Option<String>,
    /// A text; may be given several times.
    #[arg(long, value_parser = words)]
    text: Vec<String>,
    /// A file with a text in each line.
    #[arg(long, value_name = "FILE")]
    texts: Option<PathBuf>,
    /// Joined before the image paths of a list.
    #[arg(long)]
    image_root: Option<PathBuf>,
    /// Model folder or weights file; `models/mini`, here or above the program, if not given.
    #[arg(long)]
    model: Option<PathBuf>,
    /// Write a NumPy array `[rows, width]` of f32 here, and the names of its rows beside it as
    /// `FILE.names.txt`, instead of JSON lines on standard output.
    #[arg(long, value_name = "FILE", value_parser = place)]
    output: Option<PathBuf>,
    #[command(flatten)]
    device: Where,
}

/// What a row belongs to.
enum Kind {
    Image,
    Text,
}

struct Row {
    kind: Kind,
    name: String,
    feature: Vec<f32>,
}

pub fn run(a: &Arguments) -> Result<Answer> {
    let mut texts = a.text.clone();
    if let Some(file) = &a.texts {
        let lines = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read {}", file.display()))?;
        texts.extend(lines.lines().filter(|l| !l.trim().is_empty()).map(str::to_owned));
    }
    if let Some(file) = a.texts.as_ref().filter(|_| a.images.is_none() && texts.is_empty()) {
        bail!("nothing to embed: {} has no line with words", file.display());
    }
    if a.images.is_none() && texts.is_empty() {
        bail!("nothing to embed: name pictures, or texts with --text or --texts");
    }
    let device = a.device.open()?;
    let model = open_model(a.model.as_deref(), &device)?;
    let mut rows = Vec::new();
    let mut skipped = 0;
    if let Some(images) = &a.images {
        let size = model.model.config.vision.image_res;
        let pictures = Pictures::open(images, a.image_root.as_deref(), size, &device)?;
        let (features, failed) = pictures.embed(images, &model.model)?;
        skipped = failed;
        let samples = pictures.data.samples();
        rows.extend(features.into_iter().map(|(i, feature)| Row {
            kind: Kind::Image,
            name: samples[i].name.clone(),
            feature,
        }));
    }
    let cut = texts.iter().filter(|text| model.caption(text).cut).count();
    tell_cut(cut, texts.len(), Pipeline::TRUNCATION);
    for text in texts {
        let feature = model.embed_text(&text)?;
        rows.push(Row { kind: Kind::Text, name: text, feature });
    }
    match &a.output {
        Some(path) => {
            write_array(path, &rows, model.model.config.embed_dim)?;
            eprintln!("{} rows in {}, {skipped} pictures skipped", rows.len(), path.display());
        }
        None => {
            for Row { kind, name, feature } in &rows {
                let kind = match kind {
                    Kind::Image => "image",
                    Kind::Text => "text",
                };
                say!("{}", json!({kind: name, "feature": feature}))?;
            }
        }
    }
    Ok(Answer::Yes)
}

/// A NumPy file of format 1.0, little-endian, and the names of its rows. The array comes last: where it
/// is, its names are.
fn write_array(path: &Path, rows: &[Row], width: usize) -> Result<()> {
    let mut names = path.as_os_str().to_owned();
    names.push(".names.txt");
    write_atomic(Path::new(&names), |f| {
        // A name in one line, whatever it holds.
        rows.iter().try_for_each(|r| writeln!(f, "{}", r.name.replace(['\n', '\r'], " ")))
    })?;
    let mut header =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {width}), }}", rows.len());
    let lead = 10;
    let padded = (lead + header.len() + 1).next_multiple_of(64) - lead - 1;
    header.extend(std::iter::repeat_n(' ', padded - header.len()));
    header.push('\n');
    write_atomic(path, |f| {
        f.write_all(b"\x93NUMPY\x01\x00")?;
        f.write_all(&(header.len() as u16).to_le_bytes())?;
        f.write_all(header.as_bytes())?;
        rows.iter().flat_map(|r| &r.feature).try_for_each(|v| f.write_all(&v.to_le_bytes()))
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_has_the_layout_of_numpy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.npy");
        let row = |name: &str, v: f32| Row {
            kind: Kind::Text,
            name: name.into(),
            feature: vec![v, 0.5, -1.0],
        };
        write_array(&path, &[row("a\nb", 1.0), row("c", 2.0)], 3).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let length = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        assert_eq!((10 + length) % 64, 0);
        let header = std::str::from_utf8(&bytes[10..10 + length]).unwrap();
        assert!(header.contains("(2, 3)") && header.ends_with('\n'));
        let values: Vec<f32> = bytes[10 + length..]
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect();
        assert_eq!(values, [1.0, 0.5, -1.0, 2.0, 0.5, -1.0]);
        let names = std::fs::read_to_string(dir.path().join("x.npy.names.txt")).unwrap();
        assert_eq!(names, "a b\nc\n");
    }
}
