//! Bodies: JSON, or `multipart/form-data` with files in the place of images.

use albef_data::error::in_words;
use axum::body::Bytes;
use axum::extract::multipart::{Multipart, MultipartError};
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::error::{Code, Problem};
use crate::object::object;

/// The body of a request.
#[derive(Debug)]
pub struct Input<T>(pub T);

/// Fields of a form that are JSON; all others are texts or files.
const PARSED: [&str; 9] =
    ["filter", "page", "pairs", "raw_scores", "rerank_k", "return_text", "terms", "top_k", "words"];
/// Fields of a form that are files, or images by their numbers.
const IMAGES: [&str; 6] = ["image", "images", "left", "like", "query_image", "right"];
/// Fields of a form that are lists, an entry for each time that they are given.
const LISTS: [&str; 5] = ["answers", "images", "labels", "like", "texts"];

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Input<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let kind = request.headers().get(header::CONTENT_TYPE);
        let kind = kind.and_then(|value| value.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match kind.as_str() {
            "application/json" => {
                let bytes = Bytes::from_request(request, state).await.map_err(of_body)?;
                let mut reader = serde_json::Deserializer::from_slice(&bytes);
                let found = object(&mut reader).and_then(|found| reader.end().map(|()| found));
                found.map(Input).map_err(|e| unreadable(&e))
            }
            "multipart/form-data" => {
                let form = Multipart::from_request(request, state).await;
                let form = form.map_err(|e| Problem::new(Code::InvalidRequest, e.body_text()))?;
                let value = Value::Object(read_form(form).await?);
                serde_json::from_value(value).map(Input).map_err(|e| unreadable(&e))
            }
            "" => Err(Problem::new(
                Code::UnsupportedMediaType,
                "the request has no `Content-Type`; send application/json or multipart/form-data",
            )),
            other => Err(Problem::new(
                Code::UnsupportedMediaType,
                format!("`{other}` is not read; send application/json or multipart/form-data"),
            )),
        }
    }
}

/// What is wrong with a body, without the names of Rust's types, and without a whole image in it.
fn unreadable(error: &serde_json::Error) -> Problem {
    /// Characters of either end of a long message.
    const SHOWN: usize = 120;
    let text = in_words(&error.to_string());
    let all: Vec<char> = text.chars().collect();
    let text = match all.len() > 3 * SHOWN {
        true => {
            let [begin, end] = [&all[..SHOWN], &all[all.len() - SHOWN..]].map(String::from_iter);
            format!("{begin} … {end}")
        }
        false => text,
    };
    Problem::new(Code::InvalidRequest, text)
}

fn of_body(rejection: BytesRejection) -> Problem {
    not_read(rejection.status(), rejection.body_text())
}

fn of_form(error: &MultipartError) -> Problem {
    not_read(error.status(), error.body_text())
}

/// Why a body was not read.
fn not_read(status: StatusCode, detail: String) -> Problem {
    match status {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(
            Code::TooLarge,
            "the request is larger than this service reads (`albef serve --max-body`)",
        ),
        _ => Problem::new(Code::InvalidRequest, detail),
    }
}

async fn read_form(mut form: Multipart) -> Result<Map<String, Value>, Problem> {
    let mut out = Map::new();
    while let Some(field) = form.next_field().await.map_err(|e| of_form(&e))? {
        let name = field.name().unwrap_or_default().to_owned();
        let is_file = field.file_name().is_some();
        let bytes = field.bytes().await.map_err(|e| of_form(&e))?;
        let value = if is_file {
            json!({"base64": STANDARD.encode(&bytes)})
        } else {
            let text = String::from_utf8(bytes.to_vec()).map_err(|_| {
                Problem::new(Code::InvalidRequest, format!("`{name}` is not UTF-8"))
            })?;
            let is_json = PARSED.contains(&name.as_str()) || IMAGES.contains(&name.as_str());
            match is_json {
                true => serde_json::from_str(&text).map_err(|e| {
                    Problem::new(Code::InvalidRequest, format!("`{name}` is not JSON: {e}"))
                })?,
                false => Value::String(text),
            }
        };
        if LISTS.contains(&name.as_str()) {
            let list = out.entry(name).or_insert_with(|| json!([]));
            if let Some(list) = list.as_array_mut() {
                list.push(value);
            }
        } else if out.insert(name.clone(), value).is_some() {
            let detail = format!("`{name}` is given twice");
            return Err(Problem::new(Code::InvalidRequest, detail));
        }
    }
    Ok(out)
}
