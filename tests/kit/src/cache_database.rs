//! The three databases behind one face: how a relay is told of them, what they hold, and what
//! can happen to them. Everything here goes to the servers directly, past the cache's own code;
//! relays go through a proxy that can fail.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::flaky_proxy::FlakyProxy;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use redis::aio::MultiplexedConnection;
use serde_json::Value;

use crate::databases::{Consul, DynamoDb, MASTER_TOKEN, Redis};
use crate::relay::RelaySettings;
use crate::sdk_driver::SdkStore;

/// The databases that can hold a relay's cache and flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A Redis server; a namespace of the cache is a hash.
    Redis,
    /// DynamoDB Local; all namespaces are in one table.
    DynamoDb,
    /// A Consul agent; a namespace is a folder of keys.
    Consul,
}

/// Rows of a namespace: values by names.
pub type Rows = BTreeMap<String, Vec<u8>>;

enum Server {
    Redis(Redis),
    DynamoDb(Dynamo),
    Consul(Consul),
}

enum Dynamo {
    /// One that other tests use too, and this test's table.
    Shared(Arc<DynamoDb>, String),
    /// One that this test may kill.
    Own(Box<DynamoDb>, String),
}

impl Dynamo {
    fn server(&self) -> &DynamoDb {
        match self {
            Self::Shared(server, _) => server,
            Self::Own(server, _) => server,
        }
    }

    fn table(&self) -> &str {
        match self {
            Self::Shared(_, table) | Self::Own(_, table) => table,
        }
    }
}

impl Server {
    fn address(&self) -> SocketAddr {
        let port = match self {
            Self::Redis(server) => server.port,
            Self::DynamoDb(dynamo) => dynamo.server().port,
            Self::Consul(server) => server.port,
        };
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }
}

/// A database server, and the proxy through which relays reach it.
pub struct CacheDatabase {
    server: Server,
    proxy: FlakyProxy,
}

impl CacheDatabase {
    /// A database that lives as long as the test.
    pub async fn start(kind: Kind) -> Self {
        static TABLES: AtomicU32 = AtomicU32::new(0);
        match kind {
            Kind::DynamoDb => {
                let server = DynamoDb::shared().await;
                let table = format!("cache-{}", TABLES.fetch_add(1, Ordering::Relaxed));
                server.create_table(&table).await;
                Self::behind_proxy(Server::DynamoDb(Dynamo::Shared(server, table)))
            }
            Kind::Redis | Kind::Consul => Self::start_mortal(kind).await,
        }
    }

    /// A database that can be killed and frozen.
    pub async fn start_mortal(kind: Kind) -> Self {
        Self::behind_proxy(match kind {
            Kind::Redis => Server::Redis(Redis::start().await),
            Kind::Consul => Server::Consul(Consul::start().await),
            Kind::DynamoDb => {
                let server = DynamoDb::start().await;
                server.create_table("cache").await;
                Server::DynamoDb(Dynamo::Own(Box::new(server), "cache".to_owned()))
            }
        })
    }

    /// A Consul that refuses whoever shows no token.
    pub async fn start_consul_with_acl() -> Self {
        Self::behind_proxy(Server::Consul(Consul::start_with_acl().await))
    }

    fn behind_proxy(server: Server) -> Self {
        Self { proxy: FlakyProxy::start(server.address()).unwrap(), server }
    }

    /// Where the server itself listens.
    pub fn server_address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Stands between the relays and the server.
    pub fn proxy(&self) -> &FlakyProxy {
        &self.proxy
    }

    /// Tells a relay of the database, and how often to look at it.
    pub fn configure(&self, settings: RelaySettings, interval: &str) -> RelaySettings {
        let address = self.proxy.address();
        // Nothing is kept there yet, but ld-relay demands it with any database.
        let settings = settings.with("ENV_DATASTORE_PREFIX", "ld-$CID");
        match &self.server {
            Server::Redis(_) => settings
                .with("USE_REDIS", "true")
                .with("REDIS_URL", format!("redis://{address}"))
                .with("REDIS_HEALTH_CHECK_INTERVAL", interval),
            Server::DynamoDb(dynamo) => settings
                .with("USE_DYNAMODB", "true")
                .with("DYNAMODB_TABLE", dynamo.table())
                .with("DYNAMODB_URL", format!("http://{address}"))
                .with("DYNAMODB_HEALTH_CHECK_INTERVAL", interval)
                .with("AWS_REGION", "eu-west-1")
                .with("AWS_ACCESS_KEY_ID", "tests")
                .with("AWS_SECRET_ACCESS_KEY", "tests"),
            Server::Consul(_) => settings
                .with("USE_CONSUL", "true")
                .with("CONSUL_HOST", address.to_string())
                .with("CONSUL_HEALTH_CHECK_INTERVAL", interval),
        }
    }

    /// As an SDK in daemon mode is told of it: the server itself, so that faults of the relays'
    /// network are not the SDK's.
    pub fn sdk_store(&self, prefix: &str) -> SdkStore {
        let (database, port, table) = match &self.server {
            Server::Redis(server) => ("redis", server.port, None),
            Server::DynamoDb(dynamo) => {
                ("dynamodb", dynamo.server().port, Some(dynamo.table().to_owned()))
            }
            Server::Consul(server) => ("consul", server.port, None),
        };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        SdkStore { database, address, prefix: prefix.to_owned(), table }
    }

    /// Kills the server. Panics if other tests use it too.
    pub fn kill(&mut self) {
        match &mut self.server {
            Server::Redis(server) => server.kill(),
            Server::DynamoDb(Dynamo::Own(server, _)) => server.kill(),
            Server::DynamoDb(Dynamo::Shared(..)) => panic!("others use it too"),
            Server::Consul(server) => server.kill(),
        }
    }

    /// Starts it again, empty; a table has to be made anew.
    pub async fn restart(&mut self) {
        match &mut self.server {
            Server::Redis(server) => server.restart().await,
            Server::DynamoDb(Dynamo::Own(server, _)) => server.restart().await,
            Server::DynamoDb(Dynamo::Shared(..)) => panic!("others use it too"),
            Server::Consul(server) => server.restart().await,
        }
    }

    /// Makes the table, where there are tables.
    pub async fn create_table(&self) {
        if let Server::DynamoDb(dynamo) = &self.server {
            dynamo.server().create_table(dynamo.table()).await;
        }
    }

    /// Deletes the table, where there are tables.
    pub async fn drop_table(&self) {
        if let Server::DynamoDb(dynamo) = &self.server {
            let client = dynamo.server().client().await;
            client.delete_table().table_name(dynamo.table()).send().await.unwrap();
        }
    }

    /// Stops it without its noticing: connections stay, answers do not come.
    pub fn freeze(&self) {
        match &self.server {
            Server::Redis(server) => server.freeze(),
            Server::DynamoDb(dynamo) => dynamo.server().freeze(),
            Server::Consul(server) => server.freeze(),
        }
    }

    /// Lets it go on after [`Self::freeze`].
    pub fn thaw(&self) {
        match &self.server {
            Server::Redis(server) => server.thaw(),
            Server::DynamoDb(dynamo) => dynamo.server().thaw(),
            Server::Consul(server) => server.thaw(),
        }
    }

    /// The server as a Redis, for what only that has.
    pub fn redis(&self) -> &Redis {
        let Server::Redis(server) = &self.server else { panic!("no Redis") };
        server
    }
}

/// What it holds.
impl CacheDatabase {
    /// All rows of a namespace; none where there is no such namespace.
    pub async fn rows(&self, namespace: &str) -> Rows {
        match &self.server {
            Server::Redis(server) => {
                let rows: HashMap<String, Vec<u8>> = redis::cmd("HGETALL")
                    .arg(namespace)
                    .query_async(&mut connection(server).await)
                    .await
                    .unwrap();
                rows.into_iter().collect()
            }
            Server::DynamoDb(dynamo) => {
                let all = items(dynamo).await;
                all.into_iter()
                    .filter(|((space, _), _)| space == namespace)
                    .map(|((_, name), value)| (name, value))
                    .collect()
            }
            Server::Consul(server) => {
                let prefix = format!("{namespace}/");
                let (status, body) =
                    consul(server, "GET", &format!("/v1/kv/{prefix}?recurse"), b"").unwrap();
                if status == 404 {
                    return Rows::new();
                }
                assert_eq!(status, 200);
                let entries: Vec<Value> = serde_json::from_slice(&body).unwrap();
                let row = |entry: &Value| {
                    let name = entry["Key"].as_str().unwrap().strip_prefix(&prefix).unwrap();
                    // An empty value is `null` there.
                    let value = entry["Value"].as_str().unwrap_or_default();
                    let value = STANDARD.decode(value).unwrap();
                    (name.to_owned(), value)
                };
                entries.iter().map(row).collect()
            }
        }
    }

    /// Stores a row, whatever stands there.
    pub async fn put(&self, namespace: &str, name: &str, value: &[u8]) {
        match &self.server {
            Server::Redis(server) => redis::cmd("HSET")
                .arg(namespace)
                .arg(name)
                .arg(value)
                .exec_async(&mut connection(server).await)
                .await
                .unwrap(),
            Server::DynamoDb(dynamo) => {
                let client = dynamo.server().client().await;
                client
                    .put_item()
                    .table_name(dynamo.table())
                    .item("namespace", AttributeValue::S(namespace.to_owned()))
                    .item("key", AttributeValue::S(name.to_owned()))
                    .item("item", AttributeValue::B(Blob::new(value)))
                    .send()
                    .await
                    .unwrap();
            }
            Server::Consul(server) => {
                let path = format!("/v1/kv/{namespace}/{name}");
                assert_eq!(consul(server, "PUT", &path, value).unwrap().0, 200);
            }
        }
    }

    /// Removes a row, if it is there.
    pub async fn remove(&self, namespace: &str, name: &str) {
        match &self.server {
            Server::Redis(server) => redis::cmd("HDEL")
                .arg(namespace)
                .arg(name)
                .exec_async(&mut connection(server).await)
                .await
                .unwrap(),
            Server::DynamoDb(dynamo) => {
                let client = dynamo.server().client().await;
                client
                    .delete_item()
                    .table_name(dynamo.table())
                    .key("namespace", AttributeValue::S(namespace.to_owned()))
                    .key("key", AttributeValue::S(name.to_owned()))
                    .send()
                    .await
                    .unwrap();
            }
            Server::Consul(server) => {
                let path = format!("/v1/kv/{namespace}/{name}");
                assert_eq!(consul(server, "DELETE", &path, b"").unwrap().0, 200);
            }
        }
    }

    /// Whether the flags of a prefix are marked as complete.
    pub async fn has_marker(&self, prefix: &str) -> bool {
        match &self.server {
            Server::Redis(server) => {
                server.command(&["EXISTS", &format!("{prefix}:$inited")]) == "1"
            }
            Server::DynamoDb(dynamo) => {
                let name = format!("{prefix}:$inited");
                items(dynamo).await.contains_key(&(name.clone(), name))
            }
            Server::Consul(server) => {
                consul(server, "GET", &format!("/v1/kv/{prefix}/$inited"), b"").unwrap().0 == 200
            }
        }
    }

    /// Removes the mark that the flags of a prefix are complete.
    pub async fn remove_marker(&self, prefix: &str) {
        match &self.server {
            Server::Redis(server) => {
                assert_eq!(server.command(&["DEL", &format!("{prefix}:$inited")]), "1");
            }
            Server::DynamoDb(_) => {
                let name = format!("{prefix}:$inited");
                self.remove(&name, &name).await;
            }
            Server::Consul(_) => self.remove(prefix, "$inited").await,
        }
    }

    /// Stores a flag or segment, as another writer would.
    pub async fn put_item(&self, namespace: &str, key: &str, version: u64, json: &str) {
        let Server::DynamoDb(dynamo) = &self.server else {
            return self.put(namespace, key, json.as_bytes()).await;
        };
        let client = dynamo.server().client().await;
        client
            .put_item()
            .table_name(dynamo.table())
            .item("namespace", AttributeValue::S(namespace.to_owned()))
            .item("key", AttributeValue::S(key.to_owned()))
            .item("version", AttributeValue::N(version.to_string()))
            .item("item", AttributeValue::S(json.to_owned()))
            .send()
            .await
            .unwrap();
    }

    /// Removes the flags, segments and marker of a prefix.
    pub async fn wipe_prefix(&self, prefix: &str) {
        match &self.server {
            Server::Redis(server) => {
                let keys = ["features", "segments", "$inited"].map(|it| format!("{prefix}:{it}"));
                server.command(&["DEL", &keys[0], &keys[1], &keys[2]]);
            }
            Server::DynamoDb(dynamo) => {
                let own = format!("{prefix}:");
                for (namespace, name) in items(dynamo).await.into_keys() {
                    if namespace.starts_with(&own) {
                        self.remove(&namespace, &name).await;
                    }
                }
            }
            Server::Consul(server) => {
                let path = format!("/v1/kv/{prefix}/?recurse");
                assert_eq!(consul(server, "DELETE", &path, b"").unwrap().0, 200);
            }
        }
    }

    /// Removes everything at once (item by item where there is no other way).
    pub async fn wipe(&self) {
        match &self.server {
            Server::Redis(server) => assert_eq!(server.command(&["FLUSHALL"]), "OK"),
            Server::DynamoDb(dynamo) => {
                for (namespace, name) in items(dynamo).await.into_keys() {
                    self.remove(&namespace, &name).await;
                }
            }
            Server::Consul(server) => {
                assert_eq!(consul(server, "DELETE", "/v1/kv/?recurse", b"").unwrap().0, 200);
            }
        }
    }
}

async fn connection(server: &Redis) -> MultiplexedConnection {
    let url = format!("redis://127.0.0.1:{}", server.port);
    redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap()
}

/// All items of the table by namespace and name.
async fn items(dynamo: &Dynamo) -> BTreeMap<(String, String), Vec<u8>> {
    let client = dynamo.server().client().await;
    let mut found = BTreeMap::new();
    let mut from = None;
    loop {
        let page = client
            .scan()
            .table_name(dynamo.table())
            .consistent_read(true)
            .set_exclusive_start_key(from)
            .send()
            .await
            .unwrap();
        for item in page.items() {
            let text = |name: &str| item[name].as_s().unwrap().clone();
            // Records of the cache are bytes, flags are text, and the marker of flags has nothing.
            let value = match item.get("item") {
                Some(AttributeValue::B(bytes)) => bytes.clone().into_inner(),
                Some(AttributeValue::S(text)) => text.clone().into_bytes(),
                _ => Vec::new(),
            };
            found.insert((text("namespace"), text("key")), value);
        }
        from = page.last_evaluated_key;
        if from.is_none() {
            return found;
        }
    }
}

/// One request; HTTP 1.0, so that the answer has no chunks.
fn consul(
    server: &Consul,
    method: &str,
    path: &str,
    body: &[u8],
) -> Result<(u16, Vec<u8>), std::io::Error> {
    let mut stream = TcpStream::connect(("127.0.0.1", server.port))?;
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: t\r\nX-Consul-Token: {MASTER_TOKEN}\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    )?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let head = std::str::from_utf8(&answer[..end]).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Ok((status, answer[end + 4..].to_vec()))
}
