//! HEIC: sizes.

use std::borrow::Cow;

use heic_rs::Error;

use super::Header;
use crate::error::{ImageError, ImageErrorKind as Kind};

/// Size of the image as it is shown. Its rotation is part of the format and no metadata: it is always applied.
pub(super) fn read(bytes: &[u8]) -> Result<Header<'_>, ImageError> {
    let info = heic_rs::probe(bytes).map_err(|e| fault(&e))?;
    Ok(Header {
        width: info.width.into(),
        height: info.height.into(),
        bytes: Cow::Borrowed(bytes),
        ..Header::default()
    })
}

/// Why a file cannot be read.
pub(in crate::image) fn fault(cause: &Error) -> ImageError {
    let kind = match cause {
        Error::Truncated(_) => Kind::Truncated,
        Error::Unsupported(_) => Kind::Unsupported("HEIC"),
        Error::PixelLimit { .. } => Kind::TooLarge,
        _ => Kind::Corrupt,
    };
    ImageError::new(kind, cause.to_string())
}
