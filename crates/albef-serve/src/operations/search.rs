//! Operations on the index: search it, look through it, get its images.

use std::sync::Arc;

use albef::index::{
    Browsed, Filter, IndexQuery, IndexResults, PathPattern, browse, days_since_1970, describe,
};
use albef::inference::{SearchOptions, fit};
use albef_data::error::in_words;
use axum::Json;
use axum::extract::{Path, Query as Parameters, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{Problems, Shared, impossible, in_range, invalid};
use crate::api::*;
use crate::engine::Service;
use crate::error::{Code, Problem, Result};
use crate::input::Input;

/// Pixels along the longer side up to which an image is encoded with little loss.
const SMALL: usize = 256;
/// Pixels along the longer side of a thumbnail.
const THUMBNAIL: u32 = 320;

/// Images of the index that fit a text, images or both.
#[utoipa::path(post, path = "/v1/search", tag = "search", request_body = SearchRequest,
    responses((status = 200, body = SearchResponse), Problems))]
pub async fn search(
    State(service): Shared,
    Input(request): Input<SearchRequest>,
) -> Result<Json<SearchResponse>> {
    let _permit = service.permit(request.like.len() + request.terms.len() + 1)?;
    in_range("rerank_k", request.rerank_k, 0, 256)?;
    if let Some(bad) = request.terms.iter().find(|term| !term.weight.is_finite()) {
        return Err(invalid(format!("the weight of `{}` is no number", bad.text)));
    }
    let (model, _) = service.model(None)?;
    let like = service.images(model, request.like).await?;
    let terms = request.terms.into_iter().map(|term| (term.text, term.weight)).collect();
    let options = options(request.top_k, request.page)?.rerank_k(request.rerank_k);
    let filter = filter(request.filter)?;
    let query =
        IndexQuery { text: request.query, like, terms, filter, options, page: request.page };
    find(&service, query).await
}

/// Images of the index that are like one.
#[utoipa::path(post, path = "/v1/similar", tag = "search", request_body = SimilarRequest,
    responses((status = 200, body = SearchResponse), Problems))]
pub async fn similar(
    State(service): Shared,
    Input(request): Input<SimilarRequest>,
) -> Result<Json<SearchResponse>> {
    let _permit = service.permit(1)?;
    let options = options(request.top_k, request.page)?.rerank_k(0);
    let (model, _) = service.model(None)?;
    let like = service.images(model, vec![request.image]).await?;
    let filter = filter(request.filter)?;
    let query =
        IndexQuery { text: None, like, terms: Vec::new(), filter, options, page: request.page };
    find(&service, query).await
}

fn options(top_k: usize, page: usize) -> Result<SearchOptions> {
    in_range("top_k", top_k, 1, 200)?;
    in_range("page", page, 1, 10_000)?;
    Ok(SearchOptions::default().top_k(top_k))
}

async fn find(service: &Arc<Service>, mut query: IndexQuery) -> Result<Json<SearchResponse>> {
    query.options.threshold = Some(service.threshold);
    let store = Arc::clone(&service.index()?.store);
    let (model, pipeline) = service.model(None)?;
    let encoder = model.encoder().ok_or_else(|| invalid("this model has no features".into()))?;
    let unknown = query.text.as_deref().is_some_and(|text| pipeline.is_unknown(text));
    let run = move |control: &albef::Control| encoder.search(&*store, &query, control);
    let found: IndexResults = service.run(model, run).await?;
    let first = found.page == 1;
    let hits = found.results.into_iter().map(|hit| Hit {
        id: hit.id,
        name: hit.image,
        cosine: hit.cosine,
        probability: hit.probability,
        score: hit.score,
        width: hit.width,
        height: hit.height,
        date: hit.date,
        camera: hit.camera,
        copies: hit.copies.len(),
    });
    Ok(Json(SearchResponse {
        results: hits.collect(),
        gallery: found.gallery,
        page: found.page,
        more: found.more,
        order: found.order.to_owned(),
        nothing_matches: first && found.verdict.nothing_matches,
        threshold: service.threshold,
        truncated: found.truncated,
        unknown,
    }))
}

fn filter(input: FilterInput) -> Result<Filter> {
    let patterns = input.paths.iter().map(|pattern| PathPattern::new(pattern));
    let paths = patterns.collect::<Result<Vec<_>, _>>().map_err(|e| impossible(e.to_string()))?;
    let size = |pixels: Option<u32>| pixels.unwrap_or(0);
    let at_least = (size(input.min_width), size(input.min_height));
    Ok(Filter {
        paths,
        from: input.from.as_deref().map(day).transpose()?,
        before: input.before.as_deref().map(day).transpose()?,
        at_least: (at_least != (0, 0)).then_some(at_least),
        camera: input.camera.filter(|camera| !camera.is_empty()),
        ..Filter::default()
    })
}

/// Seconds from 1970 to a day.
fn day(text: &str) -> Result<i64> {
    let parts: Vec<i64> = text.split('-').filter_map(|part| part.parse().ok()).collect();
    let days = match (&parts[..], text.len()) {
        ([year, month, day], 10) => days_since_1970(*year, *month, *day),
        _ => None,
    };
    days.map(|days| days * 86_400)
        .ok_or_else(|| invalid(format!("`{text}` is no day, as 2024-12-31 is one")))
}

/// Which images are listed.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ListParameters {
    /// Only the image of this number.
    id: Option<i64>,
    /// The page, from 1.
    #[param(minimum = 1, maximum = 10000)]
    page: Option<usize>,
    /// Images of a page.
    #[param(minimum = 1, maximum = 200)]
    top_k: Option<usize>,
    /// A pattern of paths (`*.jpg`, `2024/**`).
    path: Option<String>,
    /// The first day, `YYYY-MM-DD`.
    #[param(format = Date)]
    from: Option<String>,
    /// The day after the last, `YYYY-MM-DD`.
    #[param(format = Date)]
    before: Option<String>,
    /// Columns at least.
    #[param(format = Int64, minimum = 0, maximum = 4_294_967_295_u64)]
    min_width: Option<u32>,
    /// Rows at least.
    #[param(format = Int64, minimum = 0, maximum = 4_294_967_295_u64)]
    min_height: Option<u32>,
    /// A part of the camera's name.
    camera: Option<String>,
}

/// Images of the index without a search, latest first.
#[utoipa::path(get, path = "/v1/images", tag = "search", params(ListParameters),
    responses((status = 200, body = ImagesResponse), Problems))]
pub async fn images(
    State(service): Shared,
    list: Result<Parameters<ListParameters>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<ImagesResponse>> {
    let Parameters(list) = list.map_err(|e| {
        invalid(in_words(&e.body_text().replace("Failed to deserialize query string: ", "")))
    })?;
    let permit = service.permit(1)?;
    let ListParameters { id, from, before, min_width, min_height, camera, .. } = list;
    let paths = list.path.into_iter().filter(|path| !path.is_empty()).collect();
    let filter = filter(FilterInput { paths, from, before, min_width, min_height, camera })?;
    let (page, top_k) = (list.page.unwrap_or(1), list.top_k.unwrap_or(24));
    options(top_k, page)?;
    let store = Arc::clone(&service.index()?.store);
    let find = move || {
        // Held for as long as it works, whether somebody waits for it or not.
        let _permit = permit;
        match id {
            Some(id) => {
                let images = describe(&*store, id)?.into_iter().collect();
                let gallery = store.info()?.images;
                Ok(Browsed { images, gallery, more: false })
            }
            None => browse(&*store, &filter, page, top_k),
        }
    };
    let found: albef::Result<Browsed> = tokio::task::spawn_blocking(find)
        .await
        .map_err(|_| Problem::new(Code::Internal, "the index cannot be read"))?;
    let found = found?;
    let results = found.images.into_iter().map(|image| IndexImage {
        id: image.id,
        name: image.image,
        width: image.width,
        height: image.height,
        date: image.date,
        camera: image.camera,
    });
    Ok(Json(ImagesResponse {
        results: results.collect(),
        gallery: found.gallery,
        page,
        more: found.more,
    }))
}

/// How large an image is wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct SizeParameters {
    /// Pixels along the longer side at most.
    #[param(minimum = 16, maximum = 2048)]
    size: Option<u32>,
}

/// An image of the index as JPEG, upright and no larger than asked for.
#[utoipa::path(get, path = "/v1/images/{id}", tag = "search",
    params(("id" = i64, Path, description = "Its number in the index"), SizeParameters),
    responses((status = 200, content_type = "image/jpeg", body = Vec<u8>), Problems))]
pub async fn image(
    State(service): Shared,
    id: Result<Path<i64>, axum::extract::rejection::PathRejection>,
    size: Result<Parameters<SizeParameters>, axum::extract::rejection::QueryRejection>,
) -> Result<Response> {
    let Path(id) = id.map_err(|_| invalid("the number of an image is a whole number".into()))?;
    let Parameters(SizeParameters { size }) = size.map_err(|e| invalid(e.body_text()))?;
    let side = size.unwrap_or(THUMBNAIL);
    in_range("size", side as usize, 16, 2048)?;
    let (model, _) = service.model(None)?;
    let found = service.image(model, ImageInput::Id(ImageNumber { id })).await?;
    let encode = move || {
        let image = fit(&found, side as usize);
        // The edges of icons suffer most, and cost little.
        let quality = if image.width.max(image.height) <= SMALL { 95 } else { 85 };
        albef_data::image::jpeg(&image, quality)
    };
    let bytes = tokio::task::spawn_blocking(encode).await;
    let bytes = bytes.ok().and_then(Result::ok).ok_or_else(|| {
        Problem::new(Code::InvalidImage, format!("image {id} cannot be encoded as JPEG"))
    })?;
    let headers =
        [(header::CONTENT_TYPE, "image/jpeg"), (header::CACHE_CONTROL, "private, max-age=600")];
    Ok((headers, bytes).into_response())
}

/// What the index holds.
#[utoipa::path(get, path = "/v1/index", tag = "search",
    responses((status = 200, body = IndexResponse), Problems))]
pub async fn index(State(service): Shared) -> Result<Json<IndexResponse>> {
    let info = service.index()?.store.info().map_err(albef::Error::from)?;
    let (images, broken, width) = (info.images, info.broken, info.width);
    let (generation, bytes) = (info.generation, info.bytes);
    Ok(Json(IndexResponse { images, broken, width, generation, bytes }))
}
