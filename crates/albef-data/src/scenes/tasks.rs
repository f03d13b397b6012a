//! Scenes for every task in the official annotation formats.
//!
//! Text alone must not give the answers away: each statement about two pictures is once true and
//! once false, each sentence of entailment appears under all three labels, each yes-no question is
//! asked of as many pictures with yes as with no. `train` and `val` are of the trained styles, `val`
//! with pairs of concepts that never meet in `train`; `test` is of a style that is never seen.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::{Arranged, Pair, Sprites, TRAINED, png, with_article};
use crate::error::{DataError, Result};
use crate::image::RgbImage;
use crate::random::Stream;

/// Grey of the curtain that hides half of a picture.
const CURTAIN: [u8; 3] = [120, 120, 120];

/// One split: pictures, and the lists of all tasks over them.
#[derive(Clone, Debug, Default)]
pub struct TaskCorpus {
    /// Name of the split.
    pub name: String,
    /// Pictures by file name.
    pub pictures: Vec<(String, RgbImage)>,
    /// Captions, as for pre-training and retrieval.
    pub captions: Vec<Value>,
    /// Questions with answers.
    pub vqa: Vec<Value>,
    /// Statements about two pictures.
    pub nlvr: Vec<Value>,
    /// Sentences with labels.
    pub ve: Vec<Value>,
    /// Expressions with the box of what they mean and the boxes to choose from.
    pub grounding: Vec<Value>,
}

struct Builder<'a> {
    sprites: &'a Sprites,
    styles: Vec<usize>,
    held: bool,
    size: usize,
    seed: u64,
    out: TaskCorpus,
}

impl Builder<'_> {
    fn stream(&self, name: &str, i: usize) -> Stream {
        Stream::new(self.seed, &format!("{} {name}", self.out.name), &[i as u64])
    }

    fn name(&self, concept: usize) -> &str {
        &self.sprites.concepts[concept].1[0]
    }

    fn held(&self, a: usize, b: usize) -> bool {
        let pair = a.min(b) * self.sprites.concepts.len() + a.max(b);
        Stream::new(self.seed, "task pair", &[pair as u64]).below(8) == 0
    }

    /// Two different concepts whose pair belongs to this split, and a style.
    fn pair(&self, s: &mut Stream) -> ((usize, usize), usize) {
        let n = self.sprites.concepts.len();
        let style = self.styles[s.below(self.styles.len())];
        loop {
            let (a, b) = (s.below(n), s.below(n));
            if a != b && self.name(a) != self.name(b) && self.held(a, b) == self.held {
                return ((a, b), style);
            }
        }
    }

    /// A concept that is none of the two and forms a pair of this split with the first.
    fn other(&self, s: &mut Stream, pair: (usize, usize)) -> usize {
        loop {
            let c = s.below(self.sprites.concepts.len());
            let new = self.name(c) != self.name(pair.0) && self.name(c) != self.name(pair.1);
            if new && self.held(pair.0, c) == self.held {
                return c;
            }
        }
    }

    fn add(&mut self, image: RgbImage) -> String {
        let file = format!("{}/{:05}.png", self.out.name, self.out.pictures.len());
        self.out.pictures.push((file.clone(), image));
        file
    }

    fn caption(&mut self, i: usize) {
        let mut s = self.stream("caption", i);
        let (pair, style) = self.pair(&mut s);
        let Pair { image, captions, id, style } =
            self.sprites.scene(pair, style, self.size, &mut s);
        let file = self.add(image);
        self.out
            .captions
            .push(json!({"image": file, "caption": captions, "image_id": id, "style": style}));
    }

    fn ask(&mut self, file: &str, question: String, answer: &str) {
        let id = self.out.vqa.len();
        self.out.vqa.push(json!({"dataset": "vqa", "image": file, "question": question,
                                 "question_id": id, "answer": [answer]}));
    }

    /// Questions: what stands where, and whether something is there.
    fn questions(&mut self, i: usize) {
        let mut s = self.stream("vqa", i);
        let (pair, style) = self.pair(&mut s);
        let a = self.sprites.two(pair, style, None, self.size, &mut s);
        let places = if a.beside {
            ["on the left", "on the right"]
        } else {
            ["at the top", "at the bottom"]
        };
        let names = [self.name(pair.0).to_owned(), self.name(pair.1).to_owned()];
        let absent = self.name(self.other(&mut s, pair)).to_owned();
        let file = self.add(a.image);
        for (place, name) in places.iter().zip(&names) {
            self.ask(&file, format!("what is {place}?"), name);
        }
        // The absent one of this picture is present in others, so a name tells nothing.
        self.ask(&file, format!("is there {}?", with_article(&names[i % 2])), "yes");
        self.ask(&file, format!("is there {}?", with_article(&absent)), "no");
    }

    /// A statement about two pictures, once true and once false.
    fn statements(&mut self, i: usize) {
        let mut s = self.stream("nlvr", i);
        let (pair, style) = self.pair(&mut s);
        let third = self.other(&mut s, pair);
        let (x, y) = (pair.0, pair.1);
        let name = with_article(self.name(x));
        // The concepts of the four pictures: true pair, then false pair.
        let (sentence, shown) = match i % 3 {
            0 => (format!("both pictures show {name}"), [[x, x], [x, y]]),
            1 => (format!("only the left picture shows {name}"), [[x, y], [y, x]]),
            _ => (format!("one of the pictures shows {name}"), [[y, x], [y, third]]),
        };
        for (concepts, label) in shown.into_iter().zip(["True", "False"]) {
            let mut files = Vec::new();
            for concept in concepts {
                let single = self.sprites.single(concept, style, self.size, &mut s);
                files.push(self.add(single.image));
            }
            self.out.nlvr.push(json!({"images": files, "sentence": sentence, "label": label}));
        }
    }

    /// A sentence that one picture entails, one contradicts, and one with a curtain leaves open.
    fn sentences(&mut self, i: usize) {
        let mut s = self.stream("ve", i);
        let (pair, style) = self.pair(&mut s);
        let third = self.other(&mut s, pair);
        let left = i.is_multiple_of(2);
        let sentence = format!(
            "{} is on the {}",
            with_article(self.name(pair.0)),
            if left { "left" } else { "right" }
        );
        let order = |meant: usize| if left { (meant, pair.1) } else { (pair.1, meant) };
        for label in ["entailment", "contradiction", "neutral"] {
            let shown = if label == "contradiction" { third } else { pair.0 };
            let mut a: Arranged =
                self.sprites.two(order(shown), style, Some(true), self.size, &mut s);
            if label == "neutral" {
                let half = self.size / 2;
                let columns = if left { 0..half } else { half..self.size };
                for y in 0..self.size {
                    for x in columns.clone() {
                        let at = (y * self.size + x) * 3;
                        a.image.pixels[at..at + 3].copy_from_slice(&CURTAIN);
                    }
                }
            }
            let file = self.add(a.image);
            self.out.ve.push(json!({"image": file, "sentence": sentence, "label": label}));
        }
    }

    /// An expression for each of the two things in a picture, with their boxes.
    fn expressions(&mut self, i: usize) {
        let mut s = self.stream("grounding", i);
        let (pair, style) = self.pair(&mut s);
        let a = self.sprites.two(pair, style, None, self.size, &mut s);
        let boxes: Vec<[usize; 4]> =
            a.places.iter().map(|(x, y)| [*x, *y, a.side, a.side]).collect();
        let file = self.add(a.image);
        for (concept, own) in [pair.0, pair.1].into_iter().zip(&boxes) {
            let text = format!("the {}", self.name(concept));
            let id = self.out.grounding.len();
            self.out.grounding.push(json!({"image": file, "text": text, "ref_id": id,
                                           "box": own, "boxes": boxes}));
        }
    }
}

/// Builds `train`, `val` and `test`; `scenes` is the number of scenes of each task in `train`, the
/// others have a fifth of it.
///
/// # Errors
/// Never for the sprites that are built in.
pub fn build_tasks(seed: u64, size: usize, scenes: usize) -> Result<Vec<TaskCorpus>> {
    let sprites = Sprites::open()?;
    let trained: Vec<usize> = (0..TRAINED.len()).collect();
    let unseen = vec![TRAINED.len()];
    let splits = [
        ("train", trained.clone(), false, scenes),
        ("val", trained, true, scenes.div_ceil(5)),
        ("test", unseen, true, scenes.div_ceil(5)),
    ];
    Ok(splits
        .into_iter()
        .map(|(name, styles, held, count)| {
            let out = TaskCorpus { name: name.into(), ..TaskCorpus::default() };
            let mut builder = Builder { sprites: &sprites, styles, held, size, seed, out };
            for i in 0..count {
                builder.caption(i);
                builder.questions(i);
                builder.statements(i);
                builder.sentences(i);
                builder.expressions(i);
            }
            builder.out
        })
        .collect())
}

/// Writes pictures and the lists `SPLIT_captions.json`, `SPLIT_vqa.json`, `SPLIT_nlvr.json`,
/// `SPLIT_ve.json`, `SPLIT_grounding.json`, and the candidate answers `answers.json`. Image paths are
/// relative to `folder`.
///
/// # Errors
/// If a file cannot be written.
pub fn write_tasks(splits: &[TaskCorpus], folder: &Path) -> Result<()> {
    let write = |file: &Path, bytes: &[u8]| fs::write(file, bytes).map_err(DataError::io(file));
    let mut answers = std::collections::BTreeSet::new();
    for split in splits {
        let pictures = folder.join(&split.name);
        fs::create_dir_all(&pictures).map_err(DataError::io(&pictures))?;
        for (file, image) in &split.pictures {
            write(&folder.join(file), &png(image)?)?;
        }
        for (task, list) in [
            ("captions", &split.captions),
            ("vqa", &split.vqa),
            ("nlvr", &split.nlvr),
            ("ve", &split.ve),
            ("grounding", &split.grounding),
        ] {
            let text = Value::Array(list.clone()).to_string();
            write(&folder.join(format!("{}_{task}.json", split.name)), text.as_bytes())?;
        }
        answers.extend(split.vqa.iter().filter_map(|q| q["answer"][0].as_str().map(str::to_owned)));
    }
    write(&folder.join("answers.json"), json!(answers).to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn text_alone_gives_nothing_away() {
        for split in build_tasks(1, 32, 30).unwrap() {
            let mut labels: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for entry in split.nlvr.iter().chain(&split.ve) {
                let sentence = entry["sentence"].as_str().unwrap().to_owned();
                labels.entry(sentence).or_default().push(entry["label"].to_string());
            }
            for (sentence, labels) in labels {
                let count = |l: &String| labels.iter().filter(|o| *o == l).count();
                assert!(labels.iter().all(|l| count(l) == count(&labels[0])), "{sentence}");
            }
            let said = |answer: &str| split.vqa.iter().filter(|q| q["answer"][0] == answer).count();
            assert_eq!(said("yes"), said("no"));
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_files() {
        let (a, b) = (build_tasks(3, 32, 4).unwrap(), build_tasks(3, 32, 4).unwrap());
        assert!(a.iter().zip(&b).all(|(a, b)| a.pictures == b.pictures && a.vqa == b.vqa));
        assert_ne!(a[0].pictures, build_tasks(4, 32, 4).unwrap()[0].pictures);
    }
}
