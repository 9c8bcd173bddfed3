//! `[Http]`: compression towards SDKs and the pool of outbound connections.

use std::time::Duration;

use crate::config::env_vars as var;
use crate::config::reader::{Names, Reader};
use crate::config::values;

const SECTION: &str = "Http";

/// `[Http]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpConfig {
    /// Whether responses to SDKs are compressed.
    pub enable_compression: bool,
    /// How long an unused outbound connection is kept; `None` leaves it to the client.
    pub idle_connection_timeout: Option<Duration>,
    /// Unused outbound connections that are kept; `None` leaves it to the client.
    pub max_idle_connections: Option<i64>,
    /// The same for one host.
    pub max_idle_connections_per_host: Option<i64>,
    /// Whether each request has a connection of its own.
    pub disable_keep_alives: bool,
}

/// Reads the section.
pub(super) fn read(reader: &mut Reader<'_>) -> HttpConfig {
    let timeout = Names::both("idleConnTimeout", var::HTTP_IDLE_CONN_TIMEOUT);
    let connections = Names::both("maxIdleConns", var::HTTP_MAX_IDLE_CONNS);
    let per_host = Names::both("maxIdleConnsPerHost", var::HTTP_MAX_IDLE_CONNS_PER_HOST);
    let mut section = reader.section(SECTION);
    let mut switch = |option, variable| section.switch(Names::both(option, variable));
    HttpConfig {
        enable_compression: switch("enableCompression", var::HTTP_ENABLE_COMPRESSION),
        disable_keep_alives: switch("disableKeepAlives", var::HTTP_DISABLE_KEEPALIVE),
        idle_connection_timeout: section.parsed(timeout, values::duration_or_off).flatten(),
        max_idle_connections: section.parsed(connections, values::integer),
        max_idle_connections_per_host: section.parsed(per_host, values::integer_or_hex),
    }
}
