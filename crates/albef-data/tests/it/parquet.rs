//! Parquet files as data sets, in the forms that `tests/tables/make.py` writes with pyarrow.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::fs;
use std::path::Path;

use albef_data::dataset::{Contents, SourceSpec, read_source};
use albef_data::error::Result;

fn read(path: &Path) -> Result<Contents> {
    read_source(&SourceSpec::of(path, None))
}

/// A folder with copies of the tables.
fn tables() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let tables = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tables");
    for name in ["structs", "bytes", "paths"] {
        let name = format!("{name}.parquet");
        fs::copy(tables.join(&name), dir.path().join(&name)).unwrap();
    }
    dir
}

#[cfg(not(feature = "parquet"))]
#[test]
fn a_program_without_the_feature_says_how_to_get_it() {
    let dir = tables();
    for name in ["structs", "paths"] {
        let error = read(&dir.path().join(format!("{name}.parquet"))).unwrap_err().to_string();
        assert!(error.contains("parquet") && error.contains("--features parquet"), "{error}");
    }
    fs::rename(dir.path().join("paths.parquet"), dir.path().join("list.json")).unwrap();
    let error = read(&dir.path().join("list.json")).unwrap_err().to_string();
    assert!(error.contains("--features parquet"), "{error}");
}

#[cfg(feature = "parquet")]
mod with_the_feature {
    use albef_data::dataset::{Sample, read_entries};
    use albef_data::image::DecodeOptions;
    use serde_json::json;

    use super::*;

    fn captions(contents: &Contents) -> Vec<Vec<String>> {
        contents.samples.iter().map(|s| s.captions.clone()).collect()
    }

    fn color(sample: &Sample) -> [u8; 3] {
        let image = sample.decode(&DecodeOptions::default()).unwrap();
        image.pixels[..3].try_into().unwrap()
    }

    #[test]
    fn images_of_the_library_datasets_are_read_and_what_is_odd_is_counted() {
        let dir = tables();
        let path = dir.path().join("structs.parquet");
        let found = read(&path).unwrap();
        let keys: Vec<&str> = found.samples.iter().map(|s| s.key.as_str()).collect();
        assert_eq!(keys, ["7", "9", "10", "11"]);
        assert_eq!(captions(&found)[..2], [["a red field"], ["a blue field"]]);
        assert_eq!(
            (color(&found.samples[0]), color(&found.samples[1])),
            ([255, 0, 0], [0, 0, 255])
        );
        // A row without bytes is no sample; one whose bytes are no image fails as that image alone.
        assert_eq!(found.left_out.len(), 1, "{:?}", found.left_out);
        assert!(found.left_out[0].name.ends_with("structs.parquet, row 1"), "{:?}", found.left_out);
        assert!(found.samples[2].decode(&DecodeOptions::default()).is_err());
        assert!(found.notes.iter().any(|n| n.contains("unpacked")), "{:?}", found.notes);
        // The copy is made once.
        let again = read(&path).unwrap();
        assert_eq!((captions(&again), again.notes.len()), (captions(&found), 0));
    }

    #[test]
    fn images_may_lie_beside_the_table_and_rows_without_one_are_named() {
        let tables = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tables");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("beside.parquet");
        fs::copy(tables.join("beside.parquet"), &path).unwrap();
        let field = albef_data::image::RgbImage::filled(3, 3, [9, 8, 7]);
        fs::create_dir(dir.path().join("i")).unwrap();
        fs::write(dir.path().join("i/there.png"), albef_data::scenes::png(&field).unwrap())
            .unwrap();
        // By going through the copy, and by the copy that is there.
        for _ in 0..2 {
            let found = read(&path).unwrap();
            assert_eq!(captions(&found), [["a file"], ["bytes"]]);
            assert_eq!(
                (color(&found.samples[0]), color(&found.samples[1])),
                ([9, 8, 7], [1, 2, 3])
            );
            let rows: Vec<_> = found.left_out.iter().map(|s| s.name.clone()).collect();
            let expected = [1, 2, 3].map(|row| format!("{}, row {row}", path.display()));
            assert_eq!(rows, expected);
            let said = found.left_out[0].error.to_string();
            assert!(said.contains("no bytes of an image") && !said.contains(".json"), "{said}");
        }
    }

    #[test]
    fn plain_bytes_lists_of_captions_patterns_and_folders_are_read() {
        let dir = tables();
        let found = read(&dir.path().join("bytes.parquet")).unwrap();
        assert_eq!(captions(&found), [vec!["gray", "dark gray"], vec!["light gray"]]);
        assert_eq!(color(&found.samples[1]), [200, 200, 200]);
        let pattern = read(&dir.path().join("*.parquet")).unwrap();
        assert_eq!(pattern.samples.len(), 2 + 4 + 3);
        let shards = tempfile::tempdir().unwrap();
        for i in 0..2 {
            let copy = shards.path().join(format!("train-{i:05}-of-00002.parquet"));
            fs::copy(dir.path().join("bytes.parquet"), copy).unwrap();
        }
        assert_eq!(read(shards.path()).unwrap().samples.len(), 4);
    }

    #[test]
    fn tables_of_paths_are_lists() {
        let dir = tables();
        let path = dir.path().join("paths.parquet");
        let found = read(&path).unwrap();
        assert_eq!(captions(&found), [vec!["first"], vec![], vec!["third"]]);
        assert_eq!(found.samples[0].key, "a");
        assert_eq!(found.faults.len(), 1, "{:?}", found.faults);
        assert!(found.faults[0].name.ends_with("row 1"), "{:?}", found.faults);
        let entries = read_entries(&path).unwrap();
        let first = json!({"image": "a.png", "caption": "first", "image_id": "a", "width": 5});
        assert_eq!((entries.len(), &entries[0]), (3, &first));
    }

    #[test]
    fn texts_may_be_plain_bytes_and_other_forms_are_told_of() {
        let tables = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tables");
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| {
            let path = dir.path().join(name);
            fs::copy(tables.join(name), &path).unwrap();
            path
        };
        let found = read(&at("texts.parquet")).unwrap();
        assert_eq!(captions(&found), [["caf\u{e9}"], ["it\u{2019}s"]]);
        for (name, part) in [
            ("unnamed.parquet", "`pixels` holds bytes: bytes are images in a column named `image`"),
            ("gzip.parquet", "it is compressed with gzip, which is not read; write it with Snappy"),
        ] {
            let said = read(&at(name)).unwrap_err().to_string();
            assert!(said.contains(name) && said.contains(part), "{said}");
        }
    }

    #[test]
    fn damage_is_an_error_with_the_file() {
        let dir = tables();
        for name in ["structs", "bytes", "paths"] {
            let path = dir.path().join(format!("{name}.parquet"));
            let whole = fs::read(&path).unwrap();
            for cut in (0..whole.len()).step_by(7) {
                fs::write(&path, &whole[..cut]).unwrap();
                let error = read(&path).unwrap_err().to_string();
                assert!(error.contains(name), "{cut}: {error}");
            }
            for at in (0..whole.len()).step_by(5) {
                let mut bytes = whole.clone();
                bytes[at] ^= 0x55;
                fs::write(&path, &bytes).unwrap();
                // Whatever is found, nothing panics.
                let _ = read(&path).map(|found| found.samples.len());
            }
        }
    }
}
