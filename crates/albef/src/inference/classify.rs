//! Zero-shot classification: the classes are texts, filled into templates.

use albef_data::image::RgbImage;
use serde::Serialize;

use super::matching::match_probability;
use crate::error::{Error, Result};
use crate::eval::retrieval::similarities;
use crate::pipeline::Pipeline;

/// How to classify.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassifyOptions {
    /// Sentences with `{}` for the class; the features of several are averaged.
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
    /// Mean over the templates of the probability that the matching head gives.
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
        let prompts: Vec<String> = labels
            .iter()
            .flat_map(|label| templates.iter().map(move |t| t.replace("{}", label)))
            .collect();
        let texts: Vec<_> = prompts.iter().map(|prompt| self.caption(prompt)).collect();
        let truncated_texts = texts.iter().filter(|t| t.truncated).count();
        let tokens: Vec<Vec<u32>> = texts.into_iter().map(|t| t.ids).collect();
        let (image, logits) =
            self.match_pixels(self.pixels(std::slice::from_ref(image)), &tokens)?;
        let mut classes = Vec::with_capacity(labels.len());
        for (i, label) in labels.iter().enumerate() {
            let own = i * templates.len()..(i + 1) * templates.len();
            let matches: f64 = logits[own.clone()].iter().map(|l| match_probability(*l)).sum();
            classes.push(ClassScore {
                label: label.clone(),
                probability: 0.0,
                cosine: similarities(&self.mean_feature(&prompts[own])?, &image)[0],
                match_probability: matches / templates.len() as f64,
            });
        }
        let top = classes.iter().map(|c| c.cosine).fold(f32::MIN, f32::max);
        let temperature = self.temperature();
        let mut sum = 0.0;
        for class in &mut classes {
            class.probability = f64::from((class.cosine - top) / temperature).exp();
            sum += class.probability;
        }
        classes.iter_mut().for_each(|class| class.probability /= sum);
        classes.sort_by(|a, b| b.cosine.total_cmp(&a.cosine));
        Ok(Classification { classes, truncated_texts })
    }

    /// The mean of the features of texts, unit length.
    fn mean_feature(&self, texts: &[String]) -> Result<Vec<f32>> {
        let mut mean = vec![0.0_f32; self.embed_dim()];
        for text in texts {
            let feature = self.embed_text(text)?;
            mean.iter_mut().zip(feature).for_each(|(m, f)| *m += f);
        }
        let norm = mean.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-12);
        mean.iter_mut().for_each(|v| *v /= norm);
        Ok(mean)
    }
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
        let bad = ClassifyOptions::default().templates(["a picture"]);
        assert!(matches!(model.classify(&image, &labels, &bad), Err(Error::Argument(_))));
        let empty = model.classify(&image, &[String::new()], &ClassifyOptions::default());
        assert!(matches!(empty, Err(Error::EmptyText)), "{empty:?}");
    }
}
