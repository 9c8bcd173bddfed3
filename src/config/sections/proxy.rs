//! `[Proxy]`: the way out.

use std::path::{Path, PathBuf};

use crate::config::env_vars as var;
use crate::config::problems::Place;
use crate::config::reader::{Names, Reader};
use crate::config::secrets::SecretSource;
use crate::config::values;
use crate::model::{Password, RedactedUrl};

pub(in crate::config) const SECTION: &str = "Proxy";
const URL: Names = Names::both("url", var::PROXY_URL);
pub(in crate::config) const NTLM: Names = Names::both("ntlmAuth", var::PROXY_AUTH_NTLM);
const USER: Names = Names::both("user", var::PROXY_AUTH_USER);
const PASSWORD: Names = Names::both("password", var::PROXY_AUTH_PASSWORD);
const PASSWORD_FILE: Names = Names::both("passwordFile", var::PROXY_AUTH_PASSWORD_FILE);
const CA_CERT_FILES: Names = Names::both("caCertFiles", var::PROXY_CA_CERTS);

/// `[Proxy]`, and what the usual variables say in its place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyConfig {
    /// The proxy for everything that goes to LaunchDarkly; the usual variables do not count then.
    pub url: Option<RedactedUrl>,
    /// How the relay authenticates itself to it, if the URL does not say so itself.
    pub login: ProxyLogin,
    /// Certificates that are trusted beside those of the system, PEM.
    pub ca_cert_files: Vec<PathBuf>,
    /// What counts where there is no `url`.
    pub from_variables: VariableProxies,
}

/// How the relay authenticates itself to the proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ProxyLogin {
    /// As the URL says.
    #[default]
    FromUrl,
    /// Basic authentication.
    Basic {
        /// The user.
        user: String,
        /// The password; `None` is an empty one.
        password: Option<SecretSource<Password>>,
    },
}

/// The variables that programs share, read whether or not variables set options.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VariableProxies {
    /// Proxy for `http` addresses.
    pub http: Option<RedactedUrl>,
    /// Proxy for `https` addresses.
    pub https: Option<RedactedUrl>,
    /// Hosts that need none, as the variable spells them.
    pub no_proxy: Option<String>,
}

/// Reads the section.
pub(super) fn read(reader: &mut Reader<'_>) -> ProxyConfig {
    let mut section = reader.section(SECTION);
    let url = section.parsed(URL, values::proxy_url);
    let login = read_login(reader);
    let mut section = reader.section(SECTION);
    let ca_cert_files = section.literal_list(CA_CERT_FILES);
    for path in &ca_cert_files {
        if let Err(error) = section.files().read(Path::new(path)) {
            section.problem(CA_CERT_FILES, format!("{path} cannot be read: {error}"), None);
        }
    }
    let has_url = section.is_set(URL);
    let from_variables =
        if has_url { VariableProxies::default() } else { VariableProxies::read(reader) };
    ProxyConfig {
        url,
        login,
        ca_cert_files: ca_cert_files.into_iter().map(PathBuf::from).collect(),
        from_variables,
    }
}

/// User and password. ld-relay v8 uses them for NTLM only; here they are for Basic as well.
fn read_login(reader: &mut Reader<'_>) -> ProxyLogin {
    let mut section = reader.section(SECTION);
    let is_ntlm = section.switch(NTLM);
    let user = section.text(USER);
    let password = section.secret(PASSWORD, PASSWORD_FILE);
    section.text(Names::both("domain", var::PROXY_AUTH_DOMAIN));
    let has_password = section.is_set(PASSWORD) || section.is_set(PASSWORD_FILE);
    if is_ntlm {
        // A problem already (see `unbuilt`). The password must not be sent in any other way.
        return ProxyLogin::FromUrl;
    }
    if has_password && user.is_none() {
        section.warning(PASSWORD, "has no effect without a user");
    } else if user.is_some() && !section.is_set(URL) {
        section.warning(USER, "has no effect without the url of a proxy");
    }
    match user {
        Some(user) => ProxyLogin::Basic { user, password },
        None => ProxyLogin::FromUrl,
    }
}

impl VariableProxies {
    /// Upper case counts before lower case, as in ld-relay v8.
    fn read(reader: &mut Reader<'_>) -> Self {
        let mut either = |name: &str| {
            let lower = name.to_ascii_lowercase();
            let upper = reader.process_variable(name).map(|value| (name.to_owned(), value));
            upper.or_else(|| reader.process_variable(&lower).map(|value| (lower, value)))
        };
        let [http, https] = [var::HTTP_PROXY, var::HTTPS_PROXY].map(&mut either);
        let no_proxy = either(var::NO_PROXY).map(|(_, value)| value);
        let mut url = |given: Option<(String, String)>| {
            let (name, text) = given?;
            // A bare `host:port` is common in these variables.
            let text = if text.contains("://") { text } else { format!("http://{text}") };
            let url = values::proxy_url(&text);
            match &url {
                Ok(_) => {}
                // Whoever asks for it does not want to see requests go around it.
                Err(invalid) if values::is_socks(&text) => {
                    reader.problem(Place::Variable(name), invalid.what.as_str(), invalid.allowed);
                }
                Err(invalid) => {
                    let what = format!("{}, so it is not used", invalid.what);
                    reader.warning(Place::Variable(name), what);
                }
            }
            url.ok()
        };
        Self { http: url(http), https: url(https), no_proxy }
    }
}
