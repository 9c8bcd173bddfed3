//! The goals of experiments in web pages.

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH};
use hyper::{Response, StatusCode};

use super::unavailable;
use crate::goals::Answer;
use crate::server::Server;
use crate::server::authorized_request::AuthorizedRequest;
use crate::server::body::Body;
use crate::server::polling::{matches, weak_tag};
use crate::server::refusals::Refusal;
use crate::server::responses::{empty, json};
use crate::server::routes::Auth;

const AWAY: &str = "LaunchDarkly cannot be reached for the goals";

/// The goals where there is no LaunchDarkly to ask.
const NONE: &[u8] = b"[]";

impl Server {
    /// Answers with the goals of an environment.
    pub(super) async fn goals(&self, asked: &AuthorizedRequest<'_>) -> Response<Body> {
        let (Some(proxy), Auth::EnvironmentId(_)) = (&self.goals, &asked.auth) else {
            return json(StatusCode::OK, Bytes::from_static(NONE));
        };
        let spec = asked.access.environment.spec();
        let Some(id) = &spec.credentials.environment_id else {
            return json(StatusCode::OK, Bytes::from_static(NONE));
        };
        let goals = match proxy.get(id).await {
            Answer::Goals(goals) => goals,
            Answer::Refused(status) => return empty(status),
            Answer::Away => return unavailable(Refusal::Away, AWAY),
        };
        let headers = asked.request.headers();
        let mut known = headers.get_all(IF_NONE_MATCH).iter();
        let tag = goals.etag.as_ref().and_then(opaque);
        if let Some(tag) = tag
            && known.any(|known| matches(known, tag))
        {
            let mut response = self.not_modified();
            response.headers_mut().extend(weak_tag(tag).map(|tag| (ETAG, tag)));
            return response;
        }
        let encoded = self.encode(headers, goals.body.clone(), None).await;
        let mut response = Response::new(Body::from(encoded.body.clone()));
        encoded.describe(response.headers_mut());
        response.headers_mut().insert(CONTENT_TYPE, goals.content_type.clone());
        response.headers_mut().extend(tag.and_then(weak_tag).map(|tag| (ETAG, tag)));
        response
    }
}

/// A tag without quotes.
fn opaque(tag: &HeaderValue) -> Option<&str> {
    let tag = tag.to_str().ok()?;
    tag.strip_prefix("W/").unwrap_or(tag).strip_prefix('"')?.strip_suffix('"')
}
