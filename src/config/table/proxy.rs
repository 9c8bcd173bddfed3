//! `[Proxy]`: the way to LaunchDarkly.

use std::path::PathBuf;

use crate::model::{Password, RedactedUrl};

use super::kind;
use super::row::{AnyOption, Opt, both, switch, variable};

options! { "Proxy",
    /// The proxy; the three variables below are then ignored.
    PROXY_URL: RedactedUrl = both("url", &kind::PROXY_URL).unset_means("none");
    /// User for Basic authentication, if the URL contains none.
    PROXY_AUTH_USER: String = both("user", &kind::TEXT);
    /// Password for Basic authentication.
    PROXY_AUTH_PASSWORD: Password =
        both("password", &kind::PASSWORD).or_file(&PROXY_AUTH_PASSWORD_FILE);
    /// File that contains it.
    PROXY_AUTH_PASSWORD_FILE: PathBuf = both("passwordFile", &kind::PATH);
    /// Root certificates in addition to those of the system, PEM.
    PROXY_CA_CERTS: Vec<String> = both("caCertFiles", &kind::LIST).warn(kind::warn_of_blanks);
    /// NTLM instead of Basic authentication.
    PROXY_AUTH_NTLM: bool = switch("ntlmAuth").refused(
        "NTLM is not implemented yet, so a proxy that asks for it would refuse every connection to \
         LaunchDarkly; use a proxy with Basic authentication or with none",
    );
    /// Windows domain for NTLM.
    PROXY_AUTH_DOMAIN: String = both("domain", &kind::TEXT).not_yet();
    /// Proxy for `http://` addresses; also in lower case.
    HTTP_PROXY: RedactedUrl = variable(&kind::PROXY_URL).of_process().shared();
    /// Proxy for `https://` addresses; also in lower case.
    HTTPS_PROXY: RedactedUrl = variable(&kind::PROXY_URL).of_process().shared();
    /// Hosts that are reached without a proxy; also in lower case.
    NO_PROXY: Vec<String> = variable(&kind::LIST).of_process().shared();
}
