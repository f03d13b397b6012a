//! Values of the command line that several commands take, refused where they can mean nothing.

use std::path::{Path, PathBuf};

use albef_data::names::text_of_os;
use albef_weights::replaceable;
use clap::builder::{OsStringValueParser, TypedValueParser};
use serde::de::DeserializeOwned;
use serde::de::value::StrDeserializer;

/// A number from 1 on.
pub fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".into()),
        Ok(n) => Ok(n),
        Err(e) => Err(format!("{e}")),
    }
}

/// A number of bytes with a unit: `500MB`, `1GB`, `64KiB`, `1000000`.
pub fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        other => return Err(format!("`{other}` is no unit; write KB, MB, GB, KiB, MiB or GiB")),
    };
    let number: f64 = number.parse().map_err(|_| "must be a number of bytes, as in 500MB")?;
    match number * f64::from(factor) {
        bytes if bytes >= 1.0 && bytes < 2_f64.powi(63) => Ok(bytes as u64),
        _ => Err("must be at least one byte and fit into a file".into()),
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

/// A value that the library knows by name.
pub fn named<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    T::deserialize(StrDeserializer::<serde::de::value::Error>::new(text)).map_err(|e| e.to_string())
}

/// A file to be written at the end, whose folder must be there from the start.
pub fn place(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let folder = path.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        return Err(format!("there is no folder {}; create it first", folder.display()));
    }
    replaceable(&path).map_err(|e| e.to_string())?;
    Ok(path)
}

/// An image to be written at the end.
pub fn image_place(text: &str) -> Result<PathBuf, String> {
    let path = place(text)?;
    match path.extension() {
        Some(ending) if !ending.eq_ignore_ascii_case("png") => {
            Err("images are written as PNG only; name a file that ends in .png".into())
        }
        _ => Ok(path),
    }
}
