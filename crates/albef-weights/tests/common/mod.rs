//! Files of PyTorch, made byte by byte.

#![allow(dead_code, reason = "each test uses a part of it")]

use albef_weights::DType;

/// The types of tensors that are read.
pub const TYPES: [DType; 10] = [
    DType::F64,
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::I64,
    DType::I32,
    DType::I16,
    DType::I8,
    DType::U8,
    DType::Bool,
];

/// The pickle of a text.
pub fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

/// The pickle of a dictionary of these keys and values.
pub fn dict(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let items: Vec<u8> = entries.iter().flat_map(|(k, v)| [text(k), v.clone()].concat()).collect();
    [b"}(".to_vec(), items, b"u".to_vec()].concat()
}

/// The pickle of a tuple of numbers.
pub fn numbers(values: &[i32]) -> Vec<u8> {
    let items = values.iter().flat_map(|v| [&b"J"[..], &v.to_le_bytes()].concat());
    [b"(".to_vec(), items.collect(), b"t".to_vec()].concat()
}

/// The pickle of the storage `key` of a class; `rest` follows the number of elements in its id.
pub fn storage(class: &str, key: &str, elements: i32, rest: &[u8]) -> Vec<u8> {
    let class = format!("ctorch\n{class}\n");
    let count = [&b"J"[..], &elements.to_le_bytes()].concat();
    [b"(", &text("storage")[..], class.as_bytes(), &text(key), b"N", &count, rest, b"tQ"].concat()
}

/// The pickle of a view of a storage; `rest` follows the strides in the call.
pub fn view(function: &str, storage: &[u8], shape: &[i32], stride: &[i32], rest: &[u8]) -> Vec<u8> {
    let call = format!("ctorch._utils\n{function}\n(");
    let (shape, stride) = (numbers(shape), numbers(stride));
    [call.as_bytes(), storage, b"K\x00", &shape, &stride, rest, b"tR"].concat()
}

/// The pickle of a tensor over the storage `0` of four floats.
pub fn tensor(shape: &[i32], stride: &[i32]) -> Vec<u8> {
    view("_rebuild_tensor_v2", &storage("FloatStorage", "0", 4, b""), shape, stride, b"")
}

/// The four floats of the storage `0`.
pub fn floats() -> Vec<u8> {
    [1.0_f32, 2.0, 3.0, 4.0].iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Which records end an archive.
#[derive(Clone, Copy, PartialEq)]
pub enum End {
    Zip,
    /// As PyTorch writes: the records of zip64 as well.
    Zip64,
}

/// A zip archive of stored entries as PyTorch's writer makes them: sizes after the data, an extra field
/// before it, no checksum.
pub fn archive(entries: &[(String, Vec<u8>)], end: End) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in entries {
        let at = out.len() as u32;
        let size = (data.len() as u32).to_le_bytes();
        let length = (name.len() as u16).to_le_bytes();
        let fixed = [0, 0, 8, 8, 0, 0, 0, 0, 0, 0];
        let extra = [b'F', b'B', 2, 0, b'Z', b'Z'];
        out.extend([&b"PK\x03\x04"[..], &fixed, &[0; 12], &length, &[6, 0]].concat());
        out.extend([name.as_bytes(), &extra, data].concat());
        out.extend([&b"PK\x07\x08"[..], &[0; 4], &size, &size].concat());
        directory.extend([&b"PK\x01\x02\0\0"[..], &fixed, &[0; 4], &size, &size, &length].concat());
        directory.extend([&[0; 12][..], &at.to_le_bytes(), name.as_bytes()].concat());
    }
    let (start, size) = (out.len() as u64, directory.len() as u64);
    let count = entries.len() as u64;
    out.extend(directory);
    if end == End::Zip64 {
        let record = out.len() as u64;
        out.extend([&b"PK\x06\x06"[..], &44_u64.to_le_bytes(), &[45, 0, 45, 0], &[0; 8]].concat());
        for value in [count, count, size, start] {
            out.extend(value.to_le_bytes());
        }
        out.extend([&b"PK\x06\x07"[..], &[0; 4], &record.to_le_bytes(), &[1, 0, 0, 0]].concat());
    }
    let count = (count as u16).to_le_bytes();
    out.extend([&b"PK\x05\x06"[..], &[0; 4], &count, &count].concat());
    out.extend([&(size as u32).to_le_bytes()[..], &(start as u32).to_le_bytes(), &[0; 2]].concat());
    out
}

/// The entries of a file of `torch.save` below a root folder.
pub fn entries(root: &str, value: &[u8], storages: &[(&str, Vec<u8>)]) -> Vec<(String, Vec<u8>)> {
    let pickle = [b"\x80\x02", value, b"."].concat();
    let mut out = vec![(format!("{root}/data.pkl"), pickle)];
    out.extend(storages.iter().map(|(k, data)| (format!("{root}/data/{k}"), data.clone())));
    out.push((format!("{root}/version"), b"3\n".to_vec()));
    out
}

/// A file of `torch.save` with the storage `0` of four floats.
pub fn saved(value: &[u8]) -> Vec<u8> {
    archive(&entries("x", value, &[("0", floats())]), End::Zip64)
}

/// A file of the layout before zip archives; `system`: the third pickle.
pub fn legacy(protocol: u8, value: &[u8], system: &[u8], storages: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let pickle = |value: &[u8]| {
        let frame = [&[0x95][..], &(value.len() as u64 + 1).to_le_bytes()].concat();
        let frame = if protocol >= 4 { &frame[..] } else { &[] };
        [&[0x80, protocol], frame, value, b"."].concat()
    };
    let magic = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
    let keys: Vec<u8> = storages.iter().flat_map(|(key, _)| text(key)).collect();
    let keys = [b"](".to_vec(), keys, b"e".to_vec()].concat();
    let mut out = [&magic[..], b"M\xe9\x03", system, value, &keys].map(pickle).concat();
    for (_, data) in storages {
        out.extend((data.len() as u64 / 4).to_le_bytes());
        out.extend(data);
    }
    out
}
