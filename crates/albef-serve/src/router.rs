//! Paths, what surrounds every operation, and the OpenAPI document.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use utoipa::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};

use crate::auth::{check_key, check_origin};
use crate::engine::Service;
use crate::error::{Code, Problem};
use crate::{operations, page};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "ALBEF",
        description = "Search, embeddings, matching, questions and heat maps of an ALBEF model.",
        license(name = "BSD-3-Clause", identifier = "BSD-3-Clause")
    ),
    paths(
        operations::ask,
        operations::classify,
        operations::embed,
        operations::embeddings,
        operations::entail,
        operations::ground,
        operations::health,
        operations::search::image,
        operations::search::images,
        operations::search::index,
        operations::match_pair,
        operations::metrics,
        operations::models,
        operations::ready,
        operations::reason,
        operations::rerank,
        operations::search::search,
        operations::search::similar
    ),
    components(schemas(crate::error::Problem, Code)),
    modifiers(&Security)
)]
struct Document;

struct Security;

impl utoipa::Modify for Security {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        components.add_security_scheme("key", scheme);
    }
}

/// The OpenAPI document.
///
/// # Panics
/// Never: it is made of types that can be written as JSON.
#[must_use]
pub fn document() -> serde_json::Value {
    serde_json::to_value(Document::openapi()).unwrap_or_default()
}

/// All operations and the page.
pub fn router(service: Arc<Service>) -> Router {
    let keyed = Router::new()
        .route("/rerank", post(operations::rerank))
        .route("/metrics", get(operations::metrics))
        .route("/v1/ask", post(operations::ask))
        .route("/v1/classify", post(operations::classify))
        .route("/v1/embed", post(operations::embed))
        .route("/v1/embeddings", post(operations::embeddings))
        .route("/v1/entail", post(operations::entail))
        .route("/v1/ground", post(operations::ground))
        .route("/v1/images", get(operations::search::images))
        .route("/v1/images/{id}", get(operations::search::image))
        .route("/v1/index", get(operations::search::index))
        .route("/v1/match", post(operations::match_pair))
        .route("/v1/models", get(operations::models))
        .route("/v1/reason", post(operations::reason))
        .route("/v1/search", post(operations::search::search))
        .route("/v1/similar", post(operations::search::similar))
        .route_layer(from_fn_with_state(Arc::clone(&service), keyed));
    Router::new()
        .route("/health", get(operations::health))
        .route("/ready", get(operations::ready))
        .route("/openapi.json", get(openapi))
        .merge(page::routes())
        .merge(keyed)
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(service.limits.body))
        .layer(from_fn_with_state(Arc::clone(&service), around))
        .with_state(service)
}

async fn openapi() -> Response {
    axum::Json(document()).into_response()
}

async fn not_found() -> Problem {
    Problem::new(Code::NotFound, "there is no such operation; see /openapi.json")
}

async fn method_not_allowed() -> Problem {
    Problem::new(Code::MethodNotAllowed, "the operation has another method; see /openapi.json")
}

/// The key of an operation.
async fn keyed(State(service): State<Arc<Service>>, request: Request, next: Next) -> Response {
    match check_key(&service.keys, request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// Origin, time, number and record of every request.
async fn around(State(service): State<Arc<Service>>, request: Request, next: Next) -> Response {
    static NUMBER: AtomicU64 = AtomicU64::new(1);
    let started = Instant::now();
    let number = format!("{:x}-{:x}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    let method = request.method().clone();
    let operation = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let operation = operation.unwrap_or_else(|| "other".into());
    let limit = service.limits.time + service.limits.upload;
    let mut response = match check_origin(service.loopback, &service.hosts, request.headers()) {
        Err(problem) => problem.into_response(),
        Ok(()) => match tokio::time::timeout(limit, next.run(request)).await {
            Ok(response) => response,
            Err(_) => {
                let detail = "the request took longer than the limit to arrive or to be answered";
                Problem::new(Code::Timeout, detail).into_response()
            }
        },
    };
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&number) {
        headers.insert("x-request-id", value);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let (status, took) = (response.status().as_u16(), started.elapsed());
    service.metrics.answered(&operation, status, took);
    let ms = took.as_millis();
    let line =
        format!("request={number} method={method} operation={operation} status={status} ms={ms}");
    // A page asks for its parts, and for each of its pictures.
    let of_page = operation == "/v1/images/{id}" || page::is_part(&operation);
    match of_page && status == 200 {
        true => tracing::debug!("{line}"),
        false => tracing::info!("{line}"),
    }
    response
}
