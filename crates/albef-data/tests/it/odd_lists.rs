//! Lists and archives in forms that people have by mistake: each entry is used, or counted and named rightly.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use albef_data::dataset::{CheckOptions, Dataset, check, read_source, similar_file};
use serde_json::json;
use tempfile::tempdir;

use crate::dataset_promises::{image_bytes, put, refusal, spec, tar_of};
use crate::downloads::{expected, read};

#[test]
fn lists_are_read_in_any_unicode_and_with_any_ends_of_lines() {
    let dir = tempdir().unwrap();
    let lines =
        "{\"image\": \"a.png\", \"caption\": \"é\"}\n{\"image\": \"b.png\", \"caption\": \"b\"}\n";
    let table = "image,caption\na.png,é\nb.png,b\n";
    let both = expected(&[("a.png", &["é"]), ("b.png", &["b"])]);
    for (name, text) in [("x.jsonl", lines), ("x.json", lines), ("x.csv", table), ("x", table)] {
        let little: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let big: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
        let old = text.replace('\n', "\r").into_bytes();
        for bytes in [little, big, old, text.replace('\n', "\r\n").into_bytes()] {
            put(&dir, name, bytes);
            assert_eq!(read(&dir, name), (both.clone(), String::new()), "{name}");
        }
        let wide: Vec<u8> =
            format!("\u{feff}{text}").chars().flat_map(|c| u32::from(c).to_le_bytes()).collect();
        put(&dir, name, wide);
        let said = refusal(read_source(&spec(dir.path().join(name))));
        assert!(said.contains("save it in UTF-8"), "{said}");
    }
    put(&dir, "x.csv", "image,caption\ra.png,a\rb.png,b,c\r");
    assert!(read(&dir, "x.csv").1.contains("line 3: the row has 3 fields"));
}

#[test]
fn what_stands_in_the_place_of_a_path_is_named() {
    let dir = tempdir().unwrap();
    let list = json!([
        {"image": ["a.png"], "caption": "a"}, {"image": 7, "caption": "a"}, {"image": "", "caption": "a"},
        {"image": "g.png", "caption": "b"}, {"image": null, "file_name": "h.png", "text": "c"},
    ]);
    put(&dir, "x.json", list.to_string().replace("}]", "},\n]"));
    let (found, said) = read(&dir, "x.json");
    assert_eq!(found, expected(&[("g.png", &["b"]), ("h.png", &["c"])]));
    for part in [
        "entry 0: `image` is [\"a.png\"]; it must be a text",
        "entry 1: `image` is 7;",
        "entry 2: `image` is \"\";",
        "entry 5: nothing stands behind a comma",
    ] {
        assert!(said.contains(part), "{part}\n{said}");
    }
    put(&dir, "x.csv", "a.png,a dog\nb.png,a cat\n");
    let said = refusal(read_source(&spec(dir.path().join("x.csv"))));
    assert!(said.contains("the first line of a table names its columns"), "{said}");
    put(&dir, "x.csv", "image,caption,caption\na.png,a,b\n");
    let said = refusal(read_source(&spec(dir.path().join("x.csv"))));
    assert!(said.contains("two columns are named `caption`"), "{said}");
}

#[test]
fn lists_of_tasks_are_refused_as_data_to_pack_or_told_of() {
    let dir = tempdir().unwrap();
    put(&dir, "a.png", image_bytes(1));
    for (entry, key) in [
        (json!({"image": "a.png", "question": "what?", "answer": "a dog"}), "question"),
        (
            json!({"images": ["a.png", "a.png"], "sentence": "two dogs", "label": "True"}),
            "sentence",
        ),
        (json!({"image": "a", "sentence": "a dog", "label": "neutral"}), "sentence"),
        (json!({"Flickr30K_ID": "a", "sentence2": "a dog", "gold_label": "-"}), "sentence2"),
        (json!({"image": "a.png", "label": "dog"}), "label"),
    ] {
        put(&dir, "x.json", json!([entry]).to_string());
        put(&dir, "x.jsonl", entry.to_string());
        for name in ["x.json", "x.jsonl"] {
            let opened = Dataset::open(&[spec(dir.path().join(name))]);
            let said = refusal(opened);
            let parts = [name, &format!("its entries have `{key}`"), "--task"];
            assert!(parts.iter().all(|part| said.contains(part)), "{said}");
        }
    }
    put(&dir, "x.json", json!([{"image": "a.png", "text": "left dog", "ref_id": 4}]).to_string());
    let data = Dataset::open(&[spec(dir.path().join("x.json"))]).unwrap();
    assert!(data.notes()[0].contains("have `ref_id`, as those of lists for grounding"));
}

#[test]
fn a_list_of_captions_in_a_field_of_a_table_is_one() {
    let dir = tempdir().unwrap();
    put(
        &dir,
        "x.csv",
        "image,caption\na.png,\"[\"\"a\"\", \"\"b\"\"]\"\nb.png,\"['c', 'd']\"\nc.png,[sic] d\nd.png,\"[\"\"e\"\", 5]\"\n",
    );
    let (found, said) = read(&dir, "x.csv");
    let all: [(&str, &[&str]); 4] = [
        ("a.png", &["a", "b"]),
        ("b.png", &["['c', 'd']"]),
        ("c.png", &["[sic] d"]),
        ("d.png", &["e"]),
    ];
    assert_eq!(found, expected(&all));
    assert!(said.contains("line 3: the caption seems to be a list, as Python prints it"), "{said}");
    assert!(said.contains("line 5: 1 of 2 captions are no texts, such as 5"), "{said}");
    assert_eq!(said.lines().count(), 2, "{said}");
}

#[test]
fn one_odd_image_or_annotation_costs_a_download_itself_only() {
    let dir = tempdir().unwrap();
    let coco = json!({
        "images": [{"id": "1", "file_name": "a.png"}, {"id": 2.0, "file_name": "b.png"},
            {"id": 2, "file_name": "again.png"}, {"id": 4, "file_name": 5}, {"id": 5, "file_name": "e.png"}],
        "annotations": [{"image_id": 1, "caption": "a"}, {"image_id": "2", "caption": "b"},
            {"image_id": 5, "caption": 7}, {"image_id": 5, "caption": null}, {"image_id": 6, "caption": "none"}],
    });
    put(&dir, "c.json", coco.to_string());
    let (found, said) = read(&dir, "c.json");
    assert_eq!(found, expected(&[("a.png", &["a"]), ("b.png", &["b"]), ("e.png", &[])]));
    for part in [
        "image 2: image 1 has the same `id`",
        "image 3: `image` is null",
        "image 4: 1 of 1 captions are no texts, such as 7",
        "annotation 3: it has no `caption`",
        "annotation 4: it has no `caption`, or its `image_id` is none",
    ] {
        assert!(said.contains(part), "{part}\n{said}");
    }
    let karpathy = json!({"images": [
        {"filename": "a.png", "cocoid": "x", "sentences": [{"raw": "a"}, {"raw": 3}]},
        {"filename": "b.png", "imgid": 2, "sentences": [{"raw": "b"}]}]});
    put(&dir, "k.json", karpathy.to_string());
    let (found, said) = read(&dir, "k.json");
    assert_eq!(found, expected(&[("a.png", &["a"]), ("b.png", &["b"])]));
    assert!(said.contains("image 0: 1 of 2 captions are no texts, such as 3"), "{said}");
}

#[test]
fn ids_of_more_than_64_bits_do_not_become_one() {
    let dir = tempdir().unwrap();
    let list = r#"[{"image": "a.png", "caption": "a", "image_id": 123456789012345678901234567890},
        {"image": "b.png", "caption": "b", "image_id": 123456789012345678901234567891}]"#;
    put(&dir, "x.json", list);
    let report = check(&spec(dir.path().join("x.json")), &CheckOptions::default()).unwrap();
    assert_eq!(report.distinct_images, 2);
}

#[test]
fn a_path_that_is_an_address_is_told_as_one() {
    let dir = tempdir().unwrap();
    put(&dir, "my dog.png", image_bytes(1));
    let said = |name: &str| similar_file(&dir.path().join(name)).unwrap_or_default();
    assert!(
        said("my%20dog.png").contains("written as in an address; "),
        "{}",
        said("my%20dog.png")
    );
    assert!(said("my%20dog.png").ends_with("my dog.png is there"));
    let address = format!("file://{}/my%20dog.png", dir.path().display());
    assert!(said(&address).contains("its path is an address; "), "{}", said(&address));
    assert!(said("https://example.org/my dog.png").contains("nothing is fetched"));
    assert!(said("my dog.png\n").contains("ends with blanks; "));
    assert_eq!(said("100%.png"), "");
}

#[test]
fn captions_beside_images_are_found_in_capitals_and_other_members_are_told_of() {
    let dir = tempdir().unwrap();
    put(&dir, "folder/A.PNG", image_bytes(1));
    put(&dir, "folder/A.TXT", "a dog");
    assert_eq!(read(&dir, "folder"), (expected(&[("A.PNG", &["a dog"])]), String::new()));
    let image = image_bytes(2);
    let members: [(&str, &[u8]); 9] = [
        ("0.png", &image),
        ("0.cls", b"3"),
        ("0.caption", b"a caption"),
        ("1.png", &image),
        ("1.cls", b"3"),
        ("2.a.png", &image),
        ("2.b.png", &image),
        ("3.png", &image),
        ("x/3.txt", b"elsewhere"),
    ];
    put(&dir, "s.tar", tar_of(&members));
    let (found, said) = read(&dir, "s.tar");
    assert_eq!(found, expected(&[("0.png", &[]), ("1.png", &[]), ("3.png", &[])]));
    for part in [
        "s.tar: 0.png: `0.caption` is passed over",
        "s.tar: 2.a.png: ",
        "s.tar: 2.b.png: ",
        "3.txt: no member",
    ] {
        assert!(said.contains(part), "{part}\n{said}");
    }
    assert_eq!(said.lines().count(), 4, "{said}");
}

#[test]
fn lists_and_archives_that_are_not_read_with_a_folder_are_told_of() {
    let dir = tempdir().unwrap();
    let image = image_bytes(1);
    for folder in ["keys", "splits/train", "flickr/Images", "archives"] {
        put(&dir, &format!("{folder}/a.png"), &image);
    }
    put(&dir, "keys/metadata.jsonl", r#"{"name": "a.png", "text": "a"}"#);
    put(&dir, "splits/train/metadata.csv", "file_name,text\na.png,a\n");
    put(&dir, "flickr/captions.txt", "image,caption\na.png,a\n");
    put(&dir, "archives/s.tar", tar_of(&[("0.png", &image), ("0.txt", b"a")]));
    for (folder, parts) in [
        ("keys", ["metadata.jsonl is not read", "no `file_name`"]),
        ("splits", ["train/metadata.csv is not read", "name its own folder"]),
        ("flickr", ["captions.txt is not read", "image root"]),
        ("archives", ["1 archives in the folder are not read", "s.tar"]),
    ] {
        let notes = read_source(&spec(dir.path().join(folder))).unwrap().notes.join("\n");
        assert!(parts.iter().all(|part| notes.contains(part)), "{folder}: {notes}");
    }
    // The captions of an image of this name are none.
    put(&dir, "plain/captions.png", &image);
    put(&dir, "plain/captions.txt", "a dog");
    assert!(read_source(&spec(dir.path().join("plain"))).unwrap().notes.is_empty());
}
