//! Finds the environment of a request, by the table of design 5 and of ld-relay v8.

use hyper::Request;
use hyper::header::AUTHORIZATION;

use super::Server;
use super::body::Body;
use super::refusals::Refusal;
use super::responses::{empty, text, unavailable};
use super::routes::Auth;
use crate::environments::{Access, Lookup};
use crate::model::{Credential, EnvironmentId, FilterKey, ListState, MobileKey, SdkKey};

use hyper::{Response, StatusCode};

const UNKNOWN_FILTER: &str = "The credential is valid, but there is no such payload filter";
const UNKNOWN_CREDENTIAL: &str = "The relay does not know this credential";
const UNKNOWN_ID: &str = "There is no environment of this ID";

impl Server {
    /// Finds the environment of a request. At start it waits a moment for stores that are being
    /// read; after that it answers at once.
    pub(super) async fn select(
        &self,
        request: &Request<()>,
        auth: &Auth,
    ) -> Result<Access, Response<Body>> {
        let list = self.registry.list();
        if list == ListState::Unknown && credential(request, auth).is_some() {
            let mut list = self.registry.watch_list();
            let known = list.wait_for(|list| *list != ListState::Unknown);
            // Either outcome is fine: the list is checked below.
            let _ = tokio::time::timeout_at(self.boot_hold_until(), known).await;
        }
        let access = self.select_now(request, auth)?;
        if self.await_stored_data(&access).await {
            return self.select_now(request, auth);
        }
        Ok(access)
    }

    /// Finds the environment of a request without waiting. Must be called again after each wait,
    /// because the key can be revoked and the environment deleted meanwhile.
    #[expect(clippy::result_large_err, reason = "a refusal is a response, as everywhere here")]
    pub(super) fn select_now(
        &self,
        request: &Request<()>,
        auth: &Auth,
    ) -> Result<Access, Response<Body>> {
        let credential =
            credential(request, auth).ok_or_else(|| empty(StatusCode::UNAUTHORIZED))?;
        let filter = FilterKey::new(query_value(request.uri().query(), "filter"));
        match self.registry.look_up(&credential, &filter, Self::now) {
            Lookup::Found(access) => Ok(access),
            Lookup::NoList => Err(unavailable(Refusal::NoList)),
            Lookup::UnknownForNow => Err(unavailable(Refusal::UnknownForNow)),
            Lookup::UnknownFilter => Err(text(StatusCode::NOT_FOUND, UNKNOWN_FILTER)),
            Lookup::UnknownCredential => Err(match auth {
                Auth::Sdk | Auth::Mobile | Auth::Client => {
                    text(StatusCode::UNAUTHORIZED, UNKNOWN_CREDENTIAL)
                }
                Auth::EnvironmentId(_) => text(StatusCode::NOT_FOUND, UNKNOWN_ID),
            }),
        }
    }

    /// Waits, at start, for data that is still being read, so that the request need not fail.
    /// Returns true if it has waited.
    async fn await_stored_data(&self, access: &Access) -> bool {
        let environment = &access.environment;
        let is_early = environment.is_loading() && environment.hub.snapshot().is_none();
        if is_early {
            // Either outcome is fine: the handler checks which data there is.
            let _ = tokio::time::timeout_at(self.boot_hold_until(), environment.loaded()).await;
        }
        is_early
    }
}

/// The credential of a request; `None` if there is none or its form is wrong.
fn credential(request: &Request<()>, auth: &Auth) -> Option<Credential> {
    let header = || authorization(request.headers().get(AUTHORIZATION)?.to_str().ok()?);
    match auth {
        Auth::Sdk => Some(Credential::Sdk(SdkKey::new(header()?))),
        Auth::Mobile => Some(Credential::Mobile(MobileKey::new(header()?))),
        Auth::EnvironmentId(id) => Some(Credential::EnvironmentId(EnvironmentId::new(id.as_str()))),
        Auth::Client => {
            let from_query = query_value(request.uri().query(), "auth");
            of_client(header().unwrap_or(&from_query))
        }
    }
}

/// The credential of a client-side SDK with FDv2, whose kind its beginning tells (ld-relay v9).
fn of_client(text: &str) -> Option<Credential> {
    if text.is_empty() {
        None
    } else if text.starts_with("mob-") {
        Some(Credential::Mobile(MobileKey::new(text)))
    } else {
        Some(Credential::EnvironmentId(EnvironmentId::new(text)))
    }
}

/// The key in an `Authorization` value: the value itself, or what follows `api_key ` (ld-relay
/// v8). A value with any other space is no credential.
fn authorization(value: &str) -> Option<&str> {
    let key = value.strip_prefix("api_key ").map_or(value, str::trim);
    (!key.is_empty() && !key.contains(' ')).then_some(key)
}

/// The first value of a query parameter, decoded; empty if it is absent.
pub(super) fn query_value(query: Option<&str>, name: &str) -> String {
    query_values(query, name).into_iter().next().unwrap_or_default()
}

/// All values of a query parameter, decoded.
pub(super) fn query_values(query: Option<&str>, name: &str) -> Vec<String> {
    let pairs = query.unwrap_or_default().split('&');
    let found = pairs.filter_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (form_decoded(key) == name).then(|| form_decoded(value))
    });
    found.collect()
}

/// Decodes `+` and percent escapes; what is not a valid escape stays as it is.
pub(super) fn form_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        let value =
            escape.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match (bytes[at], value) {
            (_, Some(value)) => {
                decoded.push(value);
                at += 3;
                continue;
            }
            (b'+', None) => decoded.push(b' '),
            (byte, None) => decoded.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorization_is_taken_raw() {
        let check = |value: &str, expected: Option<&str>| {
            assert_eq!(authorization(value), expected, "{value:?}");
        };
        check("sdk-1", Some("sdk-1"));
        check("api_key sdk-1", Some("sdk-1"));
        check("api_key  sdk-1 ", Some("sdk-1"));
        check("Bearer sdk-1", None);
        check("", None);
        check("api_key ", None);
        check("api_keysdk", Some("api_keysdk"));
    }

    #[test]
    fn filters_are_decoded_query_values() {
        let check = |query: Option<&str>, expected: &str| {
            assert_eq!(query_value(query, "filter"), expected, "{query:?}");
        };
        check(None, "");
        check(Some("a=1"), "");
        check(Some("a=1&filter=x"), "x");
        check(Some("filter=x&filter=y"), "x");
        check(Some("filter=a%20b+c%zz%4"), "a b c%zz%4");
        check(Some("filter"), "");
        check(Some("filter=%ff"), "\u{fffd}");
    }
}
