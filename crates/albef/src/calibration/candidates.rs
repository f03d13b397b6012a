//! What a search finds for each text, with its positives in the gallery and without them.

use std::collections::{BTreeSet, HashMap};

use albef_data::dataset::Skipped;

use crate::Control;
use crate::error::{Error, Result};
use crate::eval::retrieval::{score_pairs, similarities, top_k};
use crate::images::ImageSet;
use crate::inference::match_probability;
use crate::pipeline::Pipeline;

/// Images that are encoded at a time for the matching head.
const IMAGES: usize = 16;
/// Texts that are encoded at a time.
const TEXTS: usize = 64;

/// An image that was fused with a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    /// Its number in the set.
    pub image: usize,
    /// Cosine of the features.
    pub cosine: f32,
    /// Logits (no match, match).
    pub logits: [f32; 2],
    /// Whether the text is right about it.
    pub positive: bool,
}

impl Candidate {
    /// The probability of a match.
    pub fn probability(&self) -> f64 {
        match_probability(self.logits)
    }
}

/// What is found for a text, by falling cosine.
#[derive(Clone, Debug)]
pub(super) struct Searched {
    /// Texts of one cluster depend on each other: those of one image, or of one `image_id`.
    pub cluster: u32,
    /// The candidates among all images.
    pub present: Vec<Candidate>,
    /// The candidates among the images that the text is wrong about.
    pub absent: Vec<Candidate>,
}

/// All texts of a set.
pub(super) struct Found {
    pub texts: Vec<Searched>,
    pub images: usize,
    pub unusable_texts: usize,
    pub truncated_texts: usize,
    pub skipped: Vec<Skipped>,
}

/// Whose text it is, and how the model reads it.
struct Text {
    image: usize,
    ids: Vec<u32>,
    positives: BTreeSet<usize>,
    /// Images of both candidate lists by falling cosine.
    wanted: Vec<(usize, f32)>,
}

/// The candidates of every text: the `k` nearest of all images, and of those that the text is wrong about.
pub(super) fn candidates(
    model: &Pipeline,
    images: &ImageSet,
    k: usize,
    control: &Control,
) -> Result<Found> {
    let features = model.embed_set(images, control)?;
    let (mut unusable_texts, mut truncated_texts) = (0, 0);
    let mut texts = Vec::new();
    let mut filled = Vec::new();
    let mut of_text: HashMap<String, BTreeSet<usize>> = HashMap::new();
    for i in &features.images {
        for text in &images.samples()[*i].captions {
            let caption = model.query_caption(text);
            // Nothing but `[CLS]`.
            if caption.ids.len() <= 1 || text.trim().is_empty() {
                unusable_texts += 1;
                continue;
            }
            truncated_texts += usize::from(caption.truncated);
            of_text.entry(text.trim().to_lowercase()).or_default().insert(*i);
            filled.push(text);
            texts.push(Text {
                image: *i,
                ids: caption.ids,
                positives: BTreeSet::new(),
                wanted: Vec::new(),
            });
        }
    }
    let mut of_id: HashMap<u32, BTreeSet<usize>> = HashMap::new();
    for i in &features.images {
        of_id.entry(images.image_ids()[*i]).or_default().insert(*i);
    }
    for (at, (text, words)) in texts.iter_mut().zip(&filled).enumerate() {
        control.check()?;
        let same_text = of_text.get(&words.trim().to_lowercase()).into_iter().flatten();
        let same_id = of_id.get(&images.image_ids()[text.image]).into_iter().flatten();
        text.positives = same_text.chain(same_id).copied().collect();
        let cosines = similarities(&model.embed_query(words)?, &features.values);
        let nearest = top_k(&cosines, k.saturating_add(text.positives.len()));
        text.wanted = nearest.into_iter().map(|c| (features.images[c], cosines[c])).collect();
        control.advance("texts", at + 1, filled.len());
    }
    let before = texts.len();
    texts.retain(|text| text.wanted.iter().any(|(i, _)| !text.positives.contains(i)));
    unusable_texts += before - texts.len();
    if texts.is_empty() {
        return Err(Error::Argument(
            "no text of this list can be used: each needs words, an image, and images that it is wrong about"
                .into(),
        ));
    }
    let logits = fuse(model, images, &features.images, &texts, control)?;
    let searched = |(text, logits): (&Text, Vec<[f32; 2]>)| {
        let all: Vec<Candidate> = text
            .wanted
            .iter()
            .zip(logits)
            .map(|((image, cosine), logits)| Candidate {
                image: *image,
                cosine: *cosine,
                logits,
                positive: text.positives.contains(image),
            })
            .collect();
        Searched {
            cluster: images.image_ids()[text.image],
            present: all.iter().take(k).copied().collect(),
            absent: all.iter().filter(|c| !c.positive).take(k).copied().collect(),
        }
    };
    Ok(Found {
        texts: texts.iter().zip(logits).map(searched).collect(),
        images: features.len(),
        unusable_texts,
        truncated_texts,
        skipped: features.skipped,
    })
}

/// The logits of each text with the images it wants, in their order. Pairs are grouped by image, whose keys and
/// values are then projected once.
fn fuse(
    model: &Pipeline,
    images: &ImageSet,
    usable: &[usize],
    texts: &[Text],
    control: &Control,
) -> Result<Vec<Vec<[f32; 2]>>> {
    // Of each image, the texts that want it, and where among their candidates.
    let mut wanting: HashMap<usize, Vec<(usize, usize)>> = HashMap::new();
    for (t, text) in texts.iter().enumerate() {
        for (at, (image, _)) in text.wanted.iter().enumerate() {
            wanting.entry(*image).or_default().push((t, at));
        }
    }
    let ids: Vec<Vec<u32>> = texts.iter().map(|text| text.ids.clone()).collect();
    let mut out: Vec<Vec<[f32; 2]>> =
        texts.iter().map(|text| vec![[f32::NAN; 2]; text.wanted.len()]).collect();
    let mut done = 0;
    for part in usable.chunks(IMAGES) {
        control.check()?;
        let (pixels, failed) = images.load(part, model.image_res(), model.reader(), model.device());
        if let Some((i, skipped)) = failed.first() {
            let detail = format!("{} changed meanwhile: {}", images.name(*i), skipped.error);
            return Err(Error::Argument(detail));
        }
        let states = model.model().encoders.visual_encoder.forward(pixels)?;
        let mut pairs = Vec::new();
        let mut places = Vec::new();
        for (slot, image) in part.iter().enumerate() {
            for (t, at) in wanting.get(image).into_iter().flatten() {
                pairs.push((slot, *t));
                places.push((*t, *at));
            }
        }
        let logits = score_pairs(model.model(), &ids, &pairs, TEXTS, &states)?;
        for ((t, at), logits) in places.into_iter().zip(logits) {
            out[t][at] = logits;
        }
        done += part.len();
        control.advance("matching", done, usable.len());
    }
    Ok(out)
}
