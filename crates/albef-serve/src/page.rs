//! The page: three files in the program, which load nothing from elsewhere.

use std::sync::Arc;

use axum::Router;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::engine::Service;

/// Nothing but what this service itself serves, and images that the page makes from its answers.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

fn file(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, text).into_response()
}

/// The page and its parts.
pub fn routes() -> Router<Arc<Service>> {
    let html = || async { file("text/html; charset=utf-8", include_str!("page/index.html")) };
    let script = || async { file("text/javascript; charset=utf-8", include_str!("page/app.js")) };
    let style = || async { file("text/css; charset=utf-8", include_str!("page/app.css")) };
    Router::new().route("/", get(html)).route("/app.js", get(script)).route("/app.css", get(style))
}
