//! The header of a BMP. Its pixels have no end marker: the decoder finds out whether they are all there.

use std::borrow::Cow;

use super::{Header, array, corrupt, le16, le32, truncated};
use crate::error::ImageError;

pub(super) fn read(bytes: &[u8]) -> Result<Header<'_>, ImageError> {
    let end = || truncated("the BMP ends in its header");
    let size = le32(bytes, 14).ok_or_else(end)?;
    let (width, height) = match size {
        12 => (le16(bytes, 18), le16(bytes, 20)),
        40.. => {
            let side =
                |at| array(bytes, at).map(|b| u64::from(i32::from_le_bytes(b).unsigned_abs()));
            (side(18), side(22))
        }
        _ => return Err(corrupt(format!("a BMP header of {size} bytes"))),
    };
    let (width, height) = (width.ok_or_else(end)?, height.ok_or_else(end)?);
    Ok(Header { width, height, bytes: Cow::Borrowed(bytes), ..Header::default() })
}
