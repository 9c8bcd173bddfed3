//! All connections to LaunchDarkly.
//!
//! [`HttpClient`] makes one request over a connection of its own; [`EventStream`] keeps one event
//! stream open and reconnects it; [`ReconnectPolicy`] says how long it waits in between. The
//! modules that open the streams interpret the events. No failure here is final: each has a timer
//! that ends it.

mod body;
mod dial;
mod error;
mod event_stream;
mod http_client;
mod pooled;
mod proxy;
mod reconnect;
mod request;
mod tls;
mod url;

#[cfg(test)]
mod test_support;

pub use error::{Cause, ConnectError, FailureClass, Phase, SettingsError, StreamFailure};
pub use event_stream::{
    EventStream, RestartReason, STREAM_LIMITS, StreamEvent, StreamRequest, StreamTimings,
};
pub use http_client::{Deadlines, HttpClient, HttpClientSettings, HttpResponse};
pub use pooled::PooledClient;
pub use proxy::ProxySettings;
pub use reconnect::{ReconnectPolicy, ReconnectTimings};
pub use request::{Authorization, HttpRequest};
pub use url::{BaseUrl, UrlError, query_value};
