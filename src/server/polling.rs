//! Polling for server-side SDKs: all data, flags only, single items, each with an ETag.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, ETAG, EXPIRES, HeaderValue, IF_NONE_MATCH, VARY};
use hyper::{Response, StatusCode};

use super::Server;
use super::body::Body;
use super::handlers::Asked;
use super::responses::{JSON, empty, unavailable};
use super::selection::NO_DATA;
use super::streaming::TurnTaken;
use super::turns::Payload;
use crate::model::ItemKey;
use crate::streams::Snapshot;

/// What a poll asks for.
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
        asked: &mut Asked<'_>,
        poll: &Poll,
    ) -> Result<Response<Body>, Response<Body>> {
        let Some(mut snapshot) = asked.access.environment.hub.snapshot() else {
            return Ok(unavailable(NO_DATA));
        };
        if let Some(short) = short_answer(asked, &snapshot, poll) {
            return Ok(short);
        }
        let mut body = body(&snapshot, poll);
        let turn = match self.turn(asked, body.len()).await? {
            TurnTaken::NotNeeded => None,
            TurnTaken::Busy(busy) => return Ok(busy),
            TurnTaken::Taken(turn) => {
                // The data may have changed during the wait.
                match asked.access.environment.hub.snapshot() {
                    Some(newest) => snapshot = newest,
                    None => return Ok(unavailable(NO_DATA)),
                }
                if let Some(short) = short_answer(asked, &snapshot, poll) {
                    return Ok(short);
                }
                body = self::body(&snapshot, poll);
                Some(turn)
            }
        };
        let environment = &asked.access.environment;
        // The turn lasts until the client has taken the body, not only until it was built.
        let body = Payload::new(body, turn, asked.pace, &environment.hub);
        let mut response = cached_for(environment.spec().ttl, Response::new(Body::Full(body)));
        response.headers_mut().insert(CONTENT_TYPE, JSON);
        if let Some(tag) = tag(&snapshot, poll)
            && let Ok(value) = HeaderValue::try_from(format!("W/\"{tag}\""))
        {
            response.headers_mut().insert(ETAG, value);
        }
        Ok(response)
    }
}

/// The answer if it has no body: there is no such item, or the client has the newest.
fn short_answer(asked: &Asked<'_>, snapshot: &Snapshot, poll: &Poll) -> Option<Response<Body>> {
    let Some(tag) = tag(snapshot, poll) else { return Some(empty(StatusCode::NOT_FOUND)) };
    let mut known = asked.request.headers().get_all(IF_NONE_MATCH).iter();
    let ttl = asked.access.environment.spec().ttl;
    known
        .any(|known| matches(known, &tag))
        .then(|| cached_for(ttl, empty(StatusCode::NOT_MODIFIED)))
}

/// What changes when the answer would; `None` if there is no such item.
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

/// Whether a client holds what is current. Understood are the quoted, weak form and ld-relay
/// v8's own, alone or in a list, and `*`.
fn matches(known: &HeaderValue, tag: &str) -> bool {
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
        // A lifetime beyond the end of time, which LaunchDarkly may name, has no date.
        let expires = SystemTime::now().checked_add(ttl).map(http_date);
        if let Some(Ok(expires)) = expires.map(HeaderValue::try_from) {
            response.headers_mut().insert(EXPIRES, expires);
        }
        response.headers_mut().insert(VARY, HeaderValue::from_static("Authorization"));
    }
    response
}

/// A moment in the form of HTTP headers, always GMT.
fn http_date(at: SystemTime) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let seconds = at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    // Days are counted from 1 March of the year 0 in eras of 400 years, which puts the leap day
    // last in its year.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = (shifted_month + 2) % 12;
    let year = era * 400 + year_of_era + u64::from(month < 2);
    format!(
        "{}, {day:02} {} {year} {:02}:{:02}:{:02} GMT",
        DAYS[(days % 7) as usize],
        MONTHS[month as usize],
        time / 3_600,
        time / 60 % 60,
        time % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_http() {
        let check = |seconds: u64, expected: &str| {
            assert_eq!(http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        };
        check(0, "Thu, 01 Jan 1970 00:00:00 GMT");
        check(784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT");
        check(951_827_696, "Tue, 29 Feb 2000 12:34:56 GMT");
        check(4_107_542_399, "Sun, 28 Feb 2100 23:59:59 GMT");
        check(4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT");
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
