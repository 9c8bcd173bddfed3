//! Secrets in files that change while the relay runs. A file that is absent, empty or
//! unreadable changes nothing.

use std::path::Path;

use pilotlight::testing::demo::composed_data::{environment, environment_id, sdk_key};
use pilotlight::testing::demo::fake_launchdarkly::{FakeLaunchDarkly, FakeSettings};
use pilotlight::testing::demo::representations::KeyRep;
use tempfile::TempDir;

use pilotlight_test_kit::databases::Redis;
use pilotlight_test_kit::eventually;
use pilotlight_test_kit::relay::{RelayProcess, RelaySettings};

const SECOND_KEY: &str = "sdk-5a0f2a35-2c47-4a08-9c56-second000001";
const CANNOT_BE_USED: &str = "a secret file cannot be used";

fn launchdarkly() -> FakeLaunchDarkly {
    let launchdarkly = FakeLaunchDarkly::launch(&FakeSettings::default()).unwrap();
    launchdarkly.load(&environment(0, 5));
    launchdarkly
}

/// How many lines of the log hold this.
fn lines(relay: &RelayProcess, part: &str) -> usize {
    relay.log().lines().filter(|line| line.contains(part)).count()
}

async fn wait_for_lines(relay: &RelayProcess, part: &str, count: usize) {
    eventually(&format!("{count} lines of the log say {part:?}"), async || {
        let found = lines(relay, part);
        if found >= count { Ok(()) } else { Err(format!("{found}:\n{}", relay.log())) }
    })
    .await;
}

/// Spoils a file in every way; the relay warns of each once.
async fn spoil(relay: &RelayProcess, file: &Path) {
    let before = lines(relay, CANNOT_BE_USED);
    std::fs::write(file, " \n").unwrap();
    wait_for_lines(relay, CANNOT_BE_USED, before + 1).await;
    std::fs::write(file, b"\xff\xfe").unwrap();
    wait_for_lines(relay, CANNOT_BE_USED, before + 2).await;
    std::fs::remove_file(file).unwrap();
    wait_for_lines(relay, CANNOT_BE_USED, before + 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_an_environment_rotates_with_its_file() {
    let launchdarkly = launchdarkly();
    let mut rep = launchdarkly.environment(&environment_id(0)).unwrap();
    rep.sdk_keys =
        vec![KeyRep::permanent("default", sdk_key(0)), KeyRep::permanent("second", SECOND_KEY)];
    launchdarkly.upsert_environment(rep);
    let (disk, folder) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let file = folder.path().join("sdk-key");
    std::fs::write(&file, sdk_key(0)).unwrap();
    let configuration = folder.path().join("relay.conf");
    let text = format!("[Environment \"Shop\"]\nsdkKeyFile = {}\n", file.display());
    std::fs::write(&configuration, text).unwrap();
    let relay = RelaySettings::manual(&launchdarkly, disk.path())
        .argument("--config")
        .argument(configuration.display().to_string())
        .start()
        .unwrap();
    relay.wait_until_healthy(1).await;
    spoil(&relay, &file).await;
    assert_eq!(relay.get_with_key("/sdk/latest-all", &sdk_key(0)).await.status, 200);

    std::fs::write(&file, format!("{SECOND_KEY}\n")).unwrap();
    eventually("the new key is accepted", async || {
        let status = relay.get_with_key("/sdk/latest-all", SECOND_KEY).await.status;
        if status == 200 { Ok(()) } else { Err(status) }
    })
    .await;
    assert_eq!(relay.get_with_key("/sdk/latest-all", &sdk_key(0)).await.status, 401);
    eventually("LaunchDarkly is asked with it", async || {
        let requests = launchdarkly.requests_for("/all");
        let last = requests.last().and_then(|request| request.authorization().map(str::to_owned));
        if last.as_deref() == Some(SECOND_KEY) { Ok(()) } else { Err("not yet") }
    })
    .await;
    let log = relay.log();
    assert!(!log.contains(SECOND_KEY), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_redis_password_is_exchanged_and_a_wrong_one_harms_nothing() {
    let mut redis = Redis::start_with(&["--requirepass", "first-password"]).await;
    let launchdarkly = launchdarkly();
    let (disk, folder) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let file = folder.path().join("password");
    std::fs::write(&file, "first-password\n").unwrap();
    let relay = RelaySettings::autoconfig(
        &launchdarkly,
        &FakeSettings::default().autoconfig_key,
        disk.path(),
    )
    .with("USE_REDIS", "true")
    .with("REDIS_URL", format!("redis://127.0.0.1:{}", redis.port))
    .with("REDIS_PASSWORD_FILE", file.display().to_string())
    .with("ENV_DATASTORE_PREFIX", "ld-$CID")
    .start()
    .unwrap();
    let stored = async |redis: &Redis, password: &str, key: &str| {
        let hash = format!("ld-{}:features", environment_id(0));
        eventually("Redis holds the flag", async || {
            let found =
                redis.command(&["-a", password, "--no-auth-warning", "HEXISTS", &hash, key]);
            if found == "1" { Ok(()) } else { Err(found) }
        })
        .await;
    };
    let change = |key: &str| {
        let flag = serde_json::json!({"key": key, "on": true});
        launchdarkly.upsert_flag(environment_id(0).as_str(), flag).unwrap();
    };
    change("a");
    stored(&redis, "first-password", "a").await;
    spoil(&relay, &file).await;

    // The file is changed before the server.
    std::fs::write(&file, "second-password").unwrap();
    relay.wait_for_log("is refused by Redis").await;
    change("b");
    stored(&redis, "first-password", "b").await;
    let set = ["-a", "first-password", "--no-auth-warning"];
    let set = [&set[..], &["CONFIG", "SET", "requirepass", "second-password"]].concat();
    assert_eq!(redis.command(&set), "OK");
    relay.wait_for_log("the Redis password was exchanged").await;
    change("c");
    stored(&redis, "second-password", "c").await;

    // New connections use it, too.
    redis.set_arguments(&["--requirepass", "second-password"]);
    redis.restart().await;
    stored(&redis, "second-password", "c").await;
    let log = relay.log();
    assert!(!log.contains("second-password") && !log.contains("first-password"), "{log}");
}
