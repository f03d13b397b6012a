//! Names and captions of any kind come back from what is written.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::path::Path;

use albef_data::control::Control;
use albef_data::dataset::{Dataset, PackOptions, Sample, open_source, pack};
use albef_data::image::ImageReader;
use albef_data::names::{odd_bytes, shown, text_of};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde_json::json;
use tempfile::{TempDir, tempdir};

use crate::dataset_promises::{image_bytes, put, spec};
use crate::packing::seen;

/// Texts as people write captions, and any others. One without a letter is no caption.
fn caption() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z ,.'\"]{0,30}x", "\\PC{0,20}x", "[a-z\n\r\t\",;\\\\]{0,20}x"]
}

/// Names of images with their captions.
fn pairs() -> impl Strategy<Value = Vec<(String, Vec<String>)>> {
    btree_map("[a-z0-9 é'-]{1,12}", vec(caption(), 1..4), 1..6)
        .prop_map(|pairs| pairs.into_iter().map(|(name, all)| (name + ".png", all)).collect())
}

fn with_images(pairs: &[(String, Vec<String>)]) -> TempDir {
    let dir = tempdir().unwrap();
    for (i, (name, _)) in pairs.iter().enumerate() {
        put(&dir, name, image_bytes(i));
    }
    dir
}

fn captions(samples: &[Sample]) -> Vec<Vec<String>> {
    samples.iter().map(|sample| sample.captions.clone()).collect()
}

fn read(path: &Path) -> Vec<Sample> {
    open_source(&spec(path)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 100,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn names(bytes in vec(any::<u8>(), 0..40), more in vec(any::<u8>(), 0..40)) {
        let text = text_of(&bytes);
        let back = odd_bytes(&text).unwrap_or_else(|| text.clone().into_bytes());
        prop_assert_eq!(&back, &bytes);
        // What is shown is one line without control characters, and another one for another name.
        prop_assert!(!shown(&text).chars().any(char::is_control));
        prop_assert_eq!(shown(&text) == shown(&text_of(&more)), bytes == more);
    }

    #[test]
    fn lists(pairs in pairs()) {
        let dir = with_images(&pairs);
        let expected: Vec<_> = pairs.iter().map(|(_, captions)| captions.clone()).collect();
        let entries: Vec<_> =
            pairs.iter().map(|(image, caption)| json!({"image": image, "caption": caption})).collect();
        put(&dir, "list.json", json!(entries).to_string());
        prop_assert_eq!(captions(&read(&dir.path().join("list.json"))), &expected[..]);
        let lines: String = entries.iter().map(|entry| format!("{entry}\n")).collect();
        put(&dir, "list.jsonl", lines);
        prop_assert_eq!(captions(&read(&dir.path().join("list.jsonl"))), &expected[..]);
    }

    #[test]
    fn tables(pairs in pairs(), separator in prop::sample::select(&[(',', "csv"), ('\t', "tsv")][..])) {
        let (separator, ending) = separator;
        let dir = with_images(&pairs);
        let mut table = format!("image{separator}caption\n");
        for (image, captions) in &pairs {
            for caption in captions {
                table += &format!("{image}{separator}\"{}\"\n", caption.replace('"', "\"\""));
            }
        }
        let name = format!("list.{ending}");
        put(&dir, &name, table);
        let expected: Vec<_> = pairs.iter().map(|(_, captions)| captions.clone()).collect();
        prop_assert_eq!(captions(&read(&dir.path().join(name))), expected);
    }

    #[test]
    fn shards(pairs in pairs(), pairs_per_shard in 1_usize..4) {
        let dir = with_images(&pairs);
        let entries: Vec<_> =
            pairs.iter().map(|(image, caption)| json!({"image": image, "caption": caption})).collect();
        put(&dir, "list.json", json!(entries).to_string());
        let data = Dataset::open(&[spec(dir.path().join("list.json"))]).unwrap();
        let options = PackOptions {
            output: dir.path().join("packed"),
            shard_bytes: u64::MAX,
            pairs_per_shard,
            decode: true,
            image_size: None,
            reader: ImageReader::default(),
            workers: 1,
        };
        let report = pack(&data, &options, &Control::new()).unwrap();
        prop_assert_eq!(report.pairs, pairs.len());
        let packed = Dataset::open(&[spec(&options.output)]).unwrap();
        prop_assert_eq!(packed.len(), pairs.len());
        prop_assert!(seen(&packed) == seen(&data));
    }
}
