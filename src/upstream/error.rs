//! Failures of dialling and reading upstream, and what each means: how long to wait
//! ([`FailureClass`]) and what `/status` says ([`ErrorKind`]).
//!
//! The classification is done here and nowhere else. No variant holds a credential, a payload or
//! the query of a URL.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::model::ErrorKind;
use crate::sse::ParseError;

/// The reason behind an error.
pub type Cause = Box<dyn Error + Send + Sync>;

/// Step that a request was waiting for when its time ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The host's addresses.
    Dns,
    /// A TCP connection.
    Connect,
    /// The outbound proxy's answer to `CONNECT`.
    Proxy,
    /// The end of the TLS handshake.
    TlsHandshake,
    /// The head of the response.
    ResponseHeader,
    /// More bytes of the response.
    Body,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dns => "name resolution",
            Self::Connect => "connecting",
            Self::Proxy => "the proxy's answer",
            Self::TlsHandshake => "the TLS handshake",
            Self::ResponseHeader => "the response header",
            Self::Body => "bytes of the response",
        })
    }
}

/// Reason why a request, or a stream that it opened, failed.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The host name has no address.
    #[error("host name {host} does not resolve")]
    Dns {
        /// The name.
        host: String,
        /// The resolver's error.
        #[source]
        cause: io::Error,
    },
    /// No address of the host accepted the connection. Behind a proxy the host is the proxy's.
    #[error("cannot connect to {to}")]
    Connect {
        /// Host and port.
        to: String,
        /// The last address's error.
        #[source]
        cause: io::Error,
    },
    /// The outbound proxy refused to pass the request on.
    #[error("outbound proxy answered with status {status}")]
    Proxy {
        /// The proxy's status; 407 asks for other credentials.
        status: u16,
    },
    /// The TLS handshake failed, for example because the certificate is not trusted.
    #[error("TLS handshake with {host} failed")]
    Tls {
        /// Host whose certificate was expected.
        host: String,
        /// The error of TLS.
        #[source]
        cause: io::Error,
    },
    /// A wait exceeded its limit.
    #[error("no progress within {budget:?} while waiting for {phase}")]
    TimedOut {
        /// The step that was waited for.
        phase: Phase,
        /// The limit.
        budget: Duration,
    },
    /// An answer came with an unwanted status.
    #[error("answered with status {0}")]
    Status(u16),
    /// There were too many redirects in a row.
    #[error("answered with too many redirects")]
    TooManyRedirects,
    /// The answer is fine but is no event stream.
    #[error("answered with something else than an event stream")]
    ContentType,
    /// The event stream exceeded a limit.
    #[error("sent an unreadable event stream")]
    EventStream(#[source] ParseError),
    /// The connection broke, or the other side does not speak HTTP.
    #[error("connection broke or broke the rules of HTTP")]
    Protocol(#[source] Cause),
    /// The server ended an event stream, which should not end.
    #[error("the other side ended the stream")]
    Ended,
    /// The credential holds characters that are not valid in a header.
    #[error("credential cannot be sent: it has characters that a header cannot hold")]
    Credential,
    /// The request itself cannot be sent, because of its URL.
    #[error("URL cannot be requested")]
    Url(#[source] super::UrlError),
}

/// Class of a failure, which decides how long to wait before the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureClass {
    /// It will pass by itself: short delays.
    Normal,
    /// It stays until an operator changes something, as with a rejected key: long delays.
    Slow,
}

impl FailureClass {
    /// The class of an unwanted status (ld-relay v8: "unexpected" statuses).
    pub fn of_status(status: u16) -> Self {
        match status {
            400 | 408 | 429 => Self::Normal,
            401..=499 => Self::Slow,
            _ => Self::Normal,
        }
    }
}

/// A failure as `/status` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamFailure {
    /// Its kind.
    pub kind: ErrorKind,
    /// The HTTP status, of an error response only.
    pub status: Option<u16>,
}

impl ConnectError {
    /// The class, which decides how long to wait before the next attempt.
    pub fn class(&self) -> FailureClass {
        match self {
            Self::Status(status) => FailureClass::of_status(*status),
            // Only another credential or another URL can help.
            Self::Credential | Self::Url(_) => FailureClass::Slow,
            Self::Dns { .. }
            | Self::Connect { .. }
            | Self::Proxy { .. }
            | Self::Tls { .. }
            | Self::TimedOut { .. }
            | Self::TooManyRedirects
            | Self::ContentType
            | Self::EventStream(_)
            | Self::Protocol(_)
            | Self::Ended => FailureClass::Normal,
        }
    }

    /// The kind in `/status`.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Status(_) => ErrorKind::ErrorResponse,
            Self::ContentType | Self::EventStream(_) => ErrorKind::InvalidData,
            Self::Dns { .. }
            | Self::Connect { .. }
            | Self::Proxy { .. }
            | Self::Tls { .. }
            | Self::TimedOut { .. }
            | Self::Protocol(_)
            | Self::Ended => ErrorKind::NetworkError,
            Self::TooManyRedirects | Self::Credential | Self::Url(_) => ErrorKind::Unknown,
        }
    }

    /// Kind and status for `/status`.
    pub fn failure(&self) -> StreamFailure {
        let status = if let Self::Status(status) = self { Some(*status) } else { None };
        StreamFailure { kind: self.kind(), status }
    }

    pub(super) fn protocol(cause: impl Into<Cause>) -> Self {
        Self::Protocol(cause.into())
    }
}

/// Reason why no client can be made of the settings.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A proxy's URL cannot be parsed.
    #[error("{setting} is not the URL of a proxy")]
    ProxyUrl {
        /// The setting.
        setting: &'static str,
    },
    /// A proxy of a kind that is not supported.
    #[error("{setting}: proxies with the scheme {scheme} are not supported, only http and https")]
    ProxyScheme {
        /// The setting.
        setting: &'static str,
        /// The URL's scheme.
        scheme: String,
    },
    /// A file of CA certificates cannot be read or has none.
    #[error("CA certificates cannot be read from {}", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: Cause,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::UrlError;

    #[test]
    fn only_rejections_are_slow() {
        let check = |statuses: &[u16], class| {
            for status in statuses {
                let error = ConnectError::Status(*status);
                assert_eq!(error.class(), class, "{status}");
                let failure = error.failure();
                assert_eq!(failure.kind, ErrorKind::ErrorResponse);
                assert_eq!(failure.status, Some(*status));
            }
        };
        check(&[401, 402, 403, 404, 405, 407, 410, 413, 418, 426, 451, 499], FailureClass::Slow);
        check(&[400, 408, 429, 500, 502, 503, 504, 599, 600], FailureClass::Normal);
        check(&[100, 201, 204, 206, 301, 302, 304, 399], FailureClass::Normal);
    }

    #[test]
    fn each_failure_has_its_class_and_kind() {
        let io = || io::Error::other("reason");
        let host = || "host".to_owned();
        let budget = Duration::from_secs(1);
        let check = |error: ConnectError, class: FailureClass, kind: &str| {
            assert_eq!((error.class(), error.kind().as_str()), (class, kind), "{error:?}");
            assert_eq!(error.failure().status, None);
        };
        use FailureClass::{Normal, Slow};
        check(ConnectError::Dns { host: host(), cause: io() }, Normal, "NETWORK_ERROR");
        check(ConnectError::Connect { to: host(), cause: io() }, Normal, "NETWORK_ERROR");
        check(ConnectError::Proxy { status: 407 }, Normal, "NETWORK_ERROR");
        check(ConnectError::Tls { host: host(), cause: io() }, Normal, "NETWORK_ERROR");
        for phase in [
            Phase::Dns,
            Phase::Connect,
            Phase::Proxy,
            Phase::TlsHandshake,
            Phase::ResponseHeader,
            Phase::Body,
        ] {
            check(ConnectError::TimedOut { phase, budget }, Normal, "NETWORK_ERROR");
        }
        check(ConnectError::protocol(io()), Normal, "NETWORK_ERROR");
        check(ConnectError::Ended, Normal, "NETWORK_ERROR");
        check(ConnectError::ContentType, Normal, "INVALID_DATA");
        let too_long = ParseError::LineTooLong { limit_bytes: 1 };
        check(ConnectError::EventStream(too_long), Normal, "INVALID_DATA");
        check(ConnectError::TooManyRedirects, Normal, "UNKNOWN");
        check(ConnectError::Credential, Slow, "UNKNOWN");
        check(ConnectError::Url(UrlError::Scheme), Slow, "UNKNOWN");
    }

    #[test]
    fn a_chain_names_every_cause_once() {
        let error = ConnectError::Dns { host: "h".to_owned(), cause: io::Error::other("reason") };
        assert_eq!(
            crate::telemetry::Chain(&error).to_string(),
            "host name h does not resolve: reason"
        );
    }
}
