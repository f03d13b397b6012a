//! The operations: a request to its answer.

use std::sync::Arc;

use albef::Image;
use albef::inference::{ExtractOptions, fit};
use albef::task::{Query, checked_answers, distinct};
use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use utoipa::IntoResponses;

use crate::api::*;
use crate::engine::Service;
use crate::error::{Code, Problem, Result};
use crate::input::Input;

pub mod search;

type Shared = State<Arc<Service>>;

/// Pixels along the longer side of an image under a heat map.
const SHOWN: usize = 768;

/// Answers that every operation may give besides its own.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "read by the derivation of the document")]
pub enum Problems {
    /// The body is not what the operation reads.
    #[response(status = 400, content_type = "application/problem+json")]
    BadRequest(Problem),
    /// A key is needed.
    #[response(status = 401, content_type = "application/problem+json")]
    Unauthorized(Problem),
    /// The request comes from another page or is for another host.
    #[response(status = 403, content_type = "application/problem+json")]
    Forbidden(Problem),
    /// There is no such image or model.
    #[response(status = 404, content_type = "application/problem+json")]
    NotFound(Problem),
    /// The body, or the number of its items, is beyond the limits.
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(Problem),
    /// The body is of a type that is not read.
    #[response(status = 415, content_type = "application/problem+json")]
    UnsupportedMediaType(Problem),
    /// An image cannot be decoded, or a text has no words.
    #[response(status = 422, content_type = "application/problem+json")]
    Unprocessable(Problem),
    /// All permits are taken; `Retry-After` says when to come back.
    #[response(status = 429, content_type = "application/problem+json")]
    Busy(Problem),
    /// The answer took too long, or the service is starting or stopping.
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(Problem),
}

/// Features of images, texts and pairs.
#[utoipa::path(post, path = "/v1/embed", tag = "features", request_body = EmbedRequest,
    responses((status = 200, body = EmbedResponse), Problems))]
pub async fn embed(
    State(service): Shared,
    Input(request): Input<EmbedRequest>,
) -> Result<Json<EmbedResponse>> {
    let EmbedRequest { model, images, texts, pairs } = request;
    let _permit = service.permit(images.len() + texts.len() + pairs.len())?;
    let (model, pipeline) = service.model(model.as_deref())?;
    let images = service.images(model, images).await?;
    let images = service.embed_images(model, images).await?;
    let texts = service.embed_texts(model, texts).await?;
    let (inputs, words): (Vec<_>, Vec<_>) = pairs.into_iter().map(|p| (p.image, p.text)).unzip();
    let of_pairs = service.images(model, inputs).await?;
    let pairs = match of_pairs.is_empty() {
        true => Vec::new(),
        false => {
            let options = ExtractOptions::default().projected(false);
            let run = move |_: &_| pipeline.extract_pairs(&of_pairs, &words, options);
            service.run(model, run).await?.into_iter().map(|rows| rows.values).collect()
        }
    };
    Ok(Json(EmbedResponse { model: model.name.clone(), images, texts, pairs }))
}

/// Features in the shape that clients of other embedding services send and read.
#[utoipa::path(post, path = "/v1/embeddings", tag = "features", request_body = EmbeddingsRequest,
    responses((status = 200, body = EmbeddingsResponse), Problems))]
pub async fn embeddings(
    State(service): Shared,
    Input(request): Input<EmbeddingsRequest>,
) -> Result<Json<EmbeddingsResponse>> {
    let (texts, images) = match request.input {
        EmbeddingsInput::One(text) => (vec![text], Vec::new()),
        EmbeddingsInput::Texts(texts) => (texts, Vec::new()),
        EmbeddingsInput::Images(images) => (Vec::new(), images),
    };
    let _permit = service.permit(texts.len() + images.len())?;
    // Clients name models of other services by habit.
    let own = |name: &&str| service.models.iter().any(|m| m.name == *name);
    let (model, pipeline) = service.model(request.model.as_deref().filter(own))?;
    if let Some(other) = request.dimensions.filter(|n| *n != pipeline.embed_dim()) {
        let own = pipeline.embed_dim();
        return Err(invalid(format!(
            "`dimensions` is {other}; features of `{}` have {own} values, and shorter ones are not made",
            model.name
        )));
    }
    let tokens = texts.iter().map(|text| pipeline.tokens(text).len()).sum();
    let images = service.images(model, images).await?;
    let mut rows = service.embed_texts(model, texts).await?;
    rows.extend(service.embed_images(model, images).await?);
    let written = |row: Vec<f32>| match request.encoding_format {
        Encoding::Float => EmbeddingValue::Float(row),
        Encoding::Base64 => {
            let bytes: Vec<u8> = row.iter().flat_map(|v| v.to_le_bytes()).collect();
            EmbeddingValue::Base64(STANDARD.encode(bytes))
        }
    };
    let data = rows.into_iter().enumerate().map(|(index, row)| Embedding {
        object: "embedding".into(),
        index,
        embedding: written(row),
    });
    Ok(Json(EmbeddingsResponse {
        object: "list".into(),
        data: data.collect(),
        model: model.name.clone(),
        usage: Usage { prompt_tokens: tokens, total_tokens: tokens },
    }))
}

fn invalid(detail: String) -> Problem {
    Problem::new(Code::InvalidRequest, detail)
}

fn impossible(detail: impl Into<String>) -> Problem {
    Problem::new(Code::InvalidArgument, detail)
}

fn in_range(name: &str, value: usize, from: usize, to: usize) -> Result<()> {
    match (from..=to).contains(&value) {
        true => Ok(()),
        false => Err(invalid(format!("`{name}` is {value}; it must be from {from} to {to}"))),
    }
}

/// How well a text fits an image.
#[utoipa::path(post, path = "/v1/match", tag = "pairs", request_body = MatchRequest,
    responses((status = 200, body = MatchResponse), Problems))]
pub async fn match_pair(
    State(service): Shared,
    Input(request): Input<MatchRequest>,
) -> Result<Json<MatchResponse>> {
    let _permit = service.permit(1)?;
    let (model, pipeline) = service.model(request.model.as_deref())?;
    let image = service.image(model, request.image).await?;
    let run = move |_: &_| pipeline.match_text(&[image], &request.text);
    let found = service.run(model, run).await?;
    let found = found.first().ok_or_else(|| invalid("there is no image".into()))?;
    Ok(Json(MatchResponse { cosine: found.cosine, probability: found.probability }))
}

/// Candidates by how well they fit a query; the shape is that of text-embeddings-inference, with images.
#[utoipa::path(post, path = "/rerank", tag = "pairs", request_body = RerankRequest,
    responses((status = 200, body = Vec<Ranked>), Problems))]
pub async fn rerank(
    State(service): Shared,
    Input(request): Input<RerankRequest>,
) -> Result<Json<Vec<Ranked>>> {
    let RerankRequest { query, query_image, texts, images, raw_scores, return_text, .. } = request;
    let _permit = service.permit(texts.len() + images.len() + 1)?;
    let (model, pipeline) = service.model(request.model.as_deref())?;
    let score = move |m: &albef::inference::Match| match raw_scores {
        true => f64::from(m.itm_logit),
        false => m.probability,
    };
    let scores: Vec<f64> = match (query, query_image, texts.is_empty(), images.is_empty()) {
        (Some(query), None, true, false) => {
            let images = service.images(model, images).await?;
            let run = move |_: &_| pipeline.match_text(&images, &query);
            service.run(model, run).await?.iter().map(score).collect()
        }
        (None, Some(query), false, true) => {
            let (image, texts) = (service.image(model, query).await?, texts.clone());
            let run = move |control: &albef::Control| {
                let mut found = Vec::with_capacity(texts.len());
                for text in &texts {
                    control.check()?;
                    found.extend(pipeline.match_text(std::slice::from_ref(&image), text)?);
                }
                Ok(found)
            };
            service.run(model, run).await?.iter().map(score).collect()
        }
        (Some(query), None, false, true) => {
            let all = [vec![query], texts.clone()].concat();
            let rows = service.embed_texts(model, all).await?;
            let (query, rows) = rows.split_first().ok_or_else(|| invalid("no query".into()))?;
            let cosine = |row: &Vec<f32>| -> f64 {
                query.iter().zip(row).map(|(a, b)| f64::from(a * b)).sum()
            };
            rows.iter().map(cosine).collect()
        }
        _ => {
            let detail = "give `query` with `images` or `texts`, or `query_image` with `texts`";
            return Err(impossible(detail));
        }
    };
    let mut ranked: Vec<Ranked> = scores
        .into_iter()
        .enumerate()
        .map(|(index, score)| {
            let text = texts.get(index).filter(|_| return_text).cloned();
            Ranked { index, score, text }
        })
        .collect();
    ranked.sort_by(|a, b| b.score.total_cmp(&a.score));
    Ok(Json(ranked))
}

/// Which of some labels fits an image, without training.
#[utoipa::path(post, path = "/v1/classify", tag = "pairs", request_body = ClassifyRequest,
    responses((status = 200, body = ClassifyResponse), Problems))]
pub async fn classify(
    State(service): Shared,
    Input(request): Input<ClassifyRequest>,
) -> Result<Json<ClassifyResponse>> {
    let _permit = service.permit(request.labels.len())?;
    let (model, pipeline) = service.model(request.model.as_deref())?;
    let labels = distinct("label", request.labels);
    let image = service.image(model, request.image).await?;
    let options = pipeline.classify_options();
    let run = move |_: &_| pipeline.classify(&image, &labels, &options);
    let found = service.run(model, run).await?;
    let classes = found.classes.into_iter().map(|class| ClassResult {
        label: class.label,
        probability: class.probability,
        match_probability: class.match_probability,
    });
    Ok(Json(ClassifyResponse { classes: classes.collect() }))
}

/// Where in an image a phrase, and each of its words, is.
#[utoipa::path(post, path = "/v1/ground", tag = "pairs", request_body = GroundRequest,
    responses((status = 200, body = GroundResponse), Problems))]
pub async fn ground(
    State(service): Shared,
    Input(request): Input<GroundRequest>,
) -> Result<Json<GroundResponse>> {
    let _permit = service.permit(1)?;
    let (model, pipeline) = service.model(request.model.as_deref())?;
    let image = service.image(model, request.image).await?;
    let run = move |control: &albef::Control| {
        let shown: Image = fit(&image, SHOWN);
        let options = pipeline.ground_options(request.words);
        let found = pipeline.ground(&shown, &request.phrase, &options)?;
        let overlay = STANDARD.encode(found.render(&shown)?);
        let mut words = Vec::new();
        for (i, word) in found.words.iter().enumerate() {
            control.check()?;
            let overlay = STANDARD.encode(found.render_word(&shown, i)?);
            words.push(WordResult { word: word.word.clone(), map: word.map.clone(), overlay });
        }
        let scale = image.width as f64 / shown.width.max(1) as f64;
        let region = found.region.map(|region| region.map(|side| side * scale));
        Ok(GroundResponse { grid: found.grid, map: found.map, region, overlay, words })
    };
    Ok(Json(service.run(model, run).await?))
}

/// The answer to a question about an image.
#[utoipa::path(post, path = "/v1/ask", tag = "questions", request_body = AskRequest,
    responses((status = 200, body = AnswerResponse), Problems))]
pub async fn ask(
    State(service): Shared,
    Input(request): Input<AskRequest>,
) -> Result<Json<AnswerResponse>> {
    let _permit = service.permit(1)?;
    in_range("top_k", request.top_k, 1, 200)?;
    // Without a model, answers would help nothing.
    let (_, model) = service.model_of("vqa", request.model.as_deref())?;
    let answers = match request.answers.is_empty() {
        true => service.answers.clone(),
        false => checked_answers(request.answers, "answers")?,
    };
    if answers.is_empty() && model.defaults.answers.is_empty() {
        return Err(impossible(
            "give candidate `answers`; neither the service nor the model has a list of its own",
        ));
    }
    let query = Query { answers, top_k: request.top_k, ..texted(&request.question)? };
    let images = vec![request.image];
    answered(service.predict("vqa", request.model.as_deref(), images, query).await?)
}

/// Whether an image entails or contradicts a sentence.
#[utoipa::path(post, path = "/v1/entail", tag = "questions", request_body = EntailRequest,
    responses((status = 200, body = AnswerResponse), Problems))]
pub async fn entail(
    State(service): Shared,
    Input(request): Input<EntailRequest>,
) -> Result<Json<AnswerResponse>> {
    let _permit = service.permit(1)?;
    let query = texted(&request.sentence)?;
    let images = vec![request.image];
    answered(service.predict("ve", request.model.as_deref(), images, query).await?)
}

/// Whether a statement about two images is true.
#[utoipa::path(post, path = "/v1/reason", tag = "questions", request_body = ReasonRequest,
    responses((status = 200, body = AnswerResponse), Problems))]
pub async fn reason(
    State(service): Shared,
    Input(request): Input<ReasonRequest>,
) -> Result<Json<AnswerResponse>> {
    let _permit = service.permit(2)?;
    let query = texted(&request.statement)?;
    let images = vec![request.left, request.right];
    answered(service.predict("nlvr", request.model.as_deref(), images, query).await?)
}

fn texted(text: &str) -> Result<Query> {
    match text.trim().is_empty() {
        true => Err(albef::Error::EmptyText.into()),
        false => Ok(Query::new(Vec::new(), text)),
    }
}

fn answered((model, choices): (String, Vec<(String, f32)>)) -> Result<Json<AnswerResponse>> {
    let answers =
        choices.into_iter().map(|(answer, probability)| Answer { answer, probability }).collect();
    Ok(Json(AnswerResponse { model, answers }))
}

/// The models of the service.
#[utoipa::path(get, path = "/v1/models", tag = "service",
    responses((status = 200, body = ModelsResponse), Problems))]
pub async fn models(State(service): Shared) -> Json<ModelsResponse> {
    let data = service.models.iter().map(|model| ModelInfo {
        id: model.name.clone(),
        object: "model".into(),
        task: model.task.name().to_owned(),
        image_res: model.image_res,
        about: model.about.clone(),
        match_reliable: model.match_reliable || service.trusts_match,
    });
    Json(ModelsResponse { object: "list".into(), data: data.collect() })
}

/// Whether the service runs.
#[utoipa::path(get, path = "/health", tag = "service",
    responses((status = 200, body = HealthResponse)))]
pub async fn health() -> Json<HealthResponse> {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Json(HealthResponse { status: "ok".into(), version })
}

/// Whether its models have answered once.
#[utoipa::path(get, path = "/ready", tag = "service",
    responses((status = 200, body = HealthResponse), Problems))]
pub async fn ready(State(service): Shared) -> Result<Json<HealthResponse>> {
    match service.ready.load(std::sync::atomic::Ordering::SeqCst) {
        true => Ok(health().await),
        false => Err(Problem::new(Code::Unavailable, "the models are not ready yet")),
    }
}

/// Counters and histograms for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "service",
    responses((status = 200, content_type = "text/plain", body = String), Problems))]
pub async fn metrics(State(service): Shared) -> Response {
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    (kind, service.metrics.text()).into_response()
}
