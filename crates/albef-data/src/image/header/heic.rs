//! HEIC: sizes.

use std::borrow::Cow;

use super::Header;
use crate::error::ImageError;
use crate::image::heic::failed;

/// Size of the image as it is shown. Its rotation is part of the format and no metadata: it is always applied.
pub(super) fn read(bytes: &[u8]) -> Result<Header<'_>, ImageError> {
    let info = heic_rs::probe(bytes).map_err(|e| failed(&e))?;
    Ok(Header {
        width: info.width.into(),
        height: info.height.into(),
        bytes: Cow::Borrowed(bytes),
        ..Header::default()
    })
}
