//! A set of icons as the package holds it.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::caption::{self, Affixes, Name};

/// An entry of the catalogue.
#[derive(Clone, Debug, Deserialize)]
pub struct Listed {
    /// Full name.
    pub name: String,
    /// Who drew it.
    pub author: Author,
    /// Its terms.
    pub license: Licence,
    /// Its category; hidden sets have none.
    #[serde(default)]
    pub category: String,
    /// Whether it has colors of its own.
    #[serde(default)]
    pub palette: bool,
}

/// Who drew a set.
#[derive(Clone, Debug, Deserialize)]
pub struct Author {
    /// Name.
    pub name: String,
    /// Where it comes from.
    #[serde(default)]
    pub url: String,
}

/// The terms of a set.
#[derive(Clone, Debug, Deserialize)]
pub struct Licence {
    /// SPDX name.
    #[serde(default)]
    pub spdx: String,
}

/// Reads the catalogue.
///
/// # Errors
/// If the file cannot be read or is not one.
pub fn catalogue(package: &Path) -> Result<BTreeMap<String, Listed>> {
    read(&package.join("collections.json"))
}

fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("{} is not as expected", path.display()))
}

#[derive(Deserialize)]
struct Stored {
    icons: BTreeMap<String, StoredIcon>,
    #[serde(default)]
    aliases: BTreeMap<String, Value>,
    #[serde(default)]
    categories: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    chars: HashMap<String, String>,
    #[serde(default)]
    prefixes: BTreeMap<String, Value>,
    #[serde(default)]
    suffixes: BTreeMap<String, Value>,
    left: Option<f64>,
    top: Option<f64>,
    width: Option<f64>,
    height: Option<f64>,
}

#[derive(Deserialize)]
struct StoredIcon {
    body: String,
    left: Option<f64>,
    top: Option<f64>,
    width: Option<f64>,
    height: Option<f64>,
}

/// An icon.
pub struct Icon {
    /// Its name in the set.
    pub name: String,
    /// The name, read.
    pub parts: Name,
    /// SVG elements.
    pub body: String,
    /// Left, top, width, height.
    pub view: [f64; 4],
    /// Its other names, in words.
    pub others: Vec<String>,
    /// Its category within the set.
    pub category: Option<String>,
    /// The emoji it draws, as code points.
    pub code_points: Vec<String>,
}

/// The icons of a set, in the order of their names.
///
/// # Errors
/// If the file cannot be read or is not a set.
pub fn icons(package: &Path, prefix: &str) -> Result<Vec<Icon>> {
    let stored: Stored = read(&package.join("json").join(format!("{prefix}.json")))?;
    let affixes = Affixes {
        prefixes: stored.prefixes.into_keys().collect(),
        suffixes: stored.suffixes.into_keys().collect(),
        styles: caption::styles(stored.icons.keys().map(String::as_str)),
    };
    let mut others: HashMap<&str, Vec<String>> = HashMap::new();
    for (alias, of) in &stored.aliases {
        // Rotated and mirrored ones show something else.
        let turned = of.as_object().is_none_or(|o| o.keys().any(|k| k != "parent"));
        if let (false, Some(parent)) = (turned, of.get("parent").and_then(Value::as_str)) {
            others.entry(parent).or_default().push(caption::read(alias, &affixes).words());
        }
    }
    let mut categories: HashMap<&str, &str> = HashMap::new();
    for (category, names) in &stored.categories {
        for name in names {
            categories.entry(name).or_insert(category);
        }
    }
    let mut code_points: HashMap<&str, Vec<String>> = HashMap::new();
    for (points, name) in &stored.chars {
        code_points.entry(name).or_default().push(crate::policy::code_point_key(points));
    }
    let found = stored.icons.iter().map(|(name, icon)| {
        let number =
            |own: Option<f64>, all: Option<f64>, default: f64| own.or(all).unwrap_or(default);
        Icon {
            parts: caption::read(name, &affixes),
            body: icon.body.clone(),
            view: [
                number(icon.left, stored.left, 0.0),
                number(icon.top, stored.top, 0.0),
                number(icon.width, stored.width, 16.0),
                number(icon.height, stored.height, 16.0),
            ],
            others: others.remove(name.as_str()).unwrap_or_default(),
            category: categories.get(name.as_str()).map(|c| (*c).to_owned()),
            code_points: code_points.remove(name.as_str()).unwrap_or_default(),
            name: name.clone(),
        }
    });
    Ok(found.collect())
}
