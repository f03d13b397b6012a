//! Sections of a configuration: each key with its documentation, default and check beside its field.

use serde_json::Value;

use crate::error::{Error, Result};

/// A key as documents list it.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// Its name; nested ones with a dot.
    pub name: String,
    /// What it is for.
    pub doc: String,
    /// Its default.
    pub default: Value,
}

/// The keys of a part of a configuration.
pub trait Section {
    /// Its heading in documents.
    const TITLE: &'static str;

    /// Its keys in order, with the defaults of `Default`.
    fn keys() -> Vec<Key>;

    /// Checks each value by itself.
    ///
    /// # Errors
    /// Names the key, its value and what is possible.
    fn check_values(&self, above: &str) -> Result<()>;
}

/// A section with its keys, for documents and for finding whose key a name is.
#[derive(Clone, Debug)]
pub struct SectionDoc {
    /// Its heading.
    pub title: &'static str,
    /// Its keys.
    pub keys: Vec<Key>,
}

/// The documentation of a section.
#[must_use]
pub fn doc<S: Section>() -> SectionDoc {
    SectionDoc { title: S::TITLE, keys: S::keys() }
}

/// The keys of a nested section under their dotted names, with the defaults of the outer one.
pub(crate) fn below<S: Section>(field: &str, defaults: &Value) -> Vec<Key> {
    let named = |key: Key| Key {
        default: key.name.split('.').fold(defaults, |v, part| &v[part]).clone(),
        name: format!("{field}.{}", key.name),
        ..key
    };
    S::keys().into_iter().map(named).collect()
}

/// An error about a value, unless it is as it must be.
pub(crate) fn check<T>(
    above: &str,
    key: &str,
    value: &T,
    rule: impl Fn(&T) -> Option<String>,
) -> Result<()> {
    match rule(value) {
        None => Ok(()),
        Some(problem) => Err(Error::Config(format!("`{above}{key}` {problem}"))),
    }
}

/// Declares a section: a struct whose fields are keys. After the default of a field a check may follow,
/// a function from the value to what is wrong with it; `[nested]` marks a field that is a section itself.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        pub struct $name:ident: $title:literal {
            $(
                $(#[doc = $doc:literal])+
                $([$nested:ident])?
                $(#[serde($($serde:tt)*)])?
                $field:ident: $type:ty = $default:expr $(, if $rule:expr)?;
            )*
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default)]
        pub struct $name {
            $(
                $(#[doc = $doc])+
                $(#[serde($($serde)*)])?
                pub $field: $type,
            )*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl $crate::config::section::Section for $name {
            const TITLE: &'static str = $title;

            fn keys() -> Vec<$crate::config::section::Key> {
                let defaults = serde_json::to_value(Self::default()).unwrap_or_default();
                [$(
                    $crate::config::section::section!(
                        @keys defaults, $field, $type, concat!($($doc),+) $(, $nested)?
                    ),
                )*]
                .concat()
            }

            fn check_values(&self, above: &str) -> $crate::error::Result<()> {
                let _ = above;
                $(
                    $crate::config::section::section!(@check self, above, $field $(, $nested)?);
                    $($crate::config::section::check(above, stringify!($field), &self.$field, $rule)?;)?
                )*
                Ok(())
            }
        }
    };
    (@keys $defaults:ident, $field:ident, $type:ty, $doc:expr) => {
        vec![$crate::config::section::Key {
            name: stringify!($field).to_owned(),
            doc: $doc.trim().to_owned(),
            default: $defaults[stringify!($field)].clone(),
        }]
    };
    (@keys $defaults:ident, $field:ident, $type:ty, $doc:expr, nested) => {
        $crate::config::section::below::<$type>(stringify!($field), &$defaults[stringify!($field)])
    };
    (@check $self:ident, $above:ident, $field:ident) => {};
    (@check $self:ident, $above:ident, $field:ident, nested) => {
        let inner = format!("{}{}.", $above, stringify!($field));
        $crate::config::section::Section::check_values(&$self.$field, &inner)?;
    };
}
pub(crate) use section;

/// Rules of values.
pub(crate) mod rule {
    use std::fmt::Display;
    use std::ops::RangeInclusive;

    /// Within a range.
    pub fn within<T: PartialOrd + Display>(
        range: RangeInclusive<T>,
    ) -> impl Fn(&T) -> Option<String> {
        move |value| {
            let (low, high) = (range.start(), range.end());
            (!range.contains(value))
                .then(|| format!("is {value}; it must be between {low} and {high}"))
        }
    }

    /// From 0, below 1.
    pub fn below_1(value: &f64) -> Option<String> {
        (!(0.0..1.0).contains(value))
            .then(|| format!("is {value}; it must be at least 0 and below 1"))
    }

    /// A number above 0.
    pub fn above_0(value: &f64) -> Option<String> {
        let fine = value.is_finite() && *value > 0.0;
        (!fine).then(|| format!("is {value}; it must be a number above 0"))
    }

    /// A number from 0 on.
    pub fn at_least_0(value: &f64) -> Option<String> {
        let fine = value.is_finite() && *value >= 0.0;
        (!fine).then(|| format!("is {value}; it must be 0 or more"))
    }

    /// A whole number from 1 on.
    pub fn at_least_1<T: PartialOrd + From<u8> + Display>(value: &T) -> Option<String> {
        (*value < T::from(1)).then(|| format!("is {value}; it must be at least 1"))
    }

    /// At most so many.
    pub fn at_most(limit: usize) -> impl Fn(&usize) -> Option<String> {
        move |value| (*value > limit).then(|| format!("is {value}; it can be at most {limit}"))
    }

    /// One of several words.
    pub fn one_of<'a>(words: &'a [&'a str]) -> impl Fn(&String) -> Option<String> + 'a {
        move |value| {
            let known = words.iter().any(|w| w.eq_ignore_ascii_case(value));
            let list = words.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(" or ");
            (!known).then(|| format!("is `{value}`, which is not known; use {list}"))
        }
    }
}
