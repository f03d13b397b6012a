//! Images composed of cut-outs, with captions that say what they show.

use super::{Pair, Sprites};
use crate::image::RgbImage;
use crate::random::Stream;

/// Pale plain backgrounds.
const BACKGROUNDS: [[u8; 3]; 7] = [
    [255, 255, 255],
    [255, 255, 255],
    [246, 238, 227],
    [228, 240, 248],
    [232, 245, 233],
    [248, 232, 238],
    [238, 236, 250],
];

/// An image of two sprites.
pub(super) struct Arranged {
    pub image: RgbImage,
    /// Whether they stand beside each other rather than one above the other.
    pub beside: bool,
}

pub(super) fn with_article(name: &str) -> String {
    let vowel = name.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {name}", if vowel { "an" } else { "a" })
}

impl Sprites {
    fn background(size: usize, stream: &mut Stream) -> RgbImage {
        RgbImage::filled(size, size, BACKGROUNDS[stream.below(BACKGROUNDS.len())])
    }

    pub(super) fn single(
        &self,
        concept: usize,
        style: usize,
        size: usize,
        stream: &mut Stream,
    ) -> Pair {
        let mut image = Self::background(size, stream);
        let side = (size as f64 * stream.range(0.72, 0.95)) as usize;
        let room = size - side + 1;
        let place = (stream.below(room), stream.below(room));
        self.draw(&mut image, (concept, style), place, side);
        let (id, names) = &self.concepts[concept];
        let mut captions = names.clone();
        captions.push(with_article(&names[0]));
        captions.push(format!("a picture of {}", with_article(&names[0])));
        Pair { image, captions, id: id.clone(), style: self.style(style).into() }
    }

    /// Two concepts beside each other, the first on the left, or one above the other.
    pub(super) fn two(
        &self,
        pair: (usize, usize),
        style: usize,
        beside: Option<bool>,
        size: usize,
        stream: &mut Stream,
    ) -> Arranged {
        let mut image = Self::background(size, stream);
        let side = size / 2;
        let beside = beside.unwrap_or_else(|| stream.below(2) == 0);
        let shift = stream.below(side + 1);
        let places = if beside {
            [(0, shift), (side, side - shift)]
        } else {
            [(shift, 0), (side - shift, side)]
        };
        for (concept, place) in [pair.0, pair.1].into_iter().zip(places) {
            self.draw(&mut image, (concept, style), place, side);
        }
        Arranged { image, beside }
    }

    /// Four concepts, one in each quarter; gives the upper left corners and the side of a sprite.
    pub(super) fn four(
        &self,
        concepts: [usize; 4],
        style: usize,
        size: usize,
        stream: &mut Stream,
    ) -> (RgbImage, [(usize, usize); 4], usize) {
        let mut image = Self::background(size, stream);
        let half = size / 2;
        let side = (half as f64 * 0.85) as usize;
        let places = [(0, 0), (half, 0), (0, half), (half, half)]
            .map(|(x, y)| (x + stream.below(half - side + 1), y + stream.below(half - side + 1)));
        for (concept, place) in concepts.into_iter().zip(places) {
            self.draw(&mut image, (concept, style), place, side);
        }
        (image, places, side)
    }

    /// The same with captions.
    pub(super) fn scene(
        &self,
        pair: (usize, usize),
        style: usize,
        beside: Option<bool>,
        size: usize,
        stream: &mut Stream,
    ) -> Pair {
        let Arranged { image, beside, .. } = self.two(pair, style, beside, size, stream);
        let name = |c: usize| with_article(&self.concepts[c].1[0]);
        let (a, b) = (name(pair.0), name(pair.1));
        let captions = if beside {
            vec![
                format!("{a} to the left of {b}"),
                format!("{b} to the right of {a}"),
                format!("{a} on the left and {b} on the right"),
            ]
        } else {
            vec![
                format!("{a} above {b}"),
                format!("{b} below {a}"),
                format!("{a} at the top and {b} at the bottom"),
            ]
        };
        let id = format!("{}+{}", self.concepts[pair.0].0, self.concepts[pair.1].0);
        Pair { image, captions, id, style: self.style(style).into() }
    }
}
