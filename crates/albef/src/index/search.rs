//! Search in an index: recall by cosine, then re-ranking of the best images by the matching head.

use std::collections::HashMap;
use std::path::PathBuf;

use albef_data::dataset::Skipped;
use albef_data::error::{ImageError, ImageErrorKind};
use albef_data::image::RgbImage;
use albef_data::names;
use albef_index::{ContentHash, Encoder, Filter, ImageId, Record, RootId, Scored, Store, join};
use burn::tensor::Tensor;
use rayon::prelude::*;
use serde::Serialize;

use super::IndexEncoder;
use crate::Control;
use crate::error::{Error, Result};
use crate::eval::retrieval::score_pairs;
use crate::inference::{SearchOptions, Verdict, match_probability};
use crate::model::ImageStates;
use crate::params::from_vec;

/// Images that are fused with the text at a time.
const FUSED: usize = 16;
/// Candidates beyond those wanted, in which copies are found.
const SPARE: usize = 16;

/// What to search an index for. A text alone is re-ranked by the matching head; with anything else, which that head
/// does not know, the cosine to the sum of all decides.
#[derive(Clone, Debug)]
pub struct IndexQuery {
    /// What the images should show.
    pub text: Option<String>,
    /// Images that they should be like.
    pub like: Vec<RgbImage>,
    /// Texts that are added, with their weights; negative ones are taken away.
    pub terms: Vec<(String, f32)>,
    /// Which images are searched.
    pub filter: Filter,
    /// Images of a page, and re-ranking.
    pub options: SearchOptions,
    /// The page, from 1.
    pub page: usize,
}

impl IndexQuery {
    /// A text, searched in all images.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self {
            text: Some(text.into()),
            like: Vec::new(),
            terms: Vec::new(),
            filter: Filter::default(),
            options: SearchOptions::default(),
            page: 1,
        }
    }

    /// The text that candidates are re-ranked by.
    fn reranked_by(&self) -> Option<&str> {
        let alone = self.like.is_empty() && self.terms.is_empty() && self.options.rerank_k > 0;
        self.text.as_deref().filter(|_| alone)
    }
}

/// An image that was found.
#[derive(Clone, Debug, Serialize)]
pub struct IndexHit {
    /// Its number in the index.
    pub id: ImageId,
    /// Its path below its folder; with several folders, its whole path.
    pub image: String,
    /// Cosine of the vectors.
    pub cosine: f32,
    /// Probability of a match; `None` where it was not re-ranked.
    pub probability: Option<f64>,
    /// The score that results are ordered by.
    pub score: f32,
    /// Its whole path.
    pub path: String,
    /// The bytes of the path, where they are no UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_bytes: Option<Vec<u8>>,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// When it was taken or its file modified: seconds since 1970.
    pub date: i64,
    /// The camera.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub camera: Option<String>,
    /// The paths of its copies, byte by byte the same.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<String>,
    /// Its name as `image`, in the form of [`albef_data::names`] that keeps every byte.
    #[serde(skip)]
    pub name: String,
    /// The names of its copies in the same form.
    #[serde(skip)]
    pub copy_names: Vec<String>,
    /// Its whole path as the system has it.
    #[serde(skip)]
    pub file: PathBuf,
    /// The hash of its file.
    #[serde(skip)]
    pub content: ContentHash,
}

/// Results of a search in an index: one page, best first.
#[derive(Clone, Debug, Serialize)]
pub struct IndexResults {
    /// The text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// What results are ordered by: those that were re-ranked come first, then the others by cosine.
    pub order: &'static str,
    /// The images.
    pub results: Vec<IndexHit>,
    /// Usable images of the index.
    pub gallery: u64,
    /// Whether something matches.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// The page, from 1.
    pub page: usize,
    /// Whether there are more.
    pub more: bool,
    /// Whether a text is longer than the model reads.
    #[serde(skip)]
    pub truncated: bool,
    /// Candidates whose files cannot be read any more.
    #[serde(skip)]
    pub skipped: Vec<Skipped>,
}

impl IndexEncoder<'_> {
    /// The unit-length vector of a query: the sum of its text, the mean of its images, and its weighted terms.
    ///
    /// # Errors
    /// [`Error::EmptyText`], or [`Error::Argument`] if there is nothing to look for or the parts cancel out.
    pub fn query_vector(&self, query: &IndexQuery) -> Result<Vec<f32>> {
        if query.text.is_none() && query.like.is_empty() && query.terms.is_empty() {
            let detail = "there is nothing to look for: give a text, an image or weighted texts";
            return Err(Error::Argument(detail.into()));
        }
        let model = self.model();
        let mut sum = vec![0.0_f32; model.embed_dim()];
        let mut add = |vector: &[f32], weight: f32| {
            sum.iter_mut().zip(vector).for_each(|(s, v)| *s += weight * v);
        };
        if let Some(text) = &query.text {
            add(&model.embed_query(text)?, 1.0);
        }
        for vector in model.embed_images(&query.like)? {
            add(&vector, 1.0 / query.like.len() as f32);
        }
        for (text, weight) in &query.terms {
            add(&model.embed_query(text)?, *weight);
        }
        let length = sum.iter().map(|v| v * v).sum::<f32>().sqrt();
        if length < 1e-6 {
            let detail = "there is nothing to look for: the parts of the query cancel out";
            return Err(Error::Argument(detail.into()));
        }
        Ok(sum.into_iter().map(|v| v / length).collect())
    }

    /// Searches an index.
    ///
    /// # Errors
    /// As [`IndexEncoder::query_vector`], [`Error::Index`] if the index cannot be read or is of another model,
    /// [`Error::Cancelled`].
    pub fn search(
        &self,
        store: &dyn Store,
        query: &IndexQuery,
        control: &Control,
    ) -> Result<IndexResults> {
        albef_index::check_identity(store, &self.identity())?;
        let vector = self.query_vector(query)?;
        let SearchOptions { top_k, rerank_k, .. } = query.options;
        let by = query.reranked_by();
        // The same for all pages, so that each image is on one of them.
        let window = by.map_or(0, |_| rerank_k.max(top_k));
        let page = query.page.max(1);
        let wanted = (page * top_k + 1).max(window);
        let names = Names::new(store)?;
        let mut hits = candidates(store, &vector, &query.filter, wanted, &names)?;
        let mut skipped = Vec::new();
        if let Some(text) = by {
            let rest = hits.split_off(window.min(hits.len()));
            hits = self.rerank(hits, text, &query.options, control, &mut skipped)?;
            hits.extend(rest);
        }
        let (_, threshold) = self.model().weight_and_threshold(&query.options);
        let verdict = Verdict::new(hits.iter().filter_map(|hit| hit.probability), threshold);
        let more = hits.len() > page * top_k;
        let results = hits.into_iter().skip((page - 1) * top_k).take(top_k).collect();
        let texts = query.text.iter().chain(query.terms.iter().map(|(text, _)| text));
        Ok(IndexResults {
            order: if by.is_some() { query.options.order() } else { "cosine" },
            results,
            gallery: store.info()?.images,
            verdict,
            page,
            more,
            truncated: { texts }.any(|text| self.model().query_caption(text).truncated),
            query: query.text.clone(),
            skipped,
        })
    }

    /// The states of candidates, of which those that are kept come first.
    fn all_states(&self, sources: Vec<Source>, contents: &[ContentHash]) -> Result<ImageStates> {
        let (batch, [length, width]) = (sources.len(), self.size_of_states());
        let (mut kept, mut prepared) = (Vec::new(), Vec::new());
        for source in sources {
            match source {
                Source::Kept(states) => kept.push(states),
                Source::Prepared(pixels) => prepared.push(pixels),
            }
        }
        let device = self.model().device();
        let shape = [kept.len() * length, width];
        let known = (!kept.is_empty()).then(|| from_vec(kept.concat(), shape, device));
        let made = match prepared.is_empty() {
            true => None,
            false => Some(self.states(&prepared, &contents[kept.len()..])?.tokens),
        };
        let tokens = Tensor::cat(known.into_iter().chain(made).collect(), 0);
        Ok(ImageStates { tokens, batch, length })
    }

    /// Orders candidates by the matching head; those whose files cannot be read are left out.
    fn rerank(
        &self,
        hits: Vec<IndexHit>,
        text: &str,
        options: &SearchOptions,
        control: &Control,
        skipped: &mut Vec<Skipped>,
    ) -> Result<Vec<IndexHit>> {
        let model = self.model();
        let (texts, temperature) = ([model.query_caption(text).ids], model.temperature());
        let (weight, _) = model.weight_and_threshold(options);
        let mut out = Vec::with_capacity(hits.len());
        let mut hits = hits.into_iter();
        loop {
            control.check()?;
            let part: Vec<IndexHit> = hits.by_ref().take(FUSED).collect();
            if part.is_empty() {
                break;
            }
            let kept = self.kept_states();
            let read = |hit: IndexHit| {
                let states = kept.as_ref().and_then(|kept| kept.load(&hit.content));
                let source = match states {
                    Some(states) => Ok(Source::Kept(states)),
                    None => {
                        self.reader().open(&hit.file).map(|i| Source::Prepared(self.prepare(&i)))
                    }
                };
                (hit, source.map_err(|e| e.to_string()))
            };
            let mut ready = Vec::new();
            for (hit, source) in part.into_par_iter().map(read).collect::<Vec<_>>() {
                match source {
                    Ok(source) => ready.push((hit, source)),
                    Err(detail) => skipped.push(Skipped {
                        name: hit.image,
                        error: ImageError { kind: ImageErrorKind::Io, detail },
                    }),
                }
            }
            if ready.is_empty() {
                continue;
            }
            // Those that are kept first: one tensor of each kind.
            ready.sort_by_key(|(_, source)| matches!(source, Source::Prepared(_)));
            let (part, sources): (Vec<IndexHit>, Vec<Source>) = ready.into_iter().unzip();
            let contents: Vec<ContentHash> = part.iter().map(|hit| hit.content).collect();
            let states = self.all_states(sources, &contents)?;
            let pairs: Vec<(usize, usize)> = (0..part.len()).map(|i| (i, 0)).collect();
            let logits = score_pairs(model.model(), &texts, &pairs, 1, &states)?;
            out.extend(part.into_iter().zip(logits).map(|(mut hit, logits)| {
                hit.probability = Some(match_probability(logits));
                hit.score = options.score.weighted(weight, logits, temperature, || hit.cosine);
                hit
            }));
        }
        out.sort_by(|x, y| y.score.total_cmp(&x.score).then(y.cosine.total_cmp(&x.cosine)));
        Ok(out)
    }
}

/// Where the states of a candidate come from.
enum Source {
    /// They are kept.
    Kept(Vec<f32>),
    /// They are made of the prepared image.
    Prepared(Vec<f32>),
}

/// Folders of the index, for the names of images.
pub(super) struct Names {
    roots: HashMap<RootId, Vec<u8>>,
}

impl Names {
    pub(super) fn new(store: &dyn Store) -> Result<Self> {
        let roots = store.roots()?.into_iter().map(|root| (root.id, root.path)).collect();
        Ok(Self { roots })
    }

    fn file(&self, record: &Record) -> PathBuf {
        let root = self.roots.get(&record.image.root).map_or(&[][..], Vec::as_slice);
        join(root, &record.image.path)
    }

    /// The path below the folder, where there is one folder only.
    pub(super) fn name(&self, record: &Record) -> String {
        match self.roots.len() {
            1 => names::text_of(&record.image.path),
            _ => names::text_of_path(&self.file(record)),
        }
    }

    fn hit(&self, record: Record, cosine: f32) -> IndexHit {
        let file = self.file(&record);
        let whole = names::text_of_path(&file);
        let name = self.name(&record);
        let date = record.image.date();
        IndexHit {
            id: record.id,
            image: names::readable(&name),
            cosine,
            probability: None,
            score: cosine,
            path: names::readable(&whole),
            path_bytes: names::odd_bytes(&whole),
            width: record.image.width,
            height: record.image.height,
            date,
            camera: record.image.camera,
            copies: Vec::new(),
            name,
            copy_names: Vec::new(),
            file,
            content: record.image.hash,
        }
    }
}

/// The `wanted` best images by cosine, of which copies count once.
fn candidates(
    store: &dyn Store,
    vector: &[f32],
    filter: &Filter,
    wanted: usize,
    names: &Names,
) -> Result<Vec<IndexHit>> {
    let mut k = wanted + SPARE;
    loop {
        let found = store.top_k(vector, k, filter)?;
        let all = found.len() < k;
        let ids: Vec<ImageId> = found.iter().map(|f| f.id).collect();
        let records = store.get(&ids)?;
        let mut hits: Vec<IndexHit> = Vec::new();
        let mut places: HashMap<ContentHash, usize> = HashMap::new();
        for (Scored { score, .. }, record) in found.iter().zip(records) {
            // It may have been forgotten since.
            let Some(record) = record else { continue };
            match places.get(&record.image.hash) {
                Some(place) => {
                    let copy = names::readable(&names::text_of_path(&names.file(&record)));
                    hits[*place].copies.push(copy);
                    hits[*place].copy_names.push(names.name(&record));
                }
                None => {
                    places.insert(record.image.hash, hits.len());
                    hits.push(names.hit(record, *score));
                }
            }
        }
        if hits.len() >= wanted || all {
            hits.truncate(wanted);
            return Ok(hits);
        }
        k *= 2;
    }
}

#[cfg(test)]
mod tests {
    use albef_data::scenes::png;
    use albef_index::{PathPattern, StatePrecision, UpdateOptions};

    use super::*;
    use crate::eval::retrieval::Score;
    use crate::index::{Place, browse, open_current};
    use crate::pipeline::tests::nano;

    /// A folder of `n` images of different colors, one copy and one broken file.
    fn folder(n: u8) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for i in 0..n {
            let image = RgbImage::filled(20, 24, [40 * i, 200 - 30 * i, 7 * i]);
            std::fs::write(dir.path().join(format!("{i}.png")), png(&image).unwrap()).unwrap();
        }
        std::fs::copy(dir.path().join("0.png"), dir.path().join("copy.png")).unwrap();
        std::fs::write(dir.path().join("broken.png"), b"no image").unwrap();
        dir
    }

    fn with_index(check: impl Fn(&IndexEncoder<'_>, &dyn Store, &std::path::Path)) {
        let (model, photos, folder_of_index) = (nano(), folder(6), tempfile::tempdir().unwrap());
        let encoder = IndexEncoder::new(&model);
        let at = albef_index::Location::Folder(folder_of_index.path().to_owned());
        let place = Place::find(&[photos.path()], Some(&at), None).unwrap();
        let options = UpdateOptions::default();
        let opened = open_current(&place, &encoder, &options, &Control::new()).unwrap();
        let done = opened.update.unwrap();
        assert_eq!((done.added, done.broken), (8, 1));
        check(&encoder, &*opened.store, photos.path());
    }

    fn query(text: &str, options: SearchOptions) -> IndexQuery {
        IndexQuery { options, ..IndexQuery::text(text) }
    }

    #[test]
    fn an_index_that_another_process_is_making_is_not_one_without_images() {
        let (model, photos, folder_of_index) = (nano(), folder(2), tempfile::tempdir().unwrap());
        let encoder = IndexEncoder::new(&model);
        let at = albef_index::Location::Folder(folder_of_index.path().to_owned());
        let place = Place::find(&[photos.path()], Some(&at), None).unwrap();
        let writer = place.open_to_write(&encoder, false).unwrap();
        let open =
            || open_current(&place, &encoder, &UpdateOptions::default(), &Control::new()).unwrap();
        let error = open().check_not_empty("photos").unwrap_err().to_string();
        assert!(error.contains("another process is making it"), "{error}");
        drop(writer);
        open().check_not_empty("photos").unwrap();
    }

    #[test]
    fn the_score_of_a_hit_is_that_of_matching_it_alone() {
        with_index(|encoder, store, photos| {
            let options = SearchOptions::default().score(Score::Itm);
            let found = encoder.search(store, &query("a dog", options), &Control::new()).unwrap();
            assert_eq!((found.results.len(), found.gallery, found.more), (6, 7, false));
            assert!(found.results.is_sorted_by(|a, b| a.score >= b.score));
            for hit in &found.results {
                let image = albef_data::image::open(&hit.file, &Default::default()).unwrap();
                let alone = encoder.model().match_text(&[image], "a dog").unwrap()[0];
                assert!((alone.itm_logit - hit.score).abs() < 1e-4, "{alone:?} {hit:?}");
                assert!((alone.cosine - hit.cosine).abs() < 1e-3, "{alone:?} {hit:?}");
            }
            let copies: Vec<&String> = found.results.iter().flat_map(|h| &h.copies).collect();
            assert_eq!(copies.len(), 1, "two files of one content are one result");
            // A file that is gone is left out and named.
            std::fs::remove_file(photos.join("3.png")).unwrap();
            let found = encoder.search(store, &query("a dog", options), &Control::new()).unwrap();
            assert_eq!((found.results.len(), found.skipped[0].name.as_str()), (5, "3.png"));
        });
    }

    #[test]
    fn kept_states_give_the_same_scores_without_the_images() {
        for (precision, off) in [(StatePrecision::F16, 2e-3), (StatePrecision::Int8, 3e-2)] {
            let (model, photos, at) = (nano(), folder(6), tempfile::tempdir().unwrap());
            let encoder = IndexEncoder::new(&model);
            let location = albef_index::Location::Folder(at.path().to_owned());
            let place = Place::find(&[photos.path()], Some(&location), None).unwrap();
            let (options, control) = (UpdateOptions::default(), Control::new());
            let search = |encoder: &IndexEncoder<'_>, store: &dyn Store| {
                let options = SearchOptions::default().score(Score::Itm);
                let found = encoder.search(store, &query("a dog", options), &control).unwrap();
                let of = |hit: &IndexHit| (hit.id, hit.score);
                let mut scores: Vec<(ImageId, f32)> = found.results.iter().map(of).collect();
                scores.sort_by_key(|(id, _)| *id);
                (scores, found.skipped.len())
            };
            let store = place.open_to_write(&encoder, false).unwrap();
            // Of half of the images while they are indexed, of the others when they are asked for.
            let moved = photos.path().join("5.png");
            let away = at.path().join("5.png");
            std::fs::rename(&moved, &away).unwrap();
            albef_index::update(&*store, &encoder, &options, &control).unwrap();
            std::fs::rename(&away, &moved).unwrap();
            place.keep_states(&encoder, Some(precision)).unwrap();
            let update = albef_index::update(&*store, &encoder, &options, &control).unwrap();
            assert_eq!((update.encoded, encoder.kept_states().unwrap().usage().unwrap().0), (1, 1));
            let (exact, _) = search(&encoder, &*store);
            assert_eq!(encoder.kept_states().unwrap().usage().unwrap().0, 6);
            drop(store);

            for i in 0..6 {
                std::fs::remove_file(photos.path().join(format!("{i}.png"))).unwrap();
            }
            let store = place.index.read().unwrap();
            let again = IndexEncoder::new(&model);
            again.use_states(&place.index).unwrap();
            let (kept, skipped) = search(&again, &*store);
            assert_eq!((kept.len(), skipped), (6, 0));
            for (a, b) in exact.iter().zip(&kept) {
                assert!(a.0 == b.0 && (a.1 - b.1).abs() < off, "{precision:?} {a:?} {b:?}");
            }
            assert_eq!(place.forget_states(&*store).unwrap(), 0);
        }
    }

    #[test]
    fn states_of_all_images_are_completed_and_those_of_forgotten_ones_go() {
        let (model, photos, at) = (nano(), folder(4), tempfile::tempdir().unwrap());
        let encoder = IndexEncoder::new(&model);
        let location = albef_index::Location::Folder(at.path().to_owned());
        let place = Place::find(&[photos.path()], Some(&location), None).unwrap();
        let (options, control) = (UpdateOptions::default(), Control::new());
        let store = open_current(&place, &encoder, &options, &control).unwrap().store;
        assert!(encoder.complete_states(&*store, &control).is_err(), "none are to be kept");
        place.keep_states(&encoder, Some(StatePrecision::Int8)).unwrap();
        std::fs::remove_file(photos.path().join("1.png")).unwrap();
        let done = encoder.complete_states(&*store, &control).unwrap();
        assert_eq!((done.made, done.kept, done.unreadable), (3, 0, 1));
        let done = encoder.complete_states(&*store, &control).unwrap();
        assert_eq!((done.made, done.kept, done.unreadable), (0, 3, 1));
        std::fs::remove_file(photos.path().join("2.png")).unwrap();
        albef_index::update(&*store, &encoder, &options, &control).unwrap();
        assert_eq!(place.forget_states(&*store).unwrap(), 1);
        // A damaged one is made again.
        let kept = encoder.kept_states().unwrap();
        let hash = albef_index::content_hash(&std::fs::read(photos.path().join("3.png")).unwrap());
        let name: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        std::fs::write(at.path().join("states").join(&name[..2]).join(&name), b"short").unwrap();
        assert!(kept.load(&hash).is_none());
        let query = query("a dog", SearchOptions::default());
        assert_eq!(encoder.search(&*store, &query, &control).unwrap().results.len(), 2);
        assert!(kept.load(&hash).is_some());
        place.keep_states(&encoder, None).unwrap();
        assert!(encoder.kept_states().is_none() && !at.path().join("states").exists());
    }

    #[test]
    fn an_index_can_be_looked_through_without_a_search() {
        with_index(|_, store, _| {
            let mut seen = Vec::new();
            for page in 1..5 {
                let found = browse(store, &Filter::default(), page, 3).unwrap();
                assert_eq!((found.gallery, found.more), (7, page < 3));
                seen.extend(found.images.into_iter().map(|image| (image.date, image.id)));
            }
            assert_eq!(seen.len(), 7, "all usable ones, copies too");
            assert!(seen.is_sorted_by(|a, b| a > b), "{seen:?}");
            let paths = vec![PathPattern::new("4.*").unwrap()];
            let found = browse(store, &Filter { paths, ..Filter::default() }, 1, 3).unwrap();
            assert_eq!((found.images.len(), found.images[0].image.as_str()), (1, "4.png"));
        });
    }

    #[test]
    fn pages_hold_each_image_once() {
        with_index(|encoder, store, _| {
            for rerank_k in [0, 1, 3, 64] {
                let options = SearchOptions::default().top_k(2).rerank_k(rerank_k);
                let mut seen = Vec::new();
                for page in 1..5 {
                    let query = IndexQuery { page, ..query("a dog", options) };
                    let found = encoder.search(store, &query, &Control::new()).unwrap();
                    assert_eq!(found.more, page < 3, "{rerank_k} {page}");
                    seen.extend(found.results.iter().map(|hit| hit.id));
                }
                assert_eq!(seen.len(), 6);
                seen.sort_unstable();
                seen.dedup();
                assert_eq!(seen.len(), 6);
            }
        });
    }

    #[test]
    fn images_and_weighted_terms_are_queries_too() {
        with_index(|encoder, store, photos| {
            let image =
                albef_data::image::open(&photos.join("4.png"), &Default::default()).unwrap();
            let like = IndexQuery { text: None, like: vec![image], ..IndexQuery::text("") };
            let found = encoder.search(store, &like, &Control::new()).unwrap();
            assert_eq!((found.order, found.results[0].image.as_str()), ("cosine", "4.png"));
            assert!(found.results[0].cosine > 0.999);
            let terms = vec![("a dog".to_owned(), -1.0)];
            let nothing = IndexQuery { terms, ..IndexQuery::text("a dog") };
            let error = encoder.search(store, &nothing, &Control::new()).unwrap_err();
            assert!(error.to_string().contains("cancel out"), "{error}");
            let filter =
                Filter { paths: vec![PathPattern::new("[12].png").unwrap()], ..Filter::default() };
            let some = IndexQuery { filter, ..IndexQuery::text("a dog") };
            assert_eq!(encoder.search(store, &some, &Control::new()).unwrap().results.len(), 2);
        });
    }
}
