//! What LaunchDarkly's answer means for a batch. Pure.

use std::time::{Duration, SystemTime};

use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};

/// Outcome of an attempt to send a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// LaunchDarkly has it.
    Delivered,
    /// It is too large (413).
    TooLarge,
    /// LaunchDarkly cannot read it (400).
    Invalid,
    /// The credential is refused, or the address is wrong (other 4xx).
    Refused(u16),
    /// LaunchDarkly cannot be reached, is out of order, or wants a pause.
    Failed {
        /// The pause that it wants.
        retry_after: Option<Duration>,
    },
}

impl Outcome {
    /// No answer.
    pub const UNREACHABLE: Self = Self::Failed { retry_after: None };

    /// The meaning of an answer.
    pub fn of(status: StatusCode, headers: &HeaderMap, now: SystemTime) -> Self {
        match status {
            status if status.is_success() => Self::Delivered,
            StatusCode::PAYLOAD_TOO_LARGE => Self::TooLarge,
            StatusCode::BAD_REQUEST => Self::Invalid,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                Self::Failed { retry_after: retry_after(headers, now) }
            }
            status if status.is_client_error() => Self::Refused(status.as_u16()),
            _ => Self::Failed { retry_after: retry_after(headers, now) },
        }
    }
}

/// The pause that an answer demands: seconds, or a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).ok(),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn each_status_has_a_meaning() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_764_442_000);
        let check = |status: u16, retry_after: &'static str, expected| {
            let headers = (!retry_after.is_empty())
                .then(|| (RETRY_AFTER, HeaderValue::from_static(retry_after)));
            let headers = HeaderMap::from_iter(headers);
            let outcome = Outcome::of(StatusCode::from_u16(status).unwrap(), &headers, now);
            assert_eq!(outcome, expected, "{status} {retry_after}");
        };
        let failed = |seconds: Option<u64>| Outcome::Failed {
            retry_after: seconds.map(Duration::from_secs),
        };
        check(200, "", Outcome::Delivered);
        check(202, "7", Outcome::Delivered);
        check(413, "", Outcome::TooLarge);
        check(400, "", Outcome::Invalid);
        for status in [401, 403, 404, 410, 405] {
            check(status, "", Outcome::Refused(status));
        }
        for status in [301, 302, 408, 429, 500, 503, 504] {
            check(status, "", failed(None));
        }
        check(429, "20", failed(Some(20)));
        check(503, "Sat, 29 Nov 2025 18:46:50 GMT", failed(Some(10)));
        check(503, "Sat, 29 Nov 2025 18:46:30 GMT", failed(None));
        check(503, "soon", failed(None));
    }
}
