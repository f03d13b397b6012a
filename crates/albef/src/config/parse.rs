//! Configuration texts: YAML over a task's defaults, changed by `key=value` settings.

use albef_data::error::in_words;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::section::SectionDoc;
use crate::error::{Error, Result};
use crate::task::{PRETRAIN, TASKS, TaskRef};

/// Former names of keys, understood for one release.
pub const RENAMED: [(&str, &str); 10] = [
    ("scheduler", "schedular"),
    ("accumulate", "grad_accum_steps"),
    ("workers", "num_workers"),
    ("train_weights", "mixture_weights"),
    ("align_steps", "itc_only_steps"),
    ("hard_negatives_from", "hard_negatives_start"),
    ("flip_sided", "flip_with_side_words"),
    ("learn_temp", "train_temp"),
    ("keep_last", "keep_last_n"),
    ("rank", "answer_scoring"),
];

/// A configuration text with the settings that change it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Source<'a> {
    /// YAML.
    pub text: &'a str,
    /// `key=value`, nested keys with dots.
    pub settings: &'a [String],
    /// The file of the text, for messages.
    pub file: Option<&'a std::path::Path>,
}

/// A configuration and what there is to report about it.
pub(crate) struct Parsed<T> {
    pub config: T,
    /// Keys that have no effect on this task, and former names.
    pub notes: Vec<String>,
}

/// Reads YAML over the defaults of a task and applies the settings.
///
/// # Errors
/// Names an unknown key with the nearest known one; a key of another task with that task; or the key
/// whose value does not fit, and whether the file or a setting has it.
pub(crate) fn parse<T>(source: Source<'_>, task: TaskRef, defaults: &T) -> Result<Parsed<T>>
where
    T: Serialize + DeserializeOwned,
{
    let in_file = |error: Error| match (error, source.file) {
        (Error::Config(detail), Some(file)) => {
            Error::Config(format!("in {}: {detail}", file.display()))
        }
        (error, _) => error,
    };
    let mut given = match yaml(source.text, "").map_err(in_file)? {
        Value::Null => Value::Object(Map::new()),
        value => value,
    };
    let mut notes = Vec::new();
    current_names(&mut given, &mut notes).map_err(in_file)?;
    let defaults = serde_json::to_value(defaults).map_err(|e| config(&e))?;
    without_foreign_keys(&mut given, &defaults, task, &mut notes).map_err(in_file)?;
    check_keys(&given, &defaults, "").map_err(in_file)?;
    let mut set_by = Vec::new();
    for setting in source.settings {
        let fail = |detail: String| Error::Config(format!("`--set {setting}`: {detail}"));
        let (key, new) = setting.split_once('=').ok_or_else(|| {
            Error::Config(format!("`--set {setting}` must have the form key=value"))
        })?;
        let new = yaml(new, key.trim()).map_err(|e| fail(detail(&e)))?;
        let key = current_name(key.trim(), &mut notes);
        let mut one = Value::Object(Map::new());
        set(&mut one, &key, new)?;
        without_foreign_keys(&mut one, &defaults, task, &mut notes)
            .map_err(|e| fail(detail(&e)))?;
        check_keys(&one, &defaults, "").map_err(|e| fail(detail(&e)))?;
        merge(&mut given, one);
        set_by.push((key, setting.as_str()));
    }
    let mut all = defaults.clone();
    merge(&mut all, given.clone());
    match serde_json::from_value(all) {
        Ok(config) => Ok(Parsed { config, notes }),
        Err(error) => {
            Err(named_error::<T>(&given, &defaults, &set_by, &error).unwrap_or_else(in_file))
        }
    }
}

/// What a configuration error says, without repeating what it is about.
fn detail(error: &Error) -> String {
    match error {
        Error::Config(detail) => detail.clone(),
        other => other.to_string(),
    }
}

/// Reads YAML. The reader refuses duplicate keys in its own values, which JSON ones would take
/// silently; JSON has no infinite numbers, so these are looked for before. `above`: the key that the
/// text belongs to, if any.
fn yaml(text: &str, above: &str) -> Result<Value> {
    let text = text.trim_start_matches('\u{feff}');
    if nested(text) > DEEPEST {
        return Err(Error::Config(format!(
            "more than {DEEPEST} lists or maps are within each other, and no key has such a value"
        )));
    }
    let value: serde_norway::Value = serde_norway::from_str(text).map_err(|e| config(&e))?;
    if let Some(key) = not_finite(&value, above) {
        return Err(Error::Config(format!("`{key}` is not a finite number")));
    }
    serde_json::to_value(value).map_err(|e| config(&e))
}

/// Lists and maps within each other; the parser takes time by the square of their number.
const DEEPEST: usize = 32;

/// The most brackets that are open at a time, or dashes of lists in a line.
fn nested(text: &str) -> usize {
    let (mut open, mut deepest) = (0_usize, 0);
    for line in text.lines() {
        let rest = line.trim_start_matches([' ', '\t']);
        let marks =
            rest.bytes().take_while(|b| b" \t-?:".contains(b)).filter(|b| b"-?:".contains(b));
        deepest = deepest.max(marks.count());
        for byte in line.bytes() {
            match byte {
                b'[' | b'{' => open += 1,
                b']' | b'}' => open = open.saturating_sub(1),
                _ => {}
            }
            deepest = deepest.max(open);
        }
    }
    deepest
}

/// The dotted key of the first number that is infinite or NaN.
fn not_finite(value: &serde_norway::Value, above: &str) -> Option<String> {
    use serde_norway::Value as Yaml;
    match value {
        Yaml::Number(n) => n.as_f64().filter(|v| !v.is_finite()).map(|_| above.to_owned()),
        Yaml::Sequence(values) => values.iter().find_map(|v| not_finite(v, above)),
        Yaml::Mapping(map) => map.iter().find_map(|(key, value)| {
            let key = key.as_str().unwrap_or("?");
            let dot = if above.is_empty() { "" } else { "." };
            not_finite(value, &format!("{above}{dot}{key}"))
        }),
        _ => None,
    }
}

fn config(error: &dyn std::fmt::Display) -> Error {
    Error::Config(error.to_string())
}

/// Gives renamed keys their present names.
///
/// # Errors
/// If a key is given under both names.
pub(crate) fn current_names(given: &mut Value, notes: &mut Vec<String>) -> Result<()> {
    let Some(map) = given.as_object_mut() else { return Ok(()) };
    for (former, name) in RENAMED {
        let Some(value) = map.remove(former) else { continue };
        if map.contains_key(name) {
            return Err(Error::Config(format!(
                "`{former}` and `{name}` are one key; give one of them"
            )));
        }
        map.insert(name.into(), value);
        note_former(former, name, notes);
    }
    Ok(())
}

/// The other spelling of the schedule is no former name.
fn note_former(former: &str, name: &str, notes: &mut Vec<String>) {
    let note = format!("`{former}` is now called `{name}`");
    if former != "scheduler" && !notes.contains(&note) {
        notes.push(note);
    }
}

fn current_name(key: &str, notes: &mut Vec<String>) -> String {
    let (first, rest) = match key.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (key, None),
    };
    let Some((former, name)) = RENAMED.iter().find(|(former, _)| *former == first) else {
        return key.to_owned();
    };
    note_former(former, name, notes);
    rest.map_or((*name).to_owned(), |rest| format!("{name}.{rest}"))
}

/// The tasks that have a key in their configuration.
fn owners(key: &str) -> Vec<TaskRef> {
    let has = |sections: Vec<SectionDoc>| {
        let mut keys = sections.into_iter().flat_map(|s| s.keys);
        keys.any(|k| k.name == key || k.name.split('.').next() == Some(key))
    };
    TASKS.into_iter().filter(|task| has(task.sections())).collect()
}

/// Removes the keys that this task does not read and others do. Sizes and the like, which come with the
/// checkpoint in fine-tuning and which official files repeat, are noted, as are keys of the task's own
/// that have no effect; a key that only other fine-tuning tasks have is an error.
fn without_foreign_keys(
    given: &mut Value,
    defaults: &Value,
    task: TaskRef,
    notes: &mut Vec<String>,
) -> Result<()> {
    let Some(map) = given.as_object_mut() else { return Ok(()) };
    let foreign: Vec<String> =
        map.keys().filter(|key| defaults.get(key.as_str()).is_none()).cloned().collect();
    let mut unread = Vec::new();
    for key in foreign {
        if let Some((above, below)) = key.split_once('.')
            && defaults.get(above).is_some_and(|nested| nested.get(below).is_some())
        {
            return Err(Error::Config(format!(
                "`{key}` is written as `{below}` below `{above}` in a file; keys with dots are for `--set`"
            )));
        }
        let owners = owners(&key);
        let Some(first) = owners.first() else { continue };
        let of_pretraining = *first == TaskRef::pretrain();
        // A key at its default, as some are in the official files, misleads nobody.
        let at_default = first.default_config().get(&key) == map.get(&key);
        if !at_default && !of_pretraining && owners.len() < 3 {
            let names: Vec<&str> = owners.iter().map(|t| t.name()).collect();
            return Err(Error::Config(format!(
                "`{key}` is a key of {}, and this is a configuration for {}; remove it, or run \
                 `albef finetune {}`",
                names.join(" and "),
                task.name(),
                names.join("|")
            )));
        }
        if !at_default && task.name() == PRETRAIN {
            return Err(Error::Config(format!(
                "`{key}` is a key of fine-tuning, and this is a configuration for pre-training; remove \
                 it, or run `albef finetune`"
            )));
        }
        map.remove(&key);
        if !at_default {
            unread.push(format!("`{key}`"));
        }
    }
    let given_in_vain = |key: &&&str| map.get(**key).is_some_and(|v| *v != defaults[**key]);
    unread.extend(task.unread().iter().filter(given_in_vain).map(|key| format!("`{key}`")));
    if !unread.is_empty() {
        notes.push(format!("{} does not read {}", task.name(), unread.join(", ")));
    }
    Ok(())
}

/// What is wrong, with the key and the setting that has it: the first given value that the defaults
/// cannot take. `Err` if it is in the file.
fn named_error<T: DeserializeOwned>(
    given: &Value,
    defaults: &Value,
    set_by: &[(String, &str)],
    error: &serde_json::Error,
) -> Result<Error, Error> {
    let fails = |key: &str, value: &Value| {
        let mut one = defaults.clone();
        set(&mut one, key, value.clone()).ok()?;
        serde_json::from_value::<T>(one).err()
    };
    let wrong = leaves(given, defaults, "")
        .into_iter()
        .find_map(|(key, value)| Some((fails(&key, value)?, key)));
    let Some((error, key)) = wrong else { return Err(config(error)) };
    let below = |key: &str, above: &str| key == above || key.starts_with(&format!("{above}."));
    let sets = |(own, _): &&(String, &str)| below(&key, own) || below(own, &key);
    let problem = in_words(&error.to_string());
    match set_by.iter().rev().find(sets) {
        Some((_, setting)) => {
            let comment = setting.contains("=#") || setting.contains(" #");
            let hint = match comment {
                true => {
                    "; hint: `#` begins a comment, so put the value in quotes: `--set 'KEY=\"#…\"'`"
                }
                false => "",
            };
            Ok(Error::Config(format!("`{key}` (by `--set {setting}`): {problem}{hint}")))
        }
        None => Err(Error::Config(format!("`{key}`: {problem}"))),
    }
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
        return Err(Error::Config(format!("`{key}`: the value above it has no keys")));
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
