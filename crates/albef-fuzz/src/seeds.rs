//! Inputs to begin with: sound ones of each kind, and hostile ones of the kinds that other readers of these formats
//! have met.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::torch::{
    End, archive, dict, entries, floats, legacy, saved, storage, tensor, text, view,
};

/// Largest file that is a seed: mutations of small ones reach more.
const LARGEST: u64 = 1 << 14;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The small files of a folder of the repository; those with one of the endings, if any are given.
fn files(folder: &str, endings: &[&str]) -> Vec<Vec<u8>> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(root().join(folder))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|p| {
            let ending = p.extension().and_then(|e| e.to_str()).unwrap_or_default();
            endings.is_empty() || endings.contains(&ending)
        })
        .collect();
    paths.sort();
    let small = |p: &PathBuf| p.metadata().is_ok_and(|m| m.is_file() && m.len() <= LARGEST);
    paths.iter().filter(|p| small(p)).filter_map(|p| std::fs::read(p).ok()).collect()
}

/// The seeds of a target, with what was found in its folder of the corpus.
#[must_use]
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    let mut out = match target {
        "pickle" => pickles(),
        "legacy_pickle" => legacies(),
        "plain_pickle" => plain(),
        "zip" => archives(),
        "safetensors" => safetensors(),
        "safetensors_index" => texts(&[
            r#"{"metadata": {"total_size": 8}, "weight_map": {"w": "model-00001-of-00002.safetensors"}}"#,
            r#"{"weight_map": {"w": "../../../etc/passwd", "v": "/dev/zero"}}"#,
            r#"{"weight_map": {"w": "model.safetensors.index.json"}}"#,
            r#"{"weight_map": []}"#,
        ]),
        "tar" => tars(),
        "captions_json" => [lists(), files("crates/albef-data/tests/broken", &["json"])].concat(),
        "annotations" => [lists(), task_lists()].concat(),
        "captions_csv" => texts(&[
            "image,caption\na.png,a dog\nb.png,\"two, of them\"\n",
            "image\tcaption\na.png\t\"open\nb.png\tnext\n",
            "\u{feff}filepath,title\r\n\"a\"\"b.png\",x\r\n",
            "a.png#0\ta dog\na.png#1\tit runs\nb.png#0\t\n",
            "image_name| comment_number| comment\na.png| 0| a dog\na.png| 1   it runs\n",
            "raw,split,filename\n\"[\"\"a\"\", \"\"b\"\"]\",train,a.png\n",
            "image,caption\n",
        ]),
        "captions_jsonl" => texts(&[
            "{\"image\": \"a.png\", \"caption\": \"a dog\"}\n{\"image\": \"b.png\", \"caption\": [\"x\", null]}\n",
            "{\"image\": \"a.png\", \"caption\": NaN}\n{\"image\"",
        ]),
        "vocabulary" => texts(&["[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n##b\n", "a\na\n", "\n\n"]),
        "tokenizer" => texts(&[
            "A man, riding a horse!",
            "caf\u{e9} na\u{ef}ve \u{4e2d}\u{6587} \u{1f415}\u{200d}",
            "a\u{301}\u{301}\u{301} \u{0} \u{fffd} \u{d7ff}",
        ]),
        "image" => {
            let broken = files("crates/albef-data/tests/broken", &[]);
            let avif = files("crates/albef-data/tests/avif", &["avif"]);
            [files("tests/golden/images", &["png", "jpg"]), broken, avif].concat()
        }
        "outcomes" => texts(&[
            r#"{"format": 1, "task": "retrieval", "sets": [{"name": "text", "columns": [{"name": "rank", "kind": "rank"}], "items": [["a", "g", [3]], ["b", "g", [null]]]}]}"#,
            r#"{"format": 99, "task": "", "sets": []}"#,
        ]),
        "golden" => golden(),
        "configuration" => [
            files("configs", &["yaml"]),
            texts(&[
                "a: &a [*a, *a]",
                "[[[[[[[[[[[[[[[[",
                "batch_size: 1e999\n",
                "? {a: b}\n: c\n",
            ]),
        ]
        .concat(),
        "model_config" => files("models/mini", &["json"]),
        _ => Vec::new(),
    };
    out.extend(files(&format!("fuzz/corpus/{target}"), &[]));
    out
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn pickle(value: &[u8]) -> Vec<u8> {
    [b"\x80\x02", value, b"."].concat()
}

/// A call of a function with one text.
fn call(module: &str, function: &str, argument: &str) -> Vec<u8> {
    [format!("c{module}\n{function}\n(").as_bytes(), &text(argument), b"tR"].concat()
}

fn pickles() -> Vec<Vec<u8>> {
    let row = || tensor(&[2, 2], &[2, 1]);
    let float = storage("FloatStorage", "0", 16, b"");
    [
        dict(&[("a.weight", row()), ("b.bias", tensor(&[4], &[1]))]),
        dict(&[("model", dict(&[("w", row())])), ("epoch", b"K\x03".to_vec())]),
        dict(&[("w", view("_rebuild_parameter", &float, &[4], &[1], b""))]),
        dict(&[(
            "w",
            view(
                "_rebuild_tensor_v2",
                &float,
                &[4, 4],
                &[1, 4],
                b"\x89ccollections\nOrderedDict\n)R",
            ),
        )]),
        dict(&[(
            "half",
            view("_rebuild_tensor_v2", &storage("HalfStorage", "1", 32, b""), &[32], &[1], b""),
        )]),
        // Programs, which nothing may run.
        call("os", "system", "true"),
        call("builtins", "eval", "1/0"),
        call("torch", "load", "/dev/zero"),
        [b"ctypes\nFunctionType\n".to_vec(), dict(&[])].concat(),
        // Shapes and strides beyond the storage, negative ones, products beyond all numbers.
        dict(&[("w", tensor(&[1 << 20, 1 << 20], &[0, 0]))]),
        dict(&[("w", tensor(&[-1, 4], &[-1, 1]))]),
        dict(&[("w", tensor(&[i32::MAX, i32::MAX, i32::MAX], &[i32::MAX, 1, 1]))]),
        // Depth, memory, lengths.
        [b"(".repeat(4000), b"t".repeat(4000)].concat(),
        [b"]".repeat(4000), b"a".repeat(3999)].concat(),
        b"(lp0\n(h\x00h\x00h\x00ta".to_vec(),
        b"X\xff\xff\xff\xff".to_vec(),
        b"\x8b\xff\xff\xff\x7f1".to_vec(),
        b"\x95\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(),
        b"2222R\x86\x87)\x81b".to_vec(),
        b"h\x00j\xff\xff\xff\xffr\xff\xff\xff\x7f".to_vec(),
    ]
    .iter()
    .map(|value| pickle(value))
    .collect()
}

fn legacies() -> Vec<Vec<u8>> {
    let value = dict(&[("w", tensor(&[2, 2], &[2, 1]))]);
    let mut out: Vec<Vec<u8>> =
        [2, 3, 4, 5].map(|p| legacy(p, &value, &dict(&[]), &[("0", floats())])).into();
    out.push(legacy(2, &call("os", "system", "true"), &dict(&[]), &[]));
    out.push(legacy(2, &value, &call("os", "system", "true"), &[("0", vec![0; 4])]));
    out
}

fn plain() -> Vec<Vec<u8>> {
    let entry = dict(&[("ref_id", b"K\x01".to_vec()), ("sentences", b"](K\x01K\x02e".to_vec())]);
    vec![
        pickle(&[b"](".to_vec(), entry, b"e".to_vec()].concat()),
        pickle(&call("os", "system", "true")),
        pickle(b"G\x7f\xf8\0\0\0\0\0\0"),
        b"(lp0\n(dp1\nS'ref_id'\np2\nI1\nsa.".to_vec(),
        b"(lp0\nVx\\ud800\naF1e999\naL99999999999999999999L\na.".to_vec(),
    ]
}

fn archives() -> Vec<Vec<u8>> {
    let value = dict(&[("w", tensor(&[2, 2], &[2, 1]))]);
    let parts = |root: &str| entries(root, &value, &[("0", floats())]);
    let twice = [parts("x"), parts("x")].concat();
    let climbing = entries("../../x", &value, &[("../0", floats())]);
    vec![
        saved(&value),
        archive(&parts("archive"), End::Zip),
        archive(&parts(&"r".repeat(21)), End::Zip64),
        archive(&twice, End::Zip64),
        archive(&climbing, End::Zip),
        archive(&[], End::Zip),
        archive(&[("x/data.pkl".to_owned(), Vec::new())], End::Zip64),
    ]
}

fn safetensors() -> Vec<Vec<u8>> {
    [
        (r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 8),
        (r#"{"__metadata__":{"format":"pt"},"w":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]}}"#, 8),
        (r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"v":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#, 12),
        (r#"{"w":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}}"#, 8),
        (r#"{"w":{"dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8]}}"#, 8),
        (r#"{"w":{"dtype":"F32","shape":[],"data_offsets":[8,4]}}"#, 8),
        ("{}", 0),
    ]
    .into_iter()
    .map(|(header, data)| {
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0x3f; data]].concat()
    })
    .chain([u64::MAX.to_le_bytes().to_vec()])
    .collect()
}

/// A member of a tar archive.
fn member(name: &str, data: &[u8], claimed: u64, kind: u8) -> Vec<u8> {
    let mut header = vec![0_u8; 512];
    header[..name.len().min(100)].copy_from_slice(&name.as_bytes()[..name.len().min(100)]);
    header[100..108].copy_from_slice(b"0000644\0");
    header[124..136].copy_from_slice(format!("{claimed:011o}\0").as_bytes());
    header[136..148].copy_from_slice(b"00000000000\0");
    header[148..156].copy_from_slice(b"        ");
    header[156] = kind;
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header.extend(data);
    header.resize(header.len().next_multiple_of(512), 0);
    header
}

fn tars() -> Vec<Vec<u8>> {
    let png = files("tests/golden/images", &["png"]).swap_remove(0);
    let whole = |name: &str, data: &[u8]| member(name, data, data.len() as u64, b'0');
    let pair = [whole("000.png", &png), whole("000.txt", b"a dog")].concat();
    let end = vec![0; 1024];
    vec![
        [&pair[..], &whole("000.json", br#"{"caption": "x", "width": 3}"#), &end].concat(),
        // Parts that are not adjacent, one key twice, a dot in a key, no end.
        [whole("1.png", &png), pair.clone(), whole("1.txt", b"far"), whole("0.5.txt", b"x")]
            .concat(),
        // A sparse member, a long name, a link, a length that wraps.
        [member("s.png", b"", 1 << 32, b'S'), end.clone()].concat(),
        [member("././@LongLink", b"x", 1 << 30, b'L'), end.clone()].concat(),
        [member("l.png", b"", 0, b'2'), member("p", b"30 path=../../x.png\n", 20, b'x'), end]
            .concat(),
        member("big.png", b"", 0o77_777_777_777, b'0'),
    ]
}

fn lists() -> Vec<Vec<u8>> {
    texts(&[
        r#"[{"image": "a.png", "caption": "a dog", "image_id": 3}, {"image": "b.png", "caption": ["x", "y"]}]"#,
        r#"[{"image": "a.png", "caption": null}, {"image": 3, "caption": NaN}, [], "x", {"caption": "\ud800"}]"#,
        r#"{"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": 1, "caption": "x"}, {"image_id": 9}]}"#,
        r#"{"images": [{"filename": "a.png", "filepath": "val", "split": "test", "sentences": [{"raw": "x"}]}], "dataset": "coco"}"#,
        r#"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["#,
    ])
}

fn task_lists() -> Vec<Vec<u8>> {
    let entries: [Value; 7] = [
        json!([{"question_id": 1, "question": "what?", "image": "a.png", "answer": ["x", "y"], "dataset": "vqa"}]),
        json!([{"image": "a.png", "sentence": "x", "label": "entailment"}, {"image": "a.png", "sentence": "x", "label": "-"}]),
        json!([{"images": ["a.png", "b.png"], "sentence": "x", "label": "True"}]),
        json!([{"ref_id": 1, "image": "a.png", "text": "x", "bbox": [0, 0, -1, 1e300]}]),
        json!([{"image": "a.png", "text": "x", "label": ["a", "b"]}]),
        json!({"questions": [{"question_id": "1", "image_id": 1, "question": "x"}], "annotations": []}),
        json!([{"image": "a.png", "label": 3}, {"image": "a.png", "label": {"x": 1}}]),
    ];
    entries.iter().map(|list| list.to_string().into_bytes()).collect()
}

/// The fixtures of the repository without binary files, each with its files, of whose lists the beginnings are kept.
fn golden() -> Vec<Vec<u8>> {
    let folder = root().join("tests/golden");
    let read = |path: &str| -> Option<Value> {
        serde_json::from_slice(&std::fs::read(folder.join(path)).ok()?).ok()
    };
    let manifest = read("manifest.json").unwrap_or_default();
    let mut out = Vec::new();
    for fixture in manifest["fixtures"].as_array().into_iter().flatten() {
        let files = fixture["files"].as_array().into_iter().flatten();
        let files: Option<Map<String, Value>> = files
            .filter_map(|file| file["path"].as_str())
            .map(|path| Some((path.to_owned(), beginning(read(path)?))))
            .collect();
        if let Some(files) = files {
            out.push(json!({"fixture": fixture, "files": files}).to_string().into_bytes());
        }
    }
    out.retain(|seed| seed.len() as u64 <= LARGEST);
    out
}

/// A value with the first entries of each list and object.
fn beginning(value: Value) -> Value {
    const KEPT: usize = 12;
    match value {
        Value::Array(list) => list.into_iter().take(KEPT).map(beginning).collect(),
        Value::Object(map) => {
            map.into_iter().take(KEPT).map(|(key, value)| (key, beginning(value))).collect()
        }
        other => other,
    }
}
