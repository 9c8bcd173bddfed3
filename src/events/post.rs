//! Requests with analytics events, as SDKs send them. Pure.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::value::RawValue;

use crate::model::EnvironmentRef;

/// The first schema in which SDKs summarize by themselves.
const SUMMARIZED_SINCE: u32 = 3;

const SCHEMA_HEADER: HeaderName = HeaderName::from_static("x-launchdarkly-event-schema");
const UNSUMMARIZED_HEADER: HeaderName = HeaderName::from_static("x-launchdarkly-unsummarized");
const PAYLOAD_ID_HEADER: HeaderName = HeaderName::from_static("x-launchdarkly-payload-id");
const USER_AGENT_HEADER: HeaderName = HeaderName::from_static("x-launchdarkly-user-agent");
const TAGS_HEADER: HeaderName = HeaderName::from_static("x-launchdarkly-tags");
const WRAPPER_HEADER: HeaderName = HeaderName::from_static("x-launchdarkly-wrapper");

/// Whose events they are: each kind has its own address and credential at LaunchDarkly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Audience {
    /// Servers, with an SDK key.
    Server,
    /// Phones, with a mobile key.
    Mobile,
    /// Pages, with a client-side ID.
    Browser,
}

/// Where events go: an environment, under one of its credentials.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Destination {
    /// The environment.
    pub environment: EnvironmentRef,
    /// Its credential.
    pub audience: Audience,
}

/// What a request says about its events and its sender. Events with the same travel together.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sender {
    /// Version of the form of the events.
    pub schema: u32,
    /// `X-LaunchDarkly-Tags`.
    pub tags: Option<Arc<str>>,
    /// The SDK: `X-LaunchDarkly-User-Agent`, or else `User-Agent`.
    pub user_agent: Option<Arc<str>>,
    /// `X-LaunchDarkly-Wrapper`.
    pub wrapper: Option<Arc<str>>,
}

impl Sender {
    /// The sender of a request with these headers.
    pub fn of(headers: &HeaderMap) -> Self {
        let text = |name| Some(Arc::from(headers.get(name)?.to_str().ok()?));
        let schema = headers.get(SCHEMA_HEADER).and_then(|value| value.to_str().ok()?.parse().ok());
        Self {
            schema: schema.unwrap_or(0).max(1),
            tags: text(TAGS_HEADER),
            user_agent: text(USER_AGENT_HEADER).or_else(|| text(http::header::USER_AGENT)),
            wrapper: text(WRAPPER_HEADER),
        }
    }

    /// The sender of events that come as an image's address.
    pub fn of_image(headers: &HeaderMap) -> Self {
        Self { schema: SUMMARIZED_SINCE, ..Self::of(headers) }
    }

    /// The headers of events that tell LaunchDarkly.
    pub fn headers(&self) -> HeaderMap {
        let mut headers = self.sdk_headers();
        headers.insert(SCHEMA_HEADER, HeaderValue::from(self.schema));
        headers
    }

    /// The headers about the SDK.
    pub fn sdk_headers(&self) -> HeaderMap {
        let texts = [
            (TAGS_HEADER, self.tags.as_deref().map(str::to_owned)),
            (USER_AGENT_HEADER, self.user_agent.as_deref().map(str::to_owned)),
            (WRAPPER_HEADER, self.wrapper.as_deref().map(str::to_owned)),
        ];
        let value = |(name, text): (HeaderName, Option<String>)| {
            Some((name, HeaderValue::try_from(text?).ok()?))
        };
        texts.into_iter().filter_map(value).collect()
    }
}

/// A name that an SDK gave to its events, so that the same events count once.
pub fn payload_id(headers: &HeaderMap) -> Option<Arc<str>> {
    let text = headers.get(PAYLOAD_ID_HEADER)?.to_str().ok()?;
    (!text.is_empty()).then(|| text.into())
}

/// True if the relay has to summarize the events, because the SDK (an old one, or PHP's) does not.
pub fn is_unsummarized(headers: &HeaderMap, sender: &Sender) -> bool {
    sender.schema < SUMMARIZED_SINCE || headers.contains_key(UNSUMMARIZED_HEADER)
}

/// The header for a payload's name.
pub fn payload_id_header(id: &str) -> Option<(HeaderName, HeaderValue)> {
    Some((PAYLOAD_ID_HEADER, HeaderValue::try_from(id).ok()?))
}

/// The elements of a JSON array, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elements {
    /// The elements, with commas in between.
    pub json: Bytes,
    /// Their number.
    pub count: usize,
}

/// A body that holds no events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not a JSON array")]
pub struct NotArray;

/// Finds the events in a body.
pub fn elements(body: &Bytes) -> Result<Elements, NotArray> {
    let found: Vec<&RawValue> = serde_json::from_slice(body).map_err(|_| NotArray)?;
    // Valid JSON, so the first and the last byte that are not blank are the brackets.
    let inner = body.trim_ascii();
    let inner = inner.get(1..inner.len() - 1).unwrap_or_default().trim_ascii();
    Ok(Elements { json: body.slice_ref(inner), count: found.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(text: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        text.iter().map(pair).collect()
    }

    #[test]
    fn old_schemas_and_php_are_summarized() {
        let check = |given: &[(&'static str, &'static str)], schema, is_summarized| {
            let headers = headers(given);
            let sender = Sender::of(&headers);
            assert_eq!(
                (sender.schema, is_unsummarized(&headers, &sender)),
                (schema, is_summarized)
            );
        };
        let schema = "x-launchdarkly-event-schema";
        check(&[], 1, true);
        for odd in ["", "x", "0", "-3", "99999999999"] {
            check(&[(schema, odd)], 1, true);
        }
        check(&[(schema, "2")], 2, true);
        check(&[(schema, "3")], 3, false);
        check(&[(schema, "4")], 4, false);
        for value in ["true", "false", ""] {
            check(&[(schema, "4"), ("x-launchdarkly-unsummarized", value)], 4, true);
        }
    }

    #[test]
    fn what_a_sender_says_is_passed_on() {
        let given = headers(&[
            ("x-launchdarkly-event-schema", "4"),
            ("x-launchdarkly-tags", "application-id/a"),
            ("x-launchdarkly-wrapper", "w/1"),
            ("user-agent", "GoClient/7"),
            ("authorization", "sdk-1"),
            ("cookie", "private"),
        ]);
        let passed = Sender::of(&given).headers();
        let expected = headers(&[
            ("x-launchdarkly-event-schema", "4"),
            ("x-launchdarkly-tags", "application-id/a"),
            ("x-launchdarkly-user-agent", "GoClient/7"),
            ("x-launchdarkly-wrapper", "w/1"),
        ]);
        assert_eq!(passed, expected);
        // Browsers cannot set their own User-Agent.
        let page =
            headers(&[("user-agent", "Mozilla"), ("x-launchdarkly-user-agent", "JSClient/3")]);
        assert_eq!(Sender::of(&page).user_agent.as_deref(), Some("JSClient/3"));
        assert_eq!(Sender::of_image(&page).schema, 3);
    }

    #[test]
    fn events_are_found_byte_for_byte() {
        let found = |text: &'static str| {
            let found = elements(&Bytes::from_static(text.as_bytes()));
            found.map(|it| (String::from_utf8(it.json.to_vec()).unwrap(), it.count))
        };
        let some = |text: &str, count| Ok((text.to_owned(), count));
        assert_eq!(found("[]"), some("", 0));
        assert_eq!(found(" [ ] \n"), some("", 0));
        assert_eq!(found(r#"[{"a": 1.50}]"#), some(r#"{"a": 1.50}"#, 1));
        assert_eq!(found(r#" [1 , {"b":[2]},"x]" ] "#), some(r#"1 , {"b":[2]},"x]""#, 3));
        for text in ["", "[", "[1,]", "[1]]", "{", "\u{feff}[]", "[1] x", "{}", "7", "null"] {
            assert_eq!(found(text), Err(NotArray), "{text}");
        }
    }
}
