//! Retrieval evaluation of an image set with its captions: recalls, intervals, and counts of what was not
//! used as given.

use std::cell::RefCell;
use std::collections::BTreeMap;

use albef_data::dataset::Skipped;
use albef_report::{Outcomes, joint_interval};
use serde_json::{Map, Value, json};

use super::{Evaluation, Gallery, Options, evaluate};
use crate::Control;
use crate::error::{Error, Result};
use crate::eval::metrics::{MISSED, RecallReport};
use crate::eval::outcomes;
use crate::images::ImageSet;
use crate::pipeline::Pipeline;

/// Seed of bootstrap intervals.
const SEED: u64 = 42;
/// Skipped members of archives that reports name.
const NAMED: usize = 10;

/// Results of a retrieval evaluation.
#[derive(Clone, Debug)]
pub struct RetrievalReport {
    /// Ranks and recalls of both stages.
    pub evaluation: Evaluation,
    /// How it was measured.
    pub options: Options,
    /// Whether an image of the same `image_id` counts as a hit.
    pub by_id: bool,
    /// Images.
    pub images: usize,
    /// Captions.
    pub texts: usize,
    /// Pixels along the side of an image.
    pub image_res: usize,
    /// Images that cannot be used, with the reason; they count as missed.
    pub skipped: Vec<Skipped>,
    /// Members of archives that form no sample.
    pub skipped_members: Vec<Skipped>,
    /// Captions that are longer than the model reads.
    pub truncated_texts: usize,
    /// Captions without words.
    pub empty_texts: usize,
    /// Images without a caption; they count as missed.
    pub images_without_text: usize,
}

impl RetrievalReport {
    /// Ranks that the final recalls are made of: per image, per text.
    #[must_use]
    pub fn ranks(&self) -> &[Vec<usize>; 2] {
        &self.evaluation.itm_ranks
    }

    /// The name of the score of re-ranking; `None` where the cosine alone decides.
    #[must_use]
    pub fn score(&self) -> Option<&'static str> {
        (self.options.k > 0).then(|| self.options.score.name())
    }

    /// All results under the official names. `protocol`: the named protocol, if any.
    #[must_use]
    pub fn to_json(&self, resamples: usize, protocol: Option<&str>) -> Value {
        let mut out = recall_json(&self.evaluation.itm);
        let texts = self.texts;
        out.insert("queries".into(), json!({"txt": self.images, "img": texts}));
        out.insert("gallery".into(), json!({"images": self.images, "texts": texts}));
        out.insert("rerank_k".into(), json!(self.options.k));
        out.insert("k".into(), json!(self.options.k));
        out.insert("score".into(), json!(self.score()));
        out.insert("image_res".into(), json!(self.image_res));
        out.insert("protocol".into(), json!(protocol));
        out.insert("itc".into(), Value::Object(recall_json(&self.evaluation.itc)));
        out.insert("interval".into(), intervals(self.ranks(), resamples));
        out.extend(self.counts());
        Value::Object(out)
    }

    /// The final recalls under the names of CLIP_benchmark, between 0 and 1: a text finds its image, an image finds any of
    /// its texts.
    #[must_use]
    pub fn clip_metrics(&self) -> Map<String, Value> {
        let found = &self.evaluation.itm;
        let named = [
            ("image_retrieval_recall", [found.img_r1, found.img_r5, found.img_r10]),
            ("text_retrieval_recall", [found.txt_r1, found.txt_r5, found.txt_r10]),
        ];
        let each = named.into_iter().flat_map(|(name, percent)| {
            let at = [1, 5, 10].into_iter().zip(percent);
            at.map(move |(k, percent)| (format!("{name}@{k}"), json!(percent / 100.0)))
        });
        each.collect()
    }

    /// Counts of what was not used as given.
    #[must_use]
    pub fn counts(&self) -> Map<String, Value> {
        let members = self.skipped_members.len();
        let first: Vec<&str> =
            self.skipped_members.iter().take(NAMED).map(|s| s.name.as_str()).collect();
        // The names of the last release stay beside the new ones for one release.
        Map::from_iter([
            ("skipped".to_owned(), json!(self.skipped.len())),
            ("truncated_texts".to_owned(), json!(self.truncated_texts)),
            ("cut_texts".to_owned(), json!(self.truncated_texts)),
            ("empty_texts".to_owned(), json!(self.empty_texts)),
            ("wordless_texts".to_owned(), json!(self.empty_texts)),
            ("skipped_members".to_owned(), json!(members)),
            ("left_out".to_owned(), json!(members)),
            ("skipped_members_first".to_owned(), json!(first)),
            ("left_out_first".to_owned(), json!(first)),
        ])
    }

    /// Ranks of every image and of every text, for paired comparisons.
    #[must_use]
    pub fn outcomes(&self, images: &ImageSet) -> Outcomes {
        outcomes::retrieval(images, &self.evaluation, self.score(), self.by_id)
    }
}

/// Recalls under the official names.
#[must_use]
pub fn recall_json(report: &RecallReport) -> Map<String, Value> {
    report.named().into_iter().map(|(k, v)| (k.to_owned(), json!(v))).collect()
}

/// 95 % bootstrap intervals over queries, in percent, of each recall and of their means. `ranks`: per image,
/// per text.
#[must_use]
pub fn intervals(ranks: &[Vec<usize>; 2], resamples: usize) -> Value {
    const KS: [usize; 3] = [1, 5, 10];
    let interval = |queries: &[&[f64]]| {
        let (low, high) = joint_interval(queries, resamples, SEED);
        json!([low, high])
    };
    let hit = |rank: usize, k: usize| if rank < k { 100.0 } else { 0.0 };
    let mut out = Map::new();
    let means: Vec<Vec<f64>> = ranks
        .iter()
        .map(|ranks| {
            ranks.iter().map(|r| KS.map(|k| hit(*r, k)).iter().sum::<f64>() / 3.0).collect()
        })
        .collect();
    for ((side, ranks), mean) in ["txt", "img"].into_iter().zip(ranks).zip(&means) {
        for k in KS {
            let hits: Vec<f64> = ranks.iter().map(|r| hit(*r, k)).collect();
            out.insert(format!("{side}_r{k}"), interval(&[&hits]));
        }
        out.insert(format!("{side}_r_mean"), interval(&[mean]));
    }
    out.insert("r_mean".into(), interval(&[&means[0], &means[1]]));
    Value::Object(out)
}

/// Evaluates images with their captions. With `by_id` an image of the same `image_id` counts as a hit.
///
/// # Errors
/// If there are no captions, or [`Error::Cancelled`].
pub fn measure(
    model: &Pipeline,
    images: &ImageSet,
    options: &Options,
    by_id: bool,
    control: &Control,
) -> Result<RetrievalReport> {
    let (mut truncated_texts, mut empty_texts, mut images_without_text) = (0, 0, 0);
    let (mut texts, mut txt2img) = (Vec::new(), Vec::new());
    for (i, sample) in images.samples().iter().enumerate() {
        images_without_text += usize::from(sample.captions.is_empty());
        for caption in &sample.captions {
            let caption = model.caption(caption);
            truncated_texts += usize::from(caption.truncated);
            // Nothing but `[CLS]`.
            empty_texts += usize::from(caption.ids.len() <= 1);
            texts.push(caption.ids);
            txt2img.push(i);
        }
    }
    if texts.is_empty() {
        let detail = "the list has no captions, so there is nothing to measure";
        return Err(Error::Argument(detail.into()));
    }
    let gallery = Gallery {
        images: images.len(),
        texts: &texts,
        txt2img: &txt2img,
        ids: by_id.then_some(images.image_ids()),
    };
    let skipped = RefCell::new(BTreeMap::new());
    let load = |which: &[usize]| -> Result<_> {
        let (pixels, failed) =
            images.load(which, model.image_res(), model.reader(), model.device());
        skipped.borrow_mut().extend(failed);
        Ok(pixels)
    };
    let mut evaluation = evaluate(model.model(), &gallery, options, &load, control)?;
    let skipped = skipped.into_inner();
    // An image that cannot be used is a miss in both directions, never a lucky hit.
    for i in skipped.keys() {
        for ranks in [&mut evaluation.itc_ranks, &mut evaluation.itm_ranks] {
            ranks[0][*i] = MISSED;
            for (t, image) in txt2img.iter().enumerate() {
                if image == i {
                    ranks[1][t] = MISSED;
                }
            }
        }
    }
    let [images_of, texts_of] = &evaluation.itc_ranks;
    evaluation.itc = RecallReport::from_ranks(images_of, texts_of);
    let [images_of, texts_of] = &evaluation.itm_ranks;
    evaluation.itm = RecallReport::from_ranks(images_of, texts_of);
    Ok(RetrievalReport {
        evaluation,
        options: *options,
        by_id,
        images: images.len(),
        texts: texts.len(),
        image_res: model.image_res(),
        skipped: skipped.into_values().collect(),
        skipped_members: images.skipped_members().to_vec(),
        truncated_texts,
        empty_texts,
        images_without_text,
    })
}
