//! Objects that are objects: by themselves, structures can also be read from lists of their fields, which no document
//! of the service says.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

struct Strict<T>(T);

/// With what is expected.
struct Object<T>(&'static str, PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Strict<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        object(deserializer).map(Self)
    }
}

/// An object.
pub fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    d.deserialize_map(Object("an object", PhantomData))
}

/// An image. Whoever sends its file as a text is told how it is sent.
pub fn image<'de, D: Deserializer<'de>, T: Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    let expected = r#"an object; an image is `{"id": NUMBER}` or `{"base64": "…"}`"#;
    d.deserialize_map(Object(expected, PhantomData))
}

/// An object or null.
pub fn maybe_object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    d: D,
) -> Result<Option<T>, D::Error> {
    Ok(Option::<Strict<T>>::deserialize(d)?.map(|strict| strict.0))
}

/// A list of objects.
pub fn objects<'de, D: Deserializer<'de>, T: Deserialize<'de>>(d: D) -> Result<Vec<T>, D::Error> {
    Ok(Vec::<Strict<T>>::deserialize(d)?.into_iter().map(|strict| strict.0).collect())
}

#[cfg(test)]
mod tests {
    use crate::api::{EmbedRequest, EmbeddingsRequest, MatchRequest, RerankRequest, SearchRequest};

    #[test]
    fn what_an_image_is_is_said_in_words() {
        let said = |text: &str| {
            let mut json = serde_json::Deserializer::from_str(text);
            super::object::<_, MatchRequest>(&mut json).unwrap_err().to_string()
        };
        let wrong = said(r#"{"image": {"data": "AA=="}, "text": "a"}"#);
        assert!(
            wrong.starts_with(r#"an image is `{"id": NUMBER}` or `{"base64": "…"}`"#),
            "{wrong}"
        );
        let text = said(r#"{"image": "iVBORw0KGgo=", "text": "a"}"#);
        assert!(text.contains("an object; an image is"), "{text}");
        let input = serde_json::from_str::<EmbeddingsRequest>(r#"{"input": 3}"#).unwrap_err();
        assert!(input.to_string().starts_with("`input` is a text"), "{input}");
    }

    #[test]
    fn lists_are_no_objects() {
        fn read<T: serde::de::DeserializeOwned>(text: &str) -> bool {
            super::object::<_, T>(&mut serde_json::Deserializer::from_str(text)).is_ok()
        }
        assert!(read::<EmbedRequest>("{}") && !read::<EmbedRequest>("[]"));
        assert!(read::<EmbedRequest>(r#"{"images": [{"id": 1}, {"base64": "AA=="}]}"#));
        for wrong in
            [r#"{"images": [[1]]}"#, r#"{"pairs": [[{"id": 1}, "a"]]}"#, r#"{"images": [1]}"#]
        {
            assert!(!read::<EmbedRequest>(wrong), "{wrong}");
        }
        assert!(read::<SearchRequest>(r#"{"query": "a", "filter": {"camera": "x"}}"#));
        assert!(!read::<SearchRequest>(r#"{"query": "a", "filter": []}"#));
        assert!(!read::<SearchRequest>(r#"{"query": "a", "terms": [["b", 1]]}"#));
        assert!(read::<MatchRequest>(r#"{"image": {"id": 1}, "text": "a"}"#));
        assert!(!read::<MatchRequest>(r#"{"image": [1], "text": "a"}"#));
        assert!(!read::<MatchRequest>(r#"{"image": {"id": 1, "base64": ""}, "text": "a"}"#));
        assert!(read::<RerankRequest>(r#"{"query_image": null}"#));
        assert!(!read::<RerankRequest>(r#"{"query_image": [1]}"#));
        assert!(read::<EmbeddingsRequest>(r#"{"input": [{"id": 1}]}"#));
        assert!(!read::<EmbeddingsRequest>(r#"{"input": [[1]]}"#));
    }
}
