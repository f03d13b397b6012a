//! Which features there are, and what one is of.

use albef_data::names::{odd_bytes, readable, shown};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Which tokens a feature is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FeatureTokens {
    /// `[CLS]`, or the class token of an image.
    #[default]
    Cls,
    /// All, the class token first.
    All,
}

/// What is extracted. The default is what [`Pipeline::embed_images`](crate::Pipeline::embed_images) and
/// [`Pipeline::embed_text`](crate::Pipeline::embed_text) give.
///
/// ```
/// use albef::inference::{ExtractOptions, FeatureTokens};
///
/// let states = ExtractOptions::default().tokens(FeatureTokens::All).projected(false);
/// assert_eq!(states.tokens, FeatureTokens::All);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExtractOptions {
    /// The tokens.
    pub tokens: FeatureTokens,
    /// Whether states are projected to the common space of images and texts, `embed_dim` wide, and scaled to unit
    /// length. Pairs have no projection.
    pub projected: bool,
}

impl Default for ExtractOptions {
    fn default() -> Self {
        Self { tokens: FeatureTokens::Cls, projected: true }
    }
}

impl ExtractOptions {
    /// Sets the tokens.
    #[must_use]
    pub fn tokens(mut self, tokens: FeatureTokens) -> Self {
        self.tokens = tokens;
        self
    }

    /// Sets whether states are projected.
    #[must_use]
    pub fn projected(mut self, projected: bool) -> Self {
        self.projected = projected;
        self
    }
}

/// The features of one image, text or pair: rows of `width` values, one for each token.
#[derive(Clone, Debug, PartialEq)]
pub struct FeatureRows {
    /// Values of a row.
    pub width: usize,
    /// The rows, one after another.
    pub values: Vec<f32>,
}

impl FeatureRows {
    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len() / self.width.max(1)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

/// What a feature is of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeatureName {
    /// The name of the image, if it is of one.
    pub image: Option<String>,
    /// The text, if it is of one.
    pub text: Option<String>,
}

impl FeatureName {
    /// One line: image, text, or both with a tab between; control characters and backslashes are escaped.
    #[must_use]
    pub fn line(&self) -> String {
        let parts = [&self.image, &self.text].into_iter().flatten();
        parts.map(|name| shown(name)).collect::<Vec<_>>().join("\t")
    }

    /// The feature as a JSON object: `image` (with `path_bytes` where its name is no UTF-8), `text`, and `feature`, one
    /// row, or `features`, a row for each token.
    #[must_use]
    pub fn to_json(&self, rows: &FeatureRows, all_tokens: bool) -> Value {
        let mut out = Map::new();
        for (key, name) in [("image", &self.image), ("text", &self.text)] {
            out.extend(name.as_ref().map(|name| (key.to_owned(), json!(readable(name)))));
        }
        let bytes = self.image.as_deref().and_then(odd_bytes);
        out.extend(bytes.map(|bytes| ("path_bytes".to_owned(), json!(bytes))));
        match all_tokens {
            true => {
                let rows: Vec<&[f32]> = rows.values.chunks(rows.width.max(1)).collect();
                out.insert("features".into(), json!(rows))
            }
            false => out.insert("feature".into(), json!(rows.values)),
        };
        Value::Object(out)
    }
}

#[cfg(test)]
mod tests {
    use albef_data::names::text_of;

    use super::*;

    #[test]
    fn names_of_different_files_are_different_rows() {
        let row = FeatureRows { values: vec![1.0], width: 1 };
        let json = |name: &[u8]| {
            let of = FeatureName { image: Some(text_of(name)), text: None };
            of.to_json(&row, false)
        };
        let (bytes, text) = (json(b"it\x92.jpg"), json(b"it\\x92.jpg"));
        assert_eq!(bytes["image"], text["image"]);
        assert_eq!(bytes["path_bytes"], json!(b"it\x92.jpg".to_vec()));
        assert!(text.get("path_bytes").is_none());
    }
}
