//! The parts of a relay that are made from the configuration alone: nothing is dialled, bound or
//! started. Both the start and `check-config` make them, so the relay starts with a configuration
//! that passes the check.

use std::path::PathBuf;

use http::Uri;

use super::database::{self, SharedDatabase};
use super::offline;
use crate::archive::{ArchiveError, file};
use crate::autoconfig::stream_manager::{PATH, QUERY};
use crate::config::{Config, ProxyLogin};
use crate::server::{BindError, Listener};
use crate::upstream::{
    BaseUrl, HttpClient, HttpClientSettings, ProxySettings, SettingsError, UrlError,
};

/// One reason why the relay cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port is taken, or the address is not of this machine.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The outbound proxy or a CA file cannot be used.
    #[error("outbound connections cannot be set up")]
    Outbound(#[source] SettingsError),
    /// An upstream address cannot be used.
    #[error("{option} is not usable as an upstream address")]
    Upstream {
        /// The option.
        option: &'static str,
        /// The cause.
        #[source]
        cause: UrlError,
    },
    /// The shared database cannot be used as it is configured.
    #[error("{section} cannot be used as it is configured")]
    Database {
        /// The section of the configuration.
        section: &'static str,
        /// The cause.
        #[source]
        cause: database::DatabaseError,
    },
    /// The archive of offline mode cannot be used.
    #[error("the archive {} ([OfflineMode] fileDataSource) cannot be used", path.display())]
    Archive {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: ArchiveError,
    },
    /// The configuration asks for a part that this binary was built without.
    #[cfg(not(all(feature = "redis", feature = "dynamodb", feature = "consul")))]
    #[error("this binary was built without {0}")]
    NotCompiled(&'static str),
}

/// All reasons why the relay cannot start; never empty.
#[derive(Debug)]
pub struct StartErrors(Vec<StartError>);

impl StartErrors {
    /// The reasons, in the order in which they were found.
    pub fn iter(&self) -> impl Iterator<Item = &StartError> {
        self.0.iter()
    }
}

impl From<StartError> for StartErrors {
    fn from(error: StartError) -> Self {
        Self(vec![error])
    }
}

/// The parts that need no network.
pub(super) struct Prepared {
    pub(super) client: HttpClient,
    pub(super) addresses: Addresses,
    pub(super) database: Option<SharedDatabase>,
    /// The archive, in offline mode. An archive that cannot be used is no error here: an earlier
    /// run may have left what it knew.
    pub(super) archive: Option<offline::First>,
}

/// Addresses of LaunchDarkly.
pub(super) struct Addresses {
    pub(super) stream_base: BaseUrl,
    pub(super) autoconfig_url: Uri,
    /// Base of the endpoints for client-side SDKs.
    pub(super) client_side_base: BaseUrl,
    /// Base of the endpoints for events.
    pub(super) events_base: BaseUrl,
}

impl Prepared {
    /// Makes the parts, or reports everything that is wrong with them.
    pub(super) fn new(config: &Config) -> Result<Self, StartErrors> {
        let client = HttpClient::new(&http_settings(config)).map_err(StartError::Outbound);
        let addresses = addresses(config);
        let database = config.database.as_ref().map(SharedDatabase::new).transpose();
        let archive = config.offline.as_ref().map(|offline| file::read(&offline.file));
        match (client, addresses, database) {
            (Ok(client), Ok(addresses), Ok(database)) => {
                Ok(Self { client, addresses, database, archive })
            }
            (client, addresses, database) => {
                let errors = [client.err(), addresses.err(), database.err()];
                Err(StartErrors(errors.into_iter().flatten().collect()))
            }
        }
    }
}

impl Prepared {
    /// The reason why the archive cannot be used, if it cannot.
    fn archive_error(self, config: &Config) -> Option<StartError> {
        let path = config.offline.as_ref()?.file.clone();
        let cause = self.archive?.err()?;
        Some(StartError::Archive { path, cause })
    }

    /// Fails if the archive cannot be used and no earlier run can have left anything: ld-relay does
    /// not start then either.
    pub(super) fn check_archive(self, config: &Config) -> Result<Self, StartErrors> {
        let is_known = offline::may_be_known(config.local_store.directory.candidates());
        let is_unusable = matches!(self.archive, Some(Err(_)));
        if is_unusable && !is_known {
            let error = self.archive_error(config);
            return Err(StartErrors(error.into_iter().collect()));
        }
        Ok(self)
    }
}

/// Reports everything for which the relay would refuse to start with this configuration on this
/// machine. A port that is in use is left out: the relay that runs there may be the one whose
/// configuration is checked.
pub fn check(config: &Config) -> Result<(), StartErrors> {
    let mut errors = match Prepared::new(config) {
        Ok(prepared) => prepared.archive_error(config).into_iter().collect(),
        Err(StartErrors(errors)) => errors,
    };
    if !config.main.exit_always {
        match Listener::check(config.main.bind_address, config.main.port) {
            Ok(()) | Err(BindError::Taken { .. }) => {}
            Err(error @ BindError::Refused { .. }) => errors.push(error.into()),
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(StartErrors(errors)) }
}

fn addresses(config: &Config) -> Result<Addresses, StartError> {
    let main = &config.main;
    let failed = |option| move |cause| StartError::Upstream { option, cause };
    let base = |address: &Uri, option| BaseUrl::parse(&address.to_string()).map_err(failed(option));
    let stream_base = base(&main.stream_uri, "streamUri")?;
    let autoconfig_url = stream_base.join(PATH, Some(QUERY)).map_err(failed("streamUri"))?;
    Ok(Addresses {
        stream_base,
        autoconfig_url,
        client_side_base: base(&main.client_side_base_uri, "clientSideBaseUri")?,
        events_base: base(&config.events.uri, "eventsUri")?,
    })
}

fn http_settings(config: &Config) -> HttpClientSettings {
    let proxy = &config.proxy;
    let (user, password) = match &proxy.login {
        ProxyLogin::FromUrl => (None, None),
        ProxyLogin::Basic { user, password } => {
            (Some(user.clone()), password.as_ref().map(|source| source.value.clone()))
        }
    };
    HttpClientSettings {
        proxy: ProxySettings {
            url: proxy.url.clone(),
            user,
            password,
            http_proxy: proxy.from_variables.http.clone(),
            https_proxy: proxy.from_variables.https.clone(),
            no_proxy: proxy.from_variables.no_proxy.clone(),
        },
        ca_files: proxy.ca_cert_files.clone(),
    }
}
