//! The page: files in the program, which load nothing from elsewhere.

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

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// Path, type and text of each part.
const PARTS: [(&str, &str, &str); 7] = [
    ("/", HTML, include_str!("page/index.html")),
    ("/app.css", STYLE, include_str!("page/app.css")),
    ("/app.js", SCRIPT, include_str!("page/app.js")),
    ("/api.js", SCRIPT, include_str!("page/api.js")),
    ("/grid.js", SCRIPT, include_str!("page/grid.js")),
    ("/place.js", SCRIPT, include_str!("page/place.js")),
    ("/viewer.js", SCRIPT, include_str!("page/viewer.js")),
];

/// Whether a path is that of the page or of one of its parts.
pub fn is_part(path: &str) -> bool {
    PARTS.iter().any(|(part, ..)| *part == path)
}

/// The page and its parts.
pub fn routes() -> Router<Arc<Service>> {
    PARTS.iter().fold(Router::new(), |router, (path, kind, text)| {
        router.route(path, get(|| async { file(kind, text) }))
    })
}
