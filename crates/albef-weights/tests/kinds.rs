//! Checkpoints as people have them, kind by kind.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

mod common;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use albef_weights::{
    Checkpoint, DType, HostTensor, KeepAs, StateDict, read, read_model, weights_file,
    write_safetensors,
};
use common::{
    End, archive, dict, entries, floats, legacy, numbers, saved, storage, tensor, text, view,
};
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn outcome(bytes: &[u8]) -> Result<Checkpoint, String> {
    let dir = folder();
    let path = dir.path().join("x.pth");
    fs::write(&path, bytes).unwrap();
    read(&path).map_err(|e| e.to_string())
}

fn refused(bytes: &[u8], why: &str) {
    let said = outcome(bytes).expect_err(why);
    assert!(said.contains(why), "{why}: {said}");
}

fn row() -> Vec<u8> {
    tensor(&[2], &[1])
}

fn names(state: &StateDict) -> Vec<&str> {
    state.names().collect()
}

#[test]
fn zip_roots_of_all_lengths_are_read_with_and_without_zip64() {
    for length in 1..=64 {
        for end in [End::Zip, End::Zip64] {
            let value = dict(&[("w", tensor(&[2, 2], &[2, 1]))]);
            let bytes = archive(&entries(&"r".repeat(length), &value, &[("0", floats())]), end);
            let found = outcome(&bytes).unwrap_or_else(|e| panic!("{length}: {e}"));
            assert_eq!(found.tensors.get("w").unwrap().to_f32().unwrap(), [1.0, 2.0, 3.0, 4.0]);
        }
    }
}

#[test]
fn pickles_of_protocol_2_to_5_are_read_in_the_old_layout() {
    let value = dict(&[("w", tensor(&[2, 2], &[1, 2]))]);
    for protocol in 2..=5 {
        let bytes = legacy(protocol, &value, b"}", &[("0", floats())]);
        let found = outcome(&bytes).unwrap_or_else(|e| panic!("{protocol}: {e}"));
        assert_eq!(found.tensors.get("w").unwrap().to_f32().unwrap(), [1.0, 3.0, 2.0, 4.0]);
    }
    refused(b"\x80\x06N.", "not a checkpoint");
    refused(b"\x80\x04N.", "a plain pickle");
    let whole = legacy(4, &value, b"}", &[("0", floats())]);
    refused(&whole[..whole.len() - 5], "half of a file");
}

#[test]
fn a_part_of_a_storage_is_read_in_the_old_layout() {
    let part = [b"(", &text("v")[..], b"K\x01K\x02t"].concat();
    let half = storage("FloatStorage", "0", 4, &part);
    let value = dict(&[("w", view("_rebuild_tensor_v2", &half, &[2], &[1], b""))]);
    let found = outcome(&legacy(2, &value, b"}", &[("0", floats())])).unwrap();
    assert_eq!(found.tensors.get("w").unwrap().to_f32().unwrap(), [2.0, 3.0]);
    let beyond = [b"(", &text("v")[..], b"K\x03K\x02t"].concat();
    let beyond = storage("FloatStorage", "0", 4, &beyond);
    let value = dict(&[("w", view("_rebuild_tensor_v2", &beyond, &[2], &[1], b""))]);
    refused(&legacy(2, &value, b"}", &[("0", floats())]), "fewer elements");
}

#[test]
fn weights_are_found_under_the_keys_of_training_code() {
    let two = || dict(&[("a", row()), ("b", row())]);
    for key in ["model", "state_dict", "module", "model_state_dict", "ema", "model_ema", "mine"] {
        let found = outcome(&saved(&dict(&[("epoch", b"K\x03".to_vec()), (key, two())]))).unwrap();
        assert_eq!((found.root.as_deref(), names(&found.tensors)), (Some(key), vec!["a", "b"]));
        assert_eq!(found.notes.is_empty(), key == "model", "{:?}", found.notes);
        assert!(found.notes.iter().all(|n| n.contains(&format!("`{key}`"))), "{:?}", found.notes);
    }
    let flat = outcome(&saved(&two())).unwrap();
    assert_eq!((flat.root, flat.notes.len()), (None, 0));
    let deep = dict(&[("state", dict(&[("model", two())]))]);
    assert_eq!(outcome(&saved(&deep)).unwrap().root.as_deref(), Some("state.model"));
}

#[test]
fn of_two_sets_the_weights_are_taken_and_both_are_named() {
    let two = || dict(&[("a", row()), ("b", row())]);
    let one = || dict(&[("a", row())]);
    for (value, root) in [
        (dict(&[("model_ema", one()), ("model", two())]), "model"),
        (dict(&[("ema", two()), ("state_dict", one())]), "state_dict"),
        (dict(&[("n", row()), ("state_dict", two())]), "state_dict"),
        (dict(&[("model", one()), ("model", two()), ("x", one())]), "model"),
    ] {
        let found = outcome(&saved(&value)).unwrap();
        assert_eq!(found.root.as_deref(), Some(root));
        assert!(found.notes.iter().any(|n| n.contains("not used")), "{:?}", found.notes);
    }
    // Moments of an optimizer by the names of the weights are no weights.
    let moments = dict(&[("state", dict(&[("a", dict(&[("exp_avg", row())]))]))]);
    let found = outcome(&saved(&dict(&[("optimizer", moments), ("net", two())]))).unwrap();
    assert_eq!((found.root.as_deref(), found.notes.len()), (Some("net"), 1));
    // The last of two equal keys counts, as in Python.
    let twice = dict(&[("model", one()), ("model", two())]);
    assert_eq!(names(&outcome(&saved(&twice)).unwrap().tensors), ["a", "b"]);
}

#[test]
fn names_that_tied_tensors_lost_are_given_back() {
    let dir = folder();
    let path = dir.path().join("m.safetensors");
    let (kept, lost) = ("cls.decoder.weight", "bert.words.weight");
    let state = StateDict::from_iter([
        (kept.to_owned(), HostTensor::from_f32(&[1], &[2.0])),
        ("bert.norm.weight".to_owned(), HostTensor::from_f32(&[1], &[3.0])),
    ]);
    let with = |alias: &str, of: &str| {
        let metadata = [("format", "pt"), ("title", "v1.0"), (alias, of)];
        let metadata = metadata.map(|(k, v)| (k.to_owned(), v.to_owned()));
        write_safetensors(&path, &state, &HashMap::from(metadata), KeepAs::Same).unwrap();
        read(&path)
    };
    let found = with(lost, kept).unwrap().tensors;
    assert_eq!(found.get(lost), found.get(kept));
    for gone in ["cls.other.weight", "no.such.tensor"] {
        let said = with(lost, gone).unwrap_err().to_string();
        assert!(said.contains(lost) && said.contains(gone), "{said}");
    }
    assert_eq!(with("modelspec.title", "albef.v1").unwrap().tensors.len(), 2);
}

#[test]
fn tensors_of_types_that_are_not_read_are_known_by_name_and_shape() {
    let bytes = storage("UntypedStorage", "1", 16, b"");
    let typed = |name: &str| {
        let rest = [b"\x89Nctorch\n", name.as_bytes(), b"\n"].concat();
        view("_rebuild_tensor_v3", &bytes, &[2, 2], &[2, 1], &rest)
    };
    let flagged = |flag: &str| {
        let rest = [b"\x89N", &dict(&[(flag, b"\x88".to_vec())])[..]].concat();
        view("_rebuild_tensor_v2", &storage("FloatStorage", "0", 4, b""), &[2], &[1], &rest)
    };
    let complex = storage("ComplexFloatStorage", "0", 2, b"");
    let call = |name: &str, arguments: &[u8]| {
        [format!("ctorch._utils\n{name}\n(").as_bytes(), arguments, b"tR"].concat()
    };
    let parameter = [row(), b"\x88N}".to_vec()].concat();
    let of_class = [
        b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_tensor_v2\nctorch\nTensor\n"
            .to_vec(),
        [b"(", &storage("FloatStorage", "0", 4, b"")[..], b"K\x00"].concat(),
        [numbers(&[2]), numbers(&[1]), b"\x89Nt}tR".to_vec()].concat(),
    ]
    .concat();
    let value = dict(&[
        ("uint16", typed("uint16")),
        ("float8_e4m3fn", typed("float8_e4m3fn")),
        ("float32", typed("float32")),
        ("neg", flagged("neg")),
        ("conj", flagged("conj")),
        ("complex", view("_rebuild_tensor_v2", &complex, &[2], &[1], b"")),
        ("sparse", call("_rebuild_sparse_tensor", b"NN")),
        ("meta", call("_rebuild_meta_tensor_no_storage", &[b"N", &numbers(&[2])[..]].concat())),
        ("parameter", call("_rebuild_parameter_with_state", &parameter)),
        ("of_class", of_class),
    ]);
    let all = entries("x", &value, &[("0", floats()), ("1", floats())]);
    let found = outcome(&archive(&all, End::Zip64)).unwrap().tensors;
    let kind = |name: &str| found.get(name).unwrap().dtype.to_string();
    for (name, want) in [
        ("uint16", "uint16"),
        ("float8_e4m3fn", "float8_e4m3fn"),
        ("complex", "complex64"),
        ("neg", "a view with the negative bit"),
        ("conj", "a conjugated view"),
        ("sparse", "a sparse tensor"),
        ("meta", "a meta tensor, which has no values"),
    ] {
        assert_eq!(kind(name), want);
        assert!(matches!(found.get(name).unwrap().dtype, DType::Unread(_)));
    }
    assert_eq!(found.get("uint16").unwrap().shape, [2, 2]);
    assert_eq!(found.get("float32").unwrap().to_f32().unwrap(), [1.0, 2.0, 3.0, 4.0]);
    for name in ["parameter", "of_class"] {
        assert_eq!(found.get(name).unwrap().to_f32().unwrap(), [1.0, 2.0]);
    }
    let dir = folder();
    let error = write_safetensors(&dir.path().join("x"), &found, &HashMap::new(), KeepAs::Same)
        .unwrap_err();
    assert!(error.to_string().contains("`uint16` is of type uint16"), "{error}");
}

#[test]
fn what_pytorch_reads_otherwise_is_refused_by_name() {
    let value = dict(&[("w", row())]);
    let with = |more: &[(&str, &[u8])]| {
        let mut all = entries("x", &value, &[("0", floats())]);
        all.extend(more.iter().map(|(n, data)| ((*n).to_owned(), data.to_vec())));
        archive(&all, End::Zip64)
    };
    assert!(outcome(&with(&[("x/byteorder", b"little")])).is_ok());
    refused(&with(&[("x/byteorder", b"big")]), "big-endian");
    let other = [b"\x80\x02", &dict(&[("v", row())])[..], b"."].concat();
    refused(&with(&[("x/data.pkl", &other)]), "more than once");
    refused(&with(&[("x/data/0", &[0; 16])]), "more than once");
    refused(&with(&[("x/DATA/0", &[0; 16])]), "more than once");
    assert_eq!(names(&outcome(&with(&[("y/data.pkl", &other)])).unwrap().tensors), ["w"]);
    let nested = archive(&[("x/version".into(), vec![]), ("x/y/data.pkl".into(), other)], End::Zip);
    refused(&nested, "not in its first folder");

    let long = view("_rebuild_tensor_v2", &storage("LongStorage", "0", 2, b""), &[2], &[1], b"");
    refused(&saved(&dict(&[("a", row()), ("b", long)])), "under the types float32 and int64");
    let nameless = storage("FloatStorage", "", 4, b"");
    let nameless = dict(&[("w", view("_rebuild_tensor_v2", &nameless, &[2], &[1], b""))]);
    refused(&archive(&entries("x", &nameless, &[("", floats())]), End::Zip), "no name");
    let many = storage("FloatStorage", "0", 9, b"");
    refused(
        &saved(&dict(&[("w", view("_rebuild_tensor_v2", &many, &[2], &[1], b""))])),
        "fewer elements",
    );
    refused(&saved(&dict(&[("w", row()), ("module.w", tensor(&[2], &[2]))])), "`module.w`");
    let big = dict(&[("little_endian", b"\x89".to_vec())]);
    refused(&legacy(2, &value, &big, &[("0", floats())]), "big-endian");
    // Keys that are no text are counted.
    let odd = [b"}(N".to_vec(), row(), text("w"), row(), b"C\x01w".to_vec(), row()].concat();
    let odd = [odd, b"X\x04\x00\x00\x00w\xed\xa0\x80".to_vec(), row(), b"u".to_vec()].concat();
    let found = outcome(&saved(&odd)).unwrap();
    assert_eq!(names(&found.tensors), ["w"]);
    assert!(found.notes[0].contains("3 tensors under keys that are not text"), "{:?}", found.notes);
}

#[test]
fn a_shape_of_more_than_there_can_be_has_no_small_size() {
    let of =
        |shape: &[usize]| HostTensor { shape: shape.to_vec(), ..HostTensor::from_f32(&[], &[1.0]) };
    assert_eq!(of(&[1 << 32, 1 << 32]).len(), usize::MAX);
    assert!(!of(&[1 << 32, 1 << 32]).is_empty() && of(&[1 << 32, 1 << 32, 0]).is_empty());
}

#[test]
fn an_archive_that_was_compressed_again_is_read_and_a_bomb_is_not() {
    let zipped = |storage: Vec<u8>| {
        let value = dict(&[("w", tensor(&[2, 2], &[2, 1]))]);
        let mut out = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        for (name, data) in entries("x", &value, &[("0", storage)]) {
            let options = zip::write::SimpleFileOptions::default()
                .compression_method(zip::CompressionMethod::Deflated);
            out.start_file(name, options).unwrap();
            std::io::Write::write_all(&mut out, &data).unwrap();
        }
        out.finish().unwrap().into_inner()
    };
    let found = outcome(&zipped(floats())).unwrap();
    assert_eq!(found.tensors.get("w").unwrap().to_f32().unwrap(), [1.0, 2.0, 3.0, 4.0]);
    refused(&zipped(vec![0; 8 << 20]), "more than 4 times as large as the file");
}

/// An object of a class, made as `NEWOBJ` does, with what follows.
fn object(class: &str, then: &[&[u8]]) -> Vec<u8> {
    [b"c", class.as_bytes(), b"\n)\x81", &then.concat()].concat()
}

#[test]
fn dictionaries_and_lists_of_a_class_of_their_own_are_passed_over_or_read() {
    let config = object("yacs.config\nCfgNode", &[b"q\x05(", &text("lr"), b"K\x01u}b"]);
    let queue = b"ccollections\ndeque\n)R(K\x01K\x02e".to_vec();
    let list = object("mine\nList", &[b"K\x01a"]);
    let beside = dict(&[
        ("model", dict(&[("w", row())])),
        ("config", config.clone()),
        ("losses", queue),
        ("epochs", list),
    ]);
    assert_eq!(names(&outcome(&saved(&beside)).unwrap().tensors), ["w"]);
    // Weights in such a dictionary, with one more inside, and state of the object behind the items.
    let inner = [&b"("[..], &text("w"), &row(), &text("meta"), &config, b"u}b"].concat();
    let weights = object("addict\nDict", &[b"q\x06", &inner]);
    assert_eq!(
        names(&outcome(&saved(&dict(&[("model", weights.clone())]))).unwrap().tensors),
        ["w"]
    );
    assert_eq!(names(&outcome(&saved(&weights)).unwrap().tensors), ["w"]);
    // Remembered from before its items, it is not taken for another one.
    let again = dict(&[("config", config), ("model", b"h\x05".to_vec())]);
    refused(&saved(&again), "whole Python module");
    refused(&saved(&dict(&[("x", b"K\x01(K\x01K\x02u".to_vec())])), "what is no dictionary");
}

#[test]
fn objects_and_programs_are_called_what_they_are() {
    let module = b"calbef.models\nALBEF\n)\x81}b";
    refused(&saved(module), "whole Python module (`albef.models.ALBEF`)");
    refused(&saved(&dict(&[("model", module.to_vec())])), "`model` holds a whole Python module");
    let id = [b"(", &text("module")[..], b"calbef.models\nALBEF\nNNtQ)\x81}b"].concat();
    refused(&legacy(2, &id, b"}", &[]), "whole Python module");
    let mut script = entries("x", b"c__torch__\nM\n)\x81}b", &[]);
    script.push(("x/constants.pkl".into(), b"\x80\x02).".to_vec()));
    script.push(("x/code/__torch__.py".into(), vec![]));
    refused(&archive(&script, End::Zip64), "a TorchScript program");
    refused(&archive(&[("a.npy".into(), vec![])], End::Zip), "NumPy");
    refused(&saved(&row()), "one tensor without a name");
    let whole = saved(&dict(&[("w", row())]));
    refused(&whole[..whole.len() / 2], "half of a file");
    refused(b"<!DOCTYPE html>", "an HTML page, not a checkpoint");
    refused(b"", "the file is empty");
}

#[test]
fn tensors_that_stand_for_far_more_than_their_file_are_refused_at_once() {
    for (shape, stride) in [([2; 26], [0; 26]), ([3; 26], [0; 26])] {
        let started = std::time::Instant::now();
        let bytes = saved(&dict(&[("wide", tensor(&shape, &stride))]));
        refused(&bytes, "`wide`");
        assert!(started.elapsed().as_millis() < 500);
    }
    // Windows that overlap.
    refused(&saved(&dict(&[("w", tensor(&[4, 1 << 20], &[1, 0]))])), "by repeating");
    refused(&saved(&dict(&[("w", tensor(&[1 << 10, 1 << 10], &[0, 0]))])), "by repeating");
}

#[test]
fn a_pickle_takes_no_more_memory_than_its_limit() {
    // Each byte is an empty list.
    let lists = [b"(".to_vec(), b"]".repeat(20 << 20), b"t".to_vec()].concat();
    refused(&saved(&lists), "512 MiB");
    // A long name for each of many calls costs nothing.
    let name = format!("c{}\nN\nq\x00", "m".repeat(100_000));
    let calls: Vec<u8> = [name.as_bytes(), &b"h\x00)R0".repeat(50_000)].concat();
    assert!(outcome(&saved(&[calls, dict(&[("w", row())])].concat())).is_ok());
}

#[cfg(unix)]
#[test]
fn what_is_no_regular_file_is_not_opened() {
    let dir = folder();
    let socket = dir.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for path in [&*socket, Path::new("/dev/zero")] {
        let said = read(path).unwrap_err().to_string();
        assert!(said.contains("no regular file"), "{said}");
    }
}

fn write(path: &Path, names: &[&str]) {
    let one = || HostTensor::from_f32(&[1], &[1.0]);
    let state: StateDict = names.iter().map(|n| ((*n).to_owned(), one())).collect();
    write_safetensors(path, &state, &HashMap::new(), KeepAs::Same).unwrap();
}

/// A folder with the parts of a model and their index.
fn sharded(map: &str) -> (TempDir, PathBuf) {
    let dir = folder();
    write(&dir.path().join("model-00001-of-00002.safetensors"), &["a", "b"]);
    write(&dir.path().join("model-00002-of-00002.safetensors"), &["c"]);
    let index = dir.path().join("model.safetensors.index.json");
    fs::write(&index, format!("\u{feff}{{\"weight_map\": {{{map}}}}}")).unwrap();
    (dir, index)
}

const MAP: &str = r#""a": "model-00001-of-00002.safetensors", "b": "model-00001-of-00002.safetensors",
                     "c": "model-00002-of-00002.safetensors""#;

#[test]
fn a_model_in_parts_is_read_by_its_folder_and_by_its_index() {
    let (dir, index) = sharded(MAP);
    assert_eq!(weights_file(dir.path()).unwrap(), index);
    for path in [dir.path(), &index] {
        let found = read(path).unwrap();
        assert_eq!((names(&found.tensors), found.notes.len()), (vec!["a", "b", "c"], 0));
    }
    let part = dir.path().join("model-00001-of-00002.safetensors");
    let said = read(&part).unwrap_err().to_string();
    assert!(said.contains("a part of a model, 1 of 2"), "{said}");
    fs::remove_file(&part).unwrap();
    let said = read(&index).unwrap_err().to_string();
    assert!(
        said.contains("1 of the 2 files that it names is missing") && said.contains("00001"),
        "{said}"
    );
    fs::remove_file(&index).unwrap();
    let said = read(dir.path()).unwrap_err().to_string();
    assert!(said.contains("there is 1 part of a model") && said.contains("no index"), "{said}");
    assert!(said.contains("put `model.safetensors.index.json`"), "{said}");
}

#[test]
fn parts_of_pytorch_ask_for_the_index_of_their_own_name() {
    let dir = folder();
    for part in 1..=2 {
        let name = format!("pytorch_model-0000{part}-of-00002.bin");
        fs::write(dir.path().join(name), saved(&dict(&[("w", row())]))).unwrap();
    }
    let said = read(dir.path()).unwrap_err().to_string();
    assert!(said.contains("there are 2 parts of a model"), "{said}");
    assert!(said.contains("put `pytorch_model.bin.index.json`"), "{said}");
    let part = dir.path().join("pytorch_model-00001-of-00002.bin");
    let said = read(&part).unwrap_err().to_string();
    assert!(said.contains("the index beside it (`pytorch_model.bin.index.json`)"), "{said}");
}

#[test]
fn a_checkpoint_of_deepspeed_is_called_so_and_one_without_zero_is_read() {
    let dir = folder();
    let step = dir.path().join("global_step5");
    fs::create_dir(&step).unwrap();
    fs::write(dir.path().join("latest"), "global_step5\n").unwrap();
    fs::write(dir.path().join("zero_to_fp32.py"), "").unwrap();
    let bytes = saved(&dict(&[("module", dict(&[("a", row()), ("b", row())]))]));
    fs::write(step.join("mp_rank_00_model_states.pt"), &bytes).unwrap();
    for path in [dir.path(), &step] {
        assert_eq!(names(&read(path).unwrap().tensors), ["a", "b"]);
    }
    let moments = step.join("zero_pp_rank_0_mp_rank_00_optim_states.pt");
    fs::write(&moments, &bytes).unwrap();
    for path in [dir.path(), &step, &moments] {
        let said = read(path).unwrap_err().to_string();
        assert!(said.contains("DeepSpeed") && said.contains("`python zero_to_fp32.py"), "{said}");
    }
    // Weights that the script has made are preferred.
    fs::write(step.join("made.bin"), &bytes).unwrap();
    assert_eq!(weights_file(&step).unwrap(), step.join("made.bin"));
}

#[test]
fn a_distributed_checkpoint_of_pytorch_is_called_so() {
    let dir = folder();
    for name in ["optimizer_0", "pytorch_model_fsdp_0"] {
        let part = dir.path().join(name);
        fs::create_dir(&part).unwrap();
        fs::write(part.join("__0_0.distcp"), saved(&dict(&[("w", row())]))).unwrap();
        fs::write(part.join(".metadata"), b"\x80\x04N.").unwrap();
    }
    let weights = dir.path().join("pytorch_model_fsdp_0");
    for path in [dir.path(), &weights, &weights.join("__0_0.distcp")] {
        let said = read(path).unwrap_err().to_string();
        assert!(said.contains("dcp_to_torch_save(\"pytorch_model_fsdp_0\""), "{said}");
    }
}

/// The names of a small BERT with a head.
const BERT: [&str; 3] = [
    "bert.embeddings.word_embeddings.weight",
    "bert.encoder.layer.0.attention.self.query.weight",
    "cls.predictions.bias",
];

#[test]
fn one_side_where_a_whole_model_is_wanted_is_named_with_the_key_that_takes_it() {
    let dir = folder();
    let path = dir.path().join("x.safetensors");
    let said = |names: &[&str]| {
        write(&path, names);
        read_model(&path).unwrap_err().to_string()
    };
    for (names, what, way) in [
        (&BERT[..], "a BERT alone", "`init_text`"),
        (&["cls_token", "pos_embed", "blocks.0.norm1.weight"], "a ViT alone", "`init_vision`"),
        (&["cls_token", "pos_embed", "dist_token"], "a distilled DeiT", "`deit_base_patch16_224`"),
        (&["w"], "nothing in this file is of a part that an ALBEF has", "use one of ALBEF's"),
    ] {
        let said = said(names);
        assert!(said.contains(what) && said.contains(way), "{said}");
        assert!(said.starts_with(&path.display().to_string()), "{said}");
        assert!(read(&path).is_ok());
    }
}

#[test]
fn an_averaged_model_and_what_else_a_trainer_keeps_beside_it_are_read_and_noted() {
    let dir = folder();
    let path = dir.path().join("x.safetensors");
    for prefix in ["module.", "module.model.", ""] {
        let own = ["visual_encoder.norm.weight", "text_encoder.bert.x", "temp"];
        let own = own.map(|n| format!("{prefix}{n}"));
        let mut all: Vec<&str> = own.iter().map(|n| &**n).collect();
        all.push("n_averaged");
        write(&path, &all);
        let found = read_model(&path).unwrap();
        assert_eq!(
            names(&found.tensors),
            ["temp", "text_encoder.bert.x", "visual_encoder.norm.weight"]
        );
        let note = "not used, of no part of an ALBEF: 1 tensor (`n_averaged`)";
        assert_eq!(found.notes.last().unwrap(), note);
    }
}

#[test]
fn a_head_of_a_bert_that_is_not_its_word_table_is_noted() {
    let dir = folder();
    let path = dir.path().join("x.safetensors");
    let head = "cls.predictions.decoder.weight";
    let notes = |value: f32| {
        let of = |(n, v): (&str, f32)| (n.to_owned(), HostTensor::from_f32(&[1], &[v]));
        let state = BERT.iter().map(|n| (*n, 1.0)).chain([(head, value)]).map(of).collect();
        write_safetensors(&path, &state, &HashMap::new(), KeepAs::Same).unwrap();
        read(&path).unwrap().notes
    };
    assert!(notes(1.0).is_empty());
    let told = notes(2.0).join("");
    assert!(told.contains(&format!("`{head}` is not the tensor `{}`", BERT[0])), "{told}");
}

#[test]
fn an_index_that_does_not_fit_its_parts_is_refused() {
    let problem = |map: &str| read(&sharded(map).1).unwrap_err().to_string();
    let more = format!(r#"{MAP}, "d": "model-00002-of-00002.safetensors""#);
    assert!(problem(&more).contains("`d` is not in `model-00002"), "{}", problem(&more));
    assert!(problem(r#""a": "../m.safetensors""#).contains("not below this folder"));
    assert!(problem(r#""a": "/m.safetensors""#).contains("not below this folder"));
    assert!(problem(r#""a": 1"#).contains("must be the name of a file"));
    assert!(problem("").contains("no `weight_map`"));
    // Itself, or another that could name it.
    assert!(problem(r#""a": "model.safetensors.index.json""#).contains("an index, for a part"));
    let fewer = read(&sharded(r#""a": "model-00001-of-00002.safetensors""#).1).unwrap();
    assert!(fewer.notes[0].contains("(`b`)"), "{:?}", fewer.notes);
}

#[test]
fn a_folder_with_one_weights_file_and_one_of_the_cache_of_a_hub_are_read() {
    let dir = folder();
    let said = weights_file(dir.path()).unwrap_err().to_string();
    assert!(said.contains("no weights file in this folder"), "{said}");
    fs::write(dir.path().join("checkpoint_29.pth"), saved(&dict(&[("w", row())]))).unwrap();
    assert_eq!(names(&read(dir.path()).unwrap().tensors), ["w"]);
    fs::write(dir.path().join("checkpoint_28.pth"), b"").unwrap();
    let said = read(dir.path()).unwrap_err().to_string();
    assert!(said.contains("`checkpoint_28.pth`, `checkpoint_29.pth`"), "{said}");

    let cache = folder();
    let (blobs, first) = (cache.path().join("blobs"), cache.path().join("snapshots/abc"));
    fs::create_dir_all(&blobs).unwrap();
    fs::create_dir_all(&first).unwrap();
    write(&blobs.join("0123"), &["w"]);
    #[cfg(unix)]
    std::os::unix::fs::symlink("../../blobs/0123", first.join("model.safetensors")).unwrap();
    #[cfg(not(unix))]
    fs::copy(blobs.join("0123"), first.join("model.safetensors")).unwrap();
    assert_eq!(names(&read(cache.path()).unwrap().tensors), ["w"]);
    fs::create_dir_all(cache.path().join("snapshots/def")).unwrap();
    assert!(read(cache.path()).unwrap_err().to_string().contains("2 snapshots"));
    fs::create_dir_all(cache.path().join("refs")).unwrap();
    fs::write(cache.path().join("refs/main"), "abc\n").unwrap();
    assert_eq!(names(&read(cache.path()).unwrap().tensors), ["w"]);
}

#[test]
fn wrappers_and_prefixes_leave_official_names() {
    let dir = folder();
    let path = dir.path().join("x.safetensors");
    for prefix in ["", "_orig_mod.module.", "model.", "module.model._orig_mod.", "albef."] {
        let norm = format!("{prefix}visual_encoder._checkpoint_wrapped_module.norm.weight");
        write(&path, &[&norm, &format!("{prefix}temp")]);
        let found = read_model(&path).unwrap();
        assert!(found.tensors.get("visual_encoder.norm.weight").is_some(), "{prefix}");
        assert_eq!(found.tensors.len(), 2);
        let wrapped = found.notes.iter().filter(|n| n.contains("`_checkpoint_wrapped_module.`"));
        assert_eq!(wrapped.count(), 1, "{:?}", found.notes);
    }
}
