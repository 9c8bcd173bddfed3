//! Responses that do not depend on data. An internal error is never a body.

use std::ops::RangeInclusive;

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};

use super::body::Body;
use super::refusals::Refusal;

/// Seconds after which a client that got 503 may retry. Spread, so that clients that were refused
/// together do not retry together.
const RETRY_AFTER_SECONDS: RangeInclusive<u16> = 2..=5;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");

pub(super) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

pub(super) fn text(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, TEXT);
    response
}

/// 503 with `Retry-After`.
pub(super) fn unavailable(refusal: Refusal) -> Response<Body> {
    retry_later(text(StatusCode::SERVICE_UNAVAILABLE, refusal.text()), refusal)
}

/// Adds `Retry-After`, and the reason to be counted.
pub(super) fn retry_later(mut response: Response<Body>, refusal: Refusal) -> Response<Body> {
    response.extensions_mut().insert(refusal);
    with_retry_after(response)
}

/// Adds `Retry-After`.
pub(super) fn with_retry_after(mut response: Response<Body>) -> Response<Body> {
    let seconds = fastrand::u16(RETRY_AFTER_SECONDS);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    response
}

pub(super) fn json(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::from(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// The answer of Go's router to a path it does not know (ld-relay v8).
pub(super) fn not_found() -> Response<Body> {
    let mut response = text(StatusCode::NOT_FOUND, "404 page not found\n");
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}
