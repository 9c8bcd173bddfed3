//! A Redis that removes flags when its memory is full: an operator is told before it happens.

use pilotlight::testing::demo::composed_data::environment_id;
use serde_json::Value;
use tempfile::TempDir;

use super::redis_scene::{PLAIN, launchdarkly, relay};
use pilotlight_test_kit::databases::{Redis, RedisCluster, SentinelGroup};
use pilotlight_test_kit::eventually;
use pilotlight_test_kit::fleet::OFTEN;
use pilotlight_test_kit::relay::{RelayProcess, RelaySettings};

const WARNING: &str = "the database removes flags when its memory is full";
const RELIEF: &str = "the database does not remove flags any more";

fn set_policy(server: &Redis, policy: &str) {
    assert_eq!(server.command(&["CONFIG", "SET", "maxmemory-policy", policy]), "OK");
}

fn on(server: &Redis, settings: RelaySettings) -> RelaySettings {
    let url = format!("redis://127.0.0.1:{}", server.port);
    settings.with("USE_REDIS", "true").with("REDIS_URL", url)
}

/// Waits until `/status` tells of this policy, for each environment.
async fn wait_for_policy(relay: &RelayProcess, policy: Option<&str>) {
    let policy = policy.map_or(Value::Null, Value::from);
    relay
        .wait_for_status(&format!("the policy is {policy}"), |status| {
            let environments = status["environments"].as_object().unwrap();
            let shows = |it: &Value| {
                let store = &it["dataStoreStatus"];
                store["state"] == "VALID" && store["evictionPolicy"] == policy
            };
            environments.len() == 2 && environments.values().all(shows)
        })
        .await;
}

/// Says how often the log tells of something.
fn said(relay: &RelayProcess, text: &str) -> usize {
    relay.log().matches(text).count()
}

/// How often the server was asked for its policy.
fn looks(server: &Redis) -> u32 {
    let info = server.command(&["INFO", "commandstats"]);
    let line = info.lines().find(|line| line.starts_with("cmdstat_config|get:"));
    let calls = line.and_then(|line| line.split("calls=").nth(1)?.split(',').next());
    calls.map_or(0, |calls| calls.parse().unwrap())
}

async fn wait_for_looks(server: &Redis, goal: u32) {
    eventually("looks", async || match looks(server) {
        found if found >= goal => Ok(()),
        found => Err(format!("{found} of {goal}")),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_removes_flags_is_said_once_and_after_each_change() {
    let server =
        Redis::start_with(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]).await;
    let launchdarkly = launchdarkly(2, 5);
    let machine = TempDir::new().unwrap();
    let relay = on(&server, relay(&launchdarkly, &machine, PLAIN)).start().unwrap();
    wait_for_policy(&relay, Some("allkeys-lru")).await;
    assert_eq!(said(&relay, WARNING), 1, "once, however many environments there are");
    assert!(relay.log().contains("allkeys-lru"));

    // Without looks, a new connection is what it is noticed by.
    let reconnect = || {
        server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    };
    let before = looks(&server);
    reconnect();
    wait_for_looks(&server, before + 1).await;
    wait_for_policy(&relay, Some("allkeys-lru")).await;
    assert_eq!(said(&relay, WARNING), 1, "nothing new");
    set_policy(&server, "noeviction");
    reconnect();
    wait_for_policy(&relay, None).await;
    assert_eq!((said(&relay, WARNING), said(&relay, RELIEF)), (1, 1));
    set_policy(&server, "allkeys-random");
    reconnect();
    wait_for_policy(&relay, Some("allkeys-random")).await;
    assert_eq!((said(&relay, WARNING), said(&relay, RELIEF)), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_somebody_changes_is_noticed_by_a_look() {
    let server = Redis::start().await;
    let launchdarkly = launchdarkly(2, 5);
    let machine = TempDir::new().unwrap();
    let settings = relay(&launchdarkly, &machine, PLAIN).with("REDIS_HEALTH_CHECK_INTERVAL", OFTEN);
    let relay = on(&server, settings).start().unwrap();
    // These remove only what would expire anyway.
    for policy in ["noeviction", "volatile-lru", "volatile-ttl"] {
        set_policy(&server, policy);
        // The first one may be under way; when the second one comes, its answer was judged.
        wait_for_looks(&server, looks(&server) + 2).await;
        wait_for_policy(&relay, None).await;
    }
    assert_eq!((said(&relay, WARNING), said(&relay, RELIEF)), (0, 0));
    set_policy(&server, "allkeys-lfu");
    wait_for_policy(&relay, Some("allkeys-lfu")).await;
    set_policy(&server, "noeviction");
    wait_for_policy(&relay, None).await;
    assert_eq!((said(&relay, WARNING), said(&relay, RELIEF)), (1, 1));
}

/// Managed services know no `CONFIG`; some rules deny `INFO` too.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_ask_for_the_policy_is_told_by_info_or_not_at_all() {
    let server = Redis::start_with(&["--maxmemory-policy", "allkeys-lru"]).await;
    let launchdarkly = launchdarkly(2, 5);
    for (rules, policy) in
        [(&["-config"][..], Some("allkeys-lru")), (&["-config", "-info"][..], None)]
    {
        server.command(&["FLUSHALL"]);
        server.command(&["ACL", "LOG", "RESET"]);
        let all = ["ACL", "SETUSER", "relay", "reset", "on", ">s3cret", "~*", "&*", "+@all"];
        assert_eq!(server.command(&[&all[..], rules].concat()), "OK");
        let machine = TempDir::new().unwrap();
        let url = format!("redis://relay:s3cret@127.0.0.1:{}", server.port);
        let settings = relay(&launchdarkly, &machine, PLAIN)
            .with("USE_REDIS", "true")
            .with("REDIS_URL", url)
            .with("REDIS_HEALTH_CHECK_INTERVAL", OFTEN);
        let relay = settings.start().unwrap();
        let denied = if policy.is_some() { "config|get" } else { "info" };
        eventually("it has asked in vain", async || {
            let log = server.command(&["ACL", "LOG"]);
            if log.contains(denied) { Ok(()) } else { Err(log) }
        })
        .await;
        wait_for_policy(&relay, policy).await;
        assert_eq!(said(&relay, WARNING), usize::from(policy.is_some()));
        assert!(!relay.log().contains("NOPERM"), "{}", relay.log());
        let status = relay.status().await;
        let store = &status["environments"][environment_id(0)]["dataStoreStatus"];
        assert!(store["error"].is_null(), "{store}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_master_of_a_cluster_is_asked() {
    let cluster = RedisCluster::start(3).await;
    let launchdarkly = launchdarkly(2, 5);
    set_policy(&cluster.servers[2], "allkeys-lru");
    let machine = TempDir::new().unwrap();
    let settings = relay(&launchdarkly, &machine, PLAIN).with("REDIS_HEALTH_CHECK_INTERVAL", OFTEN);
    let relay = cluster.configure(settings).start().unwrap();
    wait_for_policy(&relay, Some("allkeys-lru")).await;
    set_policy(&cluster.servers[2], "noeviction");
    wait_for_policy(&relay, None).await;
    set_policy(&cluster.servers[0], "allkeys-random");
    wait_for_policy(&relay, Some("allkeys-random")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_master_is_asked_too() {
    let group = SentinelGroup::start(1, 1).await;
    let launchdarkly = launchdarkly(2, 5);
    set_policy(&group.servers[1], "allkeys-lru");
    let machine = TempDir::new().unwrap();
    let relay = group.configure(relay(&launchdarkly, &machine, PLAIN)).start().unwrap();
    wait_for_policy(&relay, None).await;
    group.order_failover().await;
    group.new_master(0).await;
    wait_for_policy(&relay, Some("allkeys-lru")).await;
}
