//! Values of the command line that several commands take, refused where they can mean nothing.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use albef_data::names::text_of_os;
use albef_weights::replaceable;
use clap::builder::{OsStringValueParser, PathBufValueParser, TypedValueParser};
use serde::de::DeserializeOwned;
use serde::de::value::StrDeserializer;

/// A number from 1 on.
pub fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".into()),
        Ok(n) => Ok(n),
        Err(_) => Err("a whole number from 1 on is expected".into()),
    }
}

/// A number from 0 on.
pub fn count(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| "a whole number from 0 on is expected".into())
}

/// A number of bytes, with a unit if it has one: `500MB`, `2GB`, `1.5GiB`.
pub fn bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 7] = [
        ("KIB", 1 << 10),
        ("MIB", 1 << 20),
        ("GIB", 1 << 30),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("B", 1),
    ];
    let upper = text.trim().to_ascii_uppercase();
    let unit = UNITS.iter().find_map(|(name, n)| Some((upper.strip_suffix(name)?, *n)));
    let (number, unit) = unit.unwrap_or((&upper, 1));
    match number.trim().parse::<f64>() {
        Ok(n) if n * unit as f64 >= 1.0 && n.is_finite() => Ok((n * unit as f64) as u64),
        _ => Err("must be a size of at least one byte, such as 500MB, 2GB or 1.5GiB".into()),
    }
}

/// A text with something in it.
pub fn words(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("it is empty, which says nothing about an image; write some words".into());
    }
    Ok(text.to_owned())
}

/// A source of images as the text of its path, which need not be UTF-8.
pub fn source() -> impl TypedValueParser<Value = String> {
    OsStringValueParser::new().map(|path| text_of_os(&path))
}

/// A share from 0 to 1.
pub fn share(text: &str) -> Result<f32, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        Ok(_) => Err("must be from 0 to 1".into()),
        Err(e) => Err(format!("{e}")),
    }
}

/// A weight, 0 or more.
pub fn weight(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(weight) if weight >= 0.0 && weight.is_finite() => Ok(weight),
        Ok(_) => Err("must be 0 or more".into()),
        Err(e) => Err(format!("{e}")),
    }
}

/// A value that the library knows by name.
pub fn named<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    T::deserialize(StrDeserializer::<serde::de::value::Error>::new(text)).map_err(|e| e.to_string())
}

/// Options that name a file to be written.
const OUTPUTS: [&str; 7] = [
    "--output",
    "--manifest",
    "--save-outcomes",
    "--save",
    "--clip-benchmark",
    "--results",
    "--html",
];

/// Refuses a file to be written that another argument names too: what a command reads it does not replace.
pub fn refuse_own_input(arguments: &[OsString]) -> Result<(), String> {
    let mut outputs = Vec::new();
    let mut others = Vec::new();
    let mut before = None;
    for argument in arguments {
        let text = argument.to_string_lossy();
        let assigned = text.split_once('=').filter(|(name, _)| OUTPUTS.contains(name));
        match (assigned, before) {
            (Some((name, value)), _) => outputs.push((name.to_owned(), PathBuf::from(value))),
            (None, Some(name)) => outputs.push((name, PathBuf::from(argument))),
            (None, None) => {
                // A value may be behind the name of its option, and a split behind that of its list.
                let value = text.split_once('=').map_or(&*text, |(_, value)| value);
                let list = value.split_once('#').map_or(value, |(list, _)| list);
                others.extend([PathBuf::from(argument), value.into(), list.into()]);
            }
        }
        before = OUTPUTS.contains(&&*text).then(|| text.into_owned());
    }
    for (name, output) in outputs {
        if output.is_file() && others.iter().any(|other| same_file(&output, other)) {
            return Err(format!(
                "{name} {} is also read by this command; name another file",
                output.display()
            ));
        }
    }
    Ok(())
}

/// Whether two paths lead to one file.
pub fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// A file to be written at the end, whose folder must be there from the start.
pub fn place() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(as_place)
}

/// The same for a path at hand.
pub fn as_place(path: PathBuf) -> Result<PathBuf, String> {
    let folder = path.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        return Err(format!("there is no folder {}; create it first", folder.display()));
    }
    replaceable(&path).map_err(|e| e.to_string())?;
    Ok(path)
}

/// An image to be written at the end.
pub fn image_place() -> impl TypedValueParser<Value = PathBuf> {
    place().try_map(|path| match path.extension() {
        Some(ending) if !ending.eq_ignore_ascii_case("png") => {
            Err("images are written as PNG only; name a file that ends in .png")
        }
        _ => Ok(path),
    })
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes_are_read_with_and_without_units() {
        for (text, want) in
            [("7", 7), ("2GB", 2_000_000_000), ("1.5 GiB", 3 << 29), ("500mb", 500_000_000)]
        {
            assert_eq!(bytes(text), Ok(want), "{text}");
        }
        assert_eq!(bytes("5GB"), Ok(albef::convert::SHARD_SIZE), "the default of `convert`");
        for text in ["", "0", "-1GB", "2TB", "nan", "inf"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }
}
