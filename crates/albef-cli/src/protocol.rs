//! Named ways to measure zero-shot retrieval: most figures that do not compare were measured with other
//! weights, at another resolution or with another number of candidates.

use std::path::Path;

use albef::pipeline::Pipeline;
use clap::builder::{PossibleValuesParser, TypedValueParser};

/// What a protocol fixes.
#[derive(Debug, PartialEq)]
pub struct Protocol {
    pub name: &'static str,
    weights: Kind,
    /// Pixels along the side of an image.
    pub image_res: usize,
    /// Candidates that are re-ranked.
    pub k: usize,
    about: &'static str,
}

/// Which weights are meant.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Pretrained,
    FineTuned,
}

impl Kind {
    /// Fine-tuned weights have lost the level that holds the vocabulary head.
    fn of(model: &Pipeline) -> Self {
        let pretrained =
            model.params.entries().iter().any(|p| p.name.starts_with("text_encoder.bert."));
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
        weights: Kind::FineTuned,
        image_res: 384,
        k: 128,
        about: "Table 3: fine-tuned on COCO, measured on Flickr30k; on what a model was fine-tuned its \
                file does not tell",
    },
    Protocol {
        name: "direct-256",
        weights: Kind::Pretrained,
        image_res: 256,
        k: 128,
        about: "the pre-trained model as it is, at the resolution of pre-training, as its author advises",
    },
    Protocol {
        name: "direct-384",
        weights: Kind::Pretrained,
        image_res: 384,
        k: 128,
        about: "the pre-trained model as it is, at the resolution of fine-tuning, as many users run it",
    },
];

/// Pixels along a side in the paper's pre-training.
const PRETRAINED_RES: usize = 256;

/// What all of them re-rank by.
const SCORE: &str = "itm";

/// Takes the name of a protocol.
pub fn parser() -> impl TypedValueParser<Value = &'static Protocol> {
    PossibleValuesParser::new(PROTOCOLS.iter().map(|p| p.name)).try_map(|name| {
        PROTOCOLS.iter().find(|p| p.name == name).ok_or_else(|| format!("no protocol `{name}`"))
    })
}

impl Protocol {
    /// Says what is measured, and in what it is not the protocol.
    pub fn tell(&self, path: &Path, model: &Pipeline, k: usize, score: &str, by_id: bool) {
        let (found, size) = (Kind::of(model), model.model.config.vision.image_res);
        eprintln!("protocol {}: {}", self.name, self.about);
        eprintln!("measured: {}, {}; {size} px; k {k}", path.display(), found.words());
        for difference in self.differences(found, size, k, score) {
            eprintln!("warning: not {}: {difference}", self.name);
        }
        if by_id {
            eprintln!("warning: not {}: hits are counted by image_id, not by picture", self.name);
        }
        let made_for = model.interpolated.map_or(size, |(from, to)| from * size / to.max(1));
        if self.weights == Kind::Pretrained && made_for != PRETRAINED_RES {
            eprintln!(
                "warning: not {}: the model was made for {made_for} px, the published one for \
                 {PRETRAINED_RES}",
                self.name
            );
        }
    }

    fn differences(&self, weights: Kind, image_res: usize, k: usize, score: &str) -> Vec<String> {
        let differs = |what: &str, is: String, meant: String| {
            (is != meant).then(|| format!("{what} {is}, the protocol has {meant}"))
        };
        [
            differs("the weights are", weights.words().into(), self.weights.words().into()),
            differs(
                "the pictures have",
                format!("{image_res} px"),
                format!("{} px", self.image_res),
            ),
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
        assert!(paper.differences(Kind::FineTuned, 384, 128, "itm").is_empty());
        let all = paper.differences(Kind::Pretrained, 256, 16, "itm+itc").join("; ");
        for part in [
            "are pre-trained, the protocol has fine-tuned",
            "have 256 px",
            "k is 16",
            "re-ranked by itm+itc",
        ] {
            assert!(all.contains(part), "{part}: {all}");
        }
        assert_eq!(direct.differences(Kind::Pretrained, 384, 128, "itm").len(), 1);
    }
}
