//! Errors as `application/problem+json` (RFC 9457) with stable codes.

use albef::Error as LibraryError;
use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// Why a request was not answered. The codes are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The body is not what the operation reads. 400.
    InvalidRequest,
    /// What is asked for contradicts itself or cannot be done. 422.
    InvalidArgument,
    /// An image cannot be decoded, or is beyond the limits. 422.
    InvalidImage,
    /// A text has no words. 422.
    EmptyText,
    /// No key, or one that is not known. 401.
    Unauthorized,
    /// The request comes from a page or a host that is not this one. 403.
    Forbidden,
    /// There is no such operation. 404.
    NotFound,
    /// There is no image of this number. 404.
    UnknownImage,
    /// No model of this name is loaded, or none for this task. 404.
    UnknownModel,
    /// The operation has another method. 405.
    MethodNotAllowed,
    /// The body, or the number of its items, is beyond the limits. 413.
    TooLarge,
    /// The body is of a type that is not read. 415.
    UnsupportedMediaType,
    /// All permits are taken; `Retry-After` says when to come back. 429.
    Busy,
    /// The answer took longer than the limit. 503.
    Timeout,
    /// The service is starting or stopping, or its index cannot be read. 503.
    Unavailable,
    /// A fault of the service. 500.
    Internal,
}

impl Code {
    /// The status that goes with it.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::InvalidRequest => StatusCode::BAD_REQUEST,
            Self::InvalidArgument | Self::InvalidImage | Self::EmptyText => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound | Self::UnknownImage | Self::UnknownModel => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Busy => StatusCode::TOO_MANY_REQUESTS,
            Self::Timeout | Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// A problem, as the body of an answer.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Problem {
    /// What kind of problem, stable.
    pub code: Code,
    /// The status of the answer.
    pub status: u16,
    /// The status in words.
    pub title: String,
    /// What is wrong and what to do.
    pub detail: String,
    /// Seconds to wait.
    #[serde(skip)]
    retry_after: Option<u64>,
}

/// The result of an operation.
pub type Result<T, E = Problem> = std::result::Result<T, E>;

impl Problem {
    /// A problem.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let status = code.status();
        Self {
            code,
            status: status.as_u16(),
            title: status.canonical_reason().unwrap_or("error").to_owned(),
            detail: detail.into(),
            retry_after: None,
        }
    }

    /// No permit is left.
    #[must_use]
    pub fn busy(seconds: u64) -> Self {
        let detail = "all permits are taken; come back later";
        Self { retry_after: Some(seconds), ..Self::new(Code::Busy, detail) }
    }
}

impl From<LibraryError> for Problem {
    fn from(error: LibraryError) -> Self {
        let detail = error.to_string();
        match error {
            LibraryError::EmptyText => Self::new(Code::EmptyText, detail),
            LibraryError::Argument(_) => Self::new(Code::InvalidArgument, detail),
            LibraryError::NoProjections => Self::new(Code::UnknownModel, detail),
            LibraryError::Cancelled => {
                Self::new(Code::Timeout, "the answer took longer than the limit")
            }
            LibraryError::Index(_) => Self::new(Code::Unavailable, detail),
            _ => {
                // What the service's own files are called is not for everyone.
                tracing::error!("{detail}");
                Self::new(Code::Internal, "the service failed; its log says how")
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, retry) = (self.code.status(), self.retry_after);
        let challenge = self.code == Code::Unauthorized;
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        let kind = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, kind);
        if let Some(seconds) = retry {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if challenge {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
