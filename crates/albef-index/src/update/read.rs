//! What a worker does with one file.

use std::collections::HashSet;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use albef_data::error::{ImageError, ImageErrorKind};

use crate::encoder::Encoder;
use crate::metadata::{Taken, content_hash, perceptual_hash};
use crate::record::{ContentHash, Image, ImageId, RootId, Status, join};
use crate::store::Store;
use crate::walk::modified;

/// A file may change within the resolution of its time without that being seen; one that was left alone for so
/// long has not.
const SETTLES: Duration = Duration::from_secs(2);
/// Bytes above which a file is no image that anyone has; it would be read as a whole.
const MOST: u64 = 1 << 30;

/// A file that is new or may have changed.
pub(super) struct Job {
    pub root: RootId,
    pub root_path: Vec<u8>,
    pub path: Vec<u8>,
    /// The image that was there before.
    pub known: Option<Known>,
}

/// What is kept in memory of an image of the catalogue.
pub(super) struct Known {
    pub id: ImageId,
    pub size: u64,
    pub modified: i64,
    pub settled: bool,
    pub hash: ContentHash,
    /// Whether its image can be used and all is known of it.
    pub complete: bool,
}

/// What became of a job.
pub(super) enum Outcome {
    /// The file is gone.
    Vanished,
    /// It has the content that it had.
    Same { id: ImageId, modified: i64, settled: bool },
    /// The content has a vector.
    KnownContent(Image),
    /// It is ready for the encoder.
    Prepared { image: Image, prepared: Vec<f32> },
    /// It cannot be used.
    Broken { image: Image, error: ImageError },
}

/// An image of which nothing is known but its place.
fn unknown_image(root: RootId, path: &[u8]) -> Image {
    Image {
        root,
        path: path.to_vec(),
        size: 0,
        modified: 0,
        settled: false,
        hash: [0; 32],
        width: 0,
        height: 0,
        taken: None,
        camera: None,
        perceptual: 0,
        status: Status::Ok,
    }
}

/// Reads a file. `contents`: those that are not encoded again.
pub(super) fn read(
    job: &Job,
    store: &dyn Store,
    encoder: &dyn Encoder,
    contents: Option<&HashSet<ContentHash>>,
) -> Outcome {
    let path = join(&job.root_path, &job.path);
    let mut image = unknown_image(job.root, &job.path);
    let broken = |mut image: Image, error: ImageError| {
        image.status = Status::Broken(error.to_string());
        Outcome::Broken { image, error }
    };
    let bytes = match read_file(&path, &mut image) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Outcome::Vanished,
        Err(e) => {
            // Permissions may change without the time of the file.
            image.settled = false;
            let kind = match e.kind() {
                io::ErrorKind::FileTooLarge => ImageErrorKind::TooLarge,
                _ => ImageErrorKind::Io,
            };
            return broken(image, ImageError { kind, detail: e.to_string() });
        }
    };
    image.hash = content_hash(&bytes);
    let (modified, settled) = (image.modified, image.settled);
    if let Some(known) = job.known.as_ref().filter(|known| known.hash == image.hash) {
        return Outcome::Same { id: known.id, modified, settled };
    }
    let mut encoded = false;
    if contents.is_some_and(|contents| contents.contains(&image.hash))
        && let Ok(Some(record)) = store.find_content(&image.hash)
    {
        if record.image.width > 0 {
            let Image { width, height, taken, camera, perceptual, .. } = record.image;
            return Outcome::KnownContent(Image {
                width,
                height,
                taken,
                camera,
                perceptual,
                ..image
            });
        }
        // Its vector was salvaged; all else is read again.
        encoded = true;
    }
    let pixels = match encoder.reader().decode(&path, &bytes) {
        Ok(pixels) => pixels,
        Err(error) => return broken(image, error),
    };
    let side = |pixels: usize| u32::try_from(pixels).unwrap_or(u32::MAX);
    (image.width, image.height) = (side(pixels.width), side(pixels.height));
    image.perceptual = perceptual_hash(&pixels);
    let Taken { date, camera } = Taken::of(&bytes);
    (image.taken, image.camera) = (date, camera);
    drop(bytes);
    match encoded {
        true => Outcome::KnownContent(image),
        false => Outcome::Prepared { prepared: encoder.prepare(&pixels), image },
    }
}

/// The bytes of a file; its size and time go to `image`.
fn read_file(path: &std::path::Path, image: &mut Image) -> io::Result<Vec<u8>> {
    // Opening a pipe would wait for its writer.
    let kind = std::fs::metadata(path)?;
    if !kind.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut file = File::open(path)?;
    let before = file.metadata()?;
    let noted = |metadata: &Metadata| (metadata.len(), modified(metadata));
    (image.size, image.modified) = noted(&before);
    if before.len() > MOST {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("the file has {} bytes, limit {MOST}", before.len()),
        ));
    }
    let mut bytes = Vec::with_capacity(before.len() as usize);
    (&mut file).take(MOST).read_to_end(&mut bytes)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let age = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX).saturating_sub(image.modified);
    image.settled = age > SETTLES.as_nanos() as i64 && noted(&file.metadata()?) == noted(&before);
    Ok(bytes)
}
