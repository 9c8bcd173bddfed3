//! `[Proxy]`: the proxy for connections to LaunchDarkly.

use std::path::{Path, PathBuf};

use crate::config::problems::Place;
use crate::config::reader::{Reader, Scope};
use crate::config::secrets::SecretSource;
use crate::config::table::{Row, proxy as table};
use crate::config::values;
use crate::model::{Password, RedactedUrl};

/// `[Proxy]`, and the usual proxy variables that apply without it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyConfig {
    /// The proxy for all connections to LaunchDarkly; if set, the usual variables are ignored.
    pub url: Option<RedactedUrl>,
    /// Authentication with the proxy.
    pub login: ProxyLogin,
    /// Certificates that are trusted in addition to those of the system, PEM.
    pub ca_cert_files: Vec<PathBuf>,
    /// The proxies that apply without `url`.
    pub from_variables: VariableProxies,
}

/// Authentication of the relay with the proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ProxyLogin {
    /// User and password of the URL, if it has them.
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

/// The proxy variables that programs share, read even without `--from-env`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VariableProxies {
    /// Proxy for `http` addresses.
    pub http: Option<RedactedUrl>,
    /// Proxy for `https` addresses.
    pub https: Option<RedactedUrl>,
    /// Hosts that need no proxy, as the variable spells them.
    pub no_proxy: Option<String>,
}

/// Reads the section.
pub(super) fn read(reader: &mut Reader<'_>) -> ProxyConfig {
    let mut section = reader.global();
    let url = section.read(&table::PROXY_URL);
    let login = read_login(&mut section);
    let ca_cert_files = section.read(&table::PROXY_CA_CERTS).unwrap_or_default();
    for path in &ca_cert_files {
        if let Err(error) = section.reader.files().read(Path::new(path)) {
            section.problem(
                &table::PROXY_CA_CERTS,
                format!("{path} cannot be read: {error}"),
                None,
            );
        }
    }
    let from_variables = if section.is_set(&table::PROXY_URL) {
        VariableProxies::default()
    } else {
        VariableProxies::read(&mut section)
    };
    let ca_cert_files = ca_cert_files.into_iter().map(PathBuf::from).collect();
    ProxyConfig { url, login, ca_cert_files, from_variables }
}

/// Reads user and password. ld-relay v8 uses them for NTLM only; Pilotlight also for Basic.
fn read_login(section: &mut Scope<'_, '_>) -> ProxyLogin {
    let user = section.read(&table::PROXY_AUTH_USER);
    let password = section.secret(&table::PROXY_AUTH_PASSWORD);
    if section.value(&table::PROXY_AUTH_NTLM) {
        // Already a problem (see the table). The password must not be sent in any other way.
        return ProxyLogin::FromUrl;
    }
    let has_password = section.is_set(&table::PROXY_AUTH_PASSWORD)
        || section.is_set(&table::PROXY_AUTH_PASSWORD_FILE);
    if has_password && user.is_none() {
        section.warning(&table::PROXY_AUTH_PASSWORD, "has no effect without a user");
    } else if user.is_some() && !section.is_set(&table::PROXY_URL) {
        section.warning(&table::PROXY_AUTH_USER, "has no effect without the url of a proxy");
    }
    match user {
        Some(user) => ProxyLogin::Basic { user, password },
        None => ProxyLogin::FromUrl,
    }
}

impl VariableProxies {
    fn read(section: &mut Scope<'_, '_>) -> Self {
        let no_proxy = either_case(section, &table::NO_PROXY).map(|(_, value)| value);
        section.show(&table::NO_PROXY, no_proxy.clone());
        let http = Self::url(section, &table::HTTP_PROXY);
        Self { http, https: Self::url(section, &table::HTTPS_PROXY), no_proxy }
    }

    fn url(section: &mut Scope<'_, '_>, row: &Row) -> Option<RedactedUrl> {
        let (name, text) = either_case(section, row)?;
        // A bare `host:port` is common in these variables.
        let text = if text.contains("://") { text } else { format!("http://{text}") };
        match values::proxy_url(&text) {
            Ok(url) => {
                section.show(row, Some(url.redacted()));
                Some(url)
            }
            // An operator who configures SOCKS does not want requests to bypass the proxy.
            Err(invalid) if values::is_socks(&text) => {
                let allowed = invalid.allowed.as_deref();
                section.reader.problem(Place::Variable(name), invalid.what, allowed);
                None
            }
            Err(invalid) => {
                let what = format!("{}, so it is not used", invalid.what);
                section.reader.warning(Place::Variable(name), what);
                None
            }
        }
    }
}

/// The name and value of the variable. Upper case takes precedence over lower case, as in ld-relay
/// v8.
fn either_case(section: &Scope<'_, '_>, row: &Row) -> Option<(String, String)> {
    let name = row.variable?;
    [name.to_owned(), name.to_ascii_lowercase()].into_iter().find_map(|name| {
        let value = section.reader.process_variable(&name)?;
        Some((name, value))
    })
}
