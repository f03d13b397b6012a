//! What every store does. One suite for all of them.

use albef_index::{
    Change, Filter, Identity, Image, IndexError, PathPattern, Scored, Status, Store,
};
use half::f16;

/// Values of a vector in these checks.
const WIDTH: usize = 8;

/// The identity of the stores that are checked.
pub fn identity() -> Identity {
    Identity { fingerprint: "abc123".into(), model: "a model".into(), width: WIDTH }
}

/// What is checked, and how.
pub type Check = (&'static str, fn(&dyn Store));

/// The checks, each for an empty store of [`identity`].
pub const CHECKS: [Check; 10] = [
    ("an empty store", empty),
    ("records and vectors come back", round_trip),
    ("a path keeps its number", paths_keep_their_numbers),
    ("transactions are whole", transactions_are_whole),
    ("images move and are forgotten", move_and_forget),
    ("the scan is exact", exact_scan),
    ("filters", filters),
    ("the newest images come first", newest_first),
    ("roots", roots),
    ("compacting changes nothing", compacting),
];

fn photo(root: i64, name: &[u8], content: u8) -> Image {
    Image {
        root,
        path: name.to_vec(),
        size: 1000 + u64::from(content),
        modified: 1_700_000_000_123_456_789,
        settled: true,
        hash: [content; 32],
        width: 640,
        height: 480,
        taken: Some(1_600_000_000),
        camera: Some("Čam\u{0}era \"1\"".replace('\0', "")),
        perceptual: 0xfedc_ba98_7654_3210,
        status: Status::Ok,
    }
}

fn vector(seed: usize) -> Vec<f16> {
    let values: Vec<f32> = (0..WIDTH).map(|i| ((seed * 31 + i * 17) % 23) as f32 - 11.0).collect();
    let length = values.iter().map(|v| v * v).sum::<f32>().sqrt();
    values.iter().map(|v| f16::from_f32(v / length)).collect()
}

fn upsert(image: Image, seed: usize) -> Change {
    let vector = image.status.is_ok().then(|| vector(seed));
    Change::Upsert { image, vector }
}

fn root(store: &dyn Store) -> i64 {
    store.add_root(b"/photos").unwrap()
}

fn empty(store: &dyn Store) {
    let info = store.info().unwrap();
    let facts = (info.fingerprint.as_str(), info.model.as_str(), info.width);
    assert_eq!(facts, ("abc123", "a model", WIDTH));
    assert_eq!((info.images, info.broken), (0, 0));
    assert_eq!(store.top_k(&[0.5; WIDTH], 5, &Filter::default()).unwrap(), []);
    assert_eq!(store.get(&[1, 7]).unwrap(), [None, None]);
    assert_eq!(store.vectors(&[1]).unwrap(), [None]);
    assert_eq!(store.find_content(&[0; 32]).unwrap(), None);
    assert_eq!(store.roots().unwrap(), []);
    assert!(store.verify().unwrap().is_sound());
    assert_eq!(store.apply(&[]).unwrap(), [0; 0]);
}

fn round_trip(store: &dyn Store) {
    let root = root(store);
    let names: [&[u8]; 5] = [
        b"a.jpg",
        b"sub/line\nfeed.jpg",
        b"not utf-8 \xff\xfe.jpg",
        "ne\u{301}.jpg".as_bytes(),
        b"'; --",
    ];
    let mut images: Vec<Image> =
        names.iter().enumerate().map(|(i, n)| photo(root, n, i as u8)).collect();
    images[1].taken = None;
    images[1].camera = None;
    images[2].taken = Some(-5);
    images[2].perceptual = 0;
    images[3].settled = false;
    images[3].size = 1 << 40;
    images[4].status = Status::Broken("corrupt image: \"x\"\n'".into());
    let changes: Vec<Change> =
        images.iter().enumerate().map(|(i, image)| upsert(image.clone(), i)).collect();
    let before = store.info().unwrap().generation;
    let ids = store.apply(&changes).unwrap();
    let info = store.info().unwrap();
    assert!(info.generation > before);
    assert_eq!((info.images, info.broken), (4, 1));
    for (i, image) in images.iter().enumerate() {
        let record = store.get(&ids[i..=i]).unwrap().remove(0).unwrap();
        assert_eq!((record.id, &record.image), (ids[i], image));
        assert_eq!(store.find(root, &image.path).unwrap().unwrap(), record);
        let kept = store.vectors(&ids[i..=i]).unwrap().remove(0);
        assert_eq!(kept, image.status.is_ok().then(|| vector(i)));
    }
    assert_eq!(store.find(root, b"a").unwrap(), None);
    assert_eq!(store.find(root + 1, b"a.jpg").unwrap(), None);
    assert_eq!(store.find_content(&[2; 32]).unwrap().unwrap().id, ids[2]);
    // It has no vector to be taken over.
    assert_eq!(store.find_content(&[4; 32]).unwrap(), None);
    let mut seen = Vec::new();
    store
        .for_each(&mut |record| {
            seen.push(record.id);
            Ok(())
        })
        .unwrap();
    assert!(seen.is_sorted() && seen.len() == 5);
    assert_eq!(store.verify().unwrap().sound, 5);
}

fn paths_keep_their_numbers(store: &dyn Store) {
    let root = root(store);
    let first =
        store.apply(&[upsert(photo(root, b"a", 1), 1), upsert(photo(root, b"b", 2), 2)]).unwrap();
    let again = store.apply(&[upsert(photo(root, b"a", 3), 3)]).unwrap();
    assert_eq!(again[0], first[0]);
    assert_eq!(store.vectors(&again).unwrap(), [Some(vector(3))]);
    let broken = Image { status: Status::Broken("x".into()), ..photo(root, b"a", 4) };
    assert_eq!(store.apply(&[upsert(broken, 0)]).unwrap(), again);
    assert_eq!(store.vectors(&again).unwrap(), [None]);
    let found = store.top_k(&[0.1; WIDTH], 9, &Filter::default()).unwrap();
    assert_eq!(found.len(), 1);
    // A number is never given again.
    store.apply(&[Change::Forget(first[1])]).unwrap();
    let new = store.apply(&[upsert(photo(root, b"b", 2), 2)]).unwrap();
    assert!(new[0] > first[1]);
}

fn transactions_are_whole(store: &dyn Store) {
    let root = root(store);
    store.apply(&[upsert(photo(root, b"a", 1), 1)]).unwrap();
    let before = store.info().unwrap();
    let short = Change::Upsert { image: photo(root, b"c", 3), vector: Some(vec![f16::ONE; 3]) };
    let none = Change::Upsert { image: photo(root, b"c", 3), vector: None };
    let infinite =
        Change::Upsert { image: photo(root, b"c", 3), vector: Some(vec![f16::INFINITY; WIDTH]) };
    let lost = Change::Move { id: 9999, root, path: b"d".to_vec(), modified: 1, settled: true };
    for wrong in [short, none, infinite, lost] {
        let changes = [upsert(photo(root, b"b", 2), 2), wrong];
        let error = store.apply(&changes).unwrap_err();
        assert!(
            matches!(
                error,
                IndexError::Width { .. }
                    | IndexError::NotFinite
                    | IndexError::UnknownImage { id: 9999 }
            ),
            "{error}"
        );
        assert_eq!(store.find(root, b"b").unwrap(), None);
        let after = store.info().unwrap();
        assert_eq!((after.images, after.generation), (before.images, before.generation));
    }
    let wide = store.top_k(&[0.0; WIDTH + 1], 1, &Filter::default());
    assert!(matches!(wide, Err(IndexError::Width { .. })));
}

fn move_and_forget(store: &dyn Store) {
    let root = root(store);
    let other = store.add_root(b"/other").unwrap();
    let changes = [upsert(photo(root, b"a", 1), 1), upsert(photo(root, b"b", 2), 2)];
    let ids = store.apply(&changes).unwrap();
    let to = |id, root, path: &[u8]| Change::Move {
        id,
        root,
        path: path.to_vec(),
        modified: 77,
        settled: false,
    };
    store.apply(&[to(ids[0], other, b"new/place")]).unwrap();
    let moved = store.find(other, b"new/place").unwrap().unwrap();
    let expected = Image {
        root: other,
        path: b"new/place".to_vec(),
        modified: 77,
        settled: false,
        ..photo(root, b"a", 1)
    };
    assert_eq!((moved.id, moved.image), (ids[0], expected));
    assert_eq!(store.vectors(&ids).unwrap(), [Some(vector(1)), Some(vector(2))]);
    assert_eq!(store.find(root, b"a").unwrap(), None);
    // Onto another image, which is replaced; and onto itself.
    store.apply(&[to(ids[0], root, b"b"), to(ids[0], root, b"b")]).unwrap();
    assert_eq!(store.get(&ids).unwrap()[1], None);
    assert_eq!(store.info().unwrap().images, 1);
    store.apply(&[Change::Forget(ids[0]), Change::Forget(12_345)]).unwrap();
    assert_eq!(store.info().unwrap().images, 0);
    assert_eq!(store.top_k(&[0.1; WIDTH], 9, &Filter::default()).unwrap(), []);
}

/// All inner products, sorted.
fn by_sorting(vectors: &[(i64, Vec<f16>)], query: &[f32]) -> Vec<Scored> {
    let mut all: Vec<Scored> = vectors
        .iter()
        .map(|(id, v)| Scored {
            id: *id,
            score: v.iter().zip(query).map(|(v, q)| v.to_f32() * q).sum(),
        })
        .collect();
    all.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.id.cmp(&b.id)));
    all
}

fn exact_scan(store: &dyn Store) {
    let root = root(store);
    let changes: Vec<Change> = (0..300)
        .map(|i| upsert(photo(root, format!("{i}").as_bytes(), (i % 250) as u8), i))
        .collect();
    let ids = store.apply(&changes).unwrap();
    let forgotten: Vec<Change> = ids.iter().step_by(7).map(|id| Change::Forget(*id)).collect();
    store.apply(&forgotten).unwrap();
    let kept: Vec<(i64, Vec<f16>)> = ids
        .iter()
        .enumerate()
        .filter(|(i, _)| i % 7 != 0)
        .map(|(i, id)| (*id, vector(i)))
        .collect();
    for seed in 0..5 {
        let query: Vec<f32> = vector(seed + 1000).iter().map(|v| v.to_f32() * 1.1).collect();
        let expected = by_sorting(&kept, &query);
        for k in [0, 1, 10, 1000] {
            let found = store.top_k(&query, k, &Filter::default()).unwrap();
            assert_eq!(found.len(), k.min(kept.len()));
            for (f, e) in found.iter().zip(&expected) {
                assert!((f.score - e.score).abs() < 1e-5, "{f:?} {e:?}");
            }
            // Seeds repeat after 23, so that there are ties.
            let ordered = |w: &[Scored]| w[0].score > w[1].score || w[0].id < w[1].id;
            assert!(found.windows(2).all(ordered), "{found:?}");
        }
    }
}

fn filters(store: &dyn Store) {
    let root = root(store);
    let other = store.add_root(b"/other").unwrap();
    let image = |root, name: &str, at: i64, size: (u32, u32), camera: Option<&str>| Image {
        taken: (at > 0).then_some(at),
        width: size.0,
        height: size.1,
        camera: camera.map(str::to_owned),
        ..photo(root, name.as_bytes(), name.len() as u8)
    };
    let images = [
        image(root, "2023/a.jpg", 100, (100, 100), Some("NIKON D750")),
        image(root, "2023/bb.png", 200, (200, 100), Some("Canon")),
        image(root, "2024/ccc.jpg", 300, (300, 400), None),
        image(other, "dddd.jpg", 0, (50, 50), Some("nikon Z")),
    ];
    let changes: Vec<Change> =
        images.iter().enumerate().map(|(i, image)| upsert(image.clone(), i)).collect();
    let ids = store.apply(&changes).unwrap();
    let check = |filter: Filter, expected: &[usize]| {
        let mut found: Vec<i64> =
            store.top_k(&[0.3; WIDTH], 9, &filter).unwrap().iter().map(|f| f.id).collect();
        found.sort_unstable();
        let expected: Vec<i64> = expected.iter().map(|i| ids[*i]).collect();
        assert_eq!(found, expected, "{filter:?}");
    };
    let path = |pattern: &str| Filter {
        paths: vec![PathPattern::new(pattern).unwrap()],
        ..Filter::default()
    };
    check(Filter::default(), &[0, 1, 2, 3]);
    check(path("*.jpg"), &[0, 2, 3]);
    check(path("2023/*"), &[0, 1]);
    check(path("/photos/2024/**"), &[2]);
    check(Filter { folders: vec!["/other".into()], ..Filter::default() }, &[3]);
    let folders = vec!["/other".into(), "/photos/2023".into()];
    check(Filter { folders, ..Filter::default() }, &[0, 1, 3]);
    // Without a date of its own, that of the file counts.
    check(Filter { from: Some(200), ..Filter::default() }, &[1, 2, 3]);
    check(Filter { before: Some(300), ..Filter::default() }, &[0, 1]);
    check(Filter { at_least: Some((200, 100)), ..Filter::default() }, &[1, 2]);
    check(Filter { camera: Some("nikon".into()), ..Filter::default() }, &[0, 3]);
    check(Filter { from: Some(250), at_least: Some((400, 1)), ..Filter::default() }, &[]);
}

fn newest_first(store: &dyn Store) {
    let root = root(store);
    let of = |content: u8, taken: Option<i64>| Image {
        taken,
        ..photo(root, format!("{content}.jpg").as_bytes(), content)
    };
    let broken = Image { status: Status::Broken("short".into()), ..of(9, Some(1_900_000_000)) };
    // Without a date of its own, an image has that of its file, which is later than all others here.
    let images = [of(1, Some(30)), of(2, None), broken, of(3, Some(50)), of(4, Some(30))];
    let ids = store.apply(&images.map(|image| upsert(image, 1))).unwrap();
    let found = |n: usize, filter: &Filter| -> Vec<i64> {
        store.newest(filter, 0, n).unwrap().into_iter().map(|record| record.id).collect()
    };
    let all = Filter::default();
    assert_eq!(found(9, &all), [ids[1], ids[3], ids[4], ids[0]]);
    assert_eq!(found(3, &all), [ids[1], ids[3], ids[4]]);
    assert_eq!(found(0, &all), [0; 0]);
    let some = Filter { before: Some(40), ..Filter::default() };
    assert_eq!(found(1, &some), [ids[4]]);
    for (filter, wanted) in [(&all, vec![ids[4], ids[0]]), (&some, vec![])] {
        let second = store.newest(filter, 2, 2).unwrap();
        assert_eq!(second.into_iter().map(|record| record.id).collect::<Vec<_>>(), wanted);
    }
    // What is forgotten, or new, counts at once; times before 1970 are earlier ones.
    let old = Image { modified: -1, ..of(6, None) };
    let older = Image { modified: -1_000_000_001, ..of(7, None) };
    let [old, older] = [old, older].map(|image| upsert(image, 1));
    let added = store.apply(&[old, older, Change::Forget(ids[1])]).unwrap();
    assert_eq!(found(9, &all), [ids[3], ids[4], ids[0], added[0], added[1]]);
}

fn roots(store: &dyn Store) {
    let name: &[u8] = b"/photos/\xff\n";
    let first = store.add_root(name).unwrap();
    assert_eq!(store.add_root(name).unwrap(), first);
    let second = store.add_root(b"/b").unwrap();
    let roots = store.roots().unwrap();
    assert_eq!(roots.iter().map(|r| r.id).collect::<Vec<_>>(), [first, second]);
    assert_eq!(roots[0].path, name);
    store.apply(&[upsert(photo(first, b"a", 1), 1), upsert(photo(second, b"a", 2), 2)]).unwrap();
    assert_eq!(store.remove_root(first).unwrap(), 1);
    assert_eq!(store.roots().unwrap().len(), 1);
    assert_eq!(store.info().unwrap().images, 1);
}

fn compacting(store: &dyn Store) {
    let root = root(store);
    let changes: Vec<Change> =
        (0..60).map(|i| upsert(photo(root, format!("{i}").as_bytes(), i as u8), i)).collect();
    let ids = store.apply(&changes).unwrap();
    let forget: Vec<Change> = ids.iter().take(40).map(|id| Change::Forget(*id)).collect();
    store.apply(&forget).unwrap();
    let query = [0.2; WIDTH];
    let before = (store.top_k(&query, 99, &Filter::default()).unwrap(), store.get(&ids).unwrap());
    store.compact().unwrap();
    let after = (store.top_k(&query, 99, &Filter::default()).unwrap(), store.get(&ids).unwrap());
    assert_eq!(before, after);
    assert_eq!(store.info().unwrap().reclaimable, 0);
    assert_eq!(store.verify().unwrap().sound, 20);
    store.apply(&[upsert(photo(root, b"new", 99), 5)]).unwrap();
    assert_eq!(store.vectors(&ids[50..51]).unwrap(), [Some(vector(50))]);
    store.compact().unwrap();
    assert_eq!(store.verify().unwrap().sound, 21);
}
