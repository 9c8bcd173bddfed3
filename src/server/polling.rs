//! Polling for server-side SDKs: all data, flags only, single items, each with an ETag.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, ETAG, EXPIRES, HeaderValue, IF_NONE_MATCH, VARY};
use hyper::{Response, StatusCode};

use super::Server;
use super::authorized_request::AuthorizedRequest;
use super::body::Body;
use super::compression::Encoded;
use super::refusals::Refusal;
use super::responses::{JSON, empty, unavailable};
use super::streaming::{Needed, TurnTaken};
use super::turns::Payload;
use crate::model::ItemKey;
use crate::streams::Snapshot;

/// Time from 1970 to the beginning of the year 10,000.
const YEAR_10_000: Duration = Duration::from_secs(253_402_300_800);

/// Data that a poll asks for.
pub(super) enum Poll {
    /// Flags and segments.
    LatestAll,
    /// The map of flags.
    LatestFlags,
    /// One flag or segment.
    Item(ItemKey),
}

impl Server {
    /// Answers a poll; `Err` if its credential is refused after a wait.
    pub(super) async fn poll(
        &self,
        asked: &mut AuthorizedRequest<'_>,
        poll: &Poll,
    ) -> Result<Response<Body>, Response<Body>> {
        let Some(mut snapshot) = asked.access.environment.hub.snapshot() else {
            return Ok(unavailable(Refusal::NoData));
        };
        if let Some(short) = self.short_answer(asked, &snapshot, poll) {
            return Ok(short);
        }
        let mut encoded = self.encoded(asked, &snapshot, poll).await;
        let turn = match self.turn(asked, Needed::Payload(encoded.body.len())).await? {
            TurnTaken::NotNeeded => None,
            TurnTaken::Busy(busy) => return Ok(busy),
            TurnTaken::Taken(turn) => {
                // The data may have changed during the wait.
                match asked.access.environment.hub.snapshot() {
                    Some(newest) => snapshot = newest,
                    None => return Ok(unavailable(Refusal::NoData)),
                }
                if let Some(short) = self.short_answer(asked, &snapshot, poll) {
                    return Ok(short);
                }
                encoded = self.encoded(asked, &snapshot, poll).await;
                Some(turn)
            }
        };
        let environment = &asked.access.environment;
        // The turn lasts until the client has taken the body, not only until it was built.
        let body = encoded.body.clone();
        let body = Payload::new(body, &snapshot.data, turn, asked.pace, environment.hub.versions());
        let mut response = cached_for(environment.spec().ttl, Response::new(Body::Full(body)));
        encoded.describe(response.headers_mut());
        response.headers_mut().insert(CONTENT_TYPE, JSON);
        let tag = tag(&snapshot, poll).and_then(|tag| weak_tag(&tag));
        response.headers_mut().extend(tag.map(|tag| (ETAG, tag)));
        Ok(response)
    }

    /// The body of an answer in the form that the client accepts.
    async fn encoded(
        &self,
        asked: &AuthorizedRequest<'_>,
        snapshot: &Snapshot,
        poll: &Poll,
    ) -> Encoded {
        let shared = match poll {
            Poll::LatestAll => Some(&snapshot.latest_all_gzip),
            Poll::LatestFlags => Some(&snapshot.latest_flags_gzip),
            Poll::Item(_) => None,
        };
        self.encode(asked.request.headers(), body(snapshot, poll), shared).await
    }

    /// The answer if it has no body: there is no such item, or the client has the newest.
    fn short_answer(
        &self,
        asked: &AuthorizedRequest<'_>,
        snapshot: &Snapshot,
        poll: &Poll,
    ) -> Option<Response<Body>> {
        let Some(tag) = tag(snapshot, poll) else { return Some(empty(StatusCode::NOT_FOUND)) };
        let mut known = asked.request.headers().get_all(IF_NONE_MATCH).iter();
        known.any(|known| matches(known, &tag)).then(|| {
            let ttl = asked.access.environment.spec().ttl;
            // Without a tag, as ld-relay v8.
            cached_for(ttl, self.not_modified())
        })
    }

    /// An answer that says so: caches may keep one for each encoding.
    pub(super) fn not_modified(&self) -> Response<Body> {
        let mut response = empty(StatusCode::NOT_MODIFIED);
        if self.compressors.is_some() {
            response.headers_mut().append(VARY, HeaderValue::from_static("Accept-Encoding"));
        }
        response
    }
}

/// The header for a tag. It is weak, because the tag does not tell encodings apart.
pub(super) fn weak_tag(tag: &str) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("W/\"{tag}\"")).ok()
}

/// Tag that changes with the answer; `None` if there is no such item.
fn tag(snapshot: &Snapshot, poll: &Poll) -> Option<String> {
    match poll {
        Poll::LatestAll => Some(format!("a-{}", snapshot.etag())),
        Poll::LatestFlags => Some(format!("f-{}", snapshot.etag())),
        // ld-relay v8: the version alone.
        Poll::Item(key) => snapshot
            .data
            .item(key)
            .filter(|item| !item.is_tombstone())
            .map(|item| item.version.to_string()),
    }
}

fn body(snapshot: &Snapshot, poll: &Poll) -> Bytes {
    match poll {
        Poll::LatestAll => snapshot.latest_all().clone(),
        Poll::LatestFlags => snapshot.latest_flags().clone(),
        Poll::Item(key) => {
            snapshot.data.item(key).and_then(|item| item.json.clone()).unwrap_or_default()
        }
    }
}

/// True if a client holds the current answer. Accepts the quoted form, weak or strong, and ld-relay
/// v8's own, alone or in a list, and `*`.
pub(super) fn matches(known: &HeaderValue, tag: &str) -> bool {
    let Ok(known) = known.to_str() else { return false };
    known.split(',').map(str::trim).any(|one| {
        let opaque = one.strip_prefix("W/").unwrap_or(one);
        let quoted = opaque.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        one == "*" || quoted == Some(tag) || one.strip_prefix("relay-") == Some(tag)
    })
}

/// Adds the cache headers of an environment with a lifetime (ld-relay v8; PHP SDKs obey them).
fn cached_for(ttl: Duration, mut response: Response<Body>) -> Response<Body> {
    if !ttl.is_zero() {
        // The lifetime from LaunchDarkly may be too long for a date.
        let expires = SystemTime::now().checked_add(ttl).and_then(http_date);
        if let Some(Ok(expires)) = expires.map(HeaderValue::try_from) {
            response.headers_mut().insert(EXPIRES, expires);
        }
        response.headers_mut().append(VARY, HeaderValue::from_static("Authorization"));
    }
    response
}

/// A moment in the form of HTTP headers; `None` after the year 9999, for which there is no form.
fn http_date(at: SystemTime) -> Option<String> {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    (since < YEAR_10_000).then(|| httpdate::fmt_http_date(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_has_a_form_until_the_year_9999() {
        let date = |seconds| http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(date(784_111_777).as_deref(), Some("Sun, 06 Nov 1994 08:49:37 GMT"));
        assert_eq!(date(253_402_300_799).as_deref(), Some("Fri, 31 Dec 9999 23:59:59 GMT"));
        assert_eq!(date(253_402_300_800), None);
    }

    #[test]
    fn a_lifetime_without_end_is_no_date() {
        let expires = |ttl| {
            let response = cached_for(ttl, empty(StatusCode::OK));
            response.headers().contains_key(EXPIRES)
        };
        assert!(expires(Duration::from_secs(60)));
        assert!(!expires(Duration::ZERO));
        assert!(!expires(Duration::MAX));
    }

    #[test]
    fn tags_of_both_relay_generations_are_understood() {
        let check = |known: &str, expected: bool| {
            assert_eq!(matches(&HeaderValue::try_from(known).unwrap(), "12"), expected, "{known}");
        };
        for known in ["W/\"12\"", "\"12\"", "relay-12", "\"9\", W/\"12\"", "*"] {
            check(known, true);
        }
        for known in ["12", "W/\"13\"", "relay-13", "", "W/12", "\"12"] {
            check(known, false);
        }
    }
}
