//! Cut-outs with names: the emoji art that is built in, or any folder of images with transparency.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use image::{ImageFormat, RgbaImage, imageops};
use serde_json::Value;

use crate::error::{DataError, Result};
use crate::image::{DecodeOptions, ResizeOrder, RgbImage, decode_rgba, resize_bicubic};
use crate::random::Stream;

const TRAINED: [(&str, &[u8]); 3] = [
    ("twemoji", include_bytes!("../../../../data/sprites/twemoji.png")),
    ("noto", include_bytes!("../../../../data/sprites/noto.png")),
    ("fluent-flat", include_bytes!("../../../../data/sprites/fluent-flat.png")),
];
const UNSEEN: (&str, &[u8]) = ("fxemoji", include_bytes!("../../../../data/sprites/fxemoji.png"));
const DESCRIPTION: &str = include_str!("../../../../data/sprites/sprites.json");

/// Fewer concepts do not leave pairs to hold out.
const FEWEST: usize = 12;
/// Longer edge above which an image from a folder is left out: it is laid into a square first.
const LONGEST: u32 = 8192;
/// Side that the longer edge of an image from a folder is reduced to.
const LARGEST: usize = 256;

/// A square image to lay over others.
#[derive(Clone)]
struct CutOut {
    /// Colours, already weighed by the cover.
    colours: RgbImage,
    /// How much of what lies below is covered, the same in all three channels.
    cover: RgbImage,
}

impl CutOut {
    /// The image in the middle of a transparent square.
    fn new(image: &RgbaImage) -> Self {
        let (width, height) = (image.width() as usize, image.height() as usize);
        let side = width.max(height);
        let (left, top) = ((side - width) / 2, (side - height) / 2);
        let mut colours = RgbImage::filled(side, side, [0; 3]);
        let mut cover = RgbImage::filled(side, side, [0; 3]);
        for (x, y, p) in image.enumerate_pixels() {
            let at = ((top + y as usize) * side + left + x as usize) * 3;
            for c in 0..3 {
                colours.pixels[at + c] = (u16::from(p.0[c]) * u16::from(p.0[3]) / 255) as u8;
                cover.pixels[at + c] = p.0[3];
            }
        }
        Self { colours, cover }
    }

    fn resized(&self, side: usize) -> Self {
        let resize = |image| resize_bicubic(image, side, side, ResizeOrder::default());
        Self { colours: resize(&self.colours), cover: resize(&self.cover) }
    }
}

/// One way to draw all concepts.
struct Style {
    name: String,
    /// One for each concept.
    cells: Vec<CutOut>,
}

/// Names with their cut-outs in one or more styles; the last style may be held out of training.
pub struct Sprites {
    pub(super) concepts: Vec<(String, Vec<String>)>,
    styles: Vec<Style>,
    trained: usize,
}

/// What of a folder of cut-outs is not used, and why, one line each.
pub type LeftOut = Vec<String>;

impl Sprites {
    /// 160 emoji in four styles, of which `fxemoji` is held out of training.
    ///
    /// # Errors
    /// Never for the art that is built in.
    pub fn embedded() -> Result<Self> {
        let internal = |e: &dyn std::fmt::Display| DataError::Internal(format!("sprites: {e}"));
        let description: Value = serde_json::from_str(DESCRIPTION).map_err(|e| internal(&e))?;
        let concepts: Vec<(String, Vec<String>)> = description["concepts"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|c| {
                let names = c["names"].as_array().into_iter().flatten();
                let mut names: Vec<String> =
                    names.filter_map(Value::as_str).map(str::to_owned).collect();
                names.dedup();
                (c["id"].as_str().unwrap_or_default().to_owned(), names)
            })
            .collect();
        let number = |key: &str| description[key].as_u64().unwrap_or(1) as u32;
        let (cell, columns) = (number("cell"), number("columns"));
        let styles = TRAINED
            .into_iter()
            .chain([UNSEEN])
            .map(|(name, bytes)| {
                let atlas = image::load_from_memory_with_format(bytes, ImageFormat::Png)
                    .map_err(|e| internal(&e))?
                    .into_rgba8();
                let cells = (0..concepts.len() as u32).map(|c| {
                    let (left, top) = (c % columns * cell, c / columns * cell);
                    CutOut::new(&imageops::crop_imm(&atlas, left, top, cell, cell).to_image())
                });
                Ok(Style { name: name.into(), cells: cells.collect() })
            })
            .collect::<Result<_>>()?;
        Ok(Self { concepts, styles, trained: TRAINED.len() })
    }

    /// A folder `STYLE/NAME.png` of images with transparency, or `NAME.png` for a single style. Names are the
    /// file names, `_` and `-` read as spaces. `unseen` is the style that is held out of training; without it
    /// the last one by name is, if there are several. A name must be there in every style; what is
    /// not, and what cannot be read, is listed in the second part.
    ///
    /// # Errors
    /// If the folder cannot be read, fewer than twelve names are usable, or there is no such style.
    pub fn from_folder(folder: &Path, unseen: Option<&str>) -> Result<(Self, LeftOut)> {
        let wrong = |detail: String| DataError::annotation(folder, String::new(), detail);
        let mut names: Vec<String> = entries(folder)?
            .iter()
            .filter(|p| p.is_dir())
            .filter_map(|p| p.file_name().map(|n| n.to_string_lossy().into_owned()))
            .collect();
        let single = names.is_empty();
        if single {
            names
                .push(folder.file_name().map_or("cut-outs".into(), |n| n.to_string_lossy().into()));
        }
        if let Some(unseen) = unseen {
            let at = names.iter().position(|n| n == unseen).ok_or_else(|| {
                wrong(format!("there is no style `{unseen}`; there are: {}", names.join(", ")))
            })?;
            let last = names.remove(at);
            names.push(last);
        }
        if unseen.is_some() && names.len() == 1 {
            return Err(wrong(
                "the only style cannot be held out; add another folder of it".into(),
            ));
        }
        let mut left_out = LeftOut::new();
        let mut found = Vec::new();
        for name in &names {
            let of_style = if single { folder.to_owned() } else { folder.join(name) };
            found.push(read_style(&of_style, &mut left_out)?);
        }
        let every: BTreeSet<String> = found.iter().flat_map(BTreeMap::keys).cloned().collect();
        let mut concepts = Vec::new();
        for concept in every {
            let missing: Vec<&str> = found
                .iter()
                .zip(&names)
                .filter(|(cells, _)| !cells.contains_key(&concept))
                .map(|(_, style)| style.as_str())
                .collect();
            if missing.is_empty() {
                concepts.push((concept.clone(), vec![concept]));
            } else {
                left_out.push(format!("`{concept}`: not in {}", missing.join(", ")));
            }
        }
        if concepts.len() < FEWEST {
            return Err(wrong(format!(
                "{} names are usable in every style, {FEWEST} are needed; left out: {}",
                concepts.len(),
                if left_out.is_empty() { "nothing".into() } else { left_out.join("; ") }
            )));
        }
        let trained = if names.len() == 1 { 1 } else { names.len() - 1 };
        let styles = names
            .into_iter()
            .zip(&mut found)
            .map(|(name, cells)| Style {
                name,
                cells: concepts.iter().filter_map(|(id, _)| cells.remove(id)).collect(),
            })
            .collect();
        Ok((Self { concepts, styles, trained }, left_out))
    }

    /// So many concepts, drawn by the seed, and as many others at most, of other names; no others if
    /// fewer than twelve remain. Without a number nine tenths, or all if a tenth is fewer than twelve.
    ///
    /// # Errors
    /// If there are not so many, or fewer than twelve are asked for.
    pub fn choose(self, concepts: Option<usize>, seed: u64) -> Result<(Self, Option<Self>)> {
        let all = self.concepts.len();
        let tenth = Some(all / 10).filter(|tenth| *tenth >= FEWEST);
        let concepts = concepts.unwrap_or(all - tenth.unwrap_or(0));
        if !(FEWEST..=all).contains(&concepts) {
            return Err(DataError::Argument(format!(
                "{concepts} concepts are asked for; from {FEWEST} to {all} can be had"
            )));
        }
        let mut order: Vec<usize> = (0..all).collect();
        let mut stream = Stream::new(seed, "concepts", &[]);
        for i in 0..all {
            let j = i + stream.below(all - i);
            order.swap(i, j);
        }
        let (chosen, rest) = order.split_at(concepts);
        let name = |concept: &usize| &self.concepts[*concept].1[0];
        let taken: BTreeSet<&String> = chosen.iter().map(name).collect();
        let rest = rest.iter().filter(|c| !taken.contains(name(c))).take(concepts);
        let [chosen, rest]: [BTreeSet<usize>; 2] =
            [chosen.iter().copied().collect(), rest.copied().collect()];
        let others = (rest.len() >= FEWEST).then(|| self.only(&rest));
        Ok((self.only(&chosen), others))
    }

    fn only(&self, kept: &BTreeSet<usize>) -> Self {
        let styles = self.styles.iter().map(|style| Style {
            name: style.name.clone(),
            cells: kept.iter().map(|c| style.cells[*c].clone()).collect(),
        });
        Self {
            concepts: kept.iter().map(|c| self.concepts[*c].clone()).collect(),
            styles: styles.collect(),
            trained: self.trained,
        }
    }

    /// Styles that are trained on: the first ones.
    pub(super) fn trained(&self) -> usize {
        self.trained
    }

    /// Styles that are held out, after the trained ones.
    pub(super) fn unseen(&self) -> std::ops::Range<usize> {
        self.trained..self.styles.len()
    }

    pub(super) fn style(&self, style: usize) -> &str {
        &self.styles[style].name
    }

    /// Draws a concept over an image, `side` pixels wide, its upper left corner at `place`.
    pub(super) fn draw(
        &self,
        image: &mut RgbImage,
        (concept, style): (usize, usize),
        place: (usize, usize),
        side: usize,
    ) {
        let CutOut { colours, cover } = self.styles[style].cells[concept].resized(side);
        for y in 0..side.min(image.height.saturating_sub(place.1)) {
            for x in 0..side.min(image.width.saturating_sub(place.0)) {
                let (from, to) =
                    ((y * side + x) * 3, ((place.1 + y) * image.width + place.0 + x) * 3);
                for c in 0..3 {
                    let under = u16::from(image.pixels[to + c]);
                    let keep = 255 - u16::from(cover.pixels[from + c]);
                    let over = u16::from(colours.pixels[from + c]);
                    image.pixels[to + c] = (over + under * keep / 255).min(255) as u8;
                }
            }
        }
    }
}

/// What is in a folder, by name.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut out = Vec::new();
    for entry in fs::read_dir(folder).map_err(DataError::io(folder))? {
        let entry = entry.map_err(DataError::io(folder))?;
        let name = entry.file_name();
        // What file managers and archivers leave is no style and no cut-out.
        if !name.to_string_lossy().starts_with('.') && name != "__MACOSX" {
            out.push(entry.path());
        }
    }
    out.sort();
    Ok(out)
}

/// The images of a folder by name, each made square.
fn read_style(folder: &Path, left_out: &mut LeftOut) -> Result<BTreeMap<String, CutOut>> {
    let mut cells = BTreeMap::new();
    for path in entries(folder)?.into_iter().filter(|p| p.is_file()) {
        let stem = path.file_stem().map_or(String::new(), |s| s.to_string_lossy().into_owned());
        let name = stem.replace(['_', '-'], " ").trim().to_lowercase();
        let shown = path.display();
        let bytes = fs::read(&path).map_err(DataError::io(&path))?;
        match decode_rgba(
            &bytes,
            &DecodeOptions { exif_orientation: true, ..DecodeOptions::default() },
        ) {
            Err(e) => left_out.push(format!("{shown}: {e}")),
            Ok(_) if name.is_empty() => left_out.push(format!("{shown}: no name")),
            Ok(image) if image.pixels().all(|p| p.0[3] == 255) => {
                left_out
                    .push(format!("{shown}: nothing in it is transparent, so it is no cut-out"));
            }
            Ok(image) if image.width().max(image.height()) > LONGEST => {
                left_out.push(format!("{shown}: an edge is longer than {LONGEST} pixels"));
            }
            Ok(image) => {
                let mut cell = CutOut::new(&image);
                if cell.cover.width > LARGEST {
                    cell = cell.resized(LARGEST);
                }
                if cells.insert(name.clone(), cell).is_some() {
                    left_out.push(format!("{shown}: replaces another image named `{name}`"));
                }
            }
        }
    }
    Ok(cells)
}
