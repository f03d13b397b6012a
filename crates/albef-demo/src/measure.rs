//! What the trained model can do: recalls, and searches drawn at random.

use std::path::Path;

use albef::eval::retrieval::{self, Evaluation, Score, intervals, measure, top_k};
use albef::{Control, ImageSet, Pipeline};
use albef_data::random::Stream;
use albef_data::scenes::{Corpus, Pair, pixel_baseline, png};
use albef_report::{SearchExample, SearchResult, Table, Wanted};
use anyhow::Result;

use crate::CANDIDATES;
use crate::options::Event;

/// The stage of the model that comes with the program.
const SHIPPED: &str = "cosine, the model that comes with albef";

/// Recalls on the three sets, and some searches. The shipped model is measured by cosine beside the fresh one.
pub(crate) fn measured(
    model: &Pipeline,
    shipped: Option<&Pipeline>,
    corpus: &Corpus,
    data: &Path,
    seed: u64,
    observe: &mut dyn FnMut(&Event<'_>),
) -> Result<(Table, Vec<SearchExample>)> {
    let splits = [
        ("scenes, pairs that never met", "val_scenes", &corpus.val_scenes),
        ("emoji, held-out renderings", "val_emoji", &corpus.val_emoji),
        ("emoji, unseen style", "val_style", &corpus.val_style),
    ];
    let mut table = Table {
        caption: format!(
            "Recall in percent with 95 % bootstrap intervals over queries; each image and its captions \
             are looked for among all of the same set, any image of the same thing is right, and the best {CANDIDATES} are re-ranked"
        ),
        head: [
            "set",
            "images",
            "stage",
            "image→text R@1",
            "text→image R@1",
            "text→image R@10",
            "chance R@1",
            "pixels",
        ]
        .map(String::from)
        .to_vec(),
        rows: Vec::new(),
    };
    let mut searches = Vec::new();
    for (title, name, pairs) in splits {
        let list = data.join(format!("{name}.json")).display().to_string();
        let images = ImageSet::open(&list, Some(data))?;
        let by = |model: &Pipeline, score| {
            let options = retrieval::Options { k: CANDIDATES, score, ..Default::default() };
            measure(model, &images, &options, true, &Control::default())
        };
        let (found, both) = (by(model, Score::Itm)?, by(model, Score::Posterior)?.evaluation);
        let shipped = shipped.and_then(|m| match by(m, Score::Itm) {
            Ok(found) => Some(found),
            Err(error) => {
                observe(&Event::Status(&format!("note: {SHIPPED} cannot be measured: {error}")));
                None
            }
        });
        let (out, texts) = (found.evaluation, found.texts);
        let per_image = texts as f64 / pairs.len() as f64;
        let chance = 100.0 * per_image / texts as f64;
        let pixels = match name {
            "val_scenes" => "—".to_owned(),
            _ => format!("{:.1}", 100.0 * pixel_baseline(&corpus.train, pairs)),
        };
        let mut stages = vec![
            ("cosine", &out.itc, &out.itc_ranks),
            ("re-ranked by matching", &out.itm, &out.itm_ranks),
            ("by both, as search does", &both.itm, &both.itm_ranks),
        ];
        let of_shipped = shipped.as_ref().map(|found| &found.evaluation);
        stages.extend(of_shipped.map(|e| (SHIPPED, &e.itc, &e.itc_ranks)));
        for (stage, report, ranks) in stages {
            let i = intervals(ranks, 1000);
            let cell = |value: f64, key: &str| {
                let bound = |j: usize| i[key][j].as_f64().unwrap_or(f64::NAN);
                format!("{value:.1} [{:.1}, {:.1}]", bound(0), bound(1))
            };
            table.rows.push(vec![
                title.into(),
                pairs.len().to_string(),
                stage.into(),
                cell(report.txt_r1, "txt_r1"),
                cell(report.img_r1, "img_r1"),
                cell(report.img_r10, "img_r10"),
                format!("{chance:.1}"),
                pixels.clone(),
            ]);
            observe(&Event::Status(&format!(
                "{name} {stage}: image to text R@1 {}, text to image R@1 {}, chance {chance:.1}",
                cell(report.txt_r1, "txt_r1"),
                cell(report.img_r1, "img_r1")
            )));
        }
        examples(&both, pairs, seed, &mut searches)?;
    }
    Ok((table, searches))
}

/// Adds three searches of a split that are not there yet, right and wrong ones alike: drawn by the seed, not
/// chosen by result.
fn examples(
    out: &Evaluation,
    pairs: &[Pair],
    seed: u64,
    searches: &mut Vec<SearchExample>,
) -> Result<()> {
    let captions: Vec<(usize, &String)> = pairs
        .iter()
        .enumerate()
        .flat_map(|(i, p)| p.captions.iter().map(move |c| (i, c)))
        .collect();
    let mut stream = Stream::new(seed, "example searches", &[pairs.len() as u64]);
    let wanted = searches.len() + 3;
    // As many draws as captions: where fewer than three differ, there are fewer examples.
    for _ in 0..captions.len() {
        let t = stream.below(captions.len());
        let (owner, query) = captions[t];
        if searches.len() == wanted || searches.iter().any(|s| s.query == *query) {
            continue;
        }
        let right = |image: usize| pairs[image].id == pairs[owner].id;
        let scores: Vec<f32> = out.t2i[t].iter().map(|(_, s)| *s).collect();
        let best = scores.iter().copied().fold(f32::MIN, f32::max);
        let share = |score: f32| f64::from(score - best).exp();
        let all: f64 = scores.iter().map(|s| share(*s)).sum();
        let results = top_k(&scores, 5)
            .into_iter()
            .map(|slot| {
                let (image, score) = out.t2i[t][slot];
                Ok(SearchResult {
                    png: png(&pairs[image].image)?,
                    score: share(score) / all,
                    correct: right(image),
                    caption: pairs[image].captions[0].clone(),
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let missed = results.iter().all(|r| !r.correct);
        let wanted =
            missed.then(|| found_late(&pairs[owner], &scores, &out.t2i[t], right)).transpose()?;
        searches.push(SearchExample { query: query.clone(), results, wanted });
    }
    Ok(())
}

/// The right image of a search that did not find it, and where it came.
fn found_late(
    pair: &Pair,
    scores: &[f32],
    candidates: &[(usize, f32)],
    right: impl Fn(usize) -> bool,
) -> Result<Wanted> {
    let order = top_k(scores, scores.len());
    let place = order.iter().position(|slot| right(candidates[*slot].0));
    Ok(Wanted {
        png: png(&pair.image)?,
        place: place.map(|p| p + 1),
        of: candidates.len(),
        caption: pair.captions[0].clone(),
    })
}
