//! One new connection for each request, with a limit on every wait.
//!
//! Nothing is pooled, retried or kept. ld-relay's limits are those of Go's client, which waits
//! indefinitely for the head of a response; here that has a deadline as well. Credentials are sent
//! only to the host that they are meant for, and appear in no error and no log.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, LOCATION, PROXY_AUTHORIZATION, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use super::body::{Driver, ResponseBody};
use super::dial::{BoxedIo, Dialer, Progress};
use super::proxy::{Proxy, ProxyRules, ProxySettings, tunnel};
use super::tls::Tls;
use super::url::{Target, keeps_credential, redirected, same_origin};
use super::{Authorization, ConnectError, HttpRequest, Phase, SettingsError};

/// The relay's `User-Agent`.
/// LaunchDarkly knows relays by the second part: the ld-relay that this one stands in for.
const USER_AGENT_TEXT: &str = concat!("Pilotlight/", env!("CARGO_PKG_VERSION"), " LDRelay/8.10.1");

/// Most redirects of a request. More are a loop.
const REDIRECTS_MAX: u32 = 5;

/// Largest read buffer of a connection, in bytes; the head of a response must fit. hyper's own
/// limit of 400 KiB would cost a relay with a hundred streams 40 MB.
const READ_BUFFER_BYTES_MAX: usize = 64 * 1024;

/// Longest waits of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// For the addresses of a name. The system's resolver asks its second server after 5 s.
    pub dns: Duration,
    /// For a TCP connection, over all addresses. ld-relay v8: 3 s.
    pub connect: Duration,
    /// For the outbound proxy's answer to `CONNECT`.
    pub proxy: Duration,
    /// For each TLS handshake. ld-relay v8: 10 s.
    pub tls: Duration,
    /// From the connection to the head of the response, again for each redirect.
    pub response_header: Duration,
    /// Between two bytes of the body. ld-relay v8: 5 min, where LaunchDarkly sends a comment
    /// every 3 min.
    pub read: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            dns: Duration::from_secs(8),
            connect: Duration::from_secs(3),
            proxy: Duration::from_secs(10),
            tls: Duration::from_secs(10),
            response_header: Duration::from_secs(10),
            read: Duration::from_secs(300),
        }
    }
}

/// Settings of a client.
#[derive(Clone, Debug, Default)]
pub struct HttpClientSettings {
    /// Outbound proxies.
    pub proxy: ProxySettings,
    /// PEM files of certificates that are trusted in addition to those of the system.
    pub ca_files: Vec<PathBuf>,
}

/// Makes requests. Clones share everything.
#[derive(Clone, Debug)]
pub struct HttpClient(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dialer: Dialer,
    proxies: ProxyRules,
    tls: Tls,
    user_agent: HeaderValue,
}

/// A response whose body is still to be read.
#[derive(Debug)]
pub struct HttpResponse {
    /// The status, whatever it is.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: ResponseBody,
}

/// A connection that a request can be written to.
struct Route {
    io: BoxedIo,
    progress: Progress,
    /// The proxy that reads the request itself, if there is no tunnel.
    reader: Option<Proxy>,
}

impl HttpClient {
    /// Creates a client that dials over the network. Reads the CA files, nothing else.
    pub fn new(settings: &HttpClientSettings) -> Result<Self, SettingsError> {
        Self::with_dialer(settings, Dialer::network())
    }

    pub(super) fn with_dialer(
        settings: &HttpClientSettings,
        dialer: Dialer,
    ) -> Result<Self, SettingsError> {
        Ok(Self(Arc::new(Inner {
            dialer,
            proxies: ProxyRules::new(&settings.proxy)?,
            tls: Tls::new(&settings.ca_files)?,
            user_agent: HeaderValue::from_static(USER_AGENT_TEXT),
        })))
    }

    /// Sends a request and waits for the head of the response, following redirects of a `GET`.
    ///
    /// Every status is a response here; the caller judges it. Safe to cancel: dropping the future
    /// closes the connection.
    pub async fn send(
        &self,
        request: &HttpRequest,
        deadlines: &Deadlines,
    ) -> Result<HttpResponse, ConnectError> {
        let mut url = request.url.clone();
        let mut authorization = request.authorization.as_ref();
        for _ in 0..=REDIRECTS_MAX {
            let response = self.exchange(request, &url, authorization, deadlines).await?;
            let Some(next) = redirect(&request.method, &url, &response) else {
                return Ok(response);
            };
            if !keeps_credential(&url, &next) {
                authorization = None;
            }
            url = next;
        }
        Err(ConnectError::TooManyRedirects)
    }

    async fn exchange(
        &self,
        request: &HttpRequest,
        url: &Uri,
        authorization: Option<&Authorization>,
        deadlines: &Deadlines,
    ) -> Result<HttpResponse, ConnectError> {
        let target = Target::of(url).map_err(ConnectError::Url)?;
        // Made first: a request that cannot be sent costs no connection.
        let mut message = self.message(request, url, &target, authorization)?;
        let Route { io, progress, reader } = self.route(url, &target, deadlines).await?;
        if let Some(proxy) = &reader {
            *message.uri_mut() = absolute(&target, url)?;
            if let Some(credentials) = &proxy.authorization {
                message.headers_mut().insert(PROXY_AUTHORIZATION, credentials.clone());
            }
        }
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(READ_BUFFER_BYTES_MAX)
            .handshake(TokioIo::new(io))
            .await
            .map_err(ConnectError::protocol)?;
        let mut driver = Driver::new(connection);
        let budget = deadlines.response_header;
        let (head, incoming) = timeout(budget, driver.drive(sender.send_request(message)))
            .await
            .map_err(|_| ConnectError::TimedOut { phase: Phase::ResponseHeader, budget })?
            .map_err(ConnectError::protocol)?
            .into_parts();
        if reader.is_some() && head.status == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
            return Err(ConnectError::Proxy { status: head.status.as_u16() });
        }
        let body = ResponseBody::new(driver, incoming, progress, deadlines.read);
        Ok(HttpResponse { status: head.status, headers: head.headers, body })
    }

    /// The request as it goes to the target itself.
    fn message(
        &self,
        request: &HttpRequest,
        url: &Uri,
        target: &Target,
        authorization: Option<&Authorization>,
    ) -> Result<Request<Full<Bytes>>, ConnectError> {
        let mut message = Request::new(Full::new(request.body.clone()));
        *message.method_mut() = request.method.clone();
        *message.uri_mut() = Uri::from(
            url.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")),
        );
        let host = HeaderValue::from_str(&target.authority()).map_err(ConnectError::protocol)?;
        let headers = message.headers_mut();
        headers.insert(HOST, host);
        headers.insert(USER_AGENT, self.0.user_agent.clone());
        for name in request.headers.keys() {
            headers.remove(name);
            for value in request.headers.get_all(name) {
                headers.append(name, value.clone());
            }
        }
        if let Some(authorization) = authorization {
            headers.insert(AUTHORIZATION, authorization.header()?);
        }
        Ok(message)
    }

    /// The relay's `User-Agent`.
    pub(super) fn user_agent(&self) -> HeaderValue {
        self.0.user_agent.clone()
    }

    /// The credential of the proxy that reads requests to this URL itself, if there is one.
    pub(super) fn proxy_authorization(&self, url: &Uri) -> Option<HeaderValue> {
        let target = Target::of(url).ok().filter(|target| !target.secure)?;
        self.0.proxies.proxy(url, &target)?.authorization
    }

    /// Opens a connection for requests to a target; true if a proxy reads them.
    pub(super) async fn open(
        &self,
        url: &Uri,
        target: &Target,
        deadlines: &Deadlines,
    ) -> Result<(BoxedIo, bool), ConnectError> {
        let Route { io, reader, .. } = self.route(url, target, deadlines).await?;
        Ok((io, reader.is_some()))
    }

    /// Opens a connection on which the request can be written.
    async fn route(
        &self,
        url: &Uri,
        target: &Target,
        deadlines: &Deadlines,
    ) -> Result<Route, ConnectError> {
        let Inner { dialer, proxies, tls, user_agent } = &*self.0;
        let Some(proxy) = proxies.proxy(url, target) else {
            let (io, progress) = dialer.dial(&target.host, target.port, deadlines).await?;
            let io = if target.secure {
                tls.handshake(&target.host, io, deadlines.tls).await?
            } else {
                io
            };
            return Ok(Route { io, progress, reader: None });
        };
        let via = &proxy.target;
        let (mut io, progress) = dialer.dial(&via.host, via.port, deadlines).await?;
        if via.secure {
            io = tls.handshake(&via.host, io, deadlines.tls).await?;
        }
        if !target.secure {
            return Ok(Route { io, progress, reader: Some(proxy) });
        }
        let credentials = proxy.authorization.as_ref();
        io = tunnel(io, target, credentials, user_agent, deadlines.proxy).await?;
        io = tls.handshake(&target.host, io, deadlines.tls).await?;
        Ok(Route { io, progress, reader: None })
    }
}

/// The form of a URL that a proxy reads.
fn absolute(target: &Target, url: &Uri) -> Result<Uri, ConnectError> {
    let path = url.path_and_query().map_or("/", PathAndQuery::as_str);
    format!("http://{}{path}", target.authority()).parse().map_err(ConnectError::protocol)
}

/// Target of a redirect; `None` if there is none that is followed.
fn redirect(method: &Method, url: &Uri, response: &HttpResponse) -> Option<Uri> {
    if *method != Method::GET {
        return None;
    }
    let next = || redirected(url, response.headers.get(LOCATION)?.to_str().ok()?);
    match response.status {
        StatusCode::MOVED_PERMANENTLY
        | StatusCode::TEMPORARY_REDIRECT
        | StatusCode::PERMANENT_REDIRECT => next(),
        // On another origin it is the log-in page of a captive portal.
        StatusCode::FOUND | StatusCode::SEE_OTHER => next().filter(|to| same_origin(url, to)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
