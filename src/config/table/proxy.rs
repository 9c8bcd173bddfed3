//! `[Proxy]`: the way to LaunchDarkly.

use std::path::PathBuf;

use crate::model::{Password, RedactedUrl};

use super::kind;
use super::row::{AnyOption, Opt, both, switch, variable};

options! { "Proxy",
    /// The proxy; the three variables below are then ignored.
    URL: RedactedUrl = both("url", "PROXY_URL", &kind::PROXY_URL).unset_means("none");
    /// User for Basic authentication, if the URL contains none.
    USER: String = both("user", "PROXY_AUTH_USER", &kind::TEXT);
    /// Password for Basic authentication.
    PASSWORD: Password =
        both("password", "PROXY_AUTH_PASSWORD", &kind::PASSWORD).or_file(&PASSWORD_FILE);
    /// File that contains it.
    PASSWORD_FILE: PathBuf = both("passwordFile", "PROXY_AUTH_PASSWORD_FILE", &kind::PATH);
    /// Root certificates in addition to those of the system, PEM.
    CA_CERT_FILES: Vec<String> =
        both("caCertFiles", "PROXY_CA_CERTS", &kind::LIST).warn(kind::warn_of_blanks);
    /// NTLM instead of Basic authentication.
    NTLM_AUTH: bool = switch("ntlmAuth", "PROXY_AUTH_NTLM").refused(
        "NTLM is not implemented yet, so a proxy that asks for it would refuse every connection to \
         LaunchDarkly; use a proxy with Basic authentication or with none",
    );
    /// Windows domain for NTLM.
    DOMAIN: String = both("domain", "PROXY_AUTH_DOMAIN", &kind::TEXT).not_yet();
    /// Proxy for `http://` addresses; also in lower case.
    HTTP_PROXY: String = variable("HTTP_PROXY", &kind::TEXT).of_process().shared();
    /// Proxy for `https://` addresses; also in lower case.
    HTTPS_PROXY: String = variable("HTTPS_PROXY", &kind::TEXT).of_process().shared();
    /// Hosts that are reached without a proxy; also in lower case.
    NO_PROXY: String = variable("NO_PROXY", &kind::TEXT).of_process().shared();
}
