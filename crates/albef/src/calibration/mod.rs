//! Values that suit a model, measured on pairs that it was not trained on: when nothing matches, how much the
//! matching head counts, and which map finds a phrase. They become the model's [`ModelDefaults`].
//!
//! ```no_run
//! use albef::calibration::{CalibrateOptions, calibrate};
//! use albef::{Control, ImageSet, Pipeline, device};
//!
//! let folder = std::path::Path::new("models/mini");
//! let model = Pipeline::open(folder, &device::open("cpu")?)?;
//! let held_out = ImageSet::open("val.json", None)?;
//! let found = calibrate(&model, &held_out, &CalibrateOptions::default(), &Control::new())?;
//! println!("nothing matches under {:.2}", found.threshold.cut.threshold);
//! let mut defaults = model.defaults().clone();
//! found.apply(&mut defaults);
//! defaults.write(folder)?;
//! # Ok::<(), albef::Error>(())
//! ```

mod candidates;
mod ground;
mod report;
mod threshold;
mod weight;

use albef_data::dataset::Skipped;
use serde::Serialize;

use crate::Control;
use crate::defaults::ModelDefaults;
use crate::error::{Error, Result};
use crate::images::ImageSet;
use crate::pipeline::Pipeline;
use candidates::candidates;

pub use ground::{GroundCalibration, GroundChoice, calibrate_grounding};
pub use threshold::{Quartiles, ThresholdCalibration};
pub use weight::{WeightCalibration, WeightRecall};

/// Seed of bootstrap intervals.
const SEED: u64 = 42;

/// How to calibrate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CalibrateOptions {
    /// Candidates that are re-ranked, as in the searches that are to follow.
    pub rerank_k: usize,
    /// Resamples of bootstrap intervals.
    pub resamples: usize,
}

impl Default for CalibrateOptions {
    fn default() -> Self {
        Self { rerank_k: 64, resamples: 1000 }
    }
}

/// What was found by texts with their images. Shares are in percent, with intervals of 95 % over images.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Calibration {
    /// Usable images.
    pub images: usize,
    /// Texts that were searched for.
    pub texts: usize,
    /// Candidates that were re-ranked for each.
    pub rerank_k: usize,
    /// The probability under which nothing matches.
    pub threshold: ThresholdCalibration,
    /// The weight of the matching head.
    pub weight: WeightCalibration,
    /// Texts without words, or without a candidate that would be wrong; they take no part.
    pub unusable_texts: usize,
    /// Texts that are longer than the model reads.
    pub truncated_texts: usize,
    /// Images that cannot be used; neither they nor their texts take part.
    #[serde(serialize_with = "report::counted")]
    pub skipped: Vec<Skipped>,
}

impl Calibration {
    /// Puts the values in the place of those that a model has. A threshold that is no better than chance is none.
    pub fn apply(&self, defaults: &mut ModelDefaults) {
        let threshold = &self.threshold;
        defaults.match_threshold = threshold.is_useful().then_some(threshold.cut.threshold);
        defaults.match_auc = Some(threshold.area);
        defaults.match_weight = Some(self.weight.best.weight);
    }
}

/// Searches for each text of a set among all its images, as [`Pipeline::search`] does, with its image there and with
/// all its positives taken away: these are the images with the same `image_id` or the very same text.
///
/// # Errors
/// If no text can be used or the matching head has too few candidates to choose from, or [`Error::Cancelled`].
pub fn calibrate(
    model: &Pipeline,
    images: &ImageSet,
    options: &CalibrateOptions,
    control: &Control,
) -> Result<Calibration> {
    if options.rerank_k == 0 {
        let detail = "without candidates for the matching head there is nothing to calibrate";
        return Err(Error::Argument(detail.into()));
    }
    let found = candidates(model, images, options.rerank_k, control)?;
    control.check()?;
    Ok(Calibration {
        images: found.images,
        texts: found.texts.len(),
        rerank_k: options.rerank_k,
        threshold: ThresholdCalibration::new(&found.texts, options.resamples)?,
        weight: WeightCalibration::new(&found.texts, model.temperature(), options.resamples),
        unusable_texts: found.unusable_texts,
        truncated_texts: found.truncated_texts,
        skipped: found.skipped,
    })
}

#[cfg(test)]
mod tests {
    use albef_data::image::RgbImage;
    use albef_data::scenes::png;

    use super::*;
    use crate::pipeline::tests::nano;

    /// Images of different colors, of which the first two have one text.
    fn set(folder: &std::path::Path, n: u8) -> ImageSet {
        let mut lines = String::from("[");
        for i in 0..n {
            let image = RgbImage::filled(20, 24, [40 * i, 200 - 30 * i, 7 * i]);
            let name = format!("{i}.png");
            std::fs::write(folder.join(&name), png(&image).unwrap()).unwrap();
            let text = ["a dog", "a dog", "dog", "a", "dog a", "dog dog"][usize::from(i) % 6];
            let comma = if i > 0 { "," } else { "" };
            lines += &format!("{comma}{{\"image\": \"{name}\", \"caption\": \"{text}\"}}");
        }
        let list = folder.join("list.json");
        std::fs::write(&list, lines + "]").unwrap();
        ImageSet::open(list.to_str().unwrap(), Some(folder)).unwrap()
    }

    #[test]
    fn a_text_is_searched_with_and_without_its_images() {
        let (model, dir) = (nano(), tempfile::tempdir().unwrap());
        let images = set(dir.path(), 6);
        let found = candidates(&model, &images, 3, &Control::new()).unwrap();
        assert_eq!((found.images, found.texts.len()), (6, 6));
        for (t, text) in found.texts.iter().enumerate() {
            let positives = |list: &[candidates::Candidate]| list.iter().any(|c| c.positive);
            assert_eq!((text.present.len(), text.absent.len()), (3, 3));
            assert!(!positives(&text.absent), "{t}");
            // The probabilities are those of matching the image alone.
            let caption = &images.samples()[t].captions[0];
            for c in text.present.iter().chain(&text.absent) {
                let image = images.samples()[c.image].read_view(0, model.reader()).unwrap();
                let alone = model.match_text(&[image], caption).unwrap()[0];
                assert!((alone.probability - c.probability()).abs() < 1e-5, "{t} {c:?}");
                assert!((alone.cosine - c.cosine).abs() < 1e-5, "{t} {c:?}");
                let own = c.image == t || t < 2 && c.image < 2;
                assert_eq!(c.positive, own, "{t} {c:?}");
            }
        }
    }

    #[test]
    fn what_is_found_becomes_the_defaults_and_keeps_the_others() {
        let (model, dir) = (nano(), tempfile::tempdir().unwrap());
        std::fs::write(dir.path().join("broken.png"), "no image").unwrap();
        let images = set(dir.path(), 6);
        let options = CalibrateOptions { rerank_k: 4, resamples: 50 };
        let found = calibrate(&model, &images, &options, &Control::new()).unwrap();
        assert!((0.0..=1.0).contains(&found.threshold.area), "{found:?}");
        assert!((0.0..=1.0).contains(&found.threshold.cut.threshold), "{found:?}");
        assert!(found.weight.best.recall >= found.weight.at_one.recall, "{found:?}");
        assert!(found.weight.best.recall >= found.weight.cosine.recall, "{found:?}");
        let mut defaults =
            ModelDefaults { about: Some("colors".into()), ..ModelDefaults::default() };
        found.apply(&mut defaults);
        assert_eq!(defaults.about.as_deref(), Some("colors"));
        let threshold = found.threshold.cut.threshold;
        assert_eq!(defaults.match_threshold, found.threshold.is_useful().then_some(threshold));
        // Templates are searched by as they are in a search.
        let templates = vec!["a {}".into()];
        let model = nano().with_defaults(ModelDefaults { templates, ..defaults });
        let with = candidates(&model, &images, 4, &Control::new()).unwrap();
        let alone = model
            .match_text(&[images.samples()[0].read_view(0, model.reader()).unwrap()], "a dog")
            .unwrap()[0];
        let own = with.texts[0].present.iter().find(|c| c.image == 0);
        assert!(own.is_none_or(|c| (c.probability() - alone.probability).abs() < 1e-5));
    }

    #[test]
    fn too_little_to_go_by_and_cancelling_are_errors() {
        let (model, dir) = (nano(), tempfile::tempdir().unwrap());
        let images = set(dir.path(), 2);
        let options = CalibrateOptions::default();
        // Both images have one text: with its positives gone there is nothing to find.
        let error = calibrate(&model, &images, &options, &Control::new()).unwrap_err();
        assert!(error.to_string().contains("no text"), "{error}");
        let none = CalibrateOptions { rerank_k: 0, ..options };
        assert!(calibrate(&model, &images, &none, &Control::new()).is_err());
        let control = Control::new();
        control.cancel();
        let stopped = calibrate(&model, &images, &options, &control);
        assert!(matches!(stopped, Err(Error::Cancelled)), "{stopped:?}");
    }
}
