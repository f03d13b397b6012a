//! What is in an index, without a search.

use albef_data::names;
use albef_index::{Filter, ImageId, Record, Store};
use serde::Serialize;

use super::search::Names;
use crate::error::Result;

/// An image of an index.
#[derive(Clone, Debug, Serialize)]
pub struct IndexImage {
    /// Its number in the index.
    pub id: ImageId,
    /// Its path below its folder; with several folders, its whole path.
    pub image: String,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// When it was taken or its file modified: seconds since 1970.
    pub date: i64,
    /// The camera.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub camera: Option<String>,
}

/// A page of images.
#[derive(Clone, Debug, Serialize)]
pub struct Browsed {
    /// The images, latest first.
    pub images: Vec<IndexImage>,
    /// Usable images of the index.
    pub gallery: u64,
    /// Whether there are more.
    pub more: bool,
}

/// The images that pass `filter`, latest first: page `page`, from 1, of pages of `top_k` images.
///
/// # Errors
/// [`Error::Index`](crate::Error::Index) if the index cannot be read.
pub fn browse(store: &dyn Store, filter: &Filter, page: usize, top_k: usize) -> Result<Browsed> {
    let names_of = Names::new(store)?;
    let mut found = store.newest(filter, page.saturating_sub(1) * top_k, top_k + 1)?;
    let more = found.len() > top_k;
    found.truncate(top_k);
    let images = found.into_iter().map(|record| described(record, &names_of)).collect();
    Ok(Browsed { images, gallery: store.info()?.images, more })
}

/// What is known of an image; `None` if the index has none of this number, or none that can be used.
///
/// # Errors
/// [`Error::Index`](crate::Error::Index) if the index cannot be read.
pub fn describe(store: &dyn Store, id: ImageId) -> Result<Option<IndexImage>> {
    let names_of = Names::new(store)?;
    let found = store.get(&[id])?.into_iter().flatten().next();
    let usable = found.filter(|record| record.image.status.is_ok());
    Ok(usable.map(|record| described(record, &names_of)))
}

fn described(record: Record, names_of: &Names) -> IndexImage {
    IndexImage {
        id: record.id,
        image: names::readable(&names_of.name(&record)),
        width: record.image.width,
        height: record.image.height,
        date: record.image.date(),
        camera: record.image.camera,
    }
}
