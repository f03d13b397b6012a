//! Files that are written are read back as they were.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

mod common;

use std::collections::HashMap;
use std::fs;
use std::io::{self, Cursor, Read};

use albef_weights::{
    DType, HostTensor, KeepAs, StateDict, read, write_safetensors, write_shards, write_torch,
};
use common::TYPES;
use zip::ZipArchive;

fn of(dtype: DType, shape: &[usize]) -> HostTensor {
    let bytes = shape.iter().product::<usize>() * dtype.size();
    let bytes: Vec<u8> = (0..bytes).map(|i| (i % 2) as u8).collect();
    HostTensor { dtype, shape: shape.to_vec(), bytes: bytes.into() }
}

/// A tensor of each type, without elements, without axes, and one that is larger than what is written at
/// a time.
fn all_kinds() -> StateDict {
    let mut state: StateDict =
        TYPES.iter().map(|t| (format!("of.{t}"), of(*t, &[2, 3, 1, 5]))).collect();
    state.insert("temp".into(), HostTensor::from_f32(&[], &[0.07]));
    state.insert("empty".into(), of(DType::F32, &[3, 0]));
    state.insert("long name é".repeat(30), HostTensor::from_i64(&[300], &[-7; 300]));
    let values: Vec<f32> = (0..1_500_001_u32).map(|i| i as f32 - 7.5).collect();
    state.insert("large".into(), HostTensor::from_f32(&[values.len()], &values));
    state
}

#[test]
fn a_file_of_torch_has_each_type_and_shape_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.pth");
    let state = all_kinds();
    let mut written = 0;
    write_torch(&path, &state, KeepAs::Same, &mut |n| {
        written += n;
        Ok(())
    })
    .unwrap();
    let found = read(&path).unwrap();
    assert_eq!(found.root.as_deref(), Some("model"));
    assert!(found.tensors == state);
    assert_eq!(written, state.iter().map(|(_, t)| t.bytes.len() as u64).sum::<u64>());

    // Written from a mapped file, which it gives back, the same bytes come out.
    let again = dir.path().join("again.pth");
    write_torch(&again, &found.tensors, KeepAs::Same, &mut |_| Ok(())).unwrap();
    assert!(fs::read(&again).unwrap() == fs::read(&path).unwrap());
}

#[test]
fn storages_of_a_file_of_torch_are_aligned_stored_and_shared() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.pth");
    let shared = HostTensor::from_f32(&[2, 2], &[1.0, 2.0, 3.0, 4.0]);
    let state = StateDict::from_iter([
        ("w".to_owned(), shared.clone()),
        ("tied".to_owned(), HostTensor { shape: vec![4], ..shared }),
        ("own".to_owned(), HostTensor::from_f32(&[1], &[5.0])),
    ]);
    write_torch(&path, &state, KeepAs::F16, &mut |_| Ok(())).unwrap();
    let mut archive = ZipArchive::new(Cursor::new(fs::read(&path).unwrap())).unwrap();
    let names: Vec<String> = (0..archive.len())
        .map(|i| archive.name_for_index(i).unwrap().unwrap().into_owned())
        .collect();
    let wanted = ["data.pkl", "byteorder", "version", "data/0", "data/1"];
    assert_eq!(names, wanted.map(|n| format!("archive/{n}")));
    for name in names {
        let mut entry = archive.by_name(&name).unwrap();
        assert_eq!(entry.data_start().unwrap() % 64, 0, "{name}");
        assert_eq!(entry.size(), entry.compressed_size(), "{name}");
        if name.ends_with("data/0") {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes, [0x00, 0x3c, 0x00, 0x40, 0x00, 0x42, 0x00, 0x44]);
        }
    }
    let found = read(&path).unwrap().tensors;
    let at = |name: &str| found.get(name).unwrap().bytes.as_ptr();
    assert_eq!(at("w"), at("tied"));
    assert_ne!(at("w"), at("own"));
}

#[test]
fn the_pickle_of_a_file_of_torch_is_as_pytorch_writes_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.pth");
    let state = StateDict::from_iter([("w".to_owned(), HostTensor::from_f32(&[2, 3], &[0.0; 6]))]);
    write_torch(&path, &state, KeepAs::Same, &mut |_| Ok(())).unwrap();
    let mut archive = ZipArchive::new(Cursor::new(fs::read(&path).unwrap())).unwrap();
    let mut pickle = Vec::new();
    archive.by_name("archive/data.pkl").unwrap().read_to_end(&mut pickle).unwrap();
    let text = |s: &str| [&b"X"[..], &(s.len() as u32).to_le_bytes(), s.as_bytes()].concat();
    let ordered = b"ccollections\nOrderedDict\n)R";
    let wanted: Vec<u8> = [
        &b"\x80\x02}("[..],
        &text("model"),
        ordered,
        b"(",
        &text("w"),
        b"ctorch._utils\n_rebuild_tensor_v2\n((",
        &text("storage"),
        b"ctorch\nFloatStorage\n",
        &text("0"),
        &text("cpu"),
        b"K\x06tQK\x00(K\x02K\x03t(K\x03K\x01t\x89",
        ordered,
        b"tRuu.",
    ]
    .concat();
    assert_eq!(pickle, wanted);
}

#[test]
fn a_model_in_parts_has_an_index_by_which_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let tensor = |v: f32| HostTensor::from_f32(&[2, 3], &[v; 6]);
    let state: StateDict = (0..5_u8).map(|i| (format!("w.{i}"), tensor(i.into()))).collect();
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let write = |name: &str, size: u64, keep_as| {
        let folder = dir.path().join(name);
        fs::create_dir(&folder).unwrap();
        let names = write_shards(&folder, &state, &metadata, keep_as, size, &mut |_| Ok(()));
        (names.unwrap(), read(&folder).unwrap().tensors)
    };
    let part = |i: u32| format!("model-0000{i}-of-00003.safetensors");
    let index = "model.safetensors.index.json";
    let (names, found) = write("parts", 48, KeepAs::Same);
    assert_eq!(names, [part(1), part(2), part(3), index.to_owned()]);
    assert!(found == state);
    let text = fs::read_to_string(dir.path().join("parts").join(index)).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["metadata"]["total_size"], 5 * 24);
    assert_eq!(value["weight_map"]["w.3"], part(2));
    // The size is that of what is written: in 16 bits it is half.
    assert_eq!(write("half", 60, KeepAs::BF16).0, ["model.safetensors"]);
    assert_eq!(write("single", 1, KeepAs::Same).0.len(), 6);
    assert_eq!(write("whole", 120, KeepAs::Same).0, ["model.safetensors"]);
}

#[test]
fn values_beyond_a_number_format_are_refused_and_all_floats_are_converted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let double = |v: f64| HostTensor {
        dtype: DType::F64,
        shape: vec![1],
        bytes: v.to_le_bytes().to_vec().into(),
    };
    let of = |tensor| StateDict::from_iter([("w".to_owned(), tensor)]);
    let beyond = of(HostTensor::from_f32(&[2], &[1.0, 1e6]));
    for error in [
        write_torch(&path, &beyond, KeepAs::F16, &mut |_| Ok(())),
        write_safetensors(&path, &beyond, &HashMap::new(), KeepAs::F16),
    ] {
        let said = error.unwrap_err().to_string();
        assert!(said.contains("`w`, value 1: 1000000 is beyond f16"), "{said}");
    }
    assert!(!path.exists());
    for (keep_as, dtype) in
        [(KeepAs::F32, DType::F32), (KeepAs::F16, DType::F16), (KeepAs::BF16, DType::BF16)]
    {
        write_torch(&path, &of(double(0.5)), keep_as, &mut |_| Ok(())).unwrap();
        let found = read(&path).unwrap().tensors;
        let tensor = found.get("w").unwrap();
        assert_eq!((tensor.dtype, tensor.to_f32().unwrap()), (dtype, vec![0.5]));
    }
}

#[test]
fn errors_in_a_folder_that_is_being_filled_name_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("model");
    let state = StateDict::from_iter([("w".to_owned(), HostTensor::from_f32(&[1], &[1e6]))]);
    let error = albef_files::folder::fill(&target, "model.", |folder| {
        write_shards(folder, &state, &HashMap::new(), KeepAs::F16, 1 << 20, &mut |_| Ok(()))
            .map(drop)
    });
    let said = error.unwrap_err().to_string();
    assert!(said.starts_with(&format!("{}: `w`, value 0", target.display())), "{said}");
    let error = albef_files::folder::fill(&target, "model.", |folder| {
        fs::write(folder.join("x.bin"), b"no checkpoint at all").unwrap();
        read(&folder.join("x.bin")).map(drop)
    });
    let said = error.unwrap_err().to_string();
    assert!(said.starts_with(&format!("{}: ", target.join("x.bin").display())), "{said}");
}

#[test]
fn a_writing_that_is_ended_leaves_the_old_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.pth");
    fs::write(&path, "old").unwrap();
    let error = write_torch(&path, &all_kinds(), KeepAs::Same, &mut |_| {
        Err(io::Error::new(io::ErrorKind::Interrupted, "enough"))
    });
    assert!(error.unwrap_err().to_string().contains("enough"));
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}
