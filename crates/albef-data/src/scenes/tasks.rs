//! Scenes for every task in the official annotation formats.
//!
//! Neither text alone nor images alone may give the answers away: each statement about two images
//! is once true and once false, of equal images as often as of different ones; each sentence of
//! entailment appears under all three labels, always with one half of the image hidden; each yes-no
//! question is asked of as many images with yes as with no. `train` and `val` are of the trained
//! styles, `val` with pairs of concepts that never meet in `train`; `test` is of a style that is never
//! seen; `concept` is of concepts that no other split shows or names.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::compose::{Arranged, with_article};
use super::write_list;
use super::{Pair, Sprites, png};
use crate::error::{DataError, Result};
use crate::image::RgbImage;
use crate::random::Stream;

/// Images of each thing alone in each style.
const COPIES: usize = 4;
/// Draws after which a concept that fits is taken to be too rare to wait for.
const PATIENCE: usize = 10_000;
/// Split of the concepts that no other one shows.
const CONCEPT: &str = "concept";
/// Grey of the curtain that hides half of an image.
const CURTAIN: [u8; 3] = [120, 120, 120];

/// One split: images, and the lists of all tasks over them.
#[derive(Clone, Debug, Default)]
pub struct TaskCorpus {
    /// Name of the split.
    pub name: String,
    /// Images by file name.
    pub images: Vec<(String, RgbImage)>,
    /// Single things with their names, in every style of the split.
    pub things: Vec<Value>,
    /// Captions of scenes, as for pre-training and retrieval.
    pub captions: Vec<Value>,
    /// Captions of scenes in groups of two, in which the same things stand in each other's places.
    pub swapped: Vec<Value>,
    /// Questions with answers.
    pub vqa: Vec<Value>,
    /// Statements about two images.
    pub nlvr: Vec<Value>,
    /// Sentences with labels.
    pub ve: Vec<Value>,
    /// Expressions with the box of what they mean and the boxes to choose from.
    pub grounding: Vec<Value>,
}

impl TaskCorpus {
    /// All texts of the lists, answers included.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        let lists = [
            &self.things,
            &self.captions,
            &self.swapped,
            &self.vqa,
            &self.nlvr,
            &self.ve,
            &self.grounding,
        ];
        lists.into_iter().flatten().flat_map(|entry| {
            let single =
                ["question", "sentence", "text"].into_iter().filter_map(|key| entry[key].as_str());
            let several = ["caption", "answer"].into_iter().filter_map(|key| entry[key].as_array());
            single.chain(several.flatten().filter_map(Value::as_str))
        })
    }
}

impl fmt::Display for TaskCorpus {
    /// The size of each list.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} images, {} of single things, {} of captioned scenes, {} of swapped scenes, {} \
             questions, {} statements, {} sentences, {} expressions",
            self.name,
            self.images.len(),
            self.things.len(),
            self.captions.len(),
            self.swapped.len(),
            self.vqa.len(),
            self.nlvr.len(),
            self.ve.len(),
            self.grounding.len()
        )
    }
}

/// Which pairs of concepts a split shows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pairs {
    /// Those to train on.
    Trained,
    /// Those that never meet in training.
    Held,
    /// All.
    Any,
}

struct Builder<'a> {
    sprites: &'a Sprites,
    styles: Vec<usize>,
    pairs: Pairs,
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

    /// Whether the split shows the two together.
    fn meet(&self, a: usize, b: usize) -> bool {
        let pair = a.min(b) * self.sprites.concepts.len() + a.max(b);
        let held = Stream::new(self.seed, "task pair", &[pair as u64]).below(8) == 0;
        match self.pairs {
            Pairs::Trained => !held,
            Pairs::Held => held,
            Pairs::Any => true,
        }
    }

    /// Two different concepts whose pair belongs to this split, and a style.
    fn pair(&self, s: &mut Stream) -> Result<((usize, usize), usize)> {
        let n = self.sprites.concepts.len();
        let style = self.styles[s.below(self.styles.len())];
        for _ in 0..PATIENCE {
            let (a, b) = (s.below(n), s.below(n));
            if a != b && self.name(a) != self.name(b) && self.meet(a, b) {
                return Ok(((a, b), style));
            }
        }
        Err(DataError::Argument(format!(
            "{n} concepts leave no pair for the split `{}` with this seed; take more concepts or \
             another seed",
            self.out.name
        )))
    }

    /// A concept that is none of the two and forms a pair of this split with the first, or, where
    /// there is none, any third concept.
    fn other(&self, s: &mut Stream, pair: (usize, usize)) -> usize {
        let mut third = pair.1;
        for attempt in 0..PATIENCE {
            let c = s.below(self.sprites.concepts.len());
            if self.name(c) == self.name(pair.0) || self.name(c) == self.name(pair.1) {
                continue;
            }
            third = c;
            if attempt >= PATIENCE / 2 || self.meet(pair.0, c) {
                break;
            }
        }
        third
    }

    /// Four different concepts in any order. In `train` no two of them are a pair of another split; elsewhere
    /// two of them are a pair that never meets there.
    fn four(&self, s: &mut Stream) -> Result<([usize; 4], usize)> {
        let n = self.sprites.concepts.len();
        for _ in 0..PATIENCE {
            let (pair, style) = self.pair(s)?;
            let all = [pair.0, pair.1, s.below(n), s.below(n)];
            let mut pairs = (0..4).flat_map(|i| (0..i).map(move |j| (all[i], all[j])));
            let fits = |(a, b): (usize, usize)| {
                self.name(a) != self.name(b) && (self.pairs != Pairs::Trained || self.meet(a, b))
            };
            if pairs.all(fits) {
                let mut order = all;
                for i in 0..4 {
                    order.swap(i, i + s.below(4 - i));
                }
                return Ok((order, style));
            }
        }
        Err(DataError::Argument(format!(
            "{n} concepts leave no four for the split `{}`; take more",
            self.out.name
        )))
    }

    fn add(&mut self, image: RgbImage) -> String {
        let file = format!("{}/{:05}.png", self.out.name, self.out.images.len());
        self.out.images.push((file.clone(), image));
        file
    }

    /// Every concept alone, in every style of the split.
    fn things(&mut self) {
        for style in self.styles.clone() {
            for concept in 0..self.sprites.concepts.len() {
                for copy in 0..COPIES {
                    let place = (style * self.sprites.concepts.len() + concept) * COPIES + copy;
                    let mut s = self.stream("thing", place);
                    let Pair { image, captions, id, style } =
                        self.sprites.single(concept, style, self.size, &mut s);
                    let file = self.add(image);
                    self.out.things.push(
                        json!({"image": file, "caption": captions, "image_id": id, "style": style}),
                    );
                }
            }
        }
    }

    fn caption(&mut self, i: usize) -> Result<()> {
        let mut s = self.stream("caption", i);
        let (pair, style) = self.pair(&mut s)?;
        let Pair { image, captions, id, style } =
            self.sprites.scene(pair, style, None, self.size, &mut s);
        let file = self.add(image);
        self.out
            .captions
            .push(json!({"image": file, "caption": captions, "image_id": id, "style": style}));
        Ok(())
    }

    /// Two scenes of the same things, which stand in each other's places in the second.
    fn swapped(&mut self, i: usize) -> Result<()> {
        let mut s = self.stream("swapped", i);
        let ((a, b), style) = self.pair(&mut s)?;
        let beside = s.below(2) == 0;
        for pair in [(a, b), (b, a)] {
            let Pair { image, captions, style, .. } =
                self.sprites.scene(pair, style, Some(beside), self.size, &mut s);
            let file = self.add(image);
            // What stands to the left of a thing is another scene than what stands above it.
            let id = &captions[0];
            self.out
                .swapped
                .push(json!({"image": file, "caption": captions, "image_id": id, "style": style}));
        }
        Ok(())
    }

    fn ask(&mut self, file: &str, question: String, answer: &str) {
        let id = self.out.vqa.len();
        self.out.vqa.push(json!({"dataset": "vqa", "image": file, "question": question,
                                 "question_id": id, "answer": [answer]}));
    }

    /// Questions: what stands where, and whether something is there.
    fn questions(&mut self, i: usize) -> Result<()> {
        let mut s = self.stream("vqa", i);
        let (pair, style) = self.pair(&mut s)?;
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
        // The absent one of this image is present in others, so a name tells nothing.
        self.ask(&file, format!("is there {}?", with_article(&names[i % 2])), "yes");
        self.ask(&file, format!("is there {}?", with_article(&absent)), "no");
        Ok(())
    }

    /// A statement about two images, once true and once false. Two equal images make one kind
    /// true and another false, so that it tells nothing that they are equal.
    fn statements(&mut self, i: usize) -> Result<()> {
        let mut s = self.stream("nlvr", i);
        let ((x, y), style) = self.pair(&mut s)?;
        let name = with_article(self.name(x));
        let mixed = if s.below(2) == 0 { [x, y] } else { [y, x] };
        // The concepts of the four images: true pair, then false pair.
        let (sentence, shown) = match i % 3 {
            0 => (format!("both pictures show {name}"), [[x, x], mixed]),
            1 => (format!("only the left picture shows {name}"), [[x, y], [y, x]]),
            _ => (format!("only one of the pictures shows {name}"), [mixed, [x, x]]),
        };
        for (concepts, label) in shown.into_iter().zip(["True", "False"]) {
            let mut files = Vec::new();
            for concept in concepts {
                let single = self.sprites.single(concept, style, self.size, &mut s);
                files.push(self.add(single.image));
            }
            self.out.nlvr.push(json!({"images": files, "sentence": sentence, "label": label}));
        }
        Ok(())
    }

    /// A sentence that one image entails, one contradicts, and one leaves open: a curtain hides the
    /// half that the sentence speaks of, in the other two the other half.
    fn sentences(&mut self, i: usize) -> Result<()> {
        let mut s = self.stream("ve", i);
        let (pair, style) = self.pair(&mut s)?;
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
            let Arranged { mut image, .. } =
                self.sprites.two(order(shown), style, Some(true), self.size, &mut s);
            draw_curtain(&mut image, left == (label == "neutral"));
            let file = self.add(image);
            self.out.ve.push(json!({"image": file, "sentence": sentence, "label": label}));
        }
        Ok(())
    }

    /// An expression for each of the four things in an image, with their boxes.
    fn expressions(&mut self, i: usize) -> Result<()> {
        let mut s = self.stream("grounding", i);
        let (concepts, style) = self.four(&mut s)?;
        let (image, places, side) = self.sprites.four(concepts, style, self.size, &mut s);
        let boxes = places.map(|(x, y)| [x, y, side, side]);
        let file = self.add(image);
        for (concept, own) in concepts.into_iter().zip(&boxes) {
            let text = format!("the {}", self.name(concept));
            let id = self.out.grounding.len();
            self.out.grounding.push(json!({"image": file, "text": text, "ref_id": id,
                                           "box": own, "boxes": boxes}));
        }
        Ok(())
    }
}

/// Hides the left or the right half.
fn draw_curtain(image: &mut RgbImage, left: bool) {
    let half = image.width / 2;
    let columns = if left { 0..half } else { half..image.width };
    for row in image.pixels.chunks_exact_mut(image.width * 3) {
        for pixel in row[columns.start * 3..columns.end * 3].chunks_exact_mut(3) {
            pixel.copy_from_slice(&CURTAIN);
        }
    }
}

/// Builds `train`, `val`, `test` if there is a style that is held out, and `concept` if there are
/// concepts that are; `scenes` is the number of scenes of each task in `train`, the others have a fifth
/// of it.
///
/// # Errors
/// If the concepts are too few to form the splits.
pub fn build_tasks(
    sprites: &Sprites,
    held_concepts: Option<&Sprites>,
    seed: u64,
    size: usize,
    scenes: usize,
) -> Result<Vec<TaskCorpus>> {
    let trained: Vec<usize> = (0..sprites.trained()).collect();
    let unseen: Vec<usize> = sprites.unseen().collect();
    let few = scenes.div_ceil(5);
    let mut splits = vec![
        ("train", sprites, trained.clone(), Pairs::Trained, scenes),
        ("val", sprites, trained.clone(), Pairs::Held, few),
    ];
    if !unseen.is_empty() {
        splits.push(("test", sprites, unseen, Pairs::Held, few));
    }
    if let Some(others) = held_concepts {
        splits.push((CONCEPT, others, trained, Pairs::Any, few));
    }
    splits
        .into_iter()
        .map(|(name, sprites, styles, pairs, count)| {
            let out = TaskCorpus { name: name.into(), ..TaskCorpus::default() };
            let mut builder = Builder { sprites, styles, pairs, size, seed, out };
            for i in 0..count {
                builder.caption(i)?;
                builder.questions(i)?;
                builder.statements(i)?;
                builder.sentences(i)?;
                builder.expressions(i)?;
            }
            builder.things();
            for i in 0..count {
                builder.swapped(i)?;
            }
            Ok(builder.out)
        })
        .collect()
}

/// Writes images and the lists `SPLIT_things.json`, `SPLIT_captions.json`, `SPLIT_swapped.json`, `SPLIT_vqa.json`, `SPLIT_nlvr.json`,
/// `SPLIT_ve.json`, `SPLIT_grounding.json`, and the candidate answers: `answers.json`, for `concept`
/// `concept_answers.json`. Image paths are relative to `folder`. The lists come after all images,
/// `answers.json` last, each whole or not at all, so none names a file that is not there.
///
/// # Errors
/// If a file cannot be written.
pub fn write_tasks(splits: &[TaskCorpus], folder: &Path) -> Result<()> {
    for split in splits {
        let images = folder.join(&split.name);
        fs::create_dir_all(&images).map_err(DataError::io(&images))?;
        for (file, image) in &split.images {
            let file = folder.join(file);
            fs::write(&file, png(image)?).map_err(DataError::io(&file))?;
        }
    }
    let mut answers = BTreeSet::new();
    for split in splits {
        for (task, list) in [
            ("things", &split.things),
            ("captions", &split.captions),
            ("swapped", &split.swapped),
            ("vqa", &split.vqa),
            ("nlvr", &split.nlvr),
            ("ve", &split.ve),
            ("grounding", &split.grounding),
        ] {
            let file = folder.join(format!("{}_{task}.json", split.name));
            write_list(&file, &Value::Array(list.clone()))?;
        }
        let said = split.vqa.iter().filter_map(|q| q["answer"][0].as_str());
        if split.name == CONCEPT {
            let own = json!(said.collect::<BTreeSet<_>>());
            write_list(&folder.join("concept_answers.json"), &own)?;
        } else {
            answers.extend(said);
        }
    }
    write_list(&folder.join("answers.json"), &json!(answers))
}

#[cfg(test)]
mod tests;
