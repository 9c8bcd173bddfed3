//! Tables on Consul.

use bytes::Bytes;
use pilotlight::testing::model::Password;
use pilotlight::testing::storage::consul::{
    ConsulDialer, ConsulSettings, ConsulStore, ConsulTable, Operation, Put, TokenSource,
    Transaction, VALUE_BYTES_MAX,
};
use pilotlight::testing::storage::table::Written;
use pilotlight::testing::storage::{Budgets, FailFast};

use super::contract::{Creates, Peer, holds};
use super::outage::{ends_by_itself, is_a_refusal, is_noticed, probing};
use super::space::{Space, insert};
use pilotlight_test_kit::certificates::Certificates;
use pilotlight_test_kit::databases::{Consul, MASTER_TOKEN};
use pilotlight_test_kit::eventually;

fn store(settings: ConsulSettings) -> ConsulStore {
    FailFast::new("consul", ConsulDialer::new(settings), Budgets::default())
}

/// A name space of a store.
fn open(store: ConsulStore, space: &str) -> Space<ConsulTable> {
    Space::new(ConsulTable::new(store), space)
}

struct ConsulPeer(ConsulStore);

impl Peer for ConsulPeer {
    type Table = ConsulTable;

    fn table(&self) -> ConsulTable {
        ConsulTable::new(self.0.clone())
    }

    const CHECKS_GUARD: bool = true;
    const CREATES: Creates = Creates::Small;

    const LONGEST_VALUE: Option<usize> = Some(VALUE_BYTES_MAX);
}

#[tokio::test(flavor = "multi_thread")]
async fn consul_keeps_the_contract() {
    let agent = Consul::start().await;
    holds(&ConsulPeer(store(agent.settings()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consul_behind_tls_with_client_certificates_keeps_the_contract() {
    let certificates = Certificates::make();
    let agent = Consul::start_tls(&certificates).await;
    holds(&ConsulPeer(store(agent.tls_settings(&certificates)))).await;
    let address = format!("https://127.0.0.1:{}", agent.tls_port.unwrap());
    let stranger = store(ConsulSettings::from_address(&address).unwrap());
    let error = open(stranger, "x").read_all().await.unwrap_err();
    assert!(error.is_transient(), "the server's CA is not trusted: {error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_asked_for_and_read_again_from_its_file() {
    let agent = Consul::start_with_acl().await;
    let fixed = |token: &str| ConsulSettings {
        token: TokenSource::Fixed(Password::new(token)),
        ..agent.settings()
    };
    let nobody = store(fixed("1d7a5d9e-0000-4000-8000-000000000000"));
    is_a_refusal(&nobody, &open(nobody.clone(), "ns"), "consul answered 403").await;
    let known = open(store(fixed(MASTER_TOKEN)), "ns");
    assert_eq!(known.write(&[insert("env:a", "1")]).await.unwrap(), [Written::Applied]);

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "wrong\n").unwrap();
    let settings = ConsulSettings {
        token: TokenSource::File { path: file.clone(), last: None },
        ..agent.settings()
    };
    let store = store(settings);
    let space = open(store.clone(), "ns");
    is_a_refusal(&store, &space, "consul answered 403").await;
    std::fs::write(&file, format!("{MASTER_TOKEN}\n")).unwrap();
    eventually("the new token being used", async || space.read_all().await.map(drop)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_consul_is_noticed_and_comes_back() {
    let mut agent = Consul::start().await;
    let store = store(agent.settings());
    let space = open(store.clone(), "ns");
    let _probe = probing(&store);
    assert_eq!(space.write(&[insert("env:a", "1")]).await.unwrap(), [Written::Applied]);
    let epoch = store.health().connected_epoch;
    agent.kill();
    is_noticed(&store, &space).await;
    agent.restart().await;
    ends_by_itself(&store, &space).await;
    assert_eq!(space.read_all().await.unwrap(), [], "it lost its data");
    assert!(store.health().connected_epoch > epoch);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_consul_costs_the_connection_and_comes_back() {
    let agent = Consul::start().await;
    let store = store(agent.settings());
    let space = open(store.clone(), "ns");
    let _probe = probing(&store);
    assert_eq!(space.write(&[insert("env:a", "1")]).await.unwrap(), [Written::Applied]);
    agent.freeze();
    is_noticed(&store, &space).await;
    agent.thaw();
    ends_by_itself(&store, &space).await;
    assert_eq!(space.read_all().await.unwrap().len(), 1, "nothing was lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn single_writes_and_transactions() {
    let agent = Consul::start().await;
    let store = store(agent.settings());
    let conn = store.call(async |conn| Ok(conn)).await.unwrap();
    let value = Bytes::from_static(b"1");
    assert_eq!(conn.put("k/a", value.clone(), Some(0)).await.unwrap(), Put::Applied);
    assert_eq!(conn.put("k/a", value.clone(), Some(0)).await.unwrap(), Put::Conflict);
    assert_eq!(conn.put("k/a", value.clone(), None).await.unwrap(), Put::Applied);
    let long = vec![0; VALUE_BYTES_MAX + 1];
    assert_eq!(conn.put("k/a", long.into(), None).await.unwrap(), Put::TooLarge);
    let index = conn.get("k/a").await.unwrap().unwrap().modify_index;
    assert!(!conn.delete("k/a", Some(index + 1)).await.unwrap());
    let key = || "k/b".to_owned();
    let half_right = [
        Operation::Set { key: key(), value: value.clone() },
        Operation::CheckIndex { key: "k/a".to_owned(), index: index + 1 },
    ];
    let rolled_back = Transaction::RolledBack { failed: vec![1] };
    assert_eq!(conn.transaction(&half_right).await.unwrap(), rolled_back);
    assert_eq!(conn.get("k/b").await.unwrap(), None, "all or nothing");
    let right = [
        Operation::CheckAbsent { key: key() },
        Operation::Set { key: key(), value },
        Operation::CheckIndex { key: "k/a".to_owned(), index },
        Operation::Delete { key: "k/a".to_owned() },
    ];
    assert_eq!(conn.transaction(&right).await.unwrap(), Transaction::Applied);
    assert_eq!(conn.list("k/").await.unwrap().len(), 1);
    assert!(conn.delete("k/b", None).await.unwrap());
    assert!(conn.delete("k/b", None).await.unwrap(), "gone is gone");
}
