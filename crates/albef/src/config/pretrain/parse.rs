//! Configuration texts: YAML over defaults, changed by `key=value` settings.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// A configuration with what the text and the settings said about it.
pub(in crate::config) struct Parsed<T> {
    pub config: T,
    /// Only the keys that were given.
    pub given: Value,
    /// All keys at their defaults.
    pub defaults: Value,
}

/// Reads YAML over defaults and applies `key=value` settings; keys that the defaults lack are
/// refused.
pub(in crate::config) fn parse_config<T>(
    text: &str,
    settings: &[String],
    defaults: &T,
) -> Result<Parsed<T>>
where
    T: Serialize + DeserializeOwned,
{
    let mut given = match yaml(text, "")? {
        Value::Null => Value::Object(Map::new()),
        value => value,
    };
    official_spelling(&mut given)?;
    for setting in settings {
        let (key, new) = setting.split_once('=').ok_or_else(|| {
            Error::Config(format!("`--set {setting}` must have the form key=value"))
        })?;
        let new = yaml(new, key.trim())
            .map_err(|e| Error::Config(format!("`--set {setting}`: {}", detail(&e))))?;
        set(&mut given, &official_key(key), new)?;
    }
    let defaults = serde_json::to_value(defaults).map_err(|e| config(&e))?;
    check_keys(&given, &defaults, "")?;
    let mut all = defaults.clone();
    merge(&mut all, given.clone());
    match serde_json::from_value(all) {
        Ok(config) => Ok(Parsed { config, given, defaults }),
        Err(error) => Err(named_error::<T>(&given, &defaults, settings, &error)),
    }
}

/// What a configuration error says, without saying again what it is about.
fn detail(error: &Error) -> String {
    match error {
        Error::Config(detail) => detail.clone(),
        other => other.to_string(),
    }
}

/// Reads YAML. The reader refuses a key that stands twice in its own values, which JSON ones would take
/// silently; JSON has no numbers that are none, so these are looked for before. `above`: the key that the
/// text belongs to, if any.
fn yaml(text: &str, above: &str) -> Result<Value> {
    let text = text.trim_start_matches('\u{feff}');
    let value: serde_norway::Value = serde_norway::from_str(text).map_err(|e| config(&e))?;
    if let Some(key) = no_number(&value, above) {
        return Err(Error::Config(format!("`{key}` is no finite number")));
    }
    serde_json::to_value(value).map_err(|e| config(&e))
}

/// The dotted key of the first number that is infinite or none at all.
fn no_number(value: &serde_norway::Value, above: &str) -> Option<String> {
    use serde_norway::Value as Yaml;
    match value {
        Yaml::Number(n) => n.as_f64().filter(|v| !v.is_finite()).map(|_| above.to_owned()),
        Yaml::Sequence(values) => values.iter().find_map(|v| no_number(v, above)),
        Yaml::Mapping(map) => map.iter().find_map(|(key, value)| {
            let key = key.as_str().unwrap_or("?");
            let dot = if above.is_empty() { "" } else { "." };
            no_number(value, &format!("{above}{dot}{key}"))
        }),
        _ => None,
    }
}

fn config(error: &dyn std::fmt::Display) -> Error {
    Error::Config(error.to_string())
}

/// The official files write `schedular`; `scheduler` is understood as well.
fn official_spelling(given: &mut Value) -> Result<()> {
    let Some(map) = given.as_object_mut() else { return Ok(()) };
    let Some(moved) = map.remove("scheduler") else { return Ok(()) };
    if map.contains_key("schedular") {
        return Err(Error::Config("`scheduler` and `schedular` are one key; give one".into()));
    }
    map.insert("schedular".into(), moved);
    Ok(())
}

fn official_key(key: &str) -> String {
    match key.trim().split_once('.') {
        None if key.trim() == "scheduler" => "schedular".into(),
        Some(("scheduler", rest)) => format!("schedular.{rest}"),
        _ => key.trim().to_owned(),
    }
}

/// What is wrong, with the key and the setting where it stands: the first given value that the
/// defaults do not bear.
fn named_error<T: DeserializeOwned>(
    given: &Value,
    defaults: &Value,
    settings: &[String],
    error: &serde_json::Error,
) -> Error {
    let fails = |key: &str, value: &Value| {
        let mut one = defaults.clone();
        set(&mut one, key, value.clone()).ok()?;
        serde_json::from_value::<T>(one).err()
    };
    let wrong = leaves(given, defaults, "")
        .into_iter()
        .find_map(|(key, value)| Some((fails(&key, value)?, key)));
    let Some((error, key)) = wrong else { return config(error) };
    let sets = |setting: &&String| {
        let own = setting.split('=').next().map(official_key).unwrap_or_default();
        key == own || key.starts_with(&format!("{own}."))
    };
    let by = settings.iter().rev().find(sets);
    let by = by.map_or(String::new(), |setting| format!(" (by `--set {setting}`)"));
    Error::Config(format!("`{key}`{by}: {error}"))
}

/// Given values with their dotted keys, down to where the defaults have no further keys.
fn leaves<'a>(given: &'a Value, defaults: &Value, above: &str) -> Vec<(String, &'a Value)> {
    let (Some(map), Some(_)) = (given.as_object(), defaults.as_object()) else {
        return vec![(above.trim_end_matches('.').to_owned(), given)];
    };
    map.iter()
        .flat_map(|(key, value)| leaves(value, &defaults[key], &format!("{above}{key}.")))
        .collect()
}

/// Puts values over others, key by key.
pub(crate) fn merge(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                merge(under.entry(key).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over,
    }
}

fn set(value: &mut Value, key: &str, new: Value) -> Result<()> {
    let (first, rest) = match key.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (key, None),
    };
    let Some(map) = value.as_object_mut() else {
        return Err(Error::Config(format!("`{key}`: what stands above it has no keys")));
    };
    match rest {
        None => drop(map.insert(first.to_owned(), new)),
        Some(rest) => {
            let inner = map.entry(first).or_insert_with(|| Value::Object(Map::new()));
            set(inner, rest, new)?;
        }
    }
    Ok(())
}

/// From which likeness on a key may be a misspelt one.
const LIKE: f64 = 0.8;

fn check_keys(value: &Value, known: &Value, above: &str) -> Result<()> {
    let (Some(map), Some(known)) = (value.as_object(), known.as_object()) else {
        if above.is_empty() {
            return Err(Error::Config("the file must hold keys with values".into()));
        }
        return Ok(());
    };
    for (key, value) in map {
        let Some(known) = known.get(key) else {
            let nearest = known
                .keys()
                .map(|k| (strsim::jaro_winkler(k, key), k))
                .filter(|(likeness, _)| *likeness >= LIKE)
                .max_by(|a, b| a.0.total_cmp(&b.0))
                .map_or(String::new(), |(_, k)| format!("; did you mean `{above}{k}`?"));
            return Err(Error::Config(format!("unknown key `{above}{key}`{nearest}")));
        };
        if known.is_object() {
            check_keys(value, known, &format!("{above}{key}."))?;
        }
    }
    Ok(())
}
