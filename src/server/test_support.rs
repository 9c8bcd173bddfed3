//! Helpers that the tests of this module share.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::Map;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::connection::{Welcome, serve};
use super::{Drain, InitialPayloads, Server, ServerSettings, StatusMembers};
use crate::environments::{Environment, Registry};
use crate::model::{
    AcceptedKey, ChangeSet, CredentialSet, DataSet, EnvironmentRef, EnvironmentSpec, FilterKey,
    Item, ItemKey, ItemKind, Origin, SdkKey,
};
use crate::streams::Snapshot;
use crate::tasks::TaskGroup;

/// An environment that a key opens.
pub(super) fn spec(key: &str) -> EnvironmentSpec {
    let environment = format!("environment of {key}").into();
    let key = SdkKey::new(key);
    EnvironmentSpec {
        reference: EnvironmentRef { environment, filter: FilterKey::default() },
        environment_key: String::new(),
        environment_name: String::new(),
        project_key: String::new(),
        project_name: String::new(),
        credentials: CredentialSet {
            anchor: key.clone(),
            sdk_keys: vec![AcceptedKey { value: key, name: None, expiry: None }],
            primary_mobile: None,
            mobile_keys: Vec::new(),
            environment_id: None,
        },
        ttl: Duration::ZERO,
        secure_mode: false,
        allowed_origins: Arc::default(),
        allowed_headers: Arc::default(),
        store_prefix: String::new(),
        store_table: String::new(),
    }
}

/// A server of two environments, without sockets.
pub(super) struct Bench {
    pub(super) server: Arc<Server>,
    pub(super) registry: Arc<Registry>,
    pub(super) environment: Arc<Environment>,
    /// A second one, which another key opens.
    other: Arc<Environment>,
    pub(super) drain: Arc<Drain>,
    pub(super) tasks: TaskGroup,
}

impl Bench {
    /// An environment with a flag of so many bytes.
    pub(super) fn new(flag_bytes: usize, initial_payloads: Option<InitialPayloads>) -> Self {
        Self::with(flag_bytes, initial_payloads, None)
    }

    /// The same with a bound on the time of streams.
    pub(super) fn with(
        flag_bytes: usize,
        initial_payloads: Option<InitialPayloads>,
        max_client_connection_time: Option<Duration>,
    ) -> Self {
        let members = StatusMembers(Arc::new(Map::new));
        Self::of(flag_bytes, initial_payloads, max_client_connection_time, members)
    }

    /// The same with further members of `/status`.
    pub(super) fn with_members(members: StatusMembers) -> Self {
        Self::of(1, None, None, members)
    }

    fn of(
        flag_bytes: usize,
        initial_payloads: Option<InitialPayloads>,
        max_client_connection_time: Option<Duration>,
        members: StatusMembers,
    ) -> Self {
        let (registry, environments) = Registry::of(vec![spec("sdk-1"), spec("sdk-2")]);
        let (registry, [environment, other]) =
            (Arc::new(registry), environments.try_into().unwrap());
        let drain = Arc::new(Drain::default());
        let settings = ServerSettings {
            max_client_connection_time,
            initial_payloads,
            disconnected_after: Duration::from_secs(60),
            init_timeout: Duration::from_secs(10),
            open_files_max: 1_000,
            ping_jitter: None,
            context_bytes_max: 1 << 20,
            compresses: false,
            has_status_page: true,
            is_offline: false,
            event_bytes_max: 1 << 20,
        };
        let server =
            Arc::new(Server::new(registry.clone(), settings, drain.clone(), members, None, None));
        let tasks = TaskGroup::new(&CancellationToken::new());
        let bench = Self { server, registry, environment, other, drain, tasks };
        bench.publish(1, flag_bytes);
        bench
    }

    /// Serves a version of the flag; streams get all but the first as a change.
    pub(super) fn publish(&self, version: u64, flag_bytes: usize) {
        if version == 1 {
            self.other.hub.replace(Arc::new(data_set(1, flag_bytes).0));
            return self.put(1, flag_bytes);
        }
        let (snapshot, change) = data_set(version, flag_bytes);
        self.environment.hub.change(Arc::new(snapshot), change);
    }

    /// Serves a version of the flag as a new data set.
    pub(super) fn put(&self, version: u64, flag_bytes: usize) {
        self.environment.hub.replace(Arc::new(data_set(version, flag_bytes).0));
    }

    /// A connection that buffers so many bytes that the client has not read.
    pub(super) fn connect(&mut self, unread_bytes: usize) -> DuplexStream {
        let (theirs, ours) = duplex(unread_bytes);
        let welcome = match self.drain.is_active() {
            true => Welcome::Leaving,
            false => Welcome::Normal,
        };
        let serving = serve(self.server.clone(), ours, Arc::default(), welcome);
        self.tasks.spawn_many("connection", serving);
        theirs
    }

    pub(super) async fn get(&mut self, path: &str) -> DuplexStream {
        let mut client = self.connect(1024);
        client.write_all(get(path).as_bytes()).await.unwrap();
        client
    }

    pub(super) async fn status_of(&mut self, path: &str) -> String {
        self.status_of_key(path, "sdk-1").await
    }

    pub(super) async fn status_of_key(&mut self, path: &str, key: &str) -> String {
        let mut client = self.connect(1024);
        client.write_all(get(path).replace("sdk-1", key).as_bytes()).await.unwrap();
        let mut line = [0; 12];
        client.read_exact(&mut line).await.unwrap();
        String::from_utf8(line.to_vec()).unwrap()
    }

    /// Waits until so many streams are open.
    pub(super) async fn streams(&self, count: usize) {
        timeout(Duration::from_secs(1_000), async {
            while self.environment.hub.streams() != count {
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .unwrap();
    }
}

/// A small flag and one of so many bytes, with the change of the latter.
fn data_set(version: u64, flag_bytes: usize) -> (Snapshot, ChangeSet) {
    let key = ItemKey::new(ItemKind::Flag, "f");
    let json = format!("{{\"version\":{version},\"salt\":\"{}\"}}", "x".repeat(flag_bytes));
    let item = Arc::new(Item::live(version, json));
    let mut data = DataSet::default();
    data.upsert(&key, item.clone());
    let small = Item::live(1, r#"{"version":1}"#);
    data.upsert(&ItemKey::new(ItemKind::Flag, "a"), Arc::new(small));
    let snapshot = Snapshot::new(Arc::new(data), Origin::Live, SystemTime::UNIX_EPOCH);
    (snapshot, ChangeSet::one(key, item))
}

/// A request with the key of the first environment.
pub(super) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: a\r\nauthorization: sdk-1\r\n\r\n")
}

/// Reads until the text has come.
pub(super) async fn read_until(client: &mut DuplexStream, end: &str) -> String {
    let mut seen = Vec::new();
    while !seen.ends_with(end.as_bytes()) {
        seen.push(client.read_u8().await.unwrap());
    }
    String::from_utf8(seen).unwrap()
}

pub(super) async fn read_to_end(mut client: DuplexStream) -> String {
    let mut seen = String::new();
    client.read_to_string(&mut seen).await.unwrap();
    seen
}
