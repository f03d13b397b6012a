//! Text-to-image search: rank by cosine, then re-rank the best candidates by the matching head.

use albef_data::dataset::{Location, Skipped};
use albef_data::names;
use serde::Serialize;

use super::features::ImageFeatures;
use super::matching::match_probability;
use crate::Control;
use crate::error::{Error, Result};
use crate::eval::retrieval::{Score, similarities, top_k};
use crate::images::ImageSet;
use crate::pipeline::Pipeline;

/// Candidates that are fused with the text at a time.
const FUSED: usize = 16;

/// How to search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SearchOptions {
    /// Images to return.
    pub top_k: usize,
    /// Candidates that are re-ranked by the matching head; 0 for the cosine alone.
    pub rerank_k: usize,
    /// The score of re-ranking.
    pub score: Score,
    /// Weight of the matching head in [`Score::Posterior`]; if not given that of the model's
    /// [`ModelDefaults`](crate::ModelDefaults), or 1.
    pub match_weight: Option<f32>,
    /// Match probability under which nothing matches; if not given that of the model's defaults, if it has one.
    pub threshold: Option<f64>,
}

impl Default for SearchOptions {
    fn default() -> Self {
        let score = Score::Posterior;
        Self { top_k: 10, rerank_k: 64, score, match_weight: None, threshold: None }
    }
}

impl SearchOptions {
    /// Images to return.
    #[must_use]
    pub fn top_k(mut self, top_k: usize) -> Self {
        self.top_k = top_k;
        self
    }

    /// Candidates that are re-ranked.
    #[must_use]
    pub fn rerank_k(mut self, rerank_k: usize) -> Self {
        self.rerank_k = rerank_k;
        self
    }

    /// The score of re-ranking.
    #[must_use]
    pub fn score(mut self, score: Score) -> Self {
        self.score = score;
        self
    }

    /// Weight of the matching head.
    #[must_use]
    pub fn match_weight(mut self, weight: Option<f32>) -> Self {
        self.match_weight = weight;
        self
    }

    /// Match probability under which nothing matches.
    #[must_use]
    pub fn threshold(mut self, threshold: Option<f64>) -> Self {
        self.threshold = threshold;
        self
    }

    /// What results are ordered by: the name of the score, or `cosine`.
    #[must_use]
    pub fn order(&self) -> &'static str {
        if self.rerank_k == 0 { "cosine" } else { self.score.name() }
    }
}

/// Where an image is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Place {
    /// A file.
    File {
        /// Its path.
        path: String,
        /// Its bytes, where they are no UTF-8.
        #[serde(skip_serializing_if = "Option::is_none")]
        path_bytes: Option<Vec<u8>>,
    },
    /// A member of a tar archive.
    Member {
        /// Path of the archive.
        archive: String,
        /// Name in the archive.
        member: String,
        /// Its bytes, where they are no UTF-8.
        #[serde(skip_serializing_if = "Option::is_none")]
        member_bytes: Option<Vec<u8>>,
    },
}

/// An image that was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hit {
    /// Index in the image set.
    #[serde(skip)]
    pub index: usize,
    /// Name as in the source.
    pub image: String,
    /// Cosine of the features.
    pub cosine: f32,
    /// Probability of a match; `None` without re-ranking.
    pub probability: Option<f64>,
    /// The score that results are ordered by.
    pub score: f32,
    /// Where the image is.
    #[serde(flatten)]
    pub place: Place,
}

/// Results of a search, best first.
#[derive(Clone, Debug, Serialize)]
pub struct SearchResults {
    /// The text.
    pub query: String,
    /// What results are ordered by.
    pub order: &'static str,
    /// The best images.
    pub results: Vec<Hit>,
    /// Images that were searched.
    pub gallery: usize,
    /// Whether something matches.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// Whether the text is longer than the model reads.
    #[serde(skip)]
    pub truncated: bool,
}

/// Whether a search found something: the best match probability against a threshold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Verdict {
    /// The highest match probability among the images that were re-ranked; `None` without re-ranking.
    pub best_match: Option<f64>,
    /// The probability under which nothing matches; `None` where neither the model nor the caller has one.
    pub threshold: Option<f64>,
    /// Whether the best match is under the threshold.
    pub nothing_matches: bool,
}

impl Verdict {
    /// That nothing matches, in a sentence; `None` where something may.
    #[must_use]
    pub fn remark(&self) -> Option<String> {
        let (best, threshold) = self.best_match.zip(self.threshold)?;
        let remark = || {
            // Digits that show the difference.
            let digits =
                (3..9).find(|digits| format!("{best:.digits$}") != format!("{threshold:.digits$}"));
            let digits = digits.unwrap_or(9);
            format!(
                "no confident match: the best match probability is {best:.digits$}, below the threshold of \
                 {threshold:.3}; these are the nearest"
            )
        };
        self.nothing_matches.then(remark)
    }

    pub(crate) fn new(matches: impl Iterator<Item = f64>, threshold: Option<f64>) -> Self {
        let best_match = matches.reduce(f64::max);
        let nothing_matches = best_match.zip(threshold).is_some_and(|(best, t)| best < t);
        Self { best_match, threshold, nothing_matches }
    }
}

impl Pipeline {
    /// The weight of the matching head and the threshold of a search: as given, or as this model has them.
    pub(crate) fn weight_and_threshold(&self, options: &SearchOptions) -> (f32, Option<f64>) {
        let own = self.defaults();
        let weight = options.match_weight.or(own.match_weight).unwrap_or(1.0);
        (weight, options.threshold.or(own.match_threshold))
    }

    /// Embeds a set and searches it.
    ///
    /// # Errors
    /// As [`Pipeline::embed_set`] and [`Pipeline::search_features`].
    pub fn search(
        &self,
        images: &ImageSet,
        text: &str,
        options: &SearchOptions,
        control: &Control,
    ) -> Result<(SearchResults, Vec<Skipped>)> {
        let features = self.embed_set(images, control)?;
        let results = self.search_features(images, &features, text, options, control)?;
        Ok((results, features.skipped))
    }

    /// Searches the features of a set. The images themselves are decoded again for re-ranking only.
    ///
    /// # Errors
    /// [`Error::EmptyText`], [`Error::FeatureWidth`] for features of another model, [`Error::Cancelled`].
    pub fn search_features(
        &self,
        images: &ImageSet,
        features: &ImageFeatures,
        text: &str,
        options: &SearchOptions,
        control: &Control,
    ) -> Result<SearchResults> {
        let caption = self.query_caption(text);
        let query = self.embed_query(text)?;
        if !features.is_empty() && features.width != query.len() {
            let (found, expected) = (features.width, query.len());
            return Err(Error::FeatureWidth { index: 0, found, expected });
        }
        let cosines = similarities(&query, &features.values);
        let SearchOptions { top_k: shown, rerank_k, score, .. } = *options;
        let (weight, threshold) = self.weight_and_threshold(options);
        let candidates = top_k(&cosines, if rerank_k == 0 { shown } else { rerank_k.max(shown) });
        let mut hits: Vec<Hit> =
            candidates.into_iter().map(|c| hit(images, features.images[c], cosines[c])).collect();
        if rerank_k > 0 {
            let (texts, temperature) = ([caption.ids], self.temperature());
            for part in hits.chunks_mut(FUSED) {
                control.check()?;
                let which: Vec<usize> = part.iter().map(|h| h.index).collect();
                let (pixels, _) =
                    images.load(&which, self.image_res(), self.reader(), self.device());
                let (_, logits) = self.match_pixels(pixels, &texts)?;
                for (hit, logits) in part.iter_mut().zip(logits) {
                    hit.probability = Some(match_probability(logits));
                    hit.score = score.weighted(weight, logits, temperature, || hit.cosine);
                }
            }
        }
        hits.sort_by(|x, y| y.score.total_cmp(&x.score).then(y.cosine.total_cmp(&x.cosine)));
        let verdict = Verdict::new(hits.iter().filter_map(|hit| hit.probability), threshold);
        hits.truncate(shown);
        Ok(SearchResults {
            query: text.to_owned(),
            order: options.order(),
            results: hits,
            gallery: features.len(),
            verdict,
            truncated: caption.truncated,
        })
    }
}

fn hit(images: &ImageSet, index: usize, cosine: f32) -> Hit {
    let sample = &images.samples()[index];
    let place = match &sample.location {
        Location::File(path) => {
            let text = names::text_of_path(path);
            Place::File { path: names::readable(&text), path_bytes: names::odd_bytes(&text) }
        }
        Location::Member { archive, .. } => Place::Member {
            archive: names::readable(&names::text_of_path(archive)),
            member: names::readable(&sample.name),
            member_bytes: names::odd_bytes(&sample.name),
        },
    };
    let image = names::readable(&sample.name);
    Hit { index, image, cosine, probability: None, score: cosine, place }
}

#[cfg(test)]
mod tests {
    use albef_data::image::RgbImage;
    use albef_data::scenes::png;

    use super::*;
    use crate::pipeline::tests::nano;

    /// A folder of `n` images of different colors and one broken file.
    fn folder(n: u8) -> (tempfile::TempDir, ImageSet) {
        let dir = tempfile::tempdir().unwrap();
        for i in 0..n {
            let image = RgbImage::filled(20, 24, [40 * i, 200 - 30 * i, 7 * i]);
            std::fs::write(dir.path().join(format!("{i}.png")), png(&image).unwrap()).unwrap();
        }
        std::fs::write(dir.path().join("broken.png"), b"no image").unwrap();
        let images = ImageSet::open(dir.path().to_str().unwrap(), None).unwrap();
        (dir, images)
    }

    #[test]
    fn results_are_ordered_and_broken_images_are_reported() {
        let (model, (_dir, images)) = (nano(), folder(5));
        for rerank_k in [0, 2, 64] {
            let options = SearchOptions::default().top_k(3).rerank_k(rerank_k);
            let (found, skipped) =
                model.search(&images, "a dog", &options, &Control::new()).unwrap();
            assert_eq!((found.results.len(), found.gallery, skipped.len()), (3, 5, 1));
            assert!(found.results.is_sorted_by(|a, b| a.score >= b.score), "{found:?}");
            let reranked = found.results.iter().all(|hit| hit.probability.is_some());
            assert_eq!(reranked, rerank_k > 0, "{found:?}");
        }
    }

    #[test]
    fn the_score_of_a_hit_is_that_of_matching_it_alone() {
        let (model, (dir, images)) = (nano(), folder(4));
        let options = SearchOptions::default().score(Score::Itm);
        let (found, _) = model.search(&images, "a dog", &options, &Control::new()).unwrap();
        for hit in found.results {
            let path = dir.path().join(&hit.image);
            let image = albef_data::image::open(&path, &Default::default()).unwrap();
            let alone = model.match_text(&[image], "a dog").unwrap()[0];
            assert!((alone.itm_logit - hit.score).abs() < 1e-5, "{alone:?} {hit:?}");
            assert!((alone.cosine - hit.cosine).abs() < 1e-5, "{alone:?} {hit:?}");
        }
    }

    #[test]
    fn nothing_matches_under_the_threshold_and_the_weight_counts() {
        let (model, (_dir, images)) = (nano(), folder(4));
        let search = |options: &SearchOptions| {
            model.search(&images, "a dog", options, &Control::new()).unwrap().0
        };
        let plain = search(&SearchOptions::default());
        let best = plain.verdict.best_match.unwrap();
        assert_eq!((plain.verdict.threshold, plain.verdict.nothing_matches), (None, false));
        for (threshold, nothing) in [(best - 1e-9, false), (best + 1e-9, true)] {
            // Of all that were re-ranked, not of those shown.
            let options = SearchOptions::default().top_k(1).threshold(Some(threshold));
            let verdict = search(&options).verdict;
            assert_eq!((verdict.best_match, verdict.nothing_matches), (Some(best), nothing));
        }
        let without = SearchOptions::default().rerank_k(0).threshold(Some(1.0));
        assert_eq!(search(&without).verdict.best_match, None);
        assert!(!search(&without).verdict.nothing_matches, "nothing was matched at all");
        // With no weight the cosine alone decides.
        let cosine = search(&SearchOptions::default().match_weight(Some(0.0)));
        for hit in &cosine.results {
            assert!((hit.score - hit.cosine / model.temperature()).abs() < 1e-4, "{hit:?}");
        }
        let defaults = crate::ModelDefaults {
            match_weight: Some(0.0),
            match_threshold: Some(best + 1e-9),
            ..crate::ModelDefaults::default()
        };
        let model = nano().with_defaults(defaults);
        let options = SearchOptions::default();
        let found = model.search(&images, "a dog", &options, &Control::new()).unwrap().0;
        assert!(found.verdict.nothing_matches);
        assert_eq!(found.results, cosine.results);
    }

    #[test]
    fn cancelling_and_features_of_another_model_are_errors() {
        let (model, (_dir, images)) = (nano(), folder(2));
        let control = Control::new();
        let mut features = model.embed_set(&images, &control).unwrap();
        features.width += 1;
        let options = SearchOptions::default();
        let wide = model.search_features(&images, &features, "a dog", &options, &control);
        assert!(matches!(wide, Err(Error::FeatureWidth { .. })), "{wide:?}");
        control.cancel();
        let stopped = model.embed_set(&images, &control);
        assert!(matches!(stopped, Err(Error::Cancelled)), "{stopped:?}");
    }
}
