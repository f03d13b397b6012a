//! Captions as Flickr's data sets are downloaded, and lists whose names or captions are no UTF-8.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::fs;

use albef_data::dataset::{Dataset, SourceSpec, read_list, read_source, text_field};
use albef_data::dataset::{ImageRoots, repeated_ids};
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use crate::dataset_promises::{image_bytes, put, refusal, spec};

/// Names with their captions, and what is said of the entries.
pub(crate) fn read(dir: &TempDir, name: &str) -> (Vec<(String, Vec<String>)>, String) {
    let found = read_source(&spec(dir.path().join(name))).unwrap();
    let samples = found.samples.into_iter().map(|s| (s.name, s.captions)).collect();
    let said = found.left_out.iter().chain(&found.faults);
    let said: Vec<String> = said.map(|s| format!("{}: {}", s.name, s.error)).collect();
    (samples, said.join("\n"))
}

pub(crate) fn expected(images: &[(&str, &[&str])]) -> Vec<(String, Vec<String>)> {
    let texts = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect();
    images.iter().map(|(name, captions)| ((*name).to_owned(), texts(captions))).collect()
}

#[test]
fn captions_of_flickr_are_read_as_they_are_downloaded() {
    let dir = tempdir().unwrap();
    for i in 1..3 {
        put(&dir, &format!("{i}.jpg"), image_bytes(i));
    }
    let both =
        expected(&[("1.jpg", &["a dog , running", "a \"wet\" dog"]), ("2.jpg", &["two boys"])]);
    let wide = |text: &str| -> Vec<u8> {
        format!("\u{feff}{text}").encode_utf16().flat_map(u16::to_le_bytes).collect()
    };
    let token = "1.jpg#0\ta dog , running\n1.jpg#1\ta \"wet\" dog\n2.jpg#0\ttwo boys\n";
    let kaggle = "image_name| comment_number| comment\n1.jpg| 0| a dog , running\n\
                  1.jpg| 1| a \"wet\" dog\n2.jpg| 0| two boys\n";
    let header =
        "image,caption\n1.jpg,\"a dog , running\"\n1.jpg,\"a \"\"wet\"\" dog\"\n2.jpg,two boys\n";
    let hugging = "raw,sentids,split,filename,img_id\n\
                   \"[\"\"a dog , running\"\", \"\"a \\\"\"wet\\\"\" dog\"\"]\",\"[0, 1]\",train,1.jpg,0\n\
                   \"[\"\"two boys\"\"]\",\"[5]\",train,2.jpg,1\n";
    let open_clip =
        "filepath\ttitle\n1.jpg\ta dog , running\n1.jpg\t\"a \"\"wet\"\" dog\"\n2.jpg\ttwo boys\n";
    for (name, bytes) in [
        ("results_20130124.token", token.into()),
        ("Flickr8k.token.txt", token.replace('\n', "\r\n").into_bytes()),
        ("old.txt", token.replace('\n', "\r").into_bytes()),
        ("token.csv", token.into()),
        ("results.token", wide(token)),
        ("marked.token", format!("\u{feff}{token}").into_bytes()),
        // Captions are in the order of their numbers.
        (
            "order.token",
            "1.jpg#1\ta \"wet\" dog\n2.jpg#0\ttwo boys\n1.jpg#0\ta dog , running\n".into(),
        ),
        ("results.csv", kaggle.into()),
        ("results.txt", kaggle.replace("| ", ",").replace(" , ", "\u{1}").into_bytes()),
        ("captions.txt", header.into()),
        ("captions", wide(header)),
        ("flickr_annotations_30k.csv", hugging.into()),
        ("train.tsv", open_clip.into()),
        ("numbered.csv", "file_name,split,caption_0,caption_1\n1.jpg,train,\"a dog , running\",\"a \"\"wet\"\" dog\"\n2.jpg,train,two boys,\n".into()),
    ] {
        let bytes: Vec<u8> = bytes;
        put(&dir, name, bytes);
        let (found, said) = read(&dir, name);
        let found: Vec<_> = found
            .into_iter()
            .map(|(image, all)| {
                (image, all.into_iter().map(|c| c.replace('\u{1}', " , ")).collect::<Vec<_>>())
            })
            .collect();
        assert_eq!((found, said.as_str()), (both.clone(), ""), "{name}");
        let data = Dataset::open(&[spec(dir.path().join(name))]).unwrap();
        assert!((0..2).all(|i| data.samples().iter().nth(i).unwrap().unwrap().bytes().is_ok()));
    }
}

#[test]
fn odd_lines_of_flickr_are_named_and_cost_themselves_only() {
    let dir = tempdir().unwrap();
    // The line that Kaggle's file has without its second separator.
    put(
        &dir,
        "results.csv",
        "image_name| comment_number| comment\n2.jpg| 3| Dogs .\n2.jpg| 4   A dog runs .\n3.jpg| x\n",
    );
    let (found, said) = read(&dir, "results.csv");
    assert_eq!(found, expected(&[("2.jpg", &["Dogs .", "A dog runs ."])]));
    assert!(said.contains("line 3: a `|` is missing"), "{said}");
    assert!(said.contains("line 4: the row has 2 fields"), "{said}");
    put(
        &dir,
        "results.token",
        &b"1.jpg#0\ta dog\n\n1.jpg\ta cat\n1.jpg#x\ta cow\n#1\tnone\n1.jpg#1\tit\x92s\n2.jpg#0\t\n"
            [..],
    );
    let (found, said) = read(&dir, "results.token");
    assert_eq!(found, expected(&[("1.jpg", &["a dog", "it\u{2019}s"]), ("2.jpg", &[""])]));
    for line in [3, 4, 5] {
        assert!(said.contains(&format!("line {line}: the line is not `IMAGE#NUMBER`")), "{said}");
    }
    assert!(said.contains("line 6: it is no UTF-8"), "{said}");
    // Other texts are refused with what a list may be.
    for other in ["1.jpg\n2.jpg\n", "1.jpg\t2.jpg#2\t1 1 1\n", "name,text\n1.jpg,a\n"] {
        put(&dir, "other.txt", other);
        let said = refusal(read_source(&spec(dir.path().join("other.txt"))));
        assert!(said.contains("it begins with") && said.contains("IMAGE#NUMBER"), "{said}");
    }
}

#[test]
fn a_byte_that_is_no_utf_8_costs_its_own_text_of_a_download_only() {
    let dir = tempdir().unwrap();
    let coco = b"{\"images\": [{\"id\": 1, \"file_name\": \"1.jpg\"}, {\"id\": 2, \"file_name\": \"2.jpg\"}],
        \"annotations\": [{\"image_id\": 1, \"caption\": \"it\x92s\"}, {\"image_id\": 2, \"caption\": \"caf\xc3\xa9\"}]}";
    let karpathy =
        b"{\"images\": [{\"filename\": \"1.jpg\", \"sentences\": [{\"raw\": \"it\x92s\"}]},
        {\"filename\": \"2.jpg\", \"sentences\": [{\"raw\": \"caf\xc3\xa9\"}]}]}";
    for bytes in [&coco[..], karpathy] {
        put(&dir, "list.json", bytes);
        let (found, said) = read(&dir, "list.json");
        assert_eq!(found, expected(&[("1.jpg", &["it\u{2019}s"]), ("2.jpg", &["café"])]));
        assert!(said.contains("image 0: it is no UTF-8 and is read as Windows-1252"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    let lone = String::from_utf8_lossy(coco).replace("it\u{fffd}s", "it\\ud83ds");
    put(&dir, "list.json", lone);
    let (found, said) = read(&dir, "list.json");
    assert_eq!(found[0].1, ["it\u{fffd}s"]);
    assert!(said.contains("image 0: a lone surrogate"), "{said}");
}

#[cfg(unix)]
#[test]
fn images_of_every_list_are_found_by_the_bytes_of_their_names() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let dir = tempdir().unwrap();
    // What a list means must be these bytes: the name in UTF-8 is another image.
    fs::write(dir.path().join(OsStr::from_bytes(b"it\x92s.jpg")), image_bytes(1)).unwrap();
    put(&dir, "it\u{2019}s.jpg", image_bytes(2));
    put(&dir, "caf\u{e9}.jpg", image_bytes(3));
    let lists: [(&str, &str); 5] = [
        (
            "coco.json",
            r#"{"images": [{"id": 1, "file_name": "NAME"}], "annotations": [{"image_id": 1, "caption": "a"}]}"#,
        ),
        (
            "karpathy.json",
            r#"{"images": [{"filename": "NAME", "filepath": ".", "sentences": [{"raw": "a"}]}]}"#,
        ),
        ("metadata.jsonl", "{\"file_name\": \"NAME\", \"text\": \"a\"}\n"),
        ("results.token", "NAME#0\ta\n"),
        ("results.csv", "image_name| comment_number| comment\nNAME| 0| a\n"),
    ];
    let put_named = |name: &str, text: &str, image: &[u8]| {
        let (before, after) = text.split_once("NAME").unwrap();
        let bytes = [before.as_bytes(), image, after.as_bytes()].concat();
        put(&dir, name, bytes);
    };
    let of = |name: &str| {
        let found = read_source(&SourceSpec::of(&dir.path().join(name), Some(dir.path()))).unwrap();
        (found.samples[0].bytes().unwrap(), found.faults.len())
    };
    for (name, text) in lists {
        put_named(name, text, b"it\x92s.jpg");
        assert!(of(name) == (image_bytes(1), 0), "{name}");
        // Where no file is named by the bytes, by the text that they are read as.
        put_named(name, text, b"caf\xe9.jpg");
        assert!(of(name) == (image_bytes(3), 1), "{name}");
        if text.starts_with('{') {
            put_named(name, text, br"it\udc92s.jpg");
            assert!(of(name) == (image_bytes(1), 0), "{name}");
        }
    }
    // Lists of tasks have them under other keys, and by other rules.
    let roots = ImageRoots { image_root: dir.path().to_owned(), ..ImageRoots::default() };
    for (key, text) in [
        ("image", r#"[{"image": "NAME", "question": "what?"}]"#),
        ("images", r#"[{"images": ["café.jpg", "NAME"], "question": "what?"}]"#),
        ("image", "{\"image\": \"NAME\", \"question\": \"what?\"}\n"),
    ] {
        for image in [&b"it\x92s.jpg"[..], br"it\udc92s.jpg"] {
            put_named("task.json", text, image);
            let found = read_list(&dir.path().join("task.json"), &roots, |entry, context| {
                let image = match &entry["images"][1] {
                    Value::Null => &entry["image"],
                    second => second,
                };
                let image = image.as_str().unwrap_or_default().to_owned();
                let text = text_field(entry, "question")?;
                let root = &context.roots.image_root;
                Ok(Some(context.sample(root, image, text, Default::default())))
            })
            .unwrap();
            assert!(found.samples[0].bytes().unwrap() == image_bytes(1), "{key} {text}");
        }
    }
}

#[test]
fn entries_are_told_by_their_places_in_the_file() {
    let dir = tempdir().unwrap();
    let question = |id: i64| json!({"image": "a.jpg", "question": "what?", "question_id": id});
    let list = [json!({}), question(1), json!({"image": "a.jpg"}), question(2), question(1)];
    put(&dir, "list.json", serde_json::to_vec(&list).unwrap());
    let lines: Vec<String> = list.iter().map(Value::to_string).collect();
    put(&dir, "list.jsonl", lines.join("\n"));
    for (name, again, first) in
        [("list.json", "entry 4", "entry 1"), ("list.jsonl", "line 5", "line 2")]
    {
        let roots = ImageRoots::default();
        let found = read_list(&dir.path().join(name), &roots, |entry, context| {
            let id = albef_data::dataset::number_field(entry, "question_id")?;
            let task = albef_data::dataset::TaskFields { id, ..Default::default() };
            let text = text_field(entry, "question")?;
            Ok(Some(context.sample(&context.roots.image_root, "a.jpg".into(), text, task)))
        })
        .unwrap();
        assert_eq!(repeated_ids(&found.samples), [(again.to_owned(), first.to_owned())]);
        let data = Dataset::from_contents(found);
        let kept = data.samples().iter().nth(2).unwrap().unwrap();
        assert_eq!(kept.entry_name(2), again);
    }
}
