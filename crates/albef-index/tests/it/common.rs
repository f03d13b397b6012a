//! An encoder that costs nothing, and folders of small images.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use albef_data::image::{ImageReader, ResizeOrder, RgbImage, resize_bicubic};
use albef_data::scenes::png;
use albef_index::{
    ContentHash, Control, Embedded, Encoder, Identity, Image, Status, Store, Update, UpdateOptions,
    update,
};

/// Values of a vector of [`Colors`].
pub const WIDTH: usize = 12;

/// Colors at four places. Counts the images that it encodes.
#[derive(Default)]
pub struct Colors {
    pub reader: ImageReader,
    pub encoded: AtomicUsize,
    pub fingerprint: Option<String>,
}

impl Colors {
    pub fn encoded(&self) -> usize {
        self.encoded.load(Ordering::SeqCst)
    }
}

impl Encoder for Colors {
    fn identity(&self) -> Identity {
        Identity {
            fingerprint: self.fingerprint.clone().unwrap_or("colors-1".into()),
            model: "colors".into(),
            width: WIDTH,
        }
    }

    fn reader(&self) -> &ImageReader {
        &self.reader
    }

    fn prepare(&self, image: &RgbImage) -> Vec<f32> {
        let small = resize_bicubic(image, 2, 2, ResizeOrder::default());
        small.pixels.iter().map(|v| f32::from(*v) + 1.0).collect()
    }

    fn encode(&self, prepared: &[Vec<f32>], _: &[ContentHash]) -> Result<Vec<f32>, String> {
        self.encoded.fetch_add(prepared.len(), Ordering::SeqCst);
        let unit = |v: &Vec<f32>| {
            let length = v.iter().map(|x| x * x).sum::<f32>().sqrt();
            v.iter().map(|x| x / length).collect::<Vec<f32>>()
        };
        Ok(prepared.iter().flat_map(unit).collect())
    }
}

/// A small image, another one for each seed.
pub fn image(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut pixels = Vec::new();
    for _ in 0..4 * 3 * 3 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        pixels.push((state >> 24) as u8);
    }
    png(&RgbImage::new(4, 3, pixels).unwrap()).unwrap()
}

/// Writes an image.
pub fn put(folder: &Path, name: &str, seed: u64) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, image(seed)).unwrap();
}

/// The index of a folder, brought up to date.
pub fn index(folder: &Path, photos: &Path, encoder: &Colors) -> (Embedded, Update) {
    let store = Embedded::write(folder, &encoder.identity()).unwrap();
    let photos = photos.canonicalize().unwrap();
    store.add_root(photos.as_os_str().as_encoded_bytes()).unwrap();
    let done = update_all(&store, encoder);
    (store, done)
}

pub fn update_all(store: &dyn Store, encoder: &Colors) -> Update {
    update(store, encoder, &UpdateOptions { workers: 3, ..Default::default() }, &Control::new())
        .unwrap()
}

/// What an index says, without what depends on its past: numbers, and whether times are settled.
pub fn contents(store: &dyn Store) -> Vec<(Image, Option<Vec<u16>>)> {
    let mut out = Vec::new();
    let mut ids = Vec::new();
    store
        .for_each(&mut |record| {
            ids.push(record.id);
            out.push((Image { settled: true, ..record.image }, None));
            Ok(())
        })
        .unwrap();
    for (entry, vector) in out.iter_mut().zip(store.vectors(&ids).unwrap()) {
        assert_eq!(entry.0.status == Status::Ok, vector.is_some());
        entry.1 = vector.map(|v| v.iter().map(|x| x.to_bits()).collect());
    }
    out.sort_by(|a, b| a.0.path.cmp(&b.0.path));
    out
}

/// The paths of an index, as text.
pub fn paths(store: &dyn Store) -> Vec<String> {
    contents(store).iter().map(|(i, _)| albef_data::names::text_of(&i.path)).collect()
}
