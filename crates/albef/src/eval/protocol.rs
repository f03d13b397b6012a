//! Named ways to measure zero-shot retrieval. Published results differ mostly in the weights, the
//! resolution and the number of candidates; a protocol fixes all three.

use crate::error::{Error, Result};
use crate::pipeline::Pipeline;

/// What a protocol fixes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Protocol {
    /// Its name.
    pub name: &'static str,
    weights: WeightsKind,
    /// Pixels along the side of an image.
    pub image_res: usize,
    /// Candidates that are re-ranked.
    pub k: usize,
    /// What is measured.
    pub about: &'static str,
}

/// Which weights are meant.
#[derive(Clone, Copy, Debug, PartialEq)]
enum WeightsKind {
    Pretrained,
    FineTuned,
}

impl WeightsKind {
    /// Fine-tuned weights have lost the level that holds the vocabulary head.
    fn of(model: &Pipeline) -> Self {
        let pretrained =
            model.params().entries().iter().any(|p| p.name.starts_with("text_encoder.bert."));
        if pretrained { Self::Pretrained } else { Self::FineTuned }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Pretrained => "pre-trained",
            Self::FineTuned => "fine-tuned for retrieval or grounding",
        }
    }
}

const PROTOCOLS: [Protocol; 3] = [
    Protocol {
        name: "flickr-zeroshot-paper",
        weights: WeightsKind::FineTuned,
        image_res: 384,
        k: 128,
        about: "Table 3: fine-tuned on COCO, measured on Flickr30k; a model file does not record what it was \
                fine-tuned on",
    },
    Protocol {
        name: "direct-256",
        weights: WeightsKind::Pretrained,
        image_res: 256,
        k: 128,
        about: "the pre-trained model as it is, at the resolution of pre-training, as its author advises",
    },
    Protocol {
        name: "direct-384",
        weights: WeightsKind::Pretrained,
        image_res: 384,
        k: 128,
        about: "the pre-trained model as it is, at the resolution of fine-tuning, as many users run it",
    },
];

/// Pixels along a side in the paper's pre-training.
const PRETRAINED_RES: usize = 256;

/// What all of them re-rank by.
const SCORE: &str = "itm";

/// How an evaluation was run.
#[derive(Clone, Copy, Debug)]
pub struct Measured<'a> {
    /// Candidates that were re-ranked.
    pub k: usize,
    /// Name of the score of re-ranking.
    pub score: &'a str,
    /// Whether hits are counted by `image_id`.
    pub by_id: bool,
}

impl Protocol {
    /// The protocol of that name.
    ///
    /// # Errors
    /// If there is none.
    pub fn named(name: &str) -> Result<Self> {
        PROTOCOLS.into_iter().find(|p| p.name == name).ok_or_else(|| {
            let names = PROTOCOLS.map(|p| p.name).join(", ");
            Error::Argument(format!("there is no protocol `{name}`; the protocols are {names}"))
        })
    }

    /// The kind of weights of a model in words: pre-trained or fine-tuned.
    #[must_use]
    pub fn weights_of(model: &Pipeline) -> &'static str {
        WeightsKind::of(model).words()
    }

    /// In what an evaluation of `model` differs from the protocol, one sentence each.
    #[must_use]
    pub fn deviations(&self, model: &Pipeline, measured: Measured<'_>) -> Vec<String> {
        let (found, size) = (WeightsKind::of(model), model.image_res());
        let mut out = self.differences(found, size, measured.k, measured.score);
        if measured.by_id {
            out.push("hits are counted by image_id, not by image".into());
        }
        let made_for = model.interpolated().map_or(size, |(from, to)| from * size / to.max(1));
        if self.weights == WeightsKind::Pretrained && made_for != PRETRAINED_RES {
            out.push(format!(
                "the model was made for {made_for} px, the published one for {PRETRAINED_RES}"
            ));
        }
        out
    }

    fn differences(
        &self,
        weights: WeightsKind,
        image_res: usize,
        k: usize,
        score: &str,
    ) -> Vec<String> {
        let differs = |what: &str, is: String, meant: String| {
            (is != meant).then(|| format!("{what} {is}, the protocol has {meant}"))
        };
        [
            differs("the weights are", weights.words().into(), self.weights.words().into()),
            differs("the images have", format!("{image_res} px"), format!("{} px", self.image_res)),
            differs("k is", k.to_string(), self.k.to_string()),
            differs("re-ranked by", score.into(), SCORE.into()),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_difference_from_the_protocol_is_named() {
        let [paper, direct, _] = &PROTOCOLS;
        assert!(paper.differences(WeightsKind::FineTuned, 384, 128, "itm").is_empty());
        let all = paper.differences(WeightsKind::Pretrained, 256, 16, "itm+itc").join("; ");
        for part in [
            "are pre-trained, the protocol has fine-tuned",
            "have 256 px",
            "k is 16",
            "re-ranked by itm+itc",
        ] {
            assert!(all.contains(part), "{part}: {all}");
        }
        assert_eq!(direct.differences(WeightsKind::Pretrained, 384, 128, "itm").len(), 1);
    }
}
