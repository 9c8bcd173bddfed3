//! A request to upstream: URL, headers, credential.

use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Uri};

use super::ConnectError;
use crate::model::{AutoConfigKey, MobileKey, Password, SdkKey};

/// The value of an `Authorization` header. LaunchDarkly: the bare key, without a scheme.
#[derive(Clone, PartialEq, Eq)]
pub struct Authorization(Password);

impl Authorization {
    /// Wraps the header's value.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Password::new(text))
    }

    /// The value in the form in which `/status` shows keys.
    pub(super) fn obscured(&self) -> String {
        crate::model::obscured(self.0.expose())
    }

    pub(super) fn header(&self) -> Result<HeaderValue, ConnectError> {
        let mut value =
            HeaderValue::from_str(self.0.expose()).map_err(|_| ConnectError::Credential)?;
        value.set_sensitive(true);
        Ok(value)
    }
}

impl From<&SdkKey> for Authorization {
    fn from(key: &SdkKey) -> Self {
        Self::new(key.expose())
    }
}

impl From<&MobileKey> for Authorization {
    fn from(key: &MobileKey) -> Self {
        Self::new(key.expose())
    }
}

impl From<&AutoConfigKey> for Authorization {
    fn from(key: &AutoConfigKey) -> Self {
        Self::new(key.expose())
    }
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authorization(…)")
    }
}

/// One request.
#[derive(Clone)]
pub struct HttpRequest {
    /// `GET` is the only method whose redirects are followed.
    pub method: Method,
    /// Absolute, `http` or `https`.
    pub url: Uri,
    /// Sent to the URL's host and port only, never to a proxy, never to another host that a
    /// redirect leads to.
    pub authorization: Option<Authorization>,
    /// Further headers. They take precedence over those that the client adds by itself.
    pub headers: HeaderMap,
    /// The body; empty for `GET`.
    pub body: Bytes,
}

/// Shows neither header values nor the body.
impl fmt::Debug for HttpRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpRequest")
            .field("method", &self.method)
            .field("url", &self.url)
            .field("body", &format_args!("{} bytes", self.body.len()))
            .finish_non_exhaustive()
    }
}

impl HttpRequest {
    /// A `GET` without further headers.
    pub fn get(url: Uri, authorization: Option<Authorization>) -> Self {
        let headers = HeaderMap::new();
        Self { method: Method::GET, url, authorization, headers, body: Bytes::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_shows_nothing_and_is_sent_bare() {
        let authorization = Authorization::from(&SdkKey::new("sdk-1234567890abcd"));
        assert_eq!(format!("{authorization:?}"), "Authorization(…)");
        let header = authorization.header().unwrap();
        assert_eq!(header, "sdk-1234567890abcd");
        assert_eq!(format!("{header:?}"), "Sensitive");
        assert_eq!(authorization, Authorization::from(&AutoConfigKey::new("sdk-1234567890abcd")));
        assert_ne!(authorization, Authorization::from(&MobileKey::new("mob-1234567890abcd")));
    }

    #[test]
    fn a_credential_that_no_header_can_hold_is_refused() {
        for text in ["sdk\nkey", "sdk\0key", "sdk\u{7f}key"] {
            let refused = Authorization::new(text).header();
            assert!(matches!(refused, Err(ConnectError::Credential)), "{text:?}");
        }
    }
}
