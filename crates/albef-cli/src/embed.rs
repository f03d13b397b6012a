//! `albef embed`: features of images, texts and pairs, for other programs.

use std::io::Read;
use std::path::{Path, PathBuf};

use albef::inference::{
    ExtractOptions, FeatureJournal, FeatureName, FeatureRows, FeatureTokens, write_features,
};
use albef::{Error, ImageSet};
use albef_data::input::text_of_file;
use albef_data::names;
use anyhow::{Context, Result, bail};

use crate::ExitStatus;
use crate::arguments::{named, place, source, words};
use crate::models::{ModelOptions, open_all_images};
use crate::output::say;
use crate::progress::bar;
use crate::train::interruptible;
use crate::warnings::{tell_notes, tell_truncated, tell_unusable};

/// Texts that are encoded between two looks at the output.
const TEXTS: usize = 256;
/// Images up to which an interrupted extraction is simply done again.
const FEW: usize = 256;

#[derive(clap::Args)]
pub struct Arguments {
    /// Folder, tar shards or annotation list of images; `-` for paths on standard input, a line each.
    #[arg(value_parser = source())]
    images: Option<String>,
    /// A text; may be given several times.
    #[arg(long, value_parser = words)]
    text: Vec<String>,
    /// A file with a text in each line; `-` for standard input.
    #[arg(long, value_name = "FILE")]
    texts: Option<PathBuf>,
    /// Joined before the image paths of a list.
    #[arg(long)]
    image_root: Option<PathBuf>,
    /// Each image together with each of its captions: the states of the multimodal encoder.
    #[arg(long, requires = "images", conflicts_with_all = ["text", "texts"])]
    pairs: bool,
    /// The features of `[CLS]` alone, or of all tokens.
    #[arg(long, default_value = "cls", value_name = "cls|all", value_parser = named::<FeatureTokens>)]
    tokens: FeatureTokens,
    /// The states of the encoders, before they are projected to the common space of images and texts.
    #[arg(long, conflicts_with = "pairs")]
    unprojected: bool,
    /// Write to a file, not as JSON lines to standard output: `.npy` (an array of f32, with the names of its
    /// rows in `FILE.names.txt`), `.safetensors` (`features`, `offsets` and the names in one file) or `.jsonl`.
    #[arg(long, value_name = "FILE", value_parser = place())]
    output: Option<PathBuf>,
    #[command(flatten)]
    model: ModelOptions,
}

pub fn run(a: &Arguments) -> Result<ExitStatus> {
    if a.images.as_deref() == Some("-") && a.texts.as_deref() == Some(Path::new("-")) {
        bail!("standard input can be images or texts, not both");
    }
    let texts = texts(a)?;
    let (device, reader) = a.model.prepare()?;
    let images = a.images.as_ref().map(|source| images(source, a)).transpose()?;
    if let Some(images) = images.as_ref().filter(|_| a.pairs)
        && images.samples().iter().all(|sample| sample.captions.is_empty())
    {
        bail!("--pairs takes images with captions, and none of {} has one", images.source());
    }
    let model = a.model.open(&reader, &device)?;
    let options = ExtractOptions::default().tokens(a.tokens).projected(!a.unprojected && !a.pairs);
    let truncated = texts.iter().filter(|text| model.caption(text).truncated).count();
    tell_truncated(truncated, texts.len(), model.caption_limits());
    let all_tokens = a.tokens == FeatureTokens::All;
    let mut skipped = 0;
    let control = bar().cancelled_by(interruptible().cancellation());
    let mut extract = |journal: Option<&mut FeatureJournal>, each: Each<'_>| {
        if let Some(images) = &images {
            let unusable = match journal {
                Some(journal) => model
                    .extract_set_resumably(images, a.pairs, options, journal, &control, each)?,
                None => model.extract_set(images, a.pairs, options, &control, each)?,
            };
            tell_unusable("skipped", &unusable);
            tell_notes(&reader);
            skipped = unusable.len();
            if skipped == images.len() {
                let place = match images.source() {
                    "" => " named on standard input".to_owned(),
                    source => format!(" in {source}"),
                };
                let (images, hint) = (images.len(), String::new());
                return Err(Error::NoUsableImages { images, place, hint });
            }
        }
        for part in texts.chunks(TEXTS) {
            for (text, rows) in part.iter().zip(model.extract_texts(part, options)?) {
                each(&FeatureName { image: None, text: Some(text.clone()) }, &rows)?;
            }
        }
        Ok(())
    };
    let Some(path) = &a.output else {
        let done = extract(None, &mut |name, rows| {
            let line = name.to_json(rows, all_tokens);
            say!("{line}").map_err(|e| Error::Argument(format!("{e:#}")))
        });
        return finished(done, "");
    };
    let mut journal = None;
    let written = write_features(path, all_tokens, |sink| {
        if let Some(images) = images.as_ref().filter(|images| images.len() > FEW) {
            journal = Some(FeatureJournal::open(path, &model, images, a.pairs, options)?);
        }
        extract(journal.as_mut(), &mut |name, rows| sink.push(name, rows))
    });
    let resumes = if journal.is_some() { "; rerun the same command to resume" } else { "" };
    let items = match written {
        Ok(items) => items,
        Err(error) => return finished(Err(error), resumes),
    };
    journal.map(FeatureJournal::remove).transpose()?;
    eprintln!("{items} rows in {}, {skipped} images skipped", path.display());
    Ok(ExitStatus::Yes)
}

/// Takes features.
type Each<'a> = &'a mut dyn FnMut(&FeatureName, &FeatureRows) -> albef::Result<()>;

/// How it ended: all was extracted, or it was interrupted.
fn finished(done: albef::Result<()>, resumes: &str) -> Result<ExitStatus> {
    match done {
        Err(Error::Cancelled) => {
            eprintln!("interrupted{resumes}");
            Ok(ExitStatus::No)
        }
        done => Ok(done.map(|()| ExitStatus::Yes)?),
    }
}

/// The images of a source, or of the paths on standard input.
fn images(source: &str, a: &Arguments) -> Result<ImageSet> {
    if source != "-" {
        return open_all_images(source, a.image_root.as_deref());
    }
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).context("cannot read standard input")?;
    let lines = bytes.split(|b| *b == b'\n').map(|line| names::text_of(line.trim_ascii_end()));
    let paths: Vec<_> = lines.filter(|l| !l.is_empty()).map(|l| names::path_of(&l)).collect();
    if paths.is_empty() {
        bail!("nothing to embed: there is no path on standard input");
    }
    Ok(ImageSet::of_files(paths))
}

/// The texts of `--text` and `--texts`; an error if nothing is to be embedded.
fn texts(a: &Arguments) -> Result<Vec<String>> {
    let mut texts = a.text.clone();
    if let Some(file) = &a.texts {
        let bytes = match file.as_os_str() == "-" {
            true => {
                let mut bytes = Vec::new();
                std::io::stdin().read_to_end(&mut bytes).map(|_| bytes)
            }
            false => std::fs::read(file),
        };
        let bytes = bytes.with_context(|| format!("cannot read {}", file.display()))?;
        let lines = text_of_file(file, &bytes)?;
        // A line may end as on old Macs.
        let lines = lines.split(['\n', '\r']).filter(|line| !line.trim().is_empty());
        texts.extend(lines.map(str::to_owned));
    }
    if let Some(file) = a.texts.as_ref().filter(|_| a.images.is_none() && texts.is_empty()) {
        bail!("nothing to embed: {} has no line with words", file.display());
    }
    if a.images.is_none() && texts.is_empty() {
        bail!("nothing to embed: name images, or texts with --text or --texts");
    }
    Ok(texts)
}
