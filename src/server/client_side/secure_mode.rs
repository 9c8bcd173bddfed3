//! Secure mode: a browser proves that its server allows it to ask for a context.

use hmac::{Hmac, KeyInit, Mac};
use hyper::Request;
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::evaluation::Context;
use crate::model::{SdkKey, hex};
use crate::server::selection::query_value;

/// True if the query's `h` is the HMAC-SHA256 of the context's canonical key under the
/// environment's SDK key, in lower-case hex.
pub(super) fn is_proven(request: &Request<()>, context: &Context, key: &SdkKey) -> bool {
    let given = query_value(request.uri().query(), "h");
    // Keys of any length are allowed.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key.expose().as_bytes()) else { return false };
    mac.update(context.canonical_key().as_bytes());
    hex(&mac.finalize().into_bytes()).as_bytes().ct_eq(given.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_the_key_and_the_context() {
        let good = "3861efea5636168f972dda6ac5040605b156c36c876597788f0bf2029f250a70";
        let check = |context: &str, key: &str, hash: &str, expected| {
            let context = Context::parse(context.as_bytes()).unwrap();
            let request = Request::get(format!("/?h={hash}")).body(()).unwrap();
            let is_proven = is_proven(&request, &context, &SdkKey::new(key));
            assert_eq!(is_proven, expected, "{context:?} {key} {hash}");
        };
        let user = r#"{"kind":"user","key":"user-1"}"#;
        check(user, "sdk-key-1", good, true);
        check(r#"{"key":"user-1"}"#, "sdk-key-1", good, true);
        check(user, "sdk-key-1", &good.to_uppercase(), false);
        check(user, "sdk-key-1", &good[..63], false);
        check(user, "sdk-key-1", "", false);
        check(user, "sdk-key-2", good, false);
        check(r#"{"kind":"org","key":"user-1"}"#, "sdk-key-1", good, false);
    }
}
