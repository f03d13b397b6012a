//! `albef ground`.

use std::path::{Path, PathBuf};

use albef::eval::grounding::Proposals;
use albef::inference::{GroundOptions, Grounding, GroundingMode};
use albef::{Image, Pipeline};
use albef_weights::write_atomic;
use anyhow::{Result, bail};

use crate::ExitStatus;
use crate::arguments::{image_place, same_file, share, words};
use crate::models::{ModelOptions, image_file, open_image};
use crate::output::say;
use crate::warnings::{tell_truncated, tell_unknown};

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// The matching score at a fusion layer.
    Itm,
    /// The contrastive score at a block of the image encoder.
    Itc,
}

impl From<Mode> for GroundingMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Itm => Self::Itm,
            Mode::Itc => Self::Itc,
        }
    }
}

#[derive(clap::Args)]
pub struct Arguments {
    /// The image, or a result of the last search (`@1`).
    image: PathBuf,
    /// What to look for.
    #[arg(value_parser = words)]
    phrase: String,
    /// Which score is explained [default: that of the model, else `itm`].
    #[arg(long)]
    mode: Option<Mode>,
    /// Text layer (itm; the third fusion layer, or the last if there are fewer, with --words the one before it) or
    /// image block (itc; the last) [default: that of the model, if it has one for this mode].
    #[arg(long)]
    layer: Option<usize>,
    /// A map for each word as well, in `--output` or `--json`. They explain the matching score, whatever the mode.
    #[arg(long)]
    words: bool,
    /// Write the image with the map over it here, small images enlarged; the maps of words get their number and
    /// word appended.
    #[arg(long, value_parser = image_place())]
    output: Option<PathBuf>,
    /// Proposals to choose from: a JSON list of `[left, top, width, height]` in pixels; a score that
    /// follows is not read. Boxes are clipped to the image.
    #[arg(long)]
    boxes: Option<PathBuf>,
    /// Where between the map's lowest value (0) and its peak (1) a region ends, without proposals.
    #[arg(long, default_value_t = 0.5, value_parser = share, conflicts_with = "boxes")]
    threshold: f32,
    #[command(flatten)]
    model: ModelOptions,
    /// One JSON object on standard output, with the raw maps.
    #[arg(long)]
    json: bool,
}

pub fn run(a: &Arguments) -> Result<ExitStatus> {
    if a.words && a.output.is_none() && !a.json {
        tracing::info!("--words shows its maps in --output FILE or --json");
    }
    let file = image_file(&a.image)?;
    if let Some(output) = a.output.as_ref().filter(|output| same_file(output, &file)) {
        bail!("--output {} is the image itself; name another file", output.display());
    }
    let (device, reader) = a.model.prepare()?;
    let image = open_image(&file, &reader)?;
    let boxes = proposals(a, &image)?;
    let model = a.model.open(&reader, &device)?;
    let options = options(a, &model).boxes(boxes).threshold(a.threshold);
    tell_layers(&options, &model);
    tell_unknown(&model, [a.phrase.as_str()]);
    let found = model.ground(&image, &a.phrase, &options)?;
    tell_truncated(found.truncated.into(), 1, model.phrase_limits());
    if let Some(path) = &a.output {
        write(path, &found.render(&image)?)?;
        for (i, word) in found.words.iter().enumerate() {
            write(&for_word(path, i + 1, &word.word), &found.render_word(&image, i)?)?;
        }
    }
    print(a, &found, &image)?;
    Ok(if found.region.is_some() { ExitStatus::Yes } else { ExitStatus::No })
}

/// Mode and layer: as given, else those of the model.
fn options(a: &Arguments, model: &Pipeline) -> GroundOptions {
    let own = model.ground_options(a.words);
    let mode = a.mode.map_or(own.mode, Into::into);
    let layer = a.layer.or(own.layer.filter(|_| mode == own.mode));
    own.mode(mode).layer(layer)
}

fn print(a: &Arguments, found: &Grounding, image: &Image) -> Result<()> {
    if a.json {
        return say!("{}", serde_json::to_value(found)?);
    }
    match found.region {
        Some([x, y, w, h]) => say!(
            "box: left {x:.0}, top {y:.0}, {w:.0} x {h:.0} pixels of the image's {} x {}",
            image.width,
            image.height
        ),
        None => say!("no region found"),
    }
}

/// The boxes of `--boxes`, clipped to the image.
fn proposals(a: &Arguments, image: &Image) -> Result<Option<Vec<[f64; 4]>>> {
    let Some(path) = &a.boxes else { return Ok(None) };
    let Proposals { boxes, clipped } = Proposals::read(path, (image.height, image.width))?;
    if clipped > 0 {
        tracing::info!(
            "{clipped} of {} boxes reach beyond the image and are clipped to it",
            boxes.len()
        );
    }
    Ok(Some(boxes))
}

/// Notes on the layer, where words are asked for.
fn tell_layers(options: &GroundOptions, model: &Pipeline) {
    if !options.words {
        return;
    }
    let (config, mode) = (model.config(), GroundingMode::Itm);
    if options.mode == GroundingMode::Itc {
        tracing::info!(
            "the contrastive score has no maps for words: theirs explain the matching score, at layer {}",
            mode.default_word_layer(config)
        );
        return;
    }
    let (alone, for_words) = (mode.default_layer(config), mode.default_word_layer(config));
    if options.layer.is_none() && for_words != alone {
        tracing::info!(
            "all maps are of layer {for_words}, where words have some; without --words that of the phrase is \
             of layer {alone}"
        );
    }
    if options.layer.unwrap_or(for_words) + 1 == config.text.layers {
        tracing::info!(
            "words have no maps at layer {}: of the last one only `[CLS]` is read; choose a lower --layer",
            config.text.layers - 1
        );
    }
}

/// `name.png` with a word before its ending.
fn for_word(path: &Path, number: usize, word: &str) -> PathBuf {
    let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or("map");
    let word: String = word.chars().filter(char::is_ascii_alphanumeric).collect();
    path.with_file_name(format!("{stem}-{number}-{word}.png"))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomic(path, |f| std::io::Write::write_all(f, bytes))?;
    eprintln!("wrote {}", path.display());
    Ok(())
}
