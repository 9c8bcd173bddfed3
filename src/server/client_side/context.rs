//! The context of a request, in its path or its body.

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hyper::Response;

use super::refused;
use crate::evaluation::{Context, ContextError};
use crate::server::body::Body;

/// base64url with its padding, as tolerant as ld-relay v8.
const PADDED: GeneralPurpose = base64url(DecodePaddingMode::RequireCanonical);
/// The same without padding.
const BARE: GeneralPurpose = base64url(DecodePaddingMode::RequireNone);

const fn base64url(padding: DecodePaddingMode) -> GeneralPurpose {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(padding);
    GeneralPurpose::new(&URL_SAFE, config.with_decode_allow_trailing_bits(true))
}

/// Reads the segment of a path.
#[expect(clippy::result_large_err, reason = "a refusal is a response, as everywhere here")]
pub(super) fn from_path(text: &str) -> Result<Context, Response<Body>> {
    let text: String = text.chars().filter(|letter| !matches!(letter, '\r' | '\n')).collect();
    let base64 = if text.ends_with('=') { PADDED } else { BARE };
    let json = base64.decode(text).map_err(|_| refused("the context is not valid base64url"))?;
    read(Context::parse(&json))
}

/// What was read, or the answer to somebody who sent something else.
#[expect(clippy::result_large_err, reason = "a refusal is a response, as everywhere here")]
pub(super) fn read(parsed: Result<Context, ContextError>) -> Result<Context, Response<Body>> {
    parsed.map_err(|error| refused(&error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_hold_base64url_with_or_without_padding() {
        // {"kind":"user","key":"a?>"} and the same with the key "a".
        for text in [
            "eyJraW5kIjoidXNlciIsImtleSI6ImE_PiJ9",
            "eyJraW5kIjoidXNlciIsImtleSI6ImEifQ==",
            "eyJraW5kIjoidXNlciIsImtleSI6ImEifQ",
            "eyJraW5kIjoidXNl\r\nciIsImtleSI6ImEifQ==",
            // With bits behind the last byte.
            "eyJraW5kIjoidXNlciIsImtleSI6ImEifR",
        ] {
            assert!(from_path(text).is_ok(), "{text}");
        }
        for text in [
            "",
            "!!",
            // The other alphabet.
            "eyJraW5kIjoidXNlciIsImtleSI6ImE/PiJ9",
            "eyJraW5kIjoidXNlciIsImtleSI6ImEifQ=",
            "eyJraW5kIjoidXNlciIsImtleSI6ImEif",
            "e30",
        ] {
            let refused = from_path(text).unwrap_err();
            assert_eq!(refused.status(), 400, "{text}");
            assert_eq!(refused.headers()["content-type"], "application/json");
        }
    }
}
