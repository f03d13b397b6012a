//! Features of images, texts and pairs, as other programs take them: of `[CLS]` or of all tokens, projected to
//! the common space or not.

use albef_data::dataset::Skipped;
use albef_data::image::RgbImage;
use burn::tensor::Tensor;

use super::feature::{ExtractOptions, FeatureName, FeatureRows, FeatureTokens};
use super::journal::{Extracted, FeatureJournal};
use crate::Control;
use crate::error::{Error, Result};
use crate::images::ImageSet;
use crate::model::{DropoutRng, ImageContext, OutputRows, TokenBatch};
use crate::ops::index;
use crate::params::outputs;
use crate::pipeline::{BATCH, Pipeline};

/// Rows of items of these lengths.
fn split(values: Vec<f32>, width: usize, lengths: impl Iterator<Item = usize>) -> Vec<FeatureRows> {
    let mut rest = &values[..];
    let mut out = Vec::new();
    for length in lengths {
        let (own, others) = rest.split_at((length * width).min(rest.len()));
        out.push(FeatureRows { width, values: own.to_vec() });
        rest = others;
    }
    out
}

/// The features of a part of a set, and its images that cannot be used.
type Part = (Vec<Extracted>, Vec<(usize, Skipped)>);

/// The captions of an image that have words, by their numbers.
fn spoken(images: &ImageSet, image: usize) -> Vec<usize> {
    let captions = images.samples()[image].captions.iter().enumerate();
    captions.filter(|(_, text)| !text.trim().is_empty()).map(|(c, _)| c).collect()
}

impl Pipeline {
    /// Features of images of any size.
    ///
    /// # Errors
    /// [`Error::NoProjections`] for weights without the contrastive side, if projections are asked for.
    pub fn extract_images(
        &self,
        images: &[RgbImage],
        options: ExtractOptions,
    ) -> Result<Vec<FeatureRows>> {
        let mut out = Vec::with_capacity(images.len());
        for part in images.chunks(BATCH) {
            out.extend(self.extract_pixels(self.pixels(part), options)?);
        }
        Ok(out)
    }

    /// [`Pipeline::extract_images`] of normalized pixels `[n, 3, S, S]`.
    pub(crate) fn extract_pixels(
        &self,
        pixels: Tensor<4>,
        options: ExtractOptions,
    ) -> Result<Vec<FeatureRows>> {
        let encoders = &self.model().encoders;
        let states = encoders.visual_encoder.forward(pixels)?;
        let (rows, each) = match options.tokens {
            FeatureTokens::Cls => (states.class_tokens(), 1),
            FeatureTokens::All => (states.tokens.clone(), states.length),
        };
        let rows = match options.projected {
            true => {
                self.needs_contrast()?;
                encoders.project_image(rows)
            }
            false => rows,
        };
        let width = rows.dims()[1];
        let lengths = std::iter::repeat_n(each, states.batch);
        Ok(split(outputs(rows, "image features")?, width, lengths))
    }

    /// Features of the usable images of a set, or, with `pairs`, of each of them with each of its captions, one after
    /// another to `each`. Gives the images that cannot be used.
    ///
    /// # Errors
    /// [`Error::Cancelled`], or of `each`.
    pub fn extract_set(
        &self,
        images: &ImageSet,
        pairs: bool,
        options: ExtractOptions,
        control: &Control,
        each: &mut dyn FnMut(&FeatureName, &FeatureRows) -> Result<()>,
    ) -> Result<Vec<Skipped>> {
        self.extract_parts(images, pairs, options, None, control, each)
    }

    /// [`Pipeline::extract_set`] with a journal: what an earlier call wrote into it is not computed again.
    ///
    /// # Errors
    /// As [`Pipeline::extract_set`], or if the journal cannot be written.
    pub fn extract_set_resumably(
        &self,
        images: &ImageSet,
        pairs: bool,
        options: ExtractOptions,
        journal: &mut FeatureJournal,
        control: &Control,
        each: &mut dyn FnMut(&FeatureName, &FeatureRows) -> Result<()>,
    ) -> Result<Vec<Skipped>> {
        self.extract_parts(images, pairs, options, Some(journal), control, each)
    }

    fn extract_parts(
        &self,
        images: &ImageSet,
        pairs: bool,
        options: ExtractOptions,
        mut journal: Option<&mut FeatureJournal>,
        control: &Control,
        each: &mut dyn FnMut(&FeatureName, &FeatureRows) -> Result<()>,
    ) -> Result<Vec<Skipped>> {
        let all: Vec<usize> = (0..images.len()).collect();
        let mut skipped = Vec::new();
        for part in all.chunks(BATCH) {
            control.check()?;
            let kept = journal.as_mut().and_then(|j| self.kept_part(images, part, pairs, j));
            let (features, failed) = match kept {
                Some(kept) => kept,
                None => {
                    let found = self.extract_part(images, part, pairs, options)?;
                    if let Some(journal) = &mut journal {
                        journal.append(&found.0)?;
                    }
                    found
                }
            };
            for Extracted { image, caption, rows } in &features {
                let text = caption.map(|c| images.samples()[*image].captions[c].clone());
                each(&FeatureName { image: Some(images.full_name(*image)), text }, rows)?;
            }
            skipped.extend(failed.into_iter().map(|(i, s)| Skipped { name: images.name(i), ..s }));
            control.advance("images", part.last().map_or(0, |i| i + 1), all.len());
        }
        Ok(skipped)
    }

    /// The features of a part that a journal has, and why the images without any cannot be used. `None` if it has none,
    /// or one of these images can be used by now.
    fn kept_part(
        &self,
        images: &ImageSet,
        part: &[usize],
        pairs: bool,
        journal: &mut FeatureJournal,
    ) -> Option<Part> {
        let kept = journal.next()?;
        let fits = |e: &Extracted| {
            let captions =
                part.contains(&e.image).then(|| images.samples()[e.image].captions.len());
            captions.is_some_and(|n| e.caption.is_none_or(|c| c < n))
        };
        let speaks = |i: &usize| !pairs || !spoken(images, *i).is_empty();
        let without = |i: &usize| kept.iter().all(|e| e.image != *i);
        let missing: Vec<usize> =
            part.iter().copied().filter(|i| without(i) && speaks(i)).collect();
        let (_, failed) = images.load(&missing, self.image_res(), self.reader(), self.device());
        if failed.len() == missing.len() && kept.iter().all(fits) {
            return Some((kept, failed));
        }
        journal.reject(&kept);
        None
    }

    /// The features of a part of a set, and the images that cannot be used.
    fn extract_part(
        &self,
        images: &ImageSet,
        part: &[usize],
        pairs: bool,
        options: ExtractOptions,
    ) -> Result<Part> {
        let (pixels, failed) = images.load(part, self.image_res(), self.reader(), self.device());
        let usable = |i: usize| failed.iter().all(|(f, _)| *f != i);
        let mut features = Vec::new();
        if !pairs {
            let rows = self.extract_pixels(pixels, options)?;
            let found = part.iter().zip(rows).filter(|(image, _)| usable(**image));
            features.extend(found.map(|(image, rows)| Extracted {
                image: *image,
                caption: None,
                rows,
            }));
            return Ok((features, failed));
        }
        // The place in the part, the image, the number of the caption.
        let found: Vec<(usize, usize, usize)> = (part.iter().enumerate())
            .filter(|(_, image)| usable(**image))
            .flat_map(|(at, image)| {
                spoken(images, *image).into_iter().map(move |c| (at, *image, c))
            })
            .collect();
        for some in found.chunks(BATCH) {
            let at: Vec<usize> = some.iter().map(|(at, _, _)| *at).collect();
            let pixels = pixels.clone().select(0, index(&at, self.device()));
            let texts: Vec<&String> =
                some.iter().map(|(_, image, c)| &images.samples()[*image].captions[*c]).collect();
            let rows = self.extract_pixel_pairs(pixels, &texts, options)?;
            features.extend(some.iter().zip(rows).map(|((_, image, caption), rows)| Extracted {
                image: *image,
                caption: Some(*caption),
                rows,
            }));
        }
        Ok((features, failed))
    }

    /// Features of texts, truncated as for retrieval ([`Pipeline::caption_limits`]).
    ///
    /// # Errors
    /// [`Error::EmptyText`] for a text without words, [`Error::NoProjections`] as for images.
    pub fn extract_texts(
        &self,
        texts: &[impl AsRef<str>],
        options: ExtractOptions,
    ) -> Result<Vec<FeatureRows>> {
        let encoders = &self.model().encoders;
        let mut out = Vec::with_capacity(texts.len());
        for part in texts.chunks(BATCH) {
            let tokens = self.packed(part)?;
            let rows = self.rows_of(&tokens, options, |read| {
                encoders.text_encoder.text(&tokens, read, &mut DropoutRng::none(), None)
            })?;
            let rows = match options.projected {
                true => {
                    self.needs_contrast()?;
                    encoders.text_feat(rows)
                }
                false => rows,
            };
            let width = rows.dims()[1];
            out.extend(split(outputs(rows, "text features")?, width, lengths(&tokens, options)));
        }
        Ok(out)
    }

    /// Fused states of pairs, image `i` with text `i`: rows as wide as the text encoder. Projections are not
    /// asked for: there are none.
    ///
    /// # Errors
    /// [`Error::EmptyText`], or if there are not as many images as texts.
    pub fn extract_pairs(
        &self,
        images: &[RgbImage],
        texts: &[impl AsRef<str>],
        options: ExtractOptions,
    ) -> Result<Vec<FeatureRows>> {
        if images.len() != texts.len() {
            let (images, texts) = (images.len(), texts.len());
            return Err(Error::Argument(format!("{images} images and {texts} texts are no pairs")));
        }
        let mut out = Vec::with_capacity(images.len());
        for (images, texts) in images.chunks(BATCH).zip(texts.chunks(BATCH)) {
            out.extend(self.extract_pixel_pairs(self.pixels(images), texts, options)?);
        }
        Ok(out)
    }

    /// [`Pipeline::extract_pairs`] of normalized pixels `[n, 3, S, S]`.
    pub(crate) fn extract_pixel_pairs(
        &self,
        pixels: Tensor<4>,
        texts: &[impl AsRef<str>],
        options: ExtractOptions,
    ) -> Result<Vec<FeatureRows>> {
        let encoders = &self.model().encoders;
        let tokens = self.packed(texts)?;
        let states = encoders.visual_encoder.forward(pixels)?;
        let image_of: Vec<usize> = (0..texts.len()).collect();
        let context = ImageContext { states: &states, image_of: &image_of, visible: None };
        let rows = self.rows_of(&tokens, options, |read| {
            let none = &mut DropoutRng::none();
            encoders.text_encoder.multi_modal(&tokens, context, read, none, None)
        })?;
        let width = rows.dims()[1];
        Ok(split(outputs(rows, "fused features")?, width, lengths(&tokens, options)))
    }

    fn packed(&self, texts: &[impl AsRef<str>]) -> Result<TokenBatch> {
        let texts: Vec<&str> = texts.iter().map(AsRef::as_ref).collect();
        if texts.iter().any(|text| text.trim().is_empty()) {
            return Err(Error::EmptyText);
        }
        let ids: Vec<Vec<u32>> = texts.iter().map(|text| self.tokens(text)).collect();
        Ok(TokenBatch::packed(&ids))
    }

    /// Runs an encoder for the rows that are asked for.
    fn rows_of(
        &self,
        tokens: &TokenBatch,
        options: ExtractOptions,
        run: impl FnOnce(OutputRows<'_>) -> Result<Tensor<2>>,
    ) -> Result<Tensor<2>> {
        match options.tokens {
            FeatureTokens::Cls => run(OutputRows::Rows(&vec![vec![0]; tokens.len()])),
            FeatureTokens::All => run(OutputRows::All),
        }
    }
}

/// Rows of each text.
fn lengths(tokens: &TokenBatch, options: ExtractOptions) -> impl Iterator<Item = usize> {
    let all = options.tokens == FeatureTokens::All;
    tokens.sequences.iter().map(move |s| if all { s.rows } else { 1 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::tests::nano;

    fn image(colour: u8) -> RgbImage {
        RgbImage::filled(20, 30, [colour, 40, 200])
    }

    #[test]
    fn the_default_is_what_search_compares() {
        let model = nano();
        let images = [image(3), image(200)];
        let found = model.extract_images(&images, ExtractOptions::default()).unwrap();
        let features = model.embed_images(&images).unwrap();
        for (rows, feature) in found.iter().zip(&features) {
            assert_eq!((rows.len(), &rows.values), (1, feature));
        }
        let texts = ["a dog", "two cats and a dog"];
        let found = model.extract_texts(&texts, ExtractOptions::default()).unwrap();
        for (rows, text) in found.iter().zip(texts) {
            let feature = model.embed_text(text).unwrap();
            let close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-6;
            assert!(rows.values.iter().zip(&feature).all(close));
        }
    }

    #[test]
    fn all_tokens_begin_with_the_class_token_and_texts_keep_their_lengths() {
        let model = nano();
        let (images, texts) = ([image(3), image(200)], ["a dog", "two cats and a dog"]);
        let all =
            |projected| ExtractOptions::default().tokens(FeatureTokens::All).projected(projected);
        let cls = |projected| ExtractOptions::default().projected(projected);
        let begins = |many: &[FeatureRows], one: &[FeatureRows]| {
            assert_eq!(many.len(), one.len());
            for (many, one) in many.iter().zip(one) {
                assert!(many.len() > 1 && one.len() == 1 && many.width == one.width);
                let close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-5;
                assert!(many.values.iter().zip(&one.values).all(close));
            }
        };
        for projected in [false, true] {
            let found = model.extract_images(&images, all(projected)).unwrap();
            begins(&found, &model.extract_images(&images, cls(projected)).unwrap());
            let found = model.extract_texts(&texts, all(projected)).unwrap();
            begins(&found, &model.extract_texts(&texts, cls(projected)).unwrap());
            let lengths: Vec<usize> = found.iter().map(FeatureRows::len).collect();
            assert_eq!(lengths, texts.map(|text| model.tokens(text).len()));
        }
        let found = model.extract_pairs(&images, &texts, all(false)).unwrap();
        begins(&found, &model.extract_pairs(&images, &texts, cls(false)).unwrap());
        assert!(found[0].width == model.config().text.hidden);
        // The other image, other states.
        let other = [image(200), image(200)];
        assert_ne!(model.extract_pairs(&other, &texts, all(false)).unwrap()[0], found[0]);
        assert_eq!(model.extract_pairs(&other, &texts, all(false)).unwrap()[1], found[1]);
    }

    #[test]
    fn what_is_no_pair_is_refused() {
        let model = nano();
        let none = ExtractOptions::default();
        assert!(model.extract_pairs(&[image(1)], &["a", "b"], none).is_err());
        assert!(matches!(model.extract_texts(&[" "], none), Err(Error::EmptyText)));
    }

    #[test]
    fn what_a_journal_has_is_not_computed_again() {
        let dir = tempfile::tempdir().unwrap();
        let paths: Vec<_> = (0..70).map(|i| dir.path().join(format!("{i:02}.png"))).collect();
        for (i, path) in paths.iter().enumerate() {
            let png = albef_data::scenes::png(&image(i as u8)).unwrap();
            std::fs::write(path, if i == 40 { b"no image" } else { &png[..] }).unwrap();
        }
        let images = ImageSet::of_files(paths.clone());
        let (model, options) = (nano(), ExtractOptions::default());
        let output = dir.path().join("features.npy");
        let open = || FeatureJournal::open(&output, &model, &images, false, options).unwrap();
        let extract = |journal: &mut FeatureJournal, control: &Control, last: usize| {
            let mut found = Vec::new();
            let skipped = model.extract_set_resumably(
                &images,
                false,
                options,
                journal,
                control,
                &mut |name, rows| {
                    found.push((name.clone(), rows.clone()));
                    if found.len() == last {
                        control.cancel();
                    }
                    Ok(())
                },
            );
            (found, skipped)
        };
        let (all, skipped) = extract(&mut open(), &Control::new(), 0);
        let names: Vec<String> = skipped.unwrap().into_iter().map(|s| s.name).collect();
        assert_eq!((all.len(), names.len()), (69, 1));
        open().remove().unwrap();

        let (_, ended) = extract(&mut open(), &Control::new(), BATCH);
        assert!(matches!(ended, Err(Error::Cancelled)));
        // What is kept is told from what is computed by its values.
        let mut journal = open();
        let mut kept = journal.next().unwrap();
        journal.reject(&kept);
        kept.iter_mut().for_each(|e| e.rows.values.fill(42.0));
        journal.append(&kept).unwrap();
        let (found, skipped) = extract(&mut open(), &Control::new(), 0);
        assert_eq!(skipped.unwrap().len(), 1);
        for (i, ((name, rows), (expected, values))) in found.iter().zip(&all).enumerate() {
            assert_eq!(name, expected);
            match i < BATCH {
                true => assert!(rows.values.iter().all(|v| *v == 42.0)),
                false => assert_eq!(rows, values),
            }
        }
        assert_eq!(found.len(), all.len());
        // An image that has become one is another set.
        std::fs::write(&paths[40], std::fs::read(&paths[39]).unwrap()).unwrap();
        let (found, skipped) = extract(&mut open(), &Control::new(), 0);
        assert_eq!((found.len(), skipped.unwrap().len()), (70, 0));
        assert!(found[0].1.values.iter().all(|v| *v != 42.0));
    }
}
