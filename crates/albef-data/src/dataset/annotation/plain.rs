//! Entries as most lists have them, read without a tree of values.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};

/// An entry whose fields have the types that they should. Any other is read in full, which says what is wrong.
#[derive(Deserialize)]
pub(super) struct PlainEntry<'a> {
    #[serde(borrow)]
    image: Cow<'a, str>,
    caption: Option<Texts>,
    text: Option<Texts>,
    image_id: Option<Id>,
    #[serde(borrow)]
    split: Option<Cow<'a, str>>,
}

/// Split, image, captions and `image_id`.
type Usable<'a> = (Option<Cow<'a, str>>, String, Vec<String>, Option<String>);

impl<'a> PlainEntry<'a> {
    /// Split, image, captions and `image_id`, unless something is to be said of them.
    pub fn usable(self) -> Option<Usable<'a>> {
        let Texts(captions) = self.caption.or(self.text)?;
        if self.image.is_empty() || captions.is_empty() {
            return None;
        }
        let id = self.image_id.map(|Id(id)| id).filter(|id| !id.is_empty());
        Some((self.split, self.image.into_owned(), captions, id))
    }
}

/// A text, or a list of texts.
struct Texts(Vec<String>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Found;

        impl<'de> Visitor<'de> for Found {
            type Value = Texts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of texts")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Texts, E> {
                Ok(Texts(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Texts, A::Error> {
                let mut all = Vec::new();
                while let Some(text) = list.next_element()? {
                    all.push(text);
                }
                Ok(Texts(all))
            }
        }

        from.deserialize_any(Found)
    }
}

/// The text of a whole number or a text, as [`crate::input::id_text`] has it.
struct Id(String);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Found;

        impl Visitor<'_> for Found {
            type Value = Id;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number or a text")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Id, E> {
                Ok(Id(number.to_string()))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Id, E> {
                Ok(Id(number.to_string()))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Id, E> {
                Ok(Id(text.to_owned()))
            }
        }

        from.deserialize_any(Found)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::{captions, image_key};
    use super::*;

    #[test]
    fn plain_entries_are_read_as_any_entry_is() {
        let mut plain = 0;
        for text in [
            r#"{"image": "a.jpg", "caption": "x", "image_id": 7}"#,
            r#"{"image": "a\"b.jpg", "caption": ["x", "y"], "image_id": "7", "more": {"a": [1]}}"#,
            r#"{"caption": null, "text": "x", "image": "a", "image_id": null, "split": "val"}"#,
            r#"{"image": "a", "caption": "x", "image_id": -3}"#,
            r#"{"image": "a", "caption": "x", "image_id": 7.0}"#,
            r#"{"image": "a", "caption": "x", "image_id": ""}"#,
            r#"{"image": "a", "caption": []}"#,
            r#"{"image": "a", "caption": ["x", 3]}"#,
            r#"{"image": "", "caption": "x"}"#,
            r#"{"image": "a", "image": "b", "caption": "x"}"#,
            r#"{"image": 3, "caption": "x"}"#,
            r#"{"image": "a", "caption": "x", "split": 3}"#,
            r#"["a"]"#,
        ] {
            let Some(found) = serde_json::from_str::<PlainEntry<'_>>(text).ok() else { continue };
            let Some((split, image, texts, id)) = found.usable() else { continue };
            let entry: Value = serde_json::from_str(text).unwrap();
            assert_eq!(entry["image"], image);
            assert_eq!(captions(&entry), (texts, None), "{text}");
            assert_eq!(image_key(&entry), id, "{text}");
            assert_eq!(entry.get("split").and_then(Value::as_str).map(Cow::Borrowed), split);
            plain += 1;
        }
        assert_eq!(plain, 5);
    }
}
