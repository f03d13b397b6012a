//! Tensors of any name, type and shape come back from every format that is written.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

mod common;

use std::collections::HashMap;

use albef_weights::{
    DType, HostTensor, KeepAs, StateDict, read, write_safetensors, write_shards, write_torch,
};
use common::TYPES;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

fn tensor() -> impl Strategy<Value = HostTensor> {
    let types = prop::sample::select(&TYPES[..]);
    (types, vec(0_usize..5, 0..4)).prop_flat_map(|(dtype, shape)| {
        let length = shape.iter().product::<usize>() * dtype.size();
        vec(any::<u8>(), length).prop_map(move |mut bytes| {
            if dtype == DType::Bool {
                bytes.iter_mut().for_each(|byte| *byte &= 1);
            }
            HostTensor { dtype, shape: shape.clone(), bytes: bytes.into() }
        })
    })
}

/// Names as keys of checkpoints are, and any others.
fn state() -> impl Strategy<Value = StateDict> {
    let name = prop_oneof!["[a-z_]{1,8}(\\.[a-z0-9_]{1,8}){0,4}", "\\PC{1,12}", "[ -~]{1,40}"];
    btree_map(name, tensor(), 1..6).prop_map(StateDict::from_iter)
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn torch(state in state()) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.pth");
        write_torch(&path, &state, KeepAs::Same, &mut |_| Ok(())).unwrap();
        prop_assert!(read(&path).unwrap().tensors == state);
    }

    #[test]
    fn safetensors(state in state(), note in "\\PC{0,20}") {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let metadata = HashMap::from([("note".to_owned(), note)]);
        write_safetensors(&path, &state, &metadata, KeepAs::Same).unwrap();
        prop_assert!(read(&path).unwrap().tensors == state);
    }

    #[test]
    fn shards(state in state(), shard_size in 1_u64..2000) {
        let dir = tempfile::tempdir().unwrap();
        write_shards(dir.path(), &state, &HashMap::new(), KeepAs::Same, shard_size, &mut |_| Ok(()))
            .unwrap();
        prop_assert!(read(dir.path()).unwrap().tensors == state);
    }

    /// Half precision is what the nearest value of that type is, once: a second round changes nothing.
    #[test]
    fn half_precision(values in vec(-60_000.0_f32..60_000.0, 1..40), bf16: bool) {
        let dir = tempfile::tempdir().unwrap();
        let (keep, share) = if bf16 { (KeepAs::BF16, 1.0 / 256.0) } else { (KeepAs::F16, 1.0 / 2048.0) };
        let once = |state: &StateDict| {
            let path = dir.path().join("half.safetensors");
            write_safetensors(&path, state, &HashMap::new(), keep).unwrap();
            // The file is overwritten by the next round, under a map of it.
            let read = read(&path).unwrap().tensors.get("w").unwrap().to_f32().unwrap();
            std::fs::remove_file(path).unwrap();
            read
        };
        let of = |values: &[f32]| StateDict::from_iter([("w".to_owned(), HostTensor::from_f32(&[values.len()], values))]);
        let first = once(&of(&values));
        for (value, kept) in values.iter().zip(&first) {
            prop_assert!((value - kept).abs() <= value.abs() * share + 1e-7, "{value} {kept}");
        }
        prop_assert_eq!(once(&of(&first)), first);
    }
}
