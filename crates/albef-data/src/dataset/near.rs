//! Where an image that is not found may be instead: names in another Unicode form, with backslashes, in
//! another case, and folders a level off.

use std::path::{Path, PathBuf};

use unicode_normalization::UnicodeNormalization;

use super::sample::{Location, Sample};
use crate::names;

/// Entries of a folder that are looked through.
const MOST: usize = 200_000;

/// What is there under a similar name, as a hint; `None` if nothing is.
#[must_use]
pub fn similar_file(path: &Path) -> Option<String> {
    let text = names::text_of_path(path);
    let there = |found: &Path| names::shown(&names::text_of_path(found));
    let slashed = names::path_of(&text.replace('\\', "/"));
    if slashed != path && slashed.is_file() {
        return Some(format!("its path is written with backslashes; {} is there", there(&slashed)));
    }
    if let Some(said) = of_address(&text) {
        return Some(said);
    }
    let bare = names::path_of(text.trim());
    if bare != path && bare.is_file() {
        return Some(format!("its path ends with blanks; {} is there", there(&bare)));
    }
    if let Some(found) = resolve(path, |a, b| a.nfc().eq(b.nfc())) {
        let found = there(&found);
        return Some(format!(
            "a file whose name differs only in its Unicode form is there: {found}"
        ));
    }
    if let Some(plain) = without_annotation(path).filter(|p| p.is_file()) {
        let found = there(&plain);
        return Some(format!("the name carries the number of an annotation; {found} is there"));
    }
    let folded = |s: &str| s.nfc().flat_map(char::to_lowercase).collect::<String>();
    if let Some(found) = resolve(path, |a, b| folded(a) == folded(b)) {
        let found = there(&found);
        return Some(format!(
            "a file whose name differs only in upper and lower case is there: {found}"
        ));
    }
    let endings = super::unread::ENDINGS.iter().flat_map(|e| [e.to_string(), e.to_uppercase()]);
    let other = endings.map(|e| path.with_extension(e)).find(|p| p.is_file())?;
    Some(format!("a file with another ending is there: {}", there(&other)))
}

/// What is said of a path that is an address, or is written as in one.
fn of_address(path: &str) -> Option<String> {
    let there = |found: &Path| names::shown(&names::text_of_path(found));
    if ["http:/", "https:/", "s3:/", "gs:/"].iter().any(|scheme| is_at_start(path, scheme)) {
        return Some(
            "it is an address, from which nothing is fetched; get the images first".into(),
        );
    }
    let local = match path.find("file:/") {
        Some(at) if is_at_start(path, "file:/") => {
            format!("/{}", path[at + "file:/".len()..].trim_start_matches('/'))
        }
        _ => path.to_owned(),
    };
    let decoded = names::path_of(&decoded(&local));
    let said = if local == path {
        "its path is written as in an address"
    } else {
        "its path is an address"
    };
    let other = names::text_of_path(&decoded) != path && decoded.is_file();
    other.then(|| format!("{said}; {} is there", there(&decoded)))
}

/// Whether a path, or one below a root, begins with a scheme.
fn is_at_start(path: &str, scheme: &str) -> bool {
    path.match_indices(scheme).any(|(at, _)| at == 0 || path[..at].ends_with('/'))
}

/// A text whose `%20` and the like are the bytes that they stand for.
fn decoded(text: &str) -> String {
    let digit = |at: usize| text.as_bytes().get(at).and_then(|b| char::from(*b).to_digit(16));
    let (mut out, mut at) = (Vec::with_capacity(text.len()), 0);
    while at < text.len() {
        match (text.as_bytes()[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((16 * high + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    names::text_of(&out)
}

/// The file whose path has components that are the same by `same`.
fn resolve(path: &Path, same: impl Fn(&str, &str) -> bool) -> Option<PathBuf> {
    let mut found = PathBuf::new();
    for component in path.components() {
        let next = found.join(component);
        if next.as_os_str().is_empty() || next.exists() {
            found = next;
            continue;
        }
        let name = names::text_of_os(component.as_os_str());
        let folder = if found.as_os_str().is_empty() { Path::new(".") } else { &found };
        let entries = std::fs::read_dir(folder).ok()?.take(MOST).filter_map(Result::ok);
        let entry =
            entries.map(|e| e.file_name()).find(|own| same(&names::text_of_os(own), &name))?;
        found.push(entry);
    }
    found.is_file().then_some(found)
}

/// `COCO_train2014_000000546154_298801.jpg`, as the references of RefCOCO name it, without the last number.
fn without_annotation(path: &Path) -> Option<PathBuf> {
    let stem = path.file_stem()?.to_str()?;
    let (image, annotation) = stem.rsplit_once('_')?;
    let number = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let of_coco = image.starts_with("COCO_") && number(image.rsplit('_').next()?);
    if !(of_coco && number(annotation)) {
        return None;
    }
    let mut name = image.to_owned();
    if let Some(ending) = path.extension().and_then(|e| e.to_str()) {
        name = format!("{name}.{ending}");
    }
    Some(path.with_file_name(name))
}

/// If most images of a list are not found: the folder, or the paths, with which more would be.
#[must_use]
pub fn other_root(samples: &[Sample]) -> Option<String> {
    let absent: Vec<(&Path, PathBuf)> = samples
        .iter()
        .filter_map(|s| match &s.location {
            Location::File(path) if !path.exists() => {
                Some((path.as_path(), names::path_of(&s.name)))
            }
            _ => None,
        })
        .take(1000)
        .collect();
    if absent.is_empty() || absent.len() * 2 < samples.len().min(1000) {
        return None;
    }
    let (first, name) = absent.first()?;
    let root =
        first.ends_with(name).then(|| first.ancestors().nth(name.components().count()))??;
    let here = |folder: &Path| match folder.as_os_str().is_empty() {
        true => PathBuf::from("."),
        false => folder.to_owned(),
    };
    let mut folders: Vec<PathBuf> = root.ancestors().skip(1).take(2).map(here).collect();
    if let Ok(entries) = std::fs::read_dir(here(root)) {
        let below = entries.take(1000).filter_map(Result::ok).map(|e| root.join(e.file_name()));
        let mut below: Vec<PathBuf> = below.filter(|p| p.is_dir()).collect();
        below.sort();
        folders.extend(below);
    }
    let count = |found: &dyn Fn(&Path) -> Option<PathBuf>| {
        let there = |(_, name): &&(&Path, PathBuf)| found(name).is_some_and(|p| p.is_file());
        match absent.first().filter(|first| there(first)) {
            Some(_) => absent.iter().filter(there).count(),
            None => 0,
        }
    };
    let of = absent.len();
    let best = folders
        .iter()
        .map(|folder| (count(&|name| Some(folder.join(name))), folder))
        .filter(|(n, _)| *n > 0)
        .max_by_key(|(n, _)| *n);
    if let Some((n, folder)) = best {
        let folder = names::shown(&names::text_of_path(folder));
        return Some(format!(
            "with the image root {folder}, {n} of {of} missing images would be found"
        ));
    }
    (1..=2).find_map(|levels| {
        let cut = |name: &Path| {
            let mut components = name.components();
            for _ in 0..levels {
                components.next()?;
            }
            Some(root.join(components.as_path()))
        };
        let n = count(&cut);
        let front: PathBuf = name.components().take(levels).collect();
        let of_address = is_at_start(&names::text_of_path(name), "http:/")
            || is_at_start(&names::text_of_path(name), "https:/");
        (n > 0 && !of_address).then(|| {
            format!(
                "the images are one level higher than their paths say: without `{}/` in front {n} of {of} \
                 missing images would be found",
                names::shown(&names::text_of_path(&front))
            )
        })
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::sample::TaskFields;
    use super::*;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        dir
    }

    #[test]
    fn a_file_under_a_similar_name_is_pointed_out() {
        let coco = "train2014/COCO_train2014_000000546154.jpg";
        let dir = folder(&["Ba\u{308}r/Ba\u{308}r.jpg", "sub/in.jpg", coco, "Up.JPG", "other.png"]);
        for (name, part) in [
            ("B\u{e4}r/B\u{e4}r.jpg", "Unicode form"),
            ("sub\\in.jpg", "backslashes"),
            ("train2014/COCO_train2014_000000546154_298801.jpg", "annotation"),
            ("up.jpg", "lower case"),
            ("other.jpg", "other.png"),
        ] {
            let found = similar_file(&dir.path().join(name)).unwrap_or_default();
            assert!(found.contains(part), "{name}: {found}");
        }
        assert_eq!(similar_file(&dir.path().join("gone.jpg")), None);
    }

    #[test]
    fn a_root_that_is_a_level_off_is_pointed_out() {
        let hint = |files: &[&str], root: &str, images: &[&str]| {
            let dir = folder(files);
            fs::create_dir_all(dir.path().join(root)).unwrap();
            let sample = |name: &&str| Sample {
                location: Location::File(dir.path().join(root).join(name)),
                name: (*name).to_owned(),
                captions: Vec::new(),
                key: String::new(),
                task: TaskFields::default(),
            };
            let samples: Vec<Sample> = images.iter().map(sample).collect();
            other_root(&samples).unwrap_or_default()
        };
        let images = ["dev/a.png", "dev/b.png"];
        let deep = ["set/dev/a.png", "set/dev/b.png"];
        assert!(hint(&images, "", &deep).contains("without `set/` in front 2 of 2"));
        assert!(hint(&deep, "", &images).contains("set, 2 of 2"));
        assert!(hint(&images, "dev", &images).contains("2 of 2"));
        assert_eq!(hint(&images, "", &images), "");
        assert_eq!(hint(&["x.png"], "", &images), "");
    }
}
