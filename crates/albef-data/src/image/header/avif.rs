//! AVIF: size, orientation, frames, and whether all data of the image are there.

use std::borrow::Cow;

use super::Header;
use crate::error::ImageError;
use crate::image::avif::layout;

pub(super) fn read(bytes: &[u8]) -> Result<Header<'_>, ImageError> {
    let found = layout(bytes)?;
    Ok(Header {
        width: found.width.into(),
        height: found.height.into(),
        orientation: found.orientation,
        animated: found.animated,
        bytes: Cow::Borrowed(bytes),
        ..Header::default()
    })
}
