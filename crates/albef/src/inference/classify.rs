//! Zero-shot classification: the classes are texts, filled into templates.

use albef_data::dataset::Skipped;
use albef_data::image::RgbImage;
use burn::tensor::Tensor;
use serde::Serialize;

use super::matching::{ForImages, match_probability};
use crate::Control;
use crate::error::{Error, Result};
use crate::eval::retrieval::similarities;
use crate::images::ImageSet;
use crate::pipeline::{BATCH, Pipeline};

/// How to classify.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassifyOptions {
    /// Sentences with `{}` for the class; the features of several are averaged, and the matching head reads the
    /// first.
    pub templates: Vec<String>,
}

impl Default for ClassifyOptions {
    fn default() -> Self {
        Self { templates: vec!["{}".into(), "a picture of a {}".into()] }
    }
}

impl ClassifyOptions {
    /// Sentences with `{}` for the class.
    #[must_use]
    pub fn templates(mut self, templates: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.templates = templates.into_iter().map(Into::into).collect();
        self
    }
}

/// A class with its scores.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassScore {
    /// The class.
    pub label: String,
    /// Softmax over the classes of the cosines over the learned temperature.
    pub probability: f64,
    /// Cosine of the image and the mean of the templates.
    pub cosine: f32,
    /// The probability that the matching head gives the first template.
    pub match_probability: f64,
}

/// The classes, best first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Classification {
    /// Classes by falling probability.
    pub classes: Vec<ClassScore>,
    /// Filled templates that are longer than the model reads.
    #[serde(skip)]
    pub truncated_texts: usize,
}

impl Pipeline {
    /// How this model classifies where nothing else is asked for: by the templates of its
    /// [`ModelDefaults`](crate::ModelDefaults), if it has some.
    #[must_use]
    pub fn classify_options(&self) -> ClassifyOptions {
        match &self.defaults().templates[..] {
            [] => ClassifyOptions::default(),
            own => ClassifyOptions::default().templates(own),
        }
    }

    /// Scores the classes `labels` on an image without training for them.
    ///
    /// # Errors
    /// If there is no class or no template, or a template lacks `{}`; [`Error::EmptyText`] for a class without words.
    pub fn classify(
        &self,
        image: &RgbImage,
        labels: &[String],
        options: &ClassifyOptions,
    ) -> Result<Classification> {
        let classes = self.class_texts(labels, options)?;
        let pixels = self.pixels(std::slice::from_ref(image));
        let found = self.classify_pixels(pixels, labels, &classes)?.into_iter().next();
        found.ok_or(Error::OutputNotFinite { what: "class scores" })
    }

    /// [`Pipeline::classify`] for the usable images of a set.
    ///
    /// # Errors
    /// As [`Pipeline::classify`], or [`Error::Cancelled`].
    pub fn classify_set(
        &self,
        images: &ImageSet,
        labels: &[String],
        options: &ClassifyOptions,
        control: &Control,
    ) -> Result<ForImages<Classification>> {
        let classes = self.class_texts(labels, options)?;
        let all: Vec<usize> = (0..images.len()).collect();
        let (mut out, mut skipped) = (Vec::with_capacity(all.len()), Vec::new());
        for part in all.chunks(BATCH) {
            control.check()?;
            let (pixels, failed) =
                images.load(part, self.image_res(), self.reader(), self.device());
            let found = self.classify_pixels(pixels, labels, &classes)?;
            let usable = |(i, _): &(usize, _)| !failed.iter().any(|(f, _)| f == i);
            out.extend(part.iter().copied().zip(found).filter(usable));
            skipped.extend(failed.into_iter().map(|(i, s)| Skipped { name: images.name(i), ..s }));
            control.advance("images", part.last().map_or(0, |i| i + 1), all.len());
        }
        Ok(ForImages { found: out, skipped })
    }

    /// The features and tokens of the classes.
    fn class_texts(&self, labels: &[String], options: &ClassifyOptions) -> Result<ClassTexts> {
        let templates = &options.templates;
        if labels.is_empty() || templates.is_empty() {
            return Err(Error::Argument("classification needs a class and a template".into()));
        }
        if labels.iter().any(|label| label.trim().is_empty()) {
            return Err(Error::EmptyText);
        }
        if let Some(bad) = templates.iter().find(|t| !t.contains("{}")) {
            return Err(Error::Argument(format!(
                "the template `{bad}` has no `{{}}` in the place of the class"
            )));
        }
        let mut out = ClassTexts::default();
        for label in labels {
            let prompts: Vec<String> = templates.iter().map(|t| t.replace("{}", label)).collect();
            let texts: Vec<_> = prompts.iter().map(|prompt| self.caption(prompt)).collect();
            out.truncated += texts.iter().filter(|t| t.truncated).count();
            out.features.extend(self.mean_feature(&prompts)?);
            out.tokens.extend(texts.into_iter().next().map(|t| t.ids));
        }
        Ok(out)
    }

    /// The classes of normalized images `[n, 3, S, S]`.
    fn classify_pixels(
        &self,
        pixels: Tensor<4>,
        labels: &[String],
        texts: &ClassTexts,
    ) -> Result<Vec<Classification>> {
        let (features, logits) = self.match_pixels(pixels, &texts.tokens)?;
        let of_image = |(feature, logits): (&[f32], &[[f32; 2]])| {
            let cosines = similarities(feature, &texts.features);
            let top = cosines.iter().copied().fold(f32::MIN, f32::max);
            let odds = |cosine: f32| f64::from((cosine - top) / self.temperature()).exp();
            let sum: f64 = cosines.iter().map(|cosine| odds(*cosine)).sum();
            let score = |((label, cosine), logits): ((&String, f32), &[f32; 2])| ClassScore {
                label: label.clone(),
                probability: odds(cosine) / sum,
                cosine,
                match_probability: match_probability(*logits),
            };
            let mut classes: Vec<ClassScore> =
                labels.iter().zip(cosines).zip(logits).map(score).collect();
            classes.sort_by(|a, b| b.cosine.total_cmp(&a.cosine));
            Classification { classes, truncated_texts: texts.truncated }
        };
        let features = features.chunks(self.embed_dim().max(1));
        Ok(features.zip(logits.chunks(labels.len())).map(of_image).collect())
    }
}

/// The texts of classes as the model reads them.
#[derive(Default)]
struct ClassTexts {
    /// Unit-length features `[classes, E]`, means over the templates.
    features: Vec<f32>,
    /// Ids of the first template of each class.
    tokens: Vec<Vec<u32>>,
    truncated: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::tests::nano;

    #[test]
    fn probabilities_sum_to_one_and_templates_without_a_place_are_errors() {
        let (model, image) = (nano(), RgbImage::filled(30, 20, [10, 200, 90]));
        let labels = ["dog".to_owned(), "a".to_owned(), "a dog".to_owned()];
        let found = model.classify(&image, &labels, &ClassifyOptions::default()).unwrap();
        let sum: f64 = found.classes.iter().map(|c| c.probability).sum();
        assert!((sum - 1.0).abs() < 1e-9, "{found:?}");
        assert!(found.classes.is_sorted_by(|a, b| a.cosine >= b.cosine), "{found:?}");
        assert!(
            (found.classes[0].match_probability - {
                let best = &found.classes[0].label;
                model.match_text(std::slice::from_ref(&image), best).unwrap()[0].probability
            })
            .abs()
                < 1e-5
        );
        let bad = ClassifyOptions::default().templates(["a picture"]);
        assert!(matches!(model.classify(&image, &labels, &bad), Err(Error::Argument(_))));
        let empty = model.classify(&image, &[String::new()], &ClassifyOptions::default());
        assert!(matches!(empty, Err(Error::EmptyText)), "{empty:?}");
    }

    #[test]
    fn the_images_of_a_set_are_classified_and_matched_as_one_by_one() {
        let (model, dir) = (nano(), tempfile::tempdir().unwrap());
        let images: Vec<RgbImage> =
            (0..3).map(|i| RgbImage::filled(20 + i, 24, [40 * i as u8, 200, 9])).collect();
        let mut paths = vec![dir.path().join("none.png")];
        for (i, image) in images.iter().enumerate() {
            paths.push(dir.path().join(format!("{i}.png")));
            std::fs::write(&paths[i + 1], albef_data::scenes::png(image).unwrap()).unwrap();
        }
        let set = ImageSet::of_files(paths);
        let labels = ["dog".to_owned(), "a dog".to_owned()];
        let (options, control) = (ClassifyOptions::default(), Control::new());
        let ForImages { found, skipped } =
            model.classify_set(&set, &labels, &options, &control).unwrap();
        assert_eq!((found.len(), skipped.len(), found[0].0), (3, 1, 1));
        let ForImages { found: matches, skipped: unmatched } =
            model.match_set(&set, "a dog", &control).unwrap();
        assert_eq!((matches.len(), unmatched.len()), (3, 1));
        for (image, ((i, classes), (j, matched))) in images.iter().zip(found.iter().zip(&matches)) {
            assert_eq!(i, j);
            let alone = model.classify(image, &labels, &options).unwrap();
            for (a, b) in classes.classes.iter().zip(&alone.classes) {
                assert_eq!(a.label, b.label);
                assert!((a.probability - b.probability).abs() < 1e-4, "{a:?} {b:?}");
            }
            let alone = model.match_text(std::slice::from_ref(image), "a dog").unwrap()[0];
            assert!(
                (matched.probability - alone.probability).abs() < 1e-5,
                "{matched:?} {alone:?}"
            );
        }
        let empty = model.classify(&images[0], &[], &options);
        assert!(matches!(empty, Err(Error::Argument(_))), "{empty:?}");
    }
}
