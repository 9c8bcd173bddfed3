//! A user of Redis with the least rights, as docs/persistent-storage.md lists them: everything
//! works, and the server has denied nothing.

use pilotlight::testing::demo::composed_data::environment_id;
use serde_json::json;
use tempfile::TempDir;

use super::redis_scene::{
    PLAIN, Run, TAGGED, launchdarkly, on, on_owners, prefix, relay, serves_from_the_store,
    wait_until_held,
};
use pilotlight_test_kit::databases::{MASTER_NAME, Redis, RedisCluster, SentinelGroup};
use pilotlight_test_kit::eventually;
use pilotlight_test_kit::fleet::{OFTEN, SEALED};
use pilotlight_test_kit::relay::RelaySettings;

/// The page that lists the rights.
const PAGE: &str = include_str!("../../../docs/persistent-storage.md");

/// The rules on the page under this heading, for the prefix and the cache of these tests.
fn rules(place: &str) -> Vec<String> {
    let (_, rest) = PAGE.split_once(&format!("<!-- rules: {place} -->")).expect("a list of rules");
    let (_, rest) = rest.split_once("```text\n").expect("a block of rules");
    let (block, _) = rest.split_once("```").expect("an end of the block");
    let words = block.split_whitespace().skip_while(|word| *word != "reset");
    words
        .map(|word| match word {
            ">PASSWORD" => ">s3cret".to_owned(),
            "~my-prefix-*" => format!("~{PLAIN}*"),
            "~{my-prefix-*" => format!("~{{{PLAIN}*"),
            "~{my-prefix}-*" => format!("~{TAGGED}*"),
            "~my-cache*" => "~fleet-cache*".to_owned(),
            other => other.to_owned(),
        })
        .collect()
}

fn let_in(server: &Redis, rules: &[String]) {
    let rules = rules.iter().map(String::as_str);
    let command: Vec<&str> = ["ACL", "SETUSER", "relay"].into_iter().chain(rules).collect();
    assert_eq!(server.command(&command), "OK", "{command:?}");
}

/// A relay writes, changes, loses and reads everything through what `configure` names.
async fn everything_works(
    configure: &dyn Fn(RelaySettings) -> RelaySettings,
    servers: &[&Redis],
    run: Run<'_>,
    start: &str,
) {
    let launchdarkly = launchdarkly(2, 20);
    let settings = |machine: &TempDir| {
        let settings = relay(&launchdarkly, machine, start);
        configure(settings)
            .with("REDIS_HEALTH_CHECK_INTERVAL", OFTEN)
            .with("REDIS_USERNAME", "relay")
            .with("REDIS_PASSWORD", "s3cret")
    };
    let machine = TempDir::new().unwrap();
    let first = settings(&machine).start().unwrap();
    first.wait_until_stored().await;
    wait_until_held(run, &launchdarkly, start, 2).await;
    let environment = environment_id(0);
    let flag = json!({"key": "fresh", "on": true});
    launchdarkly.upsert_flag(environment.as_str(), flag).unwrap();
    wait_until_held(run, &launchdarkly, start, 2).await;
    launchdarkly.delete_flag(environment.as_str(), "fresh");
    // The cache of environments changes, too.
    launchdarkly.delete_environment(&environment_id(1));
    wait_until_held(run, &launchdarkly, start, 1).await;
    // What nobody knows is removed: a row of another writer in a version from the future.
    let hash = format!("{}:features", prefix(start, 0));
    run(&hash, &["HSET", &hash, "stranger", r#"{"key":"stranger","version":99}"#]);
    let marker = format!("{}:$inited", prefix(start, 0));
    run(&marker, &["DEL", &marker]);
    wait_until_held(run, &launchdarkly, start, 1).await;
    for server in servers {
        if server.command(&["ROLE"]).starts_with("master") {
            server.command(&["FLUSHALL"]);
        }
    }
    wait_until_held(run, &launchdarkly, start, 1).await;
    eventually("the cache is whole again", async || {
        let rows = run(SEALED, &["HLEN", SEALED]);
        // The environment that is left, and the manifest.
        if rows == "2" { Ok(()) } else { Err(rows) }
    })
    .await;
    let said = launchdarkly.data(environment.as_str());
    launchdarkly.stop().await;
    first.kill().await.unwrap();
    let machine = TempDir::new().unwrap();
    serves_from_the_store(&settings(&machine).start().unwrap(), 0, &said).await;
    for server in servers {
        assert_eq!(server.command(&["ACL", "LOG"]), "", "nothing was denied");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rights_on_the_page_are_enough_for_one_server() {
    for start in [Redis::start().await, Redis::start_valkey().await] {
        let_in(&start, &rules("one server"));
        let url = format!("redis://127.0.0.1:{}/2", start.port);
        let configure =
            |settings: RelaySettings| settings.with("USE_REDIS", "true").with("REDIS_URL", &*url);
        let run = |_: &str, command: &[&str]| start.command(&[&["-n", "2"], command].concat());
        everything_works(&configure, &[&start], &run, PLAIN).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rights_on_the_page_are_enough_behind_sentinels() {
    let group = SentinelGroup::start(1, 1).await;
    for server in &group.servers {
        let_in(server, &rules("one server"));
    }
    let sentinel = &group.sentinels[0];
    let rules = rules("sentinels");
    let command: Vec<&str> =
        ["ACL", "SETUSER", "relay"].into_iter().chain(rules.iter().map(String::as_str)).collect();
    assert_eq!(sentinel.command(&command), "OK");
    let url = sentinel.url().expose().replace("redis://", "redis://relay:s3cret@");
    let configure = |settings: RelaySettings| {
        settings
            .with("USE_REDIS", "true")
            .with("REDIS_MODE", "sentinel")
            .with("REDIS_SENTINEL_MASTER", MASTER_NAME)
            .with("REDIS_URLS", &*url)
    };
    let servers: Vec<&Redis> = group.servers.iter().collect();
    everything_works(&configure, &servers, &on(&group.servers[0]), PLAIN).await;
    assert_eq!(sentinel.command(&["ACL", "LOG"]), "", "nothing was denied");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rights_on_the_page_are_enough_for_a_cluster() {
    let cluster = RedisCluster::start(3).await;
    let servers: Vec<&Redis> = cluster.servers.iter().collect();
    for server in &servers {
        let_in(server, &rules("cluster"));
    }
    let configure = |settings| cluster.configure(settings);
    everything_works(&configure, &servers, &on_owners(&cluster), PLAIN).await;
    cluster.everywhere(&["FLUSHALL"]);
    everything_works(&configure, &servers, &on_owners(&cluster), TAGGED).await;
}
