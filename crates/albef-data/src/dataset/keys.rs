//! The keys under which lists of others have what is `image` and `caption` here.

use serde_json::Value;

use crate::input::parse_json;

/// Keys of image and captions that belong together: of this program; of image folders of Hugging Face; of Flickr30k
/// from Kaggle (`results.csv`) and from Hugging Face (`flickr_annotations_30k.csv`); of open_clip.
const PAIRS: [(&str, &str); 6] = [
    ("image", "caption"),
    ("image", "text"),
    ("file_name", "text"),
    ("image_name", COMMENT),
    ("filename", "raw"),
    ("filepath", "title"),
];

/// A caption, and its number among those of its image, in Kaggle's Flickr30k.
const COMMENT: &str = "comment";
pub(super) const NUMBER: &str = "comment_number";

/// Whether columns of these names are of a table of images with captions.
pub(super) fn are_of_captions(columns: &[String]) -> bool {
    let has = |key: &str| columns.iter().any(|column| column == key);
    PAIRS.iter().any(|(image, caption)| has(image) && has(caption))
}

/// A name of image or caption that several columns have.
pub(super) fn named_twice(columns: &[String]) -> Option<&str> {
    let mut names = columns.iter().enumerate().map(|(i, name)| (i, name.as_str()));
    let found = names.find(|(i, name)| is_read(name) && columns[..*i].iter().any(|c| c == name));
    found.map(|(_, name)| name)
}

/// Whether a key is one of images or captions.
pub(super) fn is_read(key: &str) -> bool {
    PAIRS.iter().any(|(image, caption)| key == *image || key == *caption)
}

/// Whether a key is one of images.
pub(super) fn is_of_image(key: &str) -> bool {
    key == "images" || PAIRS.iter().any(|(image, _)| *image == key)
}

/// The columns of a caption and its number, where the caption follows the number as the last.
pub(super) fn number_before_comment(columns: &[String]) -> Option<usize> {
    match columns {
        [.., number, comment] if number == NUMBER && comment == COMMENT => Some(columns.len() - 2),
        _ => None,
    }
}

/// An entry with the keys of this program.
pub(super) fn with_own_keys(mut entry: Value) -> Value {
    let Some(fields) = entry.as_object_mut().filter(|o| o.get("image").is_none_or(Value::is_null))
    else {
        return entry;
    };
    // An image folder may have images without a text.
    let is_of = |(image, caption): &&(&str, &str)| {
        let given = fields.get(*image).is_some_and(|path| !path.is_null());
        given && (*image == "file_name" || fields.contains_key(*caption))
    };
    let Some((image, caption)) = PAIRS.iter().find(is_of) else { return entry };
    fields.insert("image".into(), fields[*image].clone());
    if let (None, Some(text)) = (fields.get("caption"), fields.get(*caption).cloned()) {
        fields.insert("caption".into(), text);
    }
    entry
}

/// The captions of one field of a table, where they are a JSON list in a text.
pub(super) fn listed(field: Value) -> Value {
    let list = field.as_str().filter(|text| text.trim_start().starts_with('['));
    let list = list.and_then(|text| parse_json::<Vec<Value>>(text).ok());
    match list {
        Some(list) if list.is_empty() || list.iter().any(Value::is_string) => list.into(),
        _ => field,
    }
}

/// Whether a caption begins as a list of texts does, as Python prints it or cut.
pub(super) fn seems_a_list(caption: &Value) -> bool {
    let inner = caption.as_str().and_then(|text| text.trim_start().strip_prefix('['));
    inner.is_some_and(|text| text.trim_start().starts_with(['\'', '"']))
}

/// The captions under `caption_0`, `caption_1` and so on, as far as there are texts.
pub(super) fn numbered_captions(entry: &Value) -> Vec<String> {
    let text = |i: usize| entry.get(format!("caption_{i}"))?.as_str();
    let texts = (0..).map_while(text).map(str::to_owned);
    texts.filter(|text| !text.trim().is_empty()).collect()
}
