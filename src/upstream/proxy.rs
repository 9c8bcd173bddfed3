//! Outbound proxies: which request goes through which one, and tunnels through them.
//!
//! `[Proxy] url` applies to every request, without exceptions. Without it the variables
//! `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` decide, and loopback addresses are dialled directly
//! (ld-relay v8: the rules of Go). Proxy credentials go to the proxy and nowhere else.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::dial::BoxedIo;
use super::url::Target;
use super::{ConnectError, Phase, SettingsError};
use crate::model::{Password, RedactedUrl};

/// Largest head of an answer to `CONNECT`, in bytes: room for a proxy's cookies and vanity headers.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Settings of outbound proxies. The variables are those of the process, as config read them.
#[derive(Clone, Debug, Default)]
pub struct ProxySettings {
    /// `[Proxy] url`: every request goes through it.
    pub url: Option<RedactedUrl>,
    /// User for `url`, if the URL does not name one itself.
    pub user: Option<String>,
    /// Password that belongs to `user`.
    pub password: Option<Password>,
    /// `HTTP_PROXY` or `http_proxy`: for `http` URLs, without `url` only.
    pub http_proxy: Option<RedactedUrl>,
    /// `HTTPS_PROXY` or `https_proxy`: for `https` URLs, without `url` only.
    pub https_proxy: Option<RedactedUrl>,
    /// `NO_PROXY` or `no_proxy`: hosts to which the two variables do not apply.
    pub no_proxy: Option<String>,
}

/// One proxy.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Proxy {
    pub(super) target: Target,
    pub(super) authorization: Option<HeaderValue>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({})", self.target.host_and_port())
    }
}

/// The settings, checked.
#[derive(Debug)]
pub(super) enum ProxyRules {
    Always(Proxy),
    Matching(Box<Matcher>),
}

impl ProxyRules {
    pub(super) fn new(settings: &ProxySettings) -> Result<Self, SettingsError> {
        if let Some(url) = settings.url.as_ref().filter(|url| !url.expose().is_empty()) {
            let mut proxy = parse("proxy url", url)?;
            if proxy.authorization.is_none() {
                proxy.authorization = basic(settings.user.as_deref(), settings.password.as_ref());
            }
            return Ok(Self::Always(proxy));
        }
        let mut matcher = Matcher::builder();
        if let Some(url) = settings.http_proxy.as_ref().filter(|url| !url.expose().is_empty()) {
            parse("HTTP_PROXY", url)?;
            matcher = matcher.http(url.expose());
        }
        if let Some(url) = settings.https_proxy.as_ref().filter(|url| !url.expose().is_empty()) {
            parse("HTTPS_PROXY", url)?;
            matcher = matcher.https(url.expose());
        }
        if let Some(hosts) = &settings.no_proxy {
            matcher = matcher.no(hosts);
        }
        Ok(Self::Matching(Box::new(matcher.build())))
    }

    /// The proxy for a URL whose target is `target`.
    pub(super) fn proxy(&self, url: &Uri, target: &Target) -> Option<Proxy> {
        match self {
            Self::Always(proxy) => Some(proxy.clone()),
            Self::Matching(_) if is_loopback(&target.host) => None,
            Self::Matching(matcher) => matcher.intercept(url).as_ref().and_then(intercepted),
        }
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn intercepted(intercept: &Intercept) -> Option<Proxy> {
    let target = Target::of(intercept.uri()).ok()?;
    Some(Proxy { target, authorization: intercept.basic_auth().cloned() })
}

fn parse(setting: &'static str, url: &RedactedUrl) -> Result<Proxy, SettingsError> {
    let any = Uri::from_static("http://any.invalid/");
    let intercept = Matcher::builder().all(url.expose()).build().intercept(&any);
    match intercept {
        Some(intercept) => intercepted(&intercept).ok_or_else(|| SettingsError::ProxyScheme {
            setting,
            scheme: intercept.uri().scheme_str().unwrap_or_default().to_owned(),
        }),
        None => Err(SettingsError::ProxyUrl { setting }),
    }
}

fn basic(user: Option<&str>, password: Option<&Password>) -> Option<HeaderValue> {
    let user = user.filter(|user| !user.is_empty())?;
    let password = password.map_or("", Password::expose);
    let pair = Zeroizing::new(format!("{user}:{password}"));
    let text = Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())));
    let mut value = HeaderValue::from_str(&text).expect("base64 is made of visible characters");
    value.set_sensitive(true);
    Some(value)
}

/// Asks the proxy at the other end of `io` for a tunnel to `target`.
pub(super) async fn tunnel(
    mut io: BoxedIo,
    target: &Target,
    authorization: Option<&HeaderValue>,
    user_agent: &HeaderValue,
    budget: Duration,
) -> Result<BoxedIo, ConnectError> {
    let place = target.host_and_port();
    let mut head = Zeroizing::new(Vec::with_capacity(512));
    head.extend_from_slice(format!("CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n").as_bytes());
    for (name, value) in [("User-Agent", Some(user_agent)), ("Proxy-Authorization", authorization)]
    {
        if let Some(value) = value {
            head.extend_from_slice(name.as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
    }
    head.extend_from_slice(b"\r\n");
    let exchange = async {
        io.write_all(&head).await.map_err(ConnectError::protocol)?;
        io.flush().await.map_err(ConnectError::protocol)?;
        read_status(&mut io).await
    };
    let status = timeout(budget, exchange)
        .await
        .map_err(|_| ConnectError::TimedOut { phase: Phase::Proxy, budget })??;
    if (200..300).contains(&status) { Ok(io) } else { Err(ConnectError::Proxy { status }) }
}

/// Reads the head of the proxy's answer and nothing after it.
async fn read_status(io: &mut BoxedIo) -> Result<u16, ConnectError> {
    let mut head = Vec::with_capacity(1024);
    let end = loop {
        if let Some(at) = head.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if head.len() >= HEAD_BYTES_MAX {
            return Err(ConnectError::protocol("the proxy's answer is too long"));
        }
        if io.read_buf(&mut head).await.map_err(ConnectError::protocol)? == 0 {
            return Err(ConnectError::protocol("the proxy closed the connection"));
        }
    };
    let not_http = || ConnectError::protocol("the proxy's answer is not HTTP");
    let status = head
        .strip_prefix(b"HTTP/1.")
        .and_then(|rest| rest.get(2..5))
        .and_then(|digits| std::str::from_utf8(digits).ok())
        .and_then(|digits| digits.parse::<u16>().ok())
        .ok_or_else(not_http)?;
    // The other end of a tunnel waits for the client's greeting, so nothing can have come from
    // there.
    if (200..300).contains(&status) && end < head.len() {
        return Err(ConnectError::protocol("the proxy sent more than its answer"));
    }
    Ok(status)
}

#[cfg(test)]
mod tests;
