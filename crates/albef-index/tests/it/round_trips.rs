//! Whatever is recorded of an image comes back when the index is opened again.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use albef_index::{
    Change, Embedded, Filter, Identity, Image, KeptStates, StatePrecision, Status, Store,
};
use half::f16;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

const WIDTH: usize = 5;

fn identity() -> Identity {
    Identity { fingerprint: "f".into(), model: "m".into(), width: WIDTH }
}

fn image() -> impl Strategy<Value = Image> {
    let times = (any::<i64>(), any::<bool>(), proptest::option::of(-1_i64 << 50..1 << 50));
    let sizes = (0..u64::from(u32::MAX), any::<u32>(), any::<u32>());
    let status = prop_oneof![Just(Status::Ok), "\\PC{1,30}".prop_map(Status::Broken)];
    let contents = (any::<[u8; 32]>(), any::<u64>(), proptest::option::of("\\PC{0,20}"));
    (times, sizes, status, contents).prop_map(|(times, sizes, status, contents)| Image {
        root: 0,
        path: Vec::new(),
        size: sizes.0,
        modified: times.0,
        settled: times.1,
        hash: contents.0,
        width: sizes.1,
        height: sizes.2,
        taken: times.2,
        camera: contents.2,
        perceptual: contents.1,
        status,
    })
}

/// Paths of any bytes but NUL, with images and vectors.
fn images() -> impl Strategy<Value = Vec<(Image, Option<Vec<f16>>)>> {
    let vector =
        vec(-1.0_f32..1.0, WIDTH).prop_filter("no direction", |v| v.iter().any(|x| x.abs() > 0.1));
    btree_map(vec(1_u8.., 1..30), (image(), vector), 1..12).prop_map(|all| {
        let whole = |(path, (image, vector)): (Vec<u8>, (Image, Vec<f32>))| {
            let length = vector.iter().map(|v| v * v).sum::<f32>().sqrt();
            let vector = vector.iter().map(|v| f16::from_f32(v / length)).collect();
            let vector = image.status.is_ok().then_some(vector);
            (Image { path, ..image }, vector)
        };
        all.into_iter().map(whole).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 60,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn images_of_an_index(images in images(), root in vec(1_u8.., 1..20)) {
        let dir = tempfile::tempdir().unwrap();
        let store = Embedded::write(dir.path(), &identity()).unwrap();
        let root_id = store.add_root(&root).unwrap();
        let images: Vec<_> =
            images.into_iter().map(|(image, v)| (Image { root: root_id, ..image }, v)).collect();
        let changes: Vec<Change> = images
            .iter()
            .map(|(image, vector)| Change::Upsert { image: image.clone(), vector: vector.clone() })
            .collect();
        let ids = store.apply(&changes).unwrap();
        drop(store);
        let store = Embedded::read(dir.path()).unwrap();
        prop_assert_eq!(&store.roots().unwrap()[0].path, &root);
        prop_assert!(store.verify().unwrap().is_sound());
        let records = store.get(&ids).unwrap();
        let vectors = store.vectors(&ids).unwrap();
        for ((record, found), (image, vector)) in records.iter().zip(&vectors).zip(&images) {
            prop_assert_eq!(&record.as_ref().unwrap().image, image);
            prop_assert_eq!(found, vector);
            let by_path = store.find(root_id, &image.path).unwrap();
            prop_assert_eq!(&by_path, record);
        }
        // Each vector is nearest to itself, or to one as near.
        for (id, vector) in ids.iter().zip(&vectors).filter_map(|(id, v)| Some((id, v.as_ref()?))) {
            let query: Vec<f32> = vector.iter().map(|v| v.to_f32()).collect();
            let found = store.top_k(&query, images.len(), &Filter::default()).unwrap();
            let own = found.iter().find(|f| f.id == *id).unwrap();
            prop_assert!(found[0].score - own.score < 1e-3, "{} {}", found[0].score, own.score);
        }
    }

    #[test]
    fn states(values in vec(-100.0_f32..100.0, 12), precise: bool) {
        let dir = tempfile::tempdir().unwrap();
        let precision = if precise { StatePrecision::F16 } else { StatePrecision::Int8 };
        let kept = KeptStates::create(dir.path(), "f", precision, [3, 4]).unwrap();
        kept.save(&[7; 32], &values).unwrap();
        let again = KeptStates::open(dir.path(), "f").unwrap().unwrap();
        let found = again.load(&[7; 32]).unwrap();
        for (row, found) in values.chunks(4).zip(found.chunks(4)) {
            let top = row.iter().fold(0.0_f32, |top, v| top.max(v.abs()));
            for (value, found) in row.iter().zip(found) {
                let allowed = if precise { value.abs() / 2048.0 + 1e-7 } else { top / 254.0 * 1.001 };
                prop_assert!((value - found).abs() <= allowed, "{value} {found}");
            }
        }
    }
}
