//! AWS's DynamoDB Local, in memory.

use std::process::Command;
use std::sync::{Arc, Mutex, Weak};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
};
use pilotlight::testing::model::Password;
use pilotlight::testing::storage::Dialer;
use pilotlight::testing::storage::dynamodb::{DynamoDbDialer, DynamoDbSettings, StaticCredentials};
use tempfile::TempDir;

use super::{Process, free_port, tool};
use crate::eventually;

/// A server that keeps nothing on disk.
pub struct DynamoDb {
    /// Port for HTTP.
    pub port: u16,
    folder: TempDir,
    process: Option<Process>,
}

/// A server that several tests use at a time, each with tables of its own. It lives as long as
/// one of them.
static SHARED: Mutex<Weak<DynamoDb>> = Mutex::new(Weak::new());

impl DynamoDb {
    /// Starts a server for one test alone.
    pub async fn start() -> Self {
        let mut server = Self::prepare();
        server.restart().await;
        server
    }

    /// The server that several tests use at a time, started if none of them holds it.
    pub async fn shared() -> Arc<Self> {
        let server = {
            let mut shared = SHARED.lock().unwrap();
            shared.upgrade().unwrap_or_else(|| {
                let mut server = Self::prepare();
                server.spawn();
                let server = Arc::new(server);
                *shared = Arc::downgrade(&server);
                server
            })
        };
        server.wait().await;
        server
    }

    fn prepare() -> Self {
        Self { port: free_port(), folder: tempfile::tempdir().unwrap(), process: None }
    }

    /// Kills it if it runs, and starts it again on the same port, empty.
    pub async fn restart(&mut self) {
        self.kill();
        self.spawn();
        self.wait().await;
    }

    fn spawn(&mut self) {
        let library = tool("dynamodb-local/lib");
        let mut command = Command::new("java");
        command
            .arg(format!("-Djava.library.path={}", library.display()))
            // It unpacks a library there and leaves it.
            .arg(format!("-Djava.io.tmpdir={}", self.folder.path().display()))
            // Made for a short life on a machine with few cores.
            .args(["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            .arg("-cp")
            .arg(format!("{}/*", library.display()))
            .arg("com.amazonaws.services.dynamodbv2.local.main.ServerRunner")
            .args(["-inMemory", "-sharedDb", "-disableTelemetry", "-port", &self.port.to_string()]);
        self.process = Some(Process::start(command, self.folder.path()));
    }

    async fn wait(&self) {
        let client = self.client().await;
        eventually("dynamodb answering", async || {
            self.running().check()?;
            match client.list_tables().send().await {
                Ok(_) => Ok(()),
                Err(error) => Err(format!("{error:?} {}", self.running().output())),
            }
        })
        .await;
    }

    /// Kills it if it runs.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Stops it without its noticing: connections stay, answers do not come.
    pub fn freeze(&self) {
        self.running().freeze();
    }

    /// Lets it go on after [`Self::freeze`].
    pub fn thaw(&self) {
        self.running().thaw();
    }

    fn running(&self) -> &Process {
        self.process.as_ref().unwrap()
    }

    /// Settings for this server.
    pub fn settings(&self) -> DynamoDbSettings {
        settings_at(self.port)
    }

    /// Makes a client for this server, with the credentials of [`settings_at`].
    pub async fn client(&self) -> Client {
        DynamoDbDialer::new(self.settings())
            .dial(&pilotlight::testing::storage::Meter::default())
            .await
            .unwrap()
    }

    /// A table with ld-relay's keys.
    pub async fn create_table(&self, name: &str) {
        let attribute = |name: &str| {
            AttributeDefinition::builder()
                .attribute_name(name)
                .attribute_type(ScalarAttributeType::S)
                .build()
                .unwrap()
        };
        let key = |name: &str, kind| {
            KeySchemaElement::builder().attribute_name(name).key_type(kind).build().unwrap()
        };
        let create = self
            .client()
            .await
            .create_table()
            .table_name(name)
            .attribute_definitions(attribute("namespace"))
            .attribute_definitions(attribute("key"))
            .key_schema(key("namespace", KeyType::Hash))
            .key_schema(key("key", KeyType::Range))
            .billing_mode(BillingMode::PayPerRequest);
        // The first table of a server takes longer on a busy machine than the client waits.
        eventually("a table", async || match create.clone().send().await {
            Ok(_) => Ok(()),
            Err(SdkError::ServiceError(error)) if error.err().is_resource_in_use_exception() => {
                Ok(())
            }
            Err(error) => Err(format!("{error:?}")),
        })
        .await;
    }
}

/// Settings for a server or proxy on a port of this machine.
pub fn settings_at(port: u16) -> DynamoDbSettings {
    DynamoDbSettings {
        endpoint: Some(format!("http://127.0.0.1:{port}")),
        region: Some("eu-west-1".to_owned()),
        credentials: Some(StaticCredentials {
            access_key_id: "tests".to_owned(),
            secret_access_key: Password::new("tests"),
        }),
        probe_table: None,
    }
}
