//! Events of SDKs: answered at once, forwarded later.

use std::io::Read;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use hyper::body::Body as HttpBody;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};

use super::report;
use crate::events::{Audience, Destination, Kind, Posted, Sender, is_unsummarized, payload_id};
use crate::server::Server;
use crate::server::authorized_request::AuthorizedRequest;
use crate::server::body::Body;
use crate::server::not_built::Feature;
use crate::server::refusals::Refusal;
use crate::server::responses::{empty, retry_later, text};
use crate::server::routes::{Auth, EventForm};
use crate::server::selection::query_value;
use crate::tasks;

const EMPTY: &str = "The body has no events";
const TOO_LARGE: &str = "The body is larger than the relay allows (maxInboundPayloadSize)";
const BROKEN: &str = "The body cannot be decompressed";
const BUSY: &str = "Too many events wait at this moment";

/// A transparent image of one pixel, with which pages without scripts send events.
const IMAGE: &[u8] = b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff!\xf9\x04\x01\0\0\0\0,\
    \0\0\0\0\x01\0\x01\0\0\x02\x01D\0;";

impl Server {
    /// Takes events, and answers before anything is done with them.
    pub(super) async fn events<B>(
        &self,
        asked: &mut AuthorizedRequest<'_>,
        body: &mut B,
        form: EventForm,
    ) -> Result<Response<Body>, Response<Body>>
    where
        B: HttpBody + Unpin,
    {
        if self.settings.is_offline {
            // They go nowhere (ld-relay v8).
            return Ok(accepted(form));
        }
        let Some(events) = &self.events else {
            return Err(self.not_built(asked, Feature::Events));
        };
        let headers = asked.request.headers();
        let (body, sender) = match form {
            EventForm::Analytics | EventForm::Diagnostic => {
                let body = self.event_body(asked, body).await?;
                // The key may have been revoked meanwhile.
                asked.access = self.select_now(asked.request, &asked.auth)?;
                (body, Sender::of(headers))
            }
            EventForm::Image => {
                let given = query_value(asked.request.uri().query(), "d");
                // What cannot be decoded is ignored, as in ld-relay.
                let decoded = STANDARD.decode(given.as_bytes()).unwrap_or_default();
                if decoded.is_empty() {
                    return Ok(accepted(form));
                }
                (Bytes::from(decoded), Sender::of_image(headers))
            }
        };
        let posted = Posted {
            destination: Destination {
                environment: asked.access.environment.reference.clone(),
                audience: match asked.auth {
                    Auth::Sdk => Audience::Server,
                    Auth::Mobile => Audience::Mobile,
                    Auth::EnvironmentId(_) | Auth::Client => Audience::Browser,
                },
            },
            kind: match form {
                EventForm::Analytics | EventForm::Image => Kind::Analytics,
                EventForm::Diagnostic => Kind::Diagnostic,
            },
            summarize: (form == EventForm::Analytics && is_unsummarized(headers, &sender)).then(
                || {
                    let snapshot = asked.access.environment.hub.snapshot();
                    snapshot.map_or_else(Arc::default, |snapshot| snapshot.data.clone())
                },
            ),
            sender,
            payload_id: payload_id(headers),
            body,
        };
        match events.offer(posted) {
            Ok(()) => Ok(accepted(form)),
            Err(_) => {
                let busy = text(StatusCode::SERVICE_UNAVAILABLE, BUSY);
                Err(retry_later(busy, Refusal::Busy))
            }
        }
    }

    /// The body of a request, decompressed.
    async fn event_body<B>(
        &self,
        asked: &AuthorizedRequest<'_>,
        body: &mut B,
    ) -> Result<Bytes, Response<Body>>
    where
        B: HttpBody + Unpin,
    {
        let budget = &self.event_bodies;
        let received = report::read_within(body, budget).await.map_err(|refused| {
            let is_large = refused.status() == StatusCode::PAYLOAD_TOO_LARGE;
            if is_large { text(StatusCode::BAD_REQUEST, TOO_LARGE) } else { refused }
        })?;
        let is_gzip = asked.request.headers().get(CONTENT_ENCODING).is_some_and(|it| it == "gzip");
        let body = if is_gzip {
            let (packed, bytes_max) = (received.bytes, budget.bytes_max);
            match tasks::beside(move || inflated(&packed, bytes_max)).await {
                Ok(body) => body,
                Err(Inflating::TooLarge) => return Err(text(StatusCode::BAD_REQUEST, TOO_LARGE)),
                Err(Inflating::Broken) => return Err(text(StatusCode::BAD_REQUEST, BROKEN)),
            }
        } else {
            received.bytes
        };
        if body.is_empty() { Err(text(StatusCode::BAD_REQUEST, EMPTY)) } else { Ok(body) }
    }
}

/// Why a body could not be decompressed.
enum Inflating {
    TooLarge,
    Broken,
}

/// Decompresses up to so many bytes.
fn inflated(packed: &[u8], bytes_max: usize) -> Result<Bytes, Inflating> {
    let mut body = Vec::new();
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    let reading = MultiGzDecoder::new(packed).take(limit).read_to_end(&mut body);
    reading.map_err(|_| Inflating::Broken)?;
    if body.len() > bytes_max { Err(Inflating::TooLarge) } else { Ok(body.into()) }
}

fn accepted(form: EventForm) -> Response<Body> {
    match form {
        EventForm::Analytics | EventForm::Diagnostic => empty(StatusCode::ACCEPTED),
        EventForm::Image => {
            let mut response = Response::new(Body::from(Bytes::from_static(IMAGE)));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("image/gif"));
            response
        }
    }
}
