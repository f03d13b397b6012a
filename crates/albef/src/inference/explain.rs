//! Why an image was found: where in it the words of the text are.

use std::path::Path;

use albef_data::dataset::Skipped;
use albef_data::error::ImageError;
use albef_data::image::{ResizeOrder, RgbImage, jpeg, resize_bicubic};
use albef_report::ResultImage;
use albef_weights::write_atomic;

use super::ground::{Grounding, WordMap};
use crate::Control;
use crate::error::{Error, Result};
use crate::pipeline::Pipeline;

/// Pixels along the longer side of an image of a page.
const THUMBNAIL: usize = 360;
/// Pixels along the longer side of an image with a map over it.
const SHOWN: usize = 768;
/// Quality of JPEG files.
const QUALITY: u8 = 82;
/// The name of the map of the whole text.
const WHOLE: &str = "all words";

/// An image within a square of that many pixels along a side; it is never enlarged.
///
/// ```
/// use albef::{Image, inference::fit};
///
/// let image = fit(&Image::filled(400, 300, [0; 3]), 100);
/// assert_eq!((image.width, image.height), (100, 75));
/// ```
#[must_use]
pub fn fit(image: &RgbImage, side: usize) -> RgbImage {
    let longest = image.width.max(image.height);
    if longest <= side {
        return image.clone();
    }
    let scaled = |pixels: usize| (pixels * side / longest).max(1);
    resize_bicubic(image, scaled(image.width), scaled(image.height), ResizeOrder::default())
}

impl Grounding {
    /// The maps of whole words: those of the pieces of a word (`em`, `##bed`) as their mean.
    #[must_use]
    pub fn whole_words(&self) -> Vec<WordMap> {
        let mut out: Vec<(WordMap, usize)> = Vec::new();
        for piece in self.words.iter().filter(|piece| !piece.word.starts_with('[')) {
            match (piece.word.strip_prefix("##"), out.last_mut()) {
                (Some(rest), Some((word, pieces))) => {
                    word.word.push_str(rest);
                    *pieces += 1;
                    word.map.iter_mut().zip(&piece.map).for_each(|(sum, v)| *sum += v);
                }
                _ => out.push((piece.clone(), 1)),
            }
        }
        for (word, pieces) in &mut out {
            word.map.iter_mut().for_each(|v| *v /= *pieces as f32);
        }
        out.into_iter().map(|(word, _)| word).collect()
    }
}

/// An image that was found, with the maps of the text and of each of its words.
#[derive(Clone, Debug)]
pub struct Explanation {
    image: RgbImage,
    whole: Grounding,
    words: Vec<WordMap>,
}

impl Pipeline {
    /// Where the words of a text are in an image, by the map that the model has by default
    /// ([`Pipeline::ground_options`]).
    ///
    /// # Errors
    /// As [`Pipeline::ground`].
    pub fn explain(&self, image: &RgbImage, text: &str) -> Result<Explanation> {
        let image = fit(image, SHOWN);
        let whole = self.ground(&image, text, &self.ground_options(true))?;
        let words = whole.whole_words();
        Ok(Explanation { image, whole, words })
    }
}

impl Explanation {
    /// Adds a thumbnail of the image and its maps to a result of a page. With a single word its map is left out,
    /// which is much that of the whole text.
    ///
    /// # Errors
    /// If the image has no pixels.
    pub fn put(&self, result: &mut ResultImage) -> Result<()> {
        let small = fit(&self.image, THUMBNAIL);
        result.thumbnail = small_jpeg(&small)?;
        let over = |map: &[f32]| small_jpeg(&self.whole.over(&small, map));
        result.maps.push((WHOLE.to_owned(), over(&self.whole.map)?));
        for word in self.words.iter().filter(|_| self.words.len() > 1) {
            result.maps.push((word.word.clone(), over(&word.map)?));
        }
        Ok(())
    }

    /// Writes the maps over the image as `BEGIN.png` and `BEGIN-WORD.png` to a folder, each whole or not at all.
    /// Returns how many.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write(&self, folder: &Path, begin: &str) -> Result<usize> {
        let write = |name: String, png: Vec<u8>| {
            write_atomic(&folder.join(name), |f| std::io::Write::write_all(f, &png))
        };
        write(format!("{begin}.png"), self.whole.render(&self.image)?)?;
        for (i, word) in self.words.iter().enumerate() {
            let letters: String =
                word.word.chars().filter(|c| c.is_alphanumeric()).take(40).collect();
            let over = self.whole.render_map(&self.image, &word.map, None)?;
            write(format!("{begin}-{}-{letters}.png", i + 1), over)?;
        }
        Ok(1 + self.words.len())
    }
}

fn small_jpeg(image: &RgbImage) -> Result<Vec<u8>> {
    jpeg(image, QUALITY).map_err(|e| Error::Argument(format!("an image cannot be shown: {e}")))
}

/// How to illustrate results.
#[derive(Clone, Copy, Debug, Default)]
pub struct Illustration<'a> {
    /// The text whose words are shown; without one there are thumbnails alone.
    pub text: Option<&'a str>,
    /// Whether results get thumbnails and maps.
    pub page: bool,
    /// Folder to which maps are written as files, named by rank, image and word.
    pub folder: Option<&'a Path>,
}

impl Pipeline {
    /// Adds thumbnails and maps to the results of a page. `read` gives the image of a result by its number; results
    /// whose image cannot be read are taken out and given back.
    ///
    /// # Errors
    /// If the model fails, a file cannot be written, or [`crate::Error::Cancelled`].
    pub fn illustrate(
        &self,
        results: &mut Vec<ResultImage>,
        how: &Illustration<'_>,
        read: &dyn Fn(usize) -> Result<RgbImage, ImageError>,
        control: &Control,
    ) -> Result<Vec<Skipped>> {
        if let Some(folder) = how.folder {
            std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        }
        let (mut skipped, mut kept) = (Vec::new(), Vec::new());
        let all = results.len();
        for (i, mut result) in std::mem::take(results).into_iter().enumerate() {
            control.check()?;
            let image = match read(i) {
                Ok(image) => image,
                Err(error) => {
                    skipped.push(Skipped { name: result.name, error });
                    continue;
                }
            };
            match how.text {
                Some(text) => {
                    let found = self.explain(&image, text)?;
                    if how.page {
                        found.put(&mut result)?;
                    }
                    if let Some(folder) = how.folder {
                        found.write(folder, &file_name(i + 1, &result.name))?;
                    }
                }
                None if how.page => result.thumbnail = small_jpeg(&fit(&image, THUMBNAIL))?,
                None => {}
            }
            kept.push(result);
            control.advance("heat maps", i + 1, all);
        }
        *results = kept;
        Ok(skipped)
    }
}

/// The rank with the name of an image, without its ending and what files should not be named.
fn file_name(rank: usize, name: &str) -> String {
    let stem = Path::new(name).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let plain = |c: &char| c.is_alphanumeric() || "-_".contains(*c);
    let stem: String = stem.chars().filter(plain).take(40).collect();
    format!("{rank:02}-{stem}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::tests::nano;

    #[test]
    fn pieces_are_joined_to_words_and_every_word_has_a_map() {
        let model = nano();
        let image = RgbImage::filled(900, 30, [10, 200, 90]);
        let found = model.explain(&image, "a dog").unwrap();
        let mut result = ResultImage::default();
        found.put(&mut result).unwrap();
        let names: Vec<&str> = result.maps.iter().map(|(word, _)| word.as_str()).collect();
        assert_eq!(names, ["all words", "a", "dog"]);
        let jpegs = result.maps.iter().map(|(_, jpeg)| jpeg).chain([&result.thumbnail]);
        assert!({ jpegs }.all(|jpeg| jpeg.starts_with(&[0xff, 0xd8])));
        let piece = |word: &str, v: f32| WordMap { word: word.into(), map: vec![v, 0.0] };
        let whole = Grounding {
            words: vec![
                piece("em", 1.0),
                piece("##bed", 3.0),
                piece("it", 5.0),
                piece("[SEP]", 9.0),
            ],
            ..found.whole.clone()
        };
        assert_eq!(whole.whole_words(), [piece("embed", 2.0), piece("it", 5.0)]);

        let read = |i: usize| match i {
            0 => Ok(image.clone()),
            _ => albef_data::image::decode(b"no image", &Default::default()),
        };
        let named = |name: &str| ResultImage { name: name.into(), ..ResultImage::default() };
        let mut results = vec![named("../a b.png"), named("none.png")];
        let maps = tempfile::tempdir().unwrap();
        let folder = maps.path().join("maps");
        let how = Illustration { text: Some("dog"), page: true, folder: Some(&folder) };
        let skipped = model.illustrate(&mut results, &how, &read, &Control::new()).unwrap();
        assert_eq!((results.len(), skipped[0].name.as_str()), (1, "none.png"));
        assert_eq!(results[0].maps.len(), 1, "the map of a single word is that of the text");
        assert!(folder.join("01-ab.png").is_file() && folder.join("01-ab-1-dog.png").is_file());

        let dir = tempfile::tempdir().unwrap();
        assert_eq!(found.write(dir.path(), "01").unwrap(), 3);
        for name in ["01.png", "01-1-a.png", "01-2-dog.png"] {
            assert!(
                std::fs::read(dir.path().join(name)).unwrap().starts_with(b"\x89PNG"),
                "{name}"
            );
        }
    }
}
