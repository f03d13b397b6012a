//! Two models, or several seeds of each, on the same items.

use std::collections::HashMap;

use serde::Serialize;

use crate::outcomes::{Kind, Outcomes, OutcomesError};
use crate::stats::{Sum, cluster_interval, mcnemar, sign_flip, standard_deviation};

/// Outcomes with the name of their file.
#[derive(Clone, Debug)]
pub struct Named {
    /// The name in messages.
    pub name: String,
    /// The outcomes.
    pub outcomes: Outcomes,
}

/// Which test a p-value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Test {
    /// Exact McNemar: right or wrong, one run on either side.
    Mcnemar,
    /// Sign flips of the items' differences.
    SignFlip,
    /// Sign flips of the images' differences.
    SignFlipByImage,
}

/// The values of one side, run by run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Side {
    /// Mean over runs, in per cent.
    pub mean: f64,
    /// Each run.
    pub runs: Vec<f64>,
    /// Standard deviation between runs (`n - 1`), with two runs or more.
    pub deviation: Option<f64>,
}

/// One metric under A and B, in per cent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// Name of the metric.
    pub metric: String,
    /// Items that it is a mean of.
    pub items: usize,
    /// The first model.
    pub a: Side,
    /// The second.
    pub b: Side,
    /// B less A.
    pub difference: f64,
    /// Paired bootstrap interval of the difference at 95 %, whole images drawn.
    pub interval: [f64; 2],
    /// Items on which A is better, and B.
    pub better: [usize; 2],
    /// Probability of a difference at least this large if A and B were the same; two-sided.
    pub p: f64,
    /// Where it comes from.
    pub test: Test,
    /// The same by sign flips of whole images, where several items share one.
    pub p_by_image: Option<f64>,
}

/// How much is drawn.
#[derive(Clone, Copy, Debug)]
pub struct Draw {
    /// Resamples of the bootstrap and of the permutations.
    pub resamples: usize,
    /// Seed of both.
    pub seed: u64,
}

/// What a metric takes from the value of an item.
#[derive(Clone, Copy)]
enum Take {
    Value,
    Recall(usize),
    /// The mean of the recalls at 1, 5 and 10.
    MeanRecall,
}

impl Take {
    fn of(self, value: Option<f64>) -> f64 {
        let at = |k: usize| if value.is_some_and(|r| r < k as f64) { 100.0 } else { 0.0 };
        match self {
            Self::Value => value.unwrap_or(0.0),
            Self::Recall(k) => at(k),
            Self::MeanRecall => [1, 5, 10].map(at).iter().sum::<f64>() / 3.0,
        }
    }
}

/// A mean of the means over columns `(set, column)`.
struct Metric {
    name: String,
    parts: Vec<(usize, usize)>,
    take: Take,
    hit: bool,
}

fn metrics(of: &Outcomes) -> Vec<Metric> {
    let mut out = Vec::new();
    let mut ranks: Vec<(&str, Vec<(usize, usize)>)> = Vec::new();
    for (s, set) in of.sets.iter().enumerate() {
        for (c, column) in set.columns.iter().enumerate() {
            let name = column.name.as_str();
            if column.kind == Kind::Rank {
                match ranks.iter_mut().find(|(n, _)| *n == name) {
                    Some((_, places)) => places.push((s, c)),
                    None => ranks.push((name, vec![(s, c)])),
                }
            } else {
                out.push(Metric {
                    name: name.to_owned(),
                    parts: vec![(s, c)],
                    take: Take::Value,
                    hit: column.kind == Kind::Hit,
                });
            }
        }
    }
    for (name, places) in ranks {
        for place in &places {
            let side = &of.sets[place.0].name;
            let mut one = |what: String, take, hit| {
                let name = format!("{name}.{side}_{what}");
                out.push(Metric { name, parts: vec![*place], take, hit });
            };
            for k in [1, 5, 10] {
                one(format!("r{k}"), Take::Recall(k), true);
            }
            one("r_mean".to_owned(), Take::MeanRecall, false);
        }
        if places.len() > 1 {
            let name = format!("{name}.r_mean");
            out.push(Metric { name, parts: places, take: Take::MeanRecall, hit: false });
        }
    }
    out
}

/// For each set of `a` the places of its items in `b`.
fn places(a: &Named, b: &Named) -> Result<Vec<Vec<usize>>, OutcomesError> {
    let differ = |detail: String| {
        let (a, b) = (a.name.clone(), b.name.clone());
        OutcomesError::Differ { a, b, detail }
    };
    let (x, y) = (&a.outcomes, &b.outcomes);
    if x.task != y.task {
        return Err(differ(format!("the tasks are `{}` and `{}`", x.task, y.task)));
    }
    let form = |o: &Outcomes| {
        let columns = |s: &crate::outcomes::OutcomeSet| {
            s.columns.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ")
        };
        o.sets.iter().map(|s| format!("{} ({})", s.name, columns(s))).collect::<Vec<_>>().join("; ")
    };
    let kinds = |o: &Outcomes| -> Vec<Kind> {
        o.sets.iter().flat_map(|s| s.columns.iter().map(|c| c.kind)).collect()
    };
    if form(x) != form(y) || kinds(x) != kinds(y) {
        return Err(differ(format!("measured were {} and {}", form(x), form(y))));
    }
    let mut out = Vec::new();
    for (ours, theirs) in x.sets.iter().zip(&y.sets) {
        let place: HashMap<&str, usize> =
            theirs.items.iter().enumerate().map(|(i, item)| (item.key.as_str(), i)).collect();
        let lacks = |name: &str, key: &str| {
            let (n, m) = (ours.items.len(), theirs.items.len());
            let set = &ours.name;
            differ(format!("item `{key}` of set `{set}` is not in {name} ({n} and {m} items)"))
        };
        let found: Result<Vec<usize>, _> = ours
            .items
            .iter()
            .map(|i| place.get(i.key.as_str()).copied().ok_or_else(|| lacks(&b.name, &i.key)))
            .collect();
        let found = found?;
        if found.len() < theirs.items.len() {
            let known: std::collections::HashSet<&usize> = found.iter().collect();
            let other = (0..theirs.items.len()).find(|i| !known.contains(i));
            let key = other.map_or("", |i| theirs.items[i].key.as_str());
            return Err(lacks(&a.name, key));
        }
        out.push(found);
    }
    Ok(out)
}

/// One side's runs with the places of the reference's items in them.
type Runs<'a> = Vec<(&'a Outcomes, Vec<Vec<usize>>)>;

/// Compares runs of A with runs of B, item by item; several runs of a side (seeds) are averaged on
/// each item first. Intervals and p-values then speak about other items, not about other seeds:
/// how much seeds matter is told by the deviation between runs.
///
/// # Errors
/// If the files are not about the same task, measures and items: the first difference is named.
pub fn compare(a: &[Named], b: &[Named], draw: Draw) -> Result<Vec<Difference>, OutcomesError> {
    let Some(reference) = a.first() else { return Ok(Vec::new()) };
    let aligned = |side: &'_ [Named]| -> Result<Vec<Vec<Vec<usize>>>, OutcomesError> {
        side.iter().map(|run| places(reference, run)).collect()
    };
    let (places_a, places_b) = (aligned(a)?, aligned(b)?);
    let runs_a: Runs<'_> = a.iter().map(|n| &n.outcomes).zip(places_a).collect();
    let runs_b: Runs<'_> = b.iter().map(|n| &n.outcomes).zip(places_b).collect();

    let sets = &reference.outcomes.sets;
    let mut numbers = HashMap::new();
    let images: Vec<Vec<usize>> = sets
        .iter()
        .map(|set| {
            let number = |p: &str| {
                let next = numbers.len();
                *numbers.entry(p.to_owned()).or_insert(next)
            };
            set.items.iter().map(|i| i.image.as_str()).map(number).collect()
        })
        .collect();
    let clusters = numbers.len();
    let all = metrics(&reference.outcomes);
    Ok(all.iter().map(|m| one(m, &runs_a, &runs_b, &images, clusters, draw)).collect())
}

/// Values `[part][item]` of a run.
fn taken(metric: &Metric, (run, places): &(&Outcomes, Vec<Vec<usize>>)) -> Vec<Vec<f64>> {
    let part = |(s, c): &(usize, usize)| {
        let items = &run.sets[*s].items;
        places[*s].iter().map(|i| metric.take.of(items[*i].values[*c])).collect()
    };
    metric.parts.iter().map(part).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The side's values, and its values `[part][item]` averaged over runs.
fn side(metric: &Metric, runs: &Runs<'_>) -> (Side, Vec<Vec<f64>>) {
    let all: Vec<Vec<Vec<f64>>> = runs.iter().map(|run| taken(metric, run)).collect();
    let value = |parts: &Vec<Vec<f64>>| mean(&parts.iter().map(|p| mean(p)).collect::<Vec<_>>());
    let runs: Vec<f64> = all.iter().map(value).collect();
    let mut averaged = all[0].clone();
    for (p, part) in averaged.iter_mut().enumerate() {
        for (i, v) in part.iter_mut().enumerate() {
            *v = all.iter().map(|run| run[p][i]).sum::<f64>() / all.len() as f64;
        }
    }
    (Side { mean: mean(&runs), deviation: standard_deviation(&runs), runs }, averaged)
}

fn one(
    metric: &Metric,
    a: &Runs<'_>,
    b: &Runs<'_>,
    images: &[Vec<usize>],
    clusters: usize,
    draw: Draw,
) -> Difference {
    let Draw { resamples, seed } = draw;
    let single = a.len() == 1 && b.len() == 1;
    let ((a, values_a), (b, values_b)) = (side(metric, a), side(metric, b));
    let mut sums: Vec<Vec<Sum>> = vec![vec![(0.0, 0.0); clusters]; metric.parts.len()];
    // What each image and each item adds to the difference of the metric.
    let (mut of_images, mut of_items) = (vec![0.0; clusters], Vec::new());
    let mut better = [0, 0];
    for (p, (set, _)) in metric.parts.iter().enumerate() {
        let share = 1.0 / (metric.parts.len() * values_a[p].len().max(1)) as f64;
        for ((x, y), c) in values_a[p].iter().zip(&values_b[p]).zip(&images[*set]) {
            let d = y - x;
            sums[p][*c].0 += d;
            sums[p][*c].1 += 1.0;
            of_images[*c] += share * d;
            of_items.push(d);
            better[0] += usize::from(d < 0.0);
            better[1] += usize::from(d > 0.0);
        }
    }
    let shared = sums.iter().any(|part| part.iter().any(|s| s.1 > 1.0));
    let together = metric.parts.len() > 1;
    let by_image = (shared || together).then(|| sign_flip(&of_images, resamples, seed));
    let (p, test) = match by_image {
        // Items of two sets have no common unit but the image.
        Some(p) if together => (p, Test::SignFlipByImage),
        _ if metric.hit && single => (mcnemar(better[0], better[1]), Test::Mcnemar),
        _ => (sign_flip(&of_items, resamples, seed), Test::SignFlip),
    };
    let (low, high) = cluster_interval(&sums, resamples, seed);
    Difference {
        metric: metric.name.clone(),
        items: of_items.len(),
        difference: b.mean - a.mean,
        a,
        b,
        interval: [low, high],
        better,
        p,
        test,
        p_by_image: by_image,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcomes::OutcomeSet;

    const DRAW: Draw = Draw { resamples: 400, seed: 1 };

    fn named(name: &str, task: &str, sets: Vec<OutcomeSet>) -> Named {
        Named { name: name.into(), outcomes: Outcomes::new(task, sets) }
    }

    /// Items of one image each, right where the list says so.
    fn hits(name: &str, right: &[bool]) -> Named {
        let mut set = OutcomeSet::new("ve", &[("accuracy", Kind::Hit)]);
        set.extend(right.iter().enumerate().map(|(i, r)| {
            (format!("k{i}"), format!("p{i}"), vec![Some(if *r { 100.0 } else { 0.0 })])
        }));
        named(name, "ve", vec![set])
    }

    #[test]
    fn right_and_wrong_are_compared_by_mcnemar_in_any_order_of_items() {
        let (t, f) = (true, false);
        // A alone right on one item, B alone on five, together right on two, wrong on two.
        let a = hits("a", &[t, f, f, f, f, f, t, t, f, f]);
        let mut b = hits("b", &[f, t, t, t, t, t, t, t, f, f]);
        b.outcomes.sets[0].items.reverse();
        let d = &compare(&[a], &[b], DRAW).unwrap()[0];
        assert_eq!((d.metric.as_str(), d.items, d.better), ("accuracy", 10, [1, 5]));
        assert_eq!((d.a.mean, d.b.mean, d.difference), (30.0, 70.0, 40.0));
        // 2 (1 + 6) / 2^6.
        assert!((d.p - 14.0 / 64.0).abs() < 1e-12, "{}", d.p);
        assert_eq!((d.test, d.p_by_image), (Test::Mcnemar, None));
        assert!(d.interval[0] < 40.0 && 40.0 < d.interval[1], "{:?}", d.interval);
    }

    #[test]
    fn seeds_are_averaged_item_by_item_and_their_spread_is_told() {
        let (t, f) = (true, false);
        let a = [hits("a1", &[t, f, f, f]), hits("a2", &[t, t, f, f])];
        let b = [hits("b1", &[t, t, t, f]), hits("b2", &[t, t, f, f]), hits("b3", &[t, t, t, t])];
        let d = &compare(&a, &b, DRAW).unwrap()[0];
        assert_eq!(d.a.runs, [25.0, 50.0]);
        assert!((d.a.deviation.unwrap() - 312.5_f64.sqrt()).abs() < 1e-9);
        assert!((d.b.mean - 75.0).abs() < 1e-9 && (d.difference - 37.5).abs() < 1e-9);
        // Differences 0, 50, 66.7 and 33.3: all of one sign, two of eight assignments.
        assert!((d.p - 0.25).abs() < 1e-12, "{}", d.p);
        assert_eq!(d.test, Test::SignFlip);
    }

    #[test]
    fn ranks_become_recalls_in_both_directions_and_together() {
        let make = |name: &str, txt: [Option<f64>; 2], img: [Option<f64>; 4]| {
            let mut images = OutcomeSet::new("txt", &[("itm", Kind::Rank)]);
            images.extend(
                txt.iter().enumerate().map(|(i, r)| (i.to_string(), i.to_string(), vec![*r])),
            );
            let mut texts = OutcomeSet::new("img", &[("itm", Kind::Rank)]);
            texts.extend(
                img.iter().enumerate().map(|(i, r)| (i.to_string(), (i / 2).to_string(), vec![*r])),
            );
            named(name, "retrieval", vec![images, texts])
        };
        let a = make("a", [Some(0.0), Some(7.0)], [Some(4.0), None, Some(0.0), Some(20.0)]);
        let b = make("b", [Some(0.0), Some(0.0)], [Some(0.0); 4]);
        let all = compare(&[a], &[b], DRAW).unwrap();
        let of = |name: &str| all.iter().find(|d| d.metric == name).unwrap();
        assert_eq!(all.len(), 9);
        assert_eq!((of("itm.txt_r1").a.mean, of("itm.txt_r10").a.mean), (50.0, 100.0));
        assert_eq!((of("itm.img_r1").a.mean, of("itm.img_r5").a.mean), (25.0, 50.0));
        // (50 + 50 + 100) / 3 and (25 + 50 + 50) / 3, and the mean of both.
        let wanted = [200.0 / 3.0, 125.0 / 3.0];
        assert!((of("itm.txt_r_mean").a.mean - wanted[0]).abs() < 1e-9);
        let both = of("itm.r_mean");
        assert!((both.a.mean - (wanted[0] + wanted[1]) / 2.0).abs() < 1e-9);
        assert_eq!((both.b.mean, both.test), (100.0, Test::SignFlipByImage));
        // Texts share images: two images, both better, two of four assignments.
        assert_eq!(of("itm.img_r1").p_by_image, Some(0.5));
        assert_eq!(of("itm.txt_r1").p_by_image, None);
    }

    #[test]
    fn what_was_not_measured_alike_is_refused_by_name() {
        let a = hits("a.json", &[true, false]);
        let mut other = hits("b.json", &[true, false]);
        other.outcomes.task = "nlvr".into();
        let more = hits("c.json", &[true, false, true]);
        let mut renamed = hits("d.json", &[true, false]);
        renamed.outcomes.sets[0].columns[0].name = "score".into();
        for (b, words) in [
            (other, ["`ve`", "`nlvr`"]),
            (more, ["`k2`", "not in a.json"]),
            (renamed, ["ve (accuracy)", "ve (score)"]),
        ] {
            let error = compare(std::slice::from_ref(&a), &[b], DRAW).unwrap_err().to_string();
            assert!(words.iter().all(|w| error.contains(w)), "{error}");
        }
        let fewer = hits("e.json", &[true]);
        let error = compare(&[a], &[fewer], DRAW).unwrap_err().to_string();
        assert!(error.contains("`k1`") && error.contains("not in e.json"), "{error}");
    }
}
