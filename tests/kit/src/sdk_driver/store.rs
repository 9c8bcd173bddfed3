//! SDKs in daemon mode: they read a database by themselves, and here they write it too, by the
//! store classes that SDKs have for a connection of their own to LaunchDarkly.

use std::net::SocketAddr;

use pilotlight::testing::model::ItemKind;
use serde_json::{Value, json};

use super::{Done, Events, Language, SdkDriver};

/// A database as an SDK is told of it.
#[derive(Clone, Debug)]
pub struct SdkStore {
    /// `redis`, `dynamodb` or `consul`.
    pub database: &'static str,
    /// Where the database listens.
    pub address: SocketAddr,
    /// What its keys begin with, without a separator.
    pub prefix: String,
    /// In DynamoDB.
    pub table: Option<String>,
}

impl SdkDriver {
    /// Starts an SDK that asks nobody but a database, keeps nothing of it in memory, and sends no
    /// events.
    pub async fn start_on_store(language: Language, store: &SdkStore) -> anyhow::Result<Self> {
        Self::launch(language, None, |command| {
            command.args(["--sdk-key", "sdk-not-asked-for", "--mode", "daemon"]);
            command.args(["--events", Events::Off.word(), "--store", store.database]);
            command.args(["--address", &store.address.to_string(), "--prefix", &store.prefix]);
            if let Some(table) = &store.table {
                command.args(["--table", table]);
            }
            // Where SDKs for DynamoDB look for what they are not told; the test's server asks
            // for no more.
            for (name, value) in [
                ("AWS_REGION", "eu-west-1"),
                ("AWS_DEFAULT_REGION", "eu-west-1"),
                ("AWS_ACCESS_KEY_ID", "tests"),
                ("AWS_SECRET_ACCESS_KEY", "tests"),
            ] {
                command.env(name, value);
            }
        })
        .await
    }

    /// Lets the SDK's store write items one after the other, each if it is newer than what it
    /// finds.
    pub async fn store_upsert(&mut self, kind: ItemKind, items: &[Value]) -> anyhow::Result<()> {
        let kind = kind.store_name();
        let command = json!({"cmd": "store_upsert", "kind": kind, "items": items});
        self.ask::<Done>(command).await.map(|Done {}| ())
    }

    /// Lets the SDK's store replace everything, whatever it finds.
    pub async fn store_init(&mut self, flags: &[Value], segments: &[Value]) -> anyhow::Result<()> {
        let command = json!({"cmd": "store_init", "features": flags, "segments": segments});
        self.ask::<Done>(command).await.map(|Done {}| ())
    }
}
