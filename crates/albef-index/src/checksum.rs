//! Checksums of what a store keeps.

use half::f16;

use crate::record::{Image, ImageId, Status};

#[cfg(target_endian = "big")]
compile_error!("numbers are hashed and mapped as they are in files, which are little-endian");

/// The bytes of a vector.
pub(crate) fn vector_bytes(vector: &[f16]) -> &[u8] {
    // SAFETY: an `f16` is two bytes without padding, and every byte is a valid `u8`.
    unsafe { std::slice::from_raw_parts(vector.as_ptr().cast(), size_of_val(vector)) }
}

/// The CRC-32 of a vector.
pub(crate) fn vector_crc(vector: &[f16]) -> u32 {
    crc32fast::hash(vector_bytes(vector))
}

/// The CRC-32 of what a row says. The slot is left out, which compacting changes: a vector at another slot has
/// another checksum itself.
pub(crate) fn record_crc(id: ImageId, image: &Image, vector_crc: u32) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    let numbers = [
        id,
        image.root,
        image.size.cast_signed(),
        image.modified,
        image.settled.into(),
        image.width.into(),
        image.height.into(),
        image.taken.unwrap_or(i64::MIN),
        image.perceptual.cast_signed(),
        vector_crc.into(),
    ];
    numbers.iter().for_each(|n| hasher.update(&n.to_le_bytes()));
    hasher.update(&image.hash);
    let broken = match &image.status {
        Status::Ok => None,
        Status::Broken(reason) => Some(reason.as_bytes()),
    };
    for text in [Some(image.path.as_slice()), image.camera.as_ref().map(String::as_bytes), broken] {
        hasher.update(&text.map_or(-1, |t| t.len() as i64).to_le_bytes());
        hasher.update(text.unwrap_or_default());
    }
    hasher.finalize()
}
