//! What an index knows of an image, and which images a search is about.

use std::path::PathBuf;

use globset::{GlobBuilder, GlobMatcher};
use half::f16;

use crate::error::{IndexError, Result};

/// The number of an image; it stays as long as the image is in the index, wherever the file moves.
pub type ImageId = i64;

/// The number of a folder of the index.
pub type RootId = i64;

/// A folder whose images are in the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// Its number.
    pub id: RootId,
    /// Its absolute path, as the system's bytes.
    pub path: Vec<u8>,
}

/// The SHA-256 of a file.
pub type ContentHash = [u8; 32];

/// Whether an image can be searched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// It has a vector.
    Ok,
    /// It cannot be used, for this reason.
    Broken(String),
}

impl Status {
    /// Whether it has a vector.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        *self == Self::Ok
    }
}

/// What is known of an image besides its vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The folder of the index that it is below.
    pub root: RootId,
    /// Its path relative to that folder, as the system's bytes.
    pub path: Vec<u8>,
    /// Bytes of the file.
    pub size: u64,
    /// When the file was last modified: nanoseconds since 1970.
    pub modified: i64,
    /// Whether size and time can be trusted to change with the content. They cannot where the file was
    /// modified as it was read, or could not be read; it is then looked at again next time.
    pub settled: bool,
    /// SHA-256 of the file; zeros where it could not be read.
    pub hash: ContentHash,
    /// Columns, upright; 0 for a broken image.
    pub width: u32,
    /// Rows, upright; 0 for a broken image.
    pub height: u32,
    /// When it was taken, by its Exif: seconds since 1970 of the camera's clock.
    pub taken: Option<i64>,
    /// Maker and model of the camera, by its Exif.
    pub camera: Option<String>,
    /// Difference hash of the pixels ([`crate::perceptual_hash`]).
    pub perceptual: u64,
    /// Whether it can be searched.
    pub status: Status,
}

impl Image {
    /// When it was taken; when the file was modified, where that is unknown. Seconds since 1970.
    #[must_use]
    pub fn date(&self) -> i64 {
        self.taken.unwrap_or(self.modified.div_euclid(1_000_000_000))
    }

    /// Pixels.
    #[must_use]
    pub fn pixels(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }
}

/// An image of the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number.
    pub id: ImageId,
    /// What is known of it.
    pub image: Image,
}

/// A change of the catalogue.
#[derive(Clone, Debug)]
pub enum Change {
    /// Adds an image, or replaces what is known of the one at this root and path. A usable image comes with
    /// its unit-length vector.
    Upsert {
        /// What is known of it.
        image: Image,
        /// Its vector; `None` for a broken image.
        vector: Option<Vec<f16>>,
    },
    /// The image with this number is now at another place, or its file was touched; the content is the same.
    Move {
        /// Its number.
        id: ImageId,
        /// The folder of the index that it is below.
        root: RootId,
        /// Its path below that folder.
        path: Vec<u8>,
        /// When the file was last modified.
        modified: i64,
        /// As [`Image::settled`].
        settled: bool,
    },
    /// Forgets the image with this number. A number that is unknown is no error.
    Forget(ImageId),
}

/// Which images a search is about. The default is all usable ones.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Patterns of which the path below the root, or the whole path, must match one; empty for any.
    pub paths: Vec<PathPattern>,
    /// Only images below one of these absolute folders; empty for any.
    pub folders: Vec<PathBuf>,
    /// Only images of this time or later ([`Image::date`]).
    pub from: Option<i64>,
    /// Only images before this time.
    pub before: Option<i64>,
    /// Only images of at least this width and height.
    pub at_least: Option<(u32, u32)>,
    /// Only images whose camera contains this text, whatever the case.
    pub camera: Option<String>,
}

impl Filter {
    /// Whether it lets every usable image pass.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
            && self.folders.is_empty()
            && self.from.is_none()
            && self.before.is_none()
            && self.at_least.is_none()
            && self.camera.is_none()
    }

    /// Whether an image passes. `root`: the path of its folder.
    #[must_use]
    pub fn passes(&self, image: &Image, root: &[u8]) -> bool {
        let date = image.date();
        image.status.is_ok()
            && self.from.is_none_or(|from| date >= from)
            && self.before.is_none_or(|before| date < before)
            && self.at_least.is_none_or(|(w, h)| image.width >= w && image.height >= h)
            && self.camera.as_ref().is_none_or(|wanted| {
                let camera = image.camera.as_deref().unwrap_or_default().to_lowercase();
                camera.contains(&wanted.to_lowercase())
            })
            && (self.folders.is_empty() || {
                let path = join(root, &image.path);
                self.folders.iter().any(|folder| path.starts_with(folder))
            })
            && (self.paths.is_empty()
                || self.paths.iter().any(|pattern| pattern.matches(root, &image.path)))
    }
}

/// A pattern of paths: `*` and `?` stay within a folder, `**` crosses folders, `[ab]` and `{a,b}` choose. A
/// pattern without `/` is one of file names.
#[derive(Clone, Debug)]
pub struct PathPattern {
    whole: bool,
    name_only: bool,
    matcher: GlobMatcher,
}

impl PathPattern {
    /// # Errors
    /// [`IndexError::Pattern`] says what is wrong with it.
    pub fn new(pattern: &str) -> Result<Self> {
        let glob = GlobBuilder::new(pattern).literal_separator(true).build().map_err(|e| {
            IndexError::Pattern { pattern: pattern.to_owned(), detail: e.kind().to_string() }
        })?;
        Ok(Self {
            whole: pattern.starts_with('/'),
            name_only: !pattern.contains('/'),
            matcher: glob.compile_matcher(),
        })
    }

    /// Whether the path `path` below `root` matches.
    #[must_use]
    pub fn matches(&self, root: &[u8], path: &[u8]) -> bool {
        if self.whole {
            return self.matcher.is_match(join(root, path));
        }
        let path = path_of(path);
        match (self.name_only, path.file_name()) {
            (true, Some(name)) => self.matcher.is_match(name),
            _ => self.matcher.is_match(&path),
        }
    }
}

/// The path of an image below a root.
#[must_use]
pub fn join(root: &[u8], path: &[u8]) -> PathBuf {
    let mut whole = path_of(root);
    if !path.is_empty() {
        whole.push(path_of(path));
    }
    whole
}

/// The path of the system's bytes.
#[must_use]
pub fn path_of(bytes: &[u8]) -> PathBuf {
    albef_data::names::path_of(&albef_data::names::text_of(bytes))
}

/// The system's bytes of a path.
#[must_use]
pub fn bytes_of(path: &std::path::Path) -> Vec<u8> {
    path.as_os_str().as_encoded_bytes().to_vec()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A usable image at a path.
    pub(crate) fn image(path: &[u8]) -> Image {
        Image {
            root: 1,
            path: path.to_vec(),
            size: 10,
            modified: 5_000_000_000,
            settled: true,
            hash: [7; 32],
            width: 640,
            height: 480,
            taken: None,
            camera: Some("NIKON D750".into()),
            perceptual: 0,
            status: Status::Ok,
        }
    }

    #[test]
    fn patterns_know_names_folders_and_whole_paths() {
        let matches = |pattern: &str, path: &str| {
            PathPattern::new(pattern).unwrap().matches(b"/home/me/photos", path.as_bytes())
        };
        for (pattern, path, expected) in [
            ("*.jpg", "a/b/c.jpg", true),
            ("*.jpg", "a/b/c.png", false),
            ("a/*.jpg", "a/c.jpg", true),
            ("a/*.jpg", "a/b/c.jpg", false),
            ("a/**/*.jpg", "a/b/c/d.jpg", true),
            ("**/2024*/**", "x/2024-05/y/z.jpg", true),
            ("/home/me/photos/a/**", "a/c.jpg", true),
            ("/home/you/**", "a/c.jpg", false),
            ("img_{1,2}.png", "img_2.png", true),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
        }
        let error = PathPattern::new("a[").unwrap_err().to_string();
        assert!(error.contains("`a[`"), "{error}");
    }

    #[test]
    fn each_condition_of_a_filter_counts() {
        let passes = |filter: Filter| filter.passes(&image(b"a.jpg"), b"/r");
        assert!(passes(Filter::default()));
        assert!(passes(Filter { from: Some(5), before: Some(6), ..Filter::default() }));
        assert!(!passes(Filter { from: Some(6), ..Filter::default() }));
        assert!(!passes(Filter { before: Some(5), ..Filter::default() }));
        assert!(passes(Filter { at_least: Some((640, 480)), ..Filter::default() }));
        assert!(!passes(Filter { at_least: Some((640, 481)), ..Filter::default() }));
        assert!(passes(Filter { camera: Some("d750".into()), ..Filter::default() }));
        assert!(!passes(Filter { camera: Some("canon".into()), ..Filter::default() }));
        assert!(passes(Filter { folders: vec!["/r".into()], ..Filter::default() }));
        assert!(!passes(Filter { folders: vec!["/r/a".into()], ..Filter::default() }));
        let broken = Image { status: Status::Broken("x".into()), ..image(b"a.jpg") };
        assert!(!Filter::default().passes(&broken, b"/r"));
    }
}
