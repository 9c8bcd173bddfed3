//! The configuration as text, for `check-config`: every option in use, defaults included.
//!
//! The page is for people; its form may change. Secrets appear as `set`, keys with their last four
//! characters, URLs without their password.

use std::fmt::{self, Display};
use std::path::Path;
use std::time::Duration;

use super::sections::database::DatabaseTls;
use super::values::Written;
use super::{
    AutoConfigSection, ConcurrencyConfig, ConcurrencyLimit, Config, Database, EnvironmentConfig,
    LocalStoreDirectory, LogFormat, MainConfig, ProxyConfig, ProxyLogin, RedisServers,
    SecretSource,
};

/// Renders the configuration, one option a line under the title of its section. A value may hold a
/// line break or an escape sequence of a terminal: the program that prints the lines escapes it.
pub fn describe(config: &Config) -> Vec<String> {
    let mut page = Page(Vec::new());
    main(&mut page, &config.main);
    autoconfig(&mut page, &config.autoconfig);
    for (name, environment) in &config.environments {
        page.title(format_args!("[Environment {name:?}]"));
        one_environment(&mut page, environment);
    }
    for (project, keys) in &config.filters {
        page.title(format_args!("[Filters {project:?}]"));
        page.list("keys", keys.iter().map(crate::model::FilterKey::as_str));
    }
    if let Some(database) = &config.database {
        one_database(&mut page, database);
    }
    page.title("[LocalStore]");
    match &config.local_store.directory {
        LocalStoreDirectory::Off => page.line("dir", "off"),
        LocalStoreDirectory::Explicit(path) => page.line("dir", path.display()),
        LocalStoreDirectory::FirstUsable(paths) => {
            let paths: Vec<String> = paths.iter().map(|it| it.display().to_string()).collect();
            page.line("dir", format_args!("the first writable one of {}", paths.join(", ")));
        }
    }
    let prefer_over =
        if config.local_store.is_preferred_over_shared { "sharedStore" } else { "off" };
    page.line("preferOver", prefer_over);
    proxy(&mut page, &config.proxy);
    concurrency(&mut page, &config.concurrency);
    page.0
}

/// Lines under titles. Options that are not implemented yet are left out: they are in a warning.
struct Page(Vec<String>);

impl Page {
    fn title(&mut self, title: impl Display) {
        if !self.0.is_empty() {
            self.0.push(String::new());
        }
        self.0.push(title.to_string());
    }

    fn line(&mut self, name: &str, value: impl Display) {
        self.0.push(format!("  {name}: {value}"));
    }

    fn optional(&mut self, name: &str, value: Option<impl Display>, otherwise: &str) {
        match value {
            Some(value) => self.line(name, value),
            None => self.line(name, otherwise),
        }
    }

    fn duration(&mut self, name: &str, value: Duration) {
        self.line(name, Written(value));
    }

    fn interval(&mut self, name: &str, value: Option<Duration>, otherwise: &str) {
        match value {
            Some(value) => self.duration(name, value),
            None => self.line(name, otherwise),
        }
    }

    fn list<'a>(&mut self, name: &str, items: impl Iterator<Item = &'a str>) {
        let items: Vec<&str> = items.collect();
        if !items.is_empty() {
            self.line(name, items.join(", "));
        }
    }

    fn text(&mut self, name: &str, text: &str) {
        if !text.is_empty() {
            self.line(name, text);
        }
    }

    fn file(&mut self, name: &str, path: Option<&Path>) {
        if let Some(path) = path {
            self.line(name, path.display());
        }
    }

    fn secret<T>(&mut self, name: &str, secret: Option<&SecretSource<T>>) {
        if let Some(SecretSource { file, .. }) = secret {
            self.line(name, From(file.as_deref(), "set"));
        }
    }

    /// A key by its last characters, which LaunchDarkly's own pages show as well.
    fn key<T>(&mut self, name: &str, key: &SecretSource<T>, text: &str) {
        self.line(name, From(key.file.as_deref(), &tail(text)));
    }
}

/// A value and the file it was read from.
struct From<'a>(Option<&'a Path>, &'a str);

impl Display for From<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(file) => write!(f, "{}, from the file {}", self.1, file.display()),
            None => f.write_str(self.1),
        }
    }
}

/// The last four characters of a long key; nothing of a short one.
fn tail(text: &str) -> String {
    let count = text.chars().count();
    if count > 8 {
        format!("…{}", text.chars().skip(count - 4).collect::<String>())
    } else {
        "set".to_owned()
    }
}

fn main(page: &mut Page, main: &MainConfig) {
    page.title("[Main]");
    page.line("streamUri", &main.stream_uri);
    page.optional("bindAddress", main.bind_address, "all interfaces");
    page.line("port", main.port);
    page.duration("initTimeout", main.init_timeout);
    page.duration("gracefulShutdownTimeout", main.graceful_shutdown_timeout);
    page.duration("shutdownDelay", main.shutdown_delay);
    page.interval("heartbeatInterval", main.heartbeat_interval, "off");
    page.interval("maxClientConnectionTime", main.max_client_connection_time, "no limit");
    page.duration("disconnectedStatusTime", main.disconnected_status_time);
    page.duration("expiredCredentialCleanupInterval", main.expired_credential_cleanup_interval);
    page.line("exitAlways", main.exit_always);
    page.line("logLevel", main.log_level.as_str());
    let format = match main.log_format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    page.line("LOG_FORMAT", format);
}

fn autoconfig(page: &mut Page, autoconfig: &AutoConfigSection) {
    page.title("[AutoConfig]");
    match &autoconfig.key {
        Some(key) => page.key("key", key, key.value.expose()),
        None => page.line("key", "not set; the environments are listed below"),
    }
    page.optional("cacheKey", autoconfig.cache_key.as_ref(), "not set; there is no shared cache");
    page.secret("cacheEncryptionKey", autoconfig.cache_encryption_key.as_ref());
    if let Some(keys) = &autoconfig.cache_previous_encryption_keys {
        let count = format!("{} set", keys.value.len());
        page.line("cachePreviousEncryptionKeys", From(keys.file.as_deref(), &count));
    }
    page.line("cacheFormat", autoconfig.cache_format.as_str());
    page.line("cacheAdopt", autoconfig.cache_adopt.as_str());
    page.interval("cacheMaxAge", autoconfig.cache_max_age, "no limit");
    let defaults = &autoconfig.environments;
    page.text("envDatastorePrefix", defaults.store_prefix_template());
    page.text("envDatastoreTableName", defaults.store_table_template());
}

fn one_environment(page: &mut Page, environment: &EnvironmentConfig) {
    page.key("sdkKey", &environment.sdk_key, environment.sdk_key.value.expose());
    if let Some(key) = &environment.mobile_key {
        page.key("mobileKey", key, key.value.expose());
    }
    if let Some(id) = &environment.environment_id {
        page.line("envId", id.as_str());
    }
    page.text("projKey", &environment.project_key);
    page.text("prefix", &environment.store_prefix);
    page.text("tableName", &environment.store_table);
    page.duration("ttl", environment.ttl);
}

fn one_database(page: &mut Page, database: &Database) {
    match database {
        Database::Redis(redis) => {
            page.title("[Redis]");
            let (mode, option) = match &redis.servers {
                RedisServers::Standalone(_) => ("standalone", "url"),
                RedisServers::Sentinel { .. } => ("sentinel", "urls"),
                RedisServers::Cluster(_) => ("cluster", "urls"),
            };
            page.line("mode", mode);
            if let RedisServers::Sentinel { master, .. } = &redis.servers {
                page.line("sentinelMaster", master);
            }
            let urls: Vec<String> = redis.servers.urls().iter().map(|it| it.redacted()).collect();
            page.line(option, urls.join(", "));
            page.text("username", redis.username.as_deref().unwrap_or_default());
            page.secret("password", redis.password.as_ref());
            database_tls(page, &redis.tls);
            page.interval("connectTimeout", redis.connect_timeout, "part of readTimeout");
            page.interval("readTimeout", redis.read_timeout, "2s");
            page.interval("healthCheckInterval", redis.health_check_interval, "off");
            page.line("localTtl", redis.local_ttl);
        }
        Database::Consul(consul) => {
            page.title("[Consul]");
            page.line("host", &consul.address);
            page.secret("token", consul.token.as_ref());
            database_tls(page, &consul.tls);
            page.interval("healthCheckInterval", consul.health_check_interval, "off");
            page.line("localTtl", consul.local_ttl);
        }
        Database::DynamoDb(dynamodb) => {
            page.title("[DynamoDB]");
            page.optional("tableName", dynamodb.table.as_ref(), "one table for each environment");
            page.optional("url", dynamodb.endpoint.as_ref(), "the endpoint of AWS");
            page.interval("healthCheckInterval", dynamodb.health_check_interval, "off");
            page.line("localTtl", dynamodb.local_ttl);
        }
    }
}

fn database_tls(page: &mut Page, tls: &DatabaseTls) {
    page.file("caFile", tls.ca_file.as_deref());
    if let Some(certificate) = &tls.client_certificate {
        page.file("clientCertificateFile", Some(&certificate.certificate_file));
        page.file("clientKeyFile", Some(&certificate.key_file));
    }
}

fn proxy(page: &mut Page, proxy: &ProxyConfig) {
    page.title("[Proxy]");
    page.optional("url", proxy.url.as_ref().map(|url| url.redacted()), "none");
    match &proxy.login {
        ProxyLogin::FromUrl => {}
        ProxyLogin::Basic { user, password } => {
            page.line("user", user);
            page.secret("password", password.as_ref());
        }
    }
    let files: Vec<String> =
        proxy.ca_cert_files.iter().map(|path| path.display().to_string()).collect();
    page.list("caCertFiles", files.iter().map(String::as_str));
    let variables = &proxy.from_variables;
    page.text("HTTP_PROXY", &variables.http.as_ref().map_or_else(String::new, |it| it.redacted()));
    page.text(
        "HTTPS_PROXY",
        &variables.https.as_ref().map_or_else(String::new, |it| it.redacted()),
    );
    page.text("NO_PROXY", variables.no_proxy.as_deref().unwrap_or_default());
}

fn concurrency(page: &mut Page, concurrency: &ConcurrencyConfig) {
    page.title("[Concurrency]");
    let queued_by_default = match concurrency.max_concurrent {
        // The other two have no effect.
        Some(ConcurrencyLimit::Off) => return page.line("maxConcurrent", "off"),
        Some(ConcurrencyLimit::AtMost(count)) => {
            page.line("maxConcurrent", count);
            "0"
        }
        None => {
            page.line("maxConcurrent", 512);
            "20000"
        }
    };
    page.optional("maxQueued", concurrency.max_queued, queued_by_default);
    page.interval("sendTimeout", concurrency.send_timeout, "no limit");
}
